// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package services

import (
	_ "embed"
	"net"
	"os"
	"os/exec"
	"strconv"
)

// python is Debian's interpreter: OpenStack's packages are installed for it,
// whatever other Pythons are first in PATH.
const python = "/usr/bin/python3"

//go:embed wsgi_server.py
var wsgiProgram string

// wsgiServer prepares a process that serves a WSGI application,
// MODULE:APPLICATION, or made by MODULE:FUNCTION(), where MODULE may be the path
// of a file, on an open listener, with some threads. It ends when its
// standard input does. The caller closes the command's extra file. -I keeps
// PYTHON* variables and the working directory out.
func wsgiServer(application string, threads int, listener net.Listener) (*exec.Cmd, error) {
	socket, err := listener.(*net.TCPListener).File()
	if err != nil {
		return nil, err
	}
	command := exec.Command(python, "-I", "-c", wsgiProgram, application, strconv.Itoa(threads))
	command.ExtraFiles = []*os.File{socket} // descriptor 3
	return command, nil
}

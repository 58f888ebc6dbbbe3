// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sshd

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Unheard returns those of sshd's ports at which nothing listens, sorted: sshd
// has not read its configuration yet, or systemd listens for it and knows
// nothing of them. Settings are what "sshd -T" says, root is the machine's.
func Unheard(root, settings string) ([]string, error) {
	open := map[string]bool{}
	for _, table := range []string{"tcp", "tcp6"} {
		text, err := os.ReadFile(filepath.Join(root, "/proc/net", table))
		if errors.Is(err, fs.ErrNotExist) {
			continue // no IPv6
		}
		if err != nil {
			return nil, err
		}
		for _, port := range listening(string(text)) {
			open[port] = true
		}
	}
	var unheard []string
	for line := range strings.Lines(settings) {
		field := strings.Fields(line)
		if len(field) < 2 || !strings.EqualFold(field[0], "listenaddress") {
			continue
		}
		_, port, err := net.SplitHostPort(field[1])
		if err == nil && !open[port] && !slices.Contains(unheard, port) {
			unheard = append(unheard, port)
		}
	}
	slices.Sort(unheard)
	return unheard, nil
}

// listening reads the ports of listening sockets from a table of the kernel's
// (proc_net_tcp in Linux's documentation).
func listening(table string) (ports []string) {
	const listen = "0A" // TCP_LISTEN
	for line := range strings.Lines(table) {
		field := strings.Fields(line)
		if len(field) < 4 || field[3] != listen {
			continue
		}
		_, port, _ := strings.Cut(field[1], ":")
		if number, err := strconv.ParseUint(port, 16, 16); err == nil {
			ports = append(ports, strconv.FormatUint(number, 10))
		}
	}
	return ports
}

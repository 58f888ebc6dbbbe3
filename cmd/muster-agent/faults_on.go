// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

//go:build faults

package main

import (
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"
)

// Files by which tests make a machine's agent fail.
const (
	crashFile = "/run/muster-agent-crash" // the number of the step before which it is killed
	clockFile = "/run/muster-agent-clock" // the time that it takes for now (RFC 3339)
)

var steps atomic.Int64

// crashPoint kills the process before the step that the file names.
func crashPoint(point string) {
	text, err := os.ReadFile(crashFile)
	if err != nil {
		return
	}
	var last int64
	if _, err := fmt.Sscan(string(text), &last); err == nil && steps.Add(1) == last {
		fmt.Fprintf(os.Stderr, "killed before step %d: %s\n", last, point)
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}

// now tells the time of the file, if there is one.
func now() time.Time {
	text, err := os.ReadFile(clockFile)
	if err != nil {
		return time.Now()
	}
	fake, err := time.Parse(time.RFC3339, string(text))
	if err != nil {
		return time.Now()
	}
	return fake
}

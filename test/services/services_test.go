// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package services

import (
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"
)

// A process that was killed has ended, though nobody waits for it: a server's
// children may be left to a process 1 that never does.
func TestEnded(t *testing.T) {
	command := exec.Command("sleep", "600")
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	pid := command.Process.Pid
	offspring, err := children(os.Getpid())
	if err != nil || !slices.Contains(offspring, pid) {
		t.Errorf("children %v, %v, want %d among them", offspring, err, pid)
	}
	if ended(pid) {
		t.Error("a process that runs has ended")
	}
	if err := command.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(stopTimeout); !ended(pid); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("a process that was killed has not ended")
		}
	}
	_ = command.Wait()
	if !ended(pid) {
		t.Error("a process that was waited for has not ended")
	}
}

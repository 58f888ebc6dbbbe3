// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"testing"

	"github.com/muster-cloud/muster/internal/agent"
	"github.com/muster-cloud/muster/internal/agent/agenttest"
	"github.com/muster-cloud/muster/internal/agent/files"
	"github.com/muster-cloud/muster/internal/agentapi"
)

// slow is a Runner that has a useradd only, which does not end before it may.
type slow struct {
	started, may chan struct{}
}

func (s slow) Run(_ context.Context, _ []byte, name string, _ ...string) ([]byte, error) {
	if name != "useradd" {
		return nil, exec.ErrNotFound
	}
	close(s.started)
	<-s.may
	return nil, errors.New("enough")
}

// TestRevocationDoesNotWait: a list is in place while an account is being made.
func TestRevocationDoesNotWait(t *testing.T) {
	root := t.TempDir()
	for _, name := range []string{"/etc/passwd", "/etc/group", "/etc/shadow", "/etc/ssh/sshd_config"} {
		agenttest.Write(t, root, name, "")
	}
	tree, err := files.OpenTree(t.Context(), files.Config{Root: root, State: "/var/lib/muster-agent"})
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	runner := slow{started: make(chan struct{}), may: make(chan struct{})}
	m, err := New(Config{Tree: tree, Runner: runner, Program: "/usr/local/sbin/muster-agent"})
	if err != nil {
		t.Fatal(err)
	}
	configured := make(chan error, 1)
	go func() {
		state := agentapi.State{Accounts: []agentapi.Account{{Name: "member"}}}
		_, err := m.Configure(t.Context(), agent.Want{State: state})
		configured <- err
	}()
	<-runner.started
	if err := m.SetRevoked(t.Context(), []byte("list")); err != nil {
		t.Fatal(err)
	}
	if list, err := m.Revoked(); err != nil || string(list) != "list" {
		t.Fatal(string(list), err)
	}
	close(runner.may)
	if err := <-configured; err == nil {
		t.Fatal("without useradd and sshd all was well")
	}
	if list, err := os.ReadFile(root + "/etc/ssh/muster/revoked_keys"); err != nil || string(list) != "list" {
		t.Fatal(string(list), err)
	}
}

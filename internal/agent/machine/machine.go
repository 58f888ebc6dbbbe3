// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package machine is the machine that the agent sets up: its sshd, accounts,
// sudo and membership in FreeIPA, in the order in which they depend on each
// other, one change at a time.
//
// It decides nothing about what should be; each part judges for itself whether
// the machine stays usable.
package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/crypto/ssh"

	"github.com/muster-cloud/muster/internal/agent"
	"github.com/muster-cloud/muster/internal/agent/account"
	"github.com/muster-cloud/muster/internal/agent/files"
	"github.com/muster-cloud/muster/internal/agent/join"
	"github.com/muster-cloud/muster/internal/agent/sshd"
	"github.com/muster-cloud/muster/internal/agent/sudo"
	"github.com/muster-cloud/muster/internal/agentapi"
	"github.com/muster-cloud/muster/internal/sshca/krl"
)

// maxKey bounds a host key's file.
const maxKey = 64 << 10

// Config is what a Machine needs.
type Config struct {
	Tree    *files.Tree
	Runner  files.Runner
	Program string       // the agent's own program, which sudo calls
	Log     *slog.Logger // default: none
}

// Machine implements agent.Machine.
type Machine struct {
	tree    *files.Tree
	program string

	// changing is held while sshd, accounts or sudo are set up, each of which
	// is nothing for several goroutines at once.
	changing sync.Mutex
	sshd     *sshd.SSHD
	accounts *account.Accounts
	sudo     *sudo.PAM
	join     *join.Client
}

// New returns the machine that the tree is of.
func New(cfg Config) (*Machine, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	m := &Machine{tree: cfg.Tree, program: cfg.Program}
	var problems [4]error
	m.sshd, problems[0] = sshd.New(sshd.Config{Tree: cfg.Tree, Runner: cfg.Runner, Log: cfg.Log})
	m.accounts, problems[1] = account.New(account.Config{Tree: cfg.Tree, Runner: cfg.Runner, Log: cfg.Log})
	m.sudo, problems[2] = sudo.New(sudo.Config{Tree: cfg.Tree, Program: cfg.Program, Log: cfg.Log})
	m.join, problems[3] = join.New(join.Config{Tree: cfg.Tree, Runner: cfg.Runner, Log: cfg.Log})
	return m, errors.Join(problems[:]...)
}

// HostKeys implements agent.Machine.
func (m *Machine) HostKeys(ctx context.Context) ([]agent.HostKey, error) {
	m.changing.Lock()
	defer m.changing.Unlock()
	found, err := m.sshd.HostKeys(ctx)
	keys := make([]agent.HostKey, len(found))
	for i, key := range found {
		keys[i] = agent.HostKey{Path: key.Path, Public: key.PublicKey}
	}
	return keys, err
}

// Signer implements agent.Machine. The key is read each time that it is
// needed, and not kept.
func (m *Machine) Signer(key agent.HostKey) (ssh.Signer, error) {
	file, err := os.Open(filepath.Join(m.tree.Root(), key.Path))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxKey))
	if err != nil {
		return nil, err
	}
	signer, err := ssh.ParsePrivateKey(text)
	if err != nil {
		return nil, fmt.Errorf("the host key %s can't be read", key.Path)
	}
	return signer, nil
}

// Configure implements agent.Machine: accounts, and how they prove themselves
// for sudo, before sshd lets anybody into them.
func (m *Machine) Configure(ctx context.Context, want agent.Want) (bool, error) {
	m.changing.Lock()
	defer m.changing.Unlock()
	state := want.State
	accounts, accountErr := m.accounts.Apply(ctx, state.Accounts, state.PAMSudo)
	sudoChanged, sudoErr := m.setSudo(ctx, state.PAMSudo, accounts.Made)
	// Those that are locked, too: what was left in their homes must not count when they come back.
	sshdChanged, sshdErr := m.sshd.Apply(ctx, sshd.Want{
		HostCerts: want.HostCerts, UserCAs: state.UserCAs, Accounts: accounts.Made, ForwardAgent: needAgent(state, accounts.Active),
		Port: state.SSHPort, PasswordAuthentication: state.PasswordAuthentication,
		PenaltyExempt: state.PenaltyExempt,
	})
	return accounts.Changed || sudoChanged || sshdChanged, errors.Join(accountErr, sudoErr, sshdErr)
}

// needAgent are the accounts whose sudo asks their forwarded SSH agent.
func needAgent(state agentapi.State, active []string) (names []string) {
	for _, one := range state.Accounts {
		if state.PAMSudo && one.Sudo && slices.Contains(active, one.Name) {
			names = append(names, one.Name)
		}
	}
	return names
}

// Warnings implements agent.Machine.
func (m *Machine) Warnings() []string {
	m.changing.Lock()
	defer m.changing.Unlock()
	return m.sshd.Warnings()
}

func (m *Machine) setSudo(ctx context.Context, asks bool, accounts []string) (bool, error) {
	if asks {
		return m.sudo.Install(ctx, accounts)
	}
	return m.sudo.Remove(ctx)
}

// Revoked implements agent.Machine.
func (m *Machine) Revoked() ([]byte, error) {
	file, err := os.Open(filepath.Join(m.tree.Root(), sshd.RevokedFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, krl.MaxSize))
}

// SetRevoked implements agent.Machine. A revocation waits for nothing else that
// changes.
func (m *Machine) SetRevoked(ctx context.Context, list []byte) error {
	return m.sshd.SetRevoked(ctx, list)
}

// Joined implements agent.Machine.
func (m *Machine) Joined() bool { return m.join.Joined() }

// Join implements agent.Machine. It takes its time, in which revocations must
// go on, and changes nothing that the other parts do.
func (m *Machine) Join(ctx context.Context, to agentapi.IPA, password string) error {
	_, err := m.join.Join(ctx, join.Request{
		FQDN: to.FQDN, Domain: to.Domain, Realm: to.Realm, Server: to.Server, OTP: password,
		Options: to.Options, InstallClient: to.InstallClient,
	})
	return err
}

// Undo takes back all that was done, and returns the home folders that were
// kept since somebody left something in them. The agent's own program goes last,
// so that it can go on after a kill. Sessions that are open go on. An instance
// that joined FreeIPA stays in it.
func (m *Machine) Undo(ctx context.Context) (kept []string, err error) {
	m.changing.Lock()
	defer m.changing.Unlock()
	sshdErr := m.sshd.Remove(ctx)
	_, sudoErr := m.sudo.Remove(ctx)
	kept, accountErr := m.accounts.Remove(ctx)
	if err := errors.Join(sshdErr, sudoErr, accountErr); err != nil {
		return kept, err
	}
	return kept, m.tree.Undo(ctx, m.program)
}

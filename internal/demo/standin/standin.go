// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package standin is the machine of an instance in the demo and in tests: the
// real agent sets up the real sshd, in one folder and without privileges.
//
// The agent's own kind of machine makes accounts and changes /etc, as root, on
// a machine that is the agent's alone; this one has files for sshd, and one
// account: that of whoever runs it, who is in the place of a member of the
// instance's project. It never changes anything outside its folder, but for
// what openssh.StartServer does.
package standin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/muster-cloud/muster/internal/agent"
	"github.com/muster-cloud/muster/internal/agent/muster"
	"github.com/muster-cloud/muster/internal/agentapi"
	"github.com/muster-cloud/muster/internal/demo/openssh"
)

// Names in the machine's folder of what the agent writes for sshd. Certificates
// are beside the host keys.
const (
	UserCAsFile = "ca_user.pub"  // the trusted user authorities
	RevokedFile = "revoked_keys" // the revocation list
)

// Config describes a Machine and the agent on it.
type Config struct {
	Programs openssh.Programs
	// Dir is the machine's folder; it must exist.
	Dir string
	// HostKeys are sshd's.
	HostKeys []agent.HostKey
	// Account is that of whoever runs this: an sshd without privileges lets
	// nobody else in.
	Account string
	// Join does in FreeIPA what ipa-client-install does.
	Join func(ctx context.Context, to agentapi.IPA, password string) error
	// Finder finds the instance's metadata.
	Finder agent.Finder
	// Transport carries the agent's requests; nil: as in an instance.
	Transport http.RoundTripper
	Version   string       // of the agent
	Log       *slog.Logger // of the agent; default: none
}

// Machine implements agent.Machine.
type Machine struct {
	cfg    Config
	joined atomic.Bool
	lists  chan struct{} // holds one token after the revocation list has changed
	setUp  chan struct{} // holds one token after all has been set up
}

// New returns a machine on which nothing runs yet.
func New(cfg Config) *Machine {
	return &Machine{cfg: cfg, lists: make(chan struct{}, 1), setUp: make(chan struct{}, 1)}
}

func (m *Machine) path(name string) string { return filepath.Join(m.cfg.Dir, name) }

// agentDir is where the agent keeps what it knows.
func (m *Machine) agentDir() string { return m.path("agent") }

// NewAgent returns the machine's agent, which knows what the last one knew.
func (m *Machine) NewAgent() (*agent.Agent, error) {
	if err := os.MkdirAll(m.agentDir(), 0o700); err != nil {
		return nil, err
	}
	return agent.New(agent.Config{
		Finder: m.cfg.Finder, Machine: m,
		Connect: func(identity agent.Identity) (agent.Muster, error) {
			return muster.New(muster.Config{
				Endpoint: identity.Endpoint, CA: identity.CA, HostID: identity.ID, ProjectID: identity.ProjectID,
				Transport: m.cfg.Transport,
			})
		},
		StateDir: m.agentDir(), RunDir: m.agentDir(), Version: m.cfg.Version, Log: m.cfg.Log,
	})
}

// AwaitSetUp returns when the agent has set everything up, or what keeps it.
func (m *Machine) AwaitSetUp(ctx context.Context, deadline time.Duration) error {
	select {
	case <-m.setUp:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(deadline):
	}
	reasons := []error{fmt.Errorf("the agent has not set the instance up after %v", deadline)}
	if status, err := agent.ReadStatus(m.agentDir()); err == nil {
		for _, problem := range status.Problems {
			reasons = append(reasons, errors.New(problem.Text))
		}
	}
	return errors.Join(reasons...)
}

// ForgetLists drops the news of lists that were before.
func (m *Machine) ForgetLists() {
	select {
	case <-m.lists:
	default:
	}
}

// AwaitList returns when the agent has brought another list.
func (m *Machine) AwaitList(ctx context.Context, deadline time.Duration) error {
	select {
	case <-m.lists:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(deadline):
		return fmt.Errorf("the instance has no new list of revoked keys after %v", deadline)
	}
}

// StartServer starts the machine's sshd, which reads the agent's files at each
// login. It ends with the context, or with Close.
func (m *Machine) StartServer(ctx context.Context) (*openssh.Server, error) {
	keys := make([]string, len(m.cfg.HostKeys))
	for i, key := range m.cfg.HostKeys {
		keys[i] = key.Path
	}
	return openssh.StartServer(ctx, openssh.ServerConfig{
		Programs: m.cfg.Programs, Dir: m.cfg.Dir, HostKeys: keys,
		TrustedUserCAKeys: m.path(UserCAsFile), RevokedKeys: m.path(RevokedFile),
		Principals: map[string][]string{m.cfg.Account: {"member"}},
	})
}

// HostKeys implements agent.Machine.
func (m *Machine) HostKeys(context.Context) ([]agent.HostKey, error) { return m.cfg.HostKeys, nil }

// Signer implements agent.Machine.
func (m *Machine) Signer(key agent.HostKey) (ssh.Signer, error) {
	private, err := os.ReadFile(key.Path)
	if err != nil {
		return nil, err
	}
	return ssh.ParsePrivateKey(private)
}

// Configure implements agent.Machine: it writes the files that sshd reads.
func (m *Machine) Configure(_ context.Context, want agent.Want) (bool, error) {
	texts := map[string]string{m.path(UserCAsFile): strings.Join(want.State.UserCAs, "\n")}
	for key, cert := range want.HostCerts {
		texts[key+openssh.CertificateSuffix] = cert
	}
	for path, text := range texts {
		if err := replace(path, []byte(text+"\n")); err != nil {
			return false, err
		}
	}
	tell(m.setUp)
	return true, nil
}

// Warnings implements agent.Machine.
func (m *Machine) Warnings() []string { return nil }

// Revoked implements agent.Machine.
func (m *Machine) Revoked() ([]byte, error) {
	list, err := os.ReadFile(m.path(RevokedFile))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return list, err
}

// SetRevoked implements agent.Machine.
func (m *Machine) SetRevoked(_ context.Context, list []byte) error {
	if err := replace(m.path(RevokedFile), list); err != nil {
		return err
	}
	tell(m.lists)
	return nil
}

// Joined implements agent.Machine.
func (m *Machine) Joined() bool { return m.joined.Load() }

// Join implements agent.Machine.
func (m *Machine) Join(ctx context.Context, to agentapi.IPA, password string) error {
	if err := m.cfg.Join(ctx, to, password); err != nil {
		return err
	}
	m.joined.Store(true)
	return nil
}

// replace writes a file in one step: sshd, which reads them at each login,
// never finds half of one.
func replace(path string, content []byte) error {
	if err := os.WriteFile(path+".new", content, 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// tell puts a token into a channel that holds one.
func tell(channel chan struct{}) {
	select {
	case channel <- struct{}{}:
	default: // one is still unread
	}
}

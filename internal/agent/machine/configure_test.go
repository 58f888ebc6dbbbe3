// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"

	"github.com/muster-cloud/muster/internal/agent"
	"github.com/muster-cloud/muster/internal/agent/account"
	"github.com/muster-cloud/muster/internal/agent/agenttest"
	"github.com/muster-cloud/muster/internal/agent/files"
	"github.com/muster-cloud/muster/internal/agent/sshd"
	"github.com/muster-cloud/muster/internal/agentapi"
)

func TestMain(m *testing.M) { os.Exit(agenttest.Main(m)) }

const (
	program  = "/usr/local/sbin/muster-agent"
	settings = "/etc/ssh/sshd_config.d/00-muster.conf"
	pamSudo  = "/etc/pam.d/sudo"
)

// lacking are the machine's programs but for some.
type lacking struct {
	files.Programs
	missing []string
}

func (l lacking) Run(ctx context.Context, stdin []byte, name string, args ...string) ([]byte, error) {
	if slices.Contains(l.missing, name) {
		return nil, &files.ProgramError{Name: name, Err: exec.ErrNotFound}
	}
	return l.Programs.Run(ctx, stdin, name, args...)
}

// host is a machine as Debian makes it.
type host struct {
	*Machine
	t    *testing.T
	root string
}

func newHost(t *testing.T, missing ...string) *host {
	t.Helper()
	root := agenttest.Machine(t, "sshd", "ssh-keygen", "useradd", "usermod", "userdel", "visudo", "sudo")
	agenttest.Write(t, root, "/etc/ssh/sshd_config", "Include /etc/ssh/sshd_config.d/*.conf\nUsePAM yes\n")
	agenttest.Run(t, root, "ssh-keygen", "-A")
	agenttest.Write(t, root, program, "")
	if err := os.Chmod(filepath.Join(root, program), 0o755); err != nil {
		t.Fatal(err)
	}
	runner := lacking{files.Programs{Root: root}, missing}
	tree, err := files.OpenTree(t.Context(), files.Config{Root: root, State: "/var/lib/muster-agent", Runner: runner})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tree.Close() })
	m, err := New(Config{Tree: tree, Runner: runner, Program: program})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.SetRevoked(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	return &host{m, t, root}
}

func (h *host) read(path string) string {
	content, err := os.ReadFile(filepath.Join(h.root, path))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		h.t.Fatal(err)
	}
	return string(content)
}

// has tells whether the machine has an account.
func (h *host) has(name string) bool {
	return strings.Contains("\n"+h.read("/etc/passwd"), "\n"+name+":")
}

// state is one with all that there is.
func state(t *testing.T) agentapi.State {
	return agentapi.State{
		UserCAs:  []string{agenttest.Line(agenttest.NewSigner(t).PublicKey())},
		Accounts: []agentapi.Account{{Name: "operators", Sudo: true}, {Name: "watchers"}},
		PAMSudo:  true,
	}
}

// TestConfigure: what is wanted is there, once, and gone when it is no longer
// wanted; Undo leaves nothing.
func TestConfigure(t *testing.T) {
	h := newHost(t)
	pam := h.read(pamSudo)
	all := state(t)
	plain, fewer := all, all
	plain.PAMSudo = false
	fewer.Accounts, fewer.PasswordAuthentication = all.Accounts[1:], true
	for _, step := range []struct {
		name    string
		want    agentapi.State
		changed bool
		asks    bool     // sudo asks the agent
		sudoers []string // parts of the rules
		locked  bool     // operators
		has     string   // in sshd's settings
	}{
		{"all", all, true, true, []string{"#", " ALL"}, false, "PasswordAuthentication no"},
		{"all again", all, false, true, []string{"#"}, false, "PasswordAuthentication no"},
		{"sudo asks nothing", plain, true, false, []string{"NOPASSWD: ALL"}, false, "PasswordAuthentication no"},
		{"a role less", fewer, true, true, nil, true, "TrustedUserCAKeys"},
		{"and back", all, true, true, []string{"#"}, false, "PasswordAuthentication no"},
	} {
		changed, err := h.Configure(t.Context(), agent.Want{State: step.want})
		if err != nil || changed != step.changed {
			t.Fatalf("%s: changed %v, %v", step.name, changed, err)
		}
		if asks := strings.Contains(h.read(pamSudo), program+" sudo-check"); asks != step.asks {
			t.Errorf("%s: sudo asks: %v", step.name, asks)
		}
		for _, part := range step.sudoers {
			if !strings.Contains(h.read(account.SudoersFile), part) {
				t.Errorf("%s: the rules of sudo have no %q:\n%s", step.name, part, h.read(account.SudoersFile))
			}
		}
		if rules := h.read(account.SudoersFile); step.sudoers == nil && strings.Contains(rules, "ALL=") {
			t.Errorf("%s: somebody may use sudo:\n%s", step.name, rules)
		}
		if !h.has("operators") || !h.has("watchers") {
			t.Errorf("%s: an account is missing", step.name)
		}
		for _, name := range []string{"operators", "watchers"} { // locked or not
			said := agenttest.Run(t, h.root, "sshd", "-T", "-C", "user="+name+",host=x,addr=192.0.2.1,laddr=192.0.2.2,lport=22")
			if !slices.Equal(sshd.ParseSettings([]byte(said))["authorizedkeysfile"], []string{"none"}) {
				t.Errorf("%s: a key that was left in the home of %s lets in", step.name, name)
			}
		}
		expires := agenttest.Run(t, h.root, "getent", "shadow", "operators")
		if locked := !strings.HasSuffix(strings.TrimSpace(expires), "::"); locked != step.locked {
			t.Errorf("%s: locked %v: %s", step.name, locked, expires)
		}
		if !strings.Contains(h.read(settings), step.has) {
			t.Errorf("%s: sshd's settings have no %s", step.name, step.has)
		}
		if trusted := h.read(sshd.UserCAsFile); strings.TrimSpace(trusted) != all.UserCAs[0] {
			t.Errorf("%s: trusted is %q", step.name, trusted)
		}
		agenttest.Run(t, h.root, "sshd", "-t")
		agenttest.Run(t, h.root, "visudo", "-c")
	}
	agenttest.Write(t, h.root, "/home/watchers/diary", "dear diary")
	kept, err := h.Undo(t.Context())
	if err != nil || !slices.Equal(kept, []string{"/home/watchers"}) {
		t.Errorf("kept %q, %v", kept, err)
	}
	if diff := cmp.Diff(pam, h.read(pamSudo)); diff != "" || h.has("operators") || h.has("watchers") || h.read(settings)+h.read(account.SudoersFile) != "" {
		t.Errorf("not all is undone: %s", diff)
	}
}

// TestConfigureInParts: what can't be done does not stop the rest, and the error
// names it.
func TestConfigureInParts(t *testing.T) {
	for name, test := range map[string]struct {
		missing  []string
		broken   string // sshd_config
		accounts bool   // are made
		sudo     bool   // the rules are there
		trust    bool   // sshd's settings are in force
		err      string
	}{
		"all is well":              {nil, "", true, true, true, ""},
		"no program for accounts":  {[]string{"useradd", "adduser"}, "", false, true, true, "account operators"},
		"no judge of sudo's rules": {[]string{"visudo"}, "", true, false, true, "visudo"},
		"a broken sshd_config":     {nil, "Nonsense yes\n", true, true, false, "Nonsense"},
		"no sshd":                  {[]string{"sshd"}, "", true, true, false, "OpenSSH server"},
		"nothing":                  {[]string{"sshd", "useradd", "adduser", "visudo"}, "", false, false, false, "account watchers"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, test.missing...)
			if test.broken != "" {
				agenttest.Write(t, h.root, "/etc/ssh/sshd_config", test.broken)
			}
			want := state(t)
			want.PAMSudo = false
			_, err := h.Configure(t.Context(), agent.Want{State: want})
			if (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Errorf("error: %v", err)
			}
			got := [3]bool{h.has("operators") && h.has("watchers"), strings.Contains(h.read(account.SudoersFile), "NOPASSWD"), h.read(settings) != ""}
			want3 := [3]bool{test.accounts, test.sudo && test.accounts, test.trust}
			if got != want3 {
				t.Errorf("accounts, rules of sudo, sshd: %v, want %v", got, want3)
			}
		})
	}
}

// TestSigner: a host key that can't be used is an error that holds nothing of it.
func TestSigner(t *testing.T) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	locked, err := ssh.MarshalPrivateKeyWithPassphrase(private, "", []byte("passphrase"))
	if err != nil {
		t.Fatal(err)
	}
	good := string(pem.EncodeToMemory(plain))
	for name, test := range map[string]struct {
		content string
		err     string
	}{
		"good":         {good, ""},
		"locked":       {string(pem.EncodeToMemory(locked)), "can't be read"},
		"cut off":      {good[:len(good)/2], "can't be read"},
		"empty":        {"", "can't be read"},
		"no key":       {"secret-text", "can't be read"},
		"far too long": {strings.Repeat("secret-", maxKey), "can't be read"},
		"missing":      {"-", "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			tree, err := files.OpenTree(t.Context(), files.Config{Root: root, State: "/state"})
			if err != nil {
				t.Fatal(err)
			}
			defer tree.Close()
			if test.content != "-" {
				agenttest.Write(t, root, "/key", test.content)
			}
			m := &Machine{tree: tree}
			signer, err := m.Signer(agent.HostKey{Path: "/key"})
			switch {
			case test.err == "" && err == nil:
				if signer.PublicKey().Type() != ssh.KeyAlgoED25519 {
					t.Errorf("it is a %s", signer.PublicKey().Type())
				}
			case err == nil || test.err == "" || !strings.Contains(err.Error(), test.err) || strings.Contains(err.Error(), "secret-"):
				t.Errorf("error: %v", err)
			}
		})
	}
}

// TestRevoked: a list that is not there is none, and one that is there is given whole.
func TestRevoked(t *testing.T) {
	h := newHost(t)
	for _, list := range []string{"", "one", "another list"} {
		if err := h.SetRevoked(t.Context(), []byte(list)); err != nil {
			t.Fatal(err)
		}
		if got, err := h.Revoked(); err != nil || string(got) != list {
			t.Errorf("%q, %v", got, err)
		}
	}
	if err := os.Remove(filepath.Join(h.root, sshd.RevokedFile)); err != nil {
		t.Fatal(err)
	}
	if got, err := h.Revoked(); err != nil || got != nil {
		t.Errorf("%q, %v", got, err)
	}
}

// TestHostKeys: all that sshd has, and each can sign for itself.
func TestHostKeys(t *testing.T) {
	h := newHost(t)
	keys, err := h.HostKeys(t.Context())
	if err != nil || len(keys) < 3 {
		t.Fatalf("%d keys, %v", len(keys), err)
	}
	for _, key := range keys {
		signer, err := h.Signer(key)
		if err != nil {
			t.Fatal(err)
		}
		if strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey()))) != key.Public {
			t.Errorf("%s signs with another key", key.Path)
		}
	}
	if h.Joined() {
		t.Error("it has joined FreeIPA")
	}
	if w := h.Warnings(); len(w) > 0 {
		t.Errorf("warnings before anything was done: %q", w)
	}
}

func TestNeedAgent(t *testing.T) {
	for name, test := range map[string]struct {
		pamSudo bool
		active  []string
		want    []string
	}{
		"sudo asks":         {true, []string{"operators", "watchers"}, []string{"operators"}},
		"sudo asks nothing": {false, []string{"operators", "watchers"}, nil},
		"left out":          {true, []string{"watchers"}, nil},
	} {
		s := state(t)
		s.PAMSudo = test.pamSudo
		if got := needAgent(s, test.active); !slices.Equal(got, test.want) {
			t.Errorf("%s: %q", name, got)
		}
	}
}

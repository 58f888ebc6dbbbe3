// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package account

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/muster-cloud/muster/internal/agent/agenttest"
	"github.com/muster-cloud/muster/internal/agent/files"
	"github.com/muster-cloud/muster/internal/agentapi"
)

func TestMain(m *testing.M) { os.Exit(agenttest.Main(m)) }

// host is a machine with accounts.
type host struct {
	testing.TB
	root   string
	runner files.Runner
	*Accounts
}

func newHost(t testing.TB) *host {
	t.Helper()
	h := &host{TB: t, root: agenttest.Machine(t, "useradd", "usermod", "userdel", "visudo", "sudo")}
	h.runner = files.Programs{Root: h.root}
	h.restart()
	return h
}

// restart is another agent on the same machine.
func (h *host) restart() {
	h.Helper()
	if h.Accounts != nil {
		if err := h.tree.Close(); err != nil {
			h.Fatal(err)
		}
	}
	tree, err := files.OpenTree(h.Context(), files.Config{Root: h.root, State: "/var/lib/muster-agent"})
	if err != nil {
		h.Fatal(err)
	}
	h.Cleanup(func() { _ = tree.Close() })
	if h.Accounts, err = New(Config{Tree: tree, Runner: h.runner}); err != nil {
		h.Fatal(err)
	}
}

// apply wants accounts; those that end in "+" may use sudo.
func (h *host) apply(pamSudo bool, names ...string) Result {
	h.Helper()
	var wanted []agentapi.Account
	for _, name := range names {
		plain := strings.TrimSuffix(name, "+")
		wanted = append(wanted, agentapi.Account{Name: plain, Sudo: plain != name})
	}
	result, err := h.Apply(h.Context(), wanted, pamSudo)
	if err != nil {
		h.Fatal(err)
	}
	again, err := h.Apply(h.Context(), wanted, pamSudo)
	if err != nil || again.Changed {
		h.Fatal("the same again: ", again.Changed, err)
	}
	return result
}

// line of an account in a file; empty if there is none.
func (h *host) line(file, name string) string {
	h.Helper()
	content, err := os.ReadFile(filepath.Join(h.root, file))
	if err != nil {
		h.Fatal(err)
	}
	for line := range strings.Lines(string(content)) {
		if strings.HasPrefix(line, name+":") {
			return strings.TrimSpace(line)
		}
	}
	return ""
}

func (h *host) databases() map[string]string {
	h.Helper()
	all := map[string]string{}
	for _, name := range []string{"passwd", "shadow", "group", "gshadow", "subuid", "subgid"} {
		for _, name := range []string{name, name + "-"} {
			content, err := os.ReadFile(filepath.Join(h.root, "etc", name))
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				h.Fatal(err)
			}
			all[name] = string(content)
		}
	}
	return all
}

func TestLifeOfAnAccount(t *testing.T) {
	h := newHost(t)
	before := h.databases()
	result := h.apply(false, "member+", "reader")
	if !result.Changed || !cmp.Equal(result.Active, []string{"member", "reader"}) {
		t.Fatal(result)
	}
	field := strings.Split(h.line("etc/shadow", "member"), ":")
	if field[1] != "*" || field[7] != "" {
		t.Fatal("a certificate would not let it in: ", field)
	}
	if groups := agenttest.Run(t, h.root, "id", "-nG", "member"); groups != "member\n" {
		t.Fatal("groups ", groups)
	}
	if info, err := os.Stat(filepath.Join(h.root, "home/member/.bashrc")); err != nil || files.OwnerOf(info) < firstUID {
		t.Fatal(err)
	}
	h.expectSudo("member", "NOPASSWD: ALL")
	h.expectSudo("reader", "")

	// The role member goes, and comes back; the agent was started anew.
	h.restart()
	result = h.apply(false, "reader+")
	if !cmp.Equal(result.Active, []string{"reader"}) || !cmp.Equal(result.Made, []string{"member", "reader"}) {
		t.Fatal(result)
	}
	if field := strings.Split(h.line("etc/shadow", "member"), ":"); field[7] != "1" {
		t.Fatal("it is not locked: ", field)
	}
	h.expectSudo("member", "")
	h.expectSudo("reader", "NOPASSWD: ALL")
	h.apply(false, "member", "reader")
	if field := strings.Split(h.line("etc/shadow", "member"), ":"); field[7] != "" {
		t.Fatal("it is still locked: ", field)
	}
	if h.tree.Exists(SudoersFile) {
		t.Fatal("rules for nobody")
	}

	if err := os.WriteFile(filepath.Join(h.root, "home/reader/work"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	kept, err := h.Remove(t.Context())
	if err != nil || !cmp.Equal(kept, []string{"/home/reader"}) {
		t.Fatal(kept, err)
	}
	if diff := cmp.Diff(before, h.databases()); diff != "" {
		t.Fatal(diff)
	}
	if _, err := os.Stat(filepath.Join(h.root, "home/member")); !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}

	// The kept home is reader's again, if Muster comes back.
	h.restart()
	h.apply(false, "member", "reader")
	info, err := os.Stat(filepath.Join(h.root, "home/reader"))
	if err != nil || !strings.Contains(h.line("etc/passwd", "reader"), fmt.Sprintf(":%d:", files.OwnerOf(info))) {
		t.Fatal(err, h.line("etc/passwd", "reader"))
	}
	if kept, err := h.Remove(t.Context()); err != nil || !cmp.Equal(kept, []string{"/home/reader"}) {
		t.Fatal(kept, err)
	}
}

// expectSudo asks the real sudo what an account may do.
func (h *host) expectSudo(name, rule string) {
	h.Helper()
	output, err := h.runner.Run(h.Context(), nil, "sudo", "-l", "-U", name)
	if rule == "" {
		if !strings.Contains(string(output), "not allowed to run sudo") {
			h.Fatal(string(output), err)
		}
		return
	}
	if err != nil || !strings.Contains(string(output), "(ALL : ALL) "+rule) {
		h.Fatal(string(output), err)
	}
}

func TestSudoByPAM(t *testing.T) {
	h := newHost(t)
	h.apply(true, "member+")
	output := agenttest.Run(t, h.root, "sudo", "-l", "-U", "member")
	for _, want := range []string{"timestamp_timeout=0", "!targetpw", "PASSWD: ALL"} {
		if !strings.Contains(output, want) {
			t.Errorf("no %s in %s", want, output)
		}
	}
	if strings.Contains(output, "NOPASSWD") {
		t.Error(output)
	}
	h.apply(false, "member+")
	h.expectSudo("member", "NOPASSWD: ALL")
}

// TestOthersStay: what Muster did not make it does not touch.
func TestOthersStay(t *testing.T) {
	h := newHost(t)
	agenttest.Run(t, h.root, "groupadd", "docker")
	agenttest.Run(t, h.root, "useradd", "-m", "alice")
	agenttest.Run(t, h.root, "useradd", "-c", comment, "bob")
	if err := os.MkdirAll(filepath.Join(h.root, "home/carol"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(h.root, "home/dave"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(filepath.Join(h.root, "home/dave"), files.OwnerOf(h.stat("home/alice")), 0); err != nil {
		t.Fatal(err)
	}
	before := h.databases()
	bad := []string{
		"root", "daemon", "docker", "alice", "bob", "carol", "dave", "", "-x", "a b", "a,b", "%x", "..", "x:y", "1x",
		"#0", strings.Repeat("x", 33), "a\nb",
	}
	var wanted []string
	for _, name := range bad {
		wanted = append(wanted, name+"+")
	}
	result := h.apply(false, wanted...)
	if len(result.Skipped) != len(bad) || len(result.Active) > 0 || result.Changed {
		t.Fatal(result)
	}
	if diff := cmp.Diff(before, h.databases()); diff != "" {
		t.Fatal(diff)
	}
	// Their roles go: nobody is locked.
	h.apply(false)
	if diff := cmp.Diff(before, h.databases()); diff != "" {
		t.Fatal(diff)
	}
}

func (h *host) stat(name string) os.FileInfo {
	h.Helper()
	info, err := os.Stat(filepath.Join(h.root, name))
	if err != nil {
		h.Fatal(err)
	}
	return info
}

// TestMadeAnew: an account of Muster's was removed and made by somebody else.
func TestMadeAnew(t *testing.T) {
	h := newHost(t)
	h.apply(false, "member+")
	agenttest.Run(t, h.root, "userdel", "-r", "member")
	agenttest.Run(t, h.root, "useradd", "-u", "4321", "member")
	result := h.apply(false, "member+")
	if len(result.Skipped) != 1 || len(result.Made) != 0 {
		t.Fatal(result)
	}
	h.expectSudo("member", "")
	h.apply(false)
	if field := strings.Split(h.line("etc/shadow", "member"), ":"); field[7] != "" {
		t.Fatal("it was locked")
	}
	if _, err := h.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if h.line("etc/passwd", "member") == "" {
		t.Fatal("it was removed")
	}
}

func TestUnusualNames(t *testing.T) {
	h := newHost(t)
	result := h.apply(false, "ALL+", "Role.one", "_x-y")
	if len(result.Active) != 3 {
		t.Fatal(result)
	}
	h.expectSudo("ALL", "NOPASSWD: ALL")
	h.expectSudo("Role.one", "")
	h.expectSudo("_x-y", "")
}

// stopping is a Runner whose process is killed after a program.
type stopping struct {
	files.Runner
	after string
}

func (s stopping) Run(ctx context.Context, stdin []byte, name string, args ...string) ([]byte, error) {
	output, err := s.Runner.Run(ctx, stdin, name, args...)
	if name == s.after {
		panic("killed")
	}
	return output, err
}

// TestKilledWhileMaking: the account is Muster's, although the agent did not
// live to see it; but one that somebody else made since is not.
func TestKilledWhileMaking(t *testing.T) {
	for _, others := range []bool{false, true} {
		h := newHost(t)
		whole := h.Accounts.runner
		h.Accounts.runner = stopping{Runner: whole, after: "useradd"}
		func() {
			defer func() {
				if recover() == nil {
					t.Fatal("it was not killed")
				}
			}()
			_, _ = h.Apply(t.Context(), []agentapi.Account{{Name: "member"}}, false)
		}()
		if others {
			agenttest.Run(t, h.root, "usermod", "-c", "Alice", "member")
		}
		h.restart()
		// Its role is gone when the agent is back.
		h.apply(false)
		if locked := strings.Split(h.line("etc/shadow", "member"), ":")[7] != ""; locked == others {
			t.Fatal(others, h.line("etc/shadow", "member"))
		}
		result := h.apply(false, "member")
		if len(result.Active) != map[bool]int{false: 1, true: 0}[others] {
			t.Fatal(others, result)
		}
	}
}

// failing is a Runner that spoils what useradd does, once.
type failing struct {
	files.Runner
	spoil func() error
}

func (f *failing) Run(ctx context.Context, stdin []byte, name string, args ...string) ([]byte, error) {
	output, err := f.Runner.Run(ctx, stdin, name, args...)
	if spoil := f.spoil; name == "useradd" && err == nil && spoil != nil {
		f.spoil = nil
		return output, spoil()
	}
	return output, err
}

// TestMakingFails: useradd fails when the account is there in part. It is
// Muster's, and whole the next time; and uninstall leaves nothing.
func TestMakingFails(t *testing.T) {
	for name, breaks := range map[string][]string{
		"at its end":     {"true"},
		"without home":   {"rm", "-r", "/home/member"},
		"without shadow": {"sed", "-i", "/^member:/d", "/etc/shadow"},
		"without group":  {"sed", "-i", "/^member:/d", "/etc/group", "/etc/gshadow"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			before := h.databases()
			h.Accounts.runner = &failing{h.Accounts.runner, func() error {
				agenttest.Run(t, h.root, breaks[0], breaks[1:]...)
				return errors.New("it was killed")
			}}
			if _, err := h.Apply(t.Context(), []agentapi.Account{{Name: "member"}}, false); err == nil {
				t.Fatal("the failure was not told")
			}
			if name != "without home" {
				h.restart()
			}
			if result := h.apply(false, "member"); !cmp.Equal(result.Active, []string{"member"}) {
				t.Fatal(result)
			}
			if groups := agenttest.Run(t, h.root, "id", "-nG", "member"); groups != "member\n" || !h.tree.Exists("/home/member/.bashrc") {
				t.Fatal("it is not whole: ", groups)
			}
			if kept, err := h.Remove(t.Context()); err != nil || len(kept) > 0 {
				t.Fatal(kept, err)
			}
			if diff := cmp.Diff(before, h.databases()); diff != "" {
				t.Fatal(diff)
			}
		})
	}
}

// TestEndedWhileMaking: an agent that is told to end lets useradd end first.
func TestEndedWhileMaking(t *testing.T) {
	h := newHost(t)
	ctx, end := context.WithCancel(t.Context())
	h.Accounts.runner = ending{h.Accounts.runner, end}
	if _, err := h.Apply(ctx, []agentapi.Account{{Name: "member"}}, false); err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if h.line("etc/passwd", "member") == "" || h.made["member"].UID < firstUID {
		t.Error(h.made)
	}
}

// ending is a Runner whose agent is told to end when useradd begins.
type ending struct {
	files.Runner
	end func()
}

func (e ending) Run(ctx context.Context, stdin []byte, name string, args ...string) ([]byte, error) {
	if name == "useradd" {
		e.end()
	}
	return e.Runner.Run(ctx, stdin, name, args...)
}

// TestDirectoryAway: while it cannot be known whether a name is free, no
// account is made, and nobody is blamed for it.
func TestDirectoryAway(t *testing.T) {
	h := newHost(t)
	if err := os.WriteFile(filepath.Join(h.root, "usr/bin/getent"), []byte("#!/bin/sh\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	result, err := h.Apply(t.Context(), []agentapi.Account{{Name: "member"}}, false)
	if err == nil || len(result.Skipped) > 0 || h.line("etc/passwd", "member") != "" {
		t.Fatal(result, err)
	}
}

// TestSudoersRefused: rules that sudo does not read are an error, not silence.
func TestSudoersRefused(t *testing.T) {
	h := newHost(t)
	agenttest.Write(t, h.root, "/etc/sudoers", "root ALL=(ALL:ALL) ALL\n")
	_, err := h.Apply(t.Context(), []agentapi.Account{{Name: "member", Sudo: true}}, false)
	if !errors.Is(err, ErrSudoers) {
		t.Fatal(err)
	}
	if h.line("etc/passwd", "member") == "" {
		t.Fatal("the account was not made")
	}
}

// TestRightsGoAnyway: the new rules cannot be judged, so that nobody keeps the
// old ones that somebody should lose.
func TestRightsGoAnyway(t *testing.T) {
	h := newHost(t)
	h.apply(false, "member+", "reader+")
	if err := os.Remove(filepath.Join(h.root, "usr/sbin/visudo")); err != nil {
		t.Fatal(err)
	}
	one := []agentapi.Account{{Name: "member", Sudo: true}, {Name: "reader"}}
	if _, err := h.Apply(t.Context(), one, false); !errors.Is(err, ErrSudoers) {
		t.Fatal(err)
	}
	h.expectSudo("reader", "")
	h.expectSudo("member", "")
	agenttest.Run(t, h.root, "cp", filepath.Join("/usr/sbin", "useradd"), "/usr/sbin/visudo")
	if _, err := h.Apply(t.Context(), one, false); !errors.Is(err, ErrSudoers) {
		t.Fatal("a visudo that refuses: ", err)
	}
}

// TestAskedAnyway: sudo is to ask for a certificate from now on, but the new
// rules cannot be judged: nobody keeps the old ones, which ask nothing.
func TestAskedAnyway(t *testing.T) {
	h := newHost(t)
	h.apply(false, "member+")
	if err := os.Remove(filepath.Join(h.root, "usr/sbin/visudo")); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Apply(t.Context(), []agentapi.Account{{Name: "member", Sudo: true}}, true); !errors.Is(err, ErrSudoers) {
		t.Fatal(err)
	}
	h.expectSudo("member", "")
}

// busybox is a machine without shadow's programs. It records what is run.
type busybox struct {
	root string
	ran  []string
}

func (b *busybox) Run(_ context.Context, stdin []byte, name string, args ...string) ([]byte, error) {
	switch name {
	case "adduser":
		b.append("etc/passwd", args[len(args)-1]+":x:1000:1000:"+comment+":/home/x:/bin/sh\n")
		b.append("etc/shadow", args[len(args)-1]+":!:1::::::\n")
	case "chpasswd":
		account, hash, _ := strings.Cut(strings.TrimSpace(string(stdin)), ":")
		b.append("etc/shadow.new", account+":"+hash+":1::::::\n")
		if err := os.Rename(filepath.Join(b.root, "etc/shadow.new"), filepath.Join(b.root, "etc/shadow")); err != nil {
			return nil, err
		}
	default:
		return nil, exec.ErrNotFound
	}
	b.ran = append(b.ran, name+" "+strings.Join(args, " ")+" < "+strings.TrimSpace(string(stdin)))
	return nil, nil
}

func (b *busybox) append(name, text string) {
	file := filepath.Join(b.root, name)
	content, _ := os.ReadFile(file)
	if err := os.WriteFile(file, append(content, text...), 0o600); err != nil {
		panic(err)
	}
}

func TestBusybox(t *testing.T) {
	b := &busybox{root: t.TempDir()}
	agenttest.Write(t, b.root, "etc/passwd", "root:x:0:0::/root:/bin/sh\n")
	agenttest.Write(t, b.root, "etc/group", "root:x:0:\n")
	h := &host{TB: t, root: b.root, runner: b}
	h.restart()
	h.apply(false, "member")
	h.apply(false)
	h.apply(false, "member")
	want := []string{
		"adduser -D -h /home/member -s /bin/sh -g Muster role member < ", "chpasswd -e < member:*",
		"chpasswd -e < member:!", "chpasswd -e < member:*",
	}
	if diff := cmp.Diff(want, b.ran); diff != "" {
		t.Fatal(diff)
	}
}

// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package openssh

import (
	"errors"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
)

// house is an sshd whose certificates ssh-keygen signed, so that these tests
// need nothing of Muster.
type house struct {
	*testing.T
	programs Programs
	dir      string
	account  string
	server   *Server
}

func (h *house) path(name string) string { return filepath.Join(h.dir, name) }

func (h *house) write(name, text string) {
	h.Helper()
	if err := os.WriteFile(h.path(name), []byte(text), 0o600); err != nil {
		h.Fatal(err)
	}
}

func (h *house) key(name string) string {
	h.Helper()
	line, err := h.programs.NewKey(h.Context(), h.path(name), name)
	if err != nil {
		h.Fatal(err)
	}
	return line
}

func (h *house) keygen(arguments ...string) {
	h.Helper()
	if err := run(h.Context(), h.programs.Keygen, arguments...); err != nil {
		h.Fatal(err)
	}
}

// client is a person whose key the authority signed for the principal.
func (h *house) client(name, authority, principal string) Client {
	h.Helper()
	h.key(name)
	h.keygen("-q", "-s", h.path(authority), "-I", name, "-n", principal, "-V", "+5m", h.path(name+".pub"))
	return Client{
		Account: h.account, Key: h.path(name), Certificate: h.path(name + "-cert.pub"),
		KnownHosts: h.path("known_hosts"), Command: "echo hello",
	}
}

func newHouse(t *testing.T) *house {
	t.Helper()
	programs, err := Find()
	if err != nil {
		if os.Getenv("CI") == "true" || os.Getenv("MUSTER_TEST_REQUIRE") == "1" {
			t.Fatal(err)
		}
		t.Skip("SKIPPED, nothing was tested: ", err)
	}
	who, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	h := &house{T: t, programs: programs, dir: t.TempDir(), account: who.Username}
	userCA, hostCA := h.key("user_ca"), h.key("host_ca")
	h.key("other_ca")
	h.key("host")
	h.keygen("-q", "-s", h.path("host_ca"), "-h", "-I", "host", "-V", "+5m", h.path("host.pub"))
	h.write("trusted", userCA+"\n")
	h.write("revoked", "")
	h.write("known_hosts", "@cert-authority * "+hostCA+"\n")
	h.server, err = StartServer(t.Context(), ServerConfig{
		Programs: programs, Dir: h.dir,
		HostKeys:          []string{h.path("host")},
		TrustedUserCAKeys: h.path("trusted"), RevokedKeys: h.path("revoked"),
		Principals: map[string][]string{h.account: {"member"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.server.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

func TestLogin(t *testing.T) {
	h := newHouse(t)
	alice := h.client("alice", "user_ca", "member")
	output, err := h.server.Login(t.Context(), alice)
	if err != nil || output != "hello\n" {
		t.Fatalf("got %q, %v", output, err)
	}

	for name, refused := range map[string]Client{
		"another authority": h.client("mallory", "other_ca", "member"),
		"another principal": h.client("reader", "user_ca", "reader"),
		"bare key":          {Account: h.account, Key: alice.Key, KnownHosts: alice.KnownHosts, Command: "true"},
	} {
		if name == "bare key" {
			// ssh picks up KEY-cert.pub by itself.
			h.key("bare")
			refused.Key = h.path("bare")
		}
		_, err := h.server.Login(t.Context(), refused)
		if !errors.Is(err, ErrRefused) {
			t.Errorf("%s: %v", name, err)
		}
	}

	h.keygen("-q", "-k", "-f", h.path("revoked"), alice.Certificate)
	_, err = h.server.Login(t.Context(), alice)
	var refusal *LoginError
	if !errors.Is(err, ErrRefused) || !errors.As(err, &refusal) {
		t.Fatalf("a revoked certificate: %v", err)
	}
	if !strings.Contains(refusal.ServerLog, "revoked by file") {
		t.Errorf("sshd's log misses the reason:\n%s", refusal.ServerLog)
	}
}

func TestLoginRefusesUnknownHost(t *testing.T) {
	h := newHouse(t)
	alice := h.client("alice", "user_ca", "member")
	other, err := os.ReadFile(h.path("other_ca.pub"))
	if err != nil {
		t.Fatal(err)
	}
	h.write("known_hosts", "@cert-authority * "+string(other))
	if _, err := h.server.Login(t.Context(), alice); !errors.Is(err, ErrHostRefused) {
		t.Fatal(err)
	}
}

func TestLoginReportsTheCommandsFailure(t *testing.T) {
	h := newHouse(t)
	alice := h.client("alice", "user_ca", "member")
	alice.Command = "exit 3"
	_, err := h.server.Login(t.Context(), alice)
	if err == nil || errors.Is(err, ErrRefused) || errors.Is(err, ErrHostRefused) || !strings.Contains(err.Error(), "exit status 3") {
		t.Fatal(err)
	}
}

func TestStartServerExplainsFailure(t *testing.T) {
	h := newHouse(t)
	_, err := StartServer(t.Context(), ServerConfig{Programs: h.programs, Dir: t.TempDir(), HostKeys: []string{h.path("absent")}})
	if err == nil || !strings.Contains(err.Error(), "sshd") {
		t.Fatal(err)
	}
}

func TestFindNamesPackages(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if _, err := Find(); !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), "openssh-client") {
		t.Fatal(err)
	}
}

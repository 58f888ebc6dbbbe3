// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sshd

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/muster-cloud/muster/internal/agent/agenttest"
	"github.com/muster-cloud/muster/internal/agent/files"
	"github.com/muster-cloud/muster/internal/sshca/krl"
)

// startTime is how soon sshd listens, on a machine that is busy.
const startTime = time.Minute

// listen starts the host's sshd on a free port of its own network.
func (h *host) listen() (port string) {
	h.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		h.Fatal(err)
	}
	port = strconv.Itoa(free.Addr().(*net.TCPAddr).Port)
	if err := free.Close(); err != nil {
		h.Fatal(err)
	}
	agenttest.Start(h, h.root, "sshd", "-D", "-e", "-p", port)
	ctx, cancel := context.WithTimeout(h.Context(), startTime)
	defer cancel()
	for {
		connection, err := new(net.Dialer).DialContext(ctx, "tcp", "127.0.0.1:"+port)
		if err == nil {
			_ = connection.Close()
			return port
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			h.Fatal("sshd does not listen: ", err)
		}
	}
}

// shownAuthority is whose certificate of its Ed25519 key sshd shows to clients.
func (h *host) shownAuthority() string {
	h.Helper()
	port := h.listen()
	output, err := files.Programs{Root: h.root}.Run(h.Context(), nil, "ssh-keyscan", "-c", "-t", "ed25519", "-p", port, "127.0.0.1")
	if err != nil {
		h.Fatal(err)
	}
	for line := range strings.Lines(string(output)) {
		if fields := strings.Fields(line); len(fields) >= 2 && !strings.HasPrefix(line, "#") {
			public, _, _, _, err := ssh.ParseAuthorizedKey([]byte(strings.Join(fields[len(fields)-2:], " ")))
			if err != nil {
				h.Fatal(err, ": ", line)
			}
			if cert, is := public.(*ssh.Certificate); is {
				public = cert.SignatureKey
			}
			return agenttest.Line(public)
		}
	}
	h.Fatalf("ssh-keyscan says %q", output)
	return ""
}

// visitor is somebody with a key, who trusts the host's authority.
type visitor struct {
	*host
	port string
}

// errNot is that ssh did not get in.
var errNot = errors.New("not let in")

// enter logs in to the account member with the key, and its certificate if it
// has one.
func (v visitor) enter(key string, options ...string) error {
	v.Helper()
	args := []string{
		"-F", "none", "-T", "-p", v.port, "-l", "member", "-i", key, "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes",
		"-o", "UserKnownHostsFile=/tmp/known_hosts", "-o", "GlobalKnownHostsFile=none", "-o", "HostKeyAlias=host",
		"-o", "StrictHostKeyChecking=yes", "-o", "ControlPath=none",
	}
	for _, option := range options {
		args = append(args, "-o", option)
	}
	output, err := files.Programs{Root: v.root}.Run(v.Context(), nil, "ssh", append(args, "127.0.0.1", "id", "-un")...)
	if err == nil && string(output) != "member\n" {
		v.Fatalf("the command ran as %q", output)
	}
	if err != nil {
		return errors.Join(errNot, err)
	}
	return nil
}

// newKey makes a key below /tmp, with a certificate of the authority, unless that
// is nil: for member if no principals are named.
func (h *host) newKey(name string, authority ssh.Signer, principals ...string) (file string, cert *ssh.Certificate) {
	h.Helper()
	file = filepath.Join("/tmp", name)
	agenttest.Run(h, h.root, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", file)
	if authority == nil {
		return file, nil
	}
	line, err := h.tree.Read(file + ".pub")
	if err != nil {
		h.Fatal(err)
	}
	public, _, _, _, err := ssh.ParseAuthorizedKey(line)
	if err != nil {
		h.Fatal(err)
	}
	if principals == nil {
		principals = []string{"member"}
	}
	cert = &ssh.Certificate{
		Key: public, CertType: ssh.UserCert, KeyId: name, Serial: 7, ValidPrincipals: principals, ValidBefore: ssh.CertTimeInfinity,
	}
	if err := cert.SignCert(rand.Reader, authority); err != nil {
		h.Fatal(err)
	}
	agenttest.Write(h, h.root, file+"-cert.pub", agenttest.Line(cert)+"\n")
	return file, cert
}

// withMember adds the account member, whom ssh knows by the host's authority.
func (h *host) withMember() {
	h.Helper()
	agenttest.Run(h, h.root, "useradd", "--create-home", "--password", "*", "--shell", "/bin/sh", "member")
	agenttest.Write(h, h.root, "/tmp/known_hosts", "@cert-authority * "+agenttest.Line(h.ca.PublicKey())+"\n")
}

// TestPenalties: refusals from a network that is exempt keep nobody from there out,
// which they do from OpenSSH 9.8 on (PerSourcePenalties): from the fifth log-in on.
func TestPenalties(t *testing.T) {
	h := newHost(t, debian)
	h.withMember()
	good, _ := h.newKey("good", h.ca)
	bare, _ := h.newKey("bare", nil)
	want := h.want()
	want.PenaltyExempt = []string{"127.0.0.0/8"}
	h.apply(want)
	v := visitor{h, h.listen()}
	for range 6 {
		if err := v.enter(bare); !errors.Is(err, errNot) {
			t.Fatal("a bare key got in")
		}
	}
	if err := v.enter(good); err != nil {
		t.Error(err)
	}
}

// TestLogins lets the real ssh judge: with an image that lets others in by Match
// blocks and makes revocations void, only Muster's certificates get in, and only
// while they are not revoked.
func TestLogins(t *testing.T) {
	for name, config := range map[string]string{
		"in a file":    debian + "Match User *,!root\n" + opinions,
		"no Include":   "UsePAM yes\nMatch User *,!root\n" + opinions,
		"nothing":      debian,
		"not in Match": debian + opinions[:strings.Index(opinions, "RevokedKeys")] + "PasswordAuthentication yes\n",
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, config)
			h.withMember()
			other := agenttest.NewSigner(t)
			agenttest.Write(t, h.root, "/etc/ssh/other_ca", agenttest.Line(other.PublicKey())+"\n")
			agenttest.Write(t, h.root, "/etc/ssh/principals/member", "other\nmember\n")
			good, cert := h.newKey("good", h.ca)
			elsewhere, _ := h.newKey("elsewhere", h.ca, "other")
			foreign, _ := h.newKey("foreign", other)
			bare, _ := h.newKey("bare", nil)
			line, err := h.tree.Read(bare + ".pub")
			if err != nil {
				t.Fatal(err)
			}
			agenttest.Write(t, h.root, "/etc/ssh/keys/member", string(line))
			want := h.want()
			want.PenaltyExempt = []string{"127.0.0.0/8"}
			h.apply(want)
			v := visitor{h, h.listen()}
			if err := v.enter(good); err != nil {
				t.Errorf("a good certificate: %v", err)
			}
			if err := v.enter(elsewhere); !errors.Is(err, errNot) {
				t.Error("a certificate for another account, whom the image would let in, got in")
			}
			if err := v.enter(foreign); !errors.Is(err, errNot) {
				t.Error("a certificate of the image's authority got in")
			}
			if err := v.enter(bare); !errors.Is(err, errNot) {
				t.Error("a key of the image's got in")
			}
			list := &krl.List{Version: 1, Authorities: []krl.Authority{{Key: h.ca.PublicKey(), Serials: []uint64{cert.Serial}}}}
			raw, err := list.Marshal()
			if err == nil {
				err = h.SetRevoked(t.Context(), raw)
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := v.enter(good); !errors.Is(err, errNot) {
				t.Error("a revoked certificate got in")
			}
		})
	}
}

// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sudo

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/muster-cloud/muster/internal/agent/agenttest"
	"github.com/muster-cloud/muster/internal/agent/sshd"
	"github.com/muster-cloud/muster/internal/sshca/krl"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// bench is a machine's lists and a person's agent, without machine or sudo.
type bench struct {
	*testing.T
	root    string
	ca      ssh.Signer
	keys    agent.ExtendedAgent
	ofLogin []*ssh.Certificate
}

func newBench(t *testing.T) *bench {
	b := &bench{T: t, root: t.TempDir(), ca: agenttest.NewSigner(t), keys: agent.NewKeyring().(agent.ExtendedAgent)}
	agenttest.Write(t, b.root, sshd.UserCAsFile, string(ssh.MarshalAuthorizedKey(agenttest.NewSigner(t).PublicKey()))+
		string(ssh.MarshalAuthorizedKey(b.ca.PublicKey())))
	agenttest.Write(t, b.root, sshd.RevokedFile, "")
	return b
}

// certificate is a good one, for the key.
func (b *bench) certificate(key ssh.PublicKey) *ssh.Certificate {
	return &ssh.Certificate{
		Key: key, CertType: ssh.UserCert, Serial: 5, KeyId: "alice", ValidPrincipals: []string{"reader", "member"},
		ValidAfter: uint64(noon.Add(-time.Hour).Unix()), ValidBefore: uint64(noon.Add(time.Hour).Unix()),
	}
}

// add puts a key with a certificate of the authority into the agent.
func (b *bench) add(key any, change func(*ssh.Certificate), authority ssh.Signer) {
	b.Helper()
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		b.Fatal(err)
	}
	cert := b.certificate(signer.PublicKey())
	if change != nil {
		change(cert)
	}
	if err := cert.SignCert(rand.Reader, authority); err != nil {
		b.Fatal(err)
	}
	if err := b.keys.Add(agent.AddedKey{PrivateKey: key, Certificate: cert}); err != nil {
		b.Fatal(err)
	}
}

func (b *bench) ask() (Proof, error) {
	b.Helper()
	judge, err := newJudge(Request{Account: "member", Root: b.root, Now: func() time.Time { return noon }})
	if err != nil {
		return Proof{}, err
	}
	return judge.ask(b.keys, b.ofLogin)
}

func TestProof(t *testing.T) {
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	modulus, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]any{"Ed25519": agenttest.NewKey(t), "ECDSA": curve, "RSA": modulus} {
		b := newBench(t)
		b.add(agenttest.NewKey(t), func(c *ssh.Certificate) { c.ValidPrincipals = nil }, b.ca) // one that is no good comes first
		b.add(key, nil, b.ca)
		if proof, err := b.ask(); err != nil || proof.KeyID != "alice" || proof.Serial != 5 || proof.Fingerprint == "" {
			t.Error(name, proof, err)
		}
	}
}

func TestNoProof(t *testing.T) {
	for name, test := range map[string]struct {
		change  func(*ssh.Certificate)
		another bool // authority
		want    string
	}{
		"another authority": {another: true, want: "not of this project's authority"},
		"another account":   {change: func(c *ssh.Certificate) { c.ValidPrincipals = []string{"reader"} }, want: "does not name"},
		"any account":       {change: func(c *ssh.Certificate) { c.ValidPrincipals = nil }, want: "does not name"},
		"expired":           {change: func(c *ssh.Certificate) { c.ValidBefore = uint64(noon.Unix()) }, want: "expired"},
		"too early":         {change: func(c *ssh.Certificate) { c.ValidAfter = uint64(noon.Unix()) + 1 }, want: "not valid yet"},
		"a host's":          {change: func(c *ssh.Certificate) { c.CertType = ssh.HostCert }, want: "not a user's"},
		"an address": {
			change: func(c *ssh.Certificate) { c.CriticalOptions = map[string]string{"source-address": "192.0.2.0/24"} },
			want:   "restricted",
		},
		"a command": {
			change: func(c *ssh.Certificate) { c.CriticalOptions = map[string]string{"force-command": "true"} }, want: "restricted",
		},
		"something unknown": {
			change: func(c *ssh.Certificate) { c.CriticalOptions = map[string]string{"verify-required": ""} }, want: "restricted",
		},
		"revoked": {change: func(c *ssh.Certificate) { c.Serial = 6 }, want: "revoked"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			list, err := (&krl.List{Authorities: []krl.Authority{{Key: b.ca.PublicKey(), Serials: []uint64{6}}}}).Marshal()
			if err != nil {
				t.Fatal(err)
			}
			agenttest.Write(t, b.root, sshd.RevokedFile, string(list))
			authority := b.ca
			if test.another {
				authority = agenttest.NewSigner(t)
			}
			b.add(agenttest.NewKey(t), test.change, authority)
			if _, err := b.ask(); !errors.Is(err, ErrNoProof) || !strings.Contains(err.Error(), test.want) {
				t.Fatal(err)
			}
		})
	}
}

func TestMachineCannotJudge(t *testing.T) {
	for name, change := range map[string]func(*bench){
		"no authorities file": func(b *bench) { _ = os.Remove(filepath.Join(b.root, sshd.UserCAsFile)) },
		"damaged authorities": func(b *bench) { agenttest.Write(b, b.root, sshd.UserCAsFile, "nonsense\n") },
		"no revocation list":  func(b *bench) { _ = os.Remove(filepath.Join(b.root, sshd.RevokedFile)) },
		"damaged list":        func(b *bench) { agenttest.Write(b, b.root, sshd.RevokedFile, "nonsense\n") },
	} {
		b := newBench(t)
		b.add(agenttest.NewKey(t), nil, b.ca)
		change(b)
		if _, err := b.ask(); !errors.Is(err, ErrNotReady) {
			t.Error(name, err)
		}
	}
	b := newBench(t)
	agenttest.Write(t, b.root, sshd.UserCAsFile, "\n")
	b.add(agenttest.NewKey(t), nil, b.ca)
	if _, err := b.ask(); !errors.Is(err, ErrNoProof) {
		t.Error("without authorities: ", err)
	}
}

// liar is an agent that signs with another key, or something else.
type liar struct {
	agent.ExtendedAgent
	signer ssh.Signer
	other  []byte
}

func (l liar) SignWithFlags(key ssh.PublicKey, data []byte, flags agent.SignatureFlags) (*ssh.Signature, error) {
	if l.signer != nil {
		return l.signer.Sign(rand.Reader, data)
	}
	return l.ExtendedAgent.SignWithFlags(key, append(l.other, data...), flags)
}

func TestAgentMustHoldTheKey(t *testing.T) {
	b := newBench(t)
	b.add(agenttest.NewKey(t), nil, b.ca)
	honest := b.keys
	for name, lying := range map[string]agent.ExtendedAgent{
		"another key": liar{ExtendedAgent: honest, signer: agenttest.NewSigner(t)},
		"other data":  liar{ExtendedAgent: honest, other: []byte("x")},
	} {
		b.keys = lying
		if _, err := b.ask(); !errors.Is(err, ErrNoProof) || !strings.Contains(err.Error(), "signature is wrong") {
			t.Error(name, err)
		}
	}
	if err := honest.Lock([]byte("x")); err != nil {
		t.Fatal(err)
	}
	b.keys = honest
	if _, err := b.ask(); !errors.Is(err, ErrNoProof) {
		t.Error("a locked agent: ", err)
	}
}

// token is an agent with a security key, which is touched or not (PROTOCOL.u2f).
type token struct {
	agent.ExtendedAgent
	cert  *ssh.Certificate
	key   ed25519.PrivateKey
	flags byte
}

const application = "ssh:"

// newToken returns the agent with a certificate for its key.
func (b *bench) newToken(flags byte, extensions map[string]string) token {
	b.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	key, err := ssh.ParsePublicKey(ssh.Marshal(struct{ Type, Key, Application string }{
		ssh.KeyAlgoSKED25519, string(public), application,
	}))
	if err != nil {
		b.Fatal(err)
	}
	cert := b.certificate(key)
	cert.Extensions = extensions
	if err := cert.SignCert(rand.Reader, b.ca); err != nil {
		b.Fatal(err)
	}
	return token{cert: cert, key: private, flags: flags}
}

func (k token) List() ([]*agent.Key, error) { return []*agent.Key{{Blob: k.cert.Marshal()}}, nil }

func (k token) SignWithFlags(_ ssh.PublicKey, data []byte, _ agent.SignatureFlags) (*ssh.Signature, error) {
	where, what := sha256.Sum256([]byte(application)), sha256.Sum256(data)
	rest := []byte{k.flags, 0, 0, 0, 1}
	signed := slices.Concat(where[:], rest, what[:])
	return &ssh.Signature{Format: ssh.KeyAlgoSKED25519, Blob: ed25519.Sign(k.key, signed), Rest: rest}, nil
}

// TestSecurityKey: somebody must touch it, even if that is excused for logins.
func TestSecurityKey(t *testing.T) {
	excused := map[string]string{"no-touch-required": ""}
	for name, test := range map[string]struct {
		flags      byte
		extensions map[string]string
		want       string
	}{
		"touched": {flags: 1}, "not touched": {want: "nobody touched"}, "excused": {extensions: excused, want: "nobody touched"},
	} {
		b := newBench(t)
		b.keys = b.newToken(test.flags, test.extensions)
		_, err := b.ask()
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Error(name, err)
		}
	}
}

func TestFromPAM(t *testing.T) {
	whole := map[string]string{"PAM_USER": "member", "PAM_RUSER": "member", "PAM_TYPE": "auth", "PAM_SERVICE": "sudo"}
	from := func(key, value string) error {
		_, err := FromPAM(func(name string) string {
			if name == key {
				return value
			}
			return whole[name]
		})
		return err
	}
	if os.Geteuid() == 0 {
		if err := from("", ""); err != nil {
			t.Error(err)
		}
		if err := from("PAM_RUSER", "reader"); !errors.Is(err, ErrNoProof) {
			t.Error(err)
		}
	} else if err := from("", ""); !errors.Is(err, ErrNotAsked) {
		t.Error("not by root: ", err)
	}
	for key, value := range map[string]string{"PAM_USER": "", "PAM_TYPE": "account", "PAM_SERVICE": "su"} {
		if err := from(key, value); !errors.Is(err, ErrNotAsked) {
			t.Error(key, err)
		}
	}
}

// TestSilentAgent: an agent that never answers is given up at the deadline.
func TestSilentAgent(t *testing.T) {
	here, there := net.Pipe()
	defer there.Close()
	go func() { _, _ = io.Copy(io.Discard, there) }()
	if err := here.SetDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	b := newBench(t)
	b.keys = agent.NewClient(here)
	if _, err := b.ask(); !errors.Is(err, ErrNoAgent) {
		t.Fatal(err)
	}
}

// TestOwnSession finds the agent of this very process, as if it were sudo.
func TestOwnSession(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "agent")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	me := person{uid: os.Getuid(), gid: os.Getgid()}
	connection, err := dial(t.Context(), socket, os.Getpid(), me)
	if err != nil {
		t.Fatal(err)
	}
	if err := connection.Close(); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() != 0 {
		return
	}
	// Root's socket is not the caller's, although root could open it.
	if _, err := dial(t.Context(), socket, os.Getpid(), person{uid: 12345, gid: 12345}); err == nil {
		t.Fatal("somebody else's socket was taken")
	}
	if err := os.Chmod(filepath.Dir(filepath.Dir(socket)), 0o755); err != nil {
		t.Fatal(err)
	}
	// A socket file of the caller's at which root listens.
	if err := errors.Join(os.Chmod(filepath.Dir(socket), 0o755), os.Chown(socket, 12345, 12345)); err != nil {
		t.Fatal(err)
	}
	if _, err := dial(t.Context(), socket, os.Getpid(), person{uid: 12345, gid: 12345}); err == nil ||
		!strings.Contains(err.Error(), "somebody else") {
		t.Fatal(err)
	}
	if syscall.Geteuid() != 0 || syscall.Getegid() != 0 {
		t.Fatal("the rights of root did not come back")
	}
}

func FuzzCertificateBlob(f *testing.F) {
	f.Add([]byte("ssh-ed25519-cert-v01@openssh.com"))
	f.Fuzz(func(t *testing.T, blob []byte) {
		j := &judge{account: "member", now: time.Now}
		if _, err := j.ask(listing{blob: blob}, parseExposed(blob)); err == nil {
			t.Fatal("a proof out of nothing")
		}
	})
}

// listing is an agent that lists one blob.
type listing struct {
	agent.ExtendedAgent
	blob []byte
}

func (l listing) List() ([]*agent.Key, error) { return []*agent.Key{{Blob: l.blob}}, nil }

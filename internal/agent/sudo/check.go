// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sudo

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha512"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/muster-cloud/muster/internal/agent/sshd"
	"github.com/muster-cloud/muster/internal/sshca/krl"
)

const (
	// timeout of the whole check: long enough for a person to touch a key.
	timeout = 30 * time.Second
	// maxKeys and maxTries bound what an agent can make us do.
	maxKeys  = 256
	maxTries = 4
	// namespace keeps a signature for sudo from serving anything else
	// (PROTOCOL.sshsig).
	namespace = "muster-sudo@muster-cloud.org"
)

// Errors of Check. Their texts are for the person who called sudo.
var (
	// ErrNoAgent says that no agent of this login could be asked.
	ErrNoAgent = errors.New("sudo needs your SSH agent: log in with \"ssh -A\", or \"ForwardAgent yes\" for this host")
	// ErrNoProof says that the agent holds no certificate that is good here.
	ErrNoProof = errors.New("your SSH agent holds no certificate that lets this account use sudo")
	// ErrNotAsked says that the program was not called by sudo through PAM.
	ErrNotAsked = errors.New("this is for sudo, which calls it through PAM")
	// ErrNotReady says that the machine lacks what is needed to judge.
	ErrNotReady = errors.New("this machine cannot judge certificates")
)

// Request is what sudo wants to know. [FromPAM] makes one.
type Request struct {
	Account string // who calls sudo
	Sudo    int    // sudo's process
	Root    string // of the machine's tree; default "/"
	Now     func() time.Time
}

// FromPAM reads the request from what pam_exec sets. Of these variables none
// comes from the caller of sudo.
func FromPAM(getenv func(string) string) (Request, error) {
	account := getenv("PAM_USER")
	caller := cmp.Or(getenv("PAM_RUSER"), account)
	switch {
	case os.Geteuid() != 0, getenv("PAM_TYPE") != "auth", account == "",
		!slices.Contains([]string{"sudo", "sudo-i"}, getenv("PAM_SERVICE")):
		return Request{}, ErrNotAsked
	case caller != account:
		// sudo is set to ask for another account's right to be.
		return Request{}, fmt.Errorf("%w: %q asks for %q", ErrNoProof, caller, account)
	}
	return Request{Account: account, Sudo: os.Getppid()}, nil
}

// Proof is the certificate that was good, for the log.
type Proof struct {
	KeyID       string
	Serial      uint64
	Fingerprint string
}

// Check returns the proof that the person who called sudo holds a certificate,
// or why there is none. It takes at most 30 seconds.
func Check(ctx context.Context, request Request) (Proof, error) {
	if request.Root == "" {
		request.Root = "/"
	}
	if request.Now == nil {
		request.Now = time.Now
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	judge, err := newJudge(request)
	if err != nil {
		return Proof{}, err
	}
	person, err := lookUp(request.Root, request.Account)
	if err != nil {
		return Proof{}, fmt.Errorf("%w: %w", ErrNotReady, err)
	}
	connection, err := dialAgent(ctx, request.Sudo, person)
	if err != nil {
		return Proof{}, err
	}
	defer connection.Close()
	if err := connection.SetDeadline(time.Now().Add(timeout)); err != nil {
		return Proof{}, err
	}
	return judge.ask(agent.NewClient(connection), exposed(request.Sudo, person))
}

// judge decides about certificates.
type judge struct {
	account     string
	now         func() time.Time
	authorities []ssh.PublicKey
	revoked     *krl.KRL // nil: the list is empty
}

// newJudge reads what sshd reads. Without a list of what is revoked, nothing
// is good, as for sshd.
func newJudge(request Request) (*judge, error) {
	j := &judge{account: request.Account, now: request.Now}
	rest, err := os.ReadFile(filepath.Join(request.Root, sshd.UserCAsFile))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotReady, err)
	}
	for len(bytes.TrimSpace(rest)) > 0 {
		var key ssh.PublicKey
		if key, _, _, rest, err = ssh.ParseAuthorizedKey(rest); err != nil {
			return nil, fmt.Errorf("%w: %s is damaged", ErrNotReady, sshd.UserCAsFile)
		}
		j.authorities = append(j.authorities, key)
	}
	list, err := os.ReadFile(filepath.Join(request.Root, sshd.RevokedFile))
	if err == nil && len(list) > 0 {
		j.revoked, err = krl.Parse(list)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: the revocation list %s: %w", ErrNotReady, sshd.RevokedFile, err)
	}
	return j, nil
}

// candidate is a certificate that may be good, and the key by which the agent
// knows that it is to sign with it.
type candidate struct {
	cert *ssh.Certificate
	by   ssh.PublicKey
}

// candidates are the agent's certificates, and those of the log-in whose key
// the agent holds without a certificate: many agents can't hold any.
func candidates(listed []*agent.Key, ofLogin []*ssh.Certificate) (all []candidate) {
	plain := map[string]bool{}
	for _, one := range listed[:min(len(listed), maxKeys)] {
		key, err := ssh.ParsePublicKey(one.Blob)
		if err != nil {
			continue
		}
		if cert, ok := key.(*ssh.Certificate); ok {
			all = append(all, candidate{cert, cert})
		} else {
			plain[string(one.Blob)] = true
		}
	}
	for _, cert := range ofLogin {
		if plain[string(cert.Key.Marshal())] {
			all = append(all, candidate{cert, cert.Key})
		}
	}
	return all
}

// ask looks for a good certificate among the agent's and the log-in's, and has
// the agent prove that it holds the key. Where a certificate comes from proves
// nothing, and need not: it counts by its authority's signature and by its key's.
func (j *judge) ask(keys agent.ExtendedAgent, ofLogin []*ssh.Certificate) (Proof, error) {
	listed, err := keys.List()
	if err != nil {
		return Proof{}, fmt.Errorf("%w (it does not answer: %w)", ErrNoAgent, err)
	}
	var reasons []string
	tries := 0
	for _, one := range candidates(listed, ofLogin) {
		if tries >= maxTries {
			break
		}
		err = j.check(one.cert)
		if err == nil {
			tries++
			err = challenge(keys, one)
		}
		if err == nil {
			return Proof{KeyID: one.cert.KeyId, Serial: one.cert.Serial, Fingerprint: ssh.FingerprintSHA256(one.cert.Key)}, nil
		}
		if len(reasons) < maxTries {
			reasons = append(reasons, fmt.Sprintf("%.100q: %v", one.cert.KeyId, err))
		}
	}
	if len(reasons) == 0 {
		return Proof{}, fmt.Errorf("%w: it holds none at all%s", ErrNoProof, instead(listed))
	}
	return Proof{}, fmt.Errorf("%w: %s", ErrNoProof, strings.Join(reasons, "; "))
}

// instead is what people can do whose agent holds keys alone.
func instead(listed []*agent.Key) string {
	if len(listed) == 0 {
		return ""
	}
	return "; if it can hold keys alone, log in with a certificate for one of these (CertificateFile of ssh)"
}

// check applies sshd's rules for user certificates, without those options by
// which a certificate is good for less than a login from anywhere: the agent is
// not where the person is, so an address cannot be checked, and whoever may
// run one command only may not run sudo.
func (j *judge) check(cert *ssh.Certificate) error {
	if cert.CertType != ssh.UserCert {
		return errors.New("it is not a user's")
	}
	authority := cert.SignatureKey.Marshal()
	if !slices.ContainsFunc(j.authorities, func(key ssh.PublicKey) bool { return bytes.Equal(key.Marshal(), authority) }) {
		return errors.New("it is not of this project's authority")
	}
	if cert.Signature == nil || cert.Signature.Format == ssh.KeyAlgoRSA {
		return errors.New("it is signed with SHA-1")
	}
	if !slices.Contains(cert.ValidPrincipals, j.account) {
		return errors.New("it does not name this account")
	}
	if len(cert.CriticalOptions) > 0 {
		return errors.New("it is restricted to an address or a command")
	}
	if j.revoked != nil && j.revoked.Revoked(cert) {
		return errors.New("it is revoked")
	}
	// Left are the dates and the authority's signature.
	if err := (&ssh.CertChecker{Clock: j.now}).CheckCert(j.account, cert); err != nil {
		return errors.New("it has expired, is not valid yet, or is damaged")
	}
	return nil
}

// challenge has the agent sign something new with the certificate's key, in the
// form of PROTOCOL.sshsig, which is no part of any login.
func challenge(keys agent.ExtendedAgent, one candidate) error {
	cert := one.cert
	nonce := make([]byte, 32)
	rand.Read(nonce)
	digest := sha512.Sum512(nonce)
	data := append([]byte("SSHSIG"), ssh.Marshal(struct{ Namespace, Reserved, Hash, Digest string }{
		Namespace: namespace, Hash: "sha512", Digest: string(digest[:]),
	})...)
	var flags agent.SignatureFlags
	if cert.Key.Type() == ssh.KeyAlgoRSA {
		flags = agent.SignatureFlagRsaSha512
	}
	signature, err := keys.SignWithFlags(one.by, data, flags)
	if err != nil {
		return errors.New("the agent does not sign with its key")
	}
	if signature.Format == ssh.KeyAlgoRSA {
		return errors.New("the agent signs with SHA-1")
	}
	if untouched(cert, signature) {
		return errors.New("nobody touched the security key")
	}
	if err := cert.Key.Verify(data, signature); err != nil {
		return errors.New("the agent's signature is wrong")
	}
	return nil
}

// untouched tells whether a security key signed without anybody touching it,
// which no certificate excuses here. The flags follow the signature
// (PROTOCOL.u2f).
func untouched(cert *ssh.Certificate, signature *ssh.Signature) bool {
	const present = 1
	return strings.HasPrefix(cert.Key.Type(), "sk-") && (len(signature.Rest) == 0 || signature.Rest[0]&present == 0)
}

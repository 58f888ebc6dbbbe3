// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/muster-cloud/muster/internal/agent/muster"
	"github.com/muster-cloud/muster/internal/agentapi"
)

// forever is the expiry of a certificate without one (PROTOCOL.certkeys).
const forever = ssh.CertTimeInfinity

// errNotCertified: no host key can vouch for the instance.
var errNotCertified = errors.New("no host key has a certificate that is still good")

// ensureCerts gets certificates for all host keys. An agent that knows a state
// had them, and renews them when it keeps that.
func (a *Agent) ensureCerts(ctx context.Context) error {
	if a.snapshot().State.Version != "" {
		return nil
	}
	keys, err := a.hostKeys(ctx)
	if err != nil {
		return err
	}
	if a.covered(keys) {
		return nil
	}
	return a.certify(ctx, keys)
}

// hostKeys are those of sshd's host keys that Muster certifies, as many as it
// takes.
func (a *Agent) hostKeys(ctx context.Context) ([]HostKey, error) {
	keys, err := a.machine.HostKeys(ctx)
	if err != nil {
		return nil, err
	}
	keys = slices.DeleteFunc(keys, func(key HostKey) bool {
		public, _, _, _, err := ssh.ParseAuthorizedKey([]byte(key.Public))
		return err != nil || !agentapi.Certifies(public)
	})
	if len(keys) == 0 {
		return nil, errors.New("sshd has no host key that can be certified (Ed25519, ECDSA, or RSA of 2048 bits); ssh-keygen -A makes them")
	}
	return keys[:min(len(keys), agentapi.MaxKeys)], nil
}

// certify gets certificates for the keys: by the signature of a key that has
// one, else with the instance's token.
func (a *Agent) certify(ctx context.Context, keys []HostKey) error {
	lines := make([]string, len(keys))
	for i, key := range keys {
		lines[i] = key.Public
	}
	certs, err := a.renew(ctx, keys, lines)
	if disowned(err) || muster.Refused(err, http.StatusNotFound) {
		certs, err = a.spendToken(ctx, lines, err)
	}
	if err != nil {
		return err
	}
	fresh := make(map[string]string, len(certs))
	for _, cert := range certs {
		fresh[cert.PubKey] = strings.TrimSpace(cert.Cert)
	}
	a.change(func(r *record) { r.Certs = fresh })
	a.log.Info("Have host certificates", "count", len(certs), "serial", certs[0].Serial, "until", certs[0].ExpiresAt)
	return a.checkTimes(fresh)
}

// disowned tells whether no host key speaks for the instance any more: none is
// certified here, or Muster does not accept it, be it expired or revoked.
func disowned(err error) bool {
	return errors.Is(err, errNotCertified) || muster.Refused(err, http.StatusForbidden)
}

func (a *Agent) renew(ctx context.Context, keys []HostKey, lines []string) ([]agentapi.HostCert, error) {
	signer, err := a.signer(keys)
	if err != nil {
		return nil, err
	}
	certs, err := a.muster().Renew(ctx, signer, lines)
	return certs, a.contact(err)
}

// spendToken asks with the token that the metadata has now; a rebuilt instance
// has another one than before.
func (a *Agent) spendToken(ctx context.Context, lines []string, why error) ([]agentapi.HostCert, error) {
	found, err := a.cfg.Finder.FindCurrent(ctx)
	if err != nil {
		return nil, errors.Join(why, err)
	}
	if found.ID != a.identity().ID {
		return nil, errors.New("the metadata is of another instance meanwhile; restart the agent")
	}
	certs, err := a.muster().HostCerts(ctx, found.Token, lines)
	if err := a.contact(err); err == nil || errors.Is(err, muster.ErrAway) {
		return certs, err
	}
	switch {
	case muster.Refused(err, http.StatusNotFound, http.StatusUnauthorized, http.StatusGone):
		return nil, fmt.Errorf("the instance's token is not, or no longer, good; %s: %w", a.anotherToken(), err)
	case muster.Refused(err, http.StatusConflict):
		return nil, fmt.Errorf("the instance's token was used for other host keys: if nobody else may have used it, %s; "+
			"else tell the operator: %w", a.anotherToken(), err)
	default:
		return nil, err
	}
}

// anotherToken says how the instance gets a token that is not spent.
func (a *Agent) anotherToken() string {
	return "the cloud's operator gives it a new one (muster instance token " + a.identity().ID + "), and so does a rebuild"
}

// checkTimes says so if, by our clock, new certificates are not valid.
func (a *Agent) checkTimes(certs map[string]string) error {
	now := a.cfg.Now()
	for _, line := range certs {
		cert, err := muster.ParseCert(line)
		if err != nil {
			return err
		}
		if !validAt(cert, now) {
			a.log.Warn("By this clock the new certificate is not valid; set the clock", "clock", now.UTC(),
				"valid_from", time.Unix(int64(cert.ValidAfter), 0).UTC(), "valid_until", validUntil(cert))
			break
		}
	}
	return nil
}

// signer is a host key with which Muster knows this instance.
func (a *Agent) signer(keys []HostKey) (ssh.Signer, error) {
	certs, now := a.snapshot().Certs, a.cfg.Now()
	problem := errNotCertified
	for _, key := range byStrength(keys) {
		cert, err := muster.ParseCert(certs[key.Public])
		if err != nil || !validAt(cert, now) {
			continue
		}
		signer, err := a.machine.Signer(key)
		if err == nil {
			return signer, nil
		}
		problem = fmt.Errorf("%w: %w", errNotCertified, err)
	}
	return nil, problem
}

// byStrength sorts the keys that sign with the least work first.
func byStrength(keys []HostKey) []HostKey {
	rank := func(key HostKey) int {
		return slices.IndexFunc([]string{"ssh-ed25519 ", "ecdsa-", ""}, func(kind string) bool {
			return strings.HasPrefix(key.Public, kind)
		})
	}
	keys = slices.Clone(keys)
	slices.SortStableFunc(keys, func(a, b HostKey) int { return rank(a) - rank(b) })
	return keys
}

// covered tells whether each key has a certificate that needs no renewal yet.
func (a *Agent) covered(keys []HostKey) bool {
	certs, now := a.snapshot().Certs, a.cfg.Now()
	return !slices.ContainsFunc(keys, func(key HostKey) bool {
		cert, err := muster.ParseCert(certs[key.Public])
		return err != nil || !validAt(cert, now) || !now.Before(renewAfter(cert))
	})
}

// named tells whether the certificates have the principals that they should.
func named(certs map[string]string, names []string) bool {
	for _, line := range certs {
		if cert, err := muster.ParseCert(line); err != nil || !sameNames(cert.ValidPrincipals, names) {
			return false
		}
	}
	return true
}

// signedBy tells whether all certificates are of the authority that signs now.
// Those of the one before end with it. Nothing is known of an empty one.
func signedBy(certs map[string]string, authority string) bool {
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(authority))
	if err != nil {
		return true
	}
	for _, line := range certs {
		cert, err := muster.ParseCert(line)
		if err != nil || !bytes.Equal(cert.SignatureKey.Marshal(), key.Marshal()) {
			return false
		}
	}
	return true
}

// validAt tells whether a certificate is valid by its times.
func validAt(cert *ssh.Certificate, now time.Time) bool {
	seconds := uint64(max(now.Unix(), 0))
	return cert.ValidAfter <= seconds && seconds < cert.ValidBefore
}

// validUntil is when a certificate ends; the zero time if never.
func validUntil(cert *ssh.Certificate) time.Time {
	if cert.ValidBefore >= forever/2 {
		return time.Time{}
	}
	return time.Unix(int64(cert.ValidBefore), 0).UTC()
}

// renewAfter is when to get a new certificate: after two thirds of its life,
// and a part of the rest that differs from one certificate to the next, so that
// instances that booted together do not come back together.
func renewAfter(cert *ssh.Certificate) time.Time {
	if cert.ValidBefore >= forever/2 || cert.ValidBefore <= cert.ValidAfter {
		return time.Unix(1<<40, 0).UTC()
	}
	life := cert.ValidBefore - cert.ValidAfter
	spread := life / 10
	return time.Unix(int64(cert.ValidAfter+life/3*2+cert.Serial*2654435761%max(spread, 1)), 0).UTC()
}

// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package muster

import (
	"bytes"
	"errors"
	"fmt"

	"golang.org/x/crypto/ssh"

	"github.com/muster-cloud/muster/internal/agentapi"
	"github.com/muster-cloud/muster/internal/sshca/krl"
)

// Errors of Verify.
var (
	// ErrUnsigned: a trusted user CA does not vouch for the list. What is
	// trusted may have changed meanwhile: ask for the state, and look again.
	ErrUnsigned = errors.New("no trusted user CA vouches for the revocation list")
	// ErrNoAuthority: no user CA is trusted, so nobody can vouch for a list.
	ErrNoAuthority = errors.New("the project has no user CA that is good, so nobody can vouch for a revocation list; " +
		"sshd refuses all certificates until an operator makes a new one (muster authority rotate user)")
	// ErrOlder: the list is older than the one in hand, which must stay.
	ErrOlder = errors.New("the revocation list is older than the one in hand")
)

// Verify reads a list that came for a project. The trusted user CAs are
// authorized_keys lines; without any, no list is good: nobody's certificate is
// let in then, and a list that anybody may have made could keep later ones
// away by its version. The list must be at least of the version given.
func (l *List) Verify(projectID string, userCAs []string, version uint64) (*krl.KRL, error) {
	authorities, err := parseKeys(userCAs)
	if err != nil {
		return nil, err
	}
	if len(authorities) == 0 {
		return nil, ErrNoAuthority
	}
	if err := agentapi.VerifyList(l.Signature, l.Raw, authorities); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnsigned, err)
	}
	list, err := krl.Parse(l.Raw)
	if err != nil {
		return nil, fmt.Errorf("the revocation list can't be read: %w", err)
	}
	if list.Comment != projectID {
		return nil, fmt.Errorf("the revocation list is of another project, %.40q", list.Comment)
	}
	if list.Version < version {
		return nil, fmt.Errorf("%w: version %d, not %d", ErrOlder, list.Version, version)
	}
	return list, nil
}

// parseKeys reads authorized_keys lines.
func parseKeys(lines []string) ([]ssh.PublicKey, error) {
	keys := make([]ssh.PublicKey, 0, len(lines))
	for _, line := range lines {
		key, _, _, rest, err := ssh.ParseAuthorizedKey([]byte(line))
		if err != nil || len(rest) > 0 {
			return nil, errors.New("a user CA key is not one line of the form that authorized_keys has")
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// ParseCert reads one line of a certificate file.
func ParseCert(line string) (*ssh.Certificate, error) {
	key, _, _, rest, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil || len(rest) > 0 {
		return nil, errors.New("a certificate is not one line of the form that ssh_host_*-cert.pub has")
	}
	cert, ok := key.(*ssh.Certificate)
	if !ok || cert.CertType != ssh.HostCert {
		return nil, errors.New("a certificate is not one for a host")
	}
	return cert, nil
}

// checkCerts holds the answer against what was asked: a certificate for each
// key, in the same order. sshd refuses to start with one that does not fit.
func checkCerts(certs []agentapi.HostCert, pubKeys []string) ([]agentapi.HostCert, error) {
	if len(certs) != len(pubKeys) {
		return nil, fmt.Errorf("there came %d certificates for %d keys", len(certs), len(pubKeys))
	}
	asked, err := parseKeys(pubKeys)
	if err != nil {
		return nil, err
	}
	for i := range certs {
		cert, err := ParseCert(certs[i].Cert)
		if err != nil {
			return nil, err
		}
		if !bytes.Equal(cert.Key.Marshal(), asked[i].Marshal()) {
			return nil, errors.New("there came a certificate for another key than was asked for")
		}
		certs[i].PubKey = pubKeys[i]
	}
	return certs, nil
}

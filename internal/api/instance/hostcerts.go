// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package instance

import (
	"bytes"
	"fmt"

	"golang.org/x/crypto/ssh"

	"github.com/muster-cloud/muster/internal/agentapi"
	"github.com/muster-cloud/muster/internal/api"
	"github.com/muster-cloud/muster/internal/sshca"
	"github.com/muster-cloud/muster/internal/store"
)

// createHostCerts certifies all host keys of whoever has the instance's token.
func (f *Face) createHostCerts(r *api.Request) (api.Response, error) {
	raw, err := r.ReadBody(agentapi.MaxBody)
	if err != nil {
		return api.Response{}, err
	}
	var body agentapi.HostCertsRequest
	if err := api.Unmarshal(raw, &body); err != nil {
		return api.Response{}, err
	}
	token, err := api.ID("token", body.Token)
	if err != nil {
		return api.Response{}, err
	}
	host, err := api.ID("host_id", body.HostID)
	if err != nil {
		return api.Response{}, err
	}
	certs, err := f.cfg.Hosts.IssueHosts(r.Context(), r.Actor(), sshca.HostSetRequest{Token: token, InstanceID: host, PublicKeys: body.PubKeys})
	if err != nil {
		return api.Response{}, err
	}
	return answerCerts(certs)
}

// renewHostCerts certifies the host keys of an instance that signs with one.
func (f *Face) renewHostCerts(r *api.Request) (api.Response, error) {
	var body agentapi.RenewRequest
	instance, err := f.signed(r, agentapi.PathRenew, &body)
	if err != nil {
		return api.Response{}, err
	}
	certs, err := f.cfg.Hosts.RenewHosts(r.Context(), actor(r, instance), instance, body.PubKeys)
	if err != nil {
		return api.Response{}, err
	}
	return answerCerts(certs)
}

// answerCerts answers in the order of the request.
func answerCerts(certs []store.HostCert) (api.Response, error) {
	answer := agentapi.HostCertsAnswer{Certs: make([]agentapi.HostCert, len(certs))}
	for i, c := range certs {
		key, err := certifiedKey(c.Cert)
		if err != nil {
			return api.Response{}, err
		}
		answer.Certs[i] = agentapi.HostCert{PubKey: key, Cert: c.Cert, Serial: c.Serial, Fingerprint: c.Fingerprint, ExpiresAt: c.ExpiresAt}
	}
	return api.Response{Body: answer}, nil
}

// certifiedKey returns the key in a certificate, as one line.
func certifiedKey(line string) (string, error) {
	parsed, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		return "", fmt.Errorf("read a certificate back: %w", err)
	}
	cert, ok := parsed.(*ssh.Certificate)
	if !ok {
		return "", fmt.Errorf("a certificate reads back as %T", parsed)
	}
	return string(bytes.TrimSpace(ssh.MarshalAuthorizedKey(cert.Key))), nil
}

// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"github.com/muster-cloud/muster/internal/demo/openssh"
	"github.com/muster-cloud/muster/internal/demo/standin"
	"github.com/muster-cloud/muster/internal/uuid"
)

func (s *story) revokeUser(ctx context.Context) (string, error) {
	i := s.instance
	if _, err := i.server.Login(ctx, s.alice.ssh); err != nil {
		return "", fmt.Errorf("before the revocation: %w", err)
	}
	i.machine.ForgetLists()
	begin := time.Now()
	_, err := s.call(ctx, request{method: "POST", url: s.env.MusterURL + "/v1/revokeduserkeys/" + i.projectID, token: s.admin, want: http.StatusOK,
		body: map[string]any{"serial": s.alice.serial, "reason": "her laptop was lost"}}, nil)
	if err != nil {
		return "", err
	}
	if err := i.machine.AwaitList(ctx, s.listDeadline); err != nil {
		return "", err
	}
	took := time.Since(begin)
	if err := s.expectRevoked(ctx, s.alice.ssh.Certificate); err != nil {
		return "", err
	}
	if err := s.expectRefused(ctx); err != nil {
		return "", err
	}
	return fmt.Sprintf("the instance had the new list %v after the request; sshd says: revoked by file", took.Round(100*time.Microsecond)), nil
}

// expectRefused lets sshd judge alice's certificate.
func (s *story) expectRefused(ctx context.Context) error {
	_, err := s.instance.server.Login(ctx, s.alice.ssh)
	var refusal *openssh.LoginError
	if !errors.Is(err, openssh.ErrRefused) || !errors.As(err, &refusal) {
		return fmt.Errorf("sshd does not refuse the revoked certificate: %w", unexpected(err))
	}
	if !strings.Contains(refusal.ServerLog, "revoked by file") {
		return fmt.Errorf("sshd refuses the certificate for another reason: %w", err)
	}
	return nil
}

// removeRole takes alice's role away, in Keystone alone, from a certificate for
// the key that she made when the other was lost.
func (s *story) removeRole(ctx context.Context) (string, error) {
	i := s.instance
	if err := s.newKey(ctx, s.alice, "another"); err != nil {
		return "", err
	}
	if _, err := s.certify(ctx, s.alice); err != nil {
		return "", err
	}
	if _, err := i.server.Login(ctx, s.alice.ssh); err != nil {
		return "", fmt.Errorf("before the removal: %w", err)
	}
	i.machine.ForgetLists()
	if err := s.assign(ctx, http.MethodDelete, s.alice, "member"); err != nil {
		return "", err
	}
	answered := time.Now()
	// Keystone announces it, and that is all that Muster gets to know.
	if err := i.machine.AwaitList(ctx, s.listDeadline); err != nil {
		return "", err
	}
	listed := time.Since(answered)
	if err := s.expectRevoked(ctx, s.alice.ssh.Certificate); err != nil {
		return "", err
	}
	if err := s.expectRefused(ctx); err != nil {
		return "", err
	}
	refused := time.Since(answered)
	// Her token ended with the role.
	if _, err := s.askUserCert(ctx, s.alice, s.alice.projectID, http.StatusUnauthorized); err != nil {
		return "", fmt.Errorf("without the role: %w", err)
	}
	return fmt.Sprintf("after Keystone's answer the instance had the new list in %v, and sshd had refused the next login in %v; "+
		"there is no new certificate (401)", listed.Round(100*time.Microsecond), refused.Round(time.Millisecond)), nil
}

// expectRevoked lets ssh-keygen judge the instance's list.
func (s *story) expectRevoked(ctx context.Context, certificate string) error {
	revoked, err := s.programs.Revoked(ctx, s.instance.path(standin.RevokedFile), certificate)
	if err == nil && !revoked {
		err = fmt.Errorf("the instance's list does not revoke %s", filepath.Base(certificate))
	}
	return err
}

func (s *story) deleteInstance(ctx context.Context) (string, error) {
	i := s.instance
	i.machine.ForgetLists()
	id := uuid.Dashed(i.id)
	_, err := s.call(ctx, request{method: "DELETE", url: s.env.NovaURL + "/servers/" + id, token: s.admin, want: http.StatusNoContent}, nil)
	if err != nil {
		return "", err
	}
	// Nova announces it, and that is all that Muster gets to know.
	if err := i.machine.AwaitList(ctx, s.listDeadline); err != nil {
		return "", err
	}
	if err := s.expectRevoked(ctx, i.path("host"+openssh.CertificateSuffix)); err != nil {
		return "", err
	}
	careful := s.alice.ssh
	careful.RevokedHosts = i.path(standin.RevokedFile)
	if _, err := i.server.Login(ctx, careful); !errors.Is(err, openssh.ErrHostRefused) {
		return "", fmt.Errorf("with the list, ssh does not refuse the host: %w", unexpected(err))
	}
	if _, err := s.askHostCert(ctx, i.key, http.StatusNotFound); err != nil {
		return "", fmt.Errorf("the token outlives its instance: %w", err)
	}
	var left struct{ Hosts []struct{ ID string } }
	_, err = s.call(ctx, request{method: "GET", url: s.env.MusterURL + "/v1/hosts", token: s.admin, want: http.StatusOK,
		header: map[string]string{"X-Auth-Sudo-Project-ID": i.projectID}}, &left)
	if err != nil {
		return "", err
	}
	if len(left.Hosts) != 0 {
		return "", fmt.Errorf("the project still has %d hosts", len(left.Hosts))
	}
	if err := s.awaitGone(ctx); err != nil {
		return "", err
	}
	return "the token is unknown (404), the host certificate revoked, the list of hosts empty, FreeIPA as it was before",
		s.expectAudit(ctx, "instance.delete", "ok", 1)
}

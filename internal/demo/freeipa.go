// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/muster-cloud/muster/internal/devcloud/freeipa"
	"github.com/muster-cloud/muster/internal/uuid"
)

// join does in FreeIPA what ipa-client-install does on the instance.
func (s *story) join(ctx context.Context) (string, error) {
	directory, metadata := s.env.Cloud.FreeIPA, s.instance.metadata
	if metadata.FQDN == "" || metadata.OTP == "" || metadata.Realm != directory.Realm() {
		return "", fmt.Errorf("the instance's metadata lack its name, realm or one-time password (%q)", metadata.Refusal)
	}
	services, err := managedBy(directory, metadata.FQDN)
	if err != nil {
		return "", err
	}
	if err := directory.Join(metadata.FQDN, metadata.OTP); err != nil {
		return "", fmt.Errorf("the one-time password: %w", err)
	}
	close(s.instance.joined)
	if err := directory.Join(metadata.FQDN, metadata.OTP); !errors.Is(err, freeipa.ErrInvalidCredentials) {
		return "", fmt.Errorf("the one-time password serves twice: %w", unexpected(err))
	}
	if err := s.await(ctx, func() error {
		later, err := s.readMetadata(ctx, s.instance.id, s.instance.projectID)
		if err == nil && (later.FQDN != metadata.FQDN || later.OTP != "") {
			err = errors.New("the instance's metadata still hold a password after it has joined")
		}
		return err
	}); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s joined %s, manages %s, and has no password in its metadata any more",
		metadata.FQDN, metadata.Realm, strings.Join(services, ", ")), nil
}

// managedBy are the principals of the services that a host manages, of which
// there must be some.
func managedBy(directory *freeipa.Server, fqdn string) ([]string, error) {
	if _, ok := directory.Host(fqdn); !ok {
		return nil, fmt.Errorf("FreeIPA has no host %s", fqdn)
	}
	var principals []string
	for _, service := range directory.Services() {
		if slices.Contains(service.ManagedBy, fqdn) {
			name, _, _ := strings.Cut(service.Principal, "@")
			principals = append(principals, name)
		}
	}
	if len(principals) == 0 {
		return nil, fmt.Errorf("FreeIPA has no service that %s manages", fqdn)
	}
	return principals, nil
}

// refuseNames boots instances whose names are taken: by the instance, in
// another project, and by FreeIPA's own host.
func (s *story) refuseNames(ctx context.Context) (string, error) {
	var reasons []string
	for _, name := range []string{"web-1", "ipa"} {
		id, err := s.newInstance(ctx, s.mallory, name)
		if err != nil {
			return "", err
		}
		metadata, err := s.readMetadata(ctx, id, s.mallory.projectID)
		if err != nil {
			return "", err
		}
		if metadata.OTP != "" || metadata.FQDN != "" || metadata.Refusal == "" {
			return "", fmt.Errorf("mallory's instance %s is not refused", name)
		}
		reason, _, _ := strings.Cut(metadata.Refusal, ";")
		reasons = append(reasons, reason)
		if err := s.forget(ctx, id); err != nil {
			return "", err
		}
	}
	if host, _ := s.env.Cloud.FreeIPA.Host(s.instance.metadata.FQDN); !host.HasKeytab {
		return "", errors.New("the first instance has lost its place in FreeIPA")
	}
	return strings.Join(reasons, "; "), s.expectForeign()
}

// forget tells Muster that one of mallory's instances is gone.
func (s *story) forget(ctx context.Context, id string) error {
	_, err := s.call(ctx, request{method: "DELETE", url: s.env.MusterURL + "/v1/hosts/" + uuid.Dashed(id), token: s.admin,
		want: http.StatusNoContent}, nil)
	return err
}

// expectForeign looks for the host that Muster did not make.
func (s *story) expectForeign() error {
	directory := s.env.Cloud.FreeIPA
	if _, ok := directory.Host(directory.HostName()); !ok {
		return fmt.Errorf("the foreign host %s is gone", directory.HostName())
	}
	return nil
}

// awaitGone waits until FreeIPA holds what it held before the instance.
func (s *story) awaitGone(ctx context.Context) error {
	err := s.await(ctx, func() error {
		if hosts := s.env.Cloud.FreeIPA.Hosts(); len(hosts) != s.ipaHosts {
			return fmt.Errorf("FreeIPA has %d hosts, had %d before", len(hosts), s.ipaHosts)
		}
		if left := s.addressRecords(); left > 0 {
			return fmt.Errorf("FreeIPA's DNS still has %d records of the instance", left)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return s.expectForeign()
}

// await asks until the answer is nil, or for as long as FreeIPA may take.
func (s *story) await(ctx context.Context, ask func() error) error {
	ctx, cancel := context.WithTimeout(ctx, s.ipaDeadline)
	defer cancel()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		err := ask()
		if err == nil {
			return nil
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return err
		}
	}
}

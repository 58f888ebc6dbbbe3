// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package address tells under which names and addresses an instance is reached, by Muster's records: its host name, the name that it is
// enrolled with in FreeIPA, and the addresses that Neutron last said it has.
//
// The package asks the database only. It changes nothing.
package address

import (
	"context"
	"errors"
	"strings"

	"github.com/muster-cloud/muster/internal/store"
)

// MaxNames bounds what Names returns: sshd and ssh refuse certificates with more principals (OpenSSH, SSHKEY_CERT_MAX_PRINCIPALS).
const MaxNames = 256

// Records are what Muster keeps. *store.Store has them.
type Records interface {
	// Enrolment returns an instance's enrolment, or store.ErrNotFound.
	Enrolment(ctx context.Context, instanceID string) (store.Enrolment, error)
	// Addresses returns an instance's addresses, floating ones first.
	Addresses(ctx context.Context, instanceID string) ([]store.Address, error)
}

// Book tells names and addresses. It is safe for simultaneous use.
type Book struct{ records Records }

// NewBook returns a book of what the records hold.
func NewBook(records Records) *Book { return &Book{records: records} }

// Names returns the names and addresses of an instance: its host name, its FQDN if it is enrolled, its floating addresses and its fixed ones.
// All are lower-case, each is there once, and the order is the same as long as nothing changes. There are at most MaxNames. An instance that
// is deleted has none. Errors: those of the records.
func (b *Book) Names(ctx context.Context, instance store.Instance) ([]string, error) {
	if instance.State == store.InstanceDeleted {
		return nil, nil
	}
	fqdn, err := b.fqdn(ctx, instance.ID)
	if err != nil {
		return nil, err
	}
	addresses, err := b.records.Addresses(ctx, instance.ID)
	if err != nil {
		return nil, err
	}
	all := []string{strings.ToLower(instance.Hostname), fqdn}
	for _, a := range addresses {
		all = append(all, a.IP.String())
	}
	var names []string
	seen := map[string]bool{"": true}
	for _, name := range all {
		if !seen[name] && len(names) < MaxNames {
			seen[name] = true
			names = append(names, name)
		}
	}
	return names, nil
}

// fqdn is the name that the instance is enrolled with: one that FreeIPA has, and has for this instance. Nothing if there is none.
func (b *Book) fqdn(ctx context.Context, instanceID string) (string, error) {
	e, err := b.records.Enrolment(ctx, instanceID)
	if errors.Is(err, store.ErrNotFound) {
		return "", nil
	}
	if err != nil || !e.HasEntry() {
		return "", err
	}
	return e.FQDN, nil
}

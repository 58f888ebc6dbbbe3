// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package address tells under which names and addresses an instance is reached: by Muster's records, its host name, the name that it is
// enrolled with in FreeIPA, and the addresses and their names that Neutron last said it has; by the operator's word, the domains that host
// names are in.
//
// The package asks the database only. It changes nothing.
package address

import (
	"context"
	"errors"
	"slices"
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

// Domains are what the operator says of instances' names.
type Domains struct {
	// Added are domains that people reach instances under. Project stands for the ID of the instance's project in them.
	Added []string
	// Trusted are the domains in which Neutron's names of addresses are believed: below them, or Any.
	Trusted []string
}

const (
	// Project stands for a project's ID, in Domains.Added.
	Project = "<project_id>"
	// Any is every domain, in Domains.Trusted.
	Any = "*"
)

// maxName is the longest name in the DNS (RFC 1035, 2.3.4, as text without the trailing dot).
const maxName = 253

// added are the full names that a host name has in the domains that are added. A host name that has dots is full by itself.
func (d Domains) added(hostname, projectID string) (names []string) {
	if hostname == "" || strings.Contains(hostname, ".") {
		return nil
	}
	for _, domain := range d.Added {
		name := hostname + "." + strings.ReplaceAll(strings.ToLower(domain), Project, projectID)
		if len(name) <= maxName {
			names = append(names, name)
		}
	}
	return names
}

// trusts reports whether a name that Neutron gives is believed.
func (d Domains) trusts(name string) bool {
	return name != "" && slices.ContainsFunc(d.Trusted, func(domain string) bool {
		return domain == Any || strings.HasSuffix(name, "."+strings.ToLower(domain))
	})
}

// Book tells names and addresses. It is safe for simultaneous use.
type Book struct {
	records Records
	domains Domains
}

// NewBook returns a book of what the records hold and the domains say.
func NewBook(records Records, domains Domains) *Book {
	return &Book{records: records, domains: domains}
}

// Names returns the names and addresses of an instance: its host name, alone and in each domain that is added; its FQDN if it is enrolled;
// names of its addresses that are trusted; its floating addresses and its fixed ones.
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
	hostname := strings.ToLower(instance.Hostname)
	all := append([]string{hostname}, b.domains.added(hostname, instance.ProjectID)...)
	all = append(all, fqdn)
	for _, a := range addresses {
		if b.domains.trusts(a.Name) {
			all = append(all, a.Name)
		}
	}
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

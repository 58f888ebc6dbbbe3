// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"strings"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/muster-cloud/muster/internal/api/vendordata"
	"github.com/muster-cloud/muster/internal/config"
	"github.com/muster-cloud/muster/internal/custody"
	"github.com/muster-cloud/muster/internal/dns"
	"github.com/muster-cloud/muster/internal/enroll"
	"github.com/muster-cloud/muster/internal/ipa"
	"github.com/muster-cloud/muster/internal/openstack"
	"github.com/muster-cloud/muster/internal/uuid"
)

// enrolment is what a Muster that enrols instances has besides.
type enrolment struct {
	directory *ipa.Client
	records   *dns.Service
	service   *enroll.Service
	answers   *vendordata.Enrolment
	images    *openstack.Images

	domain, realm string // FreeIPA's
}

// check tells whether FreeIPA can be reached and lets Muster in.
func (e *enrolment) check(ctx context.Context) error {
	_, err := e.directory.Ping(ctx)
	return err
}

// reverseZones reads which networks' PTR records are in which zones.
func reverseZones(cfg config.DNS) map[netip.Prefix]string {
	zones := make(map[netip.Prefix]string)
	for zone, network := range cfg.ReverseZones {
		if prefix, err := netip.ParsePrefix(network); err == nil {
			zones[prefix] = zone
		}
	}
	return zones
}

// buildEnrolment leaves s.enrolment nil where enrolment is not enabled.
func (s *Server) buildEnrolment(keyring *custody.Keyring) error {
	if !s.cfg.Enroll.Enabled {
		return nil
	}
	directory, known, err := s.ipaConfig()
	if err != nil {
		return fmt.Errorf("[ipa]: %w", err)
	}
	directory.Registerer = s.registry
	e := &enrolment{domain: known.Domain, realm: known.Realm}
	if e.directory, err = ipa.New(directory); err != nil {
		return fmt.Errorf("[ipa]: %w", err)
	}
	e.records, err = dns.New(dns.Config{
		Objects: s.store, Provider: dns.NewFreeIPA(e.directory), Reverse: dns.Reverse(s.cfg.DNS.Reverse), ReverseZones: reverseZones(s.cfg.DNS), Logger: s.logger, Registerer: s.registry,
	})
	if err != nil {
		return fmt.Errorf("[dns]: %w", err)
	}
	cfg := s.cfg.Enroll
	e.service, err = enroll.New(enroll.Config{
		Store: s.store, Directory: e.directory, Sealer: keyring, DNS: e.records, Ready: s.changed, Realm: known.Realm,
		Rules: s.enrolmentRules(known), Servers: e.directory.Servers,
		AnswerWithin: cfg.AnswerWithin, OnFailure: enroll.OnFailure(cfg.OnFailure), MaxInFlight: s.cfg.IPA.MaxInFlight,
		RemoveHostRecords: cfg.RemoveDNS, RemoveUnnamed: cfg.RemoveUnnamedServices,
		Logger: s.logger, Registerer: s.registry,
	})
	if err != nil {
		return fmt.Errorf("[enroll]: %w", err)
	}
	if e.images, err = s.images(s.registry); err != nil {
		return fmt.Errorf("[glance]: %w", err)
	}
	e.answers, err = vendordata.NewEnrolment(vendordata.EnrolmentConfig{
		Enroller: e.service, Images: e.images, Projects: s.directory,
		AnswerWithin: cfg.AnswerWithin, Strict: cfg.OnFailure == "error", Logger: s.logger,
	})
	s.enrolment = e
	return err
}

// ipaConfig joins what the configuration says of FreeIPA with what this machine
// knows as its client.
func (s *Server) ipaConfig() (ipa.Config, ipa.DefaultConf, error) {
	cfg := s.cfg.IPA
	known, err := ipa.ReadDefaultConf(cfg.ClientConf)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return ipa.Config{}, known, err
	}
	known.Domain = strings.ToLower(cmp.Or(cfg.Domain, known.Domain))
	known.Realm = cmp.Or(cfg.Realm, known.Realm, strings.ToUpper(known.Domain))
	if known.Domain == "" {
		return ipa.Config{}, known, fmt.Errorf("no domain: set domain, or let %s tell it", cfg.ClientConf)
	}
	directory := ipa.Config{
		Servers: cfg.Servers, First: known.Server, Domain: known.Domain, Timeout: cfg.Timeout, MaxInFlight: cfg.MaxInFlight, Logger: s.logger,
	}
	if cfg.Username != "" {
		directory.Password = &ipa.Password{User: cfg.Username, Password: ipa.Secret(cfg.Password)}
	} else {
		directory.Kerberos = &ipa.Kerberos{Principal: cfg.Principal, Keytab: cfg.Keytab}
	}
	machine := ipa.EnrolledMachine()
	machine.Krb5Conf = cfg.KerberosConf
	if cfg.CAFile != "" {
		if directory.RootCAs, err = ipa.ReadCA(cfg.CAFile); err != nil {
			return ipa.Config{}, known, fmt.Errorf("cafile: %w", err)
		}
	}
	directory, err = machine.Complete(directory)
	return directory, known, err
}

func (s *Server) enrolmentRules(known ipa.DefaultConf) enroll.Rules {
	cfg := s.cfg.Enroll
	rules := enroll.Rules{
		Domain: strings.ToLower(cmp.Or(cfg.Domain, known.Domain)), ProjectSubdomain: cfg.ProjectSubdomain,
		NormalizeProject: cfg.NormalizeProject, Protected: cfg.Protected,
		Projects: make(map[string]enroll.ProjectRules, len(s.cfg.Projects)),
	}
	for _, p := range s.cfg.Projects {
		name := p.Name
		if id, err := uuid.Parse(name); err == nil {
			name = id
		}
		rules.Projects[name] = enroll.ProjectRules{
			DomainID: p.DomainID, AllowedClasses: p.AllowedClasses, ServiceHosts: p.ServiceHosts, AnyServiceHost: p.AnyServiceHost,
		}
	}
	// FreeIPA's own host and this machine's may not become an instance's.
	if known.Host != "" {
		rules.Protected = append(rules.Protected, known.Host)
	}
	return rules
}

// images asks Glance.
func (s *Server) images(registerer prometheus.Registerer) (*openstack.Images, error) {
	asking, err := s.asking(s.cfg.Glance.Interface, s.cfg.Glance.EndpointOverride, registerer)
	if err != nil {
		return nil, err
	}
	asking.Timeout, asking.CacheTime = s.cfg.Enroll.AnswerWithin, s.cfg.Glance.CacheTime
	return openstack.NewImages(asking)
}

// logIn is a log-in as gophercloud wants it: IDs win over names.
func logIn(auth config.Auth) gophercloud.AuthOptions {
	options := gophercloud.AuthOptions{IdentityEndpoint: text(auth.AuthURL)}
	switch {
	case auth.AuthType == "v3applicationcredential":
		options.ApplicationCredentialID = auth.ApplicationCredentialID
		options.ApplicationCredentialName = auth.ApplicationCredentialName
		options.ApplicationCredentialSecret = string(auth.ApplicationCredentialSecret)
		if auth.ApplicationCredentialID != "" {
			return options
		}
	default:
		options.Password = string(auth.Password)
		options.Scope = &gophercloud.AuthScope{ProjectID: auth.ProjectID}
		if auth.ProjectID == "" {
			options.Scope = &gophercloud.AuthScope{
				ProjectName: auth.ProjectName, DomainID: auth.ProjectDomainID, DomainName: auth.ProjectDomainName,
			}
		}
	}
	if options.UserID = auth.UserID; options.UserID == "" {
		options.Username, options.DomainID, options.DomainName = auth.Username, auth.UserDomainID, auth.UserDomainName
	}
	return options
}

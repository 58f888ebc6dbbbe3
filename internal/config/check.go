// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"context"
	"sync"
	"time"
)

// Complete returns what `muster server` still needs, as Problems, or nil. It is
// no part of Load since `muster db upgrade`, say, needs just the database.
func (c *Config) Complete() error {
	var ps Problems
	need := func(section, option, hint string, set bool) {
		if !set {
			ps = append(ps, c.problem(section, option, "not set", hint))
		}
	}
	need("custody", "master_key", "set master_key_file, or give the systemd credential custody.master_key",
		c.Custody.MasterKey != "")
	need("vendordata", "api_endpoint", "set the URL that instances reach Muster at", c.Vendordata.APIEndpoint != nil)
	needLogin(&c.KeystoneAuthToken.Auth, func(option, hint string, set bool) {
		need("keystone_authtoken", option, hint, set)
	})
	if ps == nil { // what is missing there is missing here
		needLogin(&c.ServiceCredentials, func(option, hint string, set bool) {
			need("service_credentials", option, hint, set)
		})
	}
	return ps.orNil()
}

// needLogin asks for what keystoneauth's plug-ins ask for.
func needLogin(a *Auth, need func(option, hint string, set bool)) {
	need("auth_url", "set Keystone's URL", a.AuthURL != nil)
	domain := a.UserDomainID != "" || a.UserDomainName != ""
	if a.AuthType == "v3applicationcredential" {
		need("application_credential_secret", "set it, or application_credential_secret_file",
			a.ApplicationCredentialSecret != "")
		named := a.ApplicationCredentialName != ""
		need("application_credential_id", "set it, or application_credential_name and its user",
			a.ApplicationCredentialID != "" || named)
		need("user_id", "a credential's name needs its user: set user_id, or username and its domain",
			!named || a.UserID != "" || (a.Username != "" && domain))
		return
	}
	need("username", "set it and its domain, or user_id", a.Username != "" || a.UserID != "")
	need("user_domain_name", "a user's name needs its domain: set it or user_domain_id",
		a.Username == "" || domain)
	need("password", "set it, or password_file, or give the systemd credential", a.Password != "")
	need("project_name", "set it and its domain, or project_id", a.ProjectName != "" || a.ProjectID != "")
	need("project_domain_name", "a project's name needs its domain: set it or project_domain_id",
		a.ProjectName == "" || a.ProjectDomainName != "" || a.ProjectDomainID != "")
}

// Probe tries one service that the configuration names, by Try or by Tell.
type Probe struct {
	Section, Option string // where the service is named
	Hint            string // what to do if it can't be reached
	Try             func(context.Context) error
	// Tell is for a service of which operators should know more than that it answers: notes, each a line.
	Tell func(context.Context) (notes []string, err error)
}

// probeTimeout is for each probe; they run side by side.
const probeTimeout = 15 * time.Second

// Check runs the probes and returns one Problem for each that fails, and what the others tell, in the
// order of the probes. Their errors must hold no secret.
func (c *Config) Check(ctx context.Context, probes ...Probe) (problems []Problem, notes []string) {
	errs, told := make([]error, len(probes)), make([][]string, len(probes))
	var running sync.WaitGroup
	for i, p := range probes {
		running.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, probeTimeout)
			defer cancel()
			if p.Tell != nil {
				told[i], errs[i] = p.Tell(ctx)
			} else {
				errs[i] = p.Try(ctx)
			}
		})
	}
	running.Wait()
	for i, p := range probes {
		notes = append(notes, told[i]...)
		if errs[i] != nil {
			problems = append(problems, c.problem(p.Section, p.Option, errs[i].Error(), p.Hint))
		}
	}
	return problems, notes
}

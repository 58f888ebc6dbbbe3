// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package converge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/muster-cloud/muster/internal/keystone"
	"github.com/muster-cloud/muster/internal/store"
)

// project: one that is there and enabled has an authority; one that is not has
// no user certificates, and after a while its authority issues none.
func (c *Controllers) project(ctx context.Context, id string) error {
	reason, err := c.projectGone(ctx, id)
	if err != nil {
		return err
	}
	if reason != "" {
		_, err := c.cfg.Records.AuthorityLife(ctx, id)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := c.checkRights(ctx); err != nil {
			return err
		}
		return c.cfg.Authority.ProjectGone(ctx, actor, id, string(reason), c.cfg.Grace)
	}
	if c.cfg.CreateAuthorities {
		if _, _, err := c.cfg.Authority.EnsureAuthority(ctx, actor, id); err != nil {
			return err
		}
	}
	return c.cfg.Authority.ProjectBack(ctx, actor, id)
}

func (c *Controllers) projectGone(ctx context.Context, id string) (gone, error) {
	if err := c.pace.Wait(ctx); err != nil {
		return "", err
	}
	project, err := c.cfg.Keystone.Project(ctx, id)
	if reason, err := whether("the project", project.Enabled, err); err != nil || reason != "" {
		return reason, err
	}
	return c.domainGone(ctx, "project", project.DomainID)
}

// user: one that is gone or disabled has no certificates; for all others, every
// project is looked at in which there are some.
func (c *Controllers) user(ctx context.Context, id string) (further []Key, err error) {
	projects, err := c.cfg.Records.UserProjects(ctx, id)
	if err != nil || len(projects) == 0 {
		return nil, err
	}
	reason, err := c.userGone(ctx, id)
	if err != nil {
		return nil, err
	}
	if reason != "" {
		if err := c.checkRights(ctx); err != nil {
			return nil, err
		}
		n, err := c.cfg.Authority.RevokeUser(ctx, actor, id, string(reason))
		c.cfg.Logger.InfoContext(ctx, "Revoked a user's certificates", "user", id, "certificates", n, "reason", string(reason))
		return nil, err
	}
	for _, project := range projects {
		further = append(further, GrantKey(id, project))
	}
	return further, nil
}

func (c *Controllers) userGone(ctx context.Context, id string) (gone, error) {
	if err := c.pace.Wait(ctx); err != nil {
		return "", err
	}
	user, err := c.cfg.Keystone.User(ctx, id)
	if reason, err := whether("the user", user.Enabled, err); err != nil || reason != "" {
		return reason, err
	}
	return c.domainGone(ctx, "user", user.DomainID)
}

// grant: no certificate of the user in the project has a principal that the
// user's roles there no longer give, with those of the groups that the token had
// with which it was asked for.
func (c *Controllers) grant(ctx context.Context, userID, projectID string) error {
	filter := store.Filter{UserID: userID, ProjectID: projectID}
	accounts := make(map[string][]string) // by groups
	for page := (store.Page{Limit: store.MaxSerials}); ; {
		certs, err := c.cfg.Records.LiveUserCerts(ctx, filter, page)
		if err != nil || len(certs) == 0 {
			return err
		}
		for _, cert := range certs {
			key := strings.Join(cert.GroupIDs, " ")
			if _, known := accounts[key]; known {
				continue
			}
			if accounts[key], err = c.accounts(ctx, userID, projectID, cert.GroupIDs); err != nil {
				return err
			}
		}
		if err := c.revokeUncovered(ctx, projectID, certs, accounts); err != nil {
			return err
		}
		page.After = fmt.Sprint(certs[len(certs)-1].Serial)
	}
}

// accounts are the principals that the user's roles give now.
func (c *Controllers) accounts(ctx context.Context, userID, projectID string, groupIDs []string) ([]string, error) {
	if err := c.pace.WaitN(ctx, min(3, c.pace.Burst())); err != nil {
		return nil, err
	}
	roles, err := c.cfg.Keystone.EffectiveRoles(ctx, userID, projectID, groupIDs...)
	if err != nil {
		return nil, err
	}
	accounts, _ := c.cfg.Authority.Accounts(roles)
	return accounts, nil
}

// revokeUncovered has the accounts by the certificates' groups.
func (c *Controllers) revokeUncovered(ctx context.Context, projectID string, certs []store.LiveCert, accounts map[string][]string) error {
	var serials []uint64
	var lost []string
	for _, cert := range certs {
		if missing := uncovered(cert.Principals, accounts[strings.Join(cert.GroupIDs, " ")]); len(missing) > 0 {
			serials = append(serials, cert.Serial)
			lost = append(lost, missing...)
		}
	}
	if len(serials) == 0 {
		return nil
	}
	slices.Sort(lost)
	reason := "no role gives these accounts any more: " + strings.Join(slices.Compact(lost), ", ")
	return c.revoke(ctx, projectID, certs[0].UserID, serials, reason)
}

// revoke takes a user's certificates away, in a project, after another look at
// whether Muster would see it if that were wrong.
func (c *Controllers) revoke(ctx context.Context, projectID, userID string, serials []uint64, reason string) error {
	if err := c.checkRights(ctx); err != nil {
		return err
	}
	result, err := c.cfg.Authority.Revoke(ctx, actor, store.RevocationOrder{ProjectID: projectID, Serials: serials, Reason: brief(reason)})
	if err == nil {
		c.cfg.Logger.InfoContext(ctx, "Revoked certificates", "user", userID, "project", projectID, "certificates", result.Certificates, "reason", reason)
	}
	return err
}

// credential: one that is gone has no certificates.
func (c *Controllers) credential(ctx context.Context, id string) error {
	for page := (store.Page{Limit: store.MaxSerials}); ; {
		certs, err := c.cfg.Records.CredentialCerts(ctx, id, page)
		if err != nil || len(certs) == 0 {
			return err
		}
		gone, err := c.credentialGone(ctx, certs[0].Credential)
		if err != nil || !gone {
			return err
		}
		// An operator's may have been used in the name of others, and everywhere.
		byUser := make(map[Key][]uint64)
		for _, cert := range certs {
			key := GrantKey(cert.UserID, cert.ProjectID)
			byUser[key] = append(byUser[key], cert.Serial)
		}
		for key, serials := range byUser {
			user, project := key.Grant()
			if err := c.revoke(ctx, project, user, serials, credentialMissing(certs[0].Credential)); err != nil {
				return err
			}
		}
		page.After = fmt.Sprint(certs[len(certs)-1].Serial)
	}
}

func credentialMissing(credential store.Credential) string {
	return "the " + strings.ReplaceAll(credential.Kind, "_", " ") + " " + credential.ID + " was deleted, or has ended"
}

// credentialGone asks Keystone.
func (c *Controllers) credentialGone(ctx context.Context, credential store.Credential) (bool, error) {
	if err := c.pace.Wait(ctx); err != nil {
		return false, err
	}
	_, err := c.cfg.Keystone.CredentialEnds(ctx, credential.Owner, keystone.Credential{Kind: keystone.CredentialKind(credential.Kind), ID: credential.ID})
	if errors.Is(err, keystone.ErrNotFound) {
		return true, nil
	}
	return false, err
}

func uncovered(principals, accounts []string) (missing []string) {
	for _, principal := range principals {
		if !slices.Contains(accounts, principal) {
			missing = append(missing, principal)
		}
	}
	return missing
}

// maxReason is what fits the records.
const maxReason = 500

func brief(reason string) string {
	if len(reason) <= maxReason {
		return reason
	}
	return reason[:maxReason-3] + "..." // account names are ASCII
}

// group: somebody may have left it, and Keystone does not say who. Its grants
// say in which projects that matters; a group that is gone has none any more.
func (c *Controllers) group(ctx context.Context, id string) ([]Key, error) {
	if err := c.pace.Wait(ctx); err != nil {
		return nil, err
	}
	projects, everywhere, err := c.cfg.Keystone.GroupProjects(ctx, id)
	if err != nil {
		return nil, err
	}
	if everywhere || len(projects) == 0 {
		return c.liveGrants(ctx, nil)
	}
	return c.liveGrants(ctx, projects)
}

// domainListTimeout bounds the lists of a domain's projects and users: those of
// LDAP can be endless.
const domainListTimeout = 10 * time.Second

// domain: its users and projects are gone while it is disabled, and back when it
// is enabled. Only they are looked at, for whoever is in a domain that is gone
// should not wait for all others to be asked about. With a domain that was
// deleted it is gone too who they were, and all are looked at.
func (c *Controllers) domain(ctx context.Context, id string) ([]Key, error) {
	if err := c.pace.Wait(ctx); err != nil {
		return nil, err
	}
	_, err := c.cfg.Keystone.Domain(ctx, id)
	if errors.Is(err, keystone.ErrNotFound) {
		return c.everybody(ctx)
	}
	if err != nil {
		return nil, err
	}
	members, err := c.members(ctx, id)
	if err == nil || ctx.Err() != nil {
		return members, err
	}
	c.cfg.Logger.WarnContext(ctx, "Cannot list who is in a domain; everybody is looked at", "domain", id, "error", err)
	return c.everybody(ctx)
}

// members are those of a domain who have something that could be taken away or
// given back: projects with an authority, and users with certificates.
func (c *Controllers) members(ctx context.Context, domainID string) (members []Key, err error) {
	owners := make(map[Key]bool)
	err = cmp.Or(
		c.eachAuthority(ctx, func(project string) { owners[Key{Project, project}] = true }),
		c.eachLiveCert(ctx, func(cert store.LiveCert) error {
			owners[Key{User, cert.UserID}] = true
			return nil
		}),
		c.pace.WaitN(ctx, min(2, c.pace.Burst())))
	if err != nil {
		return nil, err
	}
	var projects, users []Key
	group, together := errgroup.WithContext(ctx)
	together, cancel := context.WithTimeout(together, domainListTimeout)
	defer cancel()
	group.Go(func() error {
		return c.cfg.Keystone.EachProject(together, domainID, func(p keystone.Project) error {
			projects = addOwner(projects, owners, Key{Project, p.ID})
			return nil
		})
	})
	group.Go(func() error {
		return c.cfg.Keystone.EachUser(together, domainID, func(u keystone.User) error {
			users = addOwner(users, owners, Key{User, u.ID})
			return nil
		})
	})
	err = group.Wait()
	return append(projects, users...), err
}

func addOwner(keys []Key, owners map[Key]bool, key Key) []Key {
	if owners[key] {
		keys = append(keys, key)
	}
	return keys
}

// everybody is whoever has a certificate, and each project with an authority.
func (c *Controllers) everybody(ctx context.Context) ([]Key, error) {
	keys, err := c.liveGrants(ctx, nil)
	if err != nil {
		return nil, err
	}
	err = c.eachAuthority(ctx, func(project string) { keys = append(keys, Key{Project, project}) })
	return keys, err
}

// eachAuthority calls do with every project that has an authority.
func (c *Controllers) eachAuthority(ctx context.Context, do func(projectID string)) error {
	for page := (store.Page{}); ; {
		lives, err := c.cfg.Records.AuthorityLives(ctx, page)
		if err != nil || len(lives) == 0 {
			return err
		}
		for _, life := range lives {
			do(life.ProjectID)
		}
		page.After = lives[len(lives)-1].ProjectID
	}
}

// liveGrants are the users and projects between which there are certificates
// that are good now: in these projects, or (nil) in all.
func (c *Controllers) liveGrants(ctx context.Context, projects []string) ([]Key, error) {
	seen := make(map[Key]bool)
	add := func(cert store.LiveCert) error {
		seen[GrantKey(cert.UserID, cert.ProjectID)] = true
		return nil
	}
	if projects == nil {
		if err := c.eachLiveCert(ctx, add); err != nil {
			return nil, err
		}
	}
	for _, project := range projects {
		for page := (store.Page{}); ; {
			certs, err := c.cfg.Records.LiveUserCerts(ctx, store.Filter{ProjectID: project}, page)
			if err != nil {
				return nil, err
			}
			if len(certs) == 0 {
				break
			}
			for _, cert := range certs {
				_ = add(cert)
			}
			page.After = fmt.Sprint(certs[len(certs)-1].Serial)
		}
	}
	keys := make([]Key, 0, len(seen))
	for key := range seen {
		keys = append(keys, key)
	}
	return keys, nil
}

// eachLiveCert calls do with every user certificate that is good now.
func (c *Controllers) eachLiveCert(ctx context.Context, do func(store.LiveCert) error) error {
	for after := (store.LiveCert{}); ; {
		certs, err := c.cfg.Records.AllLiveUserCerts(ctx, after, store.MaxPageLimit)
		if err != nil || len(certs) == 0 {
			return err
		}
		for _, cert := range certs {
			if err := do(cert); err != nil {
				return err
			}
		}
		after = certs[len(certs)-1]
	}
}

// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package converge

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/muster-cloud/muster/internal/keystone"
	"github.com/muster-cloud/muster/internal/openstack"
	"github.com/muster-cloud/muster/internal/store"
	"github.com/muster-cloud/muster/internal/uuid"
)

// survey is one whole comparison. It reads each of the cloud's lists once, and
// of those keeps no more than it needs.
type survey struct {
	controllers *Controllers
	started     time.Time

	domains map[string]bool // whether they are enabled
	enabled map[string]bool // projects, with their domains taken into account
	above   map[string]place

	credentials map[store.Credential]bool
	granted     map[string][]keystone.GroupGrant // by group
	asked       int                              // users that were asked about one by one

	servers map[compact]server // Nova's
	kept    map[compact]bool   // instances that Muster keeps something of
	astray  []string           // instances of which somebody else changed what FreeIPA has
}

// place is where a project is.
type place struct{ parent, domain string }

// server is what is kept of one of Nova's.
type server struct {
	project  compact
	launched int64 // microseconds
}

var (
	errNoProjects = errors.New("Keystone lists no project at all, not even the one that Muster logs in to")
	errNoDomains  = errors.New("Keystone lists no domain at all")
)

// projects: every authority has its project, and every project its authority.
func (s *survey) projects(ctx context.Context) (*findings, error) {
	cfg := s.controllers.cfg
	found := &findings{kind: Project}
	if err := s.listProjects(ctx); err != nil {
		return nil, err
	}
	known := make(map[string]bool)
	for page := (store.Page{Limit: store.MaxPageLimit}); ; {
		lives, err := cfg.Records.AuthorityLives(ctx, page)
		if err != nil {
			return nil, err
		}
		if len(lives) == 0 {
			break
		}
		for _, life := range lives {
			known[life.ProjectID] = true
			s.compareAuthority(found, life)
		}
		page.After = lives[len(lives)-1].ProjectID
	}
	if !cfg.CreateAuthorities {
		return found, nil
	}
	for id, enabled := range s.enabled {
		if canonical, err := uuid.Parse(id); enabled && err == nil && canonical == id && !known[id] {
			found.look = append(found.look, Key{Project, id})
		}
	}
	return found, nil
}

func (s *survey) compareAuthority(found *findings, life store.AuthorityLife) {
	enabled, there := s.enabled[life.ProjectID]
	late := !life.GoneAt.IsZero() && life.RetiredAt.IsZero() && !s.started.Before(life.GoneAt.Add(s.controllers.cfg.Grace))
	if life.GoneAt.IsZero() {
		found.total++
	}
	switch {
	case enabled && life.GoneAt.IsZero(), !enabled && !life.GoneAt.IsZero() && !late:
	case enabled, late:
		found.look = append(found.look, Key{Project, life.ProjectID})
	case there:
		found.suspect(life.ProjectID, "the project or its domain is disabled")
	default:
		found.suspect(life.ProjectID, "the project is not in Keystone's list")
	}
}

func (s *survey) listProjects(ctx context.Context) error {
	cfg := s.controllers.cfg
	if err := s.controllers.pace.Wait(ctx); err != nil {
		return err
	}
	domains, err := cfg.Keystone.Domains(ctx)
	if err != nil {
		return err
	}
	if len(domains) == 0 {
		return errNoDomains
	}
	s.domains = make(map[string]bool, len(domains))
	for _, domain := range domains {
		s.domains[domain.ID] = domain.Enabled
	}
	s.enabled, s.above = make(map[string]bool), make(map[string]place)
	if err := cfg.Keystone.EachProject(ctx, "", func(p keystone.Project) error {
		s.enabled[p.ID] = p.Enabled && s.domains[p.DomainID]
		s.above[p.ID] = place{p.ParentID, p.DomainID}
		return nil
	}); err != nil {
		return err
	}
	if len(s.enabled) == 0 {
		return errNoProjects
	}
	return nil
}

// held is what a user's good certificates in a project need, and have.
type held struct {
	needs map[string]*need // by the groups of the tokens that they were asked for with
	roles []string         // as Keystone's list says
}

// need is what certificates of tokens with the same groups need.
type need struct {
	groups     []string
	principals []string
}

// grants: the roles cover the principals of all certificates that are good.
// The certificates are read first, so that one whose role goes meanwhile is
// found now or by the next comparison.
func (s *survey) grants(ctx context.Context) (*findings, error) {
	cfg := s.controllers.cfg
	all := make(map[string]*held)
	users := make(map[string]bool) // whether they are enabled
	grouped := false
	err := s.controllers.eachLiveCert(ctx, func(cert store.LiveCert) error {
		key := GrantKey(cert.UserID, cert.ProjectID).ID
		users[cert.UserID] = false
		grouped = grouped || len(cert.GroupIDs) > 0
		if cert.Credential.ID != "" {
			s.credentials[cert.Credential] = true
		}
		if all[key] == nil {
			all[key] = &held{needs: make(map[string]*need)}
		}
		all[key].add(cert)
		return nil
	})
	found := &findings{kind: Grant, total: len(all)}
	if err != nil || len(all) == 0 {
		return found, err
	}
	if err := s.listUsers(ctx, users); err != nil {
		return nil, err
	}
	if err := s.controllers.pace.Wait(ctx); err != nil {
		return nil, err
	}
	err = cfg.Keystone.EachAssignment(ctx, func(a keystone.Assignment) error {
		if h := all[GrantKey(a.UserID, a.ProjectID).ID]; h != nil {
			h.roles = union(h.roles, []string{a.Role})
		}
		return nil
	})
	if err == nil && grouped {
		err = s.listGroupGrants(ctx)
	}
	if err != nil {
		return nil, err
	}
	for key, h := range all {
		user, project, _ := strings.Cut(key, "/")
		switch {
		case !users[user]:
			found.suspect(key, "the user or the user's domain is disabled, or not in Keystone's list")
		case !s.enabled[project]:
			found.suspect(key, "the project or its domain is disabled, or not in Keystone's list")
		default:
			missing, err := s.missing(ctx, user, project, h)
			if err != nil {
				return nil, err
			}
			if len(missing) > 0 {
				found.suspect(key, "no role gives these accounts any more: "+strings.Join(missing, ", "))
			}
		}
	}
	return found, nil
}

func (h *held) add(cert store.LiveCert) {
	key := strings.Join(cert.GroupIDs, " ")
	if h.needs[key] == nil {
		h.needs[key] = &need{groups: cert.GroupIDs}
	}
	h.needs[key].principals = union(h.needs[key].principals, cert.Principals)
}

// maxAsked bounds how many users are asked about one by one in a comparison.
const maxAsked = 1000

// missing are the principals that no role of the user, or of the groups, gives.
// Keystone's list leaves out what people have by groups that a mapping put them
// in (authorization_ttl), so whoever seems to lack something is asked about.
func (s *survey) missing(ctx context.Context, user, project string, h *held) (missing []string, err error) {
	for _, n := range h.needs {
		roles := union(slices.Clone(h.roles), s.groupRoles(n.groups, project))
		accounts, _ := s.controllers.cfg.Authority.Accounts(roles)
		lacking := uncovered(n.principals, accounts)
		if len(lacking) > 0 && s.asked < maxAsked {
			if s.asked++; s.asked == 1 {
				// What is remembered may be older than the list.
				s.controllers.cfg.Caches.ForgetAll()
			}
			if accounts, err = s.controllers.accounts(ctx, user, project, n.groups); err != nil {
				return nil, err
			}
			lacking = uncovered(n.principals, accounts)
		}
		missing = union(missing, lacking)
	}
	return missing, nil
}

// listGroupGrants reads what the groups are granted that tokens name.
func (s *survey) listGroupGrants(ctx context.Context) error {
	if err := s.controllers.pace.Wait(ctx); err != nil {
		return err
	}
	s.granted = make(map[string][]keystone.GroupGrant)
	return s.controllers.cfg.Keystone.EachGroupGrant(ctx, func(g keystone.GroupGrant) error {
		s.granted[g.GroupID] = append(s.granted[g.GroupID], g)
		return nil
	})
}

// groupRoles are what the groups give in a project, there or from above.
func (s *survey) groupRoles(groups []string, project string) (roles []string) {
	for _, group := range groups {
		for _, g := range s.granted[group] {
			if s.counts(g, project) {
				roles = union(roles, g.Roles)
			}
		}
	}
	return roles
}

// maxDepth ends the way up where projects were moved while they were listed.
const maxDepth = 32

func (s *survey) counts(g keystone.GroupGrant, project string) bool {
	if !g.Inherited {
		return g.ProjectID == project
	}
	at := s.above[project]
	if g.DomainID != "" {
		return g.DomainID == at.domain
	}
	for range maxDepth {
		if at.parent == "" || at.parent == at.domain {
			return false
		}
		if at.parent == g.ProjectID {
			return true
		}
		at = s.above[at.parent]
	}
	return false
}

// lent: whatever certificates were asked for with is still there.
func (s *survey) lent(ctx context.Context) (*findings, error) {
	found := &findings{kind: Credential, total: len(s.credentials)}
	for credential := range s.credentials {
		gone, err := s.controllers.credentialGone(ctx, credential)
		if err != nil {
			return nil, err
		}
		if gone {
			found.suspect(credential.ID, credentialMissing(credential))
		}
	}
	return found, nil
}

// listUsers notes of the given users who is enabled. Users are listed domain by
// domain: where each has a directory of its own, Keystone has no common list.
func (s *survey) listUsers(ctx context.Context, users map[string]bool) error {
	for domain, enabled := range s.domains {
		if !enabled {
			continue
		}
		if err := s.controllers.pace.Wait(ctx); err != nil {
			return err
		}
		err := s.controllers.cfg.Keystone.EachUser(ctx, domain, func(u keystone.User) error {
			if _, ok := users[u.ID]; ok {
				users[u.ID] = u.Enabled
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func union(a, b []string) []string {
	for _, text := range b {
		if !slices.Contains(a, text) {
			a = append(a, text)
		}
	}
	return a
}

// compact is an instance's ID in a fifth of the memory.
type compact [16]byte

func compactID(id string) (c compact, ok bool) {
	n, err := hex.Decode(c[:], []byte(id[:min(len(id), 32)]))
	return c, err == nil && n == len(c)
}

// String gives the ID again.
func (c compact) String() string { return hex.EncodeToString(c[:]) }

// enrolmentsAtOnce is how many instances of Nova's list are compared with their
// enrolments at a time.
const enrolmentsAtOnce = 500

// instances: Nova has every instance that Muster keeps anything of, and none
// was rebuilt, or names other services, without Muster's knowledge.
func (s *survey) instances(ctx context.Context) (*findings, error) {
	found := &findings{kind: Instance}
	s.servers, s.kept = make(map[compact]server), make(map[compact]bool)
	if err := s.controllers.pace.Wait(ctx); err != nil {
		return nil, err
	}
	listed := make([]openstack.Server, 0, enrolmentsAtOnce)
	err := s.controllers.cfg.Nova.EachServer(ctx, func(one openstack.Server) error {
		id, ok := compactID(one.ID)
		if !ok {
			return nil
		}
		project, _ := compactID(one.ProjectID)
		s.servers[id] = server{project, one.LaunchedAt.UnixMicro()}
		if listed = append(listed, one); len(listed) < enrolmentsAtOnce {
			return nil
		}
		err := s.compareMetadata(ctx, found, listed)
		listed = listed[:0]
		return err
	})
	if err == nil {
		err = s.compareMetadata(ctx, found, listed)
	}
	if err != nil {
		return nil, err
	}
	if len(s.astray) > 0 {
		found.prepare = func(ctx context.Context) ([]Key, error) { return found.look, s.mend(ctx) }
	}
	if err := s.compareInstances(ctx, found); err != nil {
		return nil, err
	}
	return found, s.compareEnrolments(ctx, found)
}

// compareMetadata finds enrolled instances that were rebuilt, or name other
// services than they have. Of the metadata nothing is kept.
func (s *survey) compareMetadata(ctx context.Context, found *findings, listed []openstack.Server) error {
	cfg := s.controllers.cfg
	if cfg.Enrolments == nil || len(listed) == 0 {
		return nil
	}
	byID := make(map[string]openstack.Server, len(listed))
	ids := make([]string, 0, len(listed))
	for _, server := range listed {
		byID[server.ID], ids = server, append(ids, server.ID)
	}
	enrolments, err := cfg.Records.EnrolmentsOf(ctx, ids)
	if err != nil {
		return err
	}
	if err := s.compareEntries(ctx, found, enrolments); err != nil {
		return err
	}
	again := make(map[string]time.Time)
	for _, e := range enrolments {
		switch server := byID[e.InstanceID]; {
		case !stays(e):
		case cfg.Enrolments.Differs(e, server.Metadata):
			found.look = append(found.look, Key{Instance, e.InstanceID})
		case relaunched(server.LaunchedAt, joinedAt(e)):
			again[e.InstanceID] = server.LaunchedAt
		}
	}
	return s.lookAtRelaunched(ctx, found, again)
}

// compareEntries finds instances of which somebody else has changed what FreeIPA
// has. That FreeIPA does not answer keeps only that from being found out.
func (s *survey) compareEntries(ctx context.Context, found *findings, enrolments []store.Enrolment) error {
	if found.failure != nil {
		return nil
	}
	if err := s.controllers.pace.Wait(ctx); err != nil {
		return err
	}
	astray, err := s.controllers.cfg.Enrolments.Astray(ctx, enrolments)
	if err != nil {
		found.failure = fmt.Errorf("compare entries with FreeIPA: %w", err)
		return ctx.Err()
	}
	for _, id := range astray {
		found.look = append(found.look, Key{Instance, id})
	}
	s.astray = append(s.astray, astray...)
	return nil
}

// mend has FreeIPA agree with the records again. Whatever one instance's trouble
// is, the others are seen to.
func (s *survey) mend(ctx context.Context) error {
	for _, id := range s.astray {
		if err := s.controllers.cfg.Enrolments.Mend(ctx, id); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			s.controllers.cfg.Logger.WarnContext(ctx, "What somebody else changed in FreeIPA was not put right; the next comparison will",
				"instance", id, "error", err)
		}
	}
	return nil
}

// lookAtRelaunched has those instances looked at that were launched once more
// since they used what Muster gave them, by a rebuild or only by being moved,
// unless that was seen to already.
func (s *survey) lookAtRelaunched(ctx context.Context, found *findings, launched map[string]time.Time) error {
	if len(launched) == 0 {
		return nil
	}
	seen, err := s.controllers.cfg.Records.RebuildsSeen(ctx, slices.Collect(maps.Keys(launched)))
	for id, at := range launched {
		if at.After(seen[id]) {
			found.look = append(found.look, Key{Instance, id})
		}
	}
	return err
}

const notListed = "the instance is not in Nova's list"

// older tells whether a record was there before the comparison began. What a
// clock that was far ahead has recorded was.
func (s *survey) older(created time.Time) bool {
	return created.Before(s.started) || created.After(s.started.Add(store.MaxClockError))
}

func (s *survey) compareInstances(ctx context.Context, found *findings) error {
	for page := (store.Page{Limit: store.MaxPageLimit}); ; {
		instances, err := s.controllers.cfg.Records.Instances(ctx, store.Filter{}, page)
		if err != nil || len(instances) == 0 {
			return err
		}
		again := make(map[string]time.Time)
		for _, instance := range instances {
			id, _ := compactID(instance.ID)
			listed, there := s.servers[id]
			s.kept[id] = true
			found.total++
			switch used := instance.Token.UsedAt; {
			case there && relaunched(time.UnixMicro(listed.launched), used):
				again[instance.ID] = time.UnixMicro(listed.launched)
			case !there && s.older(instance.CreatedAt):
				found.suspect(instance.ID, notListed)
			}
		}
		if err := s.lookAtRelaunched(ctx, found, again); err != nil {
			return err
		}
		page.After = instances[len(instances)-1].ID
	}
}

// compareEnrolments finds what has an enrolment and no SSH identity.
func (s *survey) compareEnrolments(ctx context.Context, found *findings) error {
	if s.controllers.cfg.Enrolments == nil {
		return nil
	}
	for page := (store.Page{Limit: store.MaxPageLimit}); ; {
		enrolments, err := s.controllers.cfg.Records.Enrolments(ctx, store.EnrolmentFilter{}, page)
		if err != nil || len(enrolments) == 0 {
			return err
		}
		for _, enrolment := range enrolments {
			id, _ := compactID(enrolment.InstanceID)
			if s.kept[id] || !stays(enrolment) {
				continue
			}
			s.kept[id] = true
			found.total++
			if _, there := s.servers[id]; !there && s.older(enrolment.CreatedAt) {
				found.suspect(enrolment.InstanceID, notListed)
			}
		}
		page.After = enrolments[len(enrolments)-1].InstanceID
	}
}

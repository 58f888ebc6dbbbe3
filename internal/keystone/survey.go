// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package keystone

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"golang.org/x/sync/errgroup"
)

const (
	// surveyTimeout bounds a whole listing: Keystone computes effective
	// assignments one by one.
	surveyTimeout = 10 * time.Minute
	// maxList bounds an answer that is read entry by entry.
	maxList = 2 << 30
)

// ErrPartial means that Keystone answered with a part of a list
// ([DEFAULT] list_limit in its configuration), from which nothing follows
// about what is missing in it. It is an ErrUnavailable too.
var ErrPartial = errors.New("the answer is only a part of the list; raise list_limit in Keystone's configuration")

// Domain is a domain of Keystone.
type Domain struct {
	ID, Name string
	Enabled  bool
}

// Domain returns the domain with this ID.
// Errors: ErrNotFound, ErrUnavailable, ErrForbidden, or that of ctx.
func (c *Client) Domain(ctx context.Context, id string) (Domain, error) {
	found, err := lookUp(ctx, c, c.domains, "domain", id)
	return Domain{ID: found.ID, Name: found.Name, Enabled: found.Enabled}, err
}

// ForgetAll makes everything that is cached invalid at once, results of calls
// under way included: for changes that may concern anybody.
func (c *Client) ForgetAll() { c.ledger.forgetAll() }

// CheckRights asks Keystone, afresh, whether it shows Muster's service user
// everything, so that "not found" means that something does not exist: it must
// be shown the service user's own role assignments, and the lists of domains
// and of projects with its own among them.
//
// Errors: ErrUnavailable, and with it ErrForbidden if a right is missing.
func (c *Client) CheckRights(ctx context.Context) error {
	own, err := c.whoAmI(ctx)
	if err != nil {
		return err
	}
	var held assignmentsBody
	var domains struct{ Domains []json.RawMessage }
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return unlessMissing(c.session.get(groupCtx, "list role assignments", "role_assignments?"+own.assignments, nil, &held))
	})
	group.Go(func() error {
		return unlessMissing(c.session.get(groupCtx, "list domains", "domains?enabled=true", nil, &domains))
	})
	if err := group.Wait(); err != nil {
		return err
	}
	if len(held.Assignments) == 0 || len(domains.Domains) == 0 {
		return &UnavailableError{RetryAfter: maxRetryAfter, Err: fmt.Errorf("%w: "+
			"it is shown neither its own roles nor any domain", ErrForbidden)}
	}
	return nil
}

// identity is whose login a token is.
type identity struct {
	token       string
	assignments string // the query for its own role assignments
}

// whoAmI asks whose login it is that Muster uses, once for each: a token is
// nobody else's later.
func (c *Client) whoAmI(ctx context.Context) (*identity, error) {
	token, err := c.session.login(ctx, "")
	if err != nil {
		return nil, err
	}
	if known := c.own.Load(); known != nil && known.token == token {
		return known, nil
	}
	var body tokenBody
	err = c.session.get(ctx, "check", "auth/tokens?nocatalog=1", map[string]string{"X-Subject-Token": token}, &body)
	if errors.Is(err, ErrNotFound) {
		err = &UnavailableError{RetryAfter: minRetryAfter, Err: errors.New("check: Keystone does not know Muster's own token")}
	}
	if err != nil {
		return nil, err
	}
	query := url.Values{"user.id": {body.Token.User.ID}, "effective": {""}, "scope.project.id": {body.Token.Project.ID}}
	own := &identity{token: token, assignments: query.Encode()}
	c.own.Store(own)
	return own, nil
}

// unlessMissing: a list that is "not found" is no list of Keystone's.
func unlessMissing(err error) error {
	if errors.Is(err, ErrNotFound) {
		return &UnavailableError{RetryAfter: maxRetryAfter, Err: errors.New("a list is not where Keystone has it; check auth_url")}
	}
	return err
}

// Domains returns all domains.
// Errors: ErrUnavailable, with it ErrForbidden or ErrPartial; that of ctx.
func (c *Client) Domains(ctx context.Context) ([]Domain, error) {
	var all []Domain
	err := eachOf(ctx, c.session, "list domains", "domains", nil, func(d listed) error {
		all = append(all, Domain{ID: d.ID, Name: d.Name, Enabled: d.enabled()})
		return nil
	})
	return all, err
}

// EachProject calls do with every project of a domain (empty: of all) that can
// hold instances. A project counts as enabled here whether its domain is or not.
// Errors: that of do; ErrUnavailable, with it ErrForbidden or ErrPartial; that of ctx.
func (c *Client) EachProject(ctx context.Context, domainID string, do func(Project) error) error {
	var query url.Values
	if domainID != "" {
		query = url.Values{"domain_id": {domainID}}
	}
	return eachOf(ctx, c.session, "list projects", "projects", query, func(p listed) error {
		return do(Project{ID: p.ID, Name: p.Name, DomainID: p.DomainID, Enabled: p.enabled(), ParentID: p.ParentID})
	})
}

// EachUser calls do with every user of a domain. Errors: as of EachProject.
func (c *Client) EachUser(ctx context.Context, domainID string, do func(User) error) error {
	return eachOf(ctx, c.session, "list users", "users", url.Values{"domain_id": {domainID}}, func(u listed) error {
		return do(User{ID: u.ID, Name: u.Name, DomainID: u.DomainID, Enabled: u.enabled()})
	})
}

// Assignment is a role that a user has in a project, in whatever way.
type Assignment struct{ UserID, ProjectID, Role string }

// EachAssignment calls do with every effective role of every user in every
// project: one request. It does not tell who of them is disabled, and Keystone
// leaves out whom a mapping has put in a group, even while EffectiveRoles has
// them (authorization_ttl). Errors: as of EachProject.
func (c *Client) EachAssignment(ctx context.Context, do func(Assignment) error) error {
	names, err := c.roleNames(ctx)
	if err != nil {
		return err
	}
	return eachOf(ctx, c.session, "list role assignments", "role_assignments", url.Values{"effective": {""}}, func(a assigned) error {
		if a.User.ID == "" || a.Scope.Project.ID == "" {
			return nil
		}
		name, err := c.roleName(ctx, names, a.Role.ID)
		if errors.Is(err, ErrNotFound) {
			return &UnavailableError{RetryAfter: minRetryAfter, Err: errors.New("list role assignments: a role was deleted meanwhile")}
		}
		if err != nil {
			return err
		}
		return do(Assignment{UserID: a.User.ID, ProjectID: a.Scope.Project.ID, Role: name})
	})
}

// GroupProjects returns the projects in which a group has roles. With
// everywhere, it has some in a domain too, which its projects may inherit.
// Errors: ErrUnavailable, with it ErrForbidden or ErrPartial; that of ctx.
func (c *Client) GroupProjects(ctx context.Context, groupID string) (projects []string, everywhere bool, err error) {
	if !validID(groupID) {
		return nil, false, nil
	}
	seen := make(map[string]bool)
	err = eachOf(ctx, c.session, "list role assignments", "role_assignments", url.Values{"group.id": {groupID}}, func(a assigned) error {
		// Roles are inherited from domains, and from projects by those below them.
		everywhere = everywhere || a.Scope.Domain.ID != "" || a.Scope.Inherited != ""
		if id := a.Scope.Project.ID; id != "" && !seen[id] {
			seen[id] = true
			projects = append(projects, id)
		}
		return nil
	})
	return projects, everywhere, err
}

// listed is an entry of a list of projects, users or domains.
type listed struct {
	ID       string `json:"id"`
	Name     string `json:"name"`
	DomainID string `json:"domain_id"`
	ParentID string `json:"parent_id"`
	Enabled  *bool  `json:"enabled"`
}

func (l listed) enabled() bool { return l.Enabled == nil || *l.Enabled }

// assigned is an entry of the list of role assignments.
type assigned struct {
	Role  role                `json:"role"`
	User  struct{ ID string } `json:"user"`
	Group struct{ ID string } `json:"group"`
	Scope struct {
		Project   struct{ ID string } `json:"project"`
		Domain    struct{ ID string } `json:"domain"`
		Inherited string              `json:"OS-INHERIT:inherited_to"`
	} `json:"scope"`
}

// eachOf reads one of Keystone's lists, entry by entry, so that its length costs
// no memory. That the list was whole is known only when it returns nil.
func eachOf[T any](ctx context.Context, s *session, call, kind string, query url.Values, do func(T) error) error {
	path := kind
	if query != nil {
		path += "?" + query.Encode()
	}
	var failed error
	err := s.stream(ctx, call, path, func(body io.Reader) error {
		return readList(body, kind, func(one T) error {
			failed = do(one)
			return failed
		})
	})
	if failed != nil {
		return failed
	}
	return unlessMissing(err)
}

// readList decodes {"KIND": [...], ...}.
func readList[T any](body io.Reader, kind string, do func(T) error) error {
	decoder := json.NewDecoder(body)
	if err := expect(decoder, json.Delim('{')); err != nil {
		return err
	}
	found, truncated := false, false
	for decoder.More() {
		key, err := decoder.Token()
		if err != nil {
			return err
		}
		switch key {
		case kind:
			found = true
			if err := readEntries(decoder, do); err != nil {
				return err
			}
		case "truncated":
			if err := decoder.Decode(&truncated); err != nil {
				return err
			}
		default:
			var passed json.RawMessage
			if err := decoder.Decode(&passed); err != nil {
				return err
			}
		}
	}
	if err := expect(decoder, json.Delim('}')); err != nil {
		return err
	}
	switch {
	case !found:
		return fmt.Errorf("the answer holds no list of %s", kind)
	case truncated:
		return ErrPartial
	}
	return nil
}

func readEntries[T any](decoder *json.Decoder, do func(T) error) error {
	if err := expect(decoder, json.Delim('[')); err != nil {
		return err
	}
	for decoder.More() {
		var one T
		if err := decoder.Decode(&one); err != nil {
			return err
		}
		if err := do(one); err != nil {
			return err
		}
	}
	return expect(decoder, json.Delim(']'))
}

func expect(decoder *json.Decoder, want json.Delim) error {
	got, err := decoder.Token()
	if err != nil {
		return err
	}
	if got != want {
		return fmt.Errorf("the answer has something else where %q is expected", want)
	}
	return nil
}

// streamed marks the requests whose answers may be long.
type streamed struct{}

// stream hands the answer's body to read.
func (s *session) stream(ctx context.Context, call, path string, read func(io.Reader) error) error {
	ctx, cancel := context.WithTimeout(context.WithValue(ctx, streamed{}, true), surveyTimeout)
	defer cancel()
	token, err := s.login(ctx, "")
	if err != nil {
		return err
	}
	err = s.receive(ctx, call, path, token, read)
	if gophercloud.ResponseCodeIs(err, http.StatusUnauthorized) {
		if token, err = s.login(ctx, token); err != nil {
			return err
		}
		err = s.receive(ctx, call, path, token, read)
	}
	return explain(call, err)
}

func (s *session) receive(ctx context.Context, call, path, token string, read func(io.Reader) error) error {
	start := time.Now()
	response, err := s.identity.Get(ctx, s.identity.ServiceURL(path), nil, &gophercloud.RequestOpts{
		MoreHeaders: map[string]string{"X-Auth-Token": token}, OkCodes: []int{http.StatusOK}, KeepResponseBody: true,
	})
	if err == nil {
		err = errors.Join(read(response.Body), response.Body.Close())
	}
	s.metrics.observe(call, err, time.Since(start))
	return err
}

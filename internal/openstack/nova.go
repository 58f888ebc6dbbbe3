// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package openstack

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/instanceactions"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"

	"github.com/muster-cloud/muster/internal/uuid"
)

// serverPage is Nova's max_limit. A Nova that is set to less gives less.
const serverPage = 1000

// Server is what Muster wants to know of an instance.
type Server struct {
	ID, ProjectID string // 32 hex digits
	Name          string
	Metadata      map[string]string
	// LaunchedAt is when its disk was last made or moved: by a boot, a rebuild,
	// a resize or an unshelving. Zero while it has none.
	LaunchedAt time.Time
}

// Servers asks Nova. It caches nothing, and is safe for simultaneous use.
type Servers struct{ nova *service }

// NewServers checks cfg and returns a Servers. It does not connect: it logs in
// when it is first asked something.
func NewServers(cfg Config) (*Servers, error) {
	nova, err := newService(cfg, "Nova", "compute", openstack.NewComputeV2)
	return &Servers{nova: nova}, err
}

// Server returns an instance. ErrNotFound is certain: Nova says that there is
// none, and that it shows this caller the instances of all projects.
//
// Nova answers 404 also to those who may not see an instance, so it is asked
// again by a list of all projects, which it gives only to those who may see
// them (os_compute_api:servers:detail:get_all_tenants). The list alone would
// not do either: it leaves out the instances of cells that do not answer.
//
// Errors: ErrNotFound, ErrForbidden, ErrUnavailable, that of ctx.
func (s *Servers) Server(ctx context.Context, id string) (Server, error) {
	canonical, err := uuid.Parse(id)
	if err != nil {
		return Server{}, fmt.Errorf("instance: %w", ErrNotFound)
	}
	var found *servers.Server
	err = s.nova.ask(ctx, "show a server", func(ctx context.Context, client *gophercloud.ServiceClient) (err error) {
		found, err = servers.Get(ctx, client, uuid.Dashed(canonical)).Extract()
		return err
	})
	if errors.Is(err, ErrNotFound) {
		return Server{}, s.confirmMissing(ctx, canonical)
	}
	if err != nil {
		return Server{}, err
	}
	return newServer(*found)
}

func (s *Servers) confirmMissing(ctx context.Context, id string) error {
	query := url.Values{"all_tenants": {"1"}, "uuid": {uuid.Dashed(id)}}
	there, err := s.list(ctx, query)
	switch {
	case errors.Is(err, ErrNotFound):
		return away("Nova", fmt.Errorf("%w: the list of servers is not where Nova has it", ErrUnavailable))
	case err != nil:
		return err
	case len(there) > 0:
		return away("Nova", fmt.Errorf("%w: show a server: it is in the list and not found", ErrUnavailable))
	}
	return fmt.Errorf("instance %s: %w", id, ErrNotFound)
}

// CheckRights tells whether Nova shows this caller the instances of all projects.
//
// Errors: ErrForbidden, ErrUnavailable, that of ctx.
func (s *Servers) CheckRights(ctx context.Context) error {
	_, err := s.list(ctx, url.Values{"all_tenants": {"1"}, "limit": {"1"}})
	if errors.Is(err, ErrNotFound) {
		return away("Nova", fmt.Errorf("%w: the list of servers is not where Nova has it; check endpoint_override", ErrUnavailable))
	}
	return err
}

// EachServer calls do with every instance of every project, in pages. That the
// list was whole is known only when it returns nil; even then instances can be
// missing in it, for Nova leaves out those of cells that do not answer.
//
// Errors: that of do, ErrForbidden, ErrUnavailable, that of ctx.
func (s *Servers) EachServer(ctx context.Context, do func(Server) error) error {
	marker := ""
	for {
		query := url.Values{"all_tenants": {"1"}, "limit": {strconv.Itoa(serverPage)}}
		if marker != "" {
			query.Set("marker", marker)
		}
		page, err := s.list(ctx, query)
		if errors.Is(err, ErrNotFound) {
			err = away("Nova", fmt.Errorf("%w: the list of servers is not where Nova has it", ErrUnavailable))
		}
		if err != nil || len(page) == 0 {
			return err
		}
		for _, one := range page {
			server, err := newServer(one)
			if err != nil {
				return err
			}
			if err := do(server); err != nil {
				return err
			}
		}
		if next := page[len(page)-1].ID; next != marker {
			marker = next
			continue
		}
		return away("Nova", fmt.Errorf("%w: list servers: the same page again", ErrUnavailable))
	}
}

// list returns one page.
func (s *Servers) list(ctx context.Context, query url.Values) ([]servers.Server, error) {
	var body struct {
		Servers *[]servers.Server `json:"servers"`
	}
	err := s.nova.ask(ctx, "list servers", func(ctx context.Context, client *gophercloud.ServiceClient) error {
		_, err := client.Get(ctx, client.ServiceURL("servers", "detail")+"?"+query.Encode(), &body,
			&gophercloud.RequestOpts{OkCodes: []int{http.StatusOK}})
		return err
	})
	if err != nil {
		return nil, err
	}
	if body.Servers == nil {
		return nil, away("Nova", fmt.Errorf("%w: list servers: the answer holds no list", ErrUnavailable))
	}
	return *body.Servers, nil
}

// failedAction is what Nova notes with an action that ended in an error.
const failedAction = "Error"

// RebuiltAt returns when an instance's last rebuild was asked for, as Nova's
// log of its actions says; the zero time if it never was. One that failed does
// not count.
//
// Errors: ErrNotFound, ErrForbidden, ErrUnavailable, that of ctx.
func (s *Servers) RebuiltAt(ctx context.Context, id string) (time.Time, error) {
	var last time.Time
	err := s.nova.ask(ctx, "list a server's actions", func(ctx context.Context, client *gophercloud.ServiceClient) error {
		pages, err := instanceactions.List(client, uuid.Dashed(id), nil).AllPages(ctx)
		if err != nil {
			return err
		}
		actions, err := instanceactions.ExtractInstanceActions(pages)
		for _, action := range actions {
			if action.Action == "rebuild" && action.Message != failedAction && action.StartTime.After(last) {
				last = action.StartTime
			}
		}
		return err
	})
	return last, err
}

func newServer(one servers.Server) (Server, error) {
	id, err := uuid.Parse(one.ID)
	if err != nil {
		return Server{}, away("Nova", fmt.Errorf("%w: a server's ID is no UUID", ErrUnavailable))
	}
	project, err := uuid.Parse(one.TenantID)
	if err != nil {
		return Server{}, away("Nova", fmt.Errorf("%w: the ID of a server's project is no UUID", ErrUnavailable))
	}
	return Server{ID: id, ProjectID: project, Name: one.Name, Metadata: one.Metadata, LaunchedAt: one.LaunchedAt.UTC()}, nil
}

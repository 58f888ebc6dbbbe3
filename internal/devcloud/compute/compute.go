// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package compute is a small Nova: servers that are records only, the dynamic
// vendordata calls that the real one makes for them, and its metadata service.
//
// It starts no machine and checks no quota. It is for development and tests.
package compute

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/muster-cloud/muster/internal/devcloud/identity"
	"github.com/muster-cloud/muster/internal/devcloud/messaging"
)

// configDriveReads is how often Nova asks each target for a boot with a config
// drive: once for each metadata version that has vendor_data2.json.
const configDriveReads = 5

// ErrNoServer means that there is no server with this ID.
var ErrNoServer = errors.New("no such server")

// Keystone is what Nova needs of the cloud's Keystone.
type Keystone interface {
	Caller(token string) (identity.Caller, bool)
	RoleNames(userID, projectID string) []string
	// Token logs in Nova's own user.
	Token(user, password, project string) (string, error)
	Password(user string) string
}

// Network is what Nova needs of the cloud's Neutron.
type Network interface {
	Plug(serverID, projectID, hostname string) error
	Unplug(serverID string)
	Fixed(serverID string) []netip.Addr
}

// Config is what a Service starts with.
type Config struct {
	// URL is the address of the API, ending in /v2.1.
	URL      string
	Keystone Keystone
	Network  Network // nil: servers have no ports
	// MetadataSecret signs instance IDs (metadata_proxy_shared_secret).
	MetadataSecret string
	// VendordataTargets are NAME@URL.
	VendordataTargets []string
	// VendordataTimeout bounds each call. Default 5 s.
	VendordataTimeout time.Duration
	// Now tells the time. Default time.Now.
	Now func() time.Time
	// Logger gets Nova's warnings about targets. Default: discarded.
	Logger *slog.Logger
	// Notifier announces what happens to instances; nil: nothing is announced.
	Notifier *messaging.Notifier
	// NotificationFormat is Unversioned (default), Versioned or Both.
	NotificationFormat string
}

// Service is a Nova. It is an http.Handler for the paths below /v2.1 and for
// those of the metadata service, below /openstack.
type Service struct {
	cfg    Config
	mux    *http.ServeMux
	client *http.Client
	builds sync.WaitGroup
	// building ends when the Service is closed.
	building context.Context
	stop     context.CancelFunc

	mu      sync.Mutex
	targets []target
	token   string
	servers map[string]*server
	order   []string // of the servers, oldest first
}

// Server is what Boot needs to know of an instance.
type Server struct {
	// Name becomes the host name too, in Nova's way.
	Name string
	// ProjectID and UserID: who owns it (32 hex digits).
	ProjectID, UserID string
	// ImageID is empty for an instance booted from a volume.
	ImageID  string
	FlavorID string
	Metadata map[string]string
	// UserData is base64, as in Nova's API.
	UserData string
	// Unconnected: it gets no port.
	Unconnected bool
}

type server struct {
	Server
	id, hostname     string
	bootRoles        []string
	created, updated time.Time
	launched         time.Time
	actions          []action
}

// New returns a Service without servers.
func New(cfg Config) (*Service, error) {
	if cfg.Keystone == nil {
		return nil, errors.New("compute: no Keystone given")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.VendordataTimeout == 0 {
		cfg.VendordataTimeout = 5 * time.Second
	}
	cfg.NotificationFormat = cmp.Or(cfg.NotificationFormat, Unversioned)
	s := &Service{cfg: cfg, client: &http.Client{}, servers: map[string]*server{}}
	s.building, s.stop = context.WithCancel(context.Background())
	s.routes()
	return s, s.SetVendordataTargets(cfg.VendordataTargets...)
}

// ServeHTTP implements http.Handler.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// Wait returns when the boots begun by HTTP so far have made their calls.
func (s *Service) Wait() { s.builds.Wait() }

// Close ends the boots under way.
func (s *Service) Close() {
	s.stop()
	s.builds.Wait()
}

// Boot makes an active instance and makes the vendordata calls of a boot with a
// config drive (five for each target). It returns the instance's ID, with
// dashes. As with the real Nova the boot succeeds whatever the targets answer.
func (s *Service) Boot(ctx context.Context, wanted Server) (string, error) {
	id, err := s.create(wanted)
	if err != nil {
		return "", err
	}
	return id, s.build(ctx, id)
}

// build is what a boot takes, and tells of its end.
func (s *Service) build(ctx context.Context, id string) error {
	if err := s.plug(id); err != nil {
		return err
	}
	if err := s.readConfigDrive(ctx, id); err != nil {
		return err
	}
	if built, ok := s.find(id); ok {
		s.announce("create.end", built, active)
	}
	return nil
}

// plug gives a server its port, unless it was deleted meanwhile.
func (s *Service) plug(id string) error {
	found, ok := s.find(id)
	if s.cfg.Network == nil || !ok || found.Unconnected {
		return nil
	}
	if err := s.cfg.Network.Plug(id, found.ProjectID, hostname(found.Name)); err != nil {
		return err
	}
	if _, ok := s.find(id); !ok {
		s.cfg.Network.Unplug(id)
	}
	return nil
}

func (s *Service) create(wanted Server) (string, error) {
	if wanted.Name == "" || wanted.ProjectID == "" || wanted.UserID == "" {
		return "", errors.New("a server needs a name, a project and a user")
	}
	now := s.cfg.Now().UTC()
	made := &server{Server: wanted, id: identity.NewDashedID(), created: now, updated: now, launched: now,
		actions:   []action{{"create", now}},
		bootRoles: s.cfg.Keystone.RoleNames(wanted.UserID, wanted.ProjectID)}
	made.Metadata = maps.Clone(wanted.Metadata)
	made.hostname = hostname(wanted.Name)
	if made.hostname == "" {
		made.hostname = "Server-" + made.id
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.servers[made.id] = made
	s.order = append(s.order, made.id)
	s.announce("update", *made, building)
	return made.id, nil
}

func (s *Service) readConfigDrive(ctx context.Context, id string) error {
	for range configDriveReads {
		if _, err := s.Vendordata(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

// Delete removes the instance, its ports first.
func (s *Service) Delete(id string) error {
	if _, ok := s.find(id); ok && s.cfg.Network != nil {
		s.cfg.Network.Unplug(id)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	gone, ok := s.servers[identity.DashedID(id)]
	if !ok {
		return ErrNoServer
	}
	s.announce("update", *gone, deleting)
	s.announce("delete.end", *gone, deleted)
	delete(s.servers, identity.DashedID(id))
	s.order = slices.DeleteFunc(s.order, func(other string) bool { return other == identity.DashedID(id) })
	return nil
}

// Rebuild gives the instance a new disk, of the image it has: its host key is
// gone.
func (s *Service) Rebuild(id string) error {
	return s.rebuild(id, "")
}

func (s *Service) rebuild(id, imageID string) error {
	return s.change(id, []string{"rebuild.start", "rebuild.end"}, func(one *server) {
		one.ImageID = cmp.Or(imageID, one.ImageID)
		one.relaunch("rebuild", s.cfg.Now().UTC())
	})
}

// Evacuate starts the instance anew on another host, with the disk it has. Nova
// announces that as a rebuild.
func (s *Service) Evacuate(id string) error {
	return s.change(id, []string{"rebuild.start", "rebuild.end"}, func(one *server) { one.relaunch("evacuate", s.cfg.Now().UTC()) })
}

// Resize gives the instance another flavor.
func (s *Service) Resize(id, flavorID string) error {
	return s.change(id, []string{"resize.start", "resize.end", "finish_resize.end", "update"}, func(one *server) {
		one.FlavorID = flavorID
		one.relaunch("resize", s.cfg.Now().UTC())
	})
}

// Shelve takes the instance off its host, and Unshelve starts it again, with
// the disk it had.
func (s *Service) Shelve(id string) error {
	return s.change(id, []string{"shelve.start", "shelve.end", "shelve_offload.end", "update"}, func(one *server) {
		one.actions = append(slices.Clone(one.actions), action{"shelve", s.cfg.Now().UTC()})
	})
}

// Unshelve is the opposite of Shelve.
func (s *Service) Unshelve(id string) error {
	return s.change(id, []string{"unshelve.start", "unshelve.end", "update"}, func(one *server) { one.relaunch("unshelve", s.cfg.Now().UTC()) })
}

// Rename changes the display name; the host name stays what it was.
func (s *Service) Rename(id, name string) error {
	return s.change(id, []string{"update"}, func(one *server) { one.Name = name })
}

func (one *server) relaunch(by string, at time.Time) {
	one.launched = at
	one.actions = append(slices.Clone(one.actions), action{by, at})
}

// SetMetadata replaces the instance's metadata.
func (s *Service) SetMetadata(id string, metadata map[string]string) error {
	return s.change(id, []string{"update"}, func(one *server) { one.Metadata = maps.Clone(metadata) })
}

// change changes an instance and then announces the events of it: it takes no
// time between the first and the last.
func (s *Service) change(id string, events []string, apply func(*server)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	one, ok := s.servers[identity.DashedID(id)]
	if !ok {
		return ErrNoServer
	}
	apply(one)
	one.updated = s.cfg.Now().UTC()
	for _, event := range events {
		s.announce(event, *one, active)
	}
	return nil
}

// find returns a copy of the server.
func (s *Service) find(id string) (server, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	found, ok := s.servers[identity.DashedID(id)]
	if !ok {
		return server{}, false
	}
	return *found, true
}

// maxHostname is how much of a display name Nova looks at, in characters.
const maxHostname = 63

// hostname makes a host name of a display name (nova.utils.sanitize_hostname).
// What is left need not be a name for the DNS: letters of Latin-1 stay.
func hostname(name string) string {
	var kept []rune
	seen := 0
	for _, r := range name {
		if r > unicode.MaxLatin1 {
			continue
		}
		if seen++; seen > maxHostname {
			break
		}
		switch {
		case r == ' ', r == '_', r == '.':
			kept = append(kept, '-')
		case r == '-', unicode.IsLetter(r), unicode.IsNumber(r):
			kept = append(kept, unicode.ToLower(r))
		}
	}
	return strings.Trim(string(kept), "-")
}

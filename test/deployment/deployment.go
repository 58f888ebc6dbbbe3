// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package deployment stands up a whole Muster for a test: a cloud in the
// process, a database, and any number of replicas that read one configuration
// file, each in the test's process or in one of its own that can be killed.
//
// It changes nothing on the machine, and everything it starts ends with the
// test.
package deployment

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/muster-cloud/muster/internal/config"
	"github.com/muster-cloud/muster/internal/custody"
	"github.com/muster-cloud/muster/internal/devcloud"
	"github.com/muster-cloud/muster/internal/devcloud/devcloudtest"
	"github.com/muster-cloud/muster/internal/devcloud/freeipa"
	"github.com/muster-cloud/muster/internal/server"
	"github.com/muster-cloud/muster/internal/store"
)

// Settings are options of the configuration file, by section.
type Settings map[string]map[string]string

// Options say what differs from the usual deployment.
type Options struct {
	// Database is a URL as SQLAlchemy writes it. Empty: a new SQLite file.
	Database string
	// FreeIPA adds one, which instances are enrolled in.
	FreeIPA bool
	// Settings are added to those that a deployment needs.
	Settings Settings
}

// Version is what the replicas say they are.
const Version = "v0.0.0-test"

// IPADomain is what the names of enrolled instances end in.
const IPADomain = "example.test"

// patient is the limit of what always comes, unless a test sets another: where
// the machine stalls, nobody may give up.
const patient = time.Minute

// ipaUser is who Muster is in FreeIPA.
const ipaUser = "nova/muster." + IPADomain

// Deployment is a cloud, a database and a configuration.
type Deployment struct {
	Cloud *devcloud.Cloud
	// Keystone is the way from Muster to the cloud's Keystone.
	Keystone *Gate
	// ToNova, ToNeutron and ToGlance are the ways from Muster to them.
	ToNova, ToNeutron, ToGlance *Gate
	// FreeIPA is the way from Muster to FreeIPA, if there is one.
	FreeIPA *Gate

	folder  string
	path    string // of the configuration file
	started int    // replicas in this process, each with a name of its own
}

// New starts the cloud, writes the configuration and prepares the database.
func New(t testing.TB, o Options) *Deployment {
	t.Helper()
	d := Prepare(t, o)
	if err := d.Upgrade(t.Context()); err != nil {
		t.Fatal(err)
	}
	return d
}

// Prepare is New without the database's schema.
func Prepare(t testing.TB, o Options) *Deployment {
	t.Helper()
	d := &Deployment{folder: t.TempDir()}
	cloud := devcloud.Config{VendordataTimeout: patient}
	if o.FreeIPA {
		cloud.FreeIPA = &freeipa.Config{Domain: IPADomain, Passwords: map[string]string{ipaUser: "secret"}}
	}
	d.Cloud = devcloudtest.Start(t, cloud)
	d.Keystone = NewGate(t, strings.TrimPrefix(d.Cloud.MetadataURL(), "http://"))
	for _, gate := range []**Gate{&d.ToNova, &d.ToNeutron, &d.ToGlance} {
		*gate = NewGate(t, strings.TrimPrefix(d.Cloud.MetadataURL(), "http://"))
	}
	d.path = filepath.Join(d.folder, "muster.conf")
	if o.Database == "" {
		o.Database = "sqlite:///" + d.SQLite()
	}
	keys := filepath.Join(d.folder, "master.key")
	write(t, keys, custody.NewMasterKey()+"\n")
	settings := Settings{
		"DEFAULT":  {"host": "test", "shutdown_timeout": patient.String(), "log_level": "error"},
		"database": {"connection": strings.ReplaceAll(o.Database, "$", "$$"), "max_retries": "0"},
		"keystone_authtoken": {
			"auth_url": "http://" + d.Keystone.Address() + "/identity/v3", "username": "muster", "user_domain_id": "default",
			"password": d.Cloud.Identity.Password("muster"), "project_name": "service", "project_domain_id": "default",
			"http_connect_timeout": patient.String(),
		},
		"custody": {"master_key_file": keys},
		// The tests' instances are not Nova's, and would be gone.
		"converge":   {"enabled": "false"},
		"api":        {"user_rate_limit": "0"},
		"nova":       {"endpoint_override": "http://" + d.ToNova.Address() + "/compute/v2.1"},
		"neutron":    {"endpoint_override": "http://" + d.ToNeutron.Address() + "/network"},
		"glance":     {"endpoint_override": "http://" + d.ToGlance.Address() + "/image"},
		"vendordata": {"api_endpoint": "http://127.0.0.1"},
		"listen:main": {
			"address": "127.0.0.1:0", "faces": "tatu, vendordata, instance, operator, health, metrics", "rate_limit": "0",
		},
	}
	if o.FreeIPA {
		maps.Copy(settings, d.enrolment(t))
	}
	for section, options := range o.Settings {
		if settings[section] == nil {
			settings[section] = map[string]string{}
		}
		maps.Copy(settings[section], options)
	}
	write(t, d.path, settings.text())
	return d
}

// enrolment lets Muster into FreeIPA, and returns how it gets there.
func (d *Deployment) enrolment(t testing.TB) Settings {
	t.Helper()
	if err := d.Cloud.FreeIPA.GrantHostManagement(ipaUser); err != nil {
		t.Fatal(err)
	}
	d.FreeIPA = NewGate(t, d.Cloud.FreeIPAAddress())
	write(t, filepath.Join(d.folder, "ipa-ca.crt"), string(d.Cloud.FreeIPA.CA()))
	return Settings{
		"ipa": {
			"servers": d.FreeIPA.Address(), "domain": IPADomain, "username": ipaUser, "password": "secret",
			"cafile": "ipa-ca.crt", "client_conf": "",
		},
		"enroll": {"enabled": "true", "answer_within": patient.String()},
		"api":    {"request_timeout": (2 * patient).String(), "user_rate_limit": "0"},
		"listen:main": {
			"address": "127.0.0.1:0", "faces": "tatu, vendordata, join, instance, operator, health, metrics", "rate_limit": "0",
		},
	}
}

// SQLite is the path of the SQLite file, if that is the database.
func (d *Deployment) SQLite() string { return filepath.Join(d.folder, "muster.db") }

// Upgrade brings the database's schema up to date, as `muster db upgrade` does.
func (d *Deployment) Upgrade(ctx context.Context) error {
	cfg, err := d.load()
	if err != nil {
		return err
	}
	opened, err := server.OpenStore(ctx, cfg, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		return err
	}
	_, err = opened.Upgrade(ctx)
	return errors.Join(err, opened.Close())
}

// OpenStore opens the database, for as long as the test runs, as a replica does.
func (d *Deployment) OpenStore(t testing.TB) (*config.Config, *store.Store) {
	t.Helper()
	cfg, err := d.load()
	if err != nil {
		t.Fatal(err)
	}
	opened, err := server.OpenStore(t.Context(), cfg, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- opened.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := errors.Join(<-ended, opened.Close()); err != nil {
			t.Error(err)
		}
	})
	return cfg, opened
}

func (d *Deployment) load() (*config.Config, error) { return load(d.path) }

func load(path string) (*config.Config, error) {
	cfg, err := config.Load(config.Options{Path: path})
	if err != nil {
		return nil, err
	}
	return cfg, cfg.Complete()
}

// Check is what `muster config check` finds: the sections whose services do not answer.
func (d *Deployment) Check(ctx context.Context) ([]config.Problem, error) {
	cfg, err := d.load()
	if err != nil {
		return nil, err
	}
	problems, _ := cfg.Check(ctx, server.Probes(cfg)...)
	return problems, nil
}

// Replica is a Muster in the test's process.
type Replica struct {
	URL    string
	Server *server.Server

	stop  context.CancelFunc
	ended chan struct{}
	err   error
}

// Start starts a replica, which ends with the test at the latest.
func (d *Deployment) Start(t testing.TB) *Replica {
	t.Helper()
	r, err := d.TryStart(t)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TryStart is Start for tests of what hinders it.
func (d *Deployment) TryStart(t testing.TB) (*Replica, error) {
	t.Helper()
	cfg, err := d.load()
	if err != nil {
		return nil, err
	}
	d.started++
	cfg.Host = fmt.Sprintf("%s-%d", cfg.Host, d.started)
	made, err := server.New(t.Context(), cfg, logger(cfg, t.Output()), Version)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	r := &Replica{URL: made.URL("tatu"), Server: made, stop: stop, ended: make(chan struct{})}
	go func() {
		defer close(r.ended)
		r.err = made.Run(ctx)
	}()
	t.Cleanup(func() {
		if err := r.Stop(); err != nil {
			t.Errorf("the replica ended with: %v", err)
		}
	})
	return r, nil
}

// BeginStop tells the replica to end. Stop waits for it.
func (r *Replica) BeginStop() { r.stop() }

// Stop ends the replica in order and returns what Run did.
func (r *Replica) Stop() error {
	r.stop()
	select {
	case <-r.ended:
		return r.err
	case <-time.After(startTimeout):
		return fmt.Errorf("it did not end within %v", startTimeout)
	}
}

// text is the configuration as a file. Sections come in the order of their names.
func (s Settings) text() string {
	var b strings.Builder
	for _, section := range slices.Sorted(maps.Keys(s)) {
		fmt.Fprintf(&b, "[%s]\n", section)
		for _, option := range slices.Sorted(maps.Keys(s[section])) {
			fmt.Fprintf(&b, "%s = %s\n", option, s[section][option])
		}
	}
	return b.String()
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

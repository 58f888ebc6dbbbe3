// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"golang.org/x/crypto/ssh"

	"github.com/muster-cloud/muster/internal/config"
	"github.com/muster-cloud/muster/internal/custody"
	"github.com/muster-cloud/muster/internal/devcloud"
	"github.com/muster-cloud/muster/internal/devcloud/freeipa"
	"github.com/muster-cloud/muster/internal/server"
	"github.com/muster-cloud/muster/test/services"
)

const (
	people   = 32 // users with a token
	projects = 8  // that they are spread over
	clients  = 32
)

// bench is what all rows share: the cloud, the database servers that were
// needed so far, and the folder for everything.
type bench struct {
	options
	folder    string
	cloud     *devcloud.Cloud
	cloudEnds func() error
	databases map[string]*services.Server
	rabbit    *services.RabbitMQ // nil until a row needs it
	persons   []person
	pollers   []person
	nova      string // tokens
	admin     string
	sites     int
	large     map[int]string // prepared SQLite files by number of certificates
}

// person is a user with a role in a project.
type person struct{ user, project, token string }

func newBench(o options) (*bench, error) {
	folder, err := os.MkdirTemp(o.dir, "muster-bench-")
	if err != nil {
		return nil, err
	}
	b := &bench{options: o, folder: folder, databases: map[string]*services.Server{}, large: map[int]string{}}
	if err := b.startCloud(); err != nil {
		return nil, errors.Join(err, b.close())
	}
	if o.profiles == "" {
		return b, nil
	}
	if b.profiles, err = filepath.Abs(o.profiles); err == nil {
		err = os.MkdirAll(b.profiles, 0o700)
	}
	return b, err
}

// startCloud runs the cloud in this process: with Muster's caches warm it has
// little to do.
func (b *bench) startCloud() error {
	var err error
	if b.cloud, err = devcloud.New(devcloud.Config{FreeIPA: &freeipa.Config{Domain: ipaDomain, Passwords: map[string]string{ipaUser: ipaPassword}}}); err != nil {
		return err
	}
	if err := b.cloud.FreeIPA.GrantHostManagement(ipaUser); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.cloud.Run(ctx) }()
	b.cloudEnds = func() error { cancel(); return <-done }

	cloud := b.cloud.Identity
	if b.nova, err = cloud.Token("nova", cloud.Password("nova"), "service"); err != nil {
		return err
	}
	if b.admin, err = cloud.Token("admin", cloud.Password("admin"), "admin"); err != nil {
		return err
	}
	for i := range people {
		p, err := b.newPerson(fmt.Sprintf("user%02d", i), fmt.Sprintf("project%d", i%projects))
		if err != nil {
			return err
		}
		b.persons = append(b.persons, p)
	}
	return nil
}

func (b *bench) newPerson(name, projectName string) (person, error) {
	cloud := b.cloud.Identity
	p := person{project: cloud.ProjectID(projectName)}
	var err error
	if p.project == "" {
		if p.project, err = cloud.CreateProject(projectName); err != nil {
			return p, err
		}
	}
	if p.user, err = cloud.CreateUser(name, name); err != nil {
		return p, err
	}
	if err = cloud.Grant(p.user, p.project, "member"); err != nil {
		return p, err
	}
	p.token, err = cloud.Token(name, name, projectName)
	return p, err
}

func (b *bench) close() error {
	var problems []error
	for _, s := range b.databases {
		problems = append(problems, s.Stop())
	}
	if b.rabbit != nil {
		problems = append(problems, b.rabbit.Stop())
	}
	if b.cloudEnds != nil {
		problems = append(problems, b.cloudEnds())
	}
	return errors.Join(append(problems, os.RemoveAll(b.folder))...)
}

// site is a Muster with its database.
type site struct {
	*child
	bench         *bench
	configuration string
	connection    string // of the database
	cloud         *devcloud.Cloud
	transport     string // transport_url; "" if nobody listens to notifications
	sections      string // more of the configuration
}

// notFollowing are the sections of a Muster that does not follow the cloud.
const notFollowing = "[converge]\nenabled = false\n"

// newSite starts Muster on a new database, configured otherwise than usual by change.
func (b *bench) newSite(ctx context.Context, engine string, change ...func(*site)) (*site, error) {
	connection, err := b.newDatabase(ctx, engine)
	if err != nil {
		return nil, err
	}
	return b.siteOn(ctx, connection, change...)
}

// newDatabase makes an empty database, and starts its server if it has one.
func (b *bench) newDatabase(ctx context.Context, engine string) (connection string, err error) {
	b.sites++
	if engine == "sqlite" {
		return "sqlite:///" + filepath.Join(b.folder, fmt.Sprintf("muster%d.db", b.sites)), nil
	}
	if b.databases[engine] == nil {
		start := map[string]func(context.Context) (*services.Server, error){
			"postgresql": services.StartPostgreSQL, "mariadb": services.StartMariaDB,
		}[engine]
		if b.databases[engine], err = start(ctx); err != nil {
			delete(b.databases, engine)
			return "", err
		}
	}
	return b.databases[engine].Database(ctx, fmt.Sprintf("muster%d", b.sites))
}

func (b *bench) siteOn(ctx context.Context, connection string, change ...func(*site)) (*site, error) {
	s := &site{bench: b, connection: connection, cloud: b.cloud, sections: notFollowing}
	for _, f := range change {
		f(s)
	}
	if err := s.configure(ctx); err != nil {
		return nil, err
	}
	return s, s.start()
}

func (s *site) start() (err error) {
	s.child, err = startChild(s.configuration)
	return err
}

// configure writes the configuration and the database's schema. The master key
// is the same for all sites, so that a prepared database fits each.
func (s *site) configure(ctx context.Context) error {
	folder := s.bench.folder
	keyFile := filepath.Join(folder, "master.key")
	if _, err := os.Stat(keyFile); errors.Is(err, os.ErrNotExist) {
		if err := os.WriteFile(keyFile, []byte(custody.NewMasterKey()), 0o600); err != nil {
			return err
		}
	}
	s.configuration = filepath.Join(folder, fmt.Sprintf("muster%d.conf", s.bench.sites))
	text := fmt.Sprintf(`[DEFAULT]
log_file = %[1]s/muster.log
transport_url = %[6]s
[database]
connection = %[2]s
[keystone_authtoken]
auth_url = %[3]s
username = muster
password = %[4]s
user_domain_name = Default
project_name = service
project_domain_name = Default
[custody]
master_key_file = %[5]s
[vendordata]
api_endpoint = http://192.0.2.1:18322
[api]
user_rate_limit = 0
[listen:main]
address = 127.0.0.1:0
faces = tatu, vendordata, join, instance, operator, health, metrics
rate_limit = 0
%[7]s`, folder, s.connection, s.cloud.AuthURL(), s.cloud.Identity.Password("muster"), keyFile, s.transport, s.sections)
	if err := os.WriteFile(s.configuration, []byte(text), 0o600); err != nil {
		return err
	}
	cfg, err := config.Load(config.Options{Path: s.configuration})
	if err != nil {
		return err
	}
	store, err := server.OpenStore(ctx, cfg, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		return err
	}
	_, err = store.Upgrade(ctx)
	return errors.Join(err, store.Close())
}

// measure runs a load, with profiles of the server if they are wanted.
func (s *site) measure(ctx context.Context, name string, l load) (t timing, err error) {
	l.address = s.address
	err = s.profiled(name, func() (err error) {
		t, err = l.run(ctx, s.process)
		return err
	})
	return t, err
}

// profiled does work, with profiles of the server if they are wanted.
func (s *site) profiled(name string, work func() error) error {
	if s.bench.profiles == "" {
		return work()
	}
	base := filepath.Join(s.bench.profiles, name)
	if err := s.order("profile " + base + ".cpu.pprof"); err != nil {
		return err
	}
	return errors.Join(work(), s.order("stop"), s.order("heap "+base+".heap.pprof"))
}

// request encodes a request with a token and, unless it is nil, a JSON body.
func (s *site) request(method, path, token string, body any) []byte {
	header := map[string]string{}
	if token != "" {
		header["X-Auth-Token"] = token
	}
	return s.requestWith(method, path, header, body)
}

func (s *site) requestWith(method, path string, header map[string]string, body any) []byte {
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			panic(err) // the bodies are maps of strings and numbers
		}
	}
	return encodeRequest(method, path, s.address, header, text)
}

// call sends one request and returns the answer's body.
func (s *site) call(ctx context.Context, request []byte, status int) ([]byte, error) {
	c, err := dial(ctx, s.address, nil)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	got, err := c.do(request)
	if err == nil && got != status {
		err = fmt.Errorf("%.60q: status %d, want %d: %.300s", request, got, status, c.body)
	}
	return c.body, err
}

// newKeys makes public keys as lines of authorized_keys.
func newKeys(n int) ([]string, error) {
	keys := make([]string, n)
	for i := range keys {
		public, _, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, err
		}
		key, err := ssh.NewPublicKey(public)
		if err != nil {
			return nil, err
		}
		line := ssh.MarshalAuthorizedKey(key)
		keys[i] = string(line[:len(line)-1])
	}
	return keys, nil
}

// newID makes an ID as OpenStack does.
func newID() string {
	var id [16]byte
	rand.Read(id[:])
	return hex.EncodeToString(id[:])
}

// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package dev runs Muster on SQLite beside a small OpenStack and FreeIPA, in one
// process on loopback, with nothing set up before: for `muster dev`, the demo
// and end-to-end tests.
//
// Muster itself runs as anywhere: it reads a configuration file, which is
// written for it, and knows the cloud by URLs alone. It is never meant for
// production: the cloud lives in memory, and all but FreeIPA listens without TLS.
package dev

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/muster-cloud/muster/internal/config"
	"github.com/muster-cloud/muster/internal/devcloud"
	"github.com/muster-cloud/muster/internal/devcloud/freeipa"
	"github.com/muster-cloud/muster/internal/server"
)

const (
	ipaDomain = "example.test"
	// ipaUser is who Muster is in FreeIPA.
	ipaUser = "nova/muster." + ipaDomain
	// reverseZone is that of network.Public.
	reverseZone = "113.0.203.in-addr.arpa"
)

// portTries bounds how often another free port is tried when somebody else
// took the one that was found.
const portTries = 5

// Config is what an Environment starts with.
type Config struct {
	// Dir takes the configuration, the master key, the database and the users'
	// environment files, and is made if missing. What Muster recorded there
	// before is kept. Empty: a temporary folder, removed at the end.
	Dir string
	// Listen is Muster's address. Port 0 is a free one. Default 127.0.0.1:0.
	Listen string
	// Version is Muster's, for its API's description. Default "(devel)".
	Version string
	// Programs is the folder with the agent's programs, which instances fetch.
	// Default: agent, beside this program. Without them nothing is offered.
	Programs string
	// Logger gets Muster's and the cloud's logs. Default: discarded.
	Logger *slog.Logger
}

// User is somebody who can log in to the cloud.
type User struct {
	Name, Password, Project string
	ID, ProjectID           string // 32 hexadecimal digits
	// File is a shell script that sets the OS_ variables of the openstack
	// client for this user.
	File string
}

// Environment is a Muster and a cloud whose sockets are open. They answer while
// Run runs; who connects before waits until then.
type Environment struct {
	Dir         string
	ConfigFile  string // Muster's muster.conf
	MusterURL   string // all faces
	KeystoneURL string // ending in /v3
	NovaURL     string // ending in /v2.1
	MetadataURL string // the root of Nova's metadata service
	NeutronURL  string // without version
	GlanceURL   string // without version
	FreeIPAURL  string // over HTTPS; see also ipa-ca.crt in the folder
	ReverseZone string // in FreeIPA's DNS, of the floating IPs
	Users       []User // admin of the cloud, and demo, a member of project demo
	Cloud       *devcloud.Cloud

	muster      *server.Server
	ipaPassword string
	temporary   bool
}

// New makes the environment ready. Run must follow, which also cleans up.
func New(ctx context.Context, cfg Config) (*Environment, error) {
	cfg.Logger = cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
	cfg.Version = cmp.Or(cfg.Version, "(devel)")
	e := &Environment{Dir: cfg.Dir}
	err := e.openFolder()
	if err == nil {
		err = e.startCloud(cfg)
	}
	if err == nil {
		err = e.startMuster(ctx, cfg)
	}
	if err != nil {
		if e.Cloud != nil {
			err = errors.Join(err, e.Cloud.Close())
		}
		return nil, errors.Join(err, e.removeFolder())
	}
	return e, nil
}

// Run serves until the context ends or something fails.
func (e *Environment) Run(ctx context.Context) error {
	// The cloud goes last: Muster finishes its requests with its help.
	cloud, stopCloud := context.WithCancel(context.WithoutCancel(ctx))
	group, running := errgroup.WithContext(ctx)
	group.Go(func() error { return e.Cloud.Run(cloud) })
	group.Go(func() error {
		defer stopCloud()
		return e.muster.Run(running)
	})
	return errors.Join(group.Wait(), e.removeFolder())
}

// User returns the user of that name, or an empty one.
func (e *Environment) User(name string) User {
	for _, user := range e.Users {
		if user.Name == name {
			return user
		}
	}
	return User{}
}

func (e *Environment) openFolder() error {
	var err error
	if e.Dir == "" {
		e.temporary = true
		e.Dir, err = os.MkdirTemp("", "muster-dev-")
		return err
	}
	if e.Dir, err = filepath.Abs(e.Dir); err != nil {
		return err
	}
	return os.MkdirAll(e.Dir, 0o700)
}

func (e *Environment) removeFolder() error {
	if !e.temporary {
		return nil
	}
	return os.RemoveAll(e.Dir)
}

func (e *Environment) startCloud(cfg Config) error {
	var err error
	e.ipaPassword = rand.Text()
	e.Cloud, err = devcloud.New(devcloud.Config{
		Logger:  cfg.Logger,
		FreeIPA: &freeipa.Config{Domain: ipaDomain, Passwords: map[string]string{ipaUser: e.ipaPassword}},
	})
	if err != nil {
		return err
	}
	if err := e.Cloud.FreeIPA.GrantHostManagement(ipaUser); err != nil {
		return err
	}
	e.ReverseZone = reverseZone
	if err := e.Cloud.FreeIPA.AddZone(reverseZone + "."); err != nil {
		return err
	}
	e.KeystoneURL, e.NovaURL, e.MetadataURL = e.Cloud.AuthURL(), e.Cloud.ComputeURL(), e.Cloud.MetadataURL()
	e.NeutronURL = e.Cloud.NetworkURL()
	e.GlanceURL, e.FreeIPAURL = e.Cloud.ImageURL(), "https://"+e.Cloud.FreeIPAAddress()
	for _, user := range []User{{Name: "admin", Project: "admin"}, {Name: "demo", Project: "demo"}} {
		user.Password = e.Cloud.Identity.Password(user.Name)
		user.ID, user.ProjectID = e.Cloud.Identity.UserID(user.Name), e.Cloud.Identity.ProjectID(user.Project)
		user.File = filepath.Join(e.Dir, user.Name+"-openrc.sh")
		if err := writeSecret(user.File, e.openrc(user)); err != nil {
			return err
		}
		e.Users = append(e.Users, user)
	}
	return nil
}

// startMuster opens Muster's listener. Its configuration names the port, which
// somebody else may take before Muster does.
func (e *Environment) startMuster(ctx context.Context, cfg Config) error {
	listen := cmp.Or(cfg.Listen, "127.0.0.1:0")
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return fmt.Errorf("the address %q: want host:port, such as 127.0.0.1:18322", listen)
	}
	if port != "0" {
		return e.tryMuster(ctx, cfg, host, port)
	}
	for range portTries {
		if port, err = freePort(host); err != nil {
			return err
		}
		if err = e.tryMuster(ctx, cfg, host, port); !errors.Is(err, syscall.EADDRINUSE) {
			break
		}
	}
	return err
}

// programFolder is where the agent's programs are.
func programFolder(given string) (string, error) {
	if given != "" {
		return filepath.Abs(given)
	}
	program, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find the agent's programs: %w", err)
	}
	return filepath.Join(filepath.Dir(program), "agent"), nil
}

func (e *Environment) tryMuster(ctx context.Context, cfg Config, host, port string) error {
	programs, err := programFolder(cfg.Programs)
	if err != nil {
		return err
	}
	if err := e.writeConfig(host, port, programs); err != nil {
		return err
	}
	// The environment of this process stays out: it may name a real Muster's database.
	loaded, err := config.Load(config.Options{Path: e.ConfigFile})
	if err != nil {
		return err
	}
	if err := loaded.Complete(); err != nil {
		return err
	}
	if err := upgrade(ctx, loaded, cfg.Logger); err != nil {
		return err
	}
	if e.muster, err = server.New(ctx, loaded, cfg.Logger, cfg.Version); err != nil {
		return err
	}
	e.MusterURL = e.muster.URL("vendordata")
	e.Cloud.Notifier.To(e.muster.Memory())
	e.Cloud.Identity.AddService("ssh", "tatu", e.MusterURL)
	return e.Cloud.Compute.SetVendordataTargets("muster@" + e.MusterURL + "/v1/vendordata")
}

func upgrade(ctx context.Context, cfg *config.Config, logger *slog.Logger) error {
	records, err := server.OpenStore(ctx, cfg, logger, prometheus.NewRegistry())
	if err != nil {
		return err
	}
	_, err = records.Upgrade(ctx)
	return errors.Join(err, records.Close())
}

func freePort(host string) (string, error) {
	listener, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return "", fmt.Errorf("looking for a free port: %w", err)
	}
	defer listener.Close()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	return port, err
}

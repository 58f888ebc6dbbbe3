// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/muster-cloud/muster/internal/config"
	"github.com/muster-cloud/muster/internal/custody"
	"github.com/muster-cloud/muster/internal/enroll"
	"github.com/muster-cloud/muster/internal/ipa"
	"github.com/muster-cloud/muster/internal/keystone"
	"github.com/muster-cloud/muster/internal/store"
)

// Probes try all that New and the first requests will need: the database and its schema, the master key, the policy,
// Keystone's login, FreeIPA and Glance if instances are enrolled, Nova if the cloud is followed, Neutron if addresses are,
// RabbitMQ and its queues, and each listener's address and TLS files. They change nothing, and may run beside a server.
func Probes(cfg *config.Config) []config.Probe {
	s := &Server{cfg: cfg, logger: slog.New(slog.DiscardHandler)}
	probes := []config.Probe{
		{Section: "database", Option: "connection", Tell: s.tellDatabase},
		{Section: "custody", Option: "master_key", Hint: "muster custody new-key makes one", Try: s.tryMasterKey},
		{Section: "oslo_policy", Option: "policy_file", Hint: "muster policy check says more", Try: s.tryPolicy},
		s.loginProbe("keystone_authtoken", cfg.KeystoneAuthToken.Auth),
	}
	if !cfg.ServiceCredentials.Same(cfg.KeystoneAuthToken.Auth) {
		probes = append(probes, s.loginProbe("service_credentials", cfg.ServiceCredentials))
	}
	if cfg.Enroll.Enabled {
		probes = append(probes,
			config.Probe{Section: "ipa", Option: "servers", Hint: "see that FreeIPA runs, and that it lets this principal in", Try: s.tryFreeIPA},
			config.Probe{Section: "ipa", Option: "principal", Hint: "see what was said of each, and docs/enrolment.md", Tell: s.tellRights},
			config.Probe{Section: "glance", Option: "interface", Hint: "see that Glance runs, and that Keystone's catalog has this endpoint", Try: s.tryGlance},
		)
	}
	if cfg.Converge.Enabled {
		probes = append(probes, config.Probe{Section: "nova", Option: "interface",
			Hint: "see that Nova runs, that Keystone's catalog has this endpoint, and that Muster's user has the role admin", Try: s.tryNova})
	}
	if cfg.Converge.Enabled && cfg.Neutron.Enabled {
		probes = append(probes, config.Probe{Section: "neutron", Option: "interface",
			Hint: "see that Neutron runs, that Keystone's catalog has this endpoint, and that Muster's user has the role admin", Try: s.tryNeutron})
	}
	if cfg.TransportURL != "" {
		probes = append(probes, config.Probe{Section: "DEFAULT", Option: "transport_url",
			Hint: "see that RabbitMQ runs, and that user, password, virtual host and rights are right", Tell: s.tellBroker})
	}
	for _, listener := range cfg.Listeners {
		section := "listen:" + listener.Name
		probes = append(probes, config.Probe{
			Section: section, Option: "address", Hint: "choose an address of this machine that the service's user may listen at",
			Try: func(ctx context.Context) error { return tryAddress(ctx, listener.Address) },
		})
		if listener.TLSCert != "" {
			probes = append(probes, config.Probe{
				Section: section, Option: "tls_cert", Hint: "give a PEM certificate and its own key in tls_key",
				Try: func(context.Context) error {
					_, err := tls.LoadX509KeyPair(listener.TLSCert, listener.TLSKey)
					return err
				},
			})
		}
	}
	return probes
}

// tellDatabase takes a schema that is old, or not there yet, for no fault:
// muster db upgrade, which the service runs as it starts, is what comes next.
func (s *Server) tellDatabase(ctx context.Context) ([]string, error) {
	settings := storeConfig(s.cfg, s.logger, nil)
	settings.MustExist = true
	settings.MaxRetries, settings.RetryInterval = 1, time.Second
	records, err := store.Open(ctx, settings)
	if errors.Is(err, fs.ErrNotExist) && s.sqliteFolderExists() {
		return []string{"The database's file is not there yet: muster db upgrade makes it."}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%w; see that it is there and lets Muster in", err)
	}
	err = records.CheckSchema(ctx)
	if errors.Is(err, store.ErrSchemaOld) {
		return []string{"The database's tables are not there yet, or are those of an older version: muster db upgrade makes them."}, records.Close()
	}
	return nil, errors.Join(err, records.Close())
}

// sqliteFolderExists reports whether a SQLite file can be made where it is
// meant to be. A path without its folder is a mistake.
func (s *Server) sqliteFolderExists() bool {
	_, path, ok := strings.Cut(string(s.cfg.Database.Connection), ":///")
	info, err := os.Stat(filepath.Dir(path))
	return ok && err == nil && info.IsDir()
}

func (s *Server) tryMasterKey(context.Context) error {
	_, err := custody.ParseKeyring(strings.NewReader(string(s.cfg.Custody.MasterKey)))
	return err
}

func (s *Server) tryPolicy(context.Context) error {
	_, err := readRules(s.cfg.Policy)
	return err
}

func (s *Server) loginProbe(section string, auth config.Auth) config.Probe {
	return config.Probe{
		Section: section, Option: "auth_url", Hint: "see that Keystone runs, and that user, password and project are right",
		Try: func(ctx context.Context) error {
			client, err := keystone.New(s.keystoneConfig(auth, nil))
			if err != nil {
				return err
			}
			return client.Check(ctx)
		},
	}
}

func (s *Server) tryFreeIPA(ctx context.Context) error {
	return s.withFreeIPA(func(client *ipa.Client) error {
		_, err := client.Ping(ctx)
		return err
	})
}

// withFreeIPA does something with a client of its own.
func (s *Server) withFreeIPA(do func(*ipa.Client) error) error {
	settings, _, err := s.ipaConfig()
	if err != nil {
		return err
	}
	client, err := ipa.New(settings)
	if err != nil {
		return err
	}
	defer client.Close()
	return do(client)
}

// tellRights says of each right that Muster needs in FreeIPA whether it has it. That one lacks is an error; that it cannot be seen is not,
// nor that FreeIPA does not answer, which tryFreeIPA tells.
func (s *Server) tellRights(ctx context.Context) (notes []string, err error) {
	if s.tryFreeIPA(ctx) != nil {
		return nil, nil
	}
	err = s.withFreeIPA(func(client *ipa.Client) error {
		standing, err := client.Standing(ctx)
		if err != nil {
			return fmt.Errorf("FreeIPA does not tell what Muster may do: %w", err)
		}
		var lacking []string
		for _, r := range enroll.Rights(standing, s.cfg.DNS.Enabled && s.cfg.Neutron.Enabled) {
			note := fmt.Sprintf("FreeIPA's right %q: %s (%s)", r.Permission, r.Verdict, r.Reason)
			if r.Command != "" {
				note += "; to give it: " + r.Command
			}
			notes = append(notes, note)
			if r.Verdict == enroll.Lacking {
				lacking = append(lacking, fmt.Sprintf("%q", r.Permission))
			}
		}
		if len(lacking) > 0 {
			return fmt.Errorf("%s lacks rights in FreeIPA: %s", standing.Principal, strings.Join(lacking, ", "))
		}
		return nil
	})
	return notes, err
}

func (s *Server) tryGlance(ctx context.Context) error {
	images, err := s.images(nil)
	if err != nil {
		return err
	}
	return images.Check(ctx)
}

func (s *Server) tryNova(ctx context.Context) error {
	nova, err := s.servers(nil)
	if err != nil {
		return err
	}
	return nova.CheckRights(ctx)
}

func (s *Server) tryNeutron(ctx context.Context) error {
	networks, err := s.networks(nil)
	if err != nil {
		return err
	}
	return networks.CheckRights(ctx)
}

// tryAddress listens for a moment. That somebody does already is no fault:
// most likely it is the Muster that runs with this configuration.
func tryAddress(ctx context.Context, address string) error {
	if path, isUnix := strings.CutPrefix(address, "unix:"); isUnix {
		_, err := os.Stat(filepath.Dir(path))
		return err
	}
	var listen net.ListenConfig
	socket, err := listen.Listen(ctx, "tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil
	}
	if err != nil {
		return err
	}
	return socket.Close()
}

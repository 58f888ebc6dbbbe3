// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package server puts the rooms together: it turns a configuration into a
// running Muster, starts what runs, and stops it in order. It is the one place
// that knows all rooms, and decides nothing by itself.
package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	"github.com/muster-cloud/muster/internal/address"
	"github.com/muster-cloud/muster/internal/api"
	"github.com/muster-cloud/muster/internal/api/description"
	"github.com/muster-cloud/muster/internal/api/health"
	"github.com/muster-cloud/muster/internal/api/instance"
	"github.com/muster-cloud/muster/internal/api/operator"
	"github.com/muster-cloud/muster/internal/api/tatu"
	"github.com/muster-cloud/muster/internal/api/vendordata"
	"github.com/muster-cloud/muster/internal/config"
	"github.com/muster-cloud/muster/internal/custody"
	"github.com/muster-cloud/muster/internal/keystone"
	"github.com/muster-cloud/muster/internal/notify"
	"github.com/muster-cloud/muster/internal/policy"
	"github.com/muster-cloud/muster/internal/sshca"
	"github.com/muster-cloud/muster/internal/store"
)

// Server is one replica of Muster.
type Server struct {
	cfg         *config.Config
	logger      *slog.Logger
	version     string
	registry    *prometheus.Registry
	store       *store.Store
	keyring     *custody.Keyring
	custody     *custody.Sealed
	tokens      *keystone.Client // validates callers' tokens
	directory   *keystone.Client // looks up users, projects and roles
	authority   *sshca.Service
	guard       *api.Guard
	enrolment   *enrolment       // nil: instances are not enrolled
	convergence *convergence     // nil: nothing follows the cloud
	memory      *notify.Memory   // where messages come from with memory://
	listener    *notify.Listener // nil without transport_url
	described   *description.Face
	health      *health.Face
	forgetting  *forgetting
	forgotten   uint64             // up to where forgettings do not concern us, for we remembered nothing then
	programs    *instance.Programs // the agent's
	apiCA       string             // PEM, for instances
	listeners   []*api.Listener
	reserve     []byte
}

// heapReserve is address space that is never touched and so costs no memory,
// but counts as heap. Muster's own data are a few megabytes, which the garbage
// collector would go through after each hundred requests; this has it wait for
// as much garbage again.
const heapReserve = 32 << 20

// New builds a server and opens its listeners, which answer once Run runs. It
// connects to the database and refuses one that does not fit this program,
// whose version stands in the API's description.
func New(ctx context.Context, cfg *config.Config, logger *slog.Logger, version string) (*Server, error) {
	s := &Server{cfg: cfg, logger: logger, version: version, registry: prometheus.NewRegistry(), reserve: make([]byte, heapReserve),
		memory: notify.NewMemory()}
	s.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if err := s.build(ctx); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func (s *Server) build(ctx context.Context) error {
	keyring, err := custody.ParseKeyring(strings.NewReader(string(s.cfg.Custody.MasterKey)))
	if err != nil {
		return fmt.Errorf("[custody] master_key: %w", err)
	}
	s.keyring, s.custody = keyring, custody.NewSealed(keyring)
	rules, err := s.loadRules()
	if err != nil {
		return err
	}
	if err := s.buildKeystone(); err != nil {
		return err
	}
	if s.store, err = OpenStore(ctx, s.cfg, s.logger, s.registry); err != nil {
		return err
	}
	if err := s.store.CheckSchema(ctx); err != nil {
		return fmt.Errorf("[database] connection: %w", err)
	}
	s.forgetting = newForgetting(s.store, s.forgetHere, s.logger)
	if s.forgotten, err = s.store.NewestForgetting(ctx); err != nil {
		return fmt.Errorf("[database] connection: %w", err)
	}
	s.guard = api.NewGuard(s.tokens, rules, s.store, api.NewRateLimiter(s.cfg.API.UserRateLimit, s.cfg.API.UserRateBurst))
	if s.authority, err = sshca.New(s.authorityConfig(keyring)); err != nil {
		return fmt.Errorf("[ssh]: %w", err)
	}
	if err := s.buildEnrolment(keyring); err != nil {
		return err
	}
	if err := s.buildConvergence(); err != nil {
		return err
	}
	if err := s.buildListener(); err != nil {
		return err
	}
	if err := s.buildAgent(); err != nil {
		return err
	}
	if s.described, err = description.New(s.version); err != nil {
		return err
	}
	return s.listen()
}

// OpenStore connects to the configured database.
func OpenStore(ctx context.Context, cfg *config.Config, logger *slog.Logger, registerer prometheus.Registerer) (*store.Store, error) {
	opened, err := store.Open(ctx, storeConfig(cfg, logger, registerer))
	if err != nil {
		return nil, fmt.Errorf("[database] connection: %w", err)
	}
	return opened, nil
}

func storeConfig(cfg *config.Config, logger *slog.Logger, registerer prometheus.Registerer) store.Config {
	db := cfg.Database
	return store.Config{
		URL:         string(db.Connection),
		MaxPoolSize: db.MaxPoolSize, MaxOverflow: db.MaxOverflow,
		ConnectionRecycleTime: db.ConnectionRecycleTime, PoolTimeout: db.PoolTimeout,
		MaxRetries: db.MaxRetries, RetryInterval: db.RetryInterval,
		Logger: logger, Registerer: registerer,
	}
}

func (s *Server) loadRules() (*policy.Enforcer, error) {
	rules, err := readRules(s.cfg.Policy)
	if err != nil {
		return nil, fmt.Errorf("[oslo_policy] policy_file: %w", err)
	}
	for _, warning := range rules.Warnings() {
		s.logger.Warn("Policy", "warning", warning)
	}
	return rules, nil
}

func readRules(cfg config.Policy) (*policy.Enforcer, error) {
	rules, err := policy.Load(cfg.PolicyFile, policy.Defaults())
	if errors.Is(err, fs.ErrNotExist) && cfg.Optional {
		return policy.Load("", policy.Defaults())
	}
	return rules, err
}

// buildKeystone makes one client, or two where tokens are validated as
// somebody else than looked up: each has caches and a login of its own.
func (s *Server) buildKeystone() error {
	auth := s.cfg.KeystoneAuthToken
	var err error
	s.tokens, err = keystone.New(s.keystoneConfig(auth.Auth, s.labelled("tokens")))
	if err != nil {
		return fmt.Errorf("[keystone_authtoken]: %w", err)
	}
	s.directory = s.tokens
	if s.cfg.ServiceCredentials.Same(auth.Auth) {
		return nil
	}
	s.directory, err = keystone.New(s.keystoneConfig(s.cfg.ServiceCredentials, s.labelled("directory")))
	if err != nil {
		return fmt.Errorf("[service_credentials]: %w", err)
	}
	return nil
}

// labelled tells the metrics of the two clients apart.
func (s *Server) labelled(purpose string) prometheus.Registerer {
	return prometheus.WrapRegistererWith(prometheus.Labels{"client": purpose}, s.registry)
}

func (s *Server) keystoneConfig(auth config.Auth, registerer prometheus.Registerer) keystone.Config {
	return keystone.Config{
		AuthURL: auth.AuthURL.String(), AuthType: auth.AuthType,
		Username: auth.Username, UserID: auth.UserID, Password: string(auth.Password),
		UserDomainName: auth.UserDomainName, UserDomainID: auth.UserDomainID,
		ProjectName: auth.ProjectName, ProjectID: auth.ProjectID,
		ProjectDomainName: auth.ProjectDomainName, ProjectDomainID: auth.ProjectDomainID,
		ApplicationCredentialID: auth.ApplicationCredentialID, ApplicationCredentialName: auth.ApplicationCredentialName,
		ApplicationCredentialSecret: string(auth.ApplicationCredentialSecret),
		CAFile:                      auth.CAFile, Insecure: auth.Insecure, Timeout: auth.HTTPConnectTimeout,
		TokenCacheTime: s.cfg.KeystoneAuthToken.TokenCacheTime, RoleCacheTime: s.cfg.KeystoneAuthToken.RoleCacheTime,
		Logger:     s.logger,
		Registerer: registerer,
	}
}

func (s *Server) authorityConfig(keyring *custody.Keyring) sshca.Config {
	ssh := s.cfg.SSH
	roles := make(map[string]sshca.RoleRule, len(s.cfg.Roles))
	accounts := make(map[string]string, len(ssh.RoleAccounts))
	for role, account := range ssh.RoleAccounts {
		accounts[role] = account
	}
	for _, role := range s.cfg.Roles {
		roles[role.Name] = sshca.RoleRule{
			Lifetime: role.Lifetime, Extensions: role.Extensions, SourceAddress: role.SourceAddress, ForceCommand: role.ForceCommand,
		}
		if role.Account != "" {
			accounts[role.Name] = role.Account
		}
	}
	return sshca.Config{
		Store: s.store, Custody: s.custody, Sealer: keyring, Directory: s.directory, Names: address.NewBook(s.store, address.Domains{Added: ssh.HostDomains, Trusted: s.cfg.Neutron.TrustedDomains}),
		Algorithm: custody.Algorithm(ssh.CAAlgorithm), CALifetime: ssh.CALifetime, MinRSABits: ssh.MinRSABits, ClockSkew: ssh.ClockSkew,
		User: sshca.UserRules{
			Accounts: sshca.AccountRules{Accounts: accounts, Prefix: ssh.AccountPrefix, Reserved: ssh.ExtraSystemAccounts},
			Lifetime: ssh.UserCertLifetime, MaxLifetime: ssh.UserCertMaxLifetime, Extensions: ssh.Extensions, Roles: roles,
		},
		Host: sshca.HostRules{
			Lifetime: ssh.HostCertLifetime, TokenLifetime: ssh.HostTokenLifetime,
			Unnamed: ssh.HostCertPrincipals == "none", SharedKeys: sshca.SharedKeys(ssh.SharedHostKeys),
		},
		Booted: s.changed, Logger: s.logger, Registerer: s.registry,
	}
}

// listen opens all listeners that have something to serve, or none.
func (s *Server) listen() error {
	metrics := api.NewMetrics(s.registry)
	s.health = health.New(s.logger, s.checks()...)
	for _, cfg := range s.cfg.Listeners {
		served := s.served(cfg)
		if len(served) == 0 {
			s.logger.Info("Not listening: enrolment is not enabled", "listener", cfg.Name)
			continue
		}
		router := api.NewRouter(api.RouterConfig{
			Logger: s.logger, Metrics: metrics, TrustedProxies: s.cfg.API.TrustedProxies,
			PublicURL: text(s.cfg.API.PublicURL), KeystoneURL: text(s.cfg.KeystoneAuthToken.WWWAuthenticateURI),
			MaxBody: int64(s.cfg.API.MaxBody), MaxPage: s.cfg.API.MaxPage,
			RequestTimeout: s.cfg.API.RequestTimeout, Errors: errorShape(served),
		}, s.faces(cfg, served)...)
		listener, err := api.Listen(api.ListenerConfig{
			Name: cfg.Name, Address: cfg.Address, Handler: router,
			CertFile: cfg.TLSCert, KeyFile: cfg.TLSKey, ClientCAFile: cfg.ClientCA,
			RequestTimeout: s.cfg.API.RequestTimeout, Logger: s.logger,
		})
		if err != nil {
			return fmt.Errorf("[listen:%s] %w", cfg.Name, err)
		}
		s.listeners = append(s.listeners, listener)
		s.logger.Info("Listening", "listener", cfg.Name, "url", listener.URL(), "faces", served)
	}
	return nil
}

// served are the names of a listener's faces that there is something behind.
func (s *Server) served(listener *config.Listener) []string {
	return slices.DeleteFunc(slices.Clone(listener.Faces), func(face string) bool { return face == "join" && s.enrolment == nil })
}

// errorShape is novajoin's on a listener that serves no other protocol.
func errorShape(served []string) api.ErrorShape {
	for _, face := range served {
		if face != "join" && face != "health" && face != "metrics" {
			return api.TitledError
		}
	}
	if slices.Contains(served, "join") {
		return vendordata.NamedError
	}
	return api.TitledError
}

func (s *Server) faces(listener *config.Listener, served []string) []api.Face {
	// The instance face is made even where it is not served: Tatu has its
	// calls under its own paths too.
	rate := api.NewRateLimiter(listener.RateLimit, listener.RateBurst)
	instances := instance.New(s.instanceConfig(rate))
	var faces []api.Face
	for _, name := range served {
		switch name {
		case "tatu":
			faces = append(faces, tatu.New(tatu.Config{
				Guard: s.guard, Authority: s.authority, Records: s.store, Users: s.directory,
				CreateHostCert: rate.Limited(instances.CreateHostCert), ShowRevokedKeys: instances.ShowRevokedKeys,
			}))
			faces = append(faces, s.described)
		case "vendordata":
			faces = append(faces, vendordata.New(s.vendordataConfig()))
		case "join":
			faces = append(faces, vendordata.NewJoin(s.guard, s.enrolment.answers))
		case "instance":
			faces = append(faces, instances)
		case "operator":
			faces = append(faces, operator.New(s.operatorConfig()))
		case "health":
			faces = append(faces, s.health)
		case "metrics":
			faces = append(faces, metricsFace{s.registry})
		}
	}
	return faces
}

func (s *Server) vendordataConfig() vendordata.Config {
	cfg := vendordata.Config{
		Guard: s.guard, Hosts: s.authority, Accounts: s.accounts(), Programs: s.programs,
		SSHPort: s.cfg.Vendordata.SSHPort, PAMSudo: s.cfg.Vendordata.PAMSudo,
		APIEndpoint: text(s.cfg.Vendordata.APIEndpoint), APICA: s.apiCA,
	}
	if s.enrolment != nil {
		cfg.Enrolment = s.enrolment.answers
	}
	return cfg
}

func (s *Server) operatorConfig() operator.Config {
	cfg := operator.Config{Guard: s.guard, Authority: s.authority, Records: s.store, Sessions: sessions{s}, Events: events{s}, Health: s.health}
	if s.enrolment != nil {
		cfg.Enrolments = s.enrolment.service
	}
	if s.convergence != nil {
		cfg.Comparison = s.convergence.comparison
	}
	return cfg
}

// checks are Muster's neighbours. It is not ready without those that each request needs; without an
// optional one it does the rest, and catches up later, which another replica could not do better.
func (s *Server) checks() []health.Check {
	checks := []health.Check{
		{Name: "database", Try: s.store.Ping},
		{Name: "keystone", Try: s.checkKeystone},
		{Name: "custody", Try: s.custody.Check},
	}
	if s.enrolment != nil {
		checks = append(checks, health.Check{Name: "ipa", Try: s.enrolment.check, Optional: true},
			health.Check{Name: "glance", Try: s.enrolment.images.Check, Optional: true})
	}
	if s.convergence != nil {
		checks = append(checks, health.Check{Name: "nova", Try: s.convergence.nova.CheckRights, Optional: true})
		if s.convergence.neutron != nil {
			checks = append(checks, health.Check{Name: "neutron", Try: s.convergence.neutron.CheckRights, Optional: true})
		}
	}
	if s.listener != nil {
		checks = append(checks, health.Check{Name: "rabbitmq", Try: s.listener.Subscribed, Optional: true})
	}
	return checks
}

func (s *Server) checkKeystone(ctx context.Context) error {
	err := s.tokens.Check(ctx)
	if s.directory != s.tokens {
		err = errors.Join(err, s.directory.Check(ctx))
	}
	return err
}

// sessions forgets a user in every cache of every replica.
type sessions struct{ server *Server }

// ForgetUser implements operator.Sessions.
func (c sessions) ForgetUser(id string) {
	c.server.forgetting.forget(forgetUser, id)
}

// metricsFace serves Prometheus.
type metricsFace struct{ registry *prometheus.Registry }

// Name implements api.Face.
func (metricsFace) Name() string { return "metrics" }

// Register implements api.Face.
func (m metricsFace) Register(router *api.Router) {
	router.HandleHTTP("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
}

// URL returns where the first listener with the face answers, or nothing.
func (s *Server) URL(face string) string {
	for _, listener := range s.listeners {
		for _, cfg := range s.cfg.Listeners {
			if cfg.Name == listener.Name() && slices.Contains(cfg.Faces, face) {
				return listener.URL()
			}
		}
	}
	return ""
}

// Run serves until the context ends or something fails. Then, in this order:
// no new requests are taken, those that run are finished, the records that
// they queued are committed, and the database is closed.
func (s *Server) Run(ctx context.Context) error {
	writing, stopWriting := context.WithCancel(context.WithoutCancel(ctx))
	var writer errgroup.Group
	writer.Go(func() error { return s.store.Run(writing) })

	group, running := errgroup.WithContext(ctx)
	for _, listener := range s.listeners {
		group.Go(func() error { return listener.Serve(running, s.cfg.ShutdownTimeout) })
	}
	group.Go(func() error { return s.authority.Feed().Run(running) })
	group.Go(func() error { return s.forgetting.run(running, s.forgotten) })
	if s.enrolment != nil {
		group.Go(func() error { return s.enrolment.service.Run(running) })
	}
	group.Go(func() error { return s.prune(running) })
	if s.convergence != nil {
		s.convergence.run(running, group)
	}
	if s.listener != nil {
		group.Go(func() error { return s.listener.Run(running) })
	}
	err := group.Wait()
	stopWriting()
	return errors.Join(err, writer.Wait(), s.store.Close())
}

// Reload takes over what may change while Muster runs: policy rules and TLS
// certificates. What cannot be read stays as it was, and is reported.
func (s *Server) Reload() error {
	rules, err := s.loadRules()
	if err == nil {
		s.guard.SetRules(rules)
	}
	problems := []error{err}
	for _, listener := range s.listeners {
		if err := listener.Reload(); err != nil {
			problems = append(problems, fmt.Errorf("[listen:%s] %w", listener.Name(), err))
		}
	}
	return errors.Join(problems...)
}

// close undoes a build that failed.
func (s *Server) close() error {
	var problems []error
	for _, listener := range s.listeners {
		problems = append(problems, listener.Close())
	}
	if s.store != nil {
		problems = append(problems, s.store.Close())
	}
	return errors.Join(problems...)
}

// prune removes what is no longer needed, in one replica at a time.
func (s *Server) prune(ctx context.Context) error {
	begun := time.Now()
	newest, err := s.store.NewestAudit(ctx)
	if err != nil && ctx.Err() == nil {
		s.logger.Warn("Cannot tell by the records how far the clock may be believed; the database server's will do", "error", err)
	}
	tick := time.NewTicker(s.cfg.Prune.Interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := s.pruneOnce(ctx, believable(newest, time.Since(begun))); err != nil && ctx.Err() == nil {
			s.logger.Warn("Cannot remove old records; will try again", "error", err)
		}
	}
}

// pruneBatch keeps each transaction short.
const pruneBatch = 1000

// maxIdle is how long nothing may have been recorded before a process began.
const maxIdle = 24 * time.Hour

// believable is the latest that it can be after a process has run for so long, by a clock that nobody sets, and its
// records were this new when it began. A clock that was set far ahead would make everything old at once. After a longer
// rest, what is old goes so much later.
func believable(newest time.Time, elapsed time.Duration) time.Time {
	if newest.IsZero() {
		return newest
	}
	return newest.Add(maxIdle + elapsed)
}

// pruneOnce takes it for no later than the database server's clock says, nor than the given time, if there is one.
func (s *Server) pruneOnce(ctx context.Context, latest time.Time) error {
	held, err := s.store.Lease(ctx, "prune", s.cfg.Host, s.cfg.Prune.Interval)
	if err != nil || !held {
		return err
	}
	now := time.Now()
	clock, err := s.store.Clock(ctx)
	if err != nil {
		return err
	}
	if latest.IsZero() || clock.Before(latest) {
		latest = clock
	}
	if now.Sub(latest) > time.Hour {
		s.logger.Warn("The clock is far ahead of the database server's, or of the records; what is old is removed by those", "clock", now, "taken for", latest)
	}
	if latest.Before(now) {
		now = latest
	}
	for _, step := range []struct {
		remove func(context.Context, time.Time, int) (int, error)
		before time.Time
	}{
		{s.store.PruneExpired, now.Add(-s.cfg.Prune.CertificateRetention)},
		{s.store.PruneAudit, now.Add(-s.cfg.Audit.Retention)},
	} {
		for removed := pruneBatch; removed > 0; {
			if removed, err = step.remove(ctx, step.before, pruneBatch); err != nil {
				return err
			}
		}
	}
	return nil
}

func text(u *url.URL) string {
	if u == nil {
		return ""
	}
	return strings.TrimRight(u.String(), "/")
}

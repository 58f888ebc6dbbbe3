// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package ipa calls FreeIPA: JSON-RPC over HTTPS with a session cookie, got with a Kerberos keytab or a password. It
// finds the servers, logs in once for all callers, goes on with another server when one fails, bounds what is in flight,
// and says of each error what can be done about it.
//
// It never decides what should be in FreeIPA, never sends a command a second time that may have been carried out unless
// that does no harm (Command.SafeToRepeat), never follows a redirect, and never shows a password.
package ipa

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/singleflight"

	"github.com/muster-cloud/muster/internal/outage"
)

// Config says how to reach FreeIPA. Zero fields get the defaults that are named.
type Config struct {
	// Servers are the FreeIPA servers as HOST or HOST:PORT, the preferred one first. Empty: those that the DNS names for
	// Domain (SRV records of _ldap._tcp, as FreeIPA's own clients do).
	Servers []string
	// Domain is the DNS domain of FreeIPA. Required if Servers and First are empty.
	Domain string
	// First is the server that an enrolled machine was enrolled with. If Servers is empty it is asked before those that the DNS
	// names for Domain, and while it works the DNS is not asked.
	First string
	// Resolver looks the SRV records up; the system's if nil.
	Resolver *net.Resolver
	// Port is the HTTPS port of servers that the DNS names; 443.
	Port int

	// RootCAs verify the servers' certificates; the system's if nil.
	RootCAs *x509.CertPool

	// Exactly one of Kerberos and Password says how to log in.
	Kerberos *Kerberos
	Password *Password

	// Timeout bounds one call, log-in and fail-over included; 30 s. A caller's earlier deadline counts.
	Timeout time.Duration
	// DialTimeout bounds connecting and the TLS handshake, each; 2 s.
	DialTimeout time.Duration
	// LoginTimeout bounds one log-in; 10 s.
	LoginTimeout time.Duration
	// MaxInFlight is the number of calls that one server works on at once; 8.
	MaxInFlight int
	// MaxAnswer is the size of the largest answer that is read, in bytes; 16 MiB.
	MaxAnswer int64
	// BackoffMin and BackoffMax bound how long a server is left alone that failed; 200 ms and 10 s.
	BackoffMin, BackoffMax time.Duration

	// Registerer gets the metrics; none if nil.
	Registerer prometheus.Registerer
	// Logger gets failures and fail-overs; none if nil.
	Logger *slog.Logger
	// Now is the clock; time.Now.
	Now func() time.Time
}

// Password logs in with a name and a password, for set-ups without Kerberos.
type Password struct {
	User     string
	Password Secret
}

const (
	// idleConnection is shorter than the 5 s after which Apache closes idle connections by default: a command that goes
	// out while the server closes would fail, and nobody would know whether it was carried out.
	idleConnection = 4 * time.Second

	discoverEvery   = 10 * time.Minute // how old the servers' list from the DNS may be
	discoverTrouble = 30 * time.Second // the same while no server works
	rejectedFirst   = time.Second      // how long no log-in is tried after the credentials were refused, at first
	rejectedMost    = time.Minute      // and at most: FreeIPA locks accounts that fail often
)

// Client calls FreeIPA. It is safe for any number of goroutines.
type Client struct {
	cfg     Config
	http    *http.Client
	metrics *metrics

	lookups singleflight.Group

	refusal outage.Outage // of all servers: what they want of us is in one directory
	looking outage.Outage // in the DNS

	first *server // Config.First, if that counts

	mu         sync.Mutex
	servers    []*server // in the order of preference
	preferred  *server   // the one that worked last, unless it has failed since
	last       *server   // the one that answered last
	discovered time.Time // when the DNS was asked
	rejected   backoff   // log-in refused: by all servers, as they share one directory
}

// New checks the configuration and makes a client. It makes no connection.
func New(cfg Config) (*Client, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	c := &Client{cfg: cfg}
	var err error
	if c.metrics, err = newMetrics(cfg.Registerer); err != nil {
		return nil, fmt.Errorf("register the metrics of the FreeIPA client: %w", err)
	}
	c.http = &http.Client{
		Transport: &http.Transport{
			DialContext:            (&net.Dialer{Timeout: cfg.DialTimeout}).DialContext,
			TLSHandshakeTimeout:    cfg.DialTimeout,
			TLSClientConfig:        &tls.Config{RootCAs: cfg.RootCAs, MinVersion: tls.VersionTLS12},
			MaxIdleConnsPerHost:    cfg.MaxInFlight,
			MaxConnsPerHost:        2 * cfg.MaxInFlight, // calls and log-ins
			IdleConnTimeout:        idleConnection,
			MaxResponseHeaderBytes: 64 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	names := cfg.Servers
	if len(names) == 0 && cfg.First != "" {
		names = []string{cfg.First}
	}
	for _, name := range names {
		s, err := c.newServer(name)
		if err != nil {
			return nil, err
		}
		c.servers = append(c.servers, s)
	}
	if len(cfg.Servers) == 0 && cfg.First != "" {
		c.first = c.servers[0]
	}
	return c, nil
}

// complete fills the defaults in and refuses what does not fit.
func (cfg *Config) complete() error {
	if len(cfg.Servers) == 0 && cfg.Domain == "" && cfg.First == "" {
		return errors.New("no FreeIPA server: name the servers, or the domain whose DNS names them")
	}
	if (cfg.Kerberos == nil) == (cfg.Password == nil) {
		return errors.New("no way to log in to FreeIPA: give a keytab and its principal, or a user and password, not both")
	}
	if cfg.Kerberos != nil {
		if err := cfg.Kerberos.check(); err != nil {
			return err
		}
	}
	if cfg.Password != nil && (cfg.Password.User == "" || cfg.Password.Password == "") {
		return errors.New("log-in to FreeIPA by password: user or password is empty")
	}
	defaults := func(d *time.Duration, value time.Duration) {
		if *d == 0 {
			*d = value
		}
	}
	defaults(&cfg.Timeout, 30*time.Second)
	defaults(&cfg.DialTimeout, 2*time.Second)
	defaults(&cfg.LoginTimeout, 10*time.Second)
	defaults(&cfg.BackoffMin, 200*time.Millisecond)
	defaults(&cfg.BackoffMax, 10*time.Second)
	if cfg.Port == 0 {
		cfg.Port = 443
	}
	if cfg.MaxInFlight == 0 {
		cfg.MaxInFlight = 8
	}
	if cfg.MaxAnswer == 0 {
		cfg.MaxAnswer = 16 << 20
	}
	if cfg.Timeout < 0 || cfg.DialTimeout < 0 || cfg.LoginTimeout < 0 || cfg.MaxInFlight < 0 || cfg.MaxAnswer < 0 ||
		cfg.BackoffMin < 0 || cfg.BackoffMax < cfg.BackoffMin || cfg.Port < 0 || cfg.Port > 65535 {
		return errors.New("FreeIPA client: a limit or time-out is negative or out of its range")
	}
	if cfg.Resolver == nil {
		cfg.Resolver = net.DefaultResolver
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return nil
}

// Close drops idle connections. Calls in flight go on.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Servers returns the names of the servers: those configured, or those that the DNS named so far.
func (c *Client) Servers() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	names := make([]string, len(c.servers))
	for i, s := range c.servers {
		names[i] = s.name
	}
	return names
}

// pick returns the server to ask: the one that worked last, else the next in order that is not in back-off and not among
// those tried. If there is none it returns nil and what to tell the caller.
func (c *Client) pick(tried map[*server]bool) (*server, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.cfg.Now()
	if wait := c.rejected.wait(now); wait > 0 {
		return nil, c.rejected.cause
	}
	var soonest *server
	candidates := c.servers
	if c.preferred != nil {
		candidates = append([]*server{c.preferred}, c.servers...)
	}
	for _, s := range candidates {
		switch {
		case tried[s]:
		case s.trouble.wait(now) <= 0:
			return s, nil
		case soonest == nil || s.trouble.until.Before(soonest.trouble.until):
			soonest = s
		}
	}
	if soonest == nil {
		return nil, nil
	}
	return nil, &UnavailableError{RetryAfter: soonest.trouble.wait(now), Err: soonest.trouble.cause}
}

// succeeded makes the server the preferred one. The log says when it is back, and when it has taken over.
func (c *Client) succeeded(ctx context.Context, s *server) {
	c.mu.Lock()
	s.trouble, c.rejected = backoff{}, backoff{}
	before := c.last
	c.preferred, c.last = s, s
	c.mu.Unlock()
	s.away.Note(ctx, c.cfg.Logger, s.use(), nil)
	c.refusal.Note(ctx, c.cfg.Logger, logIn, nil)
	if before != nil && before != s {
		c.cfg.Logger.InfoContext(ctx, "FreeIPA calls now go to another server", "server", s.name, "before", before.name)
	}
}

// failed leaves the server alone for a while. Refused credentials stop all log-ins for a while.
func (c *Client) failed(ctx context.Context, s *server, err error) {
	// The end of the caller's time may be the failure itself.
	ctx = context.WithoutCancel(ctx)
	var login *LoginError
	if errors.As(err, &login) && login.Rejected {
		c.mu.Lock()
		c.rejected.fail(c.cfg.Now(), rejectedFirst, rejectedMost, err)
		c.mu.Unlock()
		c.refusal.Note(ctx, c.cfg.Logger, logIn, err)
		return
	}
	c.mu.Lock()
	if c.preferred == s {
		c.preferred = nil
	}
	s.trouble.fail(c.cfg.Now(), c.cfg.BackoffMin, c.cfg.BackoffMax, err)
	c.mu.Unlock()
	s.away.Note(ctx, c.cfg.Logger, s.use(), err)
}

// What the log says cannot, or can again, be done.
const (
	logIn  = "log in to FreeIPA"
	lookUp = "look FreeIPA's servers up in the DNS"
)

func (s *server) use() string { return "use FreeIPA server " + s.name }

// discover asks the DNS for the servers where none are configured and the list is old. An old list that can't be
// renewed stays in use.
func (c *Client) discover(ctx context.Context) error {
	if len(c.cfg.Servers) > 0 || c.cfg.Domain == "" || !c.listIsOld() {
		return nil
	}
	found := c.lookups.DoChan("servers", func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.cfg.LoginTimeout)
		defer cancel()
		_, records, err := c.cfg.Resolver.LookupSRV(ctx, "ldap", "tcp", c.cfg.Domain)
		c.looking.Note(context.WithoutCancel(ctx), c.cfg.Logger, lookUp, err)
		return nil, c.adopt(records, err)
	})
	select {
	case answer := <-found:
		return answer.Err
	case <-ctx.Done():
		return fmt.Errorf(lookUp+": %w", ctx.Err())
	}
}

func (c *Client) listIsOld() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.cfg.Now()
	age := now.Sub(c.discovered)
	if len(c.servers) == 0 || (age >= discoverEvery && c.cfg.First == "") {
		return true
	}
	for _, s := range c.servers {
		if s.trouble.wait(now) <= 0 {
			return false
		}
	}
	return age >= discoverTrouble
}

// adopt takes over what the DNS answered, in its order; servers known before keep their session.
func (c *Client) adopt(records []*net.SRV, err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	known := map[string]*server{}
	for _, s := range c.servers {
		known[s.address] = s
	}
	var servers []*server
	for _, record := range records {
		host := strings.TrimSuffix(record.Target, ".")
		s, problem := c.newServer(net.JoinHostPort(host, fmt.Sprint(c.cfg.Port)))
		if problem != nil || (c.first != nil && s.address == c.first.address) {
			continue
		}
		if old := known[s.address]; old != nil {
			s = old
		}
		servers = append(servers, s)
	}
	if len(servers) == 0 {
		if len(c.servers) > 0 {
			c.discovered = c.cfg.Now().Add(discoverTrouble - discoverEvery)
			if c.first != nil {
				c.discovered = c.cfg.Now()
			}
			return nil
		}
		if err == nil {
			err = errors.New("no such records")
		}
		err = fmt.Errorf("look up _ldap._tcp.%s in the DNS: %w", c.cfg.Domain, err)
		return &UnavailableError{RetryAfter: discoverTrouble, Err: err}
	}
	if c.first != nil {
		servers = append([]*server{c.first}, servers...)
	}
	c.servers, c.discovered = servers, c.cfg.Now()
	if !slices.Contains(servers, c.preferred) {
		c.preferred = nil
	}
	return nil
}

// backoff remembers failures in a row and until when nothing is tried.
type backoff struct {
	failures int
	until    time.Time
	cause    error
}

// fail doubles the time with each failure. Failures of calls that were under way together count once.
func (b *backoff) fail(now time.Time, first, most time.Duration, cause error) {
	b.cause = cause
	if now.Before(b.until) {
		return
	}
	wait := most
	if b.failures < 20 {
		wait = min(most, first<<b.failures)
	}
	b.failures++
	b.until = now.Add(wait)
}

func (b *backoff) wait(now time.Time) time.Duration { return b.until.Sub(now) }

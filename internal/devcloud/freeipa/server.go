// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package freeipa is a FreeIPA server in one process, as far as Muster uses one: its JSON-RPC end point over HTTPS with
// sessions, password and Kerberos login, hosts, services, DNS, permissions and the enrolment of a host with its
// one-time password. It answers as a FreeIPA 4.9.11 was recorded to answer, error codes and texts included.
//
// It is for development, the demo and tests. It keeps everything in memory, passwords in clear, and never belongs
// in production.
package freeipa

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/jcmturner/gokrb5/v8/keytab"
)

const (
	release    = "4.9.11"
	apiVersion = "2.251"
	maxBody    = 16 << 20
)

// Config describes the FreeIPA server to play.
type Config struct {
	// Domain is the DNS domain, for example "example.test". Required.
	Domain string
	// Realm is the Kerberos realm; the domain in capitals if empty.
	Realm string
	// Host is the server's own name; "ipa." + Domain if empty. The host entry of this name can't be deleted.
	Host string
	// Names are further names and addresses by which clients reach the server: they go into its certificate and are
	// accepted in the Referer header. "localhost" and "127.0.0.1" are always among them.
	Names []string
	// Passwords holds what login_password accepts, by user or service principal without realm. "admin" is an
	// administrator; any other principal may do what its roles permit.
	Passwords map[string]string
	// Keytab returns the keys of the service HTTP/Host, to accept Kerberos. It is asked at each Kerberos login, so that
	// keys may change. Nil: no Kerberos, password login only.
	Keytab func() (*keytab.Keytab, error)
	// Caller, if not nil, returns whom a web server in front of this one has let in with a request. With a status other than
	// 200 the request gets that. The web server then has the sessions.
	Caller func(*http.Request) (principal string, status int)
	// SessionLife is how long a session lives at most; 20 minutes if zero. A Kerberos session also ends with its ticket.
	SessionLife time.Duration
	// Now and Random replace the clock and the source of randomness in tests.
	Now    func() time.Time
	Random io.Reader
}

// Server is one FreeIPA server with its directory. Its methods may be called at any time from any goroutine.
type Server struct {
	cfg       Config
	authority *authority
	commands  map[string]command

	sessionsMu sync.Mutex
	sessions   map[string]session

	faultMu sync.Mutex
	fault   func(command string) Fault
	calls   map[string]int

	// mu guards the directory: one command, or one batch item, at a time.
	mu  sync.Mutex
	dir *directory
}

// New makes a server whose directory holds what a fresh installation has: the server's own host and services, and the
// domain's DNS zone. It starts nothing.
func New(cfg Config) (*Server, error) {
	if cfg.Domain == "" || strings.HasPrefix(cfg.Domain, ".") || strings.HasSuffix(cfg.Domain, ".") {
		return nil, errors.New("freeipa: Config.Domain must be a domain name without leading or trailing dot")
	}
	cfg.Domain = strings.ToLower(cfg.Domain)
	if cfg.Realm == "" {
		cfg.Realm = strings.ToUpper(cfg.Domain)
	}
	if cfg.Host == "" {
		cfg.Host = "ipa." + cfg.Domain
	}
	if cfg.SessionLife == 0 {
		cfg.SessionLife = 20 * time.Minute
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Random == nil {
		cfg.Random = rand.Reader
	}
	cfg.Names = append([]string{cfg.Host, "localhost", "127.0.0.1"}, cfg.Names...)
	ca, err := newAuthority(cfg)
	if err != nil {
		return nil, fmt.Errorf("freeipa: make the certificate authority: %w", err)
	}
	s := &Server{
		cfg:       cfg,
		authority: ca,
		sessions:  map[string]session{},
		calls:     map[string]int{},
		dir:       newDirectory(cfg),
	}
	s.commands = s.commandTable()
	return s, nil
}

// Realm returns the Kerberos realm.
func (s *Server) Realm() string { return s.cfg.Realm }

// HostName returns the server's own host name.
func (s *Server) HostName() string { return s.cfg.Host }

// CA returns the certificate of the authority that signed the server's certificate, in PEM: what a real server gives
// as /etc/ipa/ca.crt.
func (s *Server) CA() []byte { return s.authority.pem }

// TLS returns the server side's TLS settings, with a certificate for all of the server's names.
func (s *Server) TLS() *tls.Config {
	return &tls.Config{
		Certificates: []tls.Certificate{s.authority.server},
		MinVersion:   tls.VersionTLS12,
		NextProtos:   []string{"http/1.1"},
	}
}

// Serve answers HTTPS on the listener until ctx ends, then closes all connections. It returns nil after that.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	server := &http.Server{
		Handler:           s.Handler(),
		TLSConfig:         s.TLS(),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          log.New(io.Discard, "", 0), // a client that hangs up is no news
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	err := server.ServeTLS(listener, "", "")
	if ctx.Err() != nil && errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// Handler returns the HTTP face: /ipa/json, /ipa/session/json, /ipa/session/login_password,
// /ipa/session/login_kerberos and /ipa/config/ca.crt.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/ipa/json", s.serveRPC)
	mux.HandleFunc("/ipa/session/json", s.serveRPC)
	mux.HandleFunc("/ipa/session/login_password", s.servePasswordLogin)
	mux.HandleFunc("/ipa/session/login_kerberos", s.serveKerberosLogin)
	mux.HandleFunc("GET /ipa/config/ca.crt", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/x-x509-ca-cert")
		_, _ = w.Write(s.authority.pem)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		w.Header().Set("Server", "Apache/2.4.71 (Debian)")
		w.Header().Set("X-Frame-Options", "DENY")
		w.Header().Set("Content-Security-Policy", "frame-ancestors 'none'")
		mux.ServeHTTP(w, r)
	})
}

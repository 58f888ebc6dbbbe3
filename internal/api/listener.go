// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// ListenerConfig is one address that Muster serves.
type ListenerConfig struct {
	Name    string
	Address string // host:port, or unix:/path
	Handler http.Handler

	CertFile, KeyFile string // PEM; empty: plain HTTP
	ClientCAFile      string // PEM; if set, clients need a certificate of it

	RequestTimeout time.Duration // for reading a request, and for making its answer (see RouterConfig)
	Logger         *slog.Logger
}

const (
	headerTimeout = 10 * time.Second
	idleTimeout   = 2 * time.Minute
	maxHeader     = 32 << 10 // Keystone's tokens are below 8 kB
	// silentTime is how long, from the shutdown, a connection on which nobody
	// has ever asked may stay open.
	silentTime = 500 * time.Millisecond
)

// Listener is an open address. It answers once Serve runs.
type Listener struct {
	cfg    ListenerConfig
	server *http.Server
	socket net.Listener
	tls    atomic.Pointer[tls.Config] // of new connections

	mu     sync.Mutex
	silent map[net.Conn]struct{} // on which nobody has asked yet
}

// Listen opens the address and reads the certificate. Its errors name the
// option that is at fault.
func Listen(cfg ListenerConfig) (*Listener, error) {
	l := &Listener{cfg: cfg, silent: map[net.Conn]struct{}{}}
	l.server = &http.Server{
		Handler:           cfg.Handler,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       cfg.RequestTimeout,
		WriteTimeout:      cfg.RequestTimeout + answerTime,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ConnState:         l.follow,
		ErrorLog:          slog.NewLogLogger(cfg.Logger.Handler(), slog.LevelDebug),
	}
	if err := l.Reload(); err != nil {
		return nil, err
	}
	socket, err := open(cfg.Address)
	if err != nil {
		return nil, fmt.Errorf("address: %w", err)
	}
	if cfg.CertFile != "" {
		socket = tls.NewListener(socket, &tls.Config{
			MinVersion:         tls.VersionTLS12,
			GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return l.tls.Load(), nil },
		})
	}
	l.socket = socket
	return l, nil
}

func open(address string) (net.Listener, error) {
	path, isUnix := strings.CutPrefix(address, "unix:")
	if !isUnix {
		return net.Listen("tcp", address)
	}
	// A socket that a killed process left is in the way; one that answers is not ours to remove.
	if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
		conn.Close()
		return nil, fmt.Errorf("somebody listens at %s already", path)
	}
	if info, err := os.Lstat(path); err == nil && info.Mode()&os.ModeSocket != 0 {
		_ = os.Remove(path)
	}
	return net.Listen("unix", path)
}

// Reload reads the certificate, and the authorities of clients, again. If that
// fails, all stays as it was. Connections that are open go on.
func (l *Listener) Reload() error {
	if l.cfg.CertFile == "" {
		return nil
	}
	config, err := l.readTLS()
	if err != nil {
		return err
	}
	l.tls.Store(config)
	return nil
}

func (l *Listener) readTLS() (*tls.Config, error) {
	certificate, err := tls.LoadX509KeyPair(l.cfg.CertFile, l.cfg.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("tls_cert: read %s and %s: %w", l.cfg.CertFile, l.cfg.KeyFile, err)
	}
	config := &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}, Certificates: []tls.Certificate{certificate},
	}
	if l.cfg.ClientCAFile == "" {
		return config, nil
	}
	pem, err := os.ReadFile(l.cfg.ClientCAFile)
	if err != nil {
		return nil, fmt.Errorf("client_ca: %w", err)
	}
	config.ClientCAs = x509.NewCertPool()
	if !config.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("client_ca: %s holds no PEM certificate", l.cfg.ClientCAFile)
	}
	config.ClientAuth = tls.RequireAndVerifyClientCert
	return config, nil
}

// Name is the listener's name in the configuration.
func (l *Listener) Name() string { return l.cfg.Name }

// URL is where the listener answers.
func (l *Listener) URL() string {
	address := l.socket.Addr()
	if address.Network() == "unix" {
		return "unix:" + address.String()
	}
	if l.cfg.CertFile != "" {
		return "https://" + address.String()
	}
	return "http://" + address.String()
}

// Serve answers requests until the context ends. Then it takes no new ones
// and waits for those that run, but not longer than the grace. Long polls
// answer at once then (see [Request.Waiting]).
func (l *Listener) Serve(ctx context.Context, grace time.Duration) error {
	requests, end := context.WithCancelCause(context.WithoutCancel(ctx))
	defer end(nil)
	base := context.WithValue(requests, drainKey{}, ctx)
	l.server.BaseContext = func(net.Listener) context.Context { return base }
	failed := make(chan error, 1)
	go func() { failed <- l.server.Serve(l.socket) }()
	select {
	case err := <-failed:
		return fmt.Errorf("listener %s: %w", l.cfg.Name, err)
	case <-ctx.Done():
	}
	limit, cancel := context.WithTimeout(requests, grace)
	defer cancel()
	defer time.AfterFunc(silentTime, l.closeSilent).Stop()
	err := l.server.Shutdown(limit)
	if errors.Is(err, context.DeadlineExceeded) {
		end(errEnding)
		return errors.Join(fmt.Errorf("listener %s: requests were still running after %v", l.cfg.Name, grace), l.server.Close())
	}
	return err
}

// follow is told of each change of a connection's state.
func (l *Listener) follow(conn net.Conn, state http.ConnState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if state == http.StateNew {
		l.silent[conn] = struct{}{}
	} else {
		delete(l.silent, conn)
	}
}

// closeSilent closes the connections on which nobody has asked yet. Clients keep
// such in store; http.Server.Shutdown takes them for requests that are about to
// come, and waits more than five seconds for each.
func (l *Listener) closeSilent() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for conn := range l.silent {
		_ = conn.Close() // the server notices
	}
}

// Close closes a listener that was never served.
func (l *Listener) Close() error { return l.socket.Close() }

// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func serve(t *testing.T, cfg ListenerConfig) (l *Listener, stop func() error) {
	t.Helper()
	cfg.Logger = slog.New(slog.DiscardHandler)
	if cfg.RequestTimeout == 0 {
		cfg.RequestTimeout = time.Minute
	}
	l, err := Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- l.Serve(ctx, time.Minute) }()
	stop = func() error {
		cancel()
		err := <-served
		served <- err
		return err
	}
	t.Cleanup(func() { _ = stop() })
	return l, stop
}

func get(client *http.Client, url string) (string, error) {
	response, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return string(body), err
}

func TestShutdownFinishesWhatRuns(t *testing.T) {
	running, finish := make(chan bool), make(chan bool)
	router := newRouter(io.Discard, face{
		"GET /slow": func(*Request) (Response, error) { running <- true; <-finish; return Response{Body: "done"}, nil },
		"GET /wait": func(r *Request) (Response, error) {
			ctx, cancel := r.Waiting(time.Hour)
			defer cancel()
			running <- true
			<-ctx.Done()
			return Response{Body: "told to answer"}, nil
		},
	})
	l, stop := serve(t, ListenerConfig{Address: "127.0.0.1:0", Handler: router})
	answers := make(chan string, 2)
	for _, path := range []string{"/slow", "/wait"} {
		go func() {
			body, err := get(http.DefaultClient, l.URL()+path)
			if err != nil {
				body = err.Error()
			}
			answers <- body
		}()
		<-running
	}
	stopped := make(chan error, 1)
	go func() { stopped <- stop() }()
	if got := <-answers; got != `"told to answer"` {
		t.Errorf("the long poll got %s", got)
	}
	close(finish)
	if got := <-answers; got != `"done"` {
		t.Errorf("the slow request got %s", got)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if _, err := get(http.DefaultClient, l.URL()+"/slow"); err == nil {
		t.Error("a request was taken after the shutdown")
	}
}

// TestShutdownIgnoresSilentConnections: clients open connections in store, and
// may never ask on them.
func TestShutdownIgnoresSilentConnections(t *testing.T) {
	router := newRouter(io.Discard, face{"GET /x": func(*Request) (Response, error) { return Response{Body: "ok"}, nil }})
	l, stop := serve(t, ListenerConfig{Address: "127.0.0.1:0", Handler: router})
	silent, err := net.Dial("tcp", l.socket.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	// Connections are accepted in their order: now the server has the silent one.
	if got, err := get(http.DefaultClient, l.URL()+"/x"); err != nil || got != `"ok"` {
		t.Fatalf("got %s, %v", got, err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// readTime is short for a long poll, and long enough to read a request on a
// machine that is busy.
const readTime = 3 * time.Second

func TestLongPollOutlivesTheTimeouts(t *testing.T) {
	t.Parallel()
	release := make(chan bool)
	router := newRouter(io.Discard, face{"GET /wait": func(r *Request) (Response, error) {
		ctx, cancel := r.Waiting(time.Minute)
		defer cancel()
		select {
		case <-ctx.Done():
			return Response{Body: "cut off"}, nil
		case <-release:
			return Response{Body: "waited"}, nil
		}
	}})
	l, _ := serve(t, ListenerConfig{Address: "127.0.0.1:0", Handler: router, RequestTimeout: readTime})
	time.AfterFunc(2*readTime, func() { close(release) })
	if got, err := get(http.DefaultClient, l.URL()+"/wait"); err != nil || got != `"waited"` {
		t.Errorf("got %s, %v", got, err)
	}
}

func TestReloadTakesTheNewCertificate(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	writeCertificate(t, cert, key, 1)
	router := newRouter(io.Discard, face{"GET /x": func(*Request) (Response, error) { return Response{Body: "ok"}, nil }})
	l, _ := serve(t, ListenerConfig{Address: "127.0.0.1:0", Handler: router, CertFile: cert, KeyFile: key})
	served := func() int64 {
		conn, err := tls.Dial("tcp", l.socket.Addr().String(), &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}
	if got := served(); got != 1 {
		t.Fatalf("certificate %d", got)
	}
	writeCertificate(t, cert, key, 2)
	if err := l.Reload(); err != nil || served() != 2 {
		t.Errorf("after the reload: certificate %d, %v", served(), err)
	}
	if err := os.WriteFile(cert, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := l.Reload(); err == nil || served() != 2 {
		t.Errorf("after a bad reload: certificate %d, %v; want the old one and an error", served(), err)
	}
}

// TestTLSSpeaksHTTP2, long polls included.
func TestTLSSpeaksHTTP2(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	writeCertificate(t, cert, key, 1)
	router := newRouter(io.Discard, face{"GET /wait": func(r *Request) (Response, error) {
		ctx, cancel := r.Waiting(2 * readTime)
		defer cancel()
		<-ctx.Done()
		return Response{Body: r.Proto}, nil
	}})
	l, _ := serve(t, ListenerConfig{Address: "127.0.0.1:0", Handler: router, CertFile: cert, KeyFile: key, RequestTimeout: readTime})
	transport := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	defer transport.CloseIdleConnections()
	for range 2 {
		if got, err := get(&http.Client{Transport: transport}, l.URL()+"/wait"); err != nil || got != `"HTTP/2.0"` {
			t.Errorf("got %s, %v", got, err)
		}
	}
}

// TestReloadTakesTheNewClientCA: certificates of an authority that was replaced
// let nobody in any more.
func TestReloadTakesTheNewClientCA(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	for serial, name := range []string{"server", "old", "new"} {
		writeCertificate(t, path(name+".crt"), path(name+".key"), int64(serial+1))
	}
	trust := func(name string) {
		t.Helper()
		text, err := os.ReadFile(path(name + ".crt"))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path("clients.crt"), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	trust("old")
	router := newRouter(io.Discard, face{"GET /x": func(*Request) (Response, error) { return Response{Body: "ok"}, nil }})
	l, _ := serve(t, ListenerConfig{Address: "127.0.0.1:0", Handler: router, CertFile: path("server.crt"), KeyFile: path("server.key"),
		ClientCAFile: path("clients.crt")})
	lets := func(name string) bool {
		t.Helper()
		pair, err := tls.LoadX509KeyPair(path(name+".crt"), path(name+".key"))
		if err != nil {
			t.Fatal(err)
		}
		transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{
			InsecureSkipVerify:   true,
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil },
		}}
		_, err = get(&http.Client{Transport: transport}, l.URL()+"/x")
		return err == nil
	}
	if !lets("old") || lets("new") {
		t.Fatalf("at first: old %v, new %v", lets("old"), lets("new"))
	}
	trust("new")
	if err := l.Reload(); err != nil || lets("old") || !lets("new") {
		t.Errorf("after the reload: old %v, new %v; %v", lets("old"), lets("new"), err)
	}
	if err := os.WriteFile(path("clients.crt"), []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := l.Reload(); err == nil || lets("old") || !lets("new") {
		t.Errorf("after a bad reload: old %v, new %v; %v", lets("old"), lets("new"), err)
	}
}

func writeCertificate(t *testing.T, certFile, keyFile string, serial int64) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: fmt.Sprint(serial)}, NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "muster.sock")
	router := newRouter(io.Discard, face{"GET /x": func(r *Request) (Response, error) { return Response{Body: r.Remote}, nil }})
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}}
	// What a killed process left behind is no obstacle.
	left, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	left.(*net.UnixListener).SetUnlinkOnClose(false)
	left.Close()
	serve(t, ListenerConfig{Address: "unix:" + path, Handler: router})
	if got, err := get(client, "http://muster/x"); err != nil || got != `"unix"` {
		t.Errorf("got %s, %v", got, err)
	}
	if _, err := Listen(ListenerConfig{Address: "unix:" + path, Logger: slog.New(slog.DiscardHandler)}); err == nil {
		t.Error("took a socket that somebody else serves")
	}
}

// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package freeipa

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

// ask sends one command with a session and returns the answer's result and error.
func ask(t testing.TB, handler http.Handler, cookie, body string) (result, trouble map[string]any) {
	t.Helper()
	r := httptest.NewRequest(http.MethodPost, "https://ipa.example.test/ipa/session/json", strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Referer", "https://ipa.example.test/ipa")
	r.Header.Set("Cookie", cookie)
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	var answer struct{ Result, Error map[string]any }
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
		t.Fatalf("status %d: %v: %s", w.Code, err, w.Body)
	}
	return answer.Result, answer.Error
}

// TestJoinOverHTTP enrols a host with nothing but HTTPS: log-in with the one-time password, then join. Both work once.
func TestJoinOverHTTP(t *testing.T) {
	s := newTestServer(t, Config{})
	handler := s.Handler()
	if err := s.AddHost("vm1.example.test", "otp-1"); err != nil {
		t.Fatal(err)
	}
	if err := s.AddHost("vm2.example.test", "otp-2"); err != nil {
		t.Fatal(err)
	}
	cookie := passwordLogin(t, handler, "host/vm1.example.test", "otp-1")
	_, trouble := ask(t, handler, cookie, `{"method": "join", "params": [["vm2.example.test"], {"version": "2.251"}], "id": 0}`)
	if trouble == nil || trouble["name"] != "ACIError" {
		t.Fatalf("one host joins another: %v", trouble)
	}
	result, trouble := ask(t, handler, cookie,
		`{"method": "join", "params": [["vm1.example.test"], {"nsosversion": "debian 12", "version": "2.251"}], "id": 0}`)
	if trouble != nil || result["result"].(map[string]any)["has_keytab"] != true {
		t.Fatalf("join: %v %v", result, trouble)
	}
	if h, _ := s.Host("vm1.example.test"); !h.HasKeytab || h.HasPassword || h.Attributes["nsosversion"][0] != "debian 12" {
		t.Errorf("after joining: %+v", h)
	}
	if _, trouble = ask(t, handler, cookie, `{"method": "join", "params": [["vm1.example.test"], {"version": "2.251"}], "id": 0}`); trouble == nil {
		t.Error("the same session joins a second time")
	}
	form := url.Values{"user": {"host/vm1.example.test"}, "password": {"otp-1"}}
	r := httptest.NewRequest(http.MethodPost, "https://ipa.example.test/ipa/session/login_password", strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Referer", "https://ipa.example.test/ipa")
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	if w.Code != http.StatusUnauthorized {
		t.Errorf("the one-time password serves a second time: %d", w.Code)
	}
	if err := s.Join("vm1.example.test", "otp-1"); !errors.Is(err, ErrInvalidCredentials) {
		t.Errorf("second Join: %v", err)
	}
	if err := s.Join("vm1.example.test", ""); !errors.Is(err, ErrInvalidCredentials) {
		t.Errorf("Join without a password: %v", err)
	}
}

// TestRights gives rights one by one and sees each command allowed by its own.
func TestRights(t *testing.T) {
	s := newTestServer(t, Config{Passwords: map[string]string{novaPrincipal: "nova-password"}})
	handler := s.Handler()
	cookie := passwordLogin(t, handler, novaPrincipal, "nova-password")
	allowed := func(body string) bool {
		_, trouble := ask(t, handler, cookie, body)
		return trouble == nil
	}
	const add = `{"method": "host_add", "params": [["%s.example.test"], {"force": true, "userpassword": "x", "version": "2.251"}], "id": 0}`
	if allowed(fmt.Sprintf(add, "a")) {
		t.Error("a principal without rights adds a host")
	}
	if err := s.GrantHostManagement(novaPrincipal); err != nil {
		t.Fatal(err)
	}
	if err := s.GrantHostManagement(novaPrincipal); err != nil {
		t.Errorf("granting twice: %v", err)
	}
	if !allowed(fmt.Sprintf(add, "a")) {
		t.Error("a host manager can't add a host")
	}
	for _, body := range []string{
		`{"method": "host_mod", "params": [["a.example.test"], {"description": "x", "version": "2.251"}], "id": 0}`,
		`{"method": "role_add", "params": [["x"], {"version": "2.251"}], "id": 0}`,
		`{"method": "permission_del", "params": [["System: Add Hosts"], {"version": "2.251"}], "id": 0}`,
		`{"method": "host_del", "params": [["ipa.example.test"], {"version": "2.251"}], "id": 0}`,
		`{"method": "service_del", "params": [["HTTP/ipa.example.test"], {"version": "2.251"}], "id": 0}`,
		`{"method": "host_disable", "params": [["ipa.example.test"], {"version": "2.251"}], "id": 0}`,
	} {
		if allowed(body) {
			t.Errorf("a host manager may do %s", body)
		}
	}
}

// TestServe talks to the server over TLS with its CA, and sees it end with its context.
func TestServe(t *testing.T) {
	s := newTestServer(t, Config{})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, listener) }()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(s.CA())
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}, Timeout: time.Minute}
	response, err := client.Get("https://" + listener.Addr().String() + "/ipa/config/ca.crt")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(response.Body)
	_ = response.Body.Close()
	if string(body) != string(s.CA()) {
		t.Errorf("ca.crt: %s", body)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Serve: %v", err)
	}
}

// TestManyAtOnce has many callers change and read the same entries; the race detector is the judge, and the end is right.
func TestManyAtOnce(t *testing.T) {
	s := newTestServer(t, Config{Passwords: map[string]string{"admin": "p"}})
	handler := s.Handler()
	cookie := passwordLogin(t, handler, "admin", "p")
	for _, name := range []string{"a", "b"} {
		if err := s.AddHost(name+".example.test", "otp"); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.AddService("HTTP/a.example.test"); err != nil {
		t.Fatal(err)
	}
	var added sync.Map
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			ask(t, handler, cookie, `{"method": "batch", "params": [[
				{"method": "service_add_host", "params": [["HTTP/a.example.test"], {"host": ["b.example.test"]}]},
				{"method": "service_remove_host", "params": [["HTTP/a.example.test"], {"host": ["b.example.test"]}]},
				{"method": "host_show", "params": [["a.example.test"], {"all": true}]},
				{"method": "dnsrecord_add", "params": [["example.test."], {}]}], {}], "id": 0}`)
			_, trouble := ask(t, handler, cookie, `{"method": "host_add", "params": [["same.example.test"], {"force": true}], "id": 0}`)
			if trouble == nil {
				added.Store(i, true)
			}
			s.Hosts()
			s.Services()
			s.Records("example.test")
		})
	}
	wg.Wait()
	count := 0
	added.Range(func(any, any) bool { count++; return true })
	if count != 1 {
		t.Errorf("%d of 40 added the same host", count)
	}
}

func TestConfigIsChecked(t *testing.T) {
	for _, domain := range []string{"", ".example.test", "example.test."} {
		if _, err := New(Config{Domain: domain}); err == nil {
			t.Errorf("domain %q is accepted", domain)
		}
	}
	s, err := New(Config{Domain: "Example.Test"})
	if err != nil || s.Realm() != "EXAMPLE.TEST" || s.HostName() != "ipa.example.test" {
		t.Errorf("defaults: %v, %v", s, err)
	}
}

// FuzzRPC sends any body with all rights: the server always answers JSON.
func FuzzRPC(f *testing.F) {
	s, err := New(Config{Domain: "example.test", Passwords: map[string]string{"admin": "p"}})
	if err != nil {
		f.Fatal(err)
	}
	if err := s.AddHost("vm1.example.test", "otp"); err != nil {
		f.Fatal(err)
	}
	handler := s.Handler()
	form := url.Values{"user": {"admin"}, "password": {"p"}}
	r := httptest.NewRequest(http.MethodPost, "https://ipa.example.test/ipa/session/login_password", strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Referer", "https://ipa.example.test/ipa")
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	cookie, _, _ := strings.Cut(w.Header().Get("Set-Cookie"), ";")
	for _, method := range []string{"host_add", "host_mod", "host_del", "service_add", "service_add_host", "dnsrecord_add", "dnsrecord_del",
		"dnszone_add", "batch", "permission_add", "role_add_member", "hostgroup_add_member", "automember_add_condition", "join"} {
		f.Add(fmt.Sprintf(`{"method": "%s", "params": [["vm1.example.test", {"__dns_name__": "x"}], {"arecord": ["1.2.3.4", null], "host": [[1]]}], "id": 0}`, method))
		f.Add(fmt.Sprintf(`{"method": "batch", "params": [[{"method": "%s", "params": [[[null], 1], {"cn": {}}]}, 7], {}], "id": [0]}`, method))
	}
	f.Add(`{"method": null, "params": [[], null], "id": 0}`)
	f.Fuzz(func(t *testing.T, body string) {
		ask(t, handler, cookie, body)
	})
}

// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package ipa

import (
	"bufio"
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestRequest sends requests to servers written in each way, and reads them as a web server does. FreeIPA's rewrite rules
// (ipa-rewrite.conf of 4.9 to 4.13) want the server's own name in Host and nothing else, and its framework a Referer that begins
// with https://NAME/ipa.
func TestRequest(t *testing.T) {
	for _, test := range []struct{ written, host, referer string }{
		{"ipa.example.test", "ipa.example.test", "https://ipa.example.test/ipa"},
		{"ipa.example.test:443", "ipa.example.test", "https://ipa.example.test/ipa"},
		{"IPA.Example.Test.", "ipa.example.test", "https://ipa.example.test/ipa"},
		{"IPA.Example.Test.:443", "ipa.example.test", "https://ipa.example.test/ipa"},
		{"ipa.example.test:8443", "ipa.example.test:8443", "https://ipa.example.test/ipa"},
		{"192.0.2.1", "192.0.2.1", "https://192.0.2.1/ipa"},
		{"FD00::1", "[fd00::1]", "https://[fd00::1]/ipa"},
		{"[fd00::1]", "[fd00::1]", "https://[fd00::1]/ipa"},
		{"[fd00::1]:443", "[fd00::1]", "https://[fd00::1]/ipa"},
		{"[fd00::1]:8443", "[fd00::1]:8443", "https://[fd00::1]/ipa"},
	} {
		t.Run(test.written, func(t *testing.T) {
			c, err := New(Config{Servers: []string{test.written}, Password: &Password{User: "u", Password: "p"}})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			r, err := c.servers[0].request(t.Context(), "/ipa/session/json", "application/json", []byte("{}"))
			if err != nil {
				t.Fatal(err)
			}
			var wire bytes.Buffer
			if err := r.Write(&wire); err != nil {
				t.Fatal(err)
			}
			got, err := http.ReadRequest(bufio.NewReader(&wire))
			if err != nil {
				t.Fatal(err)
			}
			if got.Host != test.host || got.Referer() != test.referer {
				t.Errorf("Host %q, Referer %q; want %q, %q", got.Host, got.Referer(), test.host, test.referer)
			}
			if got.Method != http.MethodPost || got.URL.Path != "/ipa/session/json" || got.Header.Get("Content-Type") != "application/json" {
				t.Errorf("%s %s, %v", got.Method, got.URL, got.Header)
			}
		})
	}
	for _, written := range []string{"", ":443", ".", "[]", "[fd00::1", "fd00::1]", "fe80::1%eth0", "a:b", "a:70000"} {
		if _, err := New(Config{Servers: []string{written}, Password: &Password{User: "u", Password: "p"}}); err == nil {
			t.Errorf("%q is taken for a server", written)
		}
	}
}

// TestRedirectIsExplained: another name of the server is answered with a redirect to its own.
func TestRedirectIsExplained(t *testing.T) {
	other := 0
	target := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { other++ }))
	defer target.Close()
	front := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, target.URL+"/ipa/session/login_password", http.StatusMovedPermanently)
	}))
	defer front.Close()
	c, err := New(Config{Servers: []string{front.Listener.Addr().String()}, Password: &Password{User: "u", Password: "p"}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.http.Transport = front.Client().Transport
	err = c.Run(t.Context(), Ping())
	if err == nil || !strings.Contains(err.Error(), target.Listener.Addr().String()) || !strings.Contains(err.Error(), "status 301") {
		t.Errorf("redirected: %v", err)
	}
	if other != 0 {
		t.Error("the redirect was followed")
	}
}

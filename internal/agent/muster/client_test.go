// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package muster

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/muster-cloud/muster/internal/agent/agenttest"
	"github.com/muster-cloud/muster/internal/agentapi"
	"github.com/muster-cloud/muster/internal/sshca/krl"
)

const (
	hostID    = "d8e02d56264849a3bf976be8f1204f38"
	projectID = "39a37b95df2f4d3c8bb9d3a4a4b0e7b1"
)

// certify returns the certificate of a host key, in one line.
func certify(t *testing.T, key ssh.PublicKey, kind uint32) string {
	t.Helper()
	cert := &ssh.Certificate{Key: key, Serial: 7, CertType: kind, ValidBefore: ssh.CertTimeInfinity}
	if err := cert.SignCert(rand.Reader, agenttest.NewSigner(t)); err != nil {
		t.Fatal(err)
	}
	return agenttest.Line(cert)
}

// serve starts a Muster that answers as told, and a client of it.
func serve(t *testing.T, handler http.HandlerFunc) *Client {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	client, err := New(Config{Endpoint: server.URL + "/prefix/", HostID: hostID, ProjectID: projectID, UserAgent: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

func answer(t *testing.T, w http.ResponseWriter, value any) {
	t.Helper()
	if err := json.NewEncoder(w).Encode(value); err != nil {
		t.Error(err)
	}
}

func TestHostCerts(t *testing.T) {
	key := agenttest.NewSigner(t).PublicKey()
	good := agentapi.HostCert{PubKey: "another spelling", Cert: certify(t, key, ssh.HostCert) + "\n", Serial: 7}
	for name, test := range map[string]struct {
		certs []agentapi.HostCert
		err   string
	}{
		"as asked":           {[]agentapi.HostCert{good}, ""},
		"too few":            {nil, "0 certificates for 1 keys"},
		"for another key":    {[]agentapi.HostCert{{Cert: certify(t, agenttest.NewSigner(t).PublicKey(), ssh.HostCert)}}, "another key"},
		"of a user":          {[]agentapi.HostCert{{Cert: certify(t, key, ssh.UserCert)}}, "not one for a host"},
		"no certificate":     {[]agentapi.HostCert{{Cert: agenttest.Line(key)}}, "not one for a host"},
		"of several lines":   {[]agentapi.HostCert{{Cert: good.Cert + good.Cert}}, "not one line"},
		"an option before":   {[]agentapi.HostCert{{Cert: "nonsense"}}, "not one line"},
		"nothing whatsoever": {[]agentapi.HostCert{{}}, "not one line"},
	} {
		t.Run(name, func(t *testing.T) {
			client := serve(t, func(w http.ResponseWriter, r *http.Request) {
				var got agentapi.HostCertsRequest
				if err := json.NewDecoder(r.Body).Decode(&got); err != nil || r.URL.Path != "/prefix"+agentapi.PathHostCerts ||
					got.Token != "t1" || got.HostID != hostID || len(got.PubKeys) != 1 {
					t.Errorf("%s: %v, %+v", r.URL.Path, err, got)
				}
				answer(t, w, agentapi.HostCertsAnswer{Certs: test.certs})
			})
			certs, err := client.HostCerts(t.Context(), "t1", []string{agenttest.Line(key)})
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Errorf("got %v, want %q", err, test.err)
				}
				return
			}
			if err != nil || len(certs) != 1 || certs[0].PubKey != agenttest.Line(key) {
				t.Errorf("got %+v, %v", certs, err)
			}
		})
	}
}

// TestSigned: each signed call brings a fresh challenge, and a signature that
// Muster's own side of the protocol accepts.
func TestSigned(t *testing.T) {
	signer := agenttest.NewSigner(t)
	challenges, refuse := 0, 0
	client := serve(t, func(w http.ResponseWriter, r *http.Request) {
		path := strings.TrimPrefix(r.URL.Path, "/prefix")
		if path == agentapi.PathChallenges {
			challenges++
			answer(t, w, agentapi.Challenge{Challenge: fmt.Sprint("c", challenges), ExpiresIn: 60})
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		var signed agentapi.Signed
		signature, err := agentapi.ParseSignature(r.Header.Get(agentapi.SignatureHeader))
		if err == nil {
			err = errors.Join(signature.Verify(path, body), json.Unmarshal(body, &signed))
		}
		if err != nil || !bytes.Equal(signature.Key().Marshal(), signer.PublicKey().Marshal()) ||
			signed.Challenge != fmt.Sprint("c", challenges) || signed.HostID != hostID {
			t.Errorf("%s: %v, %s", path, err, body)
		}
		if refuse > 0 {
			refuse--
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		switch path {
		case agentapi.PathState:
			answer(t, w, agentapi.State{Version: "v1", ProjectID: projectID})
		case agentapi.PathRenew:
			answer(t, w, agentapi.HostCertsAnswer{Certs: []agentapi.HostCert{{Cert: certify(t, signer.PublicKey(), ssh.HostCert)}}})
		case agentapi.PathEnrolment:
			var report agentapi.EnrolmentRequest
			if err := json.Unmarshal(body, &report); err != nil || report.Outcome != "failed" || len(report.Reason) > agentapi.MaxReason {
				t.Errorf("%v, %+v", err, report)
			}
		}
	})
	if state, err := client.State(t.Context(), signer); err != nil || state.Version != "v1" {
		t.Errorf("state %+v, %v", state, err)
	}
	if certs, err := client.Renew(t.Context(), signer, []string{agenttest.Line(signer.PublicKey())}); err != nil || len(certs) != 1 {
		t.Errorf("renew %+v, %v", certs, err)
	}
	if err := client.ReportEnrolment(t.Context(), signer, "failed", strings.Repeat("ä", 400)); err != nil {
		t.Error(err)
	}
	// A challenge that came too late is tried again, once.
	challenges, refuse = 0, 1
	if _, err := client.State(t.Context(), signer); err != nil || challenges != 2 {
		t.Errorf("%v, %d challenges", err, challenges)
	}
	challenges, refuse = 0, 2
	if _, err := client.State(t.Context(), signer); !Refused(err, http.StatusUnauthorized) || challenges != 2 {
		t.Errorf("%v, %d challenges", err, challenges)
	}
}

func TestRefusals(t *testing.T) {
	for name, test := range map[string]struct {
		status int
		header http.Header
		body   string
		away   bool
		text   string
		after  time.Duration
	}{
		"conflict":     {409, nil, `{"title": "Conflict", "description": "used\nbefore"}`, false, "Muster answers 409: Conflict: used before", 0},
		"not JSON":     {404, nil, "<html>", false, "Muster answers 404", 0},
		"too often":    {429, http.Header{"Retry-After": {"17"}}, `{}`, true, "Muster answers 429", 17 * time.Second},
		"for ever":     {503, http.Header{"Retry-After": {"999999999"}}, ``, true, "Muster answers 503", time.Hour},
		"a bad number": {503, http.Header{"Retry-After": {"-1"}}, ``, true, "Muster answers 503", 0},
		"long":         {400, nil, `{"description": "` + strings.Repeat("x", 2000) + `"}`, false, "Muster answers 400: " + strings.Repeat("x", 298), 0},
	} {
		t.Run(name, func(t *testing.T) {
			client := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				for key, values := range test.header {
					w.Header()[key] = values
				}
				w.WriteHeader(test.status)
				fmt.Fprint(w, test.body)
			})
			_, err := client.HostCerts(t.Context(), "secret-token", []string{"key"})
			var refusal *Refusal
			if !errors.As(err, &refusal) || refusal.Status != test.status || errors.Is(err, ErrAway) != test.away ||
				err.Error() != test.text || refusal.RetryAfter != test.after {
				t.Errorf("got %v (%+v)", err, refusal)
			}
		})
	}
}

func TestAway(t *testing.T) {
	client, err := New(Config{Endpoint: "http://127.0.0.1:1", HostID: hostID, ProjectID: projectID})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.HostCerts(t.Context(), "secret-token", nil); !errors.Is(err, ErrAway) || strings.Contains(err.Error(), "secret") {
		t.Errorf("got %v", err)
	}
	cut := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000")
		fmt.Fprint(w, "half")
	})
	if _, err := cut.RevokedKeys(t.Context(), "", 0); !errors.Is(err, ErrAway) {
		t.Errorf("half an answer: %v", err)
	}
	endless := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		for range 40 {
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	})
	if _, err := endless.HostCerts(t.Context(), "t1", nil); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("an endless answer: %v", err)
	}
}

// TestTokenStaysHere: a redirection elsewhere does not get the token.
func TestTokenStaysHere(t *testing.T) {
	thief := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the token went elsewhere") }))
	defer thief.Close()
	client := serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, thief.URL, http.StatusTemporaryRedirect)
	})
	if _, err := client.HostCerts(t.Context(), "t1", nil); !Refused(err, http.StatusTemporaryRedirect) {
		t.Errorf("got %v", err)
	}
}

func TestTLS(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat))
		w.WriteHeader(http.StatusNotModified)
	}))
	defer server.Close()
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	for name, test := range map[string]struct {
		ca   string
		want bool
	}{"its own authority": {ca, true}, "the system's": {"", false}} {
		client, err := New(Config{Endpoint: server.URL, CA: test.ca, HostID: hostID, ProjectID: projectID})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.RevokedKeys(t.Context(), "", 0); (err == nil) != test.want {
			t.Errorf("%s: %v", name, err)
		}
		if test.want && (!client.Encrypted() || client.Skew() < 59*time.Minute || client.Skew() > 61*time.Minute) {
			t.Errorf("encrypted %v, skew %v", client.Encrypted(), client.Skew())
		}
	}
	for _, endpoint := range []string{"", "muster.example.com", "ftp://muster.example.com", "https://", "https://u:p@muster.example.com", "https://a b"} {
		if _, err := New(Config{Endpoint: endpoint}); err == nil {
			t.Errorf("%q is taken for an address", endpoint)
		}
	}
	if _, err := New(Config{Endpoint: server.URL, CA: "no PEM"}); err == nil {
		t.Error("a CA that is none is accepted")
	}
}

func TestRevokedKeys(t *testing.T) {
	client := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/prefix"+agentapi.PathRevokedKeys+projectID || r.Header.Get("Accept") != "application/octet-stream" {
			t.Errorf("%s, %v", r.URL.Path, r.Header)
		}
		if r.Header.Get("If-None-Match") == `"1"` {
			if r.URL.Query().Get("wait") != "20" {
				t.Errorf("wait=%s", r.URL.Query().Get("wait"))
			}
			w.WriteHeader(http.StatusNotModified)
			return
		}
		w.Header().Set("Etag", `"1"`)
		w.Header().Set(agentapi.SignatureHeader, "signature")
		fmt.Fprint(w, "list")
	})
	list, err := client.RevokedKeys(t.Context(), "", 0)
	if err != nil || string(list.Raw) != "list" || list.ETag != `"1"` || list.Signature != "signature" {
		t.Errorf("got %+v, %v", list, err)
	}
	if list, err := client.RevokedKeys(t.Context(), `"1"`, 20*time.Second); err != nil || list != nil {
		t.Errorf("got %+v, %v", list, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := client.RevokedKeys(ctx, "", 0); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// TestSilentServer asks the kernel how soon it tells that a server, on which a
// long poll waits, is gone.
func TestSilentServer(t *testing.T) {
	client := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotModified) })
	var idle, interval, count int
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		raw, err := info.Conn.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Error(err)
			return
		}
		var failed [3]error
		err = raw.Control(func(fd uintptr) {
			idle, failed[0] = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_KEEPIDLE)
			interval, failed[1] = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_KEEPINTVL)
			count, failed[2] = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_KEEPCNT)
		})
		if err := errors.Join(err, errors.Join(failed[:]...)); err != nil {
			t.Error(err)
		}
	}})
	if _, err := client.RevokedKeys(ctx, "", 0); err != nil {
		t.Fatal(err)
	}
	if seconds := idle + interval*count; seconds < 10 || seconds > 30 {
		t.Errorf("it takes %d s: %d, and %d times %d", seconds, idle, count, interval)
	}
}

func TestVerify(t *testing.T) {
	authority, other := agenttest.NewSigner(t), agenttest.NewSigner(t)
	make := func(version uint64, comment string, signer ssh.Signer) *List {
		raw, err := (&krl.List{Version: version, Comment: comment}).Marshal()
		if err != nil {
			t.Fatal(err)
		}
		list := &List{Raw: raw}
		if signer != nil {
			if list.Signature, err = agentapi.SignList(signer, raw); err != nil {
				t.Fatal(err)
			}
		}
		return list
	}
	changed := make(5, projectID, authority)
	changed.Raw[len(changed.Raw)-1] ^= 1
	trusted := []string{agenttest.Line(authority.PublicKey())}
	for name, test := range map[string]struct {
		list    *List
		trusted []string
		err     error // nil: accepted; errAny: refused otherwise
	}{
		"as it should be":      {make(5, projectID, authority), trusted, nil},
		"newer":                {make(6, projectID, authority), trusted, nil},
		"one of two":           {make(5, projectID, authority), append([]string{agenttest.Line(other.PublicKey())}, trusted...), nil},
		"older":                {make(4, projectID, authority), trusted, ErrOlder},
		"unsigned":             {make(5, projectID, nil), trusted, ErrUnsigned},
		"by another":           {make(5, projectID, other), trusted, ErrUnsigned},
		"changed":              {changed, trusted, ErrUnsigned},
		"nobody is trusted":    {make(5, projectID, authority), nil, ErrNoAuthority},
		"and nobody signed":    {make(5, projectID, nil), nil, ErrNoAuthority},
		"of another project":   {make(5, hostID, authority), trusted, errAny},
		"no list":              {&List{Raw: []byte("x")}, trusted, errAny},
		"a key that is broken": {make(5, projectID, authority), []string{"nonsense"}, errAny},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := test.list.Verify(projectID, test.trusted, 5)
			if (err == nil) != (test.err == nil) || (test.err != nil && test.err != errAny && !errors.Is(err, test.err)) {
				t.Errorf("got %v", err)
			}
		})
	}
}

var errAny = errors.New("any")

// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package muster is the agent's side of the calls in agentapi: it asks Muster
// for certificates, for what the instance should look like, and for the
// project's revocation list, and reports how joining FreeIPA went.
//
// Each call has a deadline and bounds what it reads. The package tries nothing
// again and keeps nothing: its callers know how long something matters. It
// never logs tokens, keys or answers.
package muster

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/muster-cloud/muster/internal/agentapi"
	"github.com/muster-cloud/muster/internal/sshca/krl"
)

const (
	// requestTimeout is short enough to ask a second time soon if an answer got
	// lost, which is all that happens to most that are late.
	requestTimeout = 15 * time.Second
	// listTimeout is for a list, which may be long, beside the time that it waits.
	listTimeout = 30 * time.Second
	// maxAnswer bounds what a call but the one for the list may answer: eight
	// certificates for the longest keys, or a project with many accounts.
	maxAnswer = 1 << 20
	// maxProblem bounds what is kept of a refusal's text.
	maxProblem = 300
)

// ErrAway: there was no answer, or one that says to come again. The instance
// keeps what it has.
var ErrAway = errors.New("no answer from Muster")

// Refusal is Muster's answer when it does not do what was asked. Those that
// pass with time (429, 502 to 504) are ErrAway, too.
type Refusal struct {
	Status     int
	Text       string        // Muster's reason, for people
	RetryAfter time.Duration // zero: not said
}

// Error implements error.
func (r *Refusal) Error() string {
	if r.Text == "" {
		return fmt.Sprintf("Muster answers %d", r.Status)
	}
	return fmt.Sprintf("Muster answers %d: %s", r.Status, r.Text)
}

// Is implements errors.Is for ErrAway.
func (r *Refusal) Is(target error) bool {
	return target == ErrAway && (r.Status == http.StatusTooManyRequests || r.Status >= 500)
}

// Refused tells whether the error is a refusal with one of the statuses.
func Refused(err error, statuses ...int) bool {
	var refusal *Refusal
	if !errors.As(err, &refusal) {
		return false
	}
	for _, status := range statuses {
		if refusal.Status == status {
			return true
		}
	}
	return false
}

// Config is what a Client needs.
type Config struct {
	Endpoint  string // base address of the instances' interface, http or https
	CA        string // PEM of the authority of its certificate; empty: the system's
	HostID    string // the instance, 32 hexadecimal digits
	ProjectID string // whose revocation list is asked for
	UserAgent string
	// Transport carries the requests; nil: TCP and TLS, with CA.
	Transport http.RoundTripper
	Now       func() time.Time // default time.Now
}

// Client calls Muster for one instance. It may be used by several goroutines.
type Client struct {
	cfg  Config
	http *http.Client
	skew atomic.Int64 // of our clock against Muster's, in nanoseconds
}

// New returns a client. It connects to nothing yet.
func New(cfg Config) (*Client, error) {
	endpoint, err := url.Parse(cfg.Endpoint)
	if err != nil || (endpoint.Scheme != "http" && endpoint.Scheme != "https") || endpoint.Host == "" || endpoint.User != nil {
		return nil, fmt.Errorf("api_endpoint in the vendordata, %q, is not a URL of the form https://HOST:PORT", cfg.Endpoint)
	}
	cfg.Endpoint = strings.TrimRight(endpoint.String(), "/")
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	transport := cfg.Transport
	if transport == nil {
		if transport, err = newTransport(cfg.CA); err != nil {
			return nil, err
		}
	}
	return &Client{cfg: cfg, http: &http.Client{Transport: transport, CheckRedirect: keepMethod}}, nil
}

// newTransport connects to a server whose certificate is signed by the
// authority, or if that is empty, one that the system trusts.
func newTransport(authority string) (http.RoundTripper, error) {
	var roots *x509.CertPool
	if authority != "" {
		roots = x509.NewCertPool()
		if !roots.AppendCertsFromPEM([]byte(authority)) {
			return nil, errors.New("api_ca in the vendordata is not a certificate in PEM form; check [agent] ca_file of muster.conf")
		}
	}
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: 10 * time.Second, KeepAliveConfig: keepAlive}).DialContext,
		TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    10 * time.Second,
		MaxIdleConnsPerHost:    2,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		// A list that changes little is not worth decompressing.
		DisableCompression: true,
	}, nil
}

// keepAlive tells in half a minute that a server is gone without a word. A long
// poll hears of that in no other way, and no revocation meanwhile.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}

// keepMethod lets a request be led on only to the same host: a token must not
// be handed to whoever an answer names.
func keepMethod(request *http.Request, via []*http.Request) error {
	if len(via) > 3 || request.URL.Host != via[0].URL.Host || request.URL.Scheme != via[0].URL.Scheme {
		return http.ErrUseLastResponse
	}
	return nil
}

// Encrypted tells whether what is said can't be read or changed on the way.
func (c *Client) Encrypted() bool { return strings.HasPrefix(c.cfg.Endpoint, "https:") }

// Close ends the connections that nobody uses.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Skew is how far this machine's clock is ahead of Muster's, by the last
// answer, to a second or so.
func (c *Client) Skew() time.Duration { return time.Duration(c.skew.Load()) }

// HostCerts spends the one-time token on host keys, given as authorized_keys
// lines. The same keys again get the same certificates.
func (c *Client) HostCerts(ctx context.Context, token string, pubKeys []string) ([]agentapi.HostCert, error) {
	body, err := json.Marshal(agentapi.HostCertsRequest{Token: token, HostID: c.cfg.HostID, PubKeys: pubKeys})
	if err != nil {
		return nil, err
	}
	var answer agentapi.HostCertsAnswer
	if err := c.post(ctx, agentapi.PathHostCerts, body, "", &answer); err != nil {
		return nil, err
	}
	return checkCerts(answer.Certs, pubKeys)
}

// Renew asks for certificates with the signature of a certified host key.
func (c *Client) Renew(ctx context.Context, signer ssh.Signer, pubKeys []string) ([]agentapi.HostCert, error) {
	var answer agentapi.HostCertsAnswer
	err := c.signed(ctx, signer, agentapi.PathRenew, func(s agentapi.Signed) any {
		return agentapi.RenewRequest{Signed: s, PubKeys: pubKeys}
	}, &answer)
	if err != nil {
		return nil, err
	}
	return checkCerts(answer.Certs, pubKeys)
}

// State asks what the instance should look like.
func (c *Client) State(ctx context.Context, signer ssh.Signer) (agentapi.State, error) {
	var state agentapi.State
	err := c.signed(ctx, signer, agentapi.PathState, func(s agentapi.Signed) any { return agentapi.StateRequest{Signed: s} }, &state)
	if err == nil && (state.Version == "" || state.ProjectID == "") {
		err = errors.New("the answer holds no state; check api_endpoint")
	}
	return state, err
}

// ReportEnrolment tells how joining FreeIPA went. The reason is cut to what
// Muster takes, and must not hold secrets.
func (c *Client) ReportEnrolment(ctx context.Context, signer ssh.Signer, outcome, reason string) error {
	reason = strings.ToValidUTF8(reason[:min(len(reason), agentapi.MaxReason)], "")
	return c.signed(ctx, signer, agentapi.PathEnrolment, func(s agentapi.Signed) any {
		return agentapi.EnrolmentRequest{Signed: s, Outcome: outcome, Reason: reason}
	}, nil)
}

// List is a revocation list as it came.
type List struct {
	Raw       []byte
	Signature string // by the project's user CA; empty if there is none
	ETag      string
}

// RevokedKeys asks for the project's list, if it is another one than the ETag
// names. It waits for that long for a change, and returns nil if there was none.
func (c *Client) RevokedKeys(ctx context.Context, etag string, wait time.Duration) (*List, error) {
	ctx, cancel := context.WithTimeout(ctx, wait+listTimeout)
	defer cancel()
	address := c.cfg.Endpoint + agentapi.PathRevokedKeys + c.cfg.ProjectID
	if wait > 0 {
		address += "?wait=" + strconv.Itoa(int(wait.Seconds()))
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", "application/octet-stream")
	if etag != "" {
		request.Header.Set("If-None-Match", etag)
	}
	answer, err := c.do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	switch answer.StatusCode {
	case http.StatusNotModified:
		return nil, nil
	case http.StatusOK:
		raw, err := readAll(answer.Body, krl.MaxSize)
		return &List{Raw: raw, Signature: answer.Header.Get(agentapi.SignatureHeader), ETag: answer.Header.Get("Etag")}, err
	default:
		return nil, refusal(answer)
	}
}

// signed sends a call with a fresh challenge in it, signed by a host key. A
// challenge may be too old when it arrives; then there is a second one.
func (c *Client) signed(ctx context.Context, signer ssh.Signer, path string, fill func(agentapi.Signed) any, into any) error {
	err := c.signedOnce(ctx, signer, path, fill, into)
	if Refused(err, http.StatusUnauthorized) {
		err = c.signedOnce(ctx, signer, path, fill, into)
	}
	return err
}

func (c *Client) signedOnce(ctx context.Context, signer ssh.Signer, path string, fill func(agentapi.Signed) any, into any) error {
	var challenge agentapi.Challenge
	if err := c.post(ctx, agentapi.PathChallenges, []byte("{}"), "", &challenge); err != nil {
		return err
	}
	body, err := json.Marshal(fill(agentapi.Signed{Challenge: challenge.Challenge, HostID: c.cfg.HostID}))
	if err != nil {
		return err
	}
	signature, err := agentapi.SignRequest(signer, path, body)
	if err != nil {
		return fmt.Errorf("signing with the host key: %w", err)
	}
	return c.post(ctx, path, body, signature, into)
}

// post sends one call and reads its answer.
func (c *Client) post(ctx context.Context, path string, body []byte, signature string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.cfg.Endpoint+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	if signature != "" {
		request.Header.Set(agentapi.SignatureHeader, signature)
	}
	answer, err := c.do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode < 200 || answer.StatusCode > 299 {
		return refusal(answer)
	}
	text, err := readAll(answer.Body, maxAnswer)
	if err != nil || into == nil {
		return err
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("%s: the answer is not what Muster says; check api_endpoint", path)
	}
	return nil
}

// do sends a request. Without an answer it fails with ErrAway.
func (c *Client) do(request *http.Request) (*http.Response, error) {
	request.Header.Set("User-Agent", c.cfg.UserAgent)
	answer, err := c.http.Do(request)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAway, err)
	}
	if date, err := http.ParseTime(answer.Header.Get("Date")); err == nil {
		c.skew.Store(int64(c.cfg.Now().Sub(date).Truncate(time.Second)))
	}
	return answer, nil
}

// refusal reads an answer that is no success.
func refusal(answer *http.Response) error {
	r := &Refusal{Status: answer.StatusCode}
	if seconds, err := strconv.Atoi(answer.Header.Get("Retry-After")); err == nil && seconds > 0 {
		r.RetryAfter = time.Duration(min(seconds, 3600)) * time.Second
	}
	var problem struct{ Title, Description string }
	text, err := readAll(answer.Body, maxAnswer)
	if err == nil && json.Unmarshal(text, &problem) == nil {
		r.Text = oneLine(problem.Title + ": " + problem.Description)
	}
	return r
}

// oneLine makes foreign text fit for a log.
func oneLine(text string) string {
	text = strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return ' '
		}
		return c
	}, strings.ToValidUTF8(text, "?"))
	return strings.Trim(strings.ToValidUTF8(text[:min(len(text), maxProblem)], ""), ": ")
}

// readAll reads an answer to its end, or fails with ErrAway if that is missing.
func readAll(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, fmt.Errorf("%w: the answer breaks off: %w", ErrAway, err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("the answer has more than %d bytes", limit)
	}
	return data, nil
}

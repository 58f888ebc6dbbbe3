// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package ipa

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/muster-cloud/muster/internal/outage"
)

const httpsPort = "443"

// slow is how long a server may be silent before a caller's running out of time counts against it.
const slow = time.Second

// errTooSoon tells that the caller's time ran out before the server had a fair chance.
var errTooSoon = errors.New("the caller's time ran out")

// server is one FreeIPA server: its session, its places for calls, its recent trouble.
type server struct {
	client  *Client
	name    string // host name, without port, in small letters and without a dot at the end
	address string // host:port
	places  chan struct{}
	ids     atomic.Int64
	logins  singleflight.Group
	trouble backoff // guarded by Client.mu
	away    outage.Outage

	// shown is the name as it stands in a URL, authority what stands there in full and in the header Host (RFC 9110, 7.2): no
	// port if that is the usual one.
	shown, authority string

	mu      sync.Mutex
	current *session
}

// session is one log-in to one server.
type session struct {
	cookie string
	renew  time.Time // when it is time for a new one; zero if only the server knows
}

func (c *Client) newServer(name string) (*server, error) {
	host, port, err := net.SplitHostPort(name)
	if err != nil {
		host, port = name, httpsPort
		if strings.HasPrefix(name, "[") && strings.HasSuffix(name, "]") {
			host = name[1 : len(name)-1]
		}
	}
	number, err := strconv.ParseUint(port, 10, 16)
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if err != nil || number == 0 || host == "" || strings.ContainsAny(host, "/@ ?#%[]") {
		return nil, fmt.Errorf("FreeIPA server %q: write HOST or HOST:PORT", name)
	}
	s := &server{
		client: c, name: host, address: net.JoinHostPort(host, port), shown: host, places: make(chan struct{}, c.cfg.MaxInFlight),
	}
	if strings.Contains(host, ":") {
		s.shown = "[" + host + "]"
	}
	// FreeIPA's own web server redirects every request whose Host header is not exactly its name, ":443" being too much.
	s.authority = s.shown
	if port != httpsPort {
		s.authority = s.address
	}
	return s, nil
}

// call sends the command with the session there is, and once more with a new one if the server does not know it.
func (s *server) call(ctx context.Context, command Command) (json.RawMessage, error) {
	select {
	case s.places <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("%w (at most %d): %w", ErrBusy, cap(s.places), ctx.Err())
	}
	s.client.metrics.inFlight.WithLabelValues(s.name).Inc()
	defer func() {
		s.client.metrics.inFlight.WithLabelValues(s.name).Dec()
		<-s.places
	}()
	login, err := s.session(ctx, nil)
	if err != nil {
		return nil, err
	}
	answer, err := s.send(ctx, login, command)
	if connectionWasCut(err) {
		s.forget(login)
	}
	if !errors.Is(err, errUnauthorized) {
		return answer, err
	}
	if login, err = s.session(ctx, login); err != nil {
		return nil, err
	}
	answer, err = s.send(ctx, login, command)
	if errors.Is(err, errUnauthorized) {
		err = &LoginError{Server: s.name, Err: errors.New("a session just opened is not accepted")}
		s.client.failed(ctx, s, err)
	}
	return answer, err
}

// session returns a session other than the stale one, logging in if there is none. All callers wait for one log-in, which
// goes on if they leave.
func (s *server) session(ctx context.Context, stale *session) (*session, error) {
	if current := s.usable(stale); current != nil {
		return current, nil
	}
	done := s.logins.DoChan("", func() (any, error) {
		if current := s.usable(stale); current != nil {
			return current, nil
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.client.cfg.LoginTimeout)
		defer cancel()
		fresh, err := s.login(ctx)
		s.client.metrics.countLogin(err)
		if err != nil {
			s.client.failed(ctx, s, err)
			return nil, err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.current = fresh
		return fresh, nil
	})
	select {
	case result := <-done:
		if result.Err != nil {
			return nil, result.Err
		}
		return result.Val.(*session), nil
	case <-ctx.Done():
		return nil, &LoginError{Server: s.name, Err: fmt.Errorf("%w while logging in: %w", errTooSoon, ctx.Err())}
	}
}

// forget ends the use of a session. A real server was seen to hang up, without any answer, at a cookie that it could not
// read: the next call shall not come with the same one.
func (s *server) forget(old *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == old {
		s.current = nil
	}
}

// usable returns the current session unless it is the stale one or due for renewal.
func (s *server) usable(stale *session) *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	current := s.current
	if current == nil || current == stale || (!current.renew.IsZero() && !s.client.cfg.Now().Before(current.renew)) {
		return nil
	}
	return current
}

// send makes one attempt. Its error is errUnauthorized, a *TransportError or FreeIPA's *Error.
func (s *server) send(ctx context.Context, login *session, command Command) (json.RawMessage, error) {
	id := s.ids.Add(1)
	body, err := command.request(id)
	if err != nil {
		// Not the cause itself, which may quote an option.
		return nil, &TransportError{Server: s.name, Command: command.name, Err: errors.New("the request is no JSON")}
	}
	started := time.Now()
	var sent atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteHeaders: func() { sent.Store(true) }})
	fail := func(mayHaveRun bool, cause error) error {
		// What arrives when the time is up is only an echo of our own hanging up.
		if over := ctx.Err(); over != nil && !errors.Is(cause, over) {
			cause = fmt.Errorf("%w: %w", over, cause)
		}
		if errors.Is(cause, context.DeadlineExceeded) && time.Since(started) < slow {
			cause = fmt.Errorf("%w: %w", errTooSoon, cause)
		}
		return &TransportError{Server: s.name, Command: command.name, MayHaveRun: mayHaveRun, Err: cause}
	}
	r, err := s.request(ctx, "/ipa/session/json", "application/json", body)
	if err != nil {
		return nil, fail(false, err)
	}
	r.Header.Set("Accept", "application/json")
	r.Header.Set("Cookie", cookieName+"="+login.cookie)
	response, err := s.client.http.Do(r)
	if err != nil {
		return nil, fail(sent.Load(), withoutURL(err))
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusUnauthorized {
		_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 64<<10))
		return nil, errUnauthorized
	}
	if response.StatusCode != http.StatusOK {
		// A request that was refused (3xx, 4xx) was not carried out; behind a 5xx anything may have happened.
		return nil, fail(response.StatusCode >= 500, s.unexpected(response))
	}
	if kind, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type")); kind != "application/json" {
		return nil, fail(true, fmt.Errorf("%w: its type is %.60q, not JSON", ErrBadAnswer, kind))
	}
	raw, err := io.ReadAll(io.LimitReader(response.Body, s.client.cfg.MaxAnswer+1))
	switch {
	case err != nil:
		return nil, fail(true, err)
	case int64(len(raw)) > s.client.cfg.MaxAnswer:
		return nil, fail(true, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, s.client.cfg.MaxAnswer))
	}
	result, err := readAnswer(raw, id, command)
	if errors.Is(err, ErrBadAnswer) {
		return nil, fail(true, err)
	}
	return result, err
}

// request makes a request as FreeIPA wants it: a POST, or a GET without a body. The header Host must be the server's own name,
// or else it answers with a redirect; the header Referer is demanded, with the server's name and no port.
func (s *server) request(ctx context.Context, path, contentType string, body []byte) (*http.Request, error) {
	method := http.MethodPost
	if body == nil {
		method = http.MethodGet
	}
	r, err := http.NewRequestWithContext(ctx, method, "https://"+s.authority+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Referer", "https://"+s.shown+"/ipa")
	r.Header.Set("User-Agent", "muster")
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	return r, nil
}

// unexpected tells of an answer with a status that is none of FreeIPA's own. Redirects are never followed: they would lead our
// credentials to a server that nobody configured.
func (s *server) unexpected(response *http.Response) error {
	to, err := response.Location()
	if err != nil || response.StatusCode >= 400 {
		return fmt.Errorf("%w: status %d", ErrBadAnswer, response.StatusCode)
	}
	return fmt.Errorf("%w: status %d, which sends us to %.100q: is %s the name that the server itself has?",
		ErrBadAnswer, response.StatusCode, to.Host, s.authority)
}

// readAnswer takes a JSON-RPC answer apart.
func readAnswer(raw []byte, id int64, command Command) (json.RawMessage, error) {
	var answer struct {
		Result json.RawMessage `json:"result"`
		Error  *struct {
			Code    Code   `json:"code"`
			Name    string `json:"name"`
			Message string `json:"message"`
		} `json:"error"`
		ID json.RawMessage `json:"id"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return nil, fmt.Errorf("%w: broken JSON", ErrBadAnswer)
	}
	if e := answer.Error; e != nil {
		return nil, &Error{Command: command.name, Object: command.object(), Code: e.Code, Name: e.Name, Message: command.scrub(e.Message)}
	}
	if string(answer.ID) != strconv.FormatInt(id, 10) {
		return nil, fmt.Errorf("%w: it belongs to another request", ErrBadAnswer)
	}
	if len(answer.Result) == 0 || string(answer.Result) == "null" {
		return nil, fmt.Errorf("%w: neither result nor error", ErrBadAnswer)
	}
	return answer.Result, nil
}

// withoutURL takes the cause out of the http package's wrapping.
func withoutURL(err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		return wrapped.Err
	}
	return err
}

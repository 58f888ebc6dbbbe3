// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package keystone

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/tokens"
	"golang.org/x/sync/singleflight"
)

const (
	// maxAnswer bounds an answer of Keystone: a list of some 50,000 assignments.
	maxAnswer = 32 << 20
	// maxCalls bounds the requests to Keystone under way; more of them wait.
	maxCalls = 64
	// loginPause is for how long a refused login is not repeated, so that
	// Keystone does not lock the account for it.
	loginPause = 5 * time.Second

	minRetryAfter, usualRetryAfter, maxRetryAfter = time.Second, 5 * time.Second, time.Minute
)

// session makes requests in the name of Muster's service user. gophercloud
// makes and reads them; when to log in is decided here, because gophercloud
// would let one caller's cancelled context fail the login of all who wait.
type session struct {
	identity *gophercloud.ServiceClient
	auth     *tokens.AuthOptions
	timeout  time.Duration
	now      func() time.Time
	logger   *slog.Logger
	metrics  *metrics
	slots    chan struct{}
	logins   singleflight.Group

	mu        sync.Mutex
	token     string
	refusal   error
	refusedAt time.Time
}

func newSession(cfg Config, m *metrics) (*session, error) {
	endpoint, err := identityEndpoint(cfg.AuthURL)
	if err != nil {
		return nil, err
	}
	auth, err := authOptions(cfg)
	if err != nil {
		return nil, err
	}
	transport, err := NewTransport(cfg.CAFile, cfg.Insecure)
	if err != nil {
		return nil, err
	}
	provider := &gophercloud.ProviderClient{HTTPClient: http.Client{
		Transport: transport,
		// A redirect would take the tokens in the headers to another host.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	provider.UserAgent.Prepend("muster")
	return &session{
		identity: &gophercloud.ServiceClient{ProviderClient: provider, Endpoint: endpoint, Type: "identity"},
		auth:     auth,
		timeout:  cfg.Timeout,
		now:      cfg.Now,
		logger:   cfg.Logger,
		metrics:  m,
		slots:    make(chan struct{}, maxCalls),
	}, nil
}

// identityEndpoint returns the address of the v3 API with a final slash.
func identityEndpoint(authURL string) (string, error) {
	u, err := url.Parse(authURL)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return "", errors.New("auth_url: want an address such as https://keystone.example.com:5000/v3")
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return "", errors.New("auth_url: want no user name, query or fragment in it")
	}
	path := strings.TrimRight(u.Path, "/")
	if strings.HasSuffix(path, "/v2.0") {
		return "", errors.New("auth_url: Keystone's API v2.0 is not supported; use the address that ends in /v3")
	}
	u.Path = strings.TrimSuffix(path, "/v3") + "/v3/"
	return u.String(), nil
}

// authOptions refuses what Keystone would refuse, with the name of the option.
func authOptions(cfg Config) (*tokens.AuthOptions, error) {
	options := &tokens.AuthOptions{
		Username: cfg.Username, UserID: cfg.UserID, DomainID: cfg.UserDomainID, DomainName: cfg.UserDomainName,
	}
	if options.UserID != "" {
		options.Username, options.DomainID, options.DomainName = "", "", ""
	} else if options.DomainID != "" {
		options.DomainName = ""
	}
	user := options.UserID != "" || options.Username != "" && (options.DomainID != "" || options.DomainName != "")
	switch authType(cfg) {
	case "password", "v3password":
		if !user {
			return nil, errors.New("username, user_domain_name: name the service user and its domain, or give user_id")
		}
		if cfg.Password == "" {
			return nil, errors.New("password: the service user's password is missing")
		}
		options.Password = cfg.Password
		return options, setScope(options, cfg)
	case "v3applicationcredential":
		if cfg.ApplicationCredentialSecret == "" {
			return nil, errors.New("application_credential_secret: the secret is missing")
		}
		options.ApplicationCredentialSecret = cfg.ApplicationCredentialSecret
		switch {
		case cfg.ApplicationCredentialID != "":
			options.Username, options.UserID, options.DomainID, options.DomainName = "", "", "", ""
			options.ApplicationCredentialID = cfg.ApplicationCredentialID
		case cfg.ApplicationCredentialName != "" && user:
			options.ApplicationCredentialName = cfg.ApplicationCredentialName
		default:
			return nil, errors.New("application_credential_id: give it, or application_credential_name with the user")
		}
		return options, nil
	default:
		return nil, fmt.Errorf("auth_type: %q is not supported; use password or v3applicationcredential", cfg.AuthType)
	}
}

func authType(cfg Config) string {
	if cfg.AuthType != "" {
		return cfg.AuthType
	}
	if cfg.ApplicationCredentialID != "" || cfg.ApplicationCredentialName != "" {
		return "v3applicationcredential"
	}
	return "password"
}

func setScope(options *tokens.AuthOptions, cfg Config) error {
	switch {
	case cfg.ProjectID != "":
		options.Scope.ProjectID = cfg.ProjectID
	case cfg.ProjectName == "":
		return errors.New("project_name: name the service user's project, usually service")
	case cfg.ProjectDomainID == "" && cfg.ProjectDomainName == "":
		return errors.New("project_domain_name: name the domain of project_name, usually Default")
	default:
		options.Scope.ProjectName, options.Scope.DomainID = cfg.ProjectName, cfg.ProjectDomainID
		if cfg.ProjectDomainID == "" {
			options.Scope.DomainName = cfg.ProjectDomainName
		}
	}
	return nil
}

// NewTransport makes connections to OpenStack's services: it trusts the PEM
// certificates in caFile, or the system's without one, or all if insecure, and
// bounds answers.
func NewTransport(caFile string, insecure bool) (http.RoundTripper, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = maxCalls
	// Verification is on unless the operator turned it off by name.
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: insecure}
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return nil, fmt.Errorf("cafile: %w", err)
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("cafile: no PEM certificate in %s", caFile)
		}
		transport.TLSClientConfig.RootCAs = roots
	}
	return boundedTransport{transport}, nil
}

// boundedTransport cuts answers off at maxAnswer: gophercloud reads them whole.
type boundedTransport struct{ next http.RoundTripper }

func (b boundedTransport) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := b.next.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	limit := int64(maxAnswer)
	if request.Context().Value(streamed{}) != nil {
		limit = maxList
	}
	response.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(response.Body, limit), response.Body}
	return response, nil
}

// get asks for path (below /v3/) and decodes the JSON answer. call names the
// request in metrics and messages. Errors: ErrNotFound for a 404, ErrInvalidToken
// for a token that Keystone refuses to validate, else ErrUnavailable, and with it
// ErrForbidden for a 403.
func (s *session) get(ctx context.Context, call, path string, headers map[string]string, answer any) error {
	token, err := s.login(ctx, "")
	if err != nil {
		return err
	}
	err = s.send(ctx, call, path, token, headers, answer)
	if gophercloud.ResponseCodeIs(err, http.StatusUnauthorized) {
		if token, err = s.login(ctx, token); err != nil {
			return err
		}
		err = s.send(ctx, call, path, token, headers, answer)
	}
	return explain(call, err)
}

func (s *session) send(ctx context.Context, call, path, token string, headers map[string]string, answer any) error {
	all := map[string]string{"X-Auth-Token": token}
	for name, value := range headers {
		all[name] = value
	}
	return s.bounded(ctx, call, func(ctx context.Context) error {
		_, err := s.identity.Get(ctx, s.identity.ServiceURL(path), answer, &gophercloud.RequestOpts{
			MoreHeaders: all, OkCodes: []int{http.StatusOK},
		})
		return err
	})
}

// login returns Muster's own token: the one at hand unless that is the spent
// one, which Keystone no longer accepts. All who wait share one login.
func (s *session) login(ctx context.Context, spent string) (string, error) {
	if token := s.current(); token != "" && token != spent {
		return token, nil
	}
	result := s.logins.DoChan("", func() (any, error) {
		if token := s.current(); token != "" && token != spent {
			return token, nil
		}
		return s.authenticate(context.WithoutCancel(ctx))
	})
	select {
	case <-ctx.Done():
		return "", &UnavailableError{RetryAfter: usualRetryAfter, Err: ctx.Err()}
	case r := <-result:
		if r.Err != nil {
			return "", r.Err
		}
		return r.Val.(string), nil
	}
}

func (s *session) current() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.token
}

func (s *session) authenticate(ctx context.Context) (string, error) {
	if err := s.recentRefusal(); err != nil {
		return "", err
	}
	var token string
	err := s.bounded(ctx, "login", func(ctx context.Context) error {
		var err error
		token, err = tokens.Create(ctx, s.identity, s.auth).ExtractTokenID()
		return err
	})
	refused := gophercloud.ResponseCodeIs(err, http.StatusUnauthorized)
	if err == nil && token == "" {
		err = errors.New("the answer holds no X-Subject-Token")
	}
	err = explain("login", err)

	s.mu.Lock()
	defer s.mu.Unlock()
	s.token, s.refusal = token, nil
	if err != nil {
		s.token = ""
		s.logger.WarnContext(ctx, "cannot log in to Keystone", "error", err)
	}
	if refused {
		s.refusal, s.refusedAt = err, s.now()
	}
	return s.token, err
}

func (s *session) recentRefusal() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refusal != nil && s.now().Sub(s.refusedAt) < loginPause {
		return s.refusal
	}
	return nil
}

// validating is the call that validates somebody's token.
const validating = "validate token"

// bounded runs one request under the deadline, in one of the free slots, and
// measures it.
func (s *session) bounded(ctx context.Context, call string, request func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return fmt.Errorf("%d requests to Keystone are waiting already: %w", maxCalls, ctx.Err())
	}
	start := time.Now()
	err := request(ctx)
	s.metrics.observe(call, err, time.Since(start))
	return err
}

// explain turns an error of gophercloud into one of ours. Keystone's own text
// is left out, since it may repeat a token.
func explain(call string, err error) error {
	if err == nil {
		return nil
	}
	var status gophercloud.ErrUnexpectedResponseCode
	if !errors.As(err, &status) {
		return &UnavailableError{RetryAfter: usualRetryAfter, Err: fmt.Errorf("%s: %w", call, err)}
	}
	switch status.Actual {
	case http.StatusNotFound:
		if call == "login" {
			return &UnavailableError{RetryAfter: maxRetryAfter,
				Err: errors.New("login: Keystone answered 404; auth_url is not the address of its v3 API")}
		}
		if !keystoneSaysNotFound(status.Body) {
			return &UnavailableError{RetryAfter: usualRetryAfter, Err: fmt.Errorf("%s: a 404 that is not Keystone's own; "+
				"what stands before Keystone may not reach it", call)}
		}
		return ErrNotFound
	case http.StatusUnauthorized:
		return &UnavailableError{RetryAfter: usualRetryAfter, Err: fmt.Errorf("%s: Keystone refused Muster's own "+
			"login (401); check the service user's name, password, project, and that all three are enabled", call)}
	case http.StatusForbidden:
		if call == validating && refusesSubject(status.Body) {
			return ErrInvalidToken
		}
		return &UnavailableError{RetryAfter: maxRetryAfter, Err: fmt.Errorf("%s: %w (403); "+
			"give it role admin in its project", call, ErrForbidden)}
	default:
		return &UnavailableError{RetryAfter: retryAfter(status.ResponseHeader),
			Err: fmt.Errorf("%s: Keystone answered %d", call, status.Actual)}
	}
}

// keystoneSaysNotFound tells a 404 of Keystone, whose errors are JSON, from one
// of a web server or proxy that has no Keystone behind it at the moment.
func keystoneSaysNotFound(body []byte) bool {
	var said struct {
		Error struct {
			Code int `json:"code"`
		} `json:"error"`
	}
	return json.Unmarshal(body, &said) == nil && said.Error.Code == http.StatusNotFound
}

// refusesSubject tells a 403 that is about the token to be validated from one
// about Muster, which names what Muster may not do (identity:validate_token).
// Keystone refuses tokens in this way that are nobody's fault but their own: of
// a trust whose giver lost a role of it, or is disabled.
func refusesSubject(body []byte) bool {
	var said struct {
		Error struct {
			Code    int    `json:"code"`
			Message string `json:"message"`
		} `json:"error"`
	}
	return json.Unmarshal(body, &said) == nil && said.Error.Code == http.StatusForbidden &&
		!strings.Contains(said.Error.Message, "identity:validate_token")
}

// retryAfter reads the header in its form of seconds (RFC 9110, 10.2.3).
func retryAfter(header http.Header) time.Duration {
	seconds, err := strconv.Atoi(header.Get("Retry-After"))
	if err != nil {
		return usualRetryAfter
	}
	return min(max(time.Duration(min(seconds, 3600))*time.Second, minRetryAfter), maxRetryAfter)
}

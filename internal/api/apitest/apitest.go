// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package apitest holds what Muster answers against its own description: a
// transport for the HTTP clients of tests that fails the test on the first
// request or answer that the description does not allow.
//
// It is for tests only, and changes nothing that passes through it.
package apitest

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/muster-cloud/muster/internal/api"
	"github.com/muster-cloud/muster/internal/api/description"
)

// Load returns the description as it is served. What objects in answers hold
// beyond it is refused: in a test, a field without description is a fault.
func Load(t testing.TB) *openapi3.T {
	t.Helper()
	face, err := description.New("v0.0.0")
	if err != nil {
		t.Fatal(err)
	}
	answer := httptest.NewRecorder()
	router := api.NewRouter(api.RouterConfig{Logger: slog.New(slog.DiscardHandler), Metrics: api.NewMetrics(prometheus.NewRegistry())}, face)
	router.ServeHTTP(answer, httptest.NewRequest("GET", "/openapi.json", nil))
	doc, err := openapi3.NewLoader().LoadFromData(answer.Body.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(t.Context()); err != nil {
		t.Fatalf("the description is not valid: %v", err)
	}
	for _, schema := range doc.Components.Schemas {
		closeObject(schema.Value)
	}
	for _, path := range doc.Paths.Map() {
		for _, operation := range path.Operations() {
			for _, response := range operation.Responses.Map() {
				for _, content := range response.Value.Content {
					if content.Schema != nil {
						closeObject(content.Schema.Value)
					}
				}
			}
		}
	}
	return doc
}

// closeObject forbids fields that are not named.
func closeObject(schema *openapi3.Schema) {
	if schema.AdditionalProperties.Schema == nil && len(schema.Properties) > 0 {
		closed := false
		schema.AdditionalProperties.Has = &closed
	}
	for _, property := range schema.Properties {
		closeObject(property.Value)
	}
	if schema.Items != nil {
		closeObject(schema.Items.Value)
	}
}

// Transport checks what passes between a client and Muster.
type Transport struct {
	t      testing.TB
	router routers.Router

	mu        sync.Mutex
	exercised map[string]map[int]bool
}

// NewTransport returns a transport whose objections fail the test.
func NewTransport(t testing.TB) *Transport {
	t.Helper()
	router, err := gorillamux.NewRouter(Load(t))
	if err != nil {
		t.Fatal(err)
	}
	return &Transport{t: t, router: router, exercised: map[string]map[int]bool{}}
}

// Exercised tells which operations, by ID, were answered with which statuses.
func (tr *Transport) Exercised() map[string]map[int]bool {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return tr.exercised
}

// RoundTrip implements http.RoundTripper.
func (tr *Transport) RoundTrip(request *http.Request) (*http.Response, error) {
	var sent []byte
	if request.Body != nil {
		var err error
		if sent, err = io.ReadAll(request.Body); err != nil {
			return nil, err
		}
		request.Body = io.NopCloser(bytes.NewReader(sent))
	}
	response, err := http.DefaultTransport.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	response.Body.Close()
	response.Body = io.NopCloser(bytes.NewReader(body))
	tr.check(request, sent, response, body)
	return response, nil
}

func (tr *Transport) check(request *http.Request, sent []byte, response *http.Response, body []byte) {
	input := tr.find(request, sent)
	if input == nil {
		if s := response.StatusCode; s != http.StatusNotFound && s != http.StatusMethodNotAllowed {
			tr.t.Errorf("%s %s is not described, and answered with %d", request.Method, request.URL.Path, s)
		}
		return
	}
	tr.mu.Lock()
	id := input.Route.Operation.OperationID
	if tr.exercised[id] == nil {
		tr.exercised[id] = map[int]bool{}
	}
	tr.exercised[id][response.StatusCode] = true
	tr.mu.Unlock()
	// Who asks wrongly is told so; who is served must have asked as described.
	if response.StatusCode < http.StatusMultipleChoices {
		if err := openapi3filter.ValidateRequest(context.Background(), input); err != nil {
			tr.t.Errorf("%s %s was served, and the request is not as described: %v", request.Method, request.URL, err)
		}
	}
	options := *options
	// A page is described as text, which every page is.
	options.ExcludeResponseBody = strings.HasPrefix(response.Header.Get("Content-Type"), "text/")
	err := openapi3filter.ValidateResponse(context.Background(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: input, Status: response.StatusCode, Header: response.Header,
		Body: io.NopCloser(bytes.NewReader(body)), Options: &options,
	})
	if err != nil {
		tr.t.Errorf("%s %s: the answer %d is not as described: %v\n%.2000s", request.Method, request.URL, response.StatusCode, err, body)
	}
}

var options = &openapi3filter.Options{
	IncludeResponseStatus: true, MultiError: true,
	AuthenticationFunc: openapi3filter.NoopAuthenticationFunc,
}

// find returns the description of a request, or nil.
func (tr *Transport) find(request *http.Request, sent []byte) *openapi3filter.RequestValidationInput {
	copied := request.Clone(context.Background())
	copied.Body = io.NopCloser(bytes.NewReader(sent))
	copied.URL.Host, copied.URL.Scheme, copied.Host = "", "", ""
	path := strings.TrimRight(copied.URL.EscapedPath(), "/")
	if path == "" {
		path = "/"
	}
	for _, prefix := range []string{"", "/v1"} {
		attempt := copied.Clone(context.Background())
		attempt.Body = copied.Body
		parsed, err := attempt.URL.Parse(prefix + path)
		if err != nil {
			return nil
		}
		parsed.RawQuery, attempt.URL = attempt.URL.RawQuery, parsed
		route, parameters, err := tr.router.FindRoute(attempt)
		if err == nil && (prefix == "" || route.Operation.Extensions["x-unversioned"] == true) {
			// Boot scripts post JSON with a form's type, and it is not checked.
			if len(sent) > 0 {
				attempt.Header.Set("Content-Type", "application/json")
			}
			return &openapi3filter.RequestValidationInput{Request: attempt, PathParams: parameters, Route: route, Options: options}
		}
	}
	return nil
}

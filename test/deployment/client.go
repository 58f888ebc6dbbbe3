// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package deployment

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// Person is a user of the cloud who holds roles in one project.
type Person struct {
	ID, Name, ProjectID, Token string
}

// Project makes a project in the cloud and returns its ID.
func (d *Deployment) Project(t testing.TB, name string) string {
	t.Helper()
	id, err := d.Cloud.Identity.CreateProject(name)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// Person makes a user with roles in the project of that name, and logs in.
func (d *Deployment) Person(t testing.TB, name, project string, roles ...string) Person {
	t.Helper()
	id, err := d.Cloud.Identity.CreateUser(name, "secret")
	if err != nil {
		t.Fatal(err)
	}
	p := Person{ID: id, Name: name, ProjectID: d.Cloud.Identity.ProjectID(project)}
	for _, role := range roles {
		if err := d.Cloud.Identity.Grant(id, p.ProjectID, role); err != nil {
			t.Fatal(err)
		}
	}
	p.Token = d.login(t, name, "secret", project)
	return p
}

// Nova logs in as Nova's service user.
func (d *Deployment) Nova(t testing.TB) Person {
	t.Helper()
	return d.seeded(t, "nova", "service")
}

// Operator logs in as the cloud's administrator.
func (d *Deployment) Operator(t testing.TB) Person {
	t.Helper()
	return d.seeded(t, "admin", "admin")
}

func (d *Deployment) seeded(t testing.TB, name, project string) Person {
	t.Helper()
	return Person{
		ID: d.Cloud.Identity.UserID(name), Name: name, ProjectID: d.Cloud.Identity.ProjectID(project),
		Token: d.login(t, name, d.Cloud.Identity.Password(name), project),
	}
}

func (d *Deployment) login(t testing.TB, name, password, project string) string {
	t.Helper()
	token, err := d.Cloud.Identity.Token(name, password, project)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// NewID returns a random UUID in the canonical form.
func NewID() string {
	id := make([]byte, 16)
	rand.Read(id)
	return hex.EncodeToString(id)
}

// NewKey returns a fresh Ed25519 public key as an authorized_keys line.
func NewKey(t testing.TB) string {
	t.Helper()
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
}

// Client speaks to a replica as a person, or as nobody.
type Client struct {
	URL   string
	Token string
	HTTP  *http.Client
}

// As returns a client of the replica at the URL for a person.
func As(url string, p Person) *Client {
	return &Client{URL: url, Token: p.Token, HTTP: &http.Client{
		Timeout:   5 * time.Minute,
		Transport: &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true},
	}}
}

// At returns the same client for another replica.
func (c *Client) At(url string) *Client {
	other := *c
	other.URL = url
	return &other
}

// Answer is what a replica answered.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// Decode reads the answer's JSON.
func (a Answer) Decode(into any) error {
	if err := json.Unmarshal(a.Body, into); err != nil {
		return fmt.Errorf("status %d, body %.200q: %w", a.Status, a.Body, err)
	}
	return nil
}

// Call sends a request with a JSON body, or none for nil, and headers as pairs.
func (c *Client) Call(ctx context.Context, method, path string, body any, headers ...string) (Answer, error) {
	var reader io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return Answer{}, err
		}
		reader = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(ctx, method, c.URL+path, reader)
	if err != nil {
		return Answer{}, err
	}
	if c.Token != "" {
		request.Header.Set("X-Auth-Token", c.Token)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := c.HTTP.Do(request)
	if err != nil {
		return Answer{}, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return Answer{response.StatusCode, response.Header, text}, err
}

// Want calls, fails the test unless the status is as wanted, and reads the
// answer's JSON into the last argument unless that is nil.
func (c *Client) Want(t testing.TB, status int, method, path string, body, into any, headers ...string) Answer {
	t.Helper()
	answer, err := c.Call(t.Context(), method, path, body, headers...)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	if answer.Status != status {
		t.Fatalf("%s %s: status %d, want %d: %s", method, path, answer.Status, status, answer.Body)
	}
	if into != nil {
		if err := answer.Decode(into); err != nil {
			t.Fatalf("%s %s: %v", method, path, err)
		}
	}
	return answer
}

// Object is a JSON object to send.
type Object map[string]any

// UserCert is a user certificate as the API answers it.
type UserCert struct {
	Serial      uint64 `json:"serial"`
	UserID      string `json:"user_id"`
	AuthID      string `json:"auth_id"`
	Cert        string `json:"cert"`
	Principals  string `json:"principals"`
	Fingerprint string `json:"fingerprint"`
	Revoked     bool   `json:"revoked"`
	CreatedAt   string `json:"created_at"`
	ExpiresAt   string `json:"expires_at"`
}

// HostCert is a host certificate as the API answers it.
type HostCert struct {
	Serial      uint64 `json:"serial"`
	HostID      string `json:"host_id"`
	AuthID      string `json:"auth_id"`
	Cert        string `json:"cert"`
	Hostname    string `json:"hostname"`
	Fingerprint string `json:"fingerprint"`
	Revoked     bool   `json:"revoked"`
}

// OwnCert is the body that asks for a person's certificate.
func (p Person) OwnCert(key string) Object {
	return Object{"user_id": p.ID, "auth_id": p.ProjectID, "pub_key": key}
}

// HostToken is what POST /v1/hosttokens answers.
type HostToken struct {
	TokenID string `json:"token_id"`
	HostID  string `json:"host_id"`
}

// Certificate reads a certificate from its line.
func Certificate(line string) (*ssh.Certificate, error) {
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		return nil, err
	}
	cert, ok := key.(*ssh.Certificate)
	if !ok {
		return nil, fmt.Errorf("%s is no certificate", key.Type())
	}
	return cert, nil
}

// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"crypto/rand"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/muster-cloud/muster/internal/demo/openssh"
	"github.com/muster-cloud/muster/test/cloud"
	"github.com/muster-cloud/muster/test/deployment"
)

const personPassword = "secret"

// person is a user with an SSH key.
type person struct {
	id      string
	project string // where the certificate is for
	session *cloud.Session
	client  *deployment.Client
	key     string // path of the private key
	public  string // its public line
	cert    deployment.UserCert
}

// unique makes a name that nobody has: the real cloud outlives a test.
func unique(prefix string) string { return prefix + "-" + strings.ToLower(rand.Text()[:10]) }

// newProject makes a project.
func (s *site) newProject(t testing.TB, name string) string {
	t.Helper()
	id, err := s.admin.Create(t.Context(), "project", map[string]any{"name": name})
	must(t, err)
	return id
}

// role returns the ID of a role of Keystone's own.
func (s *site) role(t testing.TB, name string) string {
	t.Helper()
	id, err := s.admin.Find(t.Context(), "role", name)
	must(t, err)
	if id == "" {
		t.Fatalf("Keystone has no role %s", name)
	}
	return id
}

// newUser makes a user without roles.
func (s *site) newUser(t testing.TB) string {
	t.Helper()
	id, err := s.admin.Create(t.Context(), "user", map[string]any{"name": unique("user"), "password": personPassword})
	must(t, err)
	return id
}

// member makes a user with the role member in a project, and logs in.
func (s *site) member(t testing.TB, project string) *person {
	t.Helper()
	user := s.newUser(t)
	must(t, s.admin.Give(t.Context(), cloud.Assignment("users", user, "projects", project, s.role(t, "member"))))
	return s.login(t, user, project)
}

// login logs a user in to a project.
func (s *site) login(t testing.TB, user, project string) *person {
	t.Helper()
	session, err := cloud.LoginByID(t.Context(), s.authURL, user, personPassword, project)
	must(t, err)
	return &person{id: user, project: project, session: session,
		client: deployment.As(s.main.url(), deployment.Person{Token: session.Token})}
}

// certify gets a certificate for a new key, which it keeps in files as ssh
// wants them.
func (p *person) certify(t testing.TB, programs openssh.Programs) {
	t.Helper()
	folder := t.TempDir()
	p.key = filepath.Join(folder, "key")
	var err error
	p.public, err = programs.NewKey(t.Context(), p.key, "")
	must(t, err)
	p.client.Want(t, http.StatusCreated, "POST", "/v1/usercerts",
		deployment.Object{"user_id": p.id, "auth_id": p.project, "pub_key": p.public}, &p.cert)
	write(t, p.key+"-cert.pub", p.cert.Cert+"\n")
}

// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/muster-cloud/muster/internal/demo/openssh"
	"github.com/muster-cloud/muster/internal/demo/standin"
	"github.com/muster-cloud/muster/test/cloud"
	"github.com/muster-cloud/muster/test/deployment"
)

// An instance without the agent, which boots with Tatu's own script, gets by
// with Tatu's calls: it lets members of its project in, and nobody whose role is
// gone once it has fetched the list again.
func TestInstanceOfTatu(t *testing.T) {
	inEachWorld(t, func(t *testing.T, w *world) {
		s := newSite(t, w)
		s.start(t, "one")
		project := s.newProject(t, unique("shop"))
		p := s.member(t, project)
		g := s.boot(t, p.session, unique("web"), nil)
		script := g.runTatuScript(t)
		p.certify(t, g.programs)
		must(t, g.login(t.Context(), p))
		must(t, s.admin.Take(t.Context(), cloud.Assignment("users", p.id, "projects", project, s.role(t, "member"))))
		// The script fetches the list each minute. Tests have no minutes.
		eventually(t, func(ctx context.Context) error {
			if err := g.fetchList(ctx, script); err != nil {
				return err
			}
			if err := g.login(ctx, p); !errors.Is(err, openssh.ErrRefused) {
				return fmt.Errorf("sshd still lets the person in (%v)", err)
			}
			return nil
		})
		g.wantRevoked(t, p)
	})
}

// runTatuScript does what Tatu's boot script does, and starts sshd. It returns
// how the script calls Muster.
func (g *guest) runTatuScript(t testing.TB) *deployment.Client {
	t.Helper()
	g.prepare(t)
	told := g.read(t)["tatu"]
	script := deployment.As(told.Endpoint, deployment.Person{})
	key := g.path("host")
	public, err := g.programs.NewKey(t.Context(), key, "")
	must(t, err)
	script.Want(t, http.StatusOK, "POST", "/noauth/hostcerts",
		deployment.Object{"token_id": told.Token, "host_id": g.id, "pub_key": public}, &g.cert)
	write(t, key+openssh.CertificateSuffix, strings.TrimSpace(g.cert.Cert)+"\n")
	write(t, g.path(standin.UserCAsFile), strings.TrimSpace(told.UserCA)+"\n")
	must(t, g.fetchList(t.Context(), script))
	g.sshd, err = openssh.StartServer(t.Context(), openssh.ServerConfig{Programs: g.programs, Dir: g.folder, HostKeys: []string{key},
		TrustedUserCAKeys: g.path(standin.UserCAsFile), RevokedKeys: g.path(standin.RevokedFile),
		Principals: map[string][]string{g.account: {"member"}}})
	must(t, err)
	t.Cleanup(func() { must(t, g.sshd.Close()) })
	return script
}

// fetchList writes the project's revocation list where sshd looks for it.
func (g *guest) fetchList(ctx context.Context, script *deployment.Client) error {
	answer, err := script.Call(ctx, http.MethodGet, "/noauth/revokeduserkeys/"+g.project, nil)
	if err != nil {
		return err
	}
	if answer.Status != http.StatusOK {
		return fmt.Errorf("the revocation list: status %d", answer.Status)
	}
	var told struct {
		Encoding string `json:"encoding"`
		Data     string `json:"revoked_keys_data"`
	}
	if err := answer.Decode(&told); err != nil {
		return err
	}
	if told.Encoding != "base64" {
		return fmt.Errorf("the revocation list is encoded as %q", told.Encoding)
	}
	list, err := base64.StdEncoding.DecodeString(told.Data)
	if err != nil {
		return err
	}
	return os.WriteFile(g.path(standin.RevokedFile), list, 0o600)
}

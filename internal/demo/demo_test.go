// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/muster-cloud/muster/internal/demo/openssh"
	"github.com/muster-cloud/muster/internal/demo/standin"
)

// requireOpenSSH skips where OpenSSH is missing, unless it must be there.
func requireOpenSSH(t *testing.T) openssh.Programs {
	t.Helper()
	programs, err := openssh.Find()
	if err == nil {
		return programs
	}
	if os.Getenv("CI") == "true" || os.Getenv("MUSTER_TEST_REQUIRE") == "1" {
		t.Fatal(err)
	}
	t.Skip("SKIPPED, nothing was tested: ", err)
	return programs
}

// TestReadmeTellsTheStory: what the README shows of the demo is what one sees.
func TestReadmeTellsTheStory(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	s, err := newStory(Config{}, openssh.Programs{})
	if err != nil {
		t.Fatal(err)
	}
	proves := map[string]string{}
	var want, got []string
	for _, scene := range s.scenes() {
		want, proves[scene.name] = append(want, scene.name), scene.proves
	}
	for line := range strings.Lines(string(text)) {
		if fields := strings.SplitN(strings.TrimSpace(line), "  ", 3); len(fields) == 3 && fields[0] == "ok" {
			_, name, _ := strings.Cut(strings.TrimSpace(fields[2]), "  ")
			got = append(got, name)
		}
		if _, said, ok := strings.Cut(line, "                 proves: "); ok && len(got) > 0 && proves[got[len(got)-1]] != strings.TrimSpace(said) {
			t.Errorf("%s proves %q", got[len(got)-1], said)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestPlay(t *testing.T) {
	requireOpenSSH(t)
	t.Setenv("TMPDIR", t.TempDir())
	var observed []Step
	report, err := Play(t.Context(), Config{Observe: func(step Step) { observed = append(observed, step) }})
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range report.Steps {
		if !step.OK || step.Found == "" || step.Error != "" {
			t.Errorf("%+v", step)
		}
	}
	if !report.OK || len(report.Steps) != report.Planned || len(observed) != report.Planned {
		t.Errorf("OK %v, %d of %d steps, %d observed", report.OK, len(report.Steps), report.Planned, len(observed))
	}
	left, err := os.ReadDir(os.Getenv("TMPDIR"))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestPlayTellsWhatIsMissing(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if _, err := Play(t.Context(), Config{}); !errors.Is(err, openssh.ErrMissing) || !strings.Contains(err.Error(), "make demo") {
		t.Fatal(err)
	}
}

// detour answers requests in the place of Muster or the cloud. What it leaves
// alone (nil) goes on to them.
type detour func(*http.Request) *http.Response

// crossing is where a story's requests may be led astray, from some point on.
type crossing struct {
	way   http.RoundTripper
	taken atomic.Pointer[detour]
}

func (c *crossing) RoundTrip(r *http.Request) (*http.Response, error) {
	if d := c.taken.Load(); d != nil {
		if answer := (*d)(r); answer != nil {
			return answer, nil
		}
	}
	return c.way.RoundTrip(r)
}

// mislead sends the story's requests on a detour from now on.
func mislead(s *story, d detour) { s.http.Transport.(*crossing).taken.Store(&d) }

func answer(status int, body any) *http.Response {
	text, err := json.Marshal(body)
	if err != nil {
		panic(err)
	}
	return &http.Response{StatusCode: status, Status: fmt.Sprint(status), Header: http.Header{}, Body: io.NopCloser(strings.NewReader(string(text)))}
}

// instead answers calls of one method whose path ends so.
func instead(method, path string, status int, body any) detour {
	return func(r *http.Request) *http.Response {
		if r.Method != method || !strings.HasSuffix(r.URL.Path, path) {
			return nil
		}
		return answer(status, body)
	}
}

const noNewList = "no new list"

// TestEachSceneCanFail breaks the world before a scene, in the way that the
// scene is there to notice.
func TestEachSceneCanFail(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: playing so often takes many seconds")
	}
	programs := requireOpenSSH(t)
	for _, test := range []struct {
		name  string
		scene int // from 1
		spoil func(*testing.T, *story)
		want  string // in the error
	}{
		{"Muster is not ready", 1, func(_ *testing.T, s *story) {
			mislead(s, instead("GET", "/readyz", http.StatusServiceUnavailable, nil))
		}, "/readyz answered 503"},
		{"the admin's token is gone", 2, func(_ *testing.T, s *story) { s.admin = "gone" }, "401"},
		{"each read gives another token", 3, func(_ *testing.T, s *story) {
			mislead(s, func(r *http.Request) *http.Response {
				if !strings.HasSuffix(r.URL.Path, "/vendor_data2.json") {
					return nil
				}
				return answer(http.StatusOK, map[string]any{"muster": vendordata{Token: rand.Text(), UserCA: "a key", APIEndpoint: "a URL"}})
			})
		}, "differ between two reads"},
		{"Nova does not ask Muster", 3, func(t *testing.T, s *story) {
			if err := s.env.Cloud.Compute.SetVendordataTargets(); err != nil {
				t.Fatal(err)
			}
		}, "hosttoken.create"},
		{"the token is another", 4, func(_ *testing.T, s *story) {
			s.instance.metadata.Token = strings.Repeat("0", 32)
		}, "and so does a rebuild: Muster answers 404"},
		{"the user lost the role", 5, func(t *testing.T, s *story) {
			if err := s.env.Cloud.Identity.Ungrant(s.alice.id, s.alice.projectID, "member"); err != nil {
				t.Fatal(err)
			}
		}, "/v1/usercerts answered 40"},
		{"the instance trusts another authority", 6, func(t *testing.T, s *story) {
			copyFile(t, s.alice.ssh.Key+".pub", s.instance.path(standin.UserCAsFile))
		}, "refused the login"},
		{"the host has no certificate", 6, func(t *testing.T, s *story) {
			write(t, s.alice.ssh.KnownHosts, "@cert-authority * "+s.instance.key)
		}, "refused the server's host key"},
		{"the instance trusts the stranger's authority", 7, func(t *testing.T, s *story) {
			if _, err := s.certify(t.Context(), s.mallory); err != nil {
				t.Fatal(err)
			}
			var authority struct {
				UserKey string `json:"user_pub_key"`
			}
			_, err := s.call(t.Context(), request{method: "GET", url: s.env.MusterURL + "/v1/authorities/" + s.mallory.projectID,
				token: s.mallory.token, want: http.StatusOK}, &authority)
			if err != nil {
				t.Fatal(err)
			}
			write(t, s.instance.path(standin.UserCAsFile), s.instance.metadata.UserCA+"\n"+authority.UserKey+"\n")
		}, "sshd does not refuse the stranger: it succeeded"},
		{"the stranger is a member", 7, func(t *testing.T, s *story) {
			s.mallory.token, s.mallory.id = s.alice.token, s.alice.id
		}, "answered 201 Created, not 403"},
		{"the thief gets a certificate", 8, func(_ *testing.T, s *story) {
			mislead(s, instead("POST", "/noauth/hostcerts", http.StatusOK, nil))
		}, "answered 200, not 409"},
		{"the theft is not reported", 8, func(_ *testing.T, s *story) {
			mislead(s, instead("POST", "/noauth/hostcerts", http.StatusConflict, nil))
		}, "does not tell of it"},
		{"the instance is not enrolled", 9, func(_ *testing.T, s *story) { s.instance.metadata.OTP = "" }, "lack its name"},
		{"the password is another", 9, func(_ *testing.T, s *story) {
			s.instance.metadata.OTP = strings.Repeat("0", 32)
		}, "Invalid credentials"},
		{"FreeIPA lost the services", 9, func(t *testing.T, s *story) {
			s.instance.metadata.FQDN = s.env.Cloud.FreeIPA.HostName() + ".example"
		}, "FreeIPA has no host"},
		{"the password stays in the metadata", 9, func(_ *testing.T, s *story) {
			mislead(s, func(r *http.Request) *http.Response {
				if !strings.HasSuffix(r.URL.Path, "/vendor_data2.json") {
					return nil
				}
				return answer(http.StatusOK, map[string]any{"muster": s.instance.metadata})
			})
		}, "still hold a password"},
		{"the name is free", 10, func(t *testing.T, s *story) {
			s.instance.metadata.FQDN = "elsewhere.example.test"
			mislead(s, func(r *http.Request) *http.Response {
				if !strings.HasSuffix(r.URL.Path, "/vendor_data2.json") {
					return nil
				}
				return answer(http.StatusOK, map[string]any{"muster": s.instance.metadata})
			})
		}, "instance web-1 is not refused"},
		{"the floating IP leads nowhere", 11, func(_ *testing.T, s *story) {
			s.ipaDeadline = time.Second
			mislead(s, instead("POST", "/floatingips", http.StatusCreated,
				map[string]any{"floatingip": map[string]any{"floating_ip_address": "203.0.113.77"}}))
		}, "has 0 of the instance's two records"},
		{"the instance has no port", 11, func(_ *testing.T, s *story) {
			mislead(s, instead("GET", "/ports", http.StatusOK, map[string]any{"ports": []any{}}))
		}, "0 ports of Neutron fit"},
		{"FreeIPA keeps an entry", 14, func(t *testing.T, s *story) {
			if err := s.env.Cloud.FreeIPA.AddHost("left.example.test", ""); err != nil {
				t.Fatal(err)
			}
		}, "FreeIPA has 3 hosts, had 2"},
		{"sshd reads another list", 12, func(t *testing.T, s *story) {
			i := s.instance
			if err := i.server.Close(); err != nil {
				t.Fatal(err)
			}
			copyFile(t, i.path(standin.RevokedFile), i.path("another"))
			var err error
			i.server, err = openssh.StartServer(t.Context(), openssh.ServerConfig{
				Programs: s.programs, Dir: i.dir, HostKeys: []string{i.path("host")},
				TrustedUserCAKeys: i.path(standin.UserCAsFile), RevokedKeys: i.path("another"),
				Principals: map[string][]string{s.account: {"member"}},
			})
			if err != nil {
				t.Fatal(err)
			}
		}, "sshd does not refuse the revoked certificate: it succeeded"},
		{"another certificate is revoked", 12, func(_ *testing.T, s *story) { s.alice.serial = s.mallory.serial }, "answered 400"},
		{"the new list lacks the certificate", 12, func(t *testing.T, s *story) {
			stale, err := os.ReadFile(s.instance.path(standin.RevokedFile))
			if err != nil {
				t.Fatal(err)
			}
			mislead(s, func(r *http.Request) *http.Response {
				if !strings.HasPrefix(r.URL.Path, "/noauth/revokeduserkeys/") {
					return nil
				}
				return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(stale))}
			})
			// The request that waits already is not led astray.
			s.instance.stopAgent()
			s.running.Wait()
			if err := s.startAgent(t.Context()); err != nil {
				t.Fatal(err)
			}
		}, noNewList},
		{"the instance gets no list", 12, func(_ *testing.T, s *story) { s.instance.stopAgent(); s.running.Wait() }, noNewList},
		{"nothing is revoked", 12, func(_ *testing.T, s *story) {
			mislead(s, instead("POST", "/v1/revokeduserkeys/"+s.instance.projectID, http.StatusOK, map[string]any{}))
		}, noNewList},
		{"Keystone keeps the role", 13, func(_ *testing.T, s *story) {
			mislead(s, func(r *http.Request) *http.Response {
				if r.Method != "DELETE" || !strings.Contains(r.URL.Path, "/roles/") {
					return nil
				}
				return answer(http.StatusNoContent, nil)
			})
		}, noNewList},
		{"another role gives the account", 13, func(t *testing.T, s *story) {
			if err := s.env.Cloud.Identity.Grant(s.alice.id, s.alice.projectID, "manager"); err != nil {
				t.Fatal(err)
			}
		}, noNewList},
		{"another certificate was revoked", 13, func(_ *testing.T, s *story) {
			mislead(s, func(r *http.Request) *http.Response {
				if r.Method != "DELETE" || !strings.Contains(r.URL.Path, "/roles/") {
					return nil
				}
				s.alice.ssh.Certificate = s.mallory.ssh.Certificate
				return nil
			})
		}, "does not revoke key-cert.pub"},
		{"the user gets another one", 13, func(_ *testing.T, s *story) {
			asked := 0
			mislead(s, func(r *http.Request) *http.Response {
				if r.Method != "POST" || !strings.HasSuffix(r.URL.Path, "/v1/usercerts") {
					return nil
				}
				if asked++; asked == 1 {
					return nil
				}
				return answer(http.StatusCreated, map[string]any{})
			})
		}, "without the role: "},
		{"Muster does not learn of the end", 14, func(_ *testing.T, s *story) {
			mislead(s, func(r *http.Request) *http.Response {
				if r.Method != "DELETE" || !strings.Contains(r.URL.Path, "/servers/") {
					return nil
				}
				return answer(http.StatusNoContent, nil)
			})
		}, noNewList},
		{"the token outlives the instance", 14, func(_ *testing.T, s *story) {
			mislead(s, instead("POST", "/noauth/hostcerts", http.StatusOK, nil))
		}, "the token outlives its instance"},
		{"the host stays in the list", 14, func(_ *testing.T, s *story) {
			mislead(s, instead("GET", "/v1/hosts", http.StatusOK, map[string]any{"hosts": []any{map[string]any{}}}))
		}, "still has 1 hosts"},
	} {
		t.Run(fmt.Sprintf("%d %s", test.scene, test.name), func(t *testing.T) {
			t.Parallel()
			s, err := newStory(Config{}, programs)
			if err != nil {
				t.Fatal(err)
			}
			s.http.Transport = &crossing{way: s.http.Transport}
			defer func() {
				if err := s.end(); err != nil {
					t.Error(err)
				}
			}()
			for i, scene := range s.scenes()[:test.scene] {
				last := i == test.scene-1
				if last {
					s.ipaDeadline = 10 * time.Second
					if test.want == noNewList {
						s.listDeadline = time.Second
					}
					test.spoil(t, s)
				}
				step := scene.play(t.Context())
				if step.OK == last {
					t.Fatalf("%+v", step)
				}
				if last && !strings.Contains(step.Error, test.want) {
					t.Errorf("it failed for another reason: %s", step.Error)
				}
			}
		})
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Clean(from))
	if err != nil {
		t.Fatal(err)
	}
	write(t, to, string(text))
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var update = flag.Bool("update", false, "write the golden files anew")

func golden(t *testing.T, path string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s differs (go test -update writes it anew): %s", path, diff)
	}
}

func TestSampleGolden(t *testing.T) {
	var sample bytes.Buffer
	if err := Sample(&sample); err != nil {
		t.Fatal(err)
	}
	golden(t, filepath.Join("testdata", "muster.conf.sample"), sample.Bytes())
	for i, l := range strings.Split(sample.String(), "\n") {
		if len(l) > 79 && !strings.HasPrefix(l, "#extensions") && !strings.Contains(l, "://") {
			t.Errorf("line %d has %d characters", i+1, len(l))
		}
	}
}

// TestSampleIsTheDefaults: the sample with all its lines in force is the same
// configuration as no file at all.
func TestSampleIsTheDefaults(t *testing.T) {
	var sample bytes.Buffer
	if err := Sample(&sample); err != nil {
		t.Fatal(err)
	}
	all := regexp.MustCompile(`(?m)^#([a-z_]+ =|\[)`).ReplaceAllString(sample.String(), "$1")
	files := map[string]string{"muster.conf": all, "policy.yaml": "{}"}
	got, want := mustLoad(t, files), mustLoad(t, map[string]string{"muster.conf": ""})
	if len(got.Roles) != 1 || got.Roles[0].Name != "NAME" {
		t.Fatalf("roles: %v", got.Roles)
	}
	if len(got.Projects) != 1 || got.Projects[0].Name != "NAME" {
		t.Fatalf("projects: %v", got.Projects)
	}
	got.Roles, got.Projects = nil, nil
	got.Policy, want.Policy = Policy{}, Policy{} // in another folder
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(Config{}), cmpopts.EquateEmpty()); diff != "" {
		t.Error(diff)
	}
	for _, s := range got.settings {
		if s.origin.file == "" {
			t.Errorf("[%s] %s is not in the sample", s.section, s.option.name)
		}
	}
}

// TestTable: every option is documented, and its default and limits fit its type.
func TestTable(t *testing.T) {
	seen := map[name]bool{}
	for _, s := range table() {
		for _, o := range s.options {
			at := name{s.name, o.name}
			if seen[at] {
				t.Errorf("%v twice", at)
			}
			seen[at] = true
			if !strings.HasSuffix(o.help, ".") || !regexp.MustCompile(`^[a-z][a-z_]*$`).MatchString(o.name) {
				t.Errorf("%v: name or help", at)
			}
			field := o.field(s.target(&Config{}, "x"))
			_ = kindOf(field) // panics for an unknown type
			for _, text := range []string{o.min, o.max, o.example} {
				if text != "" {
					if err := assign(field, text); err != nil {
						t.Errorf("%v: %q: %v", at, text, err)
					}
				}
			}
		}
	}
}

func TestMarkdown(t *testing.T) {
	var page bytes.Buffer
	if err := Markdown(&page); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"\n## [role:NAME]\n", "\n### ca_algorithm\n", "- Default: `ed25519`\n",
		"- Maximum value: `300`\n", "`[listen:local]` with `address = 127.0.0.1:18323`, `faces = health, metrics`."} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("no %q", want)
		}
	}
	golden(t, filepath.Join("..", "..", "docs", "configuration.md"), page.Bytes())
}

func TestShow(t *testing.T) {
	c := mustLoad(t, map[string]string{"muster.conf": `
[DEFAULT]
host = $keystone_authtoken.password
[database]
connection = mysql+pymysql://muster:hunter2@h@db/muster?ssl_key=x&sslpassword=hunter2
[keystone_authtoken]
password = hunter2
username = two
  lines
`}, "MUSTER_API__MAX_PAGE=10")
	var out bytes.Buffer
	if err := Show(&out, c); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"muster.conf:3\nhost = ****\n",
		"muster.conf:5\nconnection = mysql+pymysql://muster:****@db/muster?ssl_key=****&sslpassword=****\n",
		"muster.conf:7\npassword = ****\n",
		"# from environment\nmax_page = 10\n",
		"# from default\ndebug = false\n",
		"\n[listen:local]\n# from default\naddress = 127.0.0.1:18323\n",
		"username = two\n    lines\n",
		"[custody]\n# from default\nbackend = sealed\n# from default\nmaster_key =\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "hunter2") {
		t.Errorf("a secret is shown:\n%s", out.String())
	}
}

func TestConcealed(t *testing.T) {
	for value, want := range map[string]string{
		"":                                    "",
		"x":                                   "****",
		"a b://c":                             "****",
		"sqlite:////var/lib/m.db":             "sqlite:////var/lib/m.db",
		"postgresql://u@h/d":                  "postgresql://u@h/d",
		"postgresql://u:p@h/d?sslmode=x":      "postgresql://u:****@h/d?sslmode=x",
		"postgresql://u:p/@?:p@h/d?a=b&c=d":   "postgresql://u:****@h/d?a=b&c=d",
		"postgresql:///d?user=u&PassWord=p":   "postgresql:///d?user=u&PassWord=****",
		"mysql://u:p@h/d?email=someone@there": "mysql://u:****@there",
	} {
		if got := concealed(value); got != want {
			t.Errorf("%q: %q, want %q", value, got, want)
		}
	}
}

func TestSecretIsNotPrinted(t *testing.T) {
	c := &Config{Custody: Custody{MasterKey: "hunter2"}}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "secret", c.Custody.MasterKey, "config", c.Custody)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "secret", c.Custody.MasterKey, "config", c.Custody)
	printed := fmt.Sprintf("%v %+v %#v %s %q", c.Custody, c.Custody, c.Custody, c.Custody.MasterKey, c.Custody.MasterKey)
	if out := printed + log.String(); strings.Contains(out, "hunter2") || !strings.Contains(out, mask) {
		t.Error(out)
	}
}

func TestComplete(t *testing.T) {
	c := mustLoad(t, map[string]string{"muster.conf": "[keystone_authtoken]\nusername = muster\n"})
	var problems Problems
	if !errors.As(c.Complete(), &problems) {
		t.Fatal("an empty configuration is complete")
	}
	var missing []string
	for _, p := range problems {
		missing = append(missing, p.Section+"."+p.Option)
	}
	slices.Sort(missing)
	want := []string{"custody.master_key", "keystone_authtoken.auth_url", "keystone_authtoken.password",
		"keystone_authtoken.project_name", "keystone_authtoken.user_domain_name", "vendordata.api_endpoint"}
	if diff := cmp.Diff(want, missing); diff != "" {
		t.Error(diff)
	}
	c = mustLoad(t, map[string]string{"muster.conf": `
[custody]
master_key_file = key
[vendordata]
api_endpoint = http://192.0.2.1
[keystone_authtoken]
auth_url = http://192.0.2.2:5000
auth_type = v3applicationcredential
application_credential_id = i
application_credential_secret = s
`, "key": "k"})
	if err := c.Complete(); err != nil {
		t.Error(err)
	}
}

func TestCheck(t *testing.T) {
	c := mustLoad(t, map[string]string{"muster.conf": "[keystone_authtoken]\nauth_url = http://x\n"})
	c.KeystoneAuthToken.AuthURL = &url.URL{}
	got, notes := c.Check(t.Context(),
		Probe{Section: "DEFAULT", Option: "transport_url", Tell: func(context.Context) ([]string, error) { return []string{"a", "b"}, nil }},
		Probe{Section: "database", Option: "connection", Try: func(context.Context) error { return nil }},
		Probe{Section: "keystone_authtoken", Option: "auth_url", Hint: "start it", Try: func(ctx context.Context) error {
			if _, bounded := ctx.Deadline(); !bounded {
				return errors.New("no deadline")
			}
			return errors.New("refused")
		}})
	if len(got) != 1 || !strings.HasSuffix(got[0].String(), "muster.conf:2 [keystone_authtoken] auth_url: refused; start it") {
		t.Errorf("got %v", got)
	}
	if !slices.Equal(notes, []string{"a", "b"}) {
		t.Errorf("notes %q", notes)
	}
}

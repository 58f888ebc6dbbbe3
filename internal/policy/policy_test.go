// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func writePolicy(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func mustLoad(t testing.TB, path string, defaults []Default) *Enforcer {
	t.Helper()
	e, err := Load(path, defaults)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestFileOverridesDefaults(t *testing.T) {
	defaults := []Default{
		{Name: "base", Check: "role:admin"}, {Name: "call", Check: "rule:base"}, {Name: "open", Check: "@"},
	}
	e := mustLoad(t, writePolicy(t, "policy.yaml", "# ours\n\"base\": \"role:boss or role:admin\"\nopen: '!'\n"), defaults)
	boss := Caller{Roles: []string{"Boss"}}.Credentials()
	if !e.Allow("call", boss, nil) {
		t.Error("a default does not see the file's rule")
	}
	if e.Allow("open", boss, nil) {
		t.Error("the file's rule does not override the default")
	}
	if e.Allow("unheard-of", boss, nil) {
		t.Error("a rule that is nowhere allows")
	}
	if w := e.Warnings(); len(w) > 0 {
		t.Errorf("warnings: %q", w)
	}
}

func TestFileForms(t *testing.T) {
	admin := Caller{Roles: []string{"admin"}}.Credentials()
	other := Caller{Roles: []string{"reader"}}.Credentials()
	tests := map[string]struct {
		text         string
		admin, other bool
	}{
		"yaml":            {"call: role:admin", true, false},
		"yaml, folded":    {"call: >-\n  role:admin\n  or role:boss\n", true, false},
		"json with tabs":  {"{\n\t\"call\":\t\"role:admin\"\n}\n", true, false},
		"json, old form":  {`{"call": [["role:boss", "role:admin"], ["role:admin"]]}`, true, false},
		"old form, empty": {`{"call": []}`, true, true},
		"old form, bare":  {`call: ["role:reader", "role:boss"]`, false, true},
		"old form, void":  {`call: [[]]`, false, false},
		"empty text":      {`call: ""`, true, true},
		"empty file":      {"", false, false},
		"comments":        {"# nothing\n", false, false},
		"null":            {"null\n", false, false},
		"empty map":       {"{}", false, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			e := mustLoad(t, writePolicy(t, "p", tt.text), nil)
			if got := e.Allow("call", admin, nil); got != tt.admin {
				t.Errorf("admin: %v", got)
			}
			if got := e.Allow("call", other, nil); got != tt.other {
				t.Errorf("reader: %v", got)
			}
		})
	}
}

func TestLoadErrors(t *testing.T) {
	const (
		noCheck = ` is no check: write KIND:VALUE, as in role:admin, or "@" or "!"`
		noCalls = ` checks are not supported: Muster asks no other server while it decides; write the rule out here`
		notText = `: must be text in quotes, or a list of lists of checks`
	)
	deep := strings.Repeat("(", maxDepth+1) + "@" + strings.Repeat(")", maxDepth+1)
	tests := map[string]struct{ text, want string }{
		"word alone":  {"\n\na: admin", `p:3: rule "a": "admin"` + noCheck},
		"two checks":  {"a: role:x role:y", `p:1: rule "a": "role:y" where "and", "or" or the end was expected`},
		"dangling":    {"a: role:x and", `p:1: rule "a": the rule ends where a check, "not" or "(" was expected`},
		"parenthesis": {"a: (role:x", `p:1: rule "a": a ")" is missing`},
		"blanks":      {`a: " "`, `p:1: rule "a": the rule ends where a check, "not" or "(" was expected`},
		"quoted": {`a: "'role:x'"`,
			`p:1: rule "a": "'role:x'" is quoted text, not a check; quote at most what stands before the colon`},
		"format": {"a: user_id:%(user_id)",
			`p:1: rule "a": the part after ":" may hold only %(name)s and %% besides plain text`},
		"left":           {"a: user id:x", `p:1: rule "a": "user"` + noCheck},
		"keyword":        {"a: class:x", `p:1: rule "a": "class" is neither the name of a credential nor a literal`},
		"http":           {"a: http://h/x", `p:1: rule "a": http:` + noCalls},
		"https":          {"a: role:x or https://h/x", `p:1: rule "a": https:` + noCalls},
		"deep":           {"a: '" + deep + "'", `p:1: rule "a": more than 100 nested "(" and "not"`},
		"undefined":      {"a: not rule:b", `p:1: rule "a": refers to rule:b, which is not defined`},
		"itself":         {"a: rule:a", `p:1: rule "a": refers to itself: a -> a`},
		"circle":         {"a: rule:b\nb: '@ or not rule:c'\nc: rule:b", `p:2: rule "b": refers to itself: b -> c -> b`},
		"default circle": {"a: rule:x\ndefault: rule:a", `p:1: rule "a": refers to itself: a -> default -> a`},
		"twice":          {"a: '@'\na: '!'", `p:1: rule "a": defined again in line 2`},
		"no value":       {"a:", `p:1: rule "a": has no rule; write "@" to allow everybody, or "!" to allow nobody`},
		"number":         {"a: 0", `p:1: rule "a"` + notText},
		"false":          {"a: false", `p:1: rule "a"` + notText},
		"map":            {"a: {b: c}", `p:1: rule "a"` + notText},
		"list of maps":   {"a: [{b: c}]", `p:1: rule "a"` + notText},
		"list of lists³": {"a: [[[x]]]", `p:1: rule "a"` + notText},
		"alias":          {"a: &x '@'\nb: *x", `p:2: rule "b"` + notText},
		"name":           {"1: '@'", `p:1: the name of a rule must be text; quote it`},
		"list":           {"- a", `p:1: no rules: want lines of the form "NAME": "RULE"`},
		"documents":      {"a: '@'\n---\nb: '@'", `p: more than one YAML document`},
		"all at once": {"a: x\nb: y:z)",
			`p:1: rule "a": "x"` + noCheck + "\n" + `p:2: rule "b": ")" where "and", "or" or the end was expected`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			sources, err := parseFile("p", []byte(tt.text))
			if err == nil {
				_, err = build(sources, nil)
			}
			if err == nil {
				t.Fatal("no error")
			}
			if diff := cmp.Diff(tt.want, err.Error()); diff != "" {
				t.Error(diff)
			}
			if _, ok := errors.AsType[*Error](err); !ok {
				t.Errorf("a %T, not an *Error", err)
			}
		})
	}
}

func TestLoadLimits(t *testing.T) {
	if _, err := parseFile("p", []byte(strings.Repeat(" ", maxFileSize+1))); err == nil {
		t.Error("a file beyond the limit is read")
	}
	if _, err := parseText(strings.Repeat("@ or ", maxRuleLen/5) + "  @ "); !errors.Is(err, errTooLong) {
		t.Errorf("rule beyond the limit: %v", err)
	}
	if _, err := parseText(strings.Repeat("not ", maxDepth) + "@"); err != nil {
		t.Errorf("at the limit: %v", err)
	}
	if _, err := Load(filepath.Join(t.TempDir(), "none.yaml"), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if _, err := Load(t.TempDir(), nil); err == nil {
		t.Error("a folder is read")
	}
}

func TestDefaultsAreChecked(t *testing.T) {
	for _, defaults := range [][]Default{
		{{Name: "a", Check: "admin"}},
		{{Name: "a", Check: "rule:b"}},
		{{Name: "a", Check: "@"}, {Name: "a", Check: "!"}},
	} {
		if _, err := Load("", defaults); err == nil {
			t.Errorf("%v: no error", defaults)
		}
	}
}

func TestDefaultRuleStandsIn(t *testing.T) {
	path := writePolicy(t, "policy.yaml", "default: role:admin\ncall: rule:gone\n")
	e := mustLoad(t, path, []Default{{Name: "call", Check: "!"}})
	admin, other := Caller{Roles: []string{"admin"}}.Credentials(), Caller{}.Credentials()
	for _, name := range []string{"call", "unheard-of"} {
		if !e.Allow(name, admin, nil) || e.Allow(name, other, nil) {
			t.Errorf("%s is not decided by the rule default", name)
		}
	}
	w := e.Warnings()
	if len(w) != 1 || w[0] != path+
		`:2: rule "call": refers to rule:gone, which is not defined; "default" decides instead` {
		t.Errorf("warnings: %q", w)
	}
}

func TestWarnsOfUnknownNames(t *testing.T) {
	path := writePolicy(t, "policy.yaml", "call: rule:boss\nboss: role:boss\nclal: '@'\n")
	e := mustLoad(t, path, []Default{{Name: "call", Check: "!"}})
	w := e.Warnings()
	if len(w) != 1 || w[0] != path+
		`:3: rule "clal": Muster has no such rule, and no other refers to it; is the name right?` {
		t.Errorf("warnings: %q", w)
	}
}

// TestCredentials checks the names that oslo.context's to_policy_values gives.
func TestCredentials(t *testing.T) {
	creds := Caller{
		UserID: "u", UserName: "n", UserDomainID: "ud", ProjectID: "p", ProjectName: "pn", ProjectDomainID: "pd",
		SystemScope: "all", Roles: []string{"Admin", "ADM\u0130N"}, IsAdminProject: true, ServiceRoles: []string{"service"},
	}.Credentials()
	for rule, want := range map[string]bool{
		"user_id:u": true, "user_name:n": true, "user_domain_id:ud": true, "project_id:p": true, "project_name:pn": true,
		"project_domain_id:pd": true, "domain_id:None": true, "system_scope:all": true, "system:all": true,
		"is_admin_project:True": true, "is_admin:True": true, "service_roles:service": true, "roles:Admin": true,
		"roles:admin": false, "role:admin": true, "service_user_id:None": true, "tenant:None": false,
		"domain_id:": false, "user_id:%(user_id)s": false, "not user_id:%(user_id)s": true, "not user_id.x:y": false,
	} {
		e := mustLoad(t, "", []Default{{Name: "call", Check: rule}})
		if got := e.Allow("call", creds, Target{}); got != want {
			t.Errorf("%s: %v", rule, got)
		}
	}
	dotted := mustLoad(t, "", []Default{{Name: "call", Check: "role:admin"}})
	if dotted.Allow("call", Caller{Roles: []string{"ADM\u0130N"}}.Credentials(), nil) {
		t.Error("a dotted capital I is taken for an i")
	}
	if (mustLoad(t, "", Defaults())).Allow(AllProjects, Credentials{}, nil) {
		t.Error("no credentials at all are allowed")
	}
}

func TestConcurrentAllow(t *testing.T) {
	e := mustLoad(t, "", Defaults())
	creds := Caller{UserID: "u", ProjectID: "p", Roles: []string{"member"}}.Credentials()
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 1000 {
				if !e.Allow(UserCertCreate, creds, Target{"user_id": "u", "project_id": "p"}) {
					t.Error("denied")
					return
				}
			}
		})
	}
	group.Wait()
}

func TestSample(t *testing.T) {
	e := mustLoad(t, "", []Default{{
		Name: "a:b", Check: "role:x or 'y':%(z)s", Scopes: []string{"project", "system"},
		Description: "Words that go on and on until the line is long enough to be broken into two.",
		Operations:  []Operation{{"GET", "/v1/a"}, {"HEAD", "/v1/a"}},
	}})
	var sample, table strings.Builder
	if err := errors.Join(e.Sample(&sample), e.Markdown(&table)); err != nil {
		t.Fatal(err)
	}
	want := `# Words that go on and on until the line is long enough to be broken
# into two.
# GET  /v1/a
# HEAD  /v1/a
# Intended scope(s): project, system
#"a:b": "role:x or 'y':%(z)s"

`
	if diff := cmp.Diff(want, sample.String()); diff != "" {
		t.Error(diff)
	}
	row := "| `a:b` | `role:x or 'y':%(z)s` | `GET /v1/a`<br>`HEAD /v1/a` | Words"
	if !strings.Contains(table.String(), row) {
		t.Errorf("%s\nlacks %s", table.String(), row)
	}
}

// TestSampleLoads uncomments the whole sample; nothing may change or be warned of.
func TestSampleLoads(t *testing.T) {
	var sample strings.Builder
	if err := mustLoad(t, "", Defaults()).Sample(&sample); err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(sample.String(), "\n#\"", "\n\"")
	e := mustLoad(t, writePolicy(t, "policy.yaml", text), Defaults())
	if w := e.Warnings(); len(w) > 0 {
		t.Errorf("warnings: %q", w)
	}
	for name, r := range e.rules {
		if r.file == "" {
			t.Errorf("%s is not in the sample", name)
		}
	}
}

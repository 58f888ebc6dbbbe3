// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// question is one case for testdata/oracle.py; judgement is its answer.
type question struct {
	Rules  map[string]any `json:"rules"`
	Ask    string         `json:"ask"`
	Creds  map[string]any `json:"creds"`
	Target map[string]any `json:"target"`
}

type judgement struct{ Malformed, Exotic, Undefined, Circular, Allow bool }

// TestAgainstOsloPolicy holds decisions on random rules, credentials and
// targets against the original program. MUSTER_TEST_SEED repeats a run.
func TestAgainstOsloPolicy(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("MUSTER_TEST_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("MUSTER_TEST_SEED=%d", seed)
	g := generator{rand.New(rand.NewPCG(seed, 0))}
	questions := make([]question, 10000)
	for i := range questions {
		questions[i] = g.question()
	}
	var allowed, denied, refused, exotic, bad int
	for i, want := range askOslo(t, questions) {
		q := questions[i]
		got, err := decide(t, q)
		unusable := want.Malformed || want.Undefined || want.Circular
		switch {
		case err != nil && !unusable && want.Exotic:
			exotic++
		case (err != nil) != unusable || err == nil && got != want.Allow:
			bad++
			text, _ := json.Marshal(q)
			if bad <= 10 {
				t.Errorf("%s\noslo.policy: %+v\nMuster: %v, %v", text, want, got, err)
			}
		case err != nil:
			refused++
		case got:
			allowed++
		default:
			denied++
		}
	}
	t.Logf("%d allowed, %d denied, %d refused at load, %d beyond our literals, %d differ",
		allowed, denied, refused, exotic, bad)
	if n := len(questions); allowed < n/10 || denied < n/10 || refused < n/20 || exotic > n/20 {
		t.Error("the questions have lost their variety; look at the generator")
	}
}

// decide asks Muster, by way of the policy file's form.
func decide(t *testing.T, q question) (bool, error) {
	text, err := json.Marshal(q.Rules)
	if err != nil {
		t.Fatal(err)
	}
	sources, err := parseFile("policy.json", text)
	if err != nil {
		return false, err
	}
	e, err := build(sources, nil)
	if err != nil {
		return false, err
	}
	return e.Allow(q.Ask, NewCredentials(q.Creds), q.Target), nil
}

func askOslo(t *testing.T, questions []question) []judgement {
	t.Helper()
	requireOslo(t)
	input, err := json.Marshal(questions)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "/usr/bin/python3", "testdata/oracle.py")
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8"}
	cmd.Stdin = bytes.NewReader(input)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	output, err := cmd.Output()
	if err != nil {
		t.Fatalf("oracle.py: %v\n%s", err, stderr.Bytes())
	}
	var answers []judgement
	if err := json.Unmarshal(output, &answers); err != nil {
		t.Fatal(err)
	}
	if len(answers) != len(questions) {
		t.Fatalf("%d answers to %d questions", len(answers), len(questions))
	}
	return answers
}

// requireOslo skips where the original is not installed, but not where the
// tests are meant to be complete.
func requireOslo(t *testing.T) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/usr/bin/python3", "-c", "import oslo_policy")
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8"}
	if err := cmd.Run(); err == nil {
		return
	}
	const reason = "NOT JUDGED AGAINST oslo.policy: install the package python3-oslo.policy"
	if os.Getenv("CI") == "true" || os.Getenv("MUSTER_TEST_REQUIRE") == "1" {
		t.Fatal(reason)
	}
	t.Skip(reason)
}

// generator makes up rules, mostly good ones, from a small vocabulary, so that
// checks hold about as often as they fail.
type generator struct{ *rand.Rand }

func pick[T any](g generator, values ...T) T { return values[g.IntN(len(values))] }

func (g generator) question() question {
	q := question{Rules: map[string]any{}, Ask: "r0", Creds: g.creds(), Target: g.target()}
	for i := range 4 {
		q.Rules[fmt.Sprintf("r%d", i)] = g.rule(i)
	}
	if g.IntN(2) == 0 {
		q.Rules[fallback] = g.rule(4)
	}
	if g.IntN(20) == 0 {
		q.Ask = "r9"
	}
	return q
}

// rule makes the rule number i, which mostly refers to later ones.
func (g generator) rule(i int) any {
	if g.IntN(8) == 0 {
		return g.list(i)
	}
	text := g.expr(i, 3)
	if g.IntN(12) == 0 {
		text = g.mutate(text)
	}
	return text
}

func (g generator) list(i int) any {
	outer := []any{}
	for range g.IntN(4) {
		if g.IntN(3) == 0 {
			outer = append(outer, g.check(i))
			continue
		}
		inner := []any{}
		for range g.IntN(3) {
			inner = append(inner, g.check(i))
		}
		outer = append(outer, inner)
	}
	return outer
}

func (g generator) expr(i, depth int) string {
	if depth == 0 || g.IntN(5) == 0 {
		return pick(g, g.check(i), "@", "!", g.check(i))
	}
	switch g.IntN(7) {
	case 0:
		return pick(g, "not ", "NOT ", "not\t") + g.expr(i, depth-1)
	case 1:
		return "(" + g.expr(i, depth-1) + ")"
	case 2:
		return "( " + g.expr(i, depth-1) + pick(g, " ", "\n", "\u00a0", "\x1c", "\x85") + ")"
	case 3, 4:
		return g.expr(i, depth-1) + pick(g, " and ", " AND ", "  and ") + g.expr(i, depth-1)
	default:
		return g.expr(i, depth-1) + pick(g, " or ", " Or ", "\u3000or\n") + g.expr(i, depth-1)
	}
}

func (g generator) check(i int) string {
	switch g.IntN(6) {
	case 0:
		if g.IntN(25) == 0 {
			return fmt.Sprintf("rule:r%d", g.IntN(6))
		}
		if i < 3 {
			return fmt.Sprintf("rule:r%d", i+1+g.IntN(3-i))
		}
		return "role:admin"
	case 1, 2:
		return "role:" + pick(g, "admin", "Admin", "MEMBER", "é", "É", "none", "%(role.name)s", "%(what)s", "", "a%(n)s")
	default:
		return g.left() + ":" + g.right()
	}
}

func (g generator) left() string {
	return pick(g, "user_id", "user_id", "project_id", "project_id", "domain_id", "is_admin", "is_admin_project",
		"roles", "system", "system_scope", "token.user.id", "token.roles.name", "token.roles", "token.none.x",
		"user_id.x", "missing", "missing.x", "'admin'", `"admin"`, "'Member'", "True", "False", "None", "1", "-1", "00",
		"1.5", "1e22", "1e16", "1e15", "1.50", "12e3", ".5", "''", "names", "nested.deep.list", "Role", "RULE", "a-b",
		"number", "float",
		"bücher",
		pick(g, "user_id", "user_id", "is_admin", "roles", "class", "1a", "a..b", "a b", "'a", "",
			"not", "a.None", "None.x", "@x", "01"))
}

func (g generator) right() string {
	return pick(g, "u1", "u1", "p1", "p1", "admin", "Member", "True", "False", "None", "1", "-1", "0", "all", "1.5",
		"1e+22", "1e+16", "1000000000000000.0", "12000.0", "0.5", "",
		"%(user_id)s", "%(user_id)s", "%(project_id)s", "%(project_id)s", "%(role.name)s", "%(target.user.enabled)s",
		"%(n)s", "%(f)s", "%(none)s", "%(missing)s", "u%(n)s", "%(u)s%(n)s", "100%%", "a:b", "'admin'", "x(y)z",
		"%(list)s", "%(odd(key))s", pick(g, "u1", "100%", "%(x", "%"))
}

// mutate spoils a rule a little.
func (g generator) mutate(text string) string {
	runes := []rune(text)
	for range 1 + g.IntN(2) {
		at := g.IntN(len(runes) + 1)
		switch {
		case g.IntN(2) == 0 || at == len(runes):
			noise := []rune(pick(g, "(", ")", " ", "'", `"`, ":", "@", "!", " and ", " or ", " not ", "a", ".", "%"))
			runes = append(runes[:at:at], append(noise, runes[at:]...)...)
		default:
			runes = append(runes[:at:at], runes[at+1:]...)
		}
	}
	return string(runes)
}

func (g generator) creds() map[string]any {
	creds := map[string]any{
		"user_id":          pick[any](g, "u1", "u2", nil),
		"project_id":       pick[any](g, "p1", "p2", nil),
		"is_admin":         g.IntN(2) == 0,
		"is_admin_project": pick[any](g, true, false, nil),
		"system_scope":     pick[any](g, "all", nil, ""),
		"number":           pick[any](g, 1, -1, 0),
		"float":            pick(g, 1.5, 1e22, 0.5),
		"bücher":           "u1",
		"a-b":              "u1",
		"names":            []any{"u1", 1, nil, true},
		"nested":           map[string]any{"deep": map[string]any{"list": []any{"admin", "p1", []any{"x"}}}},
		"token": map[string]any{
			"user": map[string]any{"id": pick(g, "u1", "u2")}, "none": nil,
			"roles": pick[any](g, []any{}, []any{map[string]any{"name": "admin"}, map[string]any{"name": "u1"}},
				[]any{map[string]any{"id": "1"}, map[string]any{"name": "Member"}}, []any{"admin"}),
		},
	}
	if g.IntN(10) > 0 {
		creds["roles"] = pick(g, []any{}, []any{"admin"}, []any{"Member", "reader"}, []any{"é", "a1", "ADMIN"})
	}
	return creds
}

// target leaves out floats that Go writes to JSON without a point: Python would
// read integers.
func (g generator) target() map[string]any {
	target := map[string]any{
		"user_id": pick(g, "u1", "u2"), "project_id": pick[any](g, "p1", "p2", nil),
		"role.name": pick(g, "admin", "Member"), "target.user.enabled": g.IntN(2) == 0,
		"n": pick[any](g, 1, "1", -1), "f": pick[any](g, 1.5, 0.00001, 1e22, 123456.789), "none": nil, "u": "u",
		"list": []any{"a"}, "odd(key)": "u1",
	}
	for name := range target {
		if g.IntN(12) == 0 {
			delete(target, name)
		}
	}
	return target
}

// TestSampleAgainstOsloPolicy has the original read the sample, uncommented,
// and find every rule there.
func TestSampleAgainstOsloPolicy(t *testing.T) {
	requireOslo(t)
	e, err := Load("", Defaults())
	if err != nil {
		t.Fatal(err)
	}
	var sample bytes.Buffer
	if err := e.Sample(&sample); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "/usr/bin/python3", "-c", "import sys; from oslo_policy import policy; "+
		"print(len(policy.Rules.load(sys.stdin.read())))")
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8"}
	cmd.Stdin = strings.NewReader(strings.ReplaceAll(sample.String(), "\n#\"", "\n\""))
	output, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.TrimSpace(string(output)), strconv.Itoa(len(Defaults())); got != want {
		t.Errorf("oslo.policy reads %s rules from the sample, want %s", got, want)
	}
}

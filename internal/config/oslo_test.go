// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// osloOption is an option of the table, as testdata/oslo_reads.py takes it.
type osloOption struct {
	Section    string        `json:"section"`
	Name       string        `json:"name"`
	Kind       string        `json:"kind"`
	Default    string        `json:"default"`
	Deprecated []osloOldName `json:"deprecated"`
	decl       option        `json:"-"`
	in         section       `json:"-"`
}

type osloOldName struct {
	Section string `json:"section"`
	Option  string `json:"option"`
}

type osloAnswer struct {
	Files []struct {
		Error    int                            `json:"error"`
		Sections map[string]map[string][]string `json:"sections"`
	} `json:"files"`
	Values []struct {
		Error string `json:"error"`
		Value any    `json:"value"`
	} `json:"values"`
}

// TestReadsLikeOsloConfig: thousands of random files, good and broken, read
// the same in oslo.config itself: the sections and values, the line of the
// first fault, references, old names, several files, and types.
func TestReadsLikeOsloConfig(t *testing.T) {
	python := osloPython(t)
	cases := 1500
	if testing.Short() {
		cases = 300
	}
	const seed = 20260101
	random := rand.New(rand.NewPCG(seed, 1))
	options := osloOptions()
	dir := t.TempDir()
	var paths [][]string
	for i := range cases {
		g := iniGenerator{random, options}
		files := map[string]string{fmt.Sprintf("%d.conf", i): g.file(), fmt.Sprintf("%d.conf.d/1.conf", i): g.file()}
		var names []string
		for _, name := range []string{fmt.Sprintf("%d.conf", i), fmt.Sprintf("%d.conf.d/1.conf", i)} {
			path := filepath.Join(dir, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(files[name]), 0o600); err != nil {
				t.Fatal(err)
			}
			names = append(names, path)
		}
		paths = append(paths, names)
	}
	answers := askOslo(t, python, options, paths)
	broken, judged, refused := 0, 0, 0
	for i, want := range answers {
		for j, path := range paths[i] {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			doc, syntax := parseINI(string(text))
			switch {
			case syntax != nil:
				broken++
				// oslo.config notices a missing section only at the end of the value.
				early := strings.Contains(syntax.message, "before the first section") && syntax.line <= want.Files[j].Error
				if syntax.line != want.Files[j].Error && !early {
					t.Fatalf("line %d: %s; oslo.config says line %d of\n%s", syntax.line, syntax.message, want.Files[j].Error, text)
				}
			case want.Files[j].Error != 0:
				t.Fatalf("oslo.config refuses line %d of\n%s", want.Files[j].Error, text)
			default:
				if diff := cmp.Diff(want.Files[j].Sections, grouped(doc)); diff != "" {
					t.Fatalf("%s\nof\n%s", diff, text)
				}
			}
		}
		if want.Values == nil {
			continue
		}
		l := newLoader(paths[i][0])
		l.readFiles(true)
		for k, o := range options {
			got, err := osloValue(l, o)
			judged++
			if err != "" {
				refused++
			}
			if (err != "") != (want.Values[k].Error != "") || !cmp.Equal(got, want.Values[k].Value) {
				main, _ := os.ReadFile(paths[i][0])
				second, _ := os.ReadFile(paths[i][1])
				t.Fatalf("[%s] %s: got %#v (%s), oslo.config has %#v (%s) of\n%s\n---\n%s", o.Section, o.Name,
					got, err, want.Values[k].Value, want.Values[k].Error, main, second)
			}
		}
	}
	t.Logf("%d files, %d of them broken; %d values, %d of them refused", 2*cases, broken, judged, refused)
	if broken < cases/20 || judged < cases*len(options)/4 || refused < cases/20 {
		t.Error("the random files are no good test: too few broken files, values or refused values")
	}
}

// osloPython skips, or fails where tests must not be skipped, without oslo.config.
func osloPython(t *testing.T) string {
	t.Helper()
	const python = "/usr/bin/python3"
	cmd := exec.CommandContext(t.Context(), python, "-c", "import oslo_config")
	cmd.Env = []string{"PATH=/usr/bin:/bin"}
	if out, err := cmd.CombinedOutput(); err != nil {
		why := fmt.Sprintf("OSLO.CONFIG IS NOT HERE (%v): install Debian's python3-oslo.config. %s", err, out)
		if os.Getenv("CI") == "true" || os.Getenv("MUSTER_TEST_REQUIRE") == "1" {
			t.Fatal(why)
		}
		t.Skip(why)
	}
	return python
}

func askOslo(t *testing.T, python string, options []osloOption, cases [][]string) []osloAnswer {
	t.Helper()
	work, err := json.Marshal(map[string]any{"options": options, "cases": cases})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, python, "-W", "ignore", "testdata/oslo_reads.py")
	cmd.Env = []string{"PATH=/usr/bin:/bin", "PYTHONUTF8=1", "HOME=" + t.TempDir()}
	cmd.Stdin = bytes.NewReader(work)
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("oslo_reads.py: %v\n%s", err, complaints.String())
	}
	var answers []osloAnswer
	if err := json.Unmarshal(out, &answers); err != nil || len(answers) != len(cases) {
		t.Fatalf("%d answers for %d cases: %v", len(answers), len(cases), err)
	}
	return answers
}

// osloOptions are the table's options but those of families and of the section
// that inherits, which oslo.config doesn't have.
func osloOptions() []osloOption {
	var options []osloOption
	for _, s := range table() {
		if s.family || s.inherits != "" {
			continue
		}
		for _, o := range s.options {
			oo := osloOption{Section: s.name, Name: o.name, Kind: kindOf(o.field(s.target(&Config{}, ""))),
				Default: o.initial, Deprecated: []osloOldName{}, decl: o, in: s}
			for _, d := range o.deprecated {
				oo.Deprecated = append(oo.Deprecated, osloOldName{d.section, d.option})
			}
			options = append(options, oo)
		}
	}
	return options
}

func grouped(doc document) map[string]map[string][]string {
	sections := map[string]map[string][]string{}
	for _, h := range doc.headers {
		if sections[h.section] == nil {
			sections[h.section] = map[string][]string{}
		}
	}
	for _, a := range doc.assignments {
		sections[a.section][a.key] = append(sections[a.section][a.key], a.value)
	}
	return sections
}

// osloValue is the option's value as JSON brings it from Python.
func osloValue(l *loader, o osloOption) (value any, refused string) {
	r := resolver{loader: l}
	v := r.resolve(o.in, name{o.Section, o.Name})
	if r.problem != "" {
		return nil, r.problem
	}
	var err error
	_, set := l.entries[name{o.Section, o.Name}]
	switch {
	case !set && o.Default == "":
		return nil, ""
	case o.Kind == "boolean value":
		value, err = parseBool(v.text)
	case o.Kind == "integer value" && strings.TrimFunc(v.text, isSpace) == "":
		return nil, ""
	case o.Kind == "integer value":
		var n int
		n, err = parseInt(v.text)
		value = float64(n)
	case o.Kind == "list value":
		var items []string
		items, err = parseList(v.text)
		list := []any{}
		for _, item := range items {
			list = append(list, item)
		}
		value = list
	case o.Kind == "dict value":
		var pairs map[string]string
		pairs, err = parseDict(v.text)
		dict := map[string]any{}
		for k, item := range pairs {
			dict[k] = item
		}
		value = dict
	default:
		value = v.text
	}
	if err != nil {
		return nil, err.Error()
	}
	return value, ""
}

// iniGenerator writes random files about the options.
type iniGenerator struct {
	*rand.Rand
	options []osloOption
}

func (g iniGenerator) pick(from ...string) string { return from[g.IntN(len(from))] }

func (g iniGenerator) file() string {
	var b strings.Builder
	if g.IntN(20) > 0 {
		b.WriteString("[DEFAULT]\n")
	}
	section := "DEFAULT"
	for range g.IntN(14) {
		switch n := g.IntN(100); {
		case n < 2:
			b.WriteString(g.pick("[", "[]", "[x", "no assignment", "= x", " indented", ": y", "[a]]", "] x = 1"))
		case n < 22:
			section = g.options[g.IntN(len(g.options))].Section
			b.WriteString("[" + g.spelled(section) + "]" + g.pick("", "", " ", "\t"))
		case n < 26:
			b.WriteString(g.pick("#", ";", "# x", ";x = 1", "#[x]"))
		case n < 30:
			b.WriteString(g.pick("", " ", "\t \u00a0"))
		default:
			b.WriteString(g.assignment(section))
		}
		b.WriteString(g.pick("\n", "\n", "\n", "\n", "\r\n", "\r"))
	}
	return b.String()
}

// spelled varies the case, which oslo.config ignores but for DEFAULT.
func (g iniGenerator) spelled(section string) string {
	if section == "DEFAULT" || g.IntN(5) > 0 {
		return section
	}
	return g.pick(strings.ToUpper(section), strings.ToUpper(section[:1])+section[1:])
}

func (g iniGenerator) assignment(section string) string {
	var here []string
	kinds := map[string]string{}
	for _, o := range g.options {
		names := []string{}
		if o.Section == section {
			names = append(names, o.Name)
		}
		for _, d := range o.Deprecated {
			if d.Section == section {
				names = append(names, d.Option)
			}
		}
		for _, n := range names {
			here, kinds[n] = append(here, n), o.Kind
		}
	}
	key := g.pick(here...)
	if g.IntN(10) == 0 {
		key = g.pick("unknown", "two words", "Debug", "[x", "a\u00a0b")
		if key == "[x" {
			key = "x["
		}
	}
	value := g.value()
	if g.IntN(2) == 0 {
		switch kinds[key] {
		case "boolean value":
			value = g.pick("true", "True", "1", "on", "YES", "false", "0", "off", "no", "tru", "", "2", " yes")
		case "integer value":
			value = g.pick("1", " 12 ", "+3", "-4", "0x1", "007", "1.5", "", "99999")
		}
	}
	text := key + g.pick("=", " = ", ":", ": ", " =", "\t:\t", "= \u2003") + value
	for g.IntN(6) == 0 {
		text += g.pick("\n", "\r\n") + g.pick(" ", "\t", "    ", " \u00a0") + g.value()
	}
	return text
}

func (g iniGenerator) value() string {
	var b strings.Builder
	for range g.IntN(6) {
		b.WriteString(g.pick("a", "bc", "é", " ", "  ", ",", ", ", ":", "x:y", "k:\"v,w\"", "=", "#", " #", ";", "\"", "'", "\"a,b\"",
			"'c'", "$$", "\\$", "$", "${", "}", "$host", "${host}", "${ssh.ca_algorithm}", "$ssh.ca_algorithm ",
			"$username", "$log_format", "$keystone_authtoken.region_name ", "$nothing", "${no.thing}", "$ssh", "$5", "${}",
			"\\", "\t", "\u00a0", "\u2003", "\x1c", "1", "true", "[x]", "%(a)s", "$host.x"))
	}
	return b.String()
}

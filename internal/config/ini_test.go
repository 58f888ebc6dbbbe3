// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseINI(t *testing.T) {
	tests := map[string]struct {
		text string
		want []assignment
	}{
		"equals and colon": {"[a]\nx = 1\ny: 2\nz: a=b\nw = a:b\n",
			[]assignment{{"a", "x", "1", 2}, {"a", "y", "2", 3}, {"a", "z", "a=b", 4}, {"a", "w", "a:b", 5}}},
		"comments only in the first column": {"[a]\n# c\n; c\nx = 1 # no ; comment\n",
			[]assignment{{"a", "x", "1 # no ; comment", 4}}},
		"continuation": {"[a]\nx = 1\n  2\n\t3 \n\ny=4\n",
			[]assignment{{"a", "x", "1\n2\n3", 2}, {"a", "y", "4", 6}}},
		"continuation that looks like a comment": {"[a]\nx = 1\n # 2\n", []assignment{{"a", "x", "1\n# 2", 2}}},
		"value only in continuations":            {"[a]\nx =\n 1,\n 2\n", []assignment{{"a", "x", "\n1,\n2", 2}}},
		"repeated":                               {"[a]\nx=1\n[b]\n[a]\nx=2", []assignment{{"a", "x", "1", 2}, {"a", "x", "2", 5}}},
		"quotes": {"[a]\nx=\" 1 \"\ny='\nz=\"1'\nw='1\n 2'\n",
			[]assignment{{"a", "x", " 1 ", 2}, {"a", "y", "", 3}, {"a", "z", "\"1'", 4}, {"a", "w", "'1\n2'", 5}}},
		"carriage returns":        {"[a]\r\nx=1\r\n 2\ry=3", []assignment{{"a", "x", "1\n2", 2}, {"a", "y", "3", 4}}},
		"blanks inside the names": {"[ a b ]\nc d = 1\n", []assignment{{" a b ", "c d", "1", 2}}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			doc, err := parseINI(tt.text)
			if err != nil {
				t.Fatalf("line %d: %v", err.line, err)
			}
			if diff := cmp.Diff(tt.want, doc.assignments, cmp.AllowUnexported(assignment{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestParseINIRefuses(t *testing.T) {
	tests := map[string]struct {
		text string
		line int
	}{
		"no section":                   {"x=1\n", 1},
		"no assignment":                {"[a]\nhunter2\n", 2},
		"empty key":                    {"[a]\n=hunter2\n", 2},
		"unfinished section":           {"[a\n", 1},
		"text behind section":          {"[a] # hunter2\n", 1},
		"empty section":                {"[]\n", 1},
		"indented first line":          {" x=1\n", 1},
		"indented after comment":       {"[a]\nx=1\n#\n hunter2\n", 4},
		"indented after blank line":    {"[a]\nx=1\n\n hunter2\n", 4},
		"indented section":             {"[a]\n [b]\n", 2},
		"not UTF-8":                    {"[a]\nx=\xff\n", 1},
		"no section, then one":         {"# c\n\nx: 1\n[a]\n", 3},
		"indented right after section": {"[a]\n\tx = 1\n", 2},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := parseINI(tt.text)
			if err == nil || err.line != tt.line {
				t.Fatalf("got %v, want an error at line %d", err, tt.line)
			}
			if strings.Contains(err.message+err.hint, "hunter2") {
				t.Errorf("the error repeats the line: %v", err)
			}
		})
	}
}

// FuzzParseINI: whatever is read can be written down and is read the same.
func FuzzParseINI(f *testing.F) {
	for _, seed := range []string{
		"", "[a]\nx = 1\n", "[DEFAULT]\nx: a\n b\n\n# c\n;d\n[b]\ny='q'\n", "[a]\r\nx=\r y\r", "[]", "[a", "=", " x",
		"[a]\nx=\"\n", "[a]\nx =\u00a0\u2003y\x1c\n\x1f\n",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		doc, err := parseINI(text)
		if err != nil {
			if err.line < 1 || err.line > 1+strings.Count(text, "\n")+strings.Count(text, "\r") {
				t.Fatalf("an error at line %d of %q", err.line, text)
			}
			return
		}
		again, err := parseINI(printINI(doc))
		if err != nil {
			t.Fatalf("%q does not parse: line %d: %v", printINI(doc), err.line, err)
		}
		for i := range again.assignments {
			again.assignments[i].line = doc.assignments[i].line
		}
		if diff := cmp.Diff(doc.assignments, again.assignments, cmp.AllowUnexported(assignment{})); diff != "" {
			t.Errorf("%q written as %q: %s", text, printINI(doc), diff)
		}
	})
}

func printINI(doc document) string {
	var b strings.Builder
	for _, a := range doc.assignments {
		b.WriteString("[" + a.section + "]\n" + line(a.key, a.value) + "\n")
	}
	return b.String()
}

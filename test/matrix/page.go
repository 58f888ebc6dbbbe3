// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
)

// Where the results are kept, and the page that is made of them.
const (
	record = "docs/compatibility.json"
	page   = "docs/compatibility.md"
)

// version is one of a package.
type version struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

// result is what came of a run.
type result struct {
	Target   string    `json:"target"`
	Release  string    `json:"release"`
	Date     string    `json:"date"`
	Commit   string    `json:"commit"`
	Settings string    `json:"settings,omitempty"`
	Versions []version `json:"versions"`
	Passed   []string  `json:"passed"`
	Failed   []string  `json:"failed,omitempty"`
	Skipped  []string  `json:"skipped,omitempty"`
}

func (r result) outcome() string {
	text := fmt.Sprintf("%d passed", len(r.Passed))
	if len(r.Skipped) > 0 {
		text += fmt.Sprintf(", %d skipped", len(r.Skipped))
	}
	if len(r.Failed) > 0 {
		text += fmt.Sprintf(", **%d failed**", len(r.Failed))
	}
	return text
}

// note puts the result in the place of the one before of its target and
// release, and writes the page anew.
func note(r result) error {
	all, err := load(record)
	if err != nil {
		return err
	}
	all = replace(all, r)
	text, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(record, append(text, '\n'), 0o644); err != nil {
		return err
	}
	return os.WriteFile(page, []byte(render(all)), 0o644)
}

func load(file string) (all []result, err error) {
	text, err := os.ReadFile(file)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &all)
	}
	return all, err
}

func replace(all []result, r result) []result {
	all = slices.DeleteFunc(slices.Clone(all), func(old result) bool { return old.Target == r.Target && old.Release == r.Release })
	all = append(all, r)
	slices.SortFunc(all, func(a, b result) int {
		return cmp.Or(strings.Compare(a.Target, b.Target), order(a.Release, b.Release))
	})
	return all
}

// order sorts releases by age. A new one comes before unstable, which is never released.
func order(a, b string) int {
	rank := func(name string) int {
		known := []string{"bookworm", "trixie", "forky", "duke"}
		if n := slices.Index(known, name); n >= 0 {
			return n
		}
		if name == "sid" || name == "unstable" {
			return len(known) + 1
		}
		return len(known)
	}
	return cmp.Or(cmp.Compare(rank(a), rank(b)), strings.Compare(a, b))
}

const head = `# What was run where

Muster's tests run against the programs of several releases of Debian. Each row is the last run of that target on that
release; the runs write this page themselves (from [compatibility.json](compatibility.json)), and nobody else does.

    make e2e RELEASE=trixie            # the cloud of that release, in a Debian that is made for it in a folder
    make test-instance RELEASE=sid     # machines of that release
    make test RELEASE=sid              # every test, in that Debian

bookworm is Debian 12, trixie is Debian 13, and sid is unstable, as it was on that day. An empty field: that release lacks
what the test is about, such as sudo-rs on Debian 12, or the run is older than the test.

`

// render makes the page.
func render(all []result) string {
	var b strings.Builder
	b.WriteString(head)
	b.WriteString("| run | release | date | Muster | outcome | with |\n| --- | --- | --- | --- | --- | --- |\n")
	for _, r := range all {
		var with []string
		for _, v := range r.Versions {
			with = append(with, v.Name+" "+v.Version)
		}
		run := "`make " + r.Target + "`"
		if r.Settings != "" {
			run = "`make " + r.Target + " " + r.Settings + "`"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", run, r.Release, r.Date, r.Commit, r.outcome(), strings.Join(with, ", "))
	}
	for _, name := range slices.Sorted(maps.Keys(targets)) {
		runs := slices.DeleteFunc(slices.Clone(all), func(r result) bool { return r.Target != name })
		if len(runs) > 0 {
			renderTests(&b, name, runs)
		}
	}
	return b.String()
}

// renderTests writes the table of a target's tests, with a column for each release.
func renderTests(b *strings.Builder, name string, runs []result) {
	fmt.Fprintf(b, "\n## make %s\n\nIt plays %s.\n\n| test |", name, targets[name].what)
	var tests []string
	for _, r := range runs {
		fmt.Fprintf(b, " %s |", r.Release)
		tests = slices.Concat(tests, r.Passed, r.Failed, r.Skipped)
	}
	fmt.Fprintf(b, "\n| --- |%s\n", strings.Repeat(" --- |", len(runs)))
	slices.Sort(tests)
	for _, test := range slices.Compact(tests) {
		fmt.Fprintf(b, "| %s |", test)
		for _, r := range runs {
			fmt.Fprintf(b, " %s |", r.verdict(test))
		}
		b.WriteString("\n")
	}
}

func (r result) verdict(test string) string {
	switch {
	case slices.Contains(r.Failed, test):
		return "**failed**"
	case slices.Contains(r.Skipped, test):
		return "skipped"
	case slices.Contains(r.Passed, test):
		return "passed"
	}
	return ""
}

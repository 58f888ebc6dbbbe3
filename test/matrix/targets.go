// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
)

// target is one of make's.
type target struct {
	// what it plays, for the page.
	what string
	// machines: not the tests are on the release, but the machines that they boot.
	machines bool
	// name tells by which name the result of a test is noted; empty: not at all.
	name func(packagePath, test string) string
	// packages are those whose versions are told, as dpkg's patterns.
	packages []string
}

var targets = map[string]target{
	"test": {
		what: "all tests, with the services that they start",
		name: func(packagePath, test string) string {
			if test != "" {
				return ""
			}
			return short(packagePath)
		},
		packages: []string{"openssh-server", "systemd", "sudo", "python3-keystone", "python3-oslo.messaging", "python3-oslo.policy",
			"rabbitmq-server", "mariadb-server-core", "postgresql-[0-9]*", "krb5-kdc"},
	},
	"e2e": {
		what: "the scenarios of `test/e2e` in a real OpenStack",
		name: func(_, test string) string {
			name, found := strings.CutSuffix(test, "/openstack")
			if !found || strings.Contains(name, "/") {
				return ""
			}
			return name
		},
		packages: []string{"python3-keystone", "python3-nova", "python3-neutron", "python3-glance", "python3-placement", "python3-oslo.messaging",
			"rabbitmq-server", "mariadb-server-core", "postgresql-[0-9]*", "openssh-server", "krb5-kdc", "python3"},
	},
	"test-instance": {
		what: "the agent in machines of the release, from cloud-init on", machines: true,
		name: func(packagePath, test string) string {
			// Kinds of images and parts of the agent's life are tests of tests.
			if test == "" || strings.Count(test, "/") > 1 || short(packagePath) != "test/instance" {
				return ""
			}
			return strings.ReplaceAll(test, "_", " ")
		},
		packages: []string{"openssh-server", "systemd", "cloud-init", "sudo"},
	},
}

func short(packagePath string) string {
	return strings.TrimPrefix(packagePath, "github.com/muster-cloud/muster/")
}

// event is a line of go test -json (go doc test2json).
type event struct{ Action, Package, Test, Output, OutputType string }

// follow shows what the tests say, and returns their results.
func follow(from io.Reader, to io.Writer, t target) (found result) {
	lines := bufio.NewReader(from)
	for {
		line, err := lines.ReadString('\n')
		var e event
		switch {
		case line == "":
		case json.Unmarshal([]byte(line), &e) != nil || e.Action == "":
			fmt.Fprint(to, line) // make's own words
		case e.Action == "output" || e.Action == "build-output":
			fmt.Fprint(to, e.Output)
		case t.name(e.Package, e.Test) == "":
		default:
			found.add(e.Action, t.name(e.Package, e.Test))
		}
		if err != nil {
			found.sort()
			return found
		}
	}
}

func (r *result) add(action, name string) {
	switch action {
	case "pass":
		r.Passed = append(r.Passed, name)
	case "fail":
		r.Failed = append(r.Failed, name)
	case "skip":
		r.Skipped = append(r.Skipped, name)
	}
}

func (r *result) sort() {
	slices.Sort(r.Passed)
	slices.Sort(r.Failed)
	slices.Sort(r.Skipped)
}

// versions asks dpkg which versions of the packages are installed below a folder
// (empty: on this machine), and leaves out what is Debian's of them.
func versions(ctx context.Context, root string, packages []string) ([]version, error) {
	args := append([]string{"--admindir=" + root + "/var/lib/dpkg", "-W", "-f", "${binary:Package} ${db:Status-Status} ${Version}\n"}, packages...)
	// It fails if one of them is unknown, which is no fault here.
	output, err := exec.CommandContext(ctx, "dpkg-query", args...).Output()
	var all []version
	for line := range strings.Lines(string(output)) {
		fields := strings.Fields(line)
		if len(fields) != 3 || fields[1] != "installed" {
			continue
		}
		name, _, _ := strings.Cut(fields[0], ":")
		all = append(all, version{strings.TrimPrefix(name, "python3-"), upstream(fields[2])})
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("dpkg knows none of %v: %w", packages, err)
	}
	slices.SortFunc(all, func(a, b version) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

// upstream takes epoch and revision off a version (deb-version(7)).
func upstream(full string) string {
	if _, rest, found := strings.Cut(full, ":"); found {
		full = rest
	}
	if i := strings.LastIndexByte(full, '-'); i >= 0 {
		full = full[:i]
	}
	return full
}

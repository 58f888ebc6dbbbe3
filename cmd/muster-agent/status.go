// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/muster-cloud/muster/internal/agent"
)

var statusCommand = command{
	name: "status", short: "Show what is set up, and what is wrong",
	long: `Shows which instance this is, its certificates and until when they are good,
accounts, the revocation list, FreeIPA, when Muster last answered, and what is
wrong since when. Anybody may run it.

Fails if something is wrong or no agent runs.`,
	examples: []string{"muster-agent status", "muster-agent status -o json | python3 -m json.tool"},
	flags: func(p *program, set *flag.FlagSet) func(context.Context) error {
		at := placeFlags(set, false)
		format := set.String("o", "text", "the `FORMAT`: text or json")
		return func(context.Context) error { return p.status(at, *format, time.Now()) }
	},
}

func (p *program) status(at *place, format string, now time.Time) error {
	if format != "text" && format != "json" {
		return usageError(fmt.Sprintf("-o %.20q: the formats are text and json", format))
	}
	status, err := agent.ReadStatus(at.running())
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("no agent has run since this machine started; start it with: systemctl start muster-agent, or: muster-agent install")
	} else if err != nil {
		return err
	}
	running := isAgent(status.PID)
	if format == "json" {
		encoder := json.NewEncoder(p.stdout)
		encoder.SetIndent("", "  ")
		err = encoder.Encode(struct {
			Running bool `json:"running"`
			*agent.Status
			AwaySince time.Time `json:"away_since,omitzero"`
		}{running, status, status.AwaySince()})
	} else {
		_, err = fmt.Fprint(p.stdout, describe(status, running, now))
	}
	if err == nil && (len(status.Problems) > 0 || !running) {
		err = errWrong
	}
	return err
}

// describe tells the status to people.
func describe(s *agent.Status, running bool, now time.Time) string {
	var text strings.Builder
	row := func(name, format string, args ...any) {
		fmt.Fprintf(&text, "%-16s %s\n", name+":", fmt.Sprintf(format, args...))
	}
	if running {
		row("Agent", "%s, runs as process %d", s.Version, s.PID)
	} else {
		row("Agent", "DOES NOT RUN; what follows is from %s", when(s.WrittenAt, now))
	}
	if s.InstanceID != "" {
		row("Instance", "%s (%s) in project %s", s.InstanceID, s.Hostname, s.ProjectID)
		row("Muster", "%s, known from the %s", s.Endpoint, s.Source)
	}
	if since := s.AwaySince(); !since.IsZero() {
		row("Last answer", "%s; AWAY since %s", when(s.LastContact, now), when(since, now))
	} else {
		row("Last answer", "%s", when(s.LastContact, now))
	}
	for _, c := range s.Certificates {
		until := "without end"
		if !c.ValidUntil.IsZero() {
			until = "until " + when(c.ValidUntil, now)
		}
		row("Certificate", "%s, serial %d, for %s, %s", c.Key, c.Serial, strings.Join(c.Principals, ", "), until)
	}
	for _, ca := range s.UserCAs {
		row("User CA", "%s", ca)
	}
	row("Accounts", "%s", list(s.Accounts))
	row("With sudo", "%s", list(s.Sudoers))
	row("Set up", "%s", when(s.ConfiguredAt, now))
	row("Revocations", "version %d, confirmed %s", s.List.Version, when(s.List.CheckedAt, now))
	if s.IPA.FQDN != "" {
		outcome := s.IPA.Outcome
		if outcome == "" {
			outcome = "not yet joined"
		}
		row("FreeIPA", "%s: %s", s.IPA.FQDN, outcome)
	}
	for _, warning := range s.Warnings {
		row("Warning", "%s", warning)
	}
	for _, problem := range s.Problems {
		row("PROBLEM", "%s, since %s: %s", problem.About, when(problem.Since, now), problem.Text)
	}
	return text.String()
}

func list(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// when tells a time, and how far it is from now.
func when(t, now time.Time) string {
	if t.IsZero() {
		return "never"
	}
	stamp := t.UTC().Format("2006-01-02 15:04:05 UTC")
	if t.After(now) {
		return fmt.Sprintf("%s (in %s)", stamp, span(t.Sub(now)))
	}
	return fmt.Sprintf("%s (%s ago)", stamp, span(now.Sub(t)))
}

// span tells a duration in its two largest units.
func span(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%d days", int(d.Hours())/24)
	case d >= time.Hour:
		return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
	case d >= time.Minute:
		return fmt.Sprintf("%d min %d s", int(d.Minutes()), int(d.Seconds())%60)
	default:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	}
}

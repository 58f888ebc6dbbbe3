// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package ipa_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/muster-cloud/muster/internal/ipa"
)

// TestEnrolmentCalls walks a host's life with every typed call.
func TestEnrolmentCalls(t *testing.T) { everyDoor(t, tryEnrolmentCalls) }

func tryEnrolmentCalls(t *testing.T, w *world, c *ipa.Client) {
	ctx := t.Context()

	release, err := c.Ping(ctx)
	must(t, err)
	if !strings.Contains(release, "4.9.11") {
		t.Errorf("Ping: %q", release)
	}
	host, err := c.HostAdd(ctx, "vm1.example.test", ipa.HostAttributes{
		Description: "an instance", UserClass: "web", Location: "lab", OSVersion: "debian 12", Password: "otp-1",
	})
	must(t, err)
	if host.FQDN != "vm1.example.test" || !host.HasPassword || host.HasKeytab || host.Location != "lab" ||
		host.OSVersion != "debian 12" || host.Description != "an instance" || !slices.Equal(host.UserClass, []string{"web"}) {
		t.Errorf("HostAdd: %+v", host)
	}
	_, err = c.HostAdd(ctx, "vm1.example.test", ipa.HostAttributes{Password: "otp-1"})
	wantCode(t, err, ipa.DuplicateEntry, ipa.Permanent)
	_, err = c.HostMod(ctx, "vm1.example.test", ipa.HostAttributes{UserClass: "web"})
	wantCode(t, err, ipa.EmptyModlist, ipa.Permanent)
	_, err = c.HostMod(ctx, "vm1.example.test", ipa.HostAttributes{Description: "another"})
	wantCode(t, err, ipa.ACIError, ipa.Operator)
	_, err = c.HostShow(ctx, "nope.example.test")
	wantCode(t, err, ipa.NotFound, ipa.Permanent)

	must(t, w.Join("vm1.example.test", "otp-1"))
	host, err = c.HostShow(ctx, "vm1.example.test")
	must(t, err)
	if host.HasPassword || !host.HasKeytab {
		t.Errorf("after joining: %+v", host)
	}
	_, err = c.HostMod(ctx, "vm1.example.test", ipa.HostAttributes{Password: "otp-2"})
	wantCode(t, err, ipa.ValidationError, ipa.Permanent)
	must(t, c.HostDisable(ctx, "vm1.example.test"))
	wantCode(t, c.HostDisable(ctx, "vm1.example.test"), ipa.AlreadyInactive, ipa.Permanent)
	_, err = c.HostMod(ctx, "vm1.example.test", ipa.HostAttributes{Password: "otp-2"})
	must(t, err)

	found, err := c.HostFind(ctx, ipa.HostFilter{FQDN: "vm1.example.test"})
	must(t, err)
	if len(found.Entries) != 1 || found.Entries[0].FQDN != "vm1.example.test" || found.Truncated {
		t.Errorf("HostFind: %+v", found)
	}
	found, err = c.HostFind(ctx, ipa.HostFilter{Limit: 1})
	must(t, err)
	if len(found.Entries) != 1 || !found.Truncated {
		t.Errorf("HostFind with a limit: %+v", found)
	}
	must(t, c.HostDel(ctx, "vm1.example.test", false))
	wantCode(t, c.HostDel(ctx, "vm1.example.test", false), ipa.NotFound, ipa.Permanent)
	wantCode(t, c.HostDel(ctx, w.HostName(), false), ipa.ValidationError, ipa.Permanent)
}

func TestServiceCalls(t *testing.T) { everyDoor(t, tryServiceCalls) }

func tryServiceCalls(t *testing.T, w *world, c *ipa.Client) {
	ctx := t.Context()
	for _, name := range []string{"vm1.example.test", "sub.example.test"} {
		_, err := c.HostAdd(ctx, name, ipa.HostAttributes{})
		must(t, err)
	}
	_, err := c.ServiceAdd(ctx, "HTTP/nohost.example.test")
	wantCode(t, err, ipa.NotFound, ipa.Permanent)
	service, err := c.ServiceAdd(ctx, "HTTP/sub.example.test")
	must(t, err)
	if service.Principal != "HTTP/sub.example.test@EXAMPLE.TEST" {
		t.Errorf("ServiceAdd: %+v", service)
	}
	must(t, c.ServiceAddHost(ctx, "HTTP/sub.example.test", "vm1.example.test"))
	must(t, c.ServiceAddHost(ctx, "HTTP/sub.example.test", "vm1.example.test"))
	err = c.ServiceAddHost(ctx, "HTTP/sub.example.test", "vm1.example.test", "nope.example.test")
	var members *ipa.MemberError
	if !errors.As(err, &members) || len(members.Failed) != 1 || members.Failed[0].Name != "nope.example.test" {
		t.Errorf("ServiceAddHost of an unknown host: %v", err)
	}
	service, err = c.ServiceShow(ctx, "HTTP/sub.example.test")
	must(t, err)
	if !slices.Equal(service.ManagedBy, []string{"sub.example.test", "vm1.example.test"}) {
		t.Errorf("ServiceShow: %+v", service)
	}
	found, err := c.ServiceFind(ctx, ipa.ServiceFilter{ManagedBy: "vm1.example.test"})
	must(t, err)
	if len(found.Entries) != 1 || found.Entries[0].Principal != "HTTP/sub.example.test@EXAMPLE.TEST" {
		t.Errorf("ServiceFind: %+v", found)
	}
	must(t, c.ServiceDel(ctx, "HTTP/sub.example.test"))
	wantCode(t, c.ServiceDel(ctx, "HTTP/sub.example.test"), ipa.ACIError, ipa.Operator)
}

func TestDNSCalls(t *testing.T) { everyDoor(t, tryDNSCalls) }

func tryDNSCalls(t *testing.T, w *world, c *ipa.Client) {
	must(t, w.AddZone("77.168.192.in-addr.arpa."))
	ctx := t.Context()
	zone, err := c.ZoneShow(ctx, "example.test.")
	must(t, err)
	if zone.Name != "example.test." || !zone.Active {
		t.Errorf("ZoneShow: %+v", zone)
	}
	_, err = c.ZoneShow(ctx, "nozone.test.")
	wantCode(t, err, ipa.NotFound, ipa.Permanent)
	zones, err := c.ZoneFind(ctx, "", 0)
	must(t, err)
	if len(zones.Entries) != 2 {
		t.Errorf("ZoneFind: %+v", zones)
	}
	record, err := c.RecordAdd(ctx, "example.test.", "vm1", ipa.RecordA, "192.168.77.9")
	must(t, err)
	if record.Name != "vm1" || !slices.Equal(record.A, []string{"192.168.77.9"}) {
		t.Errorf("RecordAdd: %+v", record)
	}
	_, err = c.RecordAdd(ctx, "example.test.", "vm1", ipa.RecordA, "192.168.77.9")
	wantCode(t, err, ipa.EmptyModlist, ipa.Permanent)
	_, err = c.RecordAdd(ctx, "example.test.", "vm1", ipa.RecordAAAA, "fd00::9")
	must(t, err)
	_, err = c.RecordAdd(ctx, "77.168.192.in-addr.arpa.", "9", ipa.RecordPTR, "vm1.example.test.")
	must(t, err)
	_, err = c.RecordAdd(ctx, "example.test.", "vm1", ipa.RecordA, "300.1.1.1")
	wantCode(t, err, ipa.ValidationError, ipa.Permanent)
	record, err = c.RecordShow(ctx, "example.test.", "vm1")
	must(t, err)
	if !slices.Equal(record.AAAA, []string{"fd00::9"}) {
		t.Errorf("RecordShow: %+v", record)
	}
	found, err := c.RecordFind(ctx, "example.test.", ipa.RecordA, "192.168.77.9", 0)
	must(t, err)
	if len(found.Entries) != 1 || found.Entries[0].Name != "vm1" {
		t.Errorf("RecordFind: %+v", found)
	}
	must(t, c.RecordDel(ctx, "example.test.", "vm1", ipa.RecordA, "192.168.77.9"))
	wantCode(t, c.RecordDel(ctx, "example.test.", "vm1", ipa.RecordA, "192.168.77.9"), ipa.AttrValueNotFound, ipa.Permanent)
	must(t, c.Run(ctx, ipa.RecordDelAll("example.test.", "vm1")))
	wantCode(t, c.Run(ctx, ipa.RecordDelAll("example.test.", "vm1")), ipa.NotFound, ipa.Permanent)
}

// TestBatch sends good and bad commands in one request, and finds each one's own outcome.
func TestBatch(t *testing.T) { everyDoor(t, tryBatch) }

func tryBatch(t *testing.T, w *world, c *ipa.Client) {
	results, err := c.Batch(t.Context(),
		ipa.HostAdd("vm1.example.test", ipa.HostAttributes{Password: "otp"}),
		ipa.HostAdd("vm1.example.test", ipa.HostAttributes{Password: "otp"}),
		ipa.ServiceAdd("HTTP/vm1.example.test"),
		ipa.ServiceAddHost("HTTP/vm1.example.test", "vm1.example.test"),
		ipa.ServiceAddHost("HTTP/vm1.example.test", "nope.example.test"),
		ipa.HostDel("nope.example.test", false),
	)
	must(t, err)
	if len(results) != 6 {
		t.Fatalf("%d results", len(results))
	}
	host, err := results[0].Host()
	must(t, err)
	if !host.HasPassword || host.FQDN != "vm1.example.test" {
		t.Errorf("first: %+v", host)
	}
	wantCode(t, results[1].Err, ipa.DuplicateEntry, ipa.Permanent)
	service, err := results[2].Service()
	must(t, err)
	if service.Principal != "HTTP/vm1.example.test@EXAMPLE.TEST" {
		t.Errorf("third: %+v", service)
	}
	must(t, results[3].Err)
	var members *ipa.MemberError
	if !errors.As(results[4].Err, &members) {
		t.Errorf("fifth: %v", results[4].Err)
	}
	wantCode(t, results[5].Err, ipa.NotFound, ipa.Permanent)
	if calls := w.Calls()["batch"]; calls != 1 {
		t.Errorf("%d requests, want 1", calls)
	}
	if results, err := c.Batch(t.Context()); err != nil || results != nil {
		t.Errorf("empty batch: %v, %v", results, err)
	}
	if _, err := c.Batch(t.Context(), slices.Repeat([]ipa.Command{ipa.Ping()}, ipa.MaxBatch+1)...); !errors.Is(err, ipa.ErrTooMany) {
		t.Errorf("too many: %v", err)
	}
}

func TestSafeToRepeat(t *testing.T) {
	for _, test := range []struct {
		command ipa.Command
		want    bool
	}{
		{ipa.Ping(), true},
		{ipa.HostShow("a.b"), true},
		{ipa.HostFind(ipa.HostFilter{}), true},
		{ipa.HostAdd("a.b", ipa.HostAttributes{}), false},
		{ipa.HostMod("a.b", ipa.HostAttributes{}), true},
		{ipa.HostDel("a.b", false), true},
		{ipa.HostDisable("a.b"), true},
		{ipa.ServiceAdd("x/a.b"), false},
		{ipa.ServiceAddHost("x/a.b"), true},
		{ipa.ServiceDel("x/a.b"), true},
		{ipa.RecordAdd("z.", "n", ipa.RecordA, "192.0.2.1"), true},
		{ipa.RecordDel("z.", "n", ipa.RecordA, "192.0.2.1"), true},
	} {
		if test.command.SafeToRepeat() != test.want {
			t.Errorf("%s: SafeToRepeat %v", test.command, !test.want)
		}
	}
}

// TestNoSecretShows prints everything that holds a password in every usual way.
func TestNoSecretShows(t *testing.T) {
	const otp = "s3cr3t-otp"
	attributes := ipa.HostAttributes{Password: otp}
	command := ipa.HostAdd("vm1.example.test", attributes)
	password := ipa.Password{User: "nova", Password: otp}
	encoded, err := json.Marshal([]any{attributes, command, password})
	must(t, err)
	for _, shown := range []string{
		fmt.Sprintf("%v %+v %#v %s", attributes, attributes, attributes, attributes),
		fmt.Sprintf("%v %+v %#v %s %q", command, command, command, command, command),
		fmt.Sprintf("%v %+v %#v", password, password, password),
		string(encoded),
	} {
		if strings.Contains(shown, otp) {
			t.Errorf("shows the password: %s", shown)
		}
	}
}

func TestConfigIsChecked(t *testing.T) {
	good := func() ipa.Config {
		return ipa.Config{Servers: []string{"ipa.example.test"}, Password: &ipa.Password{User: "u", Password: "p"}}
	}
	for _, test := range []struct {
		name   string
		change func(*ipa.Config)
		want   string // "" is accepted
	}{
		{"good", func(*ipa.Config) {}, ""},
		{"no server", func(c *ipa.Config) { c.Servers = nil }, "no FreeIPA server"},
		{"by DNS", func(c *ipa.Config) { c.Servers, c.Domain = nil, "example.test" }, ""},
		{"a URL", func(c *ipa.Config) { c.Servers = []string{"https://ipa.example.test"} }, "HOST or HOST:PORT"},
		{"a bad port", func(c *ipa.Config) { c.Servers = []string{"ipa.example.test:0"} }, "HOST or HOST:PORT"},
		{"no log-in", func(c *ipa.Config) { c.Password = nil }, "no way to log in"},
		{"two log-ins", func(c *ipa.Config) { c.Kerberos = &ipa.Kerberos{} }, "not both"},
		{"Kerberos without a keytab", func(c *ipa.Config) {
			c.Password, c.Kerberos = nil, &ipa.Kerberos{Principal: nova}
		}, "keytab"},
		{"negative", func(c *ipa.Config) { c.MaxInFlight = -1 }, "out of its range"},
	} {
		t.Run(test.name, func(t *testing.T) {
			cfg := good()
			test.change(&cfg)
			_, err := ipa.New(cfg)
			if (err == nil) != (test.want == "") || (err != nil && !strings.Contains(err.Error(), test.want)) {
				t.Errorf("New: %v, want %q", err, test.want)
			}
		})
	}
}

func wantCode(t *testing.T, err error, code ipa.Code, class ipa.Class) {
	t.Helper()
	if !errors.Is(err, code) {
		t.Errorf("got %v, want %v", err, code)
		return
	}
	if got := ipa.ClassOf(err); got != class {
		t.Errorf("%v is %v, want %v", err, got, class)
	}
}

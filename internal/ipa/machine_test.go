// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package ipa

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// enrolledDefaultConf is what ipa-client-install writes.
const enrolledDefaultConf = `#File modified by ipa-client-install

[global]
basedn = dc=example,dc=test
realm = EXAMPLE.TEST
domain = example.test
server = ipa.example.test
host = undercloud.example.test
xmlrpc_uri = https://ipa.example.test/ipa/xml
enable_ra = True
`

func TestDefaultConf(t *testing.T) {
	for _, test := range []struct {
		name, content string
		want          DefaultConf
	}{
		{"enrolled", enrolledDefaultConf, DefaultConf{
			Domain: "example.test", Realm: "EXAMPLE.TEST", Server: "ipa.example.test", Host: "undercloud.example.test",
			BaseDN: "dc=example,dc=test",
		}},
		{"server by URI only", "[global]\nxmlrpc_uri = https://IPA2.example.test/ipa/xml\n", DefaultConf{Server: "ipa2.example.test"}},
		{"JSON before XML", "[global]\nxmlrpc_uri=https://a.test/ipa/xml\njsonrpc_uri=https://b.test/ipa/json\n", DefaultConf{Server: "b.test"}},
		{"bad URI", "[global]\nxmlrpc_uri = ://\n", DefaultConf{}},
		{"other section", "[elsewhere]\nrealm = X\n", DefaultConf{}},
		{"empty", "", DefaultConf{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := parseDefaultConf([]byte(test.content))
			if err != nil || got != test.want {
				t.Errorf("got %+v, %v; want %+v", got, err, test.want)
			}
		})
	}
}

// TestMachine completes a configuration from an enrolled machine's files, and from nothing.
func TestMachine(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	m := Machine{
		DefaultConf: write("default.conf", enrolledDefaultConf),
		Krb5Conf:    write("krb5.conf", "[libdefaults]\ndefault_realm = OTHER.TEST\ndns_lookup_kdc = true\n"),
		CA:          filepath.Join(dir, "missing.crt"),
	}
	open := Config{Kerberos: &Kerberos{Principal: "nova/x", Keytab: "/etc/x.keytab"}}
	cfg, err := m.Complete(open)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.First != "ipa.example.test" || cfg.Domain != "example.test" || len(cfg.Servers) != 0 || cfg.Kerberos.Config == nil {
		t.Errorf("completed: %+v, %+v", cfg, cfg.Kerberos)
	}
	if open.Kerberos.Config != nil {
		t.Error("the caller's own configuration was changed")
	}
	if _, err := New(cfg); err != nil {
		t.Error(err)
	}

	said := Config{Servers: []string{"mine.test"}, Kerberos: &Kerberos{Keytab: "/x", Config: NewKrb5Conf("MINE.TEST")}}
	cfg, err = m.Complete(said)
	if err != nil || cfg.Servers[0] != "mine.test" || cfg.Kerberos.Config.LibDefaults.DefaultRealm != "MINE.TEST" {
		t.Errorf("what was said does not count: %+v, %v", cfg, err)
	}

	bare := Machine{DefaultConf: dir + "/no1", Krb5Conf: dir + "/no2", CA: dir + "/no3"}
	cfg, err = bare.Complete(Config{Domain: "example.test", Kerberos: &Kerberos{Principal: "nova/x", Keytab: "/x"}})
	if err != nil || !cfg.Kerberos.Config.LibDefaults.DNSLookupKDC {
		t.Errorf("a machine without files: %v", err)
	}
	cfg, err = bare.Complete(Config{Kerberos: &Kerberos{Principal: "nova/x", Keytab: "/x"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err = New(cfg); err == nil {
		t.Error("no server at all is accepted")
	}

	m.CA = write("ca.crt", "SECRET-TEXT, not PEM")
	if _, err := m.Complete(open); err == nil || strings.Contains(err.Error(), "SECRET-TEXT") {
		t.Errorf("a CA file without certificate: %v", err)
	}
	m.CA = dir
	if _, err := m.Complete(open); err == nil {
		t.Error("a folder passes for a CA file")
	}
}

func FuzzDefaultConf(f *testing.F) {
	f.Add([]byte(enrolledDefaultConf))
	f.Add([]byte("[global]\nxmlrpc_uri = https://[::1\n"))
	f.Add([]byte("[global\n=\n\"\"\"\n%(realm)s = %(realm)s\nrealm = %(realm)s"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		conf, err := parseDefaultConf(raw)
		if err == nil && conf.Server != strings.ToLower(conf.Server) {
			t.Errorf("server %q", conf.Server)
		}
	})
}

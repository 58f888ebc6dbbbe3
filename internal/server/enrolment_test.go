// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/gophercloud/gophercloud/v2"

	"github.com/muster-cloud/muster/internal/config"
	"github.com/muster-cloud/muster/internal/enroll"
	"github.com/muster-cloud/muster/internal/ipa"
)

const clientConf = `[global]
basedn = dc=example,dc=test
realm = EXAMPLE.TEST
domain = example.test
server = ipa.example.test
host = controller.example.test
`

// What the configuration leaves open, this machine knows as a client of FreeIPA.
func TestFreeIPAOfTheMachine(t *testing.T) {
	known := filepath.Join(t.TempDir(), "default.conf")
	if err := os.WriteFile(known, []byte(clientConf), 0o600); err != nil {
		t.Fatal(err)
	}
	nowhere := filepath.Join(t.TempDir(), "nowhere")
	for _, test := range []struct {
		name          string
		cfg           config.IPA
		servers       []string
		first         string
		domain, realm string
		fails         string
	}{
		{"all from the machine", config.IPA{ClientConf: known}, nil, "ipa.example.test", "example.test", "EXAMPLE.TEST", ""},
		{"own servers", config.IPA{ClientConf: known, Servers: []string{"a", "b:1"}}, []string{"a", "b:1"}, "ipa.example.test", "example.test", "EXAMPLE.TEST", ""},
		{"own domain and realm", config.IPA{ClientConf: known, Domain: "Other.test", Realm: "R"}, nil, "ipa.example.test", "other.test", "R", ""},
		{"no machine", config.IPA{ClientConf: nowhere, Domain: "example.test"}, nil, "", "example.test", "EXAMPLE.TEST", ""},
		{"nothing", config.IPA{ClientConf: nowhere}, nil, "", "", "", "set domain"},
		{"not readable", config.IPA{ClientConf: t.TempDir()}, nil, "", "", "", "read FreeIPA client configuration"},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.cfg.Username, test.cfg.Password = "nova/controller.example.test", "secret"
			s := &Server{cfg: &config.Config{IPA: test.cfg}, logger: slog.New(slog.DiscardHandler)}
			got, conf, err := s.ipaConfig()
			if test.fails != "" {
				if err == nil || !strings.Contains(err.Error(), test.fails) {
					t.Errorf("got %v, want %q", err, test.fails)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.servers, got.Servers); diff != "" || got.First != test.first || got.Domain != test.domain || conf.Realm != test.realm {
				t.Errorf("domain %q, realm %q, first server %q, servers: %s", got.Domain, conf.Realm, got.First, diff)
			}
			if got.Kerberos != nil || got.Password.User != "nova/controller.example.test" {
				t.Errorf("log-in: %+v", got)
			}
		})
	}
}

func TestFreeIPAByKeytab(t *testing.T) {
	s := &Server{cfg: &config.Config{IPA: config.IPA{
		Domain: "example.test", Keytab: "/k", Principal: "nova/a", KerberosConf: filepath.Join(t.TempDir(), "nowhere"),
	}}, logger: slog.New(slog.DiscardHandler)}
	got, _, err := s.ipaConfig()
	if err != nil || got.Password != nil || got.Kerberos.Keytab != "/k" || got.Kerberos.Principal != "nova/a" || got.Kerberos.Config == nil {
		t.Errorf("%+v %v", got, err)
	}
}

// IDs are found in whatever spelling; the machine's own name is nobody's.
func TestEnrolmentRules(t *testing.T) {
	id := "6EF4F4FE-7CBC-467F-9CEA-4AC6428173A5"
	s := &Server{cfg: &config.Config{
		Enroll: config.Enroll{NormalizeProject: true, Protected: []string{"ldap*"}},
		Projects: []*config.Project{
			{Name: "shop", DomainID: "default", AllowedClasses: []string{"web"}}, {Name: id, DomainID: "default", AnyServiceHost: true},
		},
	}}
	want := enroll.Rules{
		Domain: "example.test", NormalizeProject: true, Protected: []string{"ldap*", "controller.example.test"},
		Projects: map[string]enroll.ProjectRules{
			"shop":                             {DomainID: "default", AllowedClasses: []string{"web"}},
			"6ef4f4fe7cbc467f9cea4ac6428173a5": {DomainID: "default", AnyServiceHost: true},
		},
	}
	known := ipa.DefaultConf{Domain: "example.test", Host: "controller.example.test"}
	if diff := cmp.Diff(want, s.enrolmentRules(known)); diff != "" {
		t.Error(diff)
	}
	s.cfg.Enroll.Domain = "Cloud.example.test"
	if got := s.enrolmentRules(known).Domain; got != "cloud.example.test" {
		t.Errorf("own domain: %q", got)
	}
}

func TestLogInToGlance(t *testing.T) {
	address := &url.URL{Scheme: "https", Host: "keystone:5000", Path: "/v3/"}
	endpoint := "https://keystone:5000/v3"
	for _, test := range []struct {
		name string
		auth config.Auth
		want gophercloud.AuthOptions
	}{
		{"names", config.Auth{AuthType: "password", Username: "u", UserDomainName: "D", Password: "p", ProjectName: "s", ProjectDomainID: "d"},
			gophercloud.AuthOptions{Username: "u", DomainName: "D", Password: "p", Scope: &gophercloud.AuthScope{ProjectName: "s", DomainID: "d"}}},
		{"IDs", config.Auth{AuthType: "v3password", UserID: "u", Password: "p", ProjectID: "s"},
			gophercloud.AuthOptions{UserID: "u", Password: "p", Scope: &gophercloud.AuthScope{ProjectID: "s"}}},
		{"credential's ID", config.Auth{AuthType: "v3applicationcredential", ApplicationCredentialID: "c", ApplicationCredentialSecret: "s", Username: "x"},
			gophercloud.AuthOptions{ApplicationCredentialID: "c", ApplicationCredentialSecret: "s"}},
		{"credential's name", config.Auth{AuthType: "v3applicationcredential", ApplicationCredentialName: "c", ApplicationCredentialSecret: "s",
			Username: "u", UserDomainID: "d"},
			gophercloud.AuthOptions{ApplicationCredentialName: "c", ApplicationCredentialSecret: "s", Username: "u", DomainID: "d"}},
	} {
		test.auth.AuthURL, test.want.IdentityEndpoint = address, endpoint
		got := logIn(test.auth)
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s: %s", test.name, diff)
		}
		if _, err := got.ToTokenV3CreateMap(nil); err != nil {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

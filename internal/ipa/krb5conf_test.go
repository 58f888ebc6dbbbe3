// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package ipa

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jcmturner/gokrb5/v8/iana/etypeID"
)

// enrolledConf is what ipa-client-install writes on a current release, with what system-wide crypto policies include.
const enrolledConf = `#File modified by ipa-client-install

includedir DIR/krb5.conf.d/
[libdefaults]
  default_realm = EXAMPLE.TEST
  default_realm = SECOND.TEST
  dns_lookup_realm = true
  rdns = false
  dns_canonicalize_hostname = fallback
  dns_lookup_kdc = true
  ticket_lifetime = 1d2h
  clockskew = 0:02:30
  forwardable = true
  udp_preference_limit = 0
  default_ccache_name = KEYRING:persistent:%{uid}
  spake_preauth_groups = edwards25519

[realms]
  EXAMPLE.TEST = {
    kdc = ipa1.example.test
    kdc = ipa2.example.test:1088
    kdc = [fd00::1]:88
    kdc = https://proxy.example.test/KdcProxy
    pkinit_anchors = FILE:/var/lib/ipa-client/pki/kdc-ca-bundle.pem
    v4_instance_convert = {
      rcmd = host
    }
    admin_server = ipa1.example.test
  }
  OTHER.TEST = {
  }*

[domain_realm]
  .example.test = EXAMPLE.TEST
  example.test = EXAMPLE.TEST
; a comment of another kind
[plugins]
  localauth = {
    module = sssd:/usr/lib/sssd.so
  }
`

func TestReadKrb5Conf(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("krb5.conf.d/crypto-policies", "[libdefaults]\npermitted_enctypes = aes256-cts-hmac-sha384-192 camel-lot aes128-cts-hmac-sha1-96\n")
	write("krb5.conf.d/a.rpmsave.conf", "[libdefaults]\nclockskew = not this one\n")
	write("krb5.conf.d/b.conf", "include "+write("more", "[libdefaults]\nticket_lifetime = 7200\n"))
	path := write("krb5.conf", strings.ReplaceAll(enrolledConf, "DIR", dir))

	cfg, err := ReadKrb5Conf(path)
	if err != nil {
		t.Fatal(err)
	}
	lib := cfg.LibDefaults
	if lib.DefaultRealm != "EXAMPLE.TEST" || !lib.DNSLookupKDC || lib.Clockskew != 150*time.Second || lib.UDPPreferenceLimit != 0 {
		t.Errorf("libdefaults: %+v", lib)
	}
	if lib.TicketLifetime != 2*time.Hour {
		t.Errorf("ticket_lifetime %v: the included file comes first", lib.TicketLifetime)
	}
	if want := []int32{etypeID.AES256_CTS_HMAC_SHA384_192, etypeID.AES128_CTS_HMAC_SHA1_96}; !slices.Equal(lib.DefaultTktEnctypeIDs, want) {
		t.Errorf("encryption types %v, want %v", lib.DefaultTktEnctypeIDs, want)
	}
	_, kdcs, err := cfg.GetKDCs("EXAMPLE.TEST", true)
	if err != nil {
		t.Fatal(err)
	}
	got := []string{}
	for _, kdc := range kdcs {
		got = append(got, kdc)
	}
	slices.Sort(got)
	if want := []string{"[fd00::1]:88", "ipa1.example.test:88", "ipa2.example.test:1088"}; !slices.Equal(got, want) {
		t.Errorf("KDCs %q, want %q", got, want)
	}
	if realm := cfg.ResolveRealm("vm1.example.test"); realm != "EXAMPLE.TEST" {
		t.Errorf("realm of vm1.example.test: %q", realm)
	}
}

func TestBadKrb5Conf(t *testing.T) {
	for _, test := range []struct{ name, content, want string }{
		{"line without a section", "default_realm = X\n", "line 1"},
		{"no value", "[libdefaults]\njust words\n", "line 2"},
		{"brace left open", "[realms]\nX = {\nkdc = a\n", "not closed"},
		{"brace too much", "[realms]\n}\n", "line 2"},
		{"section in braces", "[realms]\nX = {\n[libdefaults]\n", "line 3"},
		{"missing include", "include /nowhere\n", "/nowhere"},
		{"includes itself", "include self\n", "include each other"},
		{"deep braces", "[realms]\n" + strings.Repeat("a = {\n", 20), "too deep"},
		{"bad boolean", "[libdefaults]\ndns_lookup_kdc = maybe\n", "neither true nor false"},
		{"bad duration", "[libdefaults]\nclockskew = soon\n", "no duration"},
		{"bad number", "[libdefaults]\nudp_preference_limit = 99999\n", "0 to 32700"},
		{"module", "module /x.so:x\n", "modules"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := readKrb5From(map[string]string{"self": test.content}, "self")
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

// readKrb5From reads from files in memory. A name that ends in a slash is a folder.
func readKrb5From(files map[string]string, path string) (*krb5Reader, error) {
	r := &krb5Reader{
		readFile: func(path string) ([]byte, error) {
			content, ok := files[path]
			if !ok {
				return nil, errors.New(path + " is not there")
			}
			return []byte(content), nil
		},
		readDir: func(path string) ([]string, error) {
			if strings.HasSuffix(path, "/") {
				return []string{"self"}, nil
			}
			return nil, fs.ErrNotExist
		},
	}
	if err := r.file(path); err != nil {
		return nil, err
	}
	_, err := r.config()
	return r, err
}

func FuzzKrb5Conf(f *testing.F) {
	f.Add(enrolledConf)
	f.Add("[libdefaults]\nclockskew = 1d 2h 3m 4s\ndns_lookup_kdc=on\n[realms]\nA={\nkdc = b*\n}*\n")
	f.Add("include self\nincludedir ./\nincludedir /nowhere\nmodule x\n")
	f.Add("[a\n}\n=\n[]\n = {\n")
	f.Fuzz(func(t *testing.T, content string) {
		r, err := readKrb5From(map[string]string{"self": content, "self/self": content}, "self")
		if err != nil {
			return
		}
		for _, s := range r.settings {
			if len(s.path) < 2 || len(s.path) > maxConfNested+2 {
				t.Errorf("setting %q", s.path)
			}
		}
	})
}

// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sshd

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// replayed answers for an sshd, with what one has said. The recordings are of
// OpenSSH 10.6p1 (Debian's openssh-server 1:10.6p1-1), which writes keywords as the
// manual does, with the configuration that TestMatchOfTheImage plays "in the main
// file".
type replayed struct{ t *testing.T }

func (r replayed) Run(_ context.Context, _ []byte, _ string, args ...string) ([]byte, error) {
	name := "openssh-10.6p1.txt"
	if at := slices.Index(args, "-C"); at >= 0 {
		user, _, _ := strings.Cut(strings.TrimPrefix(args[at+1], "user="), ",")
		name = "openssh-10.6p1-" + user + ".txt"
	}
	output, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		r.t.Fatal(err)
	}
	return output, nil
}

// TestMixedCase: from 10.4 on "sshd -T" writes keywords in mixed case.
func TestMixedCase(t *testing.T) {
	certificates := map[string]string{}
	h := newHost(t, debian)
	for file, cert := range h.want().HostCerts {
		certificates[Folder+"/"+filepath.Base(file)+"-cert.pub"] = cert
	}
	inspector := Inspector{Runner: replayed{t}, Read: func(file string) ([]byte, error) {
		if name, is := strings.CutPrefix(file, principalsFolder+"/"); is {
			return []byte(name + "\n"), nil
		}
		if cert, is := certificates[file]; is {
			return []byte(cert), nil
		}
		return nil, fs.ErrNotExist
	}}
	found, err := inspector.Inspect(t.Context(), []string{"member"})
	if err != nil || found.Err() != nil || len(found.Notes) > 0 {
		t.Fatalf("%v, %v, %q", err, found.Err(), found.Notes)
	}
	for keyword, want := range map[string]string{
		"trustedusercakeys": UserCAsFile, "persourcepenaltyexemptlist": "192.0.2.0/24", "casignaturealgorithms": "ssh-ed25519," +
			"ecdsa-sha2-nistp256,ecdsa-sha2-nistp384,ecdsa-sha2-nistp521,sk-ssh-ed25519@openssh.com,sk-ecdsa-sha2-nistp256@openssh.com," +
			"webauthn-sk-ecdsa-sha2-nistp256@openssh.com,rsa-sha2-512,rsa-sha2-256",
	} {
		if got := found.Settings.of(keyword); got != want {
			t.Errorf("%s is %q", keyword, got)
		}
	}
	// The same sshd about an account that has no block of Muster's.
	found, err = inspector.Inspect(t.Context(), []string{"other"})
	if err != nil || !errors.Is(found.Err(), ErrNotInForce) {
		t.Fatal(err, found.Err())
	}
	for _, want := range []string{
		"for other TrustedUserCAKeys is /etc/ssh/other_ca, not " + UserCAsFile, "for other RevokedKeys is none, not " + RevokedFile,
		"for other AuthorizedKeysCommand is /bin/cat /etc/ssh/more_keys, not none", "for other PubkeyAuthentication is no, not yes",
		"for other PasswordAuthentication is yes, not no", "for other AuthorizedPrincipalsFile is /etc/ssh/principals/%u, not ",
	} {
		if !strings.Contains(found.Err().Error(), want) {
			t.Errorf("%v, without %q", found.Err(), want)
		}
	}
}

func FuzzParseSettings(f *testing.F) {
	for _, text := range []string{"Port 22\nport 2222\n", "RevokedKeys /a /b", "x\n\n  y  z\n", "authenticationmethods a,b c\n"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, output []byte) {
		for key, values := range ParseSettings(output) {
			if key != strings.ToLower(key) || key == "" || len(values) == 0 {
				t.Fatalf("%q: %q", key, values)
			}
		}
	})
}

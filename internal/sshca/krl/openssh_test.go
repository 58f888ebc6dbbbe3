// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package krl

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

// sshKeygen returns the path of OpenSSH's ssh-keygen, the judge of these tests.
func sshKeygen(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("ssh-keygen")
	if err == nil {
		return path
	}
	if os.Getenv("CI") == "true" || os.Getenv("MUSTER_TEST_REQUIRE") == "1" {
		t.Fatal("ssh-keygen is missing: install the package openssh-client")
	}
	t.Skip("NOT JUDGED BY OPENSSH: ssh-keygen is missing; install the package openssh-client")
	return ""
}

func writeFile(t *testing.T, path string, content []byte) string {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// verdicts asks "ssh-keygen -Q" about each key and returns its answers.
func verdicts(t *testing.T, list []byte, keys []ssh.PublicKey) []bool {
	t.Helper()
	keygen, dir := sshKeygen(t), t.TempDir()
	args := []string{"-Q", "-f", writeFile(t, filepath.Join(dir, "krl"), list)}
	for i, key := range keys {
		path := filepath.Join(dir, fmt.Sprintf("key%d.pub", i))
		args = append(args, writeFile(t, path, ssh.MarshalAuthorizedKey(key)))
	}
	out, err := exec.CommandContext(t.Context(), keygen, args...).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	var answers []bool
	for line := range strings.Lines(string(out)) {
		switch line = strings.TrimSpace(line); {
		case strings.HasSuffix(line, ": ok"):
			answers = append(answers, false)
		case strings.HasSuffix(line, ": REVOKED"):
			answers = append(answers, true)
		default:
			t.Fatalf("ssh-keygen says: %s", line)
		}
	}
	if len(answers) != len(keys) {
		t.Fatalf("%d answers for %d keys: %s", len(answers), len(keys), out)
	}
	return answers
}

func TestOpenSSHAgrees(t *testing.T) {
	sshKeygen(t)
	authority, second, lost := newSigner(t), newSigner(t), newSigner(t)
	alice, bob := newSigner(t).PublicKey(), newSigner(t).PublicKey()
	for name, make := range distributions {
		t.Run(name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(15, 16))
			ours, theirs := make(r), make(r)
			list := List{
				Version: 3,
				Comment: "judged",
				Authorities: []Authority{
					{Key: authority.PublicKey(), Serials: ours, KeyIDs: []string{"revoked-id", "ä b"}},
					{Key: second.PublicKey(), Serials: theirs},
					{KeyIDs: []string{"nowhere"}},
				},
				Keys: []Fingerprint{FingerprintOf(bob), FingerprintOf(lost.PublicKey())},
			}
			keys := []ssh.PublicKey{
				alice, bob,
				newCert(t, authority, bob, 1<<63, "bob"), newCert(t, lost, alice, 1, "lost"),
				newCert(t, authority, alice, 0, "revoked-id"), newCert(t, second, alice, 0, "revoked-id"),
				newCert(t, authority, alice, 0, "ä b"), newCert(t, authority, alice, 0, "ä"),
				newCert(t, second, alice, 0, "nowhere"), newCert(t, second, alice, 0, "somewhere"),
			}
			want := []bool{false, true, true, true, true, false, true, false, true, false}
			for range 120 {
				serial := ours[r.IntN(len(ours))] + r.Uint64N(3) - 1
				_, inOurs := slices.BinarySearch(ours, serial)
				_, inTheirs := slices.BinarySearch(theirs, serial)
				keys = append(keys, newCert(t, authority, alice, serial, "a"), newCert(t, second, alice, serial, "b"))
				want = append(want, inOurs, inTheirs)
			}
			b, err := list.Marshal()
			if err != nil {
				t.Fatal(err)
			}
			k, err := Parse(b)
			if err != nil {
				t.Fatal(err)
			}
			for i, got := range verdicts(t, b, keys) {
				if got != want[i] {
					t.Errorf("ssh-keygen takes %d for revoked = %v", i, got)
				}
				if k.Revoked(keys[i]) != want[i] {
					t.Errorf("Revoked takes %d for revoked = %v", i, !want[i])
				}
			}
		})
	}
}

// dump returns the serials that "ssh-keygen -Q -l" finds in a list, as it
// prints them, or false if it cannot load the list.
func dump(t *testing.T, path string) ([]string, bool) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), sshKeygen(t), "-Q", "-l", "-f", path).CombinedOutput()
	if err != nil {
		if !bytes.Contains(out, []byte("bignum is too large")) {
			t.Fatalf("ssh-keygen cannot read the list: %s", out)
		}
		return nil, false
	}
	var serials []string
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, "serial: ") {
			serials = append(serials, line)
		}
	}
	return serials, true
}

// TestNeverLargerThanOpenSSH compares content and size with the list that
// ssh-keygen -k makes. Where that one is not loadable only content counts.
func TestNeverLargerThanOpenSSH(t *testing.T) {
	keygen := sshKeygen(t)
	authority := newSigner(t).PublicKey()
	extra := map[string]func(r *rand.Rand) []uint64{
		"long bitmaps": func(r *rand.Rand) []uint64 { return pick(60000, func() uint64 { return 1 + r.Uint64N(150000) }) },
	}
	for _, all := range []map[string]func(r *rand.Rand) []uint64{distributions, extra} {
		for name, make := range all {
			t.Run(name, func(t *testing.T) {
				r := rand.New(rand.NewPCG(17, 18))
				for range 4 {
					compareWithOpenSSH(t, keygen, authority, make(r))
				}
			})
		}
	}
}

func compareWithOpenSSH(t *testing.T, keygen string, authority ssh.PublicKey, serials []uint64) {
	t.Helper()
	dir := t.TempDir()
	var spec bytes.Buffer
	for _, serial := range serials {
		fmt.Fprintf(&spec, "serial: %d\n", serial)
	}
	theirs := filepath.Join(dir, "theirs")
	out, err := exec.CommandContext(t.Context(), keygen, "-q", "-k", "-f", theirs,
		"-s", writeFile(t, filepath.Join(dir, "ca.pub"), ssh.MarshalAuthorizedKey(authority)),
		writeFile(t, filepath.Join(dir, "spec"), spec.Bytes())).CombinedOutput()
	if err != nil {
		t.Fatalf("ssh-keygen -k: %s", out)
	}
	list := List{Authorities: []Authority{{Key: authority, Serials: serials}}}
	b, err := list.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	got, ok := dump(t, writeFile(t, filepath.Join(dir, "ours"), b))
	if !ok {
		t.Fatal("ssh-keygen cannot load our list")
	}
	if want := intervals(serials); !slices.Equal(got, want) {
		t.Fatalf("ssh-keygen reads %d intervals of serials, want %d", len(got), len(want))
	}
	if _, ok := dump(t, theirs); !ok {
		return
	}
	info, err := os.Stat(theirs)
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(b)) > info.Size() {
		t.Errorf("%d serials: %d bytes, ssh-keygen needs %d", len(serials), len(b), info.Size())
	}
}

// intervals writes serials as "ssh-keygen -Q -l" does.
func intervals(serials []uint64) []string {
	var lines []string
	for rest := serials; len(rest) > 0; {
		n := runLen(rest)
		line := fmt.Sprintf("serial: %d\n", rest[0])
		if n > 1 {
			line = fmt.Sprintf("serial: %d-%d\n", rest[0], rest[n-1])
		}
		lines = append(lines, line)
		rest = rest[n:]
	}
	return lines
}

// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/muster-cloud/muster/internal/uuid"
	"github.com/muster-cloud/muster/test/deployment"
)

// needs skips the test where a program is missing, or fails it where nothing
// may be skipped.
func needs(t *testing.T, programs ...string) {
	t.Helper()
	for _, name := range programs {
		if _, err := exec.LookPath(name); err == nil {
			continue
		}
		if os.Getenv("CI") == "true" || os.Getenv("MUSTER_TEST_REQUIRE") == "1" {
			t.Fatalf("%s is missing: install it", name)
		}
		t.Skipf("BOOT SCRIPTS WERE NOT TRIED: %s is missing", name)
	}
}

// script runs one of testdata/boot, or another program, and returns what it wrote.
func script(t *testing.T, name string, args ...string) string {
	t.Helper()
	if interpreter := map[string]string{".sh": "bash", ".py": "python3"}[filepath.Ext(name)]; interpreter != "" {
		name, args = interpreter, append([]string{filepath.Join("testdata/boot", name)}, args...)
	}
	command := exec.CommandContext(t.Context(), name, args...)
	var problems bytes.Buffer
	command.Stderr = &problems
	out, err := command.Output()
	if err != nil {
		t.Fatalf("%s %q: %v: %s%s", name, args, err, out, problems.String())
	}
	return string(out)
}

func put(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestBootScript lets scripts that read as Tatu's and novajoin's do read
// Muster's answers, as they are and as Nova hands them on; OpenSSH judges the
// files that come of it.
func TestBootScript(t *testing.T) { everywhere(t, testBootScript) }

func testBootScript(t *testing.T, w *world) {
	needs(t, "bash", "curl", "grep", "base64", "python3", "ssh-keygen")
	for name, tt := range map[string]struct {
		path   string
		status int
		asNova bool
	}{
		"Tatu's call":                      {"/v1/novavendordata", 201, false},
		"Tatu's call, without version":     {"/novavendordata", 201, false},
		"Tatu's call, through Nova":        {"/v1/novavendordata", 201, true},
		"Muster's own call, through Nova":  {"/v1/vendordata", 200, true},
		"Muster's own call, as it answers": {"/v1/vendordata", 200, false},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBoot(t, w)
			answer := w.do("service", "POST", tt.path, object("instance-id", b.id, "project-id", w.demo, "hostname", "web1")).want(tt.status)
			if tt.asNova {
				answer.Text = script(t, "nova.py", "static", `{"cloud-init": "#cloud-config"}`, "tatu", answer.Text)
			}
			b.setUp(answer.Text)
			settings, err := os.ReadFile(filepath.Join(b.folder, "settings"))
			want := "root_principals=\nusers=manager member reader\nsudoers=\nssh_port=22\npam_sudo=false\n"
			if diff := cmp.Diff(want, string(settings)); err != nil || diff != "" {
				t.Errorf("%v\n%s", err, diff)
			}
			b.judge()
		})
	}
	t.Run("the revocation list", func(t *testing.T) { testBootScriptRevokes(t, w) })
	t.Run("novajoin", func(t *testing.T) {
		answer := w.do("service", "POST", "/v1/", enrolling(w.boots(w.demo), w.demo)).want(200)
		told := answer.json()
		fqdn, otp := told["hostname"].(string), told["ipaotp"].(string)
		realm := strings.ToUpper(deployment.IPADomain)
		file := put(t, filepath.Join(t.TempDir(), "vendor_data2.json"), script(t, "nova.py", "static", "{}", "join", answer.Text))
		want := "hostname=" + fqdn + " domain=" + deployment.IPADomain + " realm=" + realm + " otp=" + otp + "\n"
		if got := script(t, "novajoin.sh", file); got != want {
			t.Errorf("ipa-client-install gets %s, want %s", got, want)
		}
	})
}

// boot is an instance with Tatu's boot script in it.
type boot struct {
	t      *testing.T
	w      *world
	id     string
	url    string
	folder string
	key    string // the host key's file
}

func newBoot(t *testing.T, w *world) *boot {
	t.Helper()
	b := &boot{t: t, w: w, id: w.boots(w.demo), url: w.next(), folder: t.TempDir()}
	b.key = filepath.Join(b.folder, "ssh_host_key")
	script(t, "ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-C", "root@web1", "-f", b.key)
	return b
}

// setUp runs the script with these vendordata.
func (b *boot) setUp(vendordata string) {
	b.t.Helper()
	// Nova writes IDs of projects without dashes, and of instances with them.
	metadata := `{"uuid": "` + uuid.Dashed(b.id) + `", "meta": {"x": "y"}, "project_id": "` + b.w.demo + `"}`
	script(b.t, "tatu.sh", b.url, put(b.t, filepath.Join(b.folder, "meta_data.json"), metadata),
		put(b.t, filepath.Join(b.folder, "vendor_data2.json"), vendordata), b.key+".pub", b.folder)
}

// judge lets OpenSSH read what the script wrote.
func (b *boot) judge() {
	b.t.Helper()
	shown := script(b.t, "ssh-keygen", "-L", "-f", b.key+"-cert.pub")
	if !strings.Contains(shown, "ecdsa-sha2-nistp256-cert-v01@openssh.com host certificate") || !strings.Contains(shown, `Key ID: "web1_`) {
		b.t.Errorf("the host certificate: %s", shown)
	}
	script(b.t, "ssh-keygen", "-l", "-f", filepath.Join(b.folder, "ca_user.pub"))
	script(b.t, "ssh-keygen", "-Q", "-f", filepath.Join(b.folder, "revoked-keys"), b.key+".pub")
}

// testBootScriptRevokes: the jobs of both ages of Tatu's instances bring
// the same list, which OpenSSH reads.
func testBootScriptRevokes(t *testing.T, w *world) {
	b := newBoot(t, w.at(0)) // a replica may take a moment to hear of another's revocations
	serial, cert := b.w.userCert()
	certFile := put(t, filepath.Join(b.folder, "alice-cert.pub"), cert["cert"].(string)+"\n")
	vendordata := b.w.do("service", "POST", "/v1/novavendordata", object("instance-id", b.id, "project-id", w.demo, "hostname", "web1")).want(201)
	b.setUp(vendordata.Text)
	b.judge()
	list := filepath.Join(b.folder, "revoked-keys")
	script(t, "ssh-keygen", "-Q", "-f", list, certFile)

	b.w.do("owner", "POST", "/v1/revokeduserkeys/"+w.demo, object("serial", serial)).want(200)
	b.setUp(vendordata.Text) // as the job does, the same token and key again
	fetched := filepath.Join(b.folder, "fetched")
	script(t, "tatu-revoked.py", b.url, w.demo, fetched)
	if answer := b.w.do("none", "GET", "/noauth/revokeduserkeys/"+w.demo, "").want(200); strings.Contains(answer.Text, "\n") {
		t.Error("there is a line feed after the JSON")
	}
	one, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	if other, err := os.ReadFile(fetched); err != nil || !bytes.Equal(one, other) {
		t.Errorf("the two jobs fetch different lists: %v", err)
	}
	out, err := exec.CommandContext(t.Context(), "ssh-keygen", "-Q", "-f", list, certFile).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "REVOKED") {
		t.Errorf("the revoked certificate is not in the list: %s", out)
	}
	ca, err := os.ReadFile(filepath.Join(b.folder, "ca_user.pub"))
	if err != nil {
		t.Fatal(err)
	}
	if line(certificate(t, cert["cert"].(string)).SignatureKey) != strings.TrimSpace(string(ca)) {
		t.Error("ca_user.pub is not the authority that signs users' certificates")
	}
}

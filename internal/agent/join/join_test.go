// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package join

import (
	"cmp"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	diff "github.com/google/go-cmp/cmp"

	"github.com/muster-cloud/muster/internal/agent/agenttest"
	"github.com/muster-cloud/muster/internal/agent/files"
)

func TestMain(m *testing.M) { os.Exit(agenttest.Main(m)) }

const password = "Very-Secret_1"

var request = Request{
	FQDN: "web.example.test", Domain: "example.test", Realm: "EXAMPLE.TEST", Server: "ipa.example.test", OTP: password,
	Options: []string{"--mkhomedir", "--no-ntp"},
}

func newClient(t *testing.T, root string, runner files.Runner) *Client {
	t.Helper()
	tree, err := files.OpenTree(t.Context(), files.Config{Root: root, State: "/var/lib/muster-agent"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tree.Close() })
	client, err := New(Config{Tree: tree, Runner: runner})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// installerStub does what ipa-client-install does with the password.
const installerStub = `#!/usr/bin/python3 -I
import sys
from ipaclient.install import client
from ipaplatform.paths import paths
assert __name__ == "__main__"
for wanted in ("--unattended", "--hostname web.example.test", "--domain example.test", "--realm EXAMPLE.TEST",
               "--server ipa.example.test", "--mkhomedir", "--no-ntp"):
    assert wanted in " ".join(sys.argv), sys.argv
password = sys.argv[sys.argv.index("--password") + 1]
if open("/etc/mode").read() == "other":
    client.run(["/bin/echo", "x" + password])
result = client.run([paths.SBIN_IPA_JOIN, "-s", "ipa.example.test", "-b", "dc=example,dc=test", "-h", "web.example.test",
                     "-k", "/etc/krb5.keytab", "-w", password], raiseonerr=False, env={}, nolog=(password,), capture_error=True)
if result.returncode != 0:
    print("Joining realm failed: " + result.error_output, file=sys.stderr)
    sys.exit(1)
for made in ("/etc/ipa/default.conf", "/var/lib/ipa-client/sysrestore/sysrestore.index"):
    open(made, "w").close()
`

// getkeytabStub takes the password from its standard input, and looks whether
// anybody could read it in /proc.
const getkeytabStub = `#!/bin/sh
if [ "$1" = --help ]; then cat /etc/getkeytab-help; exit; fi
read -r password
[ "$password" = Very-Secret_1 ] || exit 9
cat /proc/[0-9]*/cmdline >/tmp/seen 2>/dev/null
if grep -aq "$password" /tmp/seen; then echo "seen in /proc" >&2; exit 8; fi
echo "$@" >/etc/krb5.keytab
`

func stubMachine(t *testing.T) string {
	t.Helper()
	root := agenttest.Machine(t, "python3")
	if _, err := (files.Programs{Root: root}).Run(t.Context(), nil, "/usr/bin/python3", "-I", "-c", "import ldap"); err != nil {
		agenttest.Missing(t, "python3-ldap: "+err.Error())
	}
	if err := agenttest.InstallFreeIPA(root); err != nil {
		t.Fatal(err)
	}
	agenttest.Write(t, root, "/etc/mode", "")
	agenttest.Write(t, root, "/etc/getkeytab-help", "  -w\n  -W     Prompt for LDAP password\n")
	for name, content := range map[string]string{installer: installerStub, "/usr/sbin/ipa-getkeytab": getkeytabStub} {
		agenttest.Write(t, root, name, content)
		if err := os.Chmod(filepath.Join(root, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestJoin(t *testing.T) {
	root := stubMachine(t)
	client := newClient(t, root, files.Programs{Root: root})
	newDirectory(t, root)
	if client.Joined() {
		t.Fatal("it is a member already")
	}
	if result, err := client.Join(t.Context(), request); err != nil || result != (Result{}) {
		t.Fatal(result, err)
	}
	keytab, err := os.ReadFile(filepath.Join(root, "etc/krb5.keytab"))
	want := "-s ipa.example.test -p host/web.example.test@EXAMPLE.TEST -k /etc/krb5.keytab " +
		"-D fqdn=web.example.test,cn=computers,cn=accounts,dc=example,dc=test -W\n"
	if err != nil || string(keytab) != want {
		t.Fatal(string(keytab), err)
	}
	if result, err := client.Join(t.Context(), request); err != nil || !result.Already || !client.Joined() {
		t.Fatal(result, err)
	}
}

func TestJoinFails(t *testing.T) {
	for name, test := range map[string]struct {
		mode, help string
		otp        string
		down       bool
		want       error
	}{
		"refused":          {otp: "an old password", help: "-W", want: ErrPassword},
		"down":             {down: true, help: "-W", want: ErrUnreachable},
		"old":              {help: "-w", want: ErrTooOld},
		"as an argument":   {mode: "other", help: "-W", want: ErrFailed},
		"without anything": {help: "", want: ErrTooOld},
	} {
		t.Run(name, func(t *testing.T) {
			root := stubMachine(t)
			agenttest.Write(t, root, "/etc/mode", test.mode)
			agenttest.Write(t, root, "/etc/getkeytab-help", test.help)
			client := newClient(t, root, files.Programs{Root: root})
			if d := newDirectory(t, root); test.down {
				d.stop()
			}
			first := request
			first.OTP = cmp.Or(test.otp, password)
			_, err := client.Join(t.Context(), first)
			if !errors.Is(err, test.want) || strings.Contains(err.Error(), first.OTP) || client.Joined() {
				t.Fatal(err)
			}
			// What is mended works at the next try.
			if test.down {
				newDirectory(t, root)
			}
			agenttest.Write(t, root, "/etc/mode", "")
			agenttest.Write(t, root, "/etc/getkeytab-help", "-W")
			if _, err := client.Join(t.Context(), request); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestClientDoesNotLoad: why is in the error. The client of Debian unstable in
// November 2026 lacked a dependency, so that its Python did not import.
func TestClientDoesNotLoad(t *testing.T) {
	for name, test := range map[string]struct {
		module, text string // in the place of what the client imports first
		want         error
		says         string
	}{
		"a dependency is missing": {"ipaclient/install/client.py", "import no_such_packaging\n", ErrBroken,
			"ModuleNotFoundError: No module named 'no_such_packaging'"},
		"a newer Python": {"ipaclient/install/client.py", "from ast import Removed\n", ErrBroken, "ImportError: cannot import name 'Removed'"},
		"it is broken":   {"ipaclient/install/client.py", "f(\n", ErrBroken, "SyntaxError"},
		"an old one":     {"ipaplatform/paths.py", "import ipaold\n", ErrTooOld, "older than 4.8"},
	} {
		t.Run(name, func(t *testing.T) {
			root := stubMachine(t)
			agenttest.Write(t, root, filepath.Join(agenttest.PythonModules, test.module), test.text)
			_, err := newClient(t, root, files.Programs{Root: root}).Join(t.Context(), request)
			if !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestRequestIsChecked(t *testing.T) {
	client := newClient(t, t.TempDir(), files.Programs{})
	for name, change := range map[string]func(*Request){
		"no name":       func(r *Request) { r.FQDN = "" },
		"an option":     func(r *Request) { r.Domain = "--uninstall" },
		"realm":         func(r *Request) { r.Realm = "A B" },
		"server":        func(r *Request) { r.Server = "-x" },
		"no password":   func(r *Request) { r.OTP = "" },
		"two lines":     func(r *Request) { r.OTP = "12345678\n9" },
		"not an option": func(r *Request) { r.Options = []string{"x"} },
		"short option":  func(r *Request) { r.Options = []string{"-w"} },
		"our option":    func(r *Request) { r.Options = []string{"--password=x"} },
		"shortened":     func(r *Request) { r.Options = []string{"--passw=x"} },
		"only dashes":   func(r *Request) { r.Options = []string{"--"} },
	} {
		changed := request
		change(&changed)
		if _, err := client.Join(t.Context(), changed); !errors.Is(err, ErrRequest) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := client.Join(t.Context(), request); !errors.Is(err, ErrNoClient) {
		t.Error(err)
	}
}

// shop is a machine with one package tool. It records what is run.
type shop struct {
	root, tool string
	fails      error
	ran        []string
}

func (s *shop) Run(_ context.Context, _ []byte, name string, args ...string) ([]byte, error) {
	line := strings.Join(append([]string{name}, args...), " ")
	if !strings.Contains(line, s.tool) {
		return nil, exec.ErrNotFound
	}
	if args[0] == "--version" {
		return nil, nil
	}
	s.ran = append(s.ran, line)
	if s.fails == nil && strings.Contains(line, " install ") {
		name := filepath.Join(s.root, installer)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return nil, err
		}
		return nil, os.WriteFile(name, []byte("no Python"), 0o755)
	}
	return nil, s.fails
}

func TestInstall(t *testing.T) {
	for tool, want := range map[string][]string{
		"apt-get": {
			"env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=600 update",
			"env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=600 install -y freeipa-client",
		},
		"dnf":    {"dnf -q -y install ipa-client"},
		"yum":    {"yum -q -y install ipa-client"},
		"zypper": {"zypper -q -n install freeipa-client"},
	} {
		s := &shop{root: t.TempDir(), tool: tool}
		wanting := request
		wanting.InstallClient = true
		// What it installs here is no installer, which is the next refusal.
		result, err := newClient(t, s.root, s).Join(t.Context(), wanting)
		if !errors.Is(err, ErrTooOld) || !result.Installed {
			t.Error(tool, result, err)
		}
		if difference := diff.Diff(want, s.ran); difference != "" {
			t.Error(difference)
		}
		s = &shop{root: t.TempDir(), tool: tool, fails: errors.New("no network")}
		if _, err := newClient(t, s.root, s).Join(t.Context(), wanting); !errors.Is(err, ErrInstall) {
			t.Error(tool, err)
		}
	}
	// A kill has interrupted dpkg before; what it left is mended for the next try.
	s := &shop{root: t.TempDir(), tool: "-", fails: &files.ProgramError{Name: "env", Err: errors.New("exit status 100"),
		Stderr: "E: dpkg was interrupted, you must manually run 'dpkg --configure -a' to correct the problem."}}
	wanting := request
	wanting.InstallClient = true
	if _, err := newClient(t, s.root, s).Join(t.Context(), wanting); !errors.Is(err, ErrInstall) || len(s.ran) != 2 ||
		s.ran[1] != "env DEBIAN_FRONTEND=noninteractive dpkg --configure -a" {
		t.Error(s.ran, err)
	}
	s = &shop{root: t.TempDir(), tool: "none of them"}
	if _, err := newClient(t, s.root, s).Join(t.Context(), wanting); !errors.Is(err, ErrInstall) {
		t.Error(err)
	}
}

// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package services

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// KeystoneServer is a real Keystone with a SQLite database, as `keystone-manage
// bootstrap` leaves it: domain Default, project admin, roles admin, member and
// reader, and user admin. People of an identity provider log in where its
// protocol is openid (see keystone_sso.py).
type KeystoneServer struct {
	// AuthURL ends in /v3.
	AuthURL       string
	AdminPassword string
}

// The issuer whom a Keystone of these tests believes, and the headers of a
// request by which somebody comes from there: the name, and the names of groups
// with semicolons between them.
const (
	SSOIssuer = "https://idp.example.com"
	SSOUser   = "Asserted-User"
	SSOGroups = "Asserted-Groups"
)

//go:embed keystone_sso.py
var ssoModule string

// Keystone starts a private Keystone and stops it when the test ends. The lines
// are put at the end of its configuration. Without Keystone on the machine the
// test is skipped; where services are required (CI=true or
// MUSTER_TEST_REQUIRE=1) it fails.
func Keystone(t testing.TB, lines ...string) *KeystoneServer {
	t.Helper()
	needKeystone(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	k := &KeystoneServer{AuthURL: "http://" + listener.Addr().String() + "/v3", AdminPassword: "bootstrap-password"}
	dir := t.TempDir()
	k.initialize(t, dir, strings.Join(lines, "\n"))
	k.serve(t, dir, listener)
	return k
}

func needKeystone(t testing.TB) {
	t.Helper()
	err := exec.Command(python, "-I", "-c", "import keystone.server.wsgi").Run()
	if err == nil {
		return
	}
	reason := "KEYSTONE IS NOT INSTALLED, nothing was tested against it: apt install python3-keystone"
	if os.Getenv("CI") == "true" || os.Getenv("MUSTER_TEST_REQUIRE") == "1" {
		t.Fatal(reason)
	}
	t.Skip(reason)
}

const ssoFile = "keystone_sso.py"

// initialize makes the database, the keys and the first user.
func (k *KeystoneServer) initialize(t testing.TB, dir, lines string) {
	t.Helper()
	for _, keys := range []string{"fernet", "credential"} {
		if err := os.Mkdir(filepath.Join(dir, keys), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	config := fmt.Sprintf(`[DEFAULT]
log_file = %[1]s/keystone.log
[database]
connection = sqlite:///%[1]s/keystone.db
[token]
provider = fernet
[fernet_tokens]
key_repository = %[1]s/fernet
[fernet_receipts]
key_repository = %[1]s/fernet
[credential]
key_repository = %[1]s/credential
[identity]
password_hash_rounds = 4
[auth]
methods = password,token,totp,application_credential,oauth1,mapped,openid
[federation]
remote_id_attribute = OIDC_ISS
[oslo_messaging_notifications]
driver = noop
%[2]s
`, dir, lines)
	for name, text := range map[string]string{"keystone.conf": config, ssoFile: ssoModule} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	owner := []string{"--keystone-user", fmt.Sprint(os.Getuid()), "--keystone-group", fmt.Sprint(os.Getgid())}
	for _, arguments := range [][]string{
		{"db_sync"},
		append([]string{"fernet_setup"}, owner...),
		append([]string{"credential_setup"}, owner...),
		{"bootstrap", "--bootstrap-password", k.AdminPassword, "--bootstrap-region-id", "RegionOne",
			"--bootstrap-admin-url", k.AuthURL, "--bootstrap-internal-url", k.AuthURL, "--bootstrap-public-url", k.AuthURL},
	} {
		// -I keeps PYTHON* variables and the working directory out.
		command := exec.Command(python, append([]string{"-I", "/usr/bin/keystone-manage",
			"--config-file", filepath.Join(dir, "keystone.conf")}, arguments...)...)
		command.Env = keystoneEnvironment(dir)
		if out, err := command.CombinedOutput(); err != nil {
			t.Fatalf("keystone-manage %s: %v\n%s", arguments[0], err, out)
		}
	}
	// A refused request may leave its transaction open for a while. With a
	// write-ahead log such a reader locks nobody out.
	wal := "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('pragma journal_mode=wal')"
	out, err := exec.Command(python, "-I", "-c", wal, filepath.Join(dir, "keystone.db")).CombinedOutput()
	if err != nil {
		t.Fatalf("Keystone's database: %v\n%s", err, out)
	}
}

func keystoneEnvironment(dir string) []string {
	return []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "HOME=" + dir,
		"OS_KEYSTONE_CONFIG_DIR=" + dir, "OS_KEYSTONE_CONFIG_FILES=" + filepath.Join(dir, "keystone.conf")}
}

// serve hands the open socket to Keystone, so that no port is chosen twice.
func (k *KeystoneServer) serve(t testing.TB, dir string, listener net.Listener) {
	t.Helper()
	var log lockedBuffer
	// Keystone's SQLite sessions must not change threads.
	command, err := wsgiServer(filepath.Join(dir, ssoFile)+":initialize_application()", 1, listener)
	if err != nil {
		t.Fatal(err)
	}
	defer command.ExtraFiles[0].Close()
	command.Env = keystoneEnvironment(dir)
	command.Stdout, command.Stderr = &log, &log
	// The server ends when this pipe closes, so also when the test is killed.
	life, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = command.Wait() // it is killed in the end, so its status says nothing
		close(ended)
	}()
	t.Cleanup(func() {
		life.Close()
		_ = command.Process.Kill() // fails only if it has ended already
		<-ended
	})
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	go func() {
		select {
		case <-ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	// The socket is open already: the request waits until Keystone accepts it.
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, k.AuthURL, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatalf("Keystone did not start: %v\n%s", err, log.String())
	}
	response.Body.Close()
}

// lockedBuffer takes the output of a process that is still running.
type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

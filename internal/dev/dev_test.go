// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package dev

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/muster-cloud/muster/internal/devcloud/compute"
)

// start runs an environment; stop ends it and returns what Run did.
func start(t *testing.T, cfg Config) (e *Environment, stop func() error) {
	t.Helper()
	e, err := New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	stop = func() error {
		cancel()
		err := <-ended
		ended <- err
		return err
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	return e, stop
}

// boot boots an instance and returns the token that its metadata hold.
func boot(t *testing.T, e *Environment) string {
	t.Helper()
	cloud := e.Cloud
	id, err := cloud.Compute.Boot(t.Context(), compute.Server{
		Name: "web-1", ProjectID: cloud.Identity.ProjectID("demo"), UserID: cloud.Identity.UserID("demo"),
	})
	if err != nil {
		t.Fatal(err)
	}
	answers, err := cloud.Compute.Vendordata(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	var answer struct{ Token string }
	if err := json.Unmarshal(answers["muster"], &answer); err != nil {
		t.Fatal(err)
	}
	return answer.Token
}

func ready(t *testing.T, e *Environment) {
	t.Helper()
	response, err := http.Get(e.MusterURL + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Fatalf("/readyz: %s", response.Status)
	}
}

func TestEnvironmentInATemporaryFolder(t *testing.T) {
	e, stop := start(t, Config{})
	ready(t, e)
	if token := boot(t, e); len(token) != 32 {
		t.Errorf("the token has %d digits", len(token))
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(e.Dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the temporary folder is still there: %v", err)
	}
}

func TestEnvironmentStartsAgainInItsFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a folder of $choice, 100%")
	first, stop := start(t, Config{Dir: dir})
	ready(t, first)
	boot(t, first)
	masterKey, err := os.ReadFile(filepath.Join(dir, "master.key"))
	if err != nil {
		t.Fatal(err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}

	second, _ := start(t, Config{Dir: dir})
	ready(t, second)
	boot(t, second)
	again, err := os.ReadFile(filepath.Join(dir, "master.key"))
	if err != nil || string(again) != string(masterKey) {
		t.Errorf("the master key was replaced: %v", err)
	}
}

func TestEnvironmentKeepsSecretsToItsUser(t *testing.T) {
	e, _ := start(t, Config{Dir: t.TempDir()})
	for _, name := range []string{"master.key", "keystone.password", "ipa.password", "muster.conf", "admin-openrc.sh", "demo-openrc.sh"} {
		info, err := os.Stat(filepath.Join(e.Dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %o", name, info.Mode().Perm())
		}
	}
	demo := e.User("demo")
	text, err := os.ReadFile(demo.File)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), "OS_PASSWORD="+demo.Password+"\n") || demo.Password == "" {
		t.Error("the environment file lacks the password")
	}
}

func TestNewRefusesAnAddressInUse(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	if _, err := New(t.Context(), Config{Listen: taken.Addr().String()}); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("an address in use: %v", err)
	}
	if _, err := New(t.Context(), Config{Listen: "18322"}); err == nil || !strings.Contains(err.Error(), "host:port") {
		t.Errorf("a port alone: %v", err)
	}
}

func TestCommandsWorkAsPrinted(t *testing.T) {
	for _, program := range []string{"curl", "ssh-keygen"} {
		if _, err := exec.LookPath(program); err == nil {
			continue
		}
		message := "there is no " + program + " here"
		if os.Getenv("CI") == "true" || os.Getenv("MUSTER_TEST_REQUIRE") == "1" {
			t.Fatal(message)
		}
		t.Skip("SKIPPED, nothing was tested: ", message)
	}
	e, _ := start(t, Config{Dir: filepath.Join(t.TempDir(), "it's here")})
	shell := exec.CommandContext(t.Context(), "sh", "-eu")
	shell.Stdin = strings.NewReader(e.Commands())
	output, err := shell.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	for _, want := range []string{`"name": "web-1"`, `"fqdn": "web-1.example.test"`, "user certificate", "member\n", "@cert-authority * ssh-ed25519 ", "\nssh-ed25519 "} {
		if !strings.Contains(string(output), want) {
			t.Errorf("the commands did not show %q:\n%s", want, output)
		}
	}
}

func TestSummaryHidesPasswords(t *testing.T) {
	e, _ := start(t, Config{})
	text := e.Summary() + e.Commands()
	for _, want := range []string{e.MusterURL, e.KeystoneURL, e.NovaURL, e.GlanceURL, e.FreeIPAURL, e.Dir, e.ConfigFile, "(removed at the end)"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing:\n%s", want, text)
		}
	}
	for _, user := range e.Users {
		if strings.Contains(text, user.Password) {
			t.Errorf("the password of %s is shown", user.Name)
		}
	}
}

// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agentapi_test

import (
	"bytes"
	"encoding/base64"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/muster-cloud/muster/internal/agentapi"
)

// keygen runs OpenSSH's ssh-keygen, the judge of these tests.
func keygen(t *testing.T, stdin string, args ...string) (string, error) {
	t.Helper()
	path, err := exec.LookPath("ssh-keygen")
	if err != nil && (os.Getenv("CI") == "true" || os.Getenv("MUSTER_TEST_REQUIRE") == "1") {
		t.Fatal("ssh-keygen is missing: install the package openssh-client")
	}
	if err != nil {
		t.Skip("NOT JUDGED BY OPENSSH: ssh-keygen is missing; install the package openssh-client")
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func write(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestOpenSSHVerifiesRequests(t *testing.T) {
	const body = `{"host_id": "h"}`
	for name, signer := range signers(t) {
		header, err := agentapi.SignRequest(signer, agentapi.PathState, []byte(body))
		if err != nil {
			t.Fatal(name, err)
		}
		allowed := write(t, "allowed", "host "+string(ssh.MarshalAuthorizedKey(signer.PublicKey())))
		signature := write(t, "sig", armor(t, header))
		verify := func(message string) (string, error) {
			return keygen(t, message, "-Y", "verify", "-f", allowed, "-I", "host", "-n", agentapi.NamespaceHost, "-s", signature)
		}
		if out, err := verify(agentapi.PathState + "\n" + body); err != nil {
			t.Errorf("%s: ssh-keygen refuses what was signed: %v: %s", name, err, out)
		}
		if out, err := verify(agentapi.PathRenew + "\n" + body); err == nil {
			t.Errorf("%s: ssh-keygen accepts another path: %s", name, out)
		}
	}
}

func TestOpenSSHSigns(t *testing.T) {
	const body = `{"host_id": "h"}`
	for _, kind := range []string{"ed25519", "ecdsa", "rsa"} {
		key := filepath.Join(t.TempDir(), "key")
		if out, err := keygen(t, "", "-q", "-t", kind, "-N", "", "-f", key); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		sign := func(namespace, message string) string {
			file := write(t, "message", message)
			if out, err := keygen(t, "", "-q", "-Y", "sign", "-f", key, "-n", namespace, file); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			return unarmor(t, file+".sig")
		}
		s, err := agentapi.ParseSignature(sign(agentapi.NamespaceHost, agentapi.PathRenew+"\n"+body))
		if err != nil {
			t.Fatal(kind, err)
		}
		if err := s.Verify(agentapi.PathRenew, []byte(body)); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		list := sign(agentapi.NamespaceList, "list")
		if err := agentapi.VerifyList(list, []byte("list"), []ssh.PublicKey{s.Key()}); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

// armor is what ssh-keygen reads.
func armor(t *testing.T, header string) string {
	t.Helper()
	blob, err := base64.StdEncoding.DecodeString(header)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "SSH SIGNATURE", Bytes: blob}))
}

// unarmor makes a header of what ssh-keygen writes.
func unarmor(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	block, rest := pem.Decode(content)
	if block == nil || len(bytes.TrimSpace(rest)) > 0 {
		t.Fatalf("ssh-keygen wrote %q", content)
	}
	return base64.StdEncoding.EncodeToString(block.Bytes)
}

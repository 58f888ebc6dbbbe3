// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sudo

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"
	sshagent "golang.org/x/crypto/ssh/agent"

	"github.com/muster-cloud/muster/internal/agent/account"
	"github.com/muster-cloud/muster/internal/agent/agenttest"
	"github.com/muster-cloud/muster/internal/agent/files"
	"github.com/muster-cloud/muster/internal/agent/sshd"
	"github.com/muster-cloud/muster/internal/agentapi"
	"github.com/muster-cloud/muster/internal/sshca/krl"
	"github.com/muster-cloud/muster/test/services"
)

// program is where a copy of this test stands in for the agent's program.
const program = "/usr/local/sbin/muster-agent"

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "sudo-check" {
		os.Exit(beProgram())
	}
	os.Exit(agenttest.Main(m))
}

// beProgram does what the agent's program does for pam_exec.
func beProgram() int {
	request, err := FromPAM(os.Getenv)
	if err == nil {
		_, err = Check(context.Background(), request)
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// host is a machine with a running sshd, accounts and sudo's rules.
type host struct {
	*testing.T
	root     string
	port     int
	ca       ssh.Signer
	tree     *files.Tree
	sshd     *sshd.SSHD
	accounts *account.Accounts
	pam      *PAM
	log      *transcript // of sshd
}

func newHost(t *testing.T, settings string) *host {
	t.Helper()
	h := &host{T: t, root: agenttest.Machine(t, "sshd", "ssh-keygen", "useradd", "visudo", "sudo"), ca: agenttest.NewSigner(t)}
	if _, err := exec.LookPath("ssh"); err != nil {
		t.Fatal(err)
	}
	h.copyProgram()
	h.startSSHD(settings)
	runner := files.Programs{Root: h.root}
	var err error
	h.tree, err = files.OpenTree(t.Context(), files.Config{Root: h.root, State: "/var/lib/muster-agent", Runner: runner})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.tree.Close() })
	h.sshd, err = sshd.New(sshd.Config{Tree: h.tree, Runner: runner})
	if err == nil {
		h.accounts, err = account.New(account.Config{Tree: h.tree, Runner: runner})
	}
	if err == nil {
		h.pam, err = New(Config{Tree: h.tree, Program: program})
	}
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *host) copyProgram() {
	h.Helper()
	self, err := os.Open(os.Args[0])
	if err != nil {
		h.Fatal(err)
	}
	defer self.Close()
	copied, err := os.OpenFile(filepath.Join(h.root, program), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o755)
	if err != nil {
		h.Fatal(err)
	}
	if _, err := io.Copy(copied, self); err != nil {
		h.Fatal(err)
	}
	if err := errors.Join(copied.Close(), os.Chmod(filepath.Join(h.root, program), 0o755)); err != nil {
		h.Fatal(err)
	}
}

// startSSHD starts the machine's own sshd on a free port.
func (h *host) startSSHD(settings string) {
	h.Helper()
	var err error
	if h.port, err = services.Port(); err != nil {
		h.Fatal(err)
	}
	agenttest.Write(h, h.root, "/etc/ssh/sshd_config",
		"Include /etc/ssh/sshd_config.d/*.conf\nLogLevel VERBOSE\nListenAddress 127.0.0.1\nPort "+strconv.Itoa(h.port)+"\n"+settings)
	agenttest.Run(h, h.root, "ssh-keygen", "-A")
	h.log = &transcript{}
	command := exec.Command("/usr/sbin/sshd", "-D", "-e")
	command.Dir = "/"
	command.Stderr = h.log
	command.WaitDelay = time.Second // its children have it open, too
	command.SysProcAttr = &syscall.SysProcAttr{Chroot: h.root, Setsid: true}
	if err := command.Start(); err != nil {
		h.Fatal(err)
	}
	h.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
		if h.Failed() {
			said := h.log.String()
			h.Log("the end of sshd's log:\n", said[max(0, len(said)-2000):])
		}
	})
	h.until("sshd listens", h.log, func(said string) bool { return strings.Contains(said, "Server listening") })
}

// until waits for what another process writes.
func (h *host) until(what string, from *transcript, wanted func(text string) bool) {
	h.Helper()
	ctx, cancel := context.WithTimeout(h.Context(), 3*time.Minute)
	defer cancel()
	if err := from.until(ctx, wanted); err != nil {
		h.Fatalf("%s: %v\n%s", what, err, h.log)
	}
}

// setUp is what the agent does on the machine.
func (h *host) setUp(accounts ...agentapi.Account) {
	h.Helper()
	h.setUpWithPort(0, accounts...)
}

func (h *host) setUpWithPort(port int, accounts ...agentapi.Account) {
	h.Helper()
	ctx := h.Context()
	result, err := h.accounts.Apply(ctx, accounts, true)
	if err != nil {
		h.Fatal(err)
	}
	if _, err = h.pam.Install(ctx, result.Made); err != nil {
		h.Fatal(err)
	}
	if changed, err := h.pam.Install(ctx, result.Made); err != nil || changed {
		h.Fatal("the same again: ", changed, err)
	}
	keys, err := h.sshd.HostKeys(ctx)
	if err != nil {
		h.Fatal(err)
	}
	want := sshd.Want{
		Port: port, HostCerts: map[string]string{}, Accounts: result.Active, ForwardAgent: result.Active,
		UserCAs: []string{string(ssh.MarshalAuthorizedKey(h.ca.PublicKey()))},
	}
	for _, key := range keys {
		public, _, _, _, err := ssh.ParseAuthorizedKey([]byte(key.PublicKey))
		if err != nil {
			h.Fatal(err)
		}
		cert := &ssh.Certificate{
			Key: public, CertType: ssh.HostCert, ValidPrincipals: []string{"host"}, ValidBefore: ssh.CertTimeInfinity,
		}
		if err := cert.SignCert(rand.Reader, h.ca); err != nil {
			h.Fatal(err)
		}
		want.HostCerts[key.Path] = string(ssh.MarshalAuthorizedKey(cert))
	}
	ports := 1
	if port != 0 {
		ports = 2
	}
	before := strings.Count(h.log.String(), "Server listening")
	changed, err := h.sshd.Apply(ctx, want)
	if err != nil {
		h.Fatal(err)
	}
	if changed {
		h.until("sshd is reloaded", h.log, func(said string) bool { return strings.Count(said, "Server listening") >= before+ports })
	}
}

func TestSudoAsksForACertificate(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED in short mode: it logs in some forty times")
	}
	h := newHost(t, "UsePAM yes\n")
	pam, err := h.tree.Read("/etc/pam.d/sudo")
	if err != nil {
		t.Fatal(err)
	}
	agenttest.Run(t, h.root, "useradd", "-m", "-p",
		"$6$salt$IxDD3jeSOb5eB1CX5LBsqZFVkJdido3OUILO5Ifz5iwMuTS4XMS130MTSuDDl3aCI6WouIL9AjRbLCelDCy.g.", "alice")
	agenttest.Run(t, h.root, "useradd", "-m", "-p", "*", "free")
	agenttest.Write(t, h.root, "/etc/sudoers.d/local", "alice ALL=(ALL) ALL\nfree ALL=(ALL) NOPASSWD: ALL\n")
	h.setUp(agentapi.Account{Name: "member", Sudo: true}, agentapi.Account{Name: "reader"})
	alice := h.visitor(7, "alice", "free")
	bob, carol := h.visitor(1, "member"), h.visitor(2, "member", "reader")

	bob.expect("member", forward, "sudo id -u", "0")
	bob.expect("member", forward, "sudo -n id -u", "0")
	bob.expect("member", forward, "sudo -n -i id -u", "0")
	bob.refused("member", nil, "sudo id -u", "ssh -A")
	carol.refused("reader", forward, "sudo -n id -u", "")
	// Accounts that are not Muster's, and root, have the distribution's rules.
	alice.expect("free", nil, "sudo -n id -u", "0")
	alice.expect("alice", nil, "echo password | sudo -S -p '' id -u", "0")
	alice.refused("alice", forward, "echo wrong | sudo -S -p '' id -u", "")
	if output := agenttest.Run(t, h.root, "sudo", "-n", "-u", "member", "id", "-un"); output != "member\n" {
		t.Error(output)
	}

	t.Run("another login's agent", func(t *testing.T) {
		open := bob.login("member", forward)
		theirs := open.does("echo $SSH_AUTH_SOCK")
		if got := open.does("sudo id -u"); got != "0" {
			t.Fatal(got)
		}
		if strings.HasSuffix(open.does("cat /proc/self/sessionid"), "4294967295") {
			t.Log("the kernel keeps no audit sessions: not tested")
			return
		}
		carol.refused("member", nil, "SSH_AUTH_SOCK="+theirs+" sudo id -u", "another login")
		carol.refused("reader", nil, "sudo -n id -u", "")
	})
	t.Run("lies about the agent", func(t *testing.T) {
		carol.refused("member", nil, "SSH_AUTH_SOCK=/run/nothing sudo id -u", "nothing that you may use")
		carol.refused("member", nil, "SSH_AUTH_SOCK=relative sudo id -u", "no absolute path")
		carol.refused("member", nil, "SSH_AUTH_SOCK=/etc/passwd sudo id -u", "no socket of yours")
		carol.refused("member", forward, "SSH_AUTH_SOCK=/dev/log PAM_USER=free PAM_RUSER=free sudo -u reader id -u -- -", "")
		// The session's own is found in the shell that calls sudo.
		carol.expect("member", forward, "SSH_AUTH_SOCK=/etc/passwd sudo id -u; exit $?", "0")
	})
	t.Run("revoked in an open session", func(t *testing.T) {
		open := bob.login("member", forward)
		if got := open.does("sudo id -u"); got != "0" {
			t.Fatal(got)
		}
		h.revoke(1)
		if got := open.does("sudo id -u"); !strings.Contains(got, "it is revoked") {
			t.Fatal(got)
		}
		bob.refused("member", forward, "true", "Permission denied")
		carol.expect("member", forward, "sudo id -u", "0")
	})
	t.Run("the certificate leaves the agent", func(t *testing.T) {
		open := carol.login("member", forward)
		open.does("true")
		if err := carol.keys.RemoveAll(); err != nil {
			t.Fatal(err)
		}
		if got := open.does("sudo id -u"); !strings.Contains(got, "it holds none at all") {
			t.Fatal(got)
		}
	})
	t.Run("an agent without certificates", func(t *testing.T) {
		erin, frank := h.visitor(4, "member"), h.visitor(5, "member")
		open := erin.login("member", erin.withoutCertificate())
		if got := open.does("cp $SSH_USER_AUTH kept; sudo -n id -u"); got != "0" {
			t.Fatal(got)
		}
		// Somebody else's certificate, which is no secret, helps nobody.
		theirs := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(frank.cert)))
		if got := open.does("echo 'publickey " + theirs + "' >$SSH_USER_AUTH; sudo -n id -u"); !strings.Contains(got, "it holds none at all") {
			t.Error(got)
		}
		if got := open.does("rm $SSH_USER_AUTH; mkfifo $SSH_USER_AUTH; sudo -n id -u; rm $SSH_USER_AUTH"); !strings.Contains(got, "it holds none at all") {
			t.Error(got)
		}
		// What sshd wrote counts wherever it stands.
		if got := open.does("SSH_USER_AUTH=$HOME/kept sudo -n id -u"); got != "0" {
			t.Error(got)
		}
		h.revoke(1, 4)
		if got := open.does("SSH_USER_AUTH=$HOME/kept sudo -n id -u"); !strings.Contains(got, "it is revoked") {
			t.Error(got)
		}
	})
	dave := h.visitor(3, "member", "reader")
	t.Run("without the program", func(t *testing.T) {
		if err := os.Remove(filepath.Join(h.root, program)); err != nil {
			t.Fatal(err)
		}
		dave.refused("member", forward, "sudo -n id -u", "")
		alice.expect("free", nil, "sudo -n id -u", "0")
		alice.expect("alice", nil, "echo password | sudo -S -p '' id -u", "0")
		h.copyProgram()
		dave.expect("member", forward, "sudo id -u", "0")
	})
	t.Run("without the list of accounts", func(t *testing.T) {
		if err := os.Remove(filepath.Join(h.root, AccountsFile)); err != nil {
			t.Fatal(err)
		}
		dave.refused("member", forward, "sudo -n id -u", "")
		alice.expect("alice", nil, "echo password | sudo -S -p '' id -u", "0")
	})
	t.Run("the role goes", func(t *testing.T) {
		open := dave.login("member", forward)
		open.does("true")
		h.setUp(agentapi.Account{Name: "reader", Sudo: true})
		if got := open.does("sudo -n id -u"); got == "0" {
			t.Fatal(got)
		}
		dave.refused("member", forward, "true", "")
		dave.expect("reader", forward, "sudo id -u", "0")
	})
	if _, err := h.pam.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	after, err := h.tree.Read("/etc/pam.d/sudo")
	if err != nil || !cmp.Equal(pam, after) {
		t.Fatal(string(after), err)
	}
	alice.expect("alice", nil, "echo password | sudo -S -p '' id -u", "0")
}

// TestKeyInAHome: a key that somebody left in an account of Muster's lets nobody
// in, so that it does not outlive a role; in others' it does as before.
func TestKeyInAHome(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED in short mode: it logs in")
	}
	h := newHost(t, "UsePAM yes\n")
	agenttest.Run(t, h.root, "useradd", "-m", "-p", "*", "alice")
	h.setUp(agentapi.Account{Name: "member"})
	eve := h.visitor(1)
	if err := eve.keys.Add(sshagent.AddedKey{PrivateKey: eve.key}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"alice", "member"} {
		folder := filepath.Join("/home", name, ".ssh")
		agenttest.Write(t, h.root, filepath.Join(folder, "authorized_keys"), string(ssh.MarshalAuthorizedKey(eve.cert.Key)))
		agenttest.Run(t, h.root, "chown", "-R", name+":"+name, folder)
		agenttest.Run(t, h.root, "chmod", "-R", "go=", folder)
	}
	eve.expect("alice", nil, "id -un", "alice")
	eve.refused("member", nil, "id -un", "Permission denied")
}

// TestWithoutPAM: sshd itself looks whether an account is locked or expired.
// There is a second port, too.
func TestWithoutPAM(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED in short mode: it logs in")
	}
	h := newHost(t, "UsePAM no\n")
	member, reader := agentapi.Account{Name: "member"}, agentapi.Account{Name: "reader"}
	// The network is the test's own, so that every port is free.
	second := h.port%1000 + 2000
	h.setUpWithPort(second, member, reader)
	alice := h.visitor(1, "member", "reader")
	alice.expect("member", nil, "id -un", "member")
	alice.expect("reader", nil, "id -un", "reader")
	first := h.port
	h.port = second
	alice.expect("member", nil, "id -un", "member")

	h.setUpWithPort(0, reader)
	alice.refused("reader", nil, "id -un", "Connection refused")
	h.port = first
	alice.refused("member", nil, "id -un", "Permission denied")
	alice.expect("reader", nil, "id -un", "reader")
	h.until("sshd says why", h.log, func(said string) bool { return strings.Contains(said, "Account member has expired") })
	h.setUp(member, reader)
	alice.expect("member", nil, "id -un", "member")

	byPassword := []string{"-o", "PubkeyAuthentication=no", "-o", "PreferredAuthentications=password,keyboard-interactive"}
	alice.refused("member", byPassword, "id", "Permission denied (publickey)")
}

// revoke puts serials of the user CA into the list.
func (h *host) revoke(serials ...uint64) {
	h.Helper()
	list, err := (&krl.List{Version: 1, Authorities: []krl.Authority{{Key: h.ca.PublicKey(), Serials: serials}}}).Marshal()
	if err == nil {
		err = h.sshd.SetRevoked(h.Context(), list)
	}
	if err != nil {
		h.Fatal(err)
	}
}

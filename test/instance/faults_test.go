// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package instance

import (
	"database/sql"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/muster-cloud/muster/internal/agent"
	"github.com/muster-cloud/muster/internal/agentapi"
)

// faulty is a folder with a program of the agent that fails where it is told to.
var faulty = sync.OnceValues(func() (string, error) { return build("-tags", "faults") })

// bare makes an image boot fast: without cloud-init, but with what that leaves
// behind.
func bare(root string) error {
	if err := os.WriteFile(filepath.Join(root, "etc/cloud/cloud-init.disabled"), nil, 0o644); err != nil {
		return err
	}
	return exec.Command("ssh-keygen", "-A", "-f", root).Run()
}

// read returns the agent's program.
func read(t *testing.T, from func() (string, error)) []byte {
	t.Helper()
	folder, err := from()
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(filepath.Join(folder, agentapi.Programs[runtime.GOARCH]))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// newBare makes an instance that has booted and in which the agent's program
// lies, but was never started.
func (s *site) newBare(t *testing.T, name string, from func() (string, error)) *instance {
	t.Helper()
	i := s.newInstance(t, name, bare)
	i.install(t, from)
	i.Boot(t)
	i.healthy(t)
	return i
}

// says tells, as an error, that the agent does not complain in these words.
func (i *instance) says(words string) error {
	status, err := i.status()
	if err == nil && !strings.Contains(fmt.Sprint(status.Problems), words) {
		err = fmt.Errorf("its problems are %v", status.Problems)
	}
	return err
}

// finishes fails the test unless the agent, started again, sets the machine up,
// and somebody gets in.
func (s *site) finishes(t *testing.T, i *instance, p *person) {
	t.Helper()
	i.Must(t, "systemctl", "restart", "muster-agent")
	s.finished(t, i, p)
}

func (s *site) finished(t *testing.T, i *instance, p *person) {
	t.Helper()
	i.awaitSetUp(t)
	i.healthy(t)
	p.enter(t, i.Machine, "member")
}

// newFault makes a site with one person, and a bare instance.
func newFault(t *testing.T, settings string, from func() (string, error)) (*site, *instance, *person) {
	t.Helper()
	t.Parallel()
	s := newSite(t, withAgent(t, settings))
	p := s.newPerson(t, "alice", "member")
	s.certify(t, p)
	return s, s.newBare(t, "web-1", from), p
}

// Muster is away while the machine boots: the boot script and then the agent
// wait for it.
func TestMusterAwayAtBoot(t *testing.T) {
	t.Parallel()
	s := newSite(t, withAgent(t, ""))
	alice := s.newPerson(t, "alice", "member")
	s.certify(t, alice)
	i := s.newInstance(t, "web-1", pausing)
	if err := i.PowerOn(); err != nil {
		t.Fatal(err)
	}
	i.Await(t, setUpTime, "test", "-e", "/run/paused")
	i.Unplug(t)
	i.Must(t, "touch", "/run/resumed")
	i.await(t, func() error {
		if !strings.Contains(i.Console(), "muster: cannot fetch") {
			return errors.New("the console does not tell that the agent can't be fetched")
		}
		return nil
	})
	i.healthy(t)
	i.Plug(t)
	s.finished(t, i, alice)

	// And once more with an agent that knows nothing of Muster but its address.
	i.Must(t, "systemctl", "stop", "muster-agent")
	i.Must(t, "rm", "-f", "/var/lib/muster-agent/agent.json")
	i.Unplug(t)
	i.Must(t, "systemctl", "start", "muster-agent")
	i.await(t, func() error { return i.says("muster") })
	i.healthy(t)
	alice.enter(t, i.Machine, "member") // what was set up stays in force
	i.Plug(t)
	s.finished(t, i, alice)
}

// A token that was not used in time gets no certificate, and the agent says what
// to do, if its metadata stays as it was at boot (on a config drive). Where Nova
// asks Muster each time, there is a new one.
func TestTokenExpired(t *testing.T) {
	s, i, alice := newFault(t, "", programs)
	old, err := i.vendordata2(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	i.answers(t, func([]byte) ([]byte, error) { return old, nil })
	s.expireTokens(t)
	i.Must(t, program, "install")
	i.await(t, func() error { return i.says("token") })
	i.healthy(t)
	i.answers(t, nil)
	s.finishes(t, i, alice)
}

// expireTokens makes all one-time tokens as old as they may get: a minute at
// the least, which nobody wants to wait.
func (s *site) expireTokens(t *testing.T) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(s.folder, "muster.db")+"?_pragma=busy_timeout(10000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	result, err := db.ExecContext(t.Context(), "UPDATE instance SET token_expires_at = token_created_at WHERE token_hash <> ''")
	if err != nil {
		t.Fatal(err)
	}
	if n, err := result.RowsAffected(); err != nil || n == 0 {
		t.Fatalf("%d tokens are over now: %v", n, err)
	}
}

// On a full disk nothing is half done, and everything is once there is room.
func TestFullDisk(t *testing.T) {
	s, i, alice := newFault(t, "", programs)
	fill := func() { _, _ = i.Run(t.Context(), "sh", "-c", "cat /dev/zero >/var/filler") }
	before := i.Tree(t)
	fill()
	if output, err := i.Run(t.Context(), program, "install"); err == nil {
		t.Errorf("installed on a full disk: %s", output)
	} else if !strings.Contains(err.Error(), "full") {
		t.Errorf("it does not say why: %v", err)
	}
	i.healthy(t)
	i.Must(t, "rm", "/var/filler")
	for _, difference := range before.Differences(i.Tree(t), append(logs, "/var/lib/muster-agent", "/var/filler")...) {
		t.Error(difference)
	}
	i.Must(t, program, "install")
	s.finished(t, i, alice)

	// It fills up later: what there is goes on, and what is new comes afterwards.
	fill()
	bob := s.newPerson(t, "bob", "gardener")
	i.await(t, func() error { return i.says("full") })
	i.healthy(t)
	alice.enter(t, i.Machine, "member")
	i.Must(t, "rm", "/var/filler")
	i.Must(t, "systemctl", "restart", "muster-agent")
	s.recertify(t, i, bob, "gardener")
}

// A configuration that sshd refuses already is left alone until somebody mends
// it.
func TestBrokenConfiguration(t *testing.T) {
	s, i, alice := newFault(t, "", programs)
	config := filepath.Join(i.Root, "etc/ssh/sshd_config")
	good, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	bad := append(slices.Clone(good), "NoSuchOption yes\n"...)
	if err := os.WriteFile(config, bad, 0o644); err != nil {
		t.Fatal(err)
	}
	i.Must(t, program, "install")
	i.await(t, func() error { return i.says("NoSuchOption") })
	if now, err := os.ReadFile(config); err != nil || string(now) != string(bad) {
		t.Errorf("the agent changed it: %v", err)
	}
	if left := i.Must(t, "ls", "/etc/ssh/sshd_config.d"); left != "" {
		t.Errorf("the agent wrote %s", left)
	}
	if err := os.WriteFile(config, good, 0o644); err != nil {
		t.Fatal(err)
	}
	s.finishes(t, i, alice)
}

// Nothing can be written to /etc.
func TestReadOnly(t *testing.T) {
	s, i, alice := newFault(t, "", programs)
	i.Must(t, program, "install", "--start=false")
	i.Must(t, "sh", "-c", "mount --bind /etc /etc && mount -o remount,bind,ro /etc")
	i.Must(t, "systemctl", "daemon-reload")
	i.Must(t, "systemctl", "start", "muster-agent")
	i.await(t, func() error { return i.says("read-only") })
	i.healthy(t)
	i.Must(t, "umount", "/etc")
	s.finishes(t, i, alice)
}

// The clock was never set: certificates would not be valid yet.
func TestClockIn1970(t *testing.T) {
	s, i, alice := newFault(t, "", faulty)
	i.Must(t, "sh", "-c", "printf 1970-01-01T00:00:42Z >/run/muster-agent-clock")
	i.Must(t, program, "install")
	i.await(t, func() error { return i.says("1970") })
	i.healthy(t)
	i.Must(t, "rm", "/run/muster-agent-clock")
	s.finished(t, i, alice)
}

// The power fails while the machine is being set up.
func TestPowerFailure(t *testing.T) {
	s, i, alice := newFault(t, "", programs)
	i.Must(t, program, "install")
	i.await(t, func() error {
		_, err := os.Stat(filepath.Join(i.Root, "etc/ssh/muster/revoked_keys"))
		return err
	})
	if err := i.PowerOff(); err != nil {
		t.Fatal(err)
	}
	i.Boot(t)
	s.finished(t, i, alice)
}

// The agent is killed before each step that changes a file, one after the other.
// sshd can start at any time, and the next agent finishes.
func TestKilledAtAnyStep(t *testing.T) {
	t.Parallel()
	s := newSite(t, withAgent(t, "[vendordata]\npam_sudo = true\nsudo_roles = webadmin\n"))
	alice := s.newPerson(t, "alice", "member")
	s.certify(t, alice)
	const machines = 3 // that share the steps
	var steps atomic.Int64
	t.Run("steps", func(t *testing.T) {
		for n := range machines {
			t.Run(fmt.Sprintf("%d of %d", n+1, machines), func(t *testing.T) {
				t.Parallel()
				i := s.newBare(t, fmt.Sprintf("web-%d", n+1), faulty)
				i.link(t, program, kept)
				untouched := i.Tree(t)
				for step := n + 1; i.killedAt(t, step); step += machines {
					steps.Add(1)
					i.Must(t, program, "once", "--wait", setUpTime.String())
					i.healthy(t)
					// These take long, and steps beside each other are alike.
					seldom := step%5 == 1
					if seldom {
						alice.enter(t, i.Machine, "member")
					}
					i.Must(t, program, "uninstall")
					i.link(t, kept, program)
					if !seldom {
						continue
					}
					for _, difference := range untouched.Differences(i.Tree(t), logs...) {
						t.Errorf("after the kill at step %d: %s", step, difference)
					}
				}
			})
		}
	})
	t.Logf("killed at %d steps", steps.Load())
	if steps.Load() < 20 {
		t.Errorf("there were only %d steps", steps.Load())
	}
}

// killedAt runs an agent that is killed before the step, and tells whether it
// came that far.
func (i *instance) killedAt(t *testing.T, step int) bool {
	t.Helper()
	i.Must(t, "sh", "-c", fmt.Sprintf("echo %d >/run/muster-agent-crash", step))
	_, err := i.Run(t.Context(), program, "once", "--wait", setUpTime.String())
	i.healthy(t)
	i.Must(t, "rm", "/run/muster-agent-crash")
	if err != nil && !strings.Contains(err.Error(), "killed before step") {
		t.Fatal(err)
	}
	return err != nil
}

// kept is where the program is, too, when it was uninstalled.
const kept = "/opt/muster-agent"

// link gives a file of the machine a second name. Writing the program anew would
// not do: whatever the tests start meanwhile has it open for a moment, and a
// program that is open for writing can't be started.
func (i *instance) link(t *testing.T, name, second string) {
	t.Helper()
	if err := os.Link(filepath.Join(i.Root, name), filepath.Join(i.Root, second)); err != nil {
		t.Fatal(err)
	}
}

// Host certificates that live for a minute are renewed before they end.
func TestRenewal(t *testing.T) {
	s, i, alice := newFault(t, "[ssh]\nhost_cert_lifetime = 1m\nclock_skew = 0s\n", programs)
	i.Must(t, program, "install")
	first := i.awaitSetUp(t)
	begin := time.Now()
	i.await(t, func() error {
		status, err := i.status()
		if err == nil && status.Certificates[0].Serial == first.Certificates[0].Serial {
			err = fmt.Errorf("after %v it still has certificate %d", time.Since(begin), first.Certificates[0].Serial)
		}
		return err
	})
	// sshd has the new one, too, before the first one is over.
	i.await(t, func() error {
		cert, err := i.hostCertificate(t)
		if err == nil && slices.ContainsFunc(first.Certificates, func(old agent.Certificate) bool { return old.Serial == cert.Serial }) {
			err = fmt.Errorf("sshd still shows certificate %d", cert.Serial)
		}
		return err
	})
	if end := first.Certificates[0].ValidUntil; time.Now().After(end) {
		t.Errorf("the first certificates were over at %v", end)
	}
	alice.enter(t, i.Machine, "member")
	var issued struct{ Certs []struct{ Serial uint64 } }
	s.admin.Want(t, http.StatusOK, "GET", "/v1/hostcerts", nil, &issued, "X-Auth-All-Projects", "True")
	if len(issued.Certs) < 6 {
		t.Errorf("Muster knows of %d certificates", len(issued.Certs))
	}
}

// hostCertificate is the one that the machine's sshd shows.
func (i *instance) hostCertificate(t *testing.T) (*ssh.Certificate, error) {
	var shown *ssh.Certificate
	errSeen := errors.New("seen enough")
	conn, err := ssh.Dial("tcp", net.JoinHostPort(i.Address.String(), "22"), &ssh.ClientConfig{
		HostKeyAlgorithms: []string{ssh.CertAlgoED25519v01}, Timeout: sshTimeout,
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			shown, _ = key.(*ssh.Certificate)
			return errSeen
		},
	})
	if err == nil {
		conn.Close()
		t.Fatal("nobody looked at sshd's certificate")
	}
	if shown == nil {
		return nil, err
	}
	return shown, nil
}

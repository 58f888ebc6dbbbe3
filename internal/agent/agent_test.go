// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/muster-cloud/muster/internal/agent/agenttest"
	"github.com/muster-cloud/muster/internal/agent/metadata"
	"github.com/muster-cloud/muster/internal/agent/muster"
	"github.com/muster-cloud/muster/internal/agentapi"
)

// live runs a test of an agent in a bubble of its own time.
func live(t *testing.T, test func(t *testing.T, l *life)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, newLife(t)) })
}

// settle lets time pass, and everything that is due happen.
func settle(pass time.Duration) {
	time.Sleep(pass)
	synctest.Wait()
}

func TestBoot(t *testing.T) {
	live(t, func(t *testing.T, l *life) {
		l.start()
		settle(time.Second)
		l.end()
		if len(l.host.wanted().HostCerts) != 2 || l.host.wanted().State.Version != "v1" || l.host.times() != 1 {
			t.Errorf("set up: %+v, %d times", l.host.wanted(), l.host.times())
		}
		for path, cert := range l.host.wanted().HostCerts {
			if parsed, err := muster.ParseCert(cert); err != nil || !slices.Equal(parsed.ValidPrincipals, []string{"web"}) {
				t.Errorf("%s: %v", path, err)
			}
		}
		if l.host.version(t) != 1 || l.cloud.called("hostcerts") != 1 || l.cloud.called("renew") != 0 {
			t.Errorf("list %d, calls %v", l.host.version(t), l.cloud.all())
		}
		status := l.status()
		if len(status.Problems) != 0 || len(status.Certificates) != 2 || status.InstanceID != instanceID || status.List.Version != 1 ||
			len(status.Warnings) != 1 || !slices.Equal(status.Sudoers, []string{"admin"}) || status.LastContact.IsZero() || !status.AwaySince().IsZero() {
			t.Errorf("status: %+v", status)
		}
	})
}

// TestSecrets: neither files nor the log hold the token or a password.
func TestSecrets(t *testing.T) {
	live(t, func(t *testing.T, l *life) {
		l.cloud.token, l.cloud.found.Token = "secret-token", "secret-token"
		l.cloud.found.Joining = metadata.Joining{FQDN: "web.example.com", Realm: "EXAMPLE.COM", OTP: "secret-password"}
		l.cloud.state.IPA = &agentapi.IPA{FQDN: "web.example.com", Realm: "EXAMPLE.COM"}
		l.start()
		settle(time.Minute)
		l.end()
		if len(l.host.tried()) != 1 {
			t.Fatalf("joined %d times", len(l.host.tried()))
		}
		for _, name := range []string{RecordFile, StatusFile} {
			text, err := os.ReadFile(filepath.Join(l.dir, name))
			if err != nil || strings.Contains(string(text), "secret-") {
				t.Errorf("%s: %v\n%s", name, err, text)
			}
		}
		if l.log.count("secret-") != 0 {
			t.Error("the log holds a secret")
		}
	})
}

// TestOrder: the list is there before a certificate is let in, and an empty one
// before anything else.
func TestOrder(t *testing.T) {
	live(t, func(t *testing.T, l *life) {
		l.cloud.foundErr = metadata.ErrNone
		l.start()
		settle(time.Second)
		if l.host.version(t) != 0 || l.host.times() != 0 {
			t.Errorf("list %d, configured %d times", l.host.version(t), l.host.times())
		}
		if p := l.status().problem(aboutMetadata); p == nil {
			t.Error("the status does not tell of the missing metadata")
		}
		l.cloud.do(func(c *cloud) { c.foundErr = nil })
		settle(time.Minute)
		l.end()
		if l.host.version(t) != 1 || l.host.times() != 1 {
			t.Errorf("list %d, configured %d times", l.host.version(t), l.host.times())
		}
	})
}

func TestRevocationArrivesAtOnce(t *testing.T) {
	live(t, func(t *testing.T, l *life) {
		l.start()
		settle(time.Second)
		states := l.cloud.called("state")
		l.cloud.do(func(c *cloud) { c.revoke(7) })
		settle(0)
		if l.host.version(t) != 7 {
			t.Errorf("sshd has version %d", l.host.version(t))
		}
		if l.cloud.called("state") != states {
			t.Error("the state was asked for before all replicas know the list")
		}
		settle(2 * allKnow)
		if l.cloud.called("state") != states+1 {
			t.Errorf("the state was asked for %d times, want once", l.cloud.called("state")-states)
		}
		l.end()
	})
}

// TestIdle: what an agent asks for when nothing happens.
func TestIdle(t *testing.T) {
	live(t, func(t *testing.T, l *life) {
		l.start()
		settle(time.Minute)
		before := map[string]int{"state": l.cloud.called("state"), "list": l.cloud.called("list"), "configured": l.host.times()}
		settle(6 * time.Hour)
		l.end()
		states, lists := l.cloud.called("state")-before["state"], l.cloud.called("list")-before["list"]
		if states < 300 || states > 420 || lists < 380 || lists > 450 {
			t.Errorf("in 6 hours %d states and %d lists", states, lists)
		}
		if n := l.host.times() - before["configured"]; n < 5 || n > 6 {
			t.Errorf("configured %d times in 6 hours", n)
		}
	})
}

func TestMusterAway(t *testing.T) {
	live(t, func(t *testing.T, l *life) {
		l.start()
		settle(time.Second)
		l.cloud.do(func(c *cloud) { c.away = true; c.revoke(2) })
		settle(90 * time.Minute)
		if since := l.status().AwaySince(); since.IsZero() || time.Since(since) < 88*time.Minute {
			t.Errorf("away since %v, it is %v", since, time.Now())
		}
		if l.host.version(t) != 1 || len(l.host.wanted().State.Accounts) != 2 {
			t.Error("what was there did not stay")
		}
		if n := l.log.count("Muster does not answer"); n < 1 || n > 3 {
			t.Errorf("the log says %d times that Muster is away", n)
		}
		if n := l.cloud.called("state") + l.cloud.called("list"); n > 300 {
			t.Errorf("%d requests while away", n)
		}
		// A restart changes nothing of that, not even without metadata.
		l.cloud.do(func(c *cloud) { c.foundErr = metadata.ErrNone })
		l.end()
		l.start()
		settle(time.Minute)
		if l.host.version(t) != 1 || len(l.host.wanted().HostCerts) != 2 {
			t.Errorf("after a restart: list %d, %d certificates", l.host.version(t), len(l.host.wanted().HostCerts))
		}
		l.cloud.do(func(c *cloud) { c.away = false })
		settle(2 * time.Minute)
		l.end()
		if l.host.version(t) != 2 || !l.status().AwaySince().IsZero() {
			t.Errorf("afterwards: list %d, %+v", l.host.version(t), l.status().Problems)
		}
		if l.cloud.called("hostcerts") != 1 {
			t.Errorf("the token was used %d times", l.cloud.called("hostcerts"))
		}
	})
}

func TestAwayAtBoot(t *testing.T) {
	live(t, func(t *testing.T, l *life) {
		l.cloud.away = true
		l.start()
		settle(time.Hour)
		if l.host.times() != 0 || l.status().AwaySince().IsZero() {
			t.Errorf("configured %d times", l.host.times())
		}
		l.cloud.do(func(c *cloud) { c.away = false })
		settle(2 * time.Minute)
		l.end()
		if len(l.host.wanted().HostCerts) != 2 {
			t.Error("not set up afterwards")
		}
	})
}

// TestFirstTries: who boots while Muster, or the way there, is busy must not
// wait much longer than that lasts.
func TestFirstTries(t *testing.T) {
	live(t, func(t *testing.T, l *life) {
		l.cloud.away = true
		l.start()
		settle(30 * time.Second)
		l.end()
		if n := l.cloud.called("hostcerts"); n < 8 || n > 17 {
			t.Errorf("asked %d times in the first half minute", n)
		}
	})
}

// TestBackAtOnce: a long poll that breaks off must not leave it said until the
// next one ends, or the next poll for the state, that Muster is away.
func TestBackAtOnce(t *testing.T) {
	live(t, func(t *testing.T, l *life) {
		l.start()
		settle(10 * time.Second)
		l.cloud.do(func(c *cloud) { c.away = true; c.revoke(1) })
		settle(time.Millisecond)
		l.cloud.do(func(c *cloud) { c.away = false })
		if l.status().AwaySince().IsZero() {
			t.Fatal("the long poll did not break off")
		}
		settle(2 * time.Second)
		if problems := l.status().Problems; len(problems) > 0 {
			t.Errorf("problems %v", problems)
		}
		l.cloud.do(func(c *cloud) { c.revoke(2) })
		settle(time.Millisecond)
		l.end()
		if l.host.version(t) != 2 {
			t.Error("nobody waits for the list any more")
		}
	})
}

func TestTokenRefused(t *testing.T) {
	for name, test := range map[string]struct {
		spoil func(*cloud)
		want  string
	}{
		"expired":              {func(c *cloud) { c.token = "another" }, "muster instance token " + instanceID},
		"spent on another key": {func(c *cloud) { c.spent = "another" }, "used for other host keys"},
	} {
		t.Run(name, func(t *testing.T) {
			live(t, func(t *testing.T, l *life) {
				test.spoil(l.cloud)
				l.start()
				settle(6 * time.Hour)
				if p := l.status().problem(aboutCertificates); p == nil || !strings.Contains(p.Text, test.want) {
					t.Errorf("problem: %v", p)
				}
				if n := l.cloud.called("hostcerts"); n < 10 || n > 60 {
					t.Errorf("asked %d times in 6 hours", n)
				}
				l.cloud.do(func(c *cloud) { c.token, c.spent, c.found.Token = "t2", "", "t2" })
				settle(time.Hour)
				l.end()
				if len(l.host.wanted().HostCerts) != 2 {
					t.Error("the new token was not used")
				}
			})
		})
	}
}

func TestClock(t *testing.T) {
	live(t, func(t *testing.T, l *life) {
		a := l.agent()
		a.cfg.Earliest = time.Now().Add(time.Minute) // the bubble's time goes on, and gets there
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- a.Run(ctx) }()
		settle(50 * time.Second)
		if p := l.status().problem(aboutClock); p == nil || l.cloud.called("find") != 0 {
			t.Errorf("problem %v, calls %v", p, l.cloud.all())
		}
		settle(30 * time.Second)
		if l.status().problem(aboutClock) != nil || l.host.times() != 1 {
			t.Error("not set up when the clock was right")
		}
		stop()
		<-ended
	})
}

func TestRenewal(t *testing.T) {
	live(t, func(t *testing.T, l *life) {
		l.cloud.state.PollSeconds, l.cloud.state.LongPollSeconds = 3600, agentapi.MaxWaitList
		l.start()
		settle(time.Second)
		first := l.host.wanted()
		settle(lifetime*2/3 - time.Hour)
		if l.cloud.called("renew") != 0 {
			t.Error("renewed too early")
		}
		settle(lifetime/10 + 2*time.Hour)
		for path, cert := range l.host.wanted().HostCerts {
			if cert == first.HostCerts[path] {
				t.Errorf("%s was not renewed", path)
			}
		}
		if l.cloud.called("renew") != 1 || l.cloud.called("hostcerts") != 1 {
			t.Errorf("calls: %v", l.cloud.all())
		}
		// Other names: at once, and once.
		l.cloud.do(func(c *cloud) { c.state.Version, c.state.Names = "v2", []string{"web", "192.0.2.7"} })
		settle(2 * time.Hour)
		for path, cert := range l.host.wanted().HostCerts {
			if parsed, err := muster.ParseCert(cert); err != nil || len(parsed.ValidPrincipals) != 2 {
				t.Errorf("%s: %v", path, err)
			}
		}
		settle(time.Hour)
		if l.cloud.called("renew") != 2 {
			t.Errorf("calls: %v", l.cloud.all())
		}
		// Another authority: the same.
		l.cloud.do(func(c *cloud) {
			c.hostCA = agenttest.NewSigner(t)
			c.state.Version, c.state.HostCA = "v3", agenttest.Line(c.hostCA.PublicKey())
		})
		settle(2 * time.Hour)
		for path, cert := range l.host.wanted().HostCerts {
			if parsed, err := muster.ParseCert(cert); err != nil || agenttest.Line(parsed.SignatureKey) != l.cloud.state.HostCA {
				t.Errorf("%s: %v", path, err)
			}
		}
		settle(time.Hour)
		if l.cloud.called("renew") != 3 {
			t.Errorf("calls: %v", l.cloud.all())
		}
		l.end()
	})
}

// TestNewHostKey: a key that sshd has since is certified, too.
func TestNewHostKey(t *testing.T) {
	live(t, func(t *testing.T, l *life) {
		l.start()
		settle(time.Second)
		fresh := agenttest.NewSigner(t)
		l.host.do(func(h *host) { h.signers = append(h.signers, fresh) })
		settle(fullCheck + 5*time.Minute)
		l.end()
		if len(l.host.wanted().HostCerts) != 3 || l.cloud.called("hostcerts") != 1 {
			t.Errorf("%d certificates, calls %v", len(l.host.wanted().HostCerts), l.cloud.all())
		}
	})
}

// TestOldHostKeys: those that Muster never certifies are left out, so that it
// does not refuse the others for their sake.
func TestOldHostKeys(t *testing.T) {
	number := func(bits uint) *big.Int {
		n := new(big.Int).Lsh(big.NewInt(1), bits-1)
		return n.Add(n, big.NewInt(1))
	}
	line := func(blob []byte) string {
		key, err := ssh.ParsePublicKey(blob)
		if err != nil {
			t.Fatal(err)
		}
		return agenttest.Line(key)
	}
	live(t, func(t *testing.T, l *life) {
		l.host.old = []HostKey{
			{Path: "/etc/ssh/ssh_host_dsa_key", Public: line(ssh.Marshal(struct {
				Type       string
				P, Q, G, Y *big.Int
			}{"ssh-dss", number(1024), number(160), big.NewInt(2), big.NewInt(4)}))},
			{Path: "/etc/ssh/ssh_host_rsa_key", Public: line(ssh.Marshal(struct {
				Type string
				E, N *big.Int
			}{"ssh-rsa", big.NewInt(65537), number(1024)}))},
		}
		l.start()
		settle(time.Second)
		l.end()
		if len(l.host.wanted().HostCerts) != 2 {
			t.Errorf("%d certificates", len(l.host.wanted().HostCerts))
		}
	})
}

// TestExpired: an instance that was off for longer than its certificates live.
func TestExpired(t *testing.T) {
	live(t, func(t *testing.T, l *life) {
		l.start()
		settle(time.Second)
		l.end()
		settle(2 * lifetime)
		l.start()
		settle(time.Minute)
		l.end()
		if l.cloud.called("hostcerts") != 2 || l.cloud.called("renew") != 0 {
			t.Errorf("calls: %v", l.cloud.all())
		}
		for _, cert := range l.host.wanted().HostCerts {
			if parsed, err := muster.ParseCert(cert); err != nil || !validAt(parsed, time.Now()) {
				t.Errorf("not valid: %v", err)
			}
		}
	})
}

func TestCopyOfAnotherInstance(t *testing.T) {
	live(t, func(t *testing.T, l *life) {
		l.start()
		settle(time.Second)
		l.end()
		l.cloud.do(func(c *cloud) {
			c.found.ID = "0123456789abcdef0123456789abcdef"
			c.found.Token, c.token, c.spent = "t2", "t2", ""
		})
		l.start()
		settle(time.Second)
		l.end()
		if l.cloud.called("hostcerts") != 2 || l.status().InstanceID != "0123456789abcdef0123456789abcdef" {
			t.Errorf("calls: %v", l.cloud.all())
		}
	})
}

func TestListIsRefused(t *testing.T) {
	stranger := agenttest.NewSigner(t)
	for name, test := range map[string]struct {
		spoil func(*cloud)
		text  string
	}{
		"older":                      {func(c *cloud) { c.revoke(3) }, "older"},
		"not signed":                 {func(c *cloud) { c.userCA = nil; c.list.Version = 9 }, "vouches"},
		"signed by a stranger":       {func(c *cloud) { c.userCA = stranger; c.list.Version = 9 }, "vouches"},
		"of another project":         {func(c *cloud) { c.list.Comment = instanceID; c.list.Version = 9 }, "another project"},
		"a stranger, and an old one": {func(c *cloud) { c.userCA = stranger; c.revoke(1) }, "vouches"},
	} {
		t.Run(name, func(t *testing.T) {
			live(t, func(t *testing.T, l *life) {
				l.cloud.revoke(5)
				l.start()
				settle(time.Second)
				l.cloud.do(test.spoil)
				settle(10 * time.Minute)
				l.end()
				if l.host.version(t) != 5 {
					t.Errorf("sshd has version %d", l.host.version(t))
				}
				if p := l.status().problem(aboutList); p == nil || !strings.Contains(p.Text, test.text) {
					t.Errorf("problem: %+v", p)
				}
				if n := l.cloud.called("list"); n > 40 {
					t.Errorf("asked %d times in 10 minutes", n)
				}
			})
		})
	}
}

// TestRotation: a list signed by a new user CA is taken as soon as the state
// names it, and then both are trusted.
func TestRotation(t *testing.T) {
	live(t, func(t *testing.T, l *life) {
		l.start()
		settle(time.Second)
		fresh := agenttest.NewSigner(t)
		l.cloud.do(func(c *cloud) {
			c.userCA = fresh
			c.state.Version, c.state.UserCAs = "v2", append(slices.Clone(c.state.UserCAs), agenttest.Line(fresh.PublicKey()))
			c.revoke(2)
		})
		settle(2 * time.Second)
		if l.host.version(t) != 2 || len(l.host.wanted().State.UserCAs) != 2 {
			t.Errorf("list %d, %d user CAs", l.host.version(t), len(l.host.wanted().State.UserCAs))
		}
		l.end()
	})
}

// TestNoUserCA: while all user CAs are revoked nobody gets in, the list stays as
// it is, whoever signs another one, and the status says so. A successor ends that.
func TestNoUserCA(t *testing.T) {
	live(t, func(t *testing.T, l *life) {
		l.start()
		settle(time.Second)
		revoked, next := l.cloud.userCA, agenttest.NewSigner(t)
		for i, signer := range []ssh.Signer{nil, revoked, next} {
			l.cloud.do(func(c *cloud) {
				c.state.Version, c.state.UserCAs = "none", nil
				c.userCA = revoked
				c.revoke(uint64(i + 100))
				c.userCA = signer
			})
			settle(90 * time.Second)
			if l.host.version(t) != 1 || len(l.host.wanted().State.UserCAs) != 0 {
				t.Errorf("list %d, %d user CAs", l.host.version(t), len(l.host.wanted().State.UserCAs))
			}
			if p := l.status().problem(aboutList); p == nil || !strings.Contains(p.Text, "muster authority rotate user") {
				t.Errorf("problem: %+v", p)
			}
		}
		l.cloud.do(func(c *cloud) {
			c.state.Version, c.state.UserCAs = "v3", []string{agenttest.Line(next.PublicKey())}
			c.revoke(2)
			c.userCA = next
		})
		for l.host.wanted().State.Version != "v3" { // the list comes right behind the state
			settle(time.Second)
		}
		if l.host.version(t) != 2 {
			t.Errorf("list %d", l.host.version(t))
		}
		l.end()
		if problems := l.status().Problems; len(problems) != 0 {
			t.Errorf("problems: %+v", problems)
		}
	})
}

func TestListSurvivesRestart(t *testing.T) {
	live(t, func(t *testing.T, l *life) {
		l.cloud.revoke(5)
		l.start()
		settle(time.Second)
		l.end()
		l.cloud.do(func(c *cloud) { c.revoke(3) })
		l.start()
		settle(time.Minute)
		l.end()
		if l.host.version(t) != 5 {
			t.Errorf("the version went back to %d", l.host.version(t))
		}
		// A damaged file must not keep everybody out, nor be taken for a list.
		l.host.do(func(h *host) { h.revoked = []byte("half") })
		l.start()
		settle(time.Minute)
		l.end()
		if l.host.version(t) != 3 {
			t.Errorf("version %d", l.host.version(t))
		}
	})
}

func TestMachineFails(t *testing.T) {
	live(t, func(t *testing.T, l *life) {
		l.start()
		settle(time.Second)
		l.host.do(func(h *host) { h.fail = errors.New("sshd_config.d: the disk is full: make room") })
		l.cloud.do(func(c *cloud) { c.state.Version, c.state.Accounts = "v2", nil; c.revoke(2) })
		settle(10 * time.Minute)
		for _, about := range []string{aboutMachine, aboutList} {
			if p := l.status().problem(about); p == nil || !strings.Contains(p.Text, "make room") {
				t.Errorf("%s: %+v", about, p)
			}
		}
		l.host.do(func(h *host) { h.fail = nil })
		settle(2 * time.Minute)
		l.end()
		if l.host.version(t) != 2 || l.host.wanted().State.Version != "v2" || len(l.status().Problems) != 0 {
			t.Errorf("list %d, state %s, problems %v", l.host.version(t), l.host.wanted().State.Version, l.status().Problems)
		}
	})
}

// TestMachineWarnsAndFails: what the image keeps back is told, also while something
// else is wrong with the machine.
func TestMachineWarnsAndFails(t *testing.T) {
	live(t, func(t *testing.T, l *life) {
		l.host.do(func(h *host) { h.shut = errors.New("sshd's algorithms do not fit") })
		l.start()
		settle(time.Minute)
		l.end()
		status := l.status()
		if n := l.host.times(); n < 2 {
			t.Errorf("it tried %d times", n)
		}
		if status.problem(aboutMachine) == nil || !slices.Equal(status.Warnings, []string{"the image has its own mind"}) || !status.ConfiguredAt.IsZero() {
			t.Errorf("%+v", status)
		}
	})
}

// TestFullDisk: without a place to write, the agent goes on with what it has in
// memory.
func TestFullDisk(t *testing.T) {
	live(t, func(t *testing.T, l *life) {
		a := l.agent()
		a.cfg.StateDir = filepath.Join(l.dir, "missing")
		ctx, stop := context.WithTimeout(t.Context(), time.Minute)
		defer stop()
		if err := a.Run(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if l.host.times() != 1 || l.status().problem(aboutRecord) == nil {
			t.Errorf("configured %d times, problems %v", l.host.times(), l.status().Problems)
		}
	})
}

// TestFullDiskIsCleared: what could not be written down is, soon after there is
// a place again.
func TestFullDiskIsCleared(t *testing.T) {
	live(t, func(t *testing.T, l *life) {
		a := l.agent()
		a.cfg.StateDir = filepath.Join(l.dir, "missing")
		ctx, stop := context.WithTimeout(t.Context(), 10*time.Minute)
		defer stop()
		time.AfterFunc(5*time.Minute, func() {
			if err := os.Mkdir(a.cfg.StateDir, 0o700); err != nil {
				t.Error(err)
			}
		})
		if err := a.Run(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if problems := l.status().Problems; len(problems) != 0 {
			t.Errorf("problems %v", problems)
		}
		var kept record
		if err := kept.load(a.cfg.StateDir); err != nil || kept.State.Version != "v1" || len(kept.Certs) != 2 {
			t.Errorf("kept %+v, %v", kept.State, err)
		}
	})
}

func TestHostKeyNoLongerAccepted(t *testing.T) {
	live(t, func(t *testing.T, l *life) {
		l.start()
		settle(time.Second)
		// The instance was rebuilt in Muster's eyes: its certificates are revoked, and there is a new token.
		l.cloud.do(func(c *cloud) {
			c.certs = map[string]string{}
			c.token, c.spent, c.found.Token = "t2", "", "t2"
		})
		settle(3 * time.Minute)
		l.end()
		if l.cloud.called("hostcerts") != 2 || len(l.status().Problems) != 0 {
			t.Errorf("calls %v, problems %v", l.cloud.calls, l.status().Problems)
		}
	})
}

func TestInstanceDeleted(t *testing.T) {
	live(t, func(t *testing.T, l *life) {
		l.start()
		settle(time.Second)
		l.cloud.do(func(c *cloud) { c.refuse = http.StatusNotFound })
		settle(6 * time.Hour)
		l.end()
		if p := l.status().problem(aboutState); p == nil {
			t.Errorf("problems %v", l.status().Problems)
		}
		if n := l.cloud.called("state"); n > 60 {
			t.Errorf("asked %d times in 6 hours", n)
		}
	})
}

func TestJoin(t *testing.T) {
	live(t, func(t *testing.T, l *life) {
		l.start()
		settle(time.Second)
		if len(l.host.tried()) != 0 {
			t.Error("joined unasked")
		}
		// It is to be joined, but FreeIPA has no password yet.
		l.cloud.do(func(c *cloud) {
			c.state.Version, c.state.IPA = "v2", &agentapi.IPA{FQDN: "web.example.com", Realm: "EXAMPLE.COM"}
			c.found.Joining = metadata.Joining{FQDN: "web.example.com", Realm: "EXAMPLE.COM"}
		})
		settle(2 * time.Minute)
		if p := l.status().problem(aboutJoining); p == nil || len(l.host.tried()) != 0 {
			t.Errorf("problem %v, joins %v", p, l.host.tried())
		}
		// Now there is, but ipa-client-install fails, for a while.
		l.cloud.do(func(c *cloud) { c.found.Joining.OTP = "otp1" })
		l.host.do(func(h *host) { h.joinErr = errors.New("no route to ipa.example.com") })
		settle(30 * time.Minute)
		if n := len(l.host.tried()); n < 3 || n > 8 {
			t.Errorf("tried %d times", n)
		}
		if !slices.Equal(l.cloud.told(), []string{"failed no route to ipa.example.com"}) {
			t.Errorf("reports: %q", l.cloud.told())
		}
		l.host.do(func(h *host) { h.joinErr, h.joins = nil, nil })
		l.cloud.do(func(c *cloud) { c.found.Joining.OTP = "otp2" })
		settle(time.Hour)
		l.end()
		if !slices.Equal(l.host.tried(), []string{"web.example.com otp2"}) {
			t.Errorf("joins: %v", l.host.tried())
		}
		if got := l.cloud.told()[len(l.cloud.told())-1]; got != "enrolled" || l.status().IPA.Outcome != "enrolled" {
			t.Errorf("reported %q, status %+v", got, l.status().IPA)
		}
		if p := l.status().problem(aboutJoining); p != nil {
			t.Errorf("problem: %+v", p)
		}
	})
}

// TestJoinPauses: between two tries to join there is a pause from the first one
// on, whatever changes meanwhile.
func TestJoinPauses(t *testing.T) {
	live(t, func(t *testing.T, l *life) {
		l.cloud.state.IPA = &agentapi.IPA{FQDN: "web.example.com", Realm: "EXAMPLE.COM"}
		l.cloud.found.Joining = metadata.Joining{FQDN: "web.example.com", Realm: "EXAMPLE.COM", OTP: "otp"}
		l.host.joinErr = errors.New("no route to ipa.example.com")
		l.start()
		settle(time.Second)
		for version := range uint64(8) {
			// A new list makes the agent ask for the state, too.
			l.cloud.do(func(c *cloud) { c.state.Version = fmt.Sprint("changed ", version); c.revoke(version + 2) })
			settle(time.Second)
		}
		if n := len(l.host.tried()); n != 1 {
			t.Errorf("tried %d times in the first 9 s", n)
		}
		settle(2 * time.Second)
		l.end()
		if n := len(l.host.tried()); n != 2 {
			t.Errorf("tried %d times in the first 11 s", n)
		}
	})
}

// TestJoinedReportIsLate: that Muster was away when the machine had joined does
// not make it join again.
func TestJoinedReportIsLate(t *testing.T) {
	live(t, func(t *testing.T, l *life) {
		l.host.joined = true
		l.cloud.state.IPA = &agentapi.IPA{FQDN: "web.example.com"}
		l.start()
		settle(time.Minute)
		l.end()
		if len(l.host.tried()) != 0 || !slices.Equal(l.cloud.told(), []string{"enrolled"}) {
			t.Errorf("joins %v, reports %v", l.host.tried(), l.cloud.told())
		}
	})
}

func TestOnce(t *testing.T) {
	live(t, func(t *testing.T, l *life) {
		if err := l.agent().Once(t.Context()); err != nil {
			t.Fatal(err)
		}
		if l.host.times() != 1 || l.host.version(t) != 1 {
			t.Errorf("configured %d times, list %d", l.host.times(), l.host.version(t))
		}
		if err := l.agent().Once(t.Context()); err != nil {
			t.Fatal(err)
		}
		if l.cloud.called("hostcerts") != 1 {
			t.Errorf("calls: %v", l.cloud.all())
		}
		l.cloud.do(func(c *cloud) { c.away = true })
		ctx, stop := context.WithTimeout(t.Context(), time.Minute)
		defer stop()
		err := l.agent().Once(ctx)
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "no answer from Muster") {
			t.Errorf("got %v", err)
		}
	})
}

// held is a log that tells whether an agent's lock is held while it is written.
type held struct {
	slog.Handler
	agent func() *Agent
	times int
}

func (h *held) Enabled(context.Context, slog.Level) bool { return true }

func (h *held) Handle(context.Context, slog.Record) error {
	h.look()
	return nil
}

func (h *held) look() {
	if a := h.agent(); a != nil && !a.mu.TryLock() {
		h.times++
	} else if a != nil {
		a.mu.Unlock()
	}
}

// TestNothingIsHeld: what needs the agent's lock, as a revocation does, waits
// neither for the machine nor for the log.
func TestNothingIsHeld(t *testing.T) {
	live(t, func(t *testing.T, l *life) {
		var a *Agent
		watch := &held{Handler: slog.DiscardHandler, agent: func() *Agent { return a }}
		a = l.agent()
		a.log = slog.New(watch)
		l.host.asked = watch.look
		l.cloud.away = true
		time.AfterFunc(time.Minute, func() { l.cloud.do(func(c *cloud) { c.away = false }) })
		// Once is one goroutine: who holds the lock is the one that looks.
		if err := a.Once(t.Context()); err != nil || l.host.times() != 1 {
			t.Error(err, l.host.times())
		}
		if watch.times > 0 {
			t.Errorf("the lock was held %d times", watch.times)
		}
	})
}

func TestDamagedRecord(t *testing.T) {
	live(t, func(t *testing.T, l *life) {
		if err := os.WriteFile(filepath.Join(l.dir, RecordFile), []byte(`{"identity": {"id": "`), 0o600); err != nil {
			t.Fatal(err)
		}
		l.start()
		settle(time.Second)
		l.end()
		if l.host.times() != 1 {
			t.Error("not set up")
		}
	})
}

func TestRetryAfter(t *testing.T) {
	err := &muster.Refusal{Status: http.StatusTooManyRequests, RetryAfter: 90 * time.Second}
	for range 100 {
		if pause := pauseAfter(err, 0); pause < 90*time.Second || pause > 92*time.Second {
			t.Fatalf("pause %v", pause)
		}
	}
}

// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package converge_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/muster-cloud/muster/internal/converge"
	"github.com/muster-cloud/muster/internal/custody"
	"github.com/muster-cloud/muster/internal/devcloud/freeipa"
	"github.com/muster-cloud/muster/internal/enroll"
	"github.com/muster-cloud/muster/internal/ipa"
	"github.com/muster-cloud/muster/internal/sshca"
	"github.com/muster-cloud/muster/internal/store"
	"github.com/muster-cloud/muster/test/mortal"
)

// What a replica changes things by.
type (
	mortalAuthority struct {
		converge.Authority
		death *mortal.Death
	}
	mortalRecords struct {
		converge.Records
		death *mortal.Death
	}
	mortalEnrolments struct {
		converge.Enrolments
		death *mortal.Death
	}
	mortalPending struct {
		converge.Pending
		death *mortal.Death
	}
)

func (m mortalAuthority) Revoke(ctx context.Context, by sshca.Actor, order store.RevocationOrder) (result store.RevocationResult, err error) {
	err = m.death.Step("revoke", func() error {
		result, err = m.Authority.Revoke(ctx, by, order)
		return err
	})
	return result, err
}

func (m mortalAuthority) RevokeUser(ctx context.Context, by sshca.Actor, userID, reason string) (n int, err error) {
	err = m.death.Step("revoke user", func() error {
		n, err = m.Authority.RevokeUser(ctx, by, userID, reason)
		return err
	})
	return n, err
}

func (m mortalAuthority) ProjectGone(ctx context.Context, by sshca.Actor, projectID, reason string, grace time.Duration) error {
	return m.death.Step("project gone", func() error { return m.Authority.ProjectGone(ctx, by, projectID, reason, grace) })
}

func (m mortalAuthority) DeleteInstance(ctx context.Context, by sshca.Actor, id, reason string) error {
	return m.death.Step("delete instance", func() error { return m.Authority.DeleteInstance(ctx, by, id, reason) })
}

func (m mortalAuthority) RenewForRebuild(ctx context.Context, by sshca.Actor, id string, rebuild sshca.Rebuild) error {
	return m.death.Step("renew token", func() error { return m.Authority.RenewForRebuild(ctx, by, id, rebuild) })
}

func (m mortalEnrolments) Leave(ctx context.Context, id string) error {
	return m.death.Step("leave", func() error { return m.Enrolments.Leave(ctx, id) })
}

func (m mortalEnrolments) Rebuild(ctx context.Context, id string, at time.Time) error {
	return m.death.Step("rebuild", func() error { return m.Enrolments.Rebuild(ctx, id, at) })
}

func (m mortalEnrolments) Update(ctx context.Context, id string, metadata map[string]string) error {
	return m.death.Step("update", func() error { return m.Enrolments.Update(ctx, id, metadata) })
}

func (m mortalRecords) SeeRebuild(ctx context.Context, id string, at time.Time) error {
	return m.death.Step("see rebuild", func() error { return m.Records.SeeRebuild(ctx, id, at) })
}

func (m mortalRecords) ForgetRebuild(ctx context.Context, id string) error {
	return m.death.Step("forget rebuild", func() error { return m.Records.ForgetRebuild(ctx, id) })
}

func (m mortalPending) DeferKey(ctx context.Context, key store.PendingKey) error {
	return m.death.Step("defer key", func() error { return m.Pending.DeferKey(ctx, key) })
}

func (m mortalPending) ClaimKey(ctx context.Context, key store.PendingKey, until time.Time) (claimed bool, err error) {
	err = m.death.Step("claim key", func() error {
		claimed, err = m.Pending.ClaimKey(ctx, key, until)
		return err
	})
	return claimed, err
}

func (m mortalPending) SettleKey(ctx context.Context, key store.PendingKey, until time.Time) error {
	return m.death.Step("settle key", func() error { return m.Pending.SettleKey(ctx, key, until) })
}

// directoryWorld is a world with a FreeIPA, in which two instances of a person
// are enrolled, and a host that Muster did not make.
type directoryWorld struct {
	*world
	p            person
	ours, theirs string // instances
	certificate  store.UserCert
	keyring      *custody.Keyring
	client       *ipa.Client
}

func newDirectoryWorld(t *testing.T) *directoryWorld {
	t.Helper()
	w := &directoryWorld{world: newWorldWith(t, &freeipa.Config{Domain: "example.test", Passwords: map[string]string{ipaUser: "secret"}})}
	if err := errors.Join(w.cloud.FreeIPA.GrantHostManagement(ipaUser), w.cloud.FreeIPA.AddHost("foreign.example.test", ""),
		w.cloud.FreeIPA.AddService("HTTP/foreign.example.test")); err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(w.cloud.FreeIPA.CA())
	_, port, _ := strings.Cut(w.cloud.FreeIPAAddress(), ":")
	var err error
	if w.client, err = ipa.New(ipa.Config{Servers: []string{"localhost:" + port}, RootCAs: pool, Password: &ipa.Password{User: ipaUser, Password: "secret"},
		DialTimeout: patience, LoginTimeout: patience, Timeout: patience}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.client.Close)
	if w.keyring, err = custody.ParseKeyring(strings.NewReader(custody.NewMasterKey())); err != nil {
		t.Fatal(err)
	}
	w.p, _ = w.newPerson()
	w.ask("PUT", "/projects/"+w.p.project+"/users/"+w.p.user+"/roles/"+w.role("member"), nil)
	w.certificate = w.issue(w.p)
	w.ours, w.theirs = w.boot(w.p), w.boot(w.p)
	return w
}

// enrol lets both instances join, and use their tokens.
func (w *directoryWorld) enrol() {
	w.t.Helper()
	r := w.replica(mortal.None())
	defer r.stop()
	for id, name := range map[string]string{w.ours: "ours", w.theirs: "theirs"} {
		answer, err := r.enrolment.Enrol(w.t.Context(), enroll.Actor{}, w.request(id, name))
		if err != nil || answer.OTP == "" {
			w.t.Fatal(answer, err)
		}
		if err := w.cloud.FreeIPA.Join(answer.FQDN, answer.OTP); err != nil {
			w.t.Fatal(err)
		}
		// It looks for a second at the most, and a busy machine may take longer.
		for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
			e, err := r.enrolment.Report(w.t.Context(), enroll.Actor{}, enroll.Report{InstanceID: id, Joined: true})
			if err == nil && e.State == store.EnrolmentEnrolled {
				break
			}
			if err != nil || time.Now().After(deadline) {
				w.t.Fatal(e, err)
			}
		}
		w.spend(id)
	}
}

func (w *directoryWorld) request(id, name string) enroll.Request {
	return enroll.Request{InstanceID: id, ProjectID: w.p.project, ProjectName: "p", Hostname: name,
		Metadata: map[string]string{"compact_service_HTTP": `["x"]`, "managed_service_a": "HTTP/foreign.example.test"}}
}

// replica is a process.
type replica struct {
	w         *directoryWorld
	enrolment *enroll.Service
	queue     *converge.Queue
	stop      func()
}

// replica starts a process that may die.
func (w *directoryWorld) replica(d *mortal.Death) *replica {
	w.t.Helper()
	service, err := enroll.New(enroll.Config{Store: w.store, Directory: w.client, Sealer: w.keyring, Realm: "EXAMPLE.TEST",
		Rules: enroll.Rules{Domain: "example.test", Default: enroll.ProjectRules{AnyServiceHost: true}}, Now: w.clock.Now,
		AttemptTime: patience, AnswerWithin: patience, PollEvery: 5 * time.Millisecond, BackoffMin: 10 * time.Millisecond, BackoffMax: 50 * time.Millisecond})
	if err != nil {
		w.t.Fatal(err)
	}
	cfg := w.cfg
	cfg.Authority, cfg.Records, cfg.Enrolments = mortalAuthority{w.ca, d}, mortalRecords{w.store, d}, mortalEnrolments{orders{service}, d}
	controllers, err := converge.New(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	r := &replica{w: w, enrolment: service}
	r.queue, err = converge.NewQueue(converge.QueueConfig{Controller: controllers, Pending: mortalPending{w.store, d}, Now: w.clock.Now,
		Recheck: 6 * time.Second, PollInterval: 5 * time.Millisecond, FirstRetry: 10 * time.Millisecond, LastRetry: 50 * time.Millisecond})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for _, run := range []func(context.Context) error{service.Run, r.queue.Run} {
		running.Go(func() { _ = run(ctx) })
	}
	r.stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	w.t.Cleanup(r.stop)
	return r
}

// orders are an enrolment service's, as convergence gives them.
type orders struct{ service *enroll.Service }

func (o orders) Leave(ctx context.Context, id string) error {
	return o.service.Leave(ctx, enroll.Actor{}, id)
}

func (o orders) Rebuild(ctx context.Context, id string, at time.Time) error {
	return o.service.Rebuild(ctx, enroll.Actor{}, id, at)
}

func (o orders) Update(ctx context.Context, id string, metadata map[string]string) error {
	return o.service.Update(ctx, enroll.Actor{}, enroll.Update{InstanceID: id, Metadata: metadata,
		ProjectDomain: func(context.Context, string) (string, error) { return "default", nil }})
}

func (o orders) Astray(ctx context.Context, all []store.Enrolment) ([]string, error) {
	return o.service.Astray(ctx, all)
}

func (o orders) Mend(ctx context.Context, id string) error {
	return o.service.Mend(ctx, enroll.Actor{}, id)
}

func (o orders) Differs(e store.Enrolment, metadata map[string]string) bool {
	return o.service.Differs(e, metadata)
}

// deliver offers a hint to a replica, which may die of it. It tells whether the
// broker may forget the message.
func (r *replica) deliver(d *mortal.Death, hint converge.Hint) (acknowledged bool) {
	r.w.t.Helper()
	select {
	case err := <-r.queue.Offer(r.w.t.Context(), []converge.Hint{hint}):
		return err == nil
	case <-d.Dead:
		return false
	case <-time.After(patience):
		r.w.t.Fatal("the key was not worked on")
		return false
	}
}

// atEachStep lets something happen in the cloud, and a replica hear of it that
// may die. A step is whatever a controller or the queue changes.
func atEachStep(t *testing.T, minimum int, happen func(w *directoryWorld) converge.Hint, ended func(w *directoryWorld, r *replica) error) {
	t.Helper()
	mortal.AtEachStep(t, minimum, func(t *testing.T, d *mortal.Death) {
		w := newDirectoryWorld(t)
		w.enrol()
		hint := happen(w)
		first := w.replica(d)
		acknowledged := first.deliver(d, hint)
		first.stop()
		w.clock.step(time.Hour) // claims of the dead run out
		second := w.replica(mortal.None())
		if !acknowledged && !second.deliver(mortal.None(), hint) {
			t.Fatal("the redelivered message is not done with")
		}
		for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
			err := ended(w, second)
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal(err)
			}
		}
		w.foreignIntact()
	})
}

// foreignIntact fails the test unless all is there that nothing happened to.
func (w *directoryWorld) foreignIntact() {
	w.t.Helper()
	for _, name := range []string{"theirs.example.test", "theirs.x.example.test", "foreign.example.test"} {
		if _, there := w.cloud.FreeIPA.Host(name); !there {
			w.t.Errorf("the host %s is gone", name)
		}
	}
	if host, _ := w.cloud.FreeIPA.Host("theirs.example.test"); !host.HasKeytab {
		w.t.Error("another instance was cut off from FreeIPA")
	}
	for _, principal := range []string{"HTTP/theirs.x.example.test", "HTTP/foreign.example.test"} {
		if !w.hasService(principal) {
			w.t.Errorf("the service %s is gone", principal)
		}
	}
	if record, err := w.store.Instance(w.t.Context(), w.theirs); err != nil || record.Token.UsedAt.IsZero() {
		w.t.Errorf("another instance's identity: %+v, %v", record.Token, err)
	}
}

func (w *directoryWorld) hasService(principal string) bool {
	return slices.ContainsFunc(w.cloud.FreeIPA.Services(), func(s freeipa.Service) bool { return strings.HasPrefix(s.Principal, principal+"@") })
}

func (w *directoryWorld) hint() converge.Hint {
	return converge.Hint{Key: converge.Key{Kind: converge.Instance, ID: w.ours}}
}

func TestDeathWhileDeleting(t *testing.T) {
	atEachStep(t, 3, func(w *directoryWorld) converge.Hint {
		if err := w.cloud.Compute.Delete(w.ours); err != nil {
			w.t.Fatal(err)
		}
		return w.hint()
	}, func(w *directoryWorld, _ *replica) error {
		e, err := w.store.Enrolment(w.t.Context(), w.ours)
		if err != nil || e.State != store.EnrolmentGone {
			return fmt.Errorf("enrolment: %+v, %w", e, err)
		}
		for _, name := range []string{"ours.example.test", "ours.x.example.test"} {
			if _, there := w.cloud.FreeIPA.Host(name); there || w.hasService("HTTP/"+name) {
				return fmt.Errorf("%s is left in FreeIPA", name)
			}
		}
		if _, err := w.store.Instance(w.t.Context(), w.ours); !errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("the SSH identity is left: %w", err)
		}
		return w.nothingPending()
	})
}

func TestDeathWhileRevoking(t *testing.T) {
	atEachStep(t, 2, func(w *directoryWorld) converge.Hint {
		w.ask("DELETE", "/projects/"+w.p.project+"/users/"+w.p.user+"/roles/"+w.role("member"), nil)
		return converge.Hint{Key: converge.GrantKey(w.p.user, w.p.project)}
	}, func(w *directoryWorld, _ *replica) error {
		if live := w.live(w.p); len(live) > 0 {
			return fmt.Errorf("certificates are left: %v", live)
		}
		return w.nothingPending()
	})
}

func TestDeathWhileRebuilding(t *testing.T) {
	atEachStep(t, 4, func(w *directoryWorld) converge.Hint {
		w.clock.step(time.Minute)
		if err := w.cloud.Compute.Rebuild(w.ours); err != nil {
			w.t.Fatal(err)
		}
		hint := w.hint()
		hint.Rebuilt = true
		return hint
	}, func(w *directoryWorld, r *replica) error {
		record, err := w.store.Instance(w.t.Context(), w.ours)
		if err != nil || !record.Token.UsedAt.IsZero() {
			return fmt.Errorf("no new token: %+v, %w", record.Token, err)
		}
		if host, _ := w.cloud.FreeIPA.Host("ours.example.test"); host.HasKeytab || !host.HasPassword {
			return fmt.Errorf("no new one-time password: %+v", host)
		}
		if err := w.nothingPending(); err != nil {
			return err
		}
		// Now the instance comes up again, and the news once more.
		answer, err := r.enrolment.Enrol(w.t.Context(), enroll.Actor{}, w.request(w.ours, "ours"))
		if err != nil || answer.OTP == "" {
			return fmt.Errorf("no password in the answer: %w", err)
		}
		again := w.hint()
		again.Rebuilt = true
		if !r.deliver(mortal.None(), again) {
			w.t.Error("the message that came again is not done with")
		}
		if err := w.cloud.FreeIPA.Join("ours.example.test", answer.OTP); err != nil {
			w.t.Errorf("the rebuilt instance cannot join: %v", err)
		}
		w.spend(w.ours)
		return nil
	})
}

func TestDeathWhileUpdating(t *testing.T) {
	atEachStep(t, 1, func(w *directoryWorld) converge.Hint {
		if err := w.cloud.Compute.SetMetadata(w.ours, map[string]string{"compact_service_mysql": `["y"]`}); err != nil {
			w.t.Fatal(err)
		}
		return w.hint()
	}, func(w *directoryWorld, _ *replica) error {
		if !w.hasService("mysql/ours.y.example.test") || !w.hasService("HTTP/ours.x.example.test") {
			return errors.New("a service is missing")
		}
		if e, err := w.store.Enrolment(w.t.Context(), w.ours); err != nil || e.State != store.EnrolmentEnrolled {
			return fmt.Errorf("enrolment: %+v, %w", e, err)
		}
		return w.nothingPending()
	})
}

func TestDeathWhileAProjectGoes(t *testing.T) {
	atEachStep(t, 2, func(w *directoryWorld) converge.Hint {
		w.disable("project", w.p.project)
		return converge.Hint{Key: converge.Key{Kind: converge.Project, ID: w.p.project}}
	}, func(w *directoryWorld, _ *replica) error {
		if live := w.live(w.p); len(live) > 0 {
			return fmt.Errorf("certificates are left: %v", live)
		}
		if life, err := w.store.AuthorityLife(w.t.Context(), w.p.project); err != nil || life.GoneAt.IsZero() {
			return fmt.Errorf("authority: %+v, %w", life, err)
		}
		return w.nothingPending()
	})
}

// nothingPending tells of keys that failed and are not done with.
func (w *directoryWorld) nothingPending() error {
	if failed := w.pending(); len(failed) > 0 {
		return fmt.Errorf("pending: %v", failed)
	}
	return nil
}

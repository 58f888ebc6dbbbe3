// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package enroll

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/muster-cloud/muster/internal/ipa"
	"github.com/muster-cloud/muster/internal/problem"
	"github.com/muster-cloud/muster/internal/store"
)

const (
	otpBytes = 16          // 128 bits, written as 32 hex digits
	lookTime = time.Second // for a look at FreeIPA that the answer can do without
)

// Enrol records what an instance wants, waits for FreeIPA to have it, at most Config.AnswerWithin, and answers with the
// same one-time password on every replica until the instance has used it. Later calls may add services; nothing is taken
// away by one.
//
// Problems: Invalid, naming the field or metadata key; Forbidden by the project's rules; Conflict if the name belongs to
// another instance or to an entry that Muster did not make, or if the instance has left; Unavailable without a database, or
// without FreeIPA and with AnswerError.
func (s *Service) Enrol(ctx context.Context, by Actor, req Request) (Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.AnswerWithin)
	defer cancel()
	news, stop := s.board.watch(req.InstanceID)
	defer stop()
	e, err := s.record(ctx, by, req)
	if err != nil {
		return Answer{}, unavailable(err)
	}
	if s.underWay(e) {
		e = s.await(ctx, e, news)
	}
	if toJoin(e) {
		e = s.look(ctx, e)
	}
	return s.answer(ctx, by, e)
}

// unavailable makes a problem of a database that is away, or too slow for the answer's time.
func unavailable(err error) error {
	if errors.Is(err, store.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) {
		return &problem.Problem{Kind: problem.Unavailable, Reason: "the enrolment could not be recorded; try again", Cause: err}
	}
	return err
}

// record makes sure that the database has what the instance wants, and claims what is to be done at once.
func (s *Service) record(ctx context.Context, by Actor, req Request) (store.Enrolment, error) {
	e, err := s.cfg.Store.Enrolment(ctx, req.InstanceID)
	if errors.Is(err, store.ErrNotFound) {
		return s.begin(ctx, by, req)
	}
	if err != nil {
		return store.Enrolment{}, err
	}
	return s.again(ctx, by, req, e)
}

// begin records the first request of an instance.
func (s *Service) begin(ctx context.Context, by Actor, req Request) (store.Enrolment, error) {
	entry := s.audit(by, "enrolment.create", req.ProjectID, req.InstanceID)
	fqdn, err := s.cfg.Rules.fqdn(req.Hostname, req.ProjectName)
	if err != nil {
		return store.Enrolment{}, s.refuse(ctx, entry, err)
	}
	w, err := s.asked(ctx, fqdn, req)
	if err != nil {
		return store.Enrolment{}, s.refuse(ctx, entry, err)
	}
	text, err := w.encode()
	if err != nil {
		return store.Enrolment{}, err
	}
	now := s.cfg.Now()
	entry.Details = map[string]string{"fqdn": fqdn}
	e, created, err := s.cfg.Store.BeginEnrolment(ctx, s.claim(store.Enrolment{
		InstanceID: req.InstanceID, ProjectID: req.ProjectID, ProjectName: req.ProjectName, FQDN: fqdn,
		State: store.EnrolmentWanted, OTPState: store.OTPNew, OTPSealed: s.newOTP(req.InstanceID), Want: text, CreatedAt: now, NextAt: now,
	}, w), store.EnrolmentChange{Names: w.names(fqdn), Objects: w.objects(fqdn), Audit: &entry})
	if err != nil {
		return store.Enrolment{}, s.taken(ctx, entry, err)
	}
	if !created {
		return s.again(ctx, by, req, e)
	}
	s.queue.add(e.InstanceID)
	return e, nil
}

// taken turns a name that another instance owns into a recorded refusal.
func (s *Service) taken(ctx context.Context, entry store.Audit, err error) error {
	if owned, ok := errors.AsType[*store.TakenError](err); ok {
		entry.Details = map[string]string{"fqdn": owned.FQDN, "owner": owned.InstanceID}
	}
	return s.refuse(ctx, entry, s.owned(ctx, entry, err))
}

func isTaken(err error) bool {
	_, ok := errors.AsType[*store.TakenError](err)
	return ok
}

// owned tells the operator, and the caller, of a name that another instance owns. Other errors pass through.
func (s *Service) owned(ctx context.Context, entry store.Audit, err error) error {
	owned, ok := errors.AsType[*store.TakenError](err)
	if !ok {
		return err
	}
	s.metrics.nameConflicts.Inc()
	s.cfg.Logger.WarnContext(ctx, "An instance asked for the host name of another one and was refused",
		"fqdn", owned.FQDN, "instance", entry.ObjectID, "project", entry.ProjectID, "owner", owned.InstanceID)
	return problem.New(problem.Conflict, "the host name %s belongs to another instance; choose another name", owned.FQDN)
}

// again takes a later request of an instance: it may add services, and it hastens what waits. Rules that have become stricter since
// take nothing away.
func (s *Service) again(ctx context.Context, by Actor, req Request, e store.Enrolment) (store.Enrolment, error) {
	entry := s.audit(by, "enrolment.extend", req.ProjectID, req.InstanceID)
	if e.ProjectID != req.ProjectID {
		return e, s.refuse(ctx, entry, problem.New(problem.Conflict, "instance %s belongs to another project", req.InstanceID))
	}
	if e.State == store.EnrolmentLeaving || e.State == store.EnrolmentGone {
		return e, s.refuse(ctx, entry, problem.New(problem.Conflict, "instance %s has left", req.InstanceID))
	}
	asked, err := readWant(e.FQDN, req)
	if err != nil {
		return e, s.refuse(ctx, entry, err)
	}
	had, err := decodeWant(e.Want)
	if err != nil {
		return e, err
	}
	all, added := had.more(asked)
	if err := s.allowed(ctx, req, e, all, added); err != nil {
		return e, s.refuse(ctx, entry, err)
	}
	switch {
	case len(added.Services) > 0:
		saved, err := s.extend(ctx, entry, e, all)
		if isTaken(err) {
			return e, s.taken(ctx, entry, err)
		}
		if errors.Is(err, store.ErrConflict) {
			// Somebody else changed it at the same time. Nova comes again.
			return s.cfg.Store.Enrolment(ctx, e.InstanceID)
		}
		return saved, err
	case s.waits(e) && s.elapsed(e.UpdatedAt, s.cfg.BackoffMin):
		return s.hasten(ctx, e, all)
	}
	return e, nil
}

// allowed judges services that an enrolled instance is to have besides.
func (s *Service) allowed(ctx context.Context, req Request, e store.Enrolment, all, added want) error {
	if len(all.Services) > maxServices {
		return problem.New(problem.Invalid, "the instance asks for more than %d services in all", maxServices)
	}
	return s.permitted(ctx, req, added.hosts(e.FQDN))
}

// waits tells whether the next attempt is to come, and nobody works on it.
func (s *Service) waits(e store.Enrolment) bool {
	return (e.State == store.EnrolmentWanted || e.State == store.EnrolmentFailed) && !e.NextAt.IsZero() && !s.claimed(e)
}

// extend records other services. ErrConflict: somebody else has changed the enrolment.
func (s *Service) extend(ctx context.Context, entry store.Audit, e store.Enrolment, w want) (store.Enrolment, error) {
	text, err := w.encode()
	if err != nil {
		return e, err
	}
	changed := e
	changed.Want, changed.State, changed.NextAt = text, store.EnrolmentWanted, s.cfg.Now()
	if !s.claimed(e) {
		changed = s.claim(changed, w)
	}
	saved, err := s.cfg.Store.SaveEnrolment(ctx, changed,
		store.EnrolmentChange{Names: w.names(e.FQDN), Objects: w.objects(e.FQDN), Audit: &entry})
	if err != nil {
		return e, err
	}
	s.queue.add(e.InstanceID)
	return saved, nil
}

// hasten claims an enrolment that waits for its next attempt: FreeIPA may be back.
func (s *Service) hasten(ctx context.Context, e store.Enrolment, w want) (store.Enrolment, error) {
	changed := s.claim(e, w)
	changed.State, changed.NextAt = store.EnrolmentWanted, s.cfg.Now()
	saved, err := s.cfg.Store.SaveEnrolment(ctx, changed, store.EnrolmentChange{})
	if errors.Is(err, store.ErrConflict) {
		return s.cfg.Store.Enrolment(ctx, e.InstanceID)
	}
	if err != nil {
		return e, err
	}
	s.queue.add(e.InstanceID)
	return saved, nil
}

// asked reads what a new instance wants and checks all of it against the rules.
func (s *Service) asked(ctx context.Context, fqdn string, req Request) (want, error) {
	w, err := readWant(fqdn, req)
	if err != nil {
		return want{}, err
	}
	if err := s.cfg.Rules.class(w.Class, req); err != nil {
		return want{}, err
	}
	if s.protected(fqdn) {
		return want{}, problem.New(problem.Forbidden, "the host name %s is protected; choose another name", fqdn)
	}
	return w, s.permitted(ctx, req, w.hosts(fqdn))
}

// permitted checks the hosts of services against the rules.
func (s *Service) permitted(ctx context.Context, req Request, hosts []service) error {
	rules := s.cfg.Rules.of(req)
	var shared []string
	for _, host := range hosts {
		if s.protected(host.Host) {
			return problem.New(problem.Forbidden, "services on the host %s are not allowed: it is protected", host.Host)
		}
		if host.Shared && !rules.AnyServiceHost {
			if !matches(rules.ServiceHosts, host.Host) {
				return problem.New(problem.Forbidden, "services on the host %s are not allowed in project %s", host.Host, quoted(req.ProjectName))
			}
			shared = append(shared, host.Host)
		}
	}
	owners, err := s.cfg.Store.Owners(ctx, shared)
	if err != nil {
		return err
	}
	for host, owner := range owners {
		if owner.ProjectID != req.ProjectID {
			return problem.New(problem.Forbidden, "services on the host %s are not allowed: it belongs to another project", host)
		}
	}
	return nil
}

func (s *Service) protected(name string) bool {
	if matches(s.cfg.Rules.Protected, name) {
		return true
	}
	return s.cfg.Servers != nil && matches(s.cfg.Servers(), name)
}

func (s *Service) newOTP(instanceID string) []byte {
	random := make([]byte, otpBytes)
	rand.Read(random)
	return s.cfg.Sealer.Seal([]byte(hex.EncodeToString(random)), otpBinding(instanceID))
}

func (s *Service) otp(e store.Enrolment) (ipa.Secret, error) {
	otp, err := s.cfg.Sealer.Open(e.OTPSealed, otpBinding(e.InstanceID))
	if err != nil {
		return "", fmt.Errorf("open the one-time password of instance %s: %w", e.InstanceID, err)
	}
	return ipa.Secret(otp), nil
}

func otpBinding(instanceID string) string { return "one-time password " + instanceID }

// await waits until an attempt has ended. Another replica's is seen in the database: see peek.
func (s *Service) await(ctx context.Context, e store.Enrolment, news <-chan store.Enrolment) store.Enrolment {
	if e.ClaimedBy != s.replica {
		stop := s.board.ask(e.InstanceID)
		defer stop()
	}
	for {
		select {
		case e = <-news:
		case <-ctx.Done():
			return e
		}
		if !s.underWay(e) {
			return e
		}
	}
}

// underWay tells that a replica works on the enrolment.
func (s *Service) underWay(e store.Enrolment) bool {
	return e.State == store.EnrolmentWanted && s.claimed(e)
}

// look asks FreeIPA, now and then, whether an instance has joined. The answer can do without: a FreeIPA that is slow or busy keeps
// nobody waiting.
func (s *Service) look(ctx context.Context, e store.Enrolment) store.Enrolment {
	now := s.cfg.Now()
	last, known := s.looked.Get(e.InstanceID)
	if known && !s.elapsed(last, lookEvery) || !s.elapsed(e.UpdatedAt, lookEvery) {
		return e
	}
	select {
	case s.looks <- struct{}{}:
		defer func() { <-s.looks }()
	default:
		return e
	}
	latest, _, _ := s.looking.Do(e.InstanceID, func() (any, error) {
		ctx, cancel := context.WithTimeout(ctx, min(lookTime, s.cfg.AnswerWithin/2))
		defer cancel()
		s.looked.Add(e.InstanceID, now)
		return s.compare(ctx, e, true), nil
	})
	return latest.(store.Enrolment)
}

// compare records what FreeIPA says of an instance's own entry. asked: the instance gets the password that waits, if it does.
func (s *Service) compare(ctx context.Context, e store.Enrolment, asked bool) store.Enrolment {
	host, err := s.cfg.Directory.HostShow(ctx, e.FQDN)
	there := !errors.Is(err, ipa.NotFound)
	if there && err != nil {
		return e
	}
	own, err := s.ownEntry(ctx, e)
	if err != nil {
		return e
	}
	changed := e
	var learned store.EnrolmentChange
	switch {
	case !there:
		changed = s.lost(e, "somebody removed the host entry from FreeIPA; to make it anew: muster enrolment retry "+e.InstanceID)
	case !same(own.Identity, host.ID) && !madeFor(e.InstanceID, host):
		changed = s.lost(e, (&foreignError{e.FQDN, e.InstanceID}).Error())
		learned.Found = []store.Object{own}
	case host.HasKeytab && e.OTPState != store.OTPUsed:
		changed = joined(changed)
	case !host.HasKeytab && asked:
		// Whoever asks now gets a password that nobody has used: see Rebuild.
		changed.OTPReadAt = s.cfg.Now()
	case own.Identity != "" || own.State != store.ObjectMade:
		return e // there is nothing to record
	}
	if there && own.Identity == "" && own.State == store.ObjectMade {
		own.Identity = host.ID // recorded before identities were, or adopted
		learned.Made = []store.Object{own}
	}
	saved, err := s.cfg.Store.SaveEnrolment(ctx, changed, learned)
	if err != nil {
		return e
	}
	return saved
}

// ownEntry is what is recorded of the entry under the instance's own name.
func (s *Service) ownEntry(ctx context.Context, e store.Enrolment) (store.Object, error) {
	objects, err := s.cfg.Store.Objects(ctx, e.InstanceID)
	for _, o := range objects {
		if o.Kind == store.ObjectHost && o.Name == e.FQDN {
			return o, nil
		}
	}
	return store.Object{Kind: store.ObjectHost, Name: e.FQDN}, err
}

// lost is an enrolment whose entry was taken away. The password that went with it may be known to somebody: the next entry gets another.
func (s *Service) lost(e store.Enrolment, reason string) store.Enrolment {
	e.State, e.OTPState, e.LastError, e.NextAt = store.EnrolmentFailed, store.OTPNew, reason, time.Time{}
	e.OTPSealed, e.OTPReadAt = s.newOTP(e.InstanceID), time.Time{}
	return e
}

// joined is an enrolment whose one-time password is spent.
func joined(e store.Enrolment) store.Enrolment {
	if toJoin(e) {
		e.State, e.LastError = store.EnrolmentEnrolled, ""
	}
	e.OTPState, e.OTPSealed = store.OTPUsed, nil
	return e
}

// answer tells the instance what there is for it.
func (s *Service) answer(ctx context.Context, by Actor, e store.Enrolment) (Answer, error) {
	a := Answer{FQDN: e.FQDN, Realm: s.cfg.Realm}
	outcome := "pending"
	switch {
	case e.State == store.EnrolmentLeaving || e.State == store.EnrolmentGone:
		return Answer{}, problem.New(problem.Conflict, "instance %s has left", e.InstanceID)
	case e.OTPState == store.OTPUsed:
		outcome = "joined"
	case e.OTPState == store.OTPSet:
		otp, err := s.otp(e)
		if err != nil {
			return Answer{}, err
		}
		a.OTP, outcome = string(otp), "password"
	case e.State == store.EnrolmentFailed && e.NextAt.IsZero():
		entry := s.audit(by, "enrolment.create", e.ProjectID, e.InstanceID)
		return Answer{}, s.refuse(ctx, entry, problem.New(problem.Conflict, "%s", e.LastError))
	case s.cfg.OnFailure == AnswerError:
		s.metrics.answers.WithLabelValues(outcome).Inc()
		return Answer{}, problem.New(problem.Unavailable, "FreeIPA has not taken the enrolment of %s yet; it goes on, ask again", e.FQDN)
	}
	s.metrics.answers.WithLabelValues(outcome).Inc()
	return a, nil
}

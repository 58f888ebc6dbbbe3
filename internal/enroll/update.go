// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package enroll

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/muster-cloud/muster/internal/ipa"
	"github.com/muster-cloud/muster/internal/problem"
	"github.com/muster-cloud/muster/internal/store"
)

// notTaken begins the error of an enrolment whose instance names services that it does not get. The rest of the enrolment is as it was.
const notTaken = "the instance's metadata is not taken over: "

// Update is what is so of a live instance now.
type Update struct {
	InstanceID string
	Metadata   map[string]string // all of it
	// ProjectDomain tells the Keystone domain of the instance's project. It is asked only when the metadata names something new.
	ProjectDomain func(ctx context.Context, projectID string) (domainID string, err error)
}

// Update takes over the services that the metadata of an enrolled instance names now, as if it had named them at its first call. Those
// that it names no longer stay, unless Config.RemoveUnnamed is set. What is malformed or forbidden changes nothing: the reason is
// recorded with the enrolment, until the metadata is in order. An instance that never enrolled, or has left, is no error.
func (s *Service) Update(ctx context.Context, by Actor, u Update) error {
	for {
		e, err := s.cfg.Store.Enrolment(ctx, u.InstanceID)
		if errors.Is(err, store.ErrNotFound) || err == nil && (e.State == store.EnrolmentLeaving || e.State == store.EnrolmentGone) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.update(ctx, by, e, u); !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
}

// Differs tells whether Update may have anything to do: it looks at the names alone, without asking the rules.
func (s *Service) Differs(e store.Enrolment, metadata map[string]string) bool {
	named, err := readWant(e.FQDN, Request{Metadata: metadata})
	if err != nil {
		return e.LastError != notTaken+err.Error()
	}
	had, err := decodeWant(e.Want)
	if err != nil {
		return true
	}
	wanted, added := s.changed(had, named)
	return len(added.Services) > 0 || len(wanted.Services) != len(had.Services) || strings.HasPrefix(e.LastError, notTaken)
}

// changed is what an instance wants that wanted something else before, and what of that is new.
func (s *Service) changed(had, named want) (wanted, added want) {
	wanted, added = had.more(named)
	if s.cfg.RemoveUnnamed {
		wanted.Services = named.Services
	}
	return wanted, added
}

func (s *Service) update(ctx context.Context, by Actor, e store.Enrolment, u Update) error {
	req := Request{InstanceID: e.InstanceID, ProjectID: e.ProjectID, ProjectName: e.ProjectName, Metadata: u.Metadata}
	entry := s.audit(by, "enrolment.update", e.ProjectID, e.InstanceID)
	had, err := decodeWant(e.Want)
	if err != nil {
		return err
	}
	named, err := readWant(e.FQDN, req)
	if err != nil {
		return s.setRefusal(ctx, e, entry, err)
	}
	wanted, added := s.changed(had, named)
	if len(added.Services) == 0 && len(wanted.Services) == len(had.Services) {
		return s.clearRefusal(ctx, e)
	}
	if req.ProjectDomainID, err = u.ProjectDomain(ctx, e.ProjectID); err != nil {
		return err
	}
	if err := s.allowed(ctx, req, e, wanted, added); err != nil {
		return s.setRefusal(ctx, e, entry, err)
	}
	_, err = s.extend(ctx, entry, e, wanted)
	if errors.Is(err, store.ErrConflict) && !isTaken(err) {
		return err
	}
	if isTaken(err) {
		err = s.owned(ctx, entry, err)
	}
	return s.setRefusal(ctx, e, entry, err)
}

// setRefusal records that the metadata is not taken over, once for each reason. An enrolment with another trouble keeps that in its
// record. Errors other than problems pass through.
func (s *Service) setRefusal(ctx context.Context, e store.Enrolment, entry store.Audit, refusal error) error {
	if _, ok := errors.AsType[*problem.Problem](refusal); !ok {
		return refusal
	}
	text := notTaken + refusal.Error()
	if e.LastError == text || e.LastError != "" && !strings.HasPrefix(e.LastError, notTaken) {
		return nil
	}
	s.cfg.Logger.WarnContext(ctx, "An instance names services in its metadata that it does not get; see muster enrolment show",
		"instance", e.InstanceID, "fqdn", e.FQDN, "project", e.ProjectID, "reason", refusal)
	entry.Outcome, entry.Reason = "refused", refusal.Error()
	e.LastError = text
	_, err := s.cfg.Store.SaveEnrolment(ctx, e, store.EnrolmentChange{Audit: &entry})
	return err
}

// clearRefusal notes that the metadata is in order.
func (s *Service) clearRefusal(ctx context.Context, e store.Enrolment) error {
	if !strings.HasPrefix(e.LastError, notTaken) {
		return nil
	}
	e.LastError = ""
	_, err := s.cfg.Store.SaveEnrolment(ctx, e, store.EnrolmentChange{})
	return err
}

// dropUnnamed takes away what was made for services that the instance wants no longer. It is the part of remove for an instance that stays.
func (a *attempt) dropUnnamed(ctx context.Context) error {
	unnamed := a.unnamed()
	if len(unnamed) == 0 {
		return nil
	}
	if err := a.service.cfg.Store.ReleaseSome(ctx, a.e, unnamed); err != nil {
		return err
	}
	if err := a.settleAbsent(ctx, unnamed); err != nil {
		return err
	}
	byKind := make(map[store.ObjectKind][]store.Object)
	for _, o := range unnamed {
		byKind[o.Kind] = append(byKind[o.Kind], o)
	}
	if err := a.resign(ctx, byKind[store.ObjectService]); err != nil {
		return err
	}
	if err := a.removeServices(ctx, a.oursAmong(byKind[store.ObjectService])); err != nil {
		return err
	}
	if err := a.removeHosts(ctx, byKind[store.ObjectHost]); err != nil {
		return err
	}
	shared, err := a.certain(ctx, byKind[store.ObjectServiceHost])
	if err != nil {
		return err
	}
	if err := a.removeServiceHosts(ctx, shared); err != nil {
		return err
	}
	a.change.Gone = append(a.change.Gone, unnamed...)
	return nil
}

// unnamed are the recorded hosts and services that the instance does not want.
func (a *attempt) unnamed() []store.Object {
	wanted := make(map[objectKey]bool)
	for _, o := range a.want.objects(a.e.FQDN) {
		wanted[objectKey{o.Kind, o.Name}] = true
	}
	var unnamed []store.Object
	for key, o := range a.objects {
		if !wanted[key] && o.Kind != store.ObjectRecord {
			unnamed = append(unnamed, o)
		}
	}
	slices.SortFunc(unnamed, func(a, b store.Object) int { return strings.Compare(a.Name, b.Name) })
	return unnamed
}

// resign has the instance manage services no longer.
func (a *attempt) resign(ctx context.Context, services []store.Object) error {
	var commands []ipa.Command
	for _, o := range services {
		if _, host, _ := strings.Cut(o.Name, "/"); host != a.e.FQDN {
			commands = append(commands, ipa.ServiceRemoveHost(o.Name, a.e.FQDN))
		}
	}
	return a.carryOut(ctx, commands)
}

// oursAmong are the services that Muster made. One that may have been made is Muster's if its host is.
func (a *attempt) oursAmong(services []store.Object) (ours []store.Object) {
	for _, o := range services {
		_, host, _ := strings.Cut(o.Name, "/")
		own := a.objects[objectKey{store.ObjectHost, host}].State == store.ObjectMade ||
			a.objects[objectKey{store.ObjectServiceHost, host}].State == store.ObjectMade
		if o.State == store.ObjectMade || o.State == store.ObjectIntended && own {
			ours = append(ours, o)
		}
	}
	return ours
}

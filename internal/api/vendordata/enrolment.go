// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package vendordata

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/muster-cloud/muster/internal/api"
	"github.com/muster-cloud/muster/internal/enroll"
	"github.com/muster-cloud/muster/internal/keystone"
	"github.com/muster-cloud/muster/internal/openstack"
	"github.com/muster-cloud/muster/internal/policy"
	"github.com/muster-cloud/muster/internal/problem"
)

// Enroller gets instances into FreeIPA.
type Enroller interface {
	Enrol(ctx context.Context, by enroll.Actor, req enroll.Request) (enroll.Answer, error)
}

// Images tells the properties of images. Errors: openstack.ErrNotFound,
// openstack.ErrForbidden; any other means that it could not be asked.
type Images interface {
	Properties(ctx context.Context, imageID string) (map[string]string, error)
}

// Projects tells who projects are, or keystone.ErrNotFound.
type Projects interface {
	Project(ctx context.Context, projectID string) (keystone.Project, error)
}

// EnrolmentConfig is what an Enrolment is made of. All is needed.
type EnrolmentConfig struct {
	Enroller Enroller
	Images   Images
	Projects Projects
	// AnswerWithin is when a request must be answered, Keystone, Glance and
	// FreeIPA included.
	AnswerWithin time.Duration
	// Strict lets a call that asks for more than enrolment fail when only the
	// enrolment does.
	Strict bool
	Logger *slog.Logger
}

// Enrolment finds out whether an instance asks to be in FreeIPA, and what it is
// told when it does. The faces that Nova calls share it.
type Enrolment struct {
	cfg     EnrolmentConfig
	waiting atomic.Int64 // calls
}

// crowding is what each call that waits already adds to the time that a new one
// has spent before Muster saw it, and will spend when its answer is due along
// with theirs.
const crowding = 250 * time.Microsecond

// deadline is when the answer to the nth of the calls that wait must be begun,
// for it to be there in time: after nine tenths of that, and sooner in a crowd.
func (e *Enrolment) deadline(arrived time.Time, n int64) time.Time {
	within := e.cfg.AnswerWithin
	return arrived.Add(within - within/10 - min(time.Duration(n)*crowding, within/5))
}

// NewEnrolment returns an Enrolment.
func NewEnrolment(cfg EnrolmentConfig) (*Enrolment, error) {
	if cfg.Enroller == nil || cfg.Images == nil || cfg.Projects == nil || cfg.AnswerWithin <= 0 || cfg.Logger == nil {
		return nil, errors.New("vendordata: enrolment needs all its parts and a time to answer within")
	}
	return &Enrolment{cfg: cfg}, nil
}

// Joining is what an instance needs to join FreeIPA, in novajoin's words. It is
// empty for an instance that does not ask.
type Joining struct {
	FQDN  string `json:"hostname,omitempty"`
	Realm string `json:"krb_realm,omitempty"`
	OTP   string `json:"ipaotp,omitempty"`
}

// answer enrols the instance if it asks for it.
func (e *Enrolment) answer(r *api.Request, instance identified) (Joining, error) {
	n := e.waiting.Add(1)
	defer e.waiting.Add(-1)
	ctx, cancel := context.WithDeadline(r.Context(), e.deadline(r.Arrived, n))
	defer cancel()
	asked, os, err := e.asked(ctx, instance)
	if err != nil || !asked {
		return Joining{}, inTime(err)
	}
	answer, err := e.enrol(ctx, r, instance, os)
	if err != nil {
		return Joining{}, inTime(err)
	}
	return Joining{FQDN: answer.FQDN, Realm: answer.Realm, OTP: answer.OTP}, nil
}

// inTime says what to do where there was no time left to find out more.
func inTime(err error) error {
	var known *problem.Problem
	if !errors.Is(err, context.DeadlineExceeded) || errors.As(err, &known) {
		return err
	}
	return &problem.Problem{Kind: problem.Unavailable, Reason: "the enrolment could not be prepared in the time that Nova waits; read the metadata again", Cause: err}
}

// asked tells whether the instance asks: by its own metadata, else by the image
// that it was made from, which then also tells the operating system.
func (e *Enrolment) asked(ctx context.Context, instance identified) (asked bool, os string, err error) {
	if isTrue(instance.Metadata["ipa_enroll"]) {
		return true, "", nil
	}
	if instance.ImageID == "" { // booted from a volume
		e.cfg.Logger.Debug("An instance that boots from a volume does not ask for enrolment itself, and Nova names no image that could",
			"instance", instance.instance, "project", instance.project)
		return false, "", nil
	}
	properties, err := e.cfg.Images.Properties(ctx, instance.ImageID)
	switch {
	case errors.Is(err, openstack.ErrNotFound):
		return false, "", problem.InField("image-id", "the image service knows no such image")
	case errors.Is(err, openstack.ErrForbidden):
		return false, "", problem.InField("image-id", "the image service does not show this image to Muster's service user")
	case err != nil:
		return false, "", &problem.Problem{Kind: problem.Unavailable, Field: "image-id",
			Reason: "the image service could not be asked whether the image wants enrolment; try again later", Cause: err}
	}
	os = strings.TrimSpace(properties["os_distro"] + " " + properties["os_version"])
	return isTrue(properties["ipa_enroll"]), os, nil
}

func isTrue(text string) bool { return strings.EqualFold(text, "true") }

func (e *Enrolment) enrol(ctx context.Context, r *api.Request, instance identified, os string) (enroll.Answer, error) {
	project, err := e.cfg.Projects.Project(ctx, instance.project)
	if errors.Is(err, keystone.ErrNotFound) {
		return enroll.Answer{}, problem.InField("project-id", "Keystone knows no such project")
	}
	if err != nil {
		return enroll.Answer{}, err
	}
	return e.cfg.Enroller.Enrol(ctx, enroll.Actor(r.Actor()), enroll.Request{
		InstanceID: instance.instance,
		ProjectID:  instance.project, ProjectName: project.Name, ProjectDomainID: project.DomainID,
		Hostname: instance.Hostname, Metadata: instance.Metadata, OS: os,
	})
}

// beside is answer for a call that is about more than enrolment: unless the
// operator wants it strict, a failure leaves the rest alone, and the instance
// finds the reason in its metadata.
func (e *Enrolment) beside(r *api.Request, instance identified) (Joining, string, error) {
	if !r.Allowed(policy.JoinCreate, api.Object{ProjectID: instance.project}) {
		return Joining{}, "", nil
	}
	joining, err := e.answer(r, instance)
	if err == nil || e.cfg.Strict {
		return joining, "", err
	}
	e.cfg.Logger.Warn("An instance gets its SSH identity without enrolment in FreeIPA",
		"instance", instance.instance, "project", instance.project, "request_id", r.ID, "error", err)
	var refusal *problem.Problem
	if errors.As(err, &refusal) {
		return Joining{}, refusal.Error(), nil
	}
	return Joining{}, "enrolment failed; Muster's log has it under " + r.ID, nil
}

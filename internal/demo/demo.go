// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package demo plays Muster's main job from beginning to end against the
// environment of `muster dev` and the real OpenSSH: an instance boots and gets
// its SSH identity, joins FreeIPA, a user logs in, others are refused, and all
// of it ends. It uses the APIs that Nova, instances and people use, and no others.
//
// It needs no privileges and changes nothing outside a temporary folder, but
// for an empty /run/sshd when root runs it where there is none.
package demo

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/muster-cloud/muster/internal/demo/openssh"
)

// Limit is how long the whole story may take. It takes seconds, but where the
// machine has much else to do.
const Limit = 5 * time.Minute

// Config says how to play.
type Config struct {
	// Version is Muster's, for its API's description. Default "(devel)".
	Version string
	// Logger gets the logs of Muster and of the cloud. Default: discarded.
	Logger *slog.Logger
	// Observe, if given, is told of each step as soon as it has ended.
	Observe func(Step)
}

// Step is one step of the story as it went.
type Step struct {
	Name    string  `json:"name"`
	Proves  string  `json:"proves"` // what holds if the step is OK
	OK      bool    `json:"ok"`
	Found   string  `json:"found,omitempty"` // what was seen
	Error   string  `json:"error,omitempty"` // why it is not OK
	Seconds float64 `json:"seconds"`
}

// Report is the whole story as it went. After a step that failed no others
// are played, since each builds on those before.
type Report struct {
	OK      bool    `json:"ok"` // all steps were played, and held
	Steps   []Step  `json:"steps"`
	Planned int     `json:"planned"` // how many steps there are
	Seconds float64 `json:"seconds"`
}

// Play plays the story. It returns an error only if it could not begin, which
// is openssh.ErrMissing, or not clean up; what did not hold is in the report.
func Play(ctx context.Context, cfg Config) (Report, error) {
	programs, err := openssh.Find()
	if err != nil {
		return Report{}, err
	}
	s, err := newStory(cfg, programs)
	if err != nil {
		return Report{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, Limit)
	defer cancel()
	begin := time.Now()
	scenes := s.scenes()
	report := Report{OK: true, Planned: len(scenes)}
	for _, scene := range scenes {
		step := scene.play(ctx)
		report.Steps = append(report.Steps, step)
		if cfg.Observe != nil {
			cfg.Observe(step)
		}
		if !step.OK {
			report.OK = false
			break
		}
	}
	report.Seconds = time.Since(begin).Seconds()
	return report, s.end()
}

// scene is a step still to be played.
type scene struct {
	name, proves string
	act          func(context.Context) (found string, err error)
}

func (s scene) play(ctx context.Context) Step {
	begin := time.Now()
	step := Step{Name: s.name, Proves: s.proves}
	var err error
	step.Found, err = s.act(ctx)
	step.Seconds = time.Since(begin).Seconds()
	step.OK = err == nil
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		step.Error = fmt.Sprintf("the demo took longer than %v: %v", Limit, err)
	case err != nil:
		step.Error = err.Error()
	}
	return step
}

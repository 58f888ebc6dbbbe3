// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sshca

import (
	"context"
	"errors"
	"strings"
	"testing"

	"golang.org/x/sync/singleflight"
)

func TestTogetherWaitsNoLongerThanTheCallerMay(t *testing.T) {
	var group singleflight.Group
	hold := make(chan struct{})
	defer close(hold)
	ctx, cancel := context.WithCancel(t.Context())
	began := make(chan struct{})
	go func() {
		<-began
		cancel()
	}()
	_, _, err := together(ctx, &group, "", func() (int, error) {
		close(began)
		<-hold
		return 1, nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want that of the context", err)
	}
}

func TestTogetherOneWorksForAll(t *testing.T) {
	var group singleflight.Group
	hold, began := make(chan struct{}), make(chan struct{})
	type outcome struct {
		value  int
		joined bool
		err    error
	}
	outcomes := make(chan outcome, 1)
	go func() {
		value, joined, err := together(t.Context(), &group, "", func() (int, error) {
			close(began)
			<-hold
			return 1, nil
		})
		outcomes <- outcome{value, joined, err}
	}()
	<-began
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err := together(ctx, &group, "", func() (int, error) { return 2, nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("the second did not wait for the first: %v", err)
	}
	close(hold)
	if got := <-outcomes; got != (outcome{value: 1}) {
		t.Errorf("the first got %+v", got)
	}
}

func TestTogetherSurvivesAPanic(t *testing.T) {
	var group singleflight.Group
	_, _, err := together(t.Context(), &group, "", func() (int, error) { panic("broken") })
	if err == nil || !strings.Contains(err.Error(), "broken") {
		t.Errorf("error %v, want the panic's", err)
	}
}

// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"testing"

	"github.com/muster-cloud/muster/internal/keystone"
	"github.com/muster-cloud/muster/internal/policy"
	"github.com/muster-cloud/muster/internal/problem"
)

// ruled says of each token that it is for no call of Muster's but one.
type ruled struct{}

func (ruled) Validate(context.Context, string) (*keystone.Token, error) {
	return &keystone.Token{UserID: "robot", ProjectID: "blue", Roles: []string{"member"},
		AccessRules: []keystone.AccessRule{{Service: serviceType, Method: "GET", Path: "/allowed"}}}, nil
}

// Calls that no access rule allows count against the user's rate as all others do:
// a credential may have any number of rules to be looked through.
func TestAccessRulesWithinRate(t *testing.T) {
	rules, err := policy.Load("", policy.Defaults())
	if err != nil {
		t.Fatal(err)
	}
	guard := NewGuard(ruled{}, rules, nil, NewRateLimiter(0.001, 2))
	endpoint := guard.Authenticated(func(*Request) (Response, error) { return Response{}, nil })
	var kinds []problem.Kind
	for _, path := range []string{"/refused", "/refused", "/refused", "/allowed"} {
		q := httptest.NewRequestWithContext(t.Context(), "GET", path, nil)
		q.Header.Set("X-Auth-Token", "token")
		var refusal *problem.Problem
		if _, err := endpoint(&Request{Request: q}); errors.As(err, &refusal) {
			kinds = append(kinds, refusal.Kind)
		}
	}
	want := []problem.Kind{problem.Forbidden, problem.Forbidden, problem.TooMany, problem.TooMany}
	if fmt.Sprint(kinds) != fmt.Sprint(want) {
		t.Errorf("got refusals %v, want %v", kinds, want)
	}
}

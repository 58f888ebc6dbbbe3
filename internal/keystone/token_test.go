// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package keystone_test

import (
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/muster-cloud/muster/internal/keystone"
)

// answer has Keystone answer validations with a status and a body.
func (r *rig) answer(status int, body string) {
	r.intercept(func(w http.ResponseWriter, q *http.Request) bool {
		if q.Method != http.MethodGet || q.URL.Path != "/identity/v3/auth/tokens" {
			return false
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		fmt.Fprint(w, body)
		return true
	})
}

// Keystone 22 with [cache] enabled shows the expiry of a token without a time
// zone if the application credential that it was made with ends before it.
func TestExpiryWithoutZone(t *testing.T) {
	r := newRig(t, nil)
	ends := r.clock().UTC().Add(10 * time.Minute).Truncate(time.Second)
	for _, form := range []string{"2006-01-02T15:04:05", "2006-01-02T15:04:05.000000", "2006-01-02T15:04:05.000000Z"} {
		r.answer(200, `{"token": {"methods": ["application_credential"], "user": {"id": "u", "name": "x"}, "expires_at": "`+ends.Format(form)+`"}}`)
		got, err := r.Validate(t.Context(), "token-"+form[19:])
		if err != nil || !got.ExpiresAt.Equal(ends) {
			t.Errorf("%s: %+v, %v", form, got, err)
		}
	}
	r.answer(200, `{"token": {"methods": ["password"], "user": {"id": "u", "name": "x"}, "expires_at": "soon"}}`)
	r.want(t, "other", keystone.ErrUnavailable)
}

// Keystone from 2023.1 on says of a token that it is bound to a certificate
// (https://docs.openstack.org/keystone/latest/admin/oauth2-mutual-tls-usage-guide.html).
func TestBoundToken(t *testing.T) {
	r := newRig(t, nil)
	r.answer(200, `{"token": {"methods": ["oauth2_credential"], "user": {"id": "u", "name": "x"}, "expires_at": "2100-01-01T00:00:00.000000Z",
		"oauth2_credential": {"x5t#S256": "SIAuSe7xA0aY7TGGmyJ5RkZZvdnMWDjOl0bmjJnDGBY"}}}`)
	for range 3 {
		r.want(t, "token", keystone.ErrBoundToken)
	}
	if n := r.count(validation); n != 1 {
		t.Errorf("Keystone was asked %d times about one token that is refused", n)
	}
	r.step(11 * time.Second)
	r.heal() // Keystone of the rig does not know it
	r.want(t, "token", keystone.ErrInvalidToken)
}

// A 403 is about the token, unless it names what Muster may not do, or is not
// Keystone's own. The texts are those that Keystone 22 answers with, the second
// with insecure_debug.
func TestForbiddenValidation(t *testing.T) {
	for i, test := range []struct {
		body string
		want error
	}{
		{`{"error": {"code": 403, "message": "You are not authorized to perform the requested action.", "title": "Forbidden"}}`, keystone.ErrInvalidToken},
		{`{"error": {"code": 403, "message": "Trustee has no delegated roles. (Disable insecure_debug mode to suppress these details.)"}}`, keystone.ErrInvalidToken},
		{`{"error": {"code": 403, "message": "You are not authorized to perform the requested action: identity:validate_token.", "title": "Forbidden"}}`, keystone.ErrForbidden},
		{`<html>Forbidden</html>`, keystone.ErrForbidden},
		{`{"message": "blocked"}`, keystone.ErrForbidden},
	} {
		r := newRig(t, nil)
		r.answer(403, test.body)
		r.want(t, fmt.Sprint("token", i), test.want)
		if _, err := r.Validate(t.Context(), fmt.Sprint("token", i)); errors.Is(err, keystone.ErrUnavailable) != (test.want == keystone.ErrForbidden) {
			t.Errorf("%s: %v", test.body, err)
		}
	}
}

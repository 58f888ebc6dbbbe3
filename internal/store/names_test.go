// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"errors"
	"strings"
	"testing"
)

// TestLongNames: Keystone's names have up to 255 characters, of up to four
// bytes each.
func TestLongNames(t *testing.T) {
	onEach(t, func(t *testing.T, f *fixture) {
		longest := strings.Repeat("🔑", 255)
		a := Authority{ProjectID: id(1), Name: longest, CreatedAt: f.clock.Now(), Keys: []AuthorityKey{
			{ID: id(10), ProjectID: id(1), Role: RoleUser, Generation: 1, Algorithm: "ed25519", PublicKey: "A", CreatedAt: f.clock.Now(), State: KeyActive},
		}}
		if err := f.store().CreateAuthority(t.Context(), a, Audit{}); err != nil {
			t.Fatal(err)
		}
		equal(t, must(f.store().Authority(t.Context(), id(1)))(t).Name, longest)
		c := f.userCert(t, 1, 50, 1)
		c.UserName = longest
		f.insert(t, c)
		equal(t, must(f.store().UserCert(t.Context(), c.Serial))(t).UserName, longest)
		c.UserName, c.Serial = longest+"x", c.Serial+1
		isError(t, f.store().InsertUserCert(t.Context(), c, Audit{}), ErrInvalid)
	})
}

// TestErrorsInOneLine: several errors, which errors.Join puts on a line each, and an answer of FreeIPA's of two lines, are shown in lists.
func TestErrorsInOneLine(t *testing.T) {
	several := errors.Join(errors.New("first"), errors.New("No options\nCommand help\r\n"))
	const one = "first; No options; Command help"
	onEach(t, func(t *testing.T, f *fixture) {
		ctx, s := t.Context(), f.store()
		if err := s.DeferKey(ctx, PendingKey{Kind: "instance", ID: id(1), Attempts: 1, NextAt: f.clock.Now(), LastError: several.Error()}); err != nil {
			t.Fatal(err)
		}
		equal(t, must(s.FailingKey(ctx, "instance", id(1)))(t).LastError, one)
		e := f.enrolment(1, 100, "a.test")
		e.LastError = several.Error()
		stored, _, err := s.BeginEnrolment(ctx, e, EnrolmentChange{})
		isError(t, err, nil)
		equal(t, stored.LastError, one)
		equal(t, must(s.Enrolment(ctx, e.InstanceID))(t).LastError, one)
	})
}

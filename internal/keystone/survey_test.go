// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package keystone

import (
	"errors"
	"strings"
	"testing"
)

// TestReadList: a list counts only if it is whole.
func TestReadList(t *testing.T) {
	for text, want := range map[string]string{
		`{"links": {"next": null}, "projects": [{"id": "a"}, {"id": "b", "tags": []}]}`: "a b",
		`{"projects": []}`: "",
		`{"projects": [{"id": "a"}], "truncated": false}`: "a",
		`{"projects": [{"id": "a"}], "truncated": true}`:  "partial",
		`{"truncated": true, "projects": [{"id": "a"}]}`:  "partial",
		`{"projects": [{"id": "a"}]`:                      "error",
		`{"projects": [{"id": "a"},`:                      "error",
		`{"projects": null}`:                              "error",
		`{"users": []}`:                                   "error",
		`[]`:                                              "error",
		``:                                                "error",
		`<html>`:                                          "error",
	} {
		var ids []string
		err := readList(strings.NewReader(text), "projects", func(p listed) error { ids = append(ids, p.ID); return nil })
		got := strings.Join(ids, " ")
		switch {
		case errors.Is(err, ErrPartial):
			got = "partial"
		case err != nil:
			got = "error"
		}
		if got != want {
			t.Errorf("%s: %s (%v), want %s", text, got, err, want)
		}
	}
	broken := errors.New("no more")
	err := readList(strings.NewReader(`{"projects": [{"id": "a"}, {"id": "b"}]}`), "projects", func(listed) error { return broken })
	if !errors.Is(err, broken) {
		t.Error(err)
	}
}

func FuzzReadList(f *testing.F) {
	f.Add(`{"projects": [{"id": "a"}], "truncated": true}`)
	f.Add(`{"projects": [{}, {`)
	f.Fuzz(func(_ *testing.T, text string) {
		_ = readList(strings.NewReader(text), "projects", func(listed) error { return nil })
		_ = readList(strings.NewReader(text), "role_assignments", func(assigned) error { return nil })
	})
}

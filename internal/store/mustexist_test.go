// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// TestMustExist: who only looks makes no SQLite file.
func TestMustExist(t *testing.T) {
	path := filepath.Join(t.TempDir(), "muster.db")
	if s, err := Open(t.Context(), Config{URL: "sqlite:///" + path, MustExist: true}); !errors.Is(err, ErrUnavailable) {
		t.Errorf("got %v, %v", s, err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file is there: %v", err)
	}
	for _, mustExist := range []bool{false, true} {
		s, err := Open(t.Context(), Config{URL: "sqlite:///" + path, MustExist: mustExist})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

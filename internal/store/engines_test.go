// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

//go:build !galera

package store

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/muster-cloud/muster/test/services"
)

var databases services.Databases

func TestMain(m *testing.M) { os.Exit(databases.Main(m)) }

// engines are the databases of the suite. With the tag galera they are others.
var engines = []testEngine{
	{name: "sqlite", make: func(t testing.TB) string { return "sqlite:///" + filepath.Join(t.TempDir(), "muster.db") }},
	{name: "postgresql", make: databases.PostgreSQL},
	{name: "mariadb", make: databases.MariaDB},
}

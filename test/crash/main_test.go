// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package crash kills replicas at random moments under load, and looks at what
// is left.
package crash

import (
	"os"
	"testing"

	"github.com/muster-cloud/muster/test/deployment"
	"github.com/muster-cloud/muster/test/services"
)

var databases services.Databases

func TestMain(m *testing.M) {
	os.Exit(deployment.Main(func() int { return databases.Main(m) }))
}

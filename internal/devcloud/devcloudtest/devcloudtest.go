// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package devcloudtest starts a cloud for the time of a test.
package devcloudtest

import (
	"context"
	"testing"

	"github.com/muster-cloud/muster/internal/devcloud"
)

// Start runs a cloud until the test ends.
func Start(t testing.TB, cfg devcloud.Config) *devcloud.Cloud {
	t.Helper()
	cloud, err := devcloud.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- cloud.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("devcloud: %v", err)
		}
	})
	return cloud
}

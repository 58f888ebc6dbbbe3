// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Openstack puts up the cloud that `make e2e` tests with, writes to a file how
// to reach it, and removes it on Ctrl-C. With MUSTER_E2E_CLOUD=FILE, `make e2e`
// takes such a cloud in place of one of its own: for whoever works on the
// scenarios.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/muster-cloud/muster/test/services"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: openstack FILE")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "openstack:", err)
		os.Exit(1)
	}
}

func run(file string) (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	began := time.Now()
	cloud, err := services.StartOpenStack(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cloud.Stop()) }()
	text, err := json.MarshalIndent(cloud, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(file, append(text, '\n'), 0o600); err != nil {
		return err
	}
	fmt.Printf("up after %s; Ctrl-C removes it\n", time.Since(began).Round(time.Second))
	<-ctx.Done()
	return os.Remove(file)
}

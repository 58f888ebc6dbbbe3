// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package e2e plays what happens in a cloud against a Muster that is set up as
// an operator would: the built program, configured by a file, as processes that
// can be killed; beside PostgreSQL, RabbitMQ and FreeIPA's interfaces. Nothing
// here reaches into Muster's tables.
//
// Each scenario is played in the cloud in a process, in seconds, and, with
// MUSTER_E2E=1 (make e2e), in a real OpenStack too. The scenarios are the same
// code. Where the two clouds differ, the one in a process is wrong.
package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/muster-cloud/muster/test/services"
)

// What the tests of this package share. Each part is made when the first test
// needs it.
var (
	databases services.Databases
	real      = &openStack{}
	broker    = &rabbitMQ{}
	program   = &built{}
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	flag.Parse()
	if !wantsReal() && !testing.Short() {
		fmt.Fprintln(os.Stderr, "e2e: only the cloud in a process is played; the REAL OpenStack IS NOT TESTED without MUSTER_E2E=1 (make e2e)")
	}
	// All that is made lies in one folder, so that an end in the middle leaves
	// nothing behind either.
	folder, err := os.MkdirTemp("", "muster-e2e-")
	if err == nil {
		// PostgreSQL, which refuses to run as root, has its folder in it.
		err = errors.Join(os.Chmod(folder, 0o755), os.Setenv("TMPDIR", folder))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	// Whoever interrupts the tests gets rid of all that they started, too.
	interrupts, forget := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer forget()
	ended := make(chan int, 1)
	go func() { ended <- databases.Main(m) }()
	code := 130
	select {
	case code = <-ended:
	case <-interrupts.Done():
		fmt.Fprintln(os.Stderr, "e2e: interrupted; cleaning up")
	}
	remove := func() error { return os.RemoveAll(folder) }
	for _, stop := range []func() error{real.stop, broker.stop, remove} {
		if err := stop(); err != nil {
			fmt.Fprintln(os.Stderr, "e2e: clean up:", err)
			code = max(code, 1)
		}
	}
	return code
}

// wantsReal tells whether the real cloud is to be tested.
func wantsReal() bool { return os.Getenv("MUSTER_E2E") == "1" }

// openStack is the real cloud.
type openStack struct {
	once  sync.Once
	mu    sync.Mutex // guards cloud while tests are interrupted
	cloud *services.OpenStack
	own   bool
	err   error
}

// get puts the cloud up, or takes the one that MUSTER_E2E_CLOUD describes (see
// test/openstack).
func (o *openStack) get(t testing.TB) *services.OpenStack {
	t.Helper()
	o.once.Do(func() {
		if file := os.Getenv("MUSTER_E2E_CLOUD"); file != "" {
			o.cloud, o.err = describedCloud(file)
			return
		}
		began := time.Now()
		cloud, err := services.StartOpenStack(context.Background())
		o.mu.Lock()
		defer o.mu.Unlock()
		o.cloud, o.own, o.err = cloud, true, err
		t.Logf("the real cloud is up after %s", time.Since(began).Round(time.Second))
	})
	services.Need(t, o.err)
	return o.cloud
}

func describedCloud(file string) (*services.OpenStack, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	cloud := &services.OpenStack{}
	return cloud, json.Unmarshal(text, cloud)
}

func (o *openStack) stop() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.cloud == nil || !o.own {
		return nil
	}
	return o.cloud.Stop()
}

// rabbitMQ is the broker of the clouds in a process.
type rabbitMQ struct {
	once   sync.Once
	broker *services.RabbitMQ
	err    error
}

func (r *rabbitMQ) get(t testing.TB) *services.RabbitMQ {
	t.Helper()
	r.once.Do(func() { r.broker, r.err = services.StartRabbitMQ(context.Background()) })
	services.Need(t, r.err)
	return r.broker
}

func (r *rabbitMQ) stop() error {
	if r.broker == nil {
		return nil
	}
	return r.broker.Stop()
}

// built is the program under test.
type built struct {
	once   sync.Once
	folder string
	err    error
}

// get builds muster as `make build` does.
func (b *built) get(t testing.TB) string {
	t.Helper()
	b.once.Do(func() {
		if b.folder, b.err = os.MkdirTemp("", "muster-e2e-"); b.err != nil {
			return
		}
		command := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", b.folder+"/", "github.com/muster-cloud/muster/cmd/muster")
		command.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := command.CombinedOutput(); err != nil {
			b.err = fmt.Errorf("go build: %w: %s", err, out)
		}
	})
	if b.err != nil {
		t.Fatal(b.err)
	}
	return filepath.Join(b.folder, "muster")
}

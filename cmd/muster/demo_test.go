// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/muster-cloud/muster/internal/demo"
	"github.com/muster-cloud/muster/internal/demo/openssh"
)

func TestDemo(t *testing.T) {
	if _, err := openssh.Find(); err != nil {
		if os.Getenv("CI") == "true" || os.Getenv("MUSTER_TEST_REQUIRE") == "1" {
			t.Fatal(err)
		}
		t.Skip("SKIPPED, nothing was tested: ", err)
	}
	var stdout, stderr bytes.Buffer
	if code := Run(t.Context(), []string{"demo", "-o", "json"}, nil, nil, &stdout, &stderr); code != exitOK {
		t.Fatalf("exit code %d\n%s%s", code, stdout.String(), stderr.String())
	}
	var report demo.Report
	if err := json.Unmarshal(stdout.Bytes(), &report); err != nil {
		t.Fatal(err)
	}
	if !report.OK || len(report.Steps) < 8 {
		t.Errorf("%+v", report)
	}
}

func TestDemoShowsFailures(t *testing.T) {
	var stdout bytes.Buffer
	p := &program{stdout: &stdout}
	p.printStep(demo.Step{Name: "One", Proves: "that", OK: true, Found: "this", Seconds: 0.0123})
	p.printStep(demo.Step{Name: "Two", Proves: "more", Error: "it broke\nhere", Seconds: 12.3456})
	err := p.printReport(demo.Report{Steps: make([]demo.Step, 2), Planned: 3}, asTable)
	if err == nil || err.Error() != "the demo failed in step 2 of 3" {
		t.Errorf("error: %v", err)
	}
	want := `ok       12ms  One
                 proves: that
                 this
FAILED 12.35s  Two
                 proves: more
                 it broke
                 here
`
	if stdout.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", stdout.String(), want)
	}
}

func TestDevRunsUntilItIsStopped(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	read, write := io.Pipe()
	ended := make(chan int, 1)
	go func() {
		defer write.Close()
		ended <- Run(ctx, []string{"dev", "--dir", t.TempDir(), "--listen", "127.0.0.1:0"}, nil, nil, write, io.Discard)
	}()
	var seen bytes.Buffer
	for !strings.Contains(seen.String(), "Ctrl-C ends it.") {
		if _, err := io.CopyN(&seen, read, 1); err != nil {
			t.Fatalf("%v after:\n%s", err, seen.String())
		}
	}
	go func() { _, _ = io.Copy(io.Discard, read) }() // until the other end is closed
	stop()
	if code := <-ended; code != exitOK {
		t.Errorf("exit code %d", code)
	}
	if !strings.Contains(seen.String(), "/v1/usercerts") {
		t.Errorf("no commands to paste:\n%s", seen.String())
	}
}

func TestDevRefusesAnAddressWithoutPort(t *testing.T) {
	var stderr bytes.Buffer
	code := Run(t.Context(), []string{"dev", "--listen", "18322"}, nil, nil, io.Discard, &stderr)
	if code != exitFailed || !strings.Contains(stderr.String(), "host:port") {
		t.Errorf("exit code %d: %s", code, stderr.String())
	}
}

func TestDevSaysWhatToDoAboutATakenPort(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	var stderr bytes.Buffer
	code := Run(t.Context(), []string{"dev", "--listen", taken.Addr().String()}, nil, nil, io.Discard, &stderr)
	if code != exitFailed || !strings.Contains(stderr.String(), "give another one with --listen") {
		t.Errorf("exit code %d: %s", code, stderr.String())
	}
}

// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package deployment

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/muster-cloud/muster/internal/config"
	"github.com/muster-cloud/muster/internal/server"
)

// childConfig names the configuration file to a process that is a replica.
const childConfig = "MUSTER_TEST_REPLICA"

// startTimeout bounds the start and the end of a replica, which take seconds at
// the most: machines that run tests are busy.
const startTimeout = 3 * time.Minute

// Main runs the tests of a package, or is a replica if the process was started
// as one. It returns the exit code.
func Main(run func() int) int {
	path := os.Getenv(childConfig)
	if path == "" {
		return run()
	}
	if err := serve(path); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// serve is a replica: it says where it answers, and runs until SIGTERM.
func serve(path string) error {
	cfg, err := load(path)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	s, err := server.New(ctx, cfg, logger(cfg, os.Stderr), Version)
	if err != nil {
		return err
	}
	fmt.Println(s.URL("tatu"))
	return s.Run(ctx)
}

func logger(cfg *config.Config, out io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: cfg.LogLevel}))
}

// Process is a replica in a process of its own.
type Process struct {
	URL string

	command *exec.Cmd
	log     *lockedText
	ended   chan struct{}
	err     error
}

// StartProcess starts a replica. The test's package must call Main. Changes of
// the command, such as another way to start it, come last.
func (d *Deployment) StartProcess(t testing.TB, changes ...func(*exec.Cmd)) *Process {
	t.Helper()
	p, err := d.startProcess(t, changes)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (d *Deployment) startProcess(t testing.TB, changes []func(*exec.Cmd)) (*Process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &Process{command: exec.Command(self), log: &lockedText{}, ended: make(chan struct{})}
	p.command.Env = append(os.Environ(), childConfig+"="+d.path)
	p.command.Stderr = p.log
	p.command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	for _, change := range changes {
		change(p.command)
	}
	out, err := p.command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.command.Start(); err != nil {
		return nil, err
	}
	t.Cleanup(p.Kill)
	said := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(out).ReadString('\n')
		said <- strings.TrimSpace(line)
		p.err = p.command.Wait()
		close(p.ended)
	}()
	select {
	case p.URL = <-said:
	case <-time.After(startTimeout):
	}
	if p.URL == "" {
		p.Kill()
		return nil, fmt.Errorf("the replica did not start: %v\n%s", p.err, p.log)
	}
	return p, nil
}

// Kill ends the process as a crash does, and returns when it is gone.
func (p *Process) Kill() {
	_ = p.command.Process.Kill() // gone already, or going
	<-p.ended
}

// Stop asks the process to end, and returns how it did.
func (p *Process) Stop() error {
	if err := p.command.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-p.ended:
		return p.err
	case <-time.After(startTimeout):
		return fmt.Errorf("it did not end within %v", startTimeout)
	}
}

// PID is the process's ID.
func (p *Process) PID() int { return p.command.Process.Pid }

// Log is what the process has logged so far.
func (p *Process) Log() string { return p.log.String() }

type lockedText struct {
	mu   sync.Mutex
	text strings.Builder
}

// Write implements io.Writer.
func (l *lockedText) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

// String returns what was written.
func (l *lockedText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

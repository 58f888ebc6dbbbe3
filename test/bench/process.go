// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime/debug"
	"runtime/pprof"
	"strconv"
	"strings"
	"syscall"
	"time"

	"log/slog"

	"github.com/muster-cloud/muster/internal/config"
	"github.com/muster-cloud/muster/internal/server"
)

// process is a running program as /proc shows it (proc(5)).
type process int

// ticks is USER_HZ, which Linux fixes at 100 for what it shows to programs.
const ticks = 100

// cpu is the CPU time that the process has used, user and system. A process 0
// is one that nobody measures.
func (p process) cpu() (time.Duration, error) {
	if p == 0 {
		return 0, nil
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p))
	if err != nil {
		return 0, err
	}
	// The name, in parentheses, may hold anything. State is the first field after it.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	var sum int64
	for _, field := range fields[11:13] { // utime, stime
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return time.Duration(sum) * time.Second / ticks, nil
}

// resident is the memory that the process holds, in bytes.
func (p process) resident() (float64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p))
	if err != nil {
		return 0, err
	}
	_, after, _ := strings.Cut(string(status), "VmRSS:")
	line, _, _ := strings.Cut(after, "kB")
	n, err := strconv.ParseInt(strings.TrimSpace(line), 10, 64)
	return float64(n) * 1024, err
}

// serveArgument makes this program a Muster. The production binary is not
// used, because it must not write profiles on demand.
const serveArgument = "serve-muster"

// serveMuster runs Muster from a configuration file until the control closes.
// It answers first with its URL and then each line of the control, "profile
// PATH" and "stop" for a CPU profile, "heap PATH" for one of memory, with "ok"
// or what is wrong.
func serveMuster(path string, control io.Reader, answers io.Writer) error {
	cfg, err := config.Load(config.Options{Path: path})
	if err != nil {
		return err
	}
	log, err := os.OpenFile(cfg.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	muster, err := server.New(ctx, cfg, slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: cfg.LogLevel})), "bench")
	if err != nil {
		return err
	}
	fmt.Fprintln(answers, muster.URL("tatu"))
	go func() {
		obey(control, answers)
		cancel()
	}()
	return muster.Run(ctx)
}

func obey(control io.Reader, answers io.Writer) {
	lines := bufio.NewScanner(control)
	var profile *os.File
	for lines.Scan() {
		var err error
		verb, path, _ := strings.Cut(lines.Text(), " ")
		switch verb {
		case "profile":
			if profile, err = os.Create(path); err == nil {
				err = pprof.StartCPUProfile(profile)
			}
		case "stop":
			pprof.StopCPUProfile()
			err = profile.Close()
		case "heap":
			err = writeHeap(path)
		default:
			err = errors.New("unknown order")
		}
		if err != nil {
			fmt.Fprintln(answers, err)
			continue
		}
		fmt.Fprintln(answers, "ok")
	}
}

func writeHeap(path string) error {
	debug.FreeOSMemory()
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(pprof.WriteHeapProfile(file), file.Close())
}

// child is a Muster that this program started.
type child struct {
	process
	address string // host:port
	command *exec.Cmd
	control io.WriteCloser
	answers *bufio.Reader
}

// startChild starts Muster and waits until its listener is open.
func startChild(configuration string) (*child, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := &child{command: exec.Command(program, serveArgument, configuration)}
	c.command.Stderr = os.Stderr
	c.command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if c.control, err = c.command.StdinPipe(); err != nil {
		return nil, err
	}
	answers, err := c.command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.answers = bufio.NewReader(answers)
	if err := c.command.Start(); err != nil {
		return nil, err
	}
	c.process = process(c.command.Process.Pid)
	url, err := c.answers.ReadString('\n')
	if err != nil {
		return nil, errors.Join(errors.New("the server did not start"), c.stop())
	}
	c.address = strings.TrimPrefix(strings.TrimSpace(url), "http://")
	return c, nil
}

// order has the child do something and waits until it is done.
func (c *child) order(line string) error {
	if _, err := fmt.Fprintln(c.control, line); err != nil {
		return err
	}
	answer, err := c.answers.ReadString('\n')
	if err == nil && strings.TrimSpace(answer) != "ok" {
		err = errors.New(strings.TrimSpace(answer))
	}
	return err
}

// stop ends the child in order.
func (c *child) stop() error {
	return errors.Join(c.control.Close(), c.command.Wait())
}

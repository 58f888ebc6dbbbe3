// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"

	"github.com/muster-cloud/muster/internal/config"
)

// serverLog is where the server's log goes, how, and from which level on. The
// level and the file may be taken up anew while it is written.
type serverLog struct {
	*slog.Logger
	level slog.LevelVar
	path  string // empty: the standard error

	mu   sync.Mutex
	out  io.Writer
	file *os.File // nil for the standard error
}

func newServerLog(cfg *config.Config, stderr io.Writer) (*serverLog, error) {
	l := &serverLog{path: cfg.LogFile, out: stderr}
	l.level.Set(cfg.LogLevel)
	if err := l.reopen(); err != nil {
		return nil, err
	}
	options := &slog.HandlerOptions{Level: &l.level}
	if cfg.LogFormat == "json" {
		l.Logger = slog.New(slog.NewJSONHandler(l, options))
	} else {
		l.Logger = slog.New(slog.NewTextHandler(l, options))
	}
	return l, nil
}

// Write implements io.Writer.
func (l *serverLog) Write(record []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.Write(record)
}

// reopen goes on in a new file where logrotate has moved the old one away. If
// that fails, the old one stays.
func (l *serverLog) reopen() error {
	if l.path == "" {
		return nil
	}
	file, err := os.OpenFile(l.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640)
	if err != nil {
		return fmt.Errorf("[DEFAULT] log_file: %w; let the service's user write it", err)
	}
	l.mu.Lock()
	old := l.file
	l.file, l.out = file, file
	l.mu.Unlock()
	if old != nil {
		return old.Close()
	}
	return nil
}

func (l *serverLog) close() error {
	if l.file == nil {
		return nil
	}
	return l.file.Close()
}

// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"log/syslog"
	"sync"
)

// newLog returns the log of a service: to the journal, which reads the standard
// error and takes priorities from its lines' beginnings (sd-daemon(3)), or to
// syslog, or where there is neither, plainly to the standard error.
func (p *program) newLog(service bool) *slog.Logger {
	if !service {
		return slog.New(&handler{out: &lines{write: p.writeLine("")}})
	}
	if p.environ("JOURNAL_STREAM") != "" || p.environ("INVOCATION_ID") != "" {
		return slog.New(&handler{out: &lines{write: func(level slog.Level, line []byte) error {
			_, err := fmt.Fprintf(p.stderr, "<%d>%s\n", priority(level), line)
			return err
		}}})
	}
	if w, err := syslog.New(syslog.LOG_DAEMON|syslog.LOG_INFO, "muster-agent"); err == nil {
		return slog.New(&handler{out: &lines{write: func(level slog.Level, line []byte) error { return toSyslog(w, level, string(line)) }}})
	}
	return slog.New(&handler{out: &lines{write: p.writeLine("muster-agent: ")}})
}

func (p *program) writeLine(prefix string) func(slog.Level, []byte) error {
	return func(_ slog.Level, line []byte) error {
		_, err := fmt.Fprintf(p.stderr, "%s%s\n", prefix, line)
		return err
	}
}

// priority is syslog's number of a level (RFC 5424, table 2).
func priority(level slog.Level) int {
	switch {
	case level >= slog.LevelError:
		return int(syslog.LOG_ERR)
	case level >= slog.LevelWarn:
		return int(syslog.LOG_WARNING)
	case level >= slog.LevelInfo:
		return int(syslog.LOG_INFO)
	default:
		return int(syslog.LOG_DEBUG)
	}
}

func toSyslog(w *syslog.Writer, level slog.Level, line string) error {
	switch priority(level) {
	case int(syslog.LOG_ERR):
		return w.Err(line)
	case int(syslog.LOG_WARNING):
		return w.Warning(line)
	case int(syslog.LOG_INFO):
		return w.Info(line)
	default:
		return w.Debug(line)
	}
}

// lines writes one line after the other.
type lines struct {
	mu    sync.Mutex
	write func(level slog.Level, line []byte) error
}

// handler writes a record as its message and then what belongs to it, as
// KEY=VALUE. Time and level are in the journal's or syslog's own fields.
type handler struct {
	out  *lines
	with []func(slog.Handler) slog.Handler
}

// Enabled implements slog.Handler.
func (h *handler) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }

// Handle implements slog.Handler.
func (h *handler) Handle(ctx context.Context, record slog.Record) error {
	var text bytes.Buffer
	text.WriteString(record.Message)
	text.WriteByte(' ')
	if err := h.attributes(&text).Handle(ctx, record); err != nil {
		return err
	}
	h.out.mu.Lock()
	defer h.out.mu.Unlock()
	return h.out.write(record.Level, bytes.TrimSpace(text.Bytes()))
}

// attributes returns a handler that writes what belongs to a record, quoted
// where that is needed.
func (h *handler) attributes(w io.Writer) slog.Handler {
	var all slog.Handler = slog.NewTextHandler(w, &slog.HandlerOptions{
		Level: slog.LevelDebug,
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey || a.Key == slog.MessageKey) {
				return slog.Attr{}
			}
			return a
		},
	})
	for _, with := range h.with {
		all = with(all)
	}
	return all
}

// WithAttrs implements slog.Handler.
func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return h.and(func(inner slog.Handler) slog.Handler { return inner.WithAttrs(attrs) })
}

// WithGroup implements slog.Handler.
func (h *handler) WithGroup(name string) slog.Handler {
	return h.and(func(inner slog.Handler) slog.Handler { return inner.WithGroup(name) })
}

func (h *handler) and(with func(slog.Handler) slog.Handler) slog.Handler {
	return &handler{out: h.out, with: append(h.with[:len(h.with):len(h.with)], with)}
}

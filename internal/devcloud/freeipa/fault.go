// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package freeipa

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Fault is trouble that a test injects into one request. The zero value is no trouble.
type Fault struct {
	// Delay passes before the command runs. It ends early if the client goes away.
	Delay time.Duration
	// Status, if not zero, is answered with an HTML page, as Apache does when the directory behind it is down. The
	// command does not run.
	Status int
	// Cut closes the connection: before the command runs, or after it ran, in the middle of the answer.
	Cut Cut
	// ContentType replaces the answer's type. The command runs.
	ContentType string
	// Padding is a number of blanks put before the answer's JSON. The command runs.
	Padding int
	// Body, if not nil, replaces the answer's body. The command runs.
	Body []byte
}

// Cut says when a connection is closed.
type Cut int

// The moments at which a fault may cut the connection.
const (
	CutNever Cut = iota
	CutBefore
	CutAfter
)

// Inject sets what decides about each request's trouble: it is called with the command's name, or "login_password" or
// "login_kerberos". Nil ends all trouble.
func (s *Server) Inject(decide func(command string) Fault) {
	s.faultMu.Lock()
	defer s.faultMu.Unlock()
	s.fault = decide
}

// Calls returns how often each command, and each kind of login, has been asked for. Commands in a batch count only as
// one "batch".
func (s *Server) Calls() map[string]int {
	s.faultMu.Lock()
	defer s.faultMu.Unlock()
	calls := make(map[string]int, len(s.calls))
	for name, count := range s.calls {
		calls[name] = count
	}
	return calls
}

// faultFor counts the request and returns its trouble.
func (s *Server) faultFor(command string) Fault {
	s.faultMu.Lock()
	s.calls[command]++
	decide := s.fault
	s.faultMu.Unlock()
	if decide == nil {
		return Fault{}
	}
	return decide(command)
}

// before plays the part of the fault that precedes the command. It reports whether the command is to run.
func (f Fault) before(w http.ResponseWriter, r *http.Request) bool {
	if f.Delay > 0 {
		timer := time.NewTimer(f.Delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-r.Context().Done():
			panic(http.ErrAbortHandler)
		}
	}
	if f.Cut == CutBefore {
		panic(http.ErrAbortHandler)
	}
	if f.Status != 0 {
		writeErrorPage(w, f.Status)
		return false
	}
	return true
}

// write sends the answer as the fault would have it.
func (f Fault) write(w http.ResponseWriter, status int, body []byte) {
	if f.ContentType != "" {
		w.Header().Set("Content-Type", f.ContentType)
	}
	if f.Body != nil {
		body = f.Body
	}
	if f.Padding > 0 {
		body = append([]byte(strings.Repeat(" ", f.Padding)), body...)
	}
	if f.Cut == CutAfter {
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		w.WriteHeader(status)
		_, _ = w.Write(body[:len(body)/2])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

func writeErrorPage(w http.ResponseWriter, status int) {
	title := strconv.Itoa(status) + " " + http.StatusText(status)
	w.Header().Set("Content-Type", "text/html; charset=iso-8859-1")
	w.WriteHeader(status)
	_, _ = w.Write([]byte("<!DOCTYPE HTML PUBLIC \"-//W3C//DTD HTML 4.01//EN\" \"http://www.w3.org/TR/html4/strict.dtd\">\n" +
		"<html><head>\n<title>" + title + "</title>\n</head><body>\n<h1>" + http.StatusText(status) + "</h1>\n</body></html>\n"))
}

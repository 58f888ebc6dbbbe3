// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/muster-cloud/muster/internal/problem"
)

// answer is the ResponseWriter of a request: it remembers what was written,
// and holds back the plain text with which net/http's mux says 404 and 405.
type answer struct {
	http.ResponseWriter
	known  bool // an endpoint was found
	held   int  // the mux's own status
	status int
	bytes  int
}

// WriteHeader implements http.ResponseWriter.
func (a *answer) WriteHeader(status int) {
	if !a.known {
		a.held = status
		return
	}
	a.status = status
	a.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (a *answer) Write(b []byte) (int, error) {
	if !a.known {
		return len(b), nil
	}
	if a.status == 0 {
		a.status = http.StatusOK
	}
	n, err := a.ResponseWriter.Write(b)
	a.bytes += n
	return n, err
}

// Unwrap lets http.ResponseController reach the connection.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// send writes a response. The body is complete before the status is sent.
func (a *answer) send(request *Request, response Response) error {
	header := a.Header()
	for name, values := range response.Header {
		header[name] = values
	}
	if response.Location != "" {
		header.Set("Location", response.Location)
	}
	if response.Serve != nil {
		response.Serve(a, request.Request)
		return nil
	}
	if response.Status == 0 {
		response.Status = http.StatusOK
	}
	body := response.Raw
	if response.Body != nil {
		buffer := buffers.Get().(*bytes.Buffer)
		defer buffers.Put(buffer)
		buffer.Reset()
		if err := encode(buffer, response.Body); err != nil {
			return err
		}
		body = buffer.Bytes()
		header.Set("Content-Type", "application/json")
	}
	if response.Status != http.StatusNotModified && response.Status != http.StatusNoContent {
		header.Set("Content-Length", strconv.Itoa(len(body)))
	}
	a.WriteHeader(response.Status)
	if request.Method == http.MethodHead {
		return nil
	}
	if _, err := a.Write(body); err != nil {
		request.record.err = err // the client went away; there is nobody to tell
	}
	return nil
}

var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// encode writes JSON as Python does: one blank after each colon and comma, on
// one line, without line feed. The boot scripts of instances read it with grep.
func encode(out *bytes.Buffer, value any) error {
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return err
	}
	compact := bytes.Clone(bytes.TrimRight(out.Bytes(), "\n"))
	out.Reset()
	text, escaped := false, false
	for _, c := range compact {
		out.WriteByte(c)
		switch {
		case escaped:
			escaped = false
		case text && c == '\\':
			escaped = true
		case c == '"':
			text = !text
		case !text && (c == ':' || c == ','):
			out.WriteByte(' ')
		}
	}
	return nil
}

// Decode reads a JSON body into a value. An absent or empty body is a
// problem, and so is anything after the first value. Fields that the protocol
// does not name are passed over, as the predecessors did.
func (r *Request) Decode(into any) error {
	body, err := r.ReadBody(r.settings.MaxBody)
	if err != nil {
		return err
	}
	return Unmarshal(body, into)
}

// ReadBody returns the body as it was sent, if it is no longer than the limit
// and than what the configuration allows.
func (r *Request) ReadBody(limit int64) ([]byte, error) {
	limit = min(limit, r.settings.MaxBody)
	body, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, limit))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, problem.New(problem.TooLarge, "the body is larger than %d bytes", limit)
	case err != nil:
		return nil, &problem.Problem{Kind: problem.Invalid, Reason: "the body could not be read", Cause: err}
	}
	return body, nil
}

// Unmarshal reads the JSON of a body into a value, as [Request.Decode] does.
func Unmarshal(body []byte, into any) error {
	if len(bytes.TrimSpace(body)) == 0 {
		return problem.New(problem.Invalid, "the request needs a JSON body")
	}
	if err := json.Unmarshal(body, into); err != nil {
		return badJSON(err)
	}
	return nil
}

// badJSON explains a parse failure without repeating the body.
func badJSON(err error) error {
	var mistyped *json.UnmarshalTypeError
	if errors.As(err, &mistyped) && mistyped.Field != "" {
		return problem.InField(mistyped.Field, "is a JSON %s, want %s", mistyped.Value, jsonType(mistyped.Type.Kind().String()))
	}
	if errors.As(err, &mistyped) {
		return problem.New(problem.Invalid, "the body is a JSON %s, want an object", mistyped.Value)
	}
	var refusal *problem.Problem
	if errors.As(err, &refusal) {
		return refusal
	}
	var syntax *json.SyntaxError
	switch {
	case !errors.As(err, &syntax):
		return problem.New(problem.Invalid, "the body is not valid JSON")
	case strings.Contains(syntax.Error(), "escape"): // such as the comment CORP\me of a key
		return problem.New(problem.Invalid, "the body is not valid JSON: the text that ends at byte %d has a backslash, which must be written twice", syntax.Offset)
	default:
		return problem.New(problem.Invalid, "the body is not valid JSON at byte %d", syntax.Offset)
	}
}

func jsonType(kind string) string {
	switch {
	case strings.HasPrefix(kind, "int"), strings.HasPrefix(kind, "uint"), strings.HasPrefix(kind, "float"):
		return "a number"
	case kind == "map", kind == "struct":
		return "an object"
	case kind == "slice", kind == "array":
		return "a list"
	default:
		return "a " + kind
	}
}

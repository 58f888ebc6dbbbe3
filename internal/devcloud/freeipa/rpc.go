// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package freeipa

import (
	"bytes"
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"strconv"
	"strings"
)

// entry is one object of an answer, or of the directory, as JSON has it.
type entry = map[string]any

// command is one FreeIPA command: the names of its arguments, those required first, and the options that it knows
// besides version, all, raw and no_members.
type command struct {
	args     []string
	required int
	options  []string
	run      func(*call) (entry, *fail)
}

// call is one command being carried out for a principal. The directory is locked meanwhile.
type call struct {
	server    *Server
	dir       *directory
	principal string
	args      []any
	options   map[string]any
	batched   bool
}

// envelope is a JSON-RPC request as FreeIPA understands it: params holds a list and a dictionary.
type envelope struct {
	Method *string         `json:"method"`
	Params json.RawMessage `json:"params"`
	ID     json.RawMessage `json:"id"`
}

func (s *Server) serveRPC(w http.ResponseWriter, r *http.Request) {
	principal, ok := s.authenticate(w, r)
	if !ok {
		return
	}
	var request envelope
	var trouble *fail
	switch kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); {
	case !s.refererFits(r):
		trouble = refererError(r.Referer())
	case r.Method != http.MethodPost || kind != "application/json":
		trouble = commandError("json")
	default:
		trouble = readEnvelope(r, &request)
	}
	name := ""
	if request.Method != nil {
		name, _, _ = strings.Cut(*request.Method, "/")
	}
	fault := s.faultFor(name)
	if !fault.before(w, r) {
		return
	}
	var result entry
	if trouble == nil {
		result, trouble = s.call(principal, name, request.Params)
	}
	writeAnswer(w, fault, principal, request.ID, result, trouble)
}

func readEnvelope(r *http.Request, request *envelope) *fail {
	var body bytes.Buffer
	if _, err := body.ReadFrom(r.Body); err != nil {
		return jsonError(err.Error())
	}
	var raw any
	if err := json.Unmarshal(body.Bytes(), &raw); err != nil {
		return jsonError(pythonJSONError(body.Bytes(), err))
	}
	if _, isDict := raw.(map[string]any); !isDict {
		return jsonError("Request must be a dict")
	}
	if err := json.Unmarshal(body.Bytes(), request); err != nil {
		return jsonError(err.Error())
	}
	id := request.ID
	request.ID = nil
	if request.Method == nil {
		return jsonError(`Request is missing "method"`)
	}
	if request.Params == nil {
		return jsonError(`Request is missing "params"`)
	}
	if _, _, ok := splitParams(request.Params); !ok {
		return jsonError("params must contain [args, options]")
	}
	request.ID = id
	return nil
}

// pythonJSONError words a syntax error as Python's json module does, in the one case that was recorded.
func pythonJSONError(body []byte, err error) string {
	text := strings.TrimRight(string(body), " ")
	if strings.HasSuffix(text, ",") {
		return fmt.Sprintf("Expecting property name enclosed in double quotes: line 1 column %d (char %d)", len(body)+1, len(body))
	}
	return err.Error()
}

func splitParams(raw json.RawMessage) ([]any, map[string]any, bool) {
	var params []json.RawMessage
	if json.Unmarshal(raw, &params) != nil || len(params) != 2 {
		return nil, nil, false
	}
	var args []any
	options := map[string]any{}
	if json.Unmarshal(params[0], &args) != nil || json.Unmarshal(params[1], &options) != nil || options == nil {
		return nil, nil, false
	}
	return args, options, true
}

// call carries a command out and adds the warning about a missing version.
func (s *Server) call(principal, name string, params json.RawMessage) (entry, *fail) {
	args, options, _ := splitParams(params)
	version, sent := options["version"].(string)
	if sent {
		if major, _, _ := strings.Cut(version, "."); major != "2" {
			return nil, versionError(version, s.cfg.Host)
		}
	}
	result, trouble := s.dispatch(principal, name, args, options, false)
	if trouble == nil && !sent {
		addMessage(result, 13001, "VersionMissing", "API Version number was not sent, forward compatibility not guaranteed. "+
			"Assuming server's API version, "+apiVersion, entry{"server_version": apiVersion})
	}
	return result, trouble
}

// dispatch checks a command's arguments and options against its description and runs it.
func (s *Server) dispatch(principal, name string, args []any, options map[string]any, batched bool) (entry, *fail) {
	known, ok := s.commands[name]
	if !ok {
		return nil, commandError(name)
	}
	if trouble := known.check(name, args, options, batched); trouble != nil {
		return nil, trouble
	}
	c := &call{server: s, dir: s.dir, principal: principal, args: args, options: options, batched: batched}
	if name == "batch" {
		return c.batch()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return known.run(c)
}

func (k command) check(name string, args []any, options map[string]any, batched bool) *fail {
	if name != "batch" && len(args) > len(k.args) {
		return maxArgumentError(name, len(k.args))
	}
	for option := range options {
		if !k.knows(option) {
			if batched {
				return conversionError("params", "Unknown option: "+option)
			}
			return optionError("Unknown option: "+option, entry{"option": option})
		}
	}
	for i := range k.required {
		if i >= len(args) || args[i] == nil || args[i] == "" {
			return requirementError(k.args[i])
		}
	}
	return nil
}

func (k command) knows(option string) bool {
	switch option {
	case "version", "all", "raw", "no_members":
		return true
	}
	for _, known := range k.options {
		if known == option || (strings.HasSuffix(known, "*") && strings.HasPrefix(option, strings.TrimSuffix(known, "*"))) ||
			(strings.HasPrefix(known, "*") && strings.HasSuffix(option, strings.TrimPrefix(known, "*"))) {
			return true
		}
	}
	return false
}

func writeAnswer(w http.ResponseWriter, fault Fault, principal string, id json.RawMessage, result entry, trouble *fail) {
	answer := struct {
		Result    any             `json:"result"`
		Error     any             `json:"error"`
		ID        json.RawMessage `json:"id"`
		Principal string          `json:"principal"`
		Version   string          `json:"version"`
	}{ID: id, Principal: principal, Version: release}
	if trouble != nil {
		answer.Error = entry{"code": trouble.code, "message": trouble.message, "data": trouble.data, "name": trouble.name}
	} else {
		answer.Result = result
	}
	body, err := json.Marshal(answer)
	if err != nil {
		writeErrorPage(w, http.StatusInternalServerError)
		return
	}
	w.Header().Set("Cache-Control", "no-cache, private")
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	fault.write(w, http.StatusOK, body)
}

// batch runs a list of commands, each with its own outcome (ipaserver's batch command). Its list comes as the
// arguments, as one argument that is a list, or as the option "methods".
func (c *call) batch() (entry, *fail) {
	items := c.args
	if listed, ok := c.options["methods"].([]any); ok {
		items = listed
	} else if len(items) == 1 {
		if nested, isList := items[0].([]any); isList {
			items = nested
		}
	}
	results := make([]any, 0, len(items))
	for _, item := range items {
		result, trouble := c.batchItem(item)
		if trouble != nil {
			result = entry{"error": trouble.message, "error_code": trouble.code, "error_name": trouble.name, "error_kw": trouble.data}
		} else {
			result["error"] = nil
		}
		results = append(results, result)
	}
	return entry{"count": len(results), "results": results}, nil
}

func (c *call) batchItem(item any) (entry, *fail) {
	request, _ := item.(map[string]any)
	name, _ := request["method"].(string)
	if name == "" {
		return nil, requirementError("method")
	}
	params, sent := request["params"]
	if !sent {
		return nil, requirementError("params")
	}
	list, _ := params.([]any)
	if len(list) != 2 {
		return nil, conversionError("params", "must contain a tuple (list, dict)")
	}
	args, isList := list[0].([]any)
	options, isDict := list[1].(map[string]any)
	if !isList || !isDict {
		return nil, conversionError("params", "must contain a tuple (list, dict)")
	}
	name, _, _ = strings.Cut(name, "/")
	return c.server.dispatch(c.principal, name, args, options, true)
}

func addMessage(result entry, code int, name, text string, data entry) {
	messages, _ := result["messages"].([]any)
	result["messages"] = append(messages,
		entry{"type": "warning", "name": name, "message": text, "code": code, "data": data})
}

// text returns an option, or argument, as text; numbers too are taken, as FreeIPA does.
func text(value any) string {
	switch v := value.(type) {
	case string:
		return v
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	case map[string]any:
		name, _ := v["__dns_name__"].(string)
		return name
	case []any:
		if len(v) == 1 {
			return text(v[0])
		}
	}
	return ""
}

// texts returns an option, or argument, that may be one value or a list.
func texts(value any) []string {
	list, isList := value.([]any)
	if !isList {
		if value == nil {
			return nil
		}
		return []string{text(value)}
	}
	out := make([]string, 0, len(list))
	for _, item := range list {
		out = append(out, text(item))
	}
	return out
}

func (c *call) arg(i int) string {
	if i >= len(c.args) {
		return ""
	}
	return text(c.args[i])
}

func (c *call) flag(option string) bool {
	switch v := c.options[option].(type) {
	case bool:
		return v
	case string:
		return strings.EqualFold(v, "true")
	}
	return false
}

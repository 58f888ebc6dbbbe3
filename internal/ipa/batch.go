// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package ipa

import (
	"context"
	"encoding/json"
	"fmt"
)

// Result is the outcome of one command of a batch.
type Result struct {
	Command Command
	// Err is FreeIPA's refusal of this command (*Error), or a *MemberError where hosts were left out.
	Err error
	raw json.RawMessage
}

// Host reads the answer of a host command.
func (r Result) Host() (Host, error) { return entryOf[Host](r) }

// Service reads the answer of a service command.
func (r Result) Service() (Service, error) { return entryOf[Service](r) }

// Record reads the answer of a dnsrecord command.
func (r Result) Record() (Record, error) { return entryOf[Record](r) }

func entryOf[E any](r Result) (E, error) {
	if r.Err != nil {
		var zero E
		return zero, r.Err
	}
	e, err := decodeEntry[E](r.raw)
	if err != nil {
		return e, unreadable(r.Command)
	}
	return e, nil
}

// Batch sends up to MaxBatch commands in one request. FreeIPA carries them out in order and does not stop at a failure;
// each has its own Result, in the same order. An error of Batch itself concerns all of them, and how many were carried
// out is then not known. A batch is safe to repeat if each of its commands is. No command makes no request.
func (c *Client) Batch(ctx context.Context, commands ...Command) ([]Result, error) {
	if len(commands) == 0 {
		return nil, nil
	}
	if len(commands) > MaxBatch {
		return nil, fmt.Errorf("%w: %d, at most %d", ErrTooMany, len(commands), MaxBatch)
	}
	whole := Command{name: "batch", repeat: true}
	for _, command := range commands {
		whole.args = append(whole.args, map[string]any{"method": command.name, "params": command.params(command.options)})
		whole.repeat = whole.repeat && command.repeat
	}
	raw, err := c.call(ctx, whole)
	if err != nil {
		return nil, scrubbed(err, commands)
	}
	results, err := readBatch(raw, commands)
	if err != nil {
		return nil, err
	}
	for _, r := range results {
		c.metrics.observeItem(r.Command.name, r.Err)
	}
	return results, nil
}

// scrubbed removes the passwords of all commands from the refusal of a whole batch.
func scrubbed(err error, commands []Command) error {
	if own, ok := err.(*Error); ok {
		for _, command := range commands {
			own.Message = command.scrub(own.Message)
		}
	}
	return err
}

// readBatch takes the answer to a batch apart.
func readBatch(raw json.RawMessage, commands []Command) ([]Result, error) {
	var answer struct {
		Results []json.RawMessage `json:"results"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil || len(answer.Results) != len(commands) {
		return nil, unreadable(Command{name: "batch"})
	}
	results := make([]Result, len(commands))
	for i, item := range answer.Results {
		results[i] = Result{Command: commands[i], raw: item, Err: itemError(item, commands[i])}
	}
	return results, nil
}

// itemError reads the error of one command of a batch: {"error": text, "error_code": ..., "error_name": ...}.
func itemError(item json.RawMessage, command Command) error {
	var e struct {
		Error *string `json:"error"`
		Code  Code    `json:"error_code"`
		Name  string  `json:"error_name"`
	}
	if err := json.Unmarshal(item, &e); err != nil {
		return unreadable(command)
	}
	if e.Error != nil {
		return &Error{Command: command.name, Object: command.object(), Code: e.Code, Name: e.Name, Message: command.scrub(*e.Error)}
	}
	if !command.enlists() {
		return nil
	}
	members, err := decodeMembership(item)
	if err != nil {
		return unreadable(command)
	}
	return members.Err(command)
}

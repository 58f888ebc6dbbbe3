// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package ipa

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
)

// do sends a command until a server answers it, FreeIPA's refusal being an answer, and returns the answer's result.
// Another server is asked only if the first did not carry the command out, or if the command is safe to repeat.
func (c *Client) do(ctx context.Context, command Command) (json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	if err := c.discover(ctx); err != nil {
		return nil, err
	}
	tried := map[*server]bool{}
	var last error
	var again *server
	for {
		s, err := c.pick(tried)
		if s == nil && again != nil {
			s, again = again, nil
		}
		if s == nil {
			if last == nil {
				last = err
			}
			return nil, last
		}
		answer, err := s.call(ctx, command)
		if answered(err) {
			c.succeeded(ctx, s)
			return answer, err
		}
		if blames(err) {
			c.failed(ctx, s, err)
		}
		if ctx.Err() != nil || !goOn(command, err) {
			return nil, err
		}
		// A connection that a restarting server cut is worth a second attempt, with the only server too.
		if len(tried) == 0 && connectionWasCut(err) {
			again = s
		}
		tried[s], last = true, err
	}
}

// answered tells that FreeIPA itself spoke.
func answered(err error) bool {
	var own *Error
	return err == nil || errors.As(err, &own)
}

// blames tells that a failure counts against the server: not if the caller went away or waited for a free place.
// Log-ins, which callers share, are counted where they fail.
func blames(err error) bool {
	var transport *TransportError
	return errors.As(err, &transport) && !errors.Is(err, context.Canceled) && !errors.Is(err, errTooSoon)
}

// connectionWasCut tells that the connection ended after the request was sent and before it was answered.
func connectionWasCut(err error) bool {
	var transport *TransportError
	if !errors.As(err, &transport) || !transport.MayHaveRun {
		return false
	}
	for _, other := range []error{ErrBadAnswer, ErrTooLarge, context.DeadlineExceeded, context.Canceled} {
		if errors.Is(err, other) {
			return false
		}
	}
	return true
}

// goOn tells whether the command may be sent to another server after this failure.
func goOn(command Command, err error) bool {
	var transport *TransportError
	if errors.As(err, &transport) {
		return !transport.MayHaveRun || command.SafeToRepeat()
	}
	var login *LoginError
	return errors.As(err, &login) && !login.Rejected
}

// call runs a command and counts it.
func (c *Client) call(ctx context.Context, command Command) (json.RawMessage, error) {
	started := c.cfg.Now()
	answer, err := c.do(ctx, command)
	c.metrics.observe(command.name, err, c.cfg.Now().Sub(started))
	return answer, err
}

// Run carries out a command whose answer does not matter.
func (c *Client) Run(ctx context.Context, command Command) error {
	_, err := c.call(ctx, command)
	return err
}

func typed[T any](ctx context.Context, c *Client, command Command, decode func(json.RawMessage) (T, error)) (T, error) {
	var zero T
	raw, err := c.call(ctx, command)
	if err != nil {
		return zero, err
	}
	answer, err := decode(raw)
	if err != nil {
		return zero, unreadable(command)
	}
	return answer, nil
}

// unreadable tells that the answer to a command has an unexpected form. It shows nothing of the answer, which may hold a
// password.
func unreadable(command Command) error {
	return fmt.Errorf("%w: the answer to %s has an unexpected form", ErrBadAnswer, command.name)
}

// Ping asks for the server's release and API version, in FreeIPA's words.
func (c *Client) Ping(ctx context.Context) (string, error) {
	return typed(ctx, c, Ping(), func(raw json.RawMessage) (string, error) {
		var answer outcome
		err := json.Unmarshal(raw, &answer)
		return answer.Summary, err
	})
}

// HostAdd adds a host entry. DuplicateEntry: there is one.
func (c *Client) HostAdd(ctx context.Context, fqdn string, attributes HostAttributes) (Host, error) {
	return typed(ctx, c, HostAdd(fqdn, attributes), decodeEntry[Host])
}

// HostMod changes a host entry. See the function HostMod for its errors.
func (c *Client) HostMod(ctx context.Context, fqdn string, attributes HostAttributes) (Host, error) {
	return typed(ctx, c, HostMod(fqdn, attributes), decodeEntry[Host])
}

// HostShow reads a host entry. NotFound: there is none.
func (c *Client) HostShow(ctx context.Context, fqdn string) (Host, error) {
	return typed(ctx, c, HostShow(fqdn), decodeEntry[Host])
}

// HostFind looks host entries up.
func (c *Client) HostFind(ctx context.Context, filter HostFilter) (Found[Host], error) {
	return typed(ctx, c, HostFind(filter), decodeFound[Host])
}

// HostDel deletes a host entry and its services. NotFound: there is none.
func (c *Client) HostDel(ctx context.Context, fqdn string, updateDNS bool) error {
	return c.Run(ctx, HostDel(fqdn, updateDNS))
}

// HostDisable makes the keytabs of a host and its services invalid. AlreadyInactive: it had none.
func (c *Client) HostDisable(ctx context.Context, fqdn string) error {
	return c.Run(ctx, HostDisable(fqdn))
}

// ServiceAdd adds a service entry. DuplicateEntry: there is one. NotFound: its host is not there.
func (c *Client) ServiceAdd(ctx context.Context, principal string) (Service, error) {
	return typed(ctx, c, ServiceAdd(principal), decodeEntry[Service])
}

// ServiceAddHost lets hosts manage a service. A *MemberError tells which of them now do not.
func (c *Client) ServiceAddHost(ctx context.Context, principal string, hosts ...string) error {
	return c.enlist(ctx, ServiceAddHost(principal, hosts...))
}

// ServiceShow reads a service entry. NotFound: there is none.
func (c *Client) ServiceShow(ctx context.Context, principal string) (Service, error) {
	return typed(ctx, c, ServiceShow(principal), decodeEntry[Service])
}

// ServiceFind looks service entries up.
func (c *Client) ServiceFind(ctx context.Context, filter ServiceFilter) (Found[Service], error) {
	return typed(ctx, c, ServiceFind(filter), decodeFound[Service])
}

// ServiceDel deletes a service entry. See the function ServiceDel for an unknown one.
func (c *Client) ServiceDel(ctx context.Context, principal string) error {
	return c.Run(ctx, ServiceDel(principal))
}

// ZoneShow reads a DNS zone. NotFound: there is none, or Muster may not read DNS.
func (c *Client) ZoneShow(ctx context.Context, zone string) (Zone, error) {
	return typed(ctx, c, ZoneShow(zone), decodeEntry[Zone])
}

// ZoneFind lists DNS zones whose name holds the term.
func (c *Client) ZoneFind(ctx context.Context, term string, limit int) (Found[Zone], error) {
	return typed(ctx, c, ZoneFind(term, limit), decodeFound[Zone])
}

// RecordAdd adds one value to a DNS record. EmptyModlist: it is there.
func (c *Client) RecordAdd(ctx context.Context, zone, name string, kind RecordKind, value string) (Record, error) {
	return typed(ctx, c, RecordAdd(zone, name, kind, value), decodeEntry[Record])
}

// RecordDel deletes one value of a DNS record. AttrValueNotFound or NotFound: it is not there.
func (c *Client) RecordDel(ctx context.Context, zone, name string, kind RecordKind, value string) error {
	return c.Run(ctx, RecordDel(zone, name, kind, value))
}

// RecordShow reads the DNS records of a name. NotFound: there is none.
func (c *Client) RecordShow(ctx context.Context, zone, name string) (Record, error) {
	return typed(ctx, c, RecordShow(zone, name), decodeEntry[Record])
}

// RecordFind looks DNS records up by value.
func (c *Client) RecordFind(ctx context.Context, zone string, kind RecordKind, value string, limit int) (Found[Record], error) {
	return typed(ctx, c, RecordFind(zone, kind, value, limit), decodeFound[Record])
}

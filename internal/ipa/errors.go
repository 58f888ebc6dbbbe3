// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package ipa

import (
	"errors"
	"fmt"
	"time"
)

// Class says what a caller can do about an error.
type Class int

const (
	// Permanent: the same call will fail again; the request or the entry is at fault.
	Permanent Class = iota
	// Repeatable: FreeIPA, the network or a KDC is in trouble; the same call may succeed later.
	Repeatable
	// Operator: nothing will change until somebody changes FreeIPA's or Muster's set-up: a missing right, a rejected
	// keytab, a server without DNS.
	Operator
)

// String returns "permanent", "repeatable" or "operator".
func (c Class) String() string {
	return [...]string{"permanent", "repeatable", "operator"}[c]
}

// Code is the number of a FreeIPA error (ipalib/errors.py). It is itself an error, so that errors.Is(err, NotFound)
// tells whether FreeIPA answered so.
type Code int

// The codes that callers act on. Any other code comes as its number.
const (
	VersionError       Code = 901
	InternalError      Code = 903
	CommandError       Code = 905
	RefererError       Code = 911
	ACIError           Code = 2100
	OptionError        Code = 3005
	RequirementError   Code = 3007
	ConversionError    Code = 3008
	ValidationError    Code = 3009
	NotFound           Code = 4001
	DuplicateEntry     Code = 4002
	RealmMismatch      Code = 4005
	AlreadyInactive    Code = 4010
	DNSNotARecordError Code = 4019
	AttrValueNotFound  Code = 4026
	MidairCollision    Code = 4201
	EmptyModlist       Code = 4202
	DatabaseError      Code = 4203
	LimitsExceeded     Code = 4204
	DatabaseTimeout    Code = 4211
	TimeLimitExceeded  Code = 4213
	NonFatalError      Code = 4304
	DNSResolverError   Code = 4401
)

// name returns the code's name; "" for one that is not in the list above.
func (c Code) name() string {
	switch c {
	case VersionError:
		return "VersionError"
	case InternalError:
		return "InternalError"
	case CommandError:
		return "CommandError"
	case RefererError:
		return "RefererError"
	case ACIError:
		return "ACIError"
	case OptionError:
		return "OptionError"
	case RequirementError:
		return "RequirementError"
	case ConversionError:
		return "ConversionError"
	case ValidationError:
		return "ValidationError"
	case NotFound:
		return "NotFound"
	case DuplicateEntry:
		return "DuplicateEntry"
	case RealmMismatch:
		return "RealmMismatch"
	case AlreadyInactive:
		return "AlreadyInactive"
	case DNSNotARecordError:
		return "DNSNotARecordError"
	case AttrValueNotFound:
		return "AttrValueNotFound"
	case MidairCollision:
		return "MidairCollision"
	case EmptyModlist:
		return "EmptyModlist"
	case DatabaseError:
		return "DatabaseError"
	case LimitsExceeded:
		return "LimitsExceeded"
	case DatabaseTimeout:
		return "DatabaseTimeout"
	case TimeLimitExceeded:
		return "TimeLimitExceeded"
	case NonFatalError:
		return "NonFatalError"
	case DNSResolverError:
		return "DNSResolverError"
	}
	return ""
}

// Error returns the code's name and number.
func (c Code) Error() string {
	if name := c.name(); name != "" {
		return fmt.Sprintf("FreeIPA error %d %s", int(c), name)
	}
	return fmt.Sprintf("FreeIPA error %d", int(c))
}

// Class returns what the code means for the caller.
func (c Code) Class() Class {
	switch {
	case c == 1104 || c == 1107 || c == 1200: // TicketExpired, CannotResolveKDC, SessionError
		return Repeatable
	case c >= 1000 && c < 3000: // authentication, authorization
		return Operator
	case c == VersionError || c == CommandError || c == RefererError:
		return Operator
	case c == InternalError || c == 902 || c == 904 || c == 907 || c == 908: // unknown, internal, network
		return Repeatable
	case c == MidairCollision || c == DatabaseError || c == LimitsExceeded || c == DatabaseTimeout || c == DNSResolverError:
		return Repeatable
	case c >= 4212 && c <= 4215: // task, time, size and administrative limits
		return Repeatable
	}
	return Permanent
}

// Error is FreeIPA's own refusal of a command. errors.Is finds its Code.
type Error struct {
	Command string
	Object  string // what it was asked to act on; FreeIPA's message mostly does not say
	Code    Code
	Name    string // as FreeIPA names it
	Message string // never holds a password that was sent
}

// Error returns command, object, name, code and FreeIPA's message.
func (e *Error) Error() string {
	asked := e.Command
	if e.Object != "" {
		asked += " " + e.Object
	}
	return fmt.Sprintf("FreeIPA refuses %s: %s (%s, %d)", asked, e.Message, e.Name, int(e.Code))
}

// Is reports whether target is the error's code.
func (e *Error) Is(target error) bool {
	code, ok := target.(Code)
	return ok && code == e.Code
}

// MemberError tells which members service_add_host, or another call of its kind, left out, and why.
type MemberError struct {
	Command string
	Failed  []Member
}

// Member is one member that was left out.
type Member struct{ Name, Reason string }

// Error names the first member and the count.
func (e *MemberError) Error() string {
	first := e.Failed[0]
	return fmt.Sprintf("FreeIPA left out %d member(s) in %s: %s: %s", len(e.Failed), e.Command, first.Name, first.Reason)
}

// TransportError tells that a server gave no usable answer.
type TransportError struct {
	Server  string
	Command string
	// MayHaveRun tells that the server may have carried the command out, wholly or partly: look before asking again.
	MayHaveRun bool
	Err        error
}

// Error says which server failed and how.
func (e *TransportError) Error() string {
	outcome := "not carried out"
	if e.MayHaveRun {
		outcome = "it may have been carried out"
	}
	return fmt.Sprintf("no usable answer from FreeIPA server %s to %s (%s): %v", e.Server, e.Command, outcome, e.Err)
}

// Unwrap returns the cause.
func (e *TransportError) Unwrap() error { return e.Err }

// LoginError tells that Muster could not log in to a server.
type LoginError struct {
	Server string
	// Rejected tells that the credentials themselves were refused, or could not be read: repeating does not help.
	Rejected bool
	Err      error
}

// Error says what failed and, for rejected credentials, what to look at.
func (e *LoginError) Error() string {
	if e.Rejected {
		return fmt.Sprintf("log-in to FreeIPA server %s refused, check the keytab (or password) and the principal: %v",
			e.Server, e.Err)
	}
	return fmt.Sprintf("log-in to FreeIPA server %s failed: %v", e.Server, e.Err)
}

// Unwrap returns the cause.
func (e *LoginError) Unwrap() error { return e.Err }

// UnavailableError tells that no server was asked: each failed shortly before.
type UnavailableError struct {
	RetryAfter time.Duration // when the next attempt is worth it
	Err        error         // the last failure
}

// Error says when to come back, and the last failure.
func (e *UnavailableError) Error() string {
	return fmt.Sprintf("no FreeIPA server is in reach, next attempt in %s: %v", e.RetryAfter.Round(time.Millisecond), e.Err)
}

// Unwrap returns the last failure.
func (e *UnavailableError) Unwrap() error { return e.Err }

var (
	// ErrBusy tells that the caller's time ran out while as many calls as allowed were in flight.
	ErrBusy = errors.New("too many calls to FreeIPA in flight")
	// ErrBadAnswer tells that an answer was no FreeIPA answer: an HTML page, a wrong type, broken JSON.
	ErrBadAnswer = errors.New("not an answer of FreeIPA")
	// ErrTooLarge tells that an answer was longer than Config.MaxAnswer.
	ErrTooLarge = errors.New("answer too large")
	// ErrTooMany tells that a batch holds more than MaxBatch commands.
	ErrTooMany = errors.New("too many commands in a batch")

	errUnauthorized = errors.New("the server answered 401")
)

// ClassOf returns the class of any error that this package returned.
func ClassOf(err error) Class {
	var own *Error
	var login *LoginError
	var members *MemberError
	switch {
	case errors.As(err, &own):
		return own.Code.Class()
	case errors.As(err, &login) && login.Rejected:
		return Operator
	case errors.As(err, &members), errors.Is(err, ErrTooMany), errors.Is(err, ErrTooLarge):
		return Permanent
	}
	return Repeatable
}

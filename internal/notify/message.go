// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package notify

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/muster-cloud/muster/internal/converge"
)

// ErrUnreadable is what Parse returns, wrapped, for a body that is no
// notification, or one of a kind that concerns Muster in a form it cannot read.
// The text never quotes the body, which may hold the sender's token.
var ErrUnreadable = errors.New("not a notification that can be read")

const (
	// maxBody bounds a notification. The largest real ones, of many ports made
	// at once, are a tenth of it.
	maxBody = 4 << 20
	// maxName bounds identifiers of the message; oslo.messaging's are shorter.
	maxName = 255
	// maxEntities bounds the ports or addresses that one message may speak of.
	maxEntities = 1000
)

// Message is a notification, as far as Muster reads it.
type Message struct {
	ID        string // message_id: the same on every topic that the sender copies it to
	Publisher string // such as identity.HOST, nova-compute:HOST
	EventType string // such as identity.user.deleted
	At        time.Time
	hints     []converge.Hint
}

// Hints are the entities that may have changed; none if the message is of a
// kind that does not concern Muster.
func (m Message) Hints() []converge.Hint { return slices.Clone(m.hints) }

// envelope is version 2.0 of oslo.messaging's, of the driver messagingv2:
// https://docs.openstack.org/oslo.messaging/latest/reference/notification_driver.html
type envelope struct {
	Version string  `json:"oslo.version"`
	Message *string `json:"oslo.message"`
}

type notification struct {
	MessageID   string          `json:"message_id"`
	PublisherID string          `json:"publisher_id"`
	EventType   string          `json:"event_type"`
	Timestamp   string          `json:"timestamp"`
	Payload     json.RawMessage `json:"payload"`
}

// Parse reads a message body, in oslo's envelope or bare (driver messaging).
// The one error is ErrUnreadable; what was legible is returned beside it.
func Parse(body []byte) (Message, error) {
	if len(body) > maxBody {
		return Message{}, fmt.Errorf("%w: longer than %d MiB", ErrUnreadable, maxBody>>20)
	}
	var outer envelope
	if err := json.Unmarshal(body, &outer); err != nil {
		return Message{}, unreadable("the body", err)
	}
	if outer.Message != nil || outer.Version != "" {
		if major, _, _ := strings.Cut(outer.Version, "."); major != "2" {
			return Message{}, fmt.Errorf("%w: its oslo.version is not 2.x", ErrUnreadable)
		}
		if outer.Message == nil {
			return Message{}, fmt.Errorf("%w: oslo.message is missing", ErrUnreadable)
		}
		body = []byte(*outer.Message)
	}
	var n notification
	if err := json.Unmarshal(body, &n); err != nil {
		return Message{}, unreadable("the message", err)
	}
	if n.EventType == "" || len(n.EventType) > maxName || len(n.MessageID) > maxName || len(n.PublisherID) > maxName {
		return Message{}, fmt.Errorf("%w: event_type is missing, or a name is too long", ErrUnreadable)
	}
	m := Message{ID: n.MessageID, Publisher: n.PublisherID, EventType: n.EventType, At: parseTime(n.Timestamp)}
	hints, err := entities(n)
	if err != nil {
		return m, err
	}
	m.hints = hints
	return m, nil
}

// entities chooses the reader by the kind of event.
func entities(n notification) ([]converge.Hint, error) {
	kind, event, _ := strings.Cut(n.EventType, ".")
	switch kind {
	case "identity":
		return identityHints(event, n.Payload)
	case "compute":
		return unversionedHints(event, n.Payload)
	case "instance":
		return versionedHints(n.PublisherID, event, n.Payload)
	case "network":
		return networkHints(event, n.Payload)
	case "floatingip", "port", "port_forwarding":
		return addressHints(event, n.Payload)
	}
	return nil, nil
}

// decodePayload reads a payload that concerns Muster.
func decodePayload(payload json.RawMessage, into any) error {
	if len(payload) == 0 {
		return fmt.Errorf("%w: it has no payload", ErrUnreadable)
	}
	if err := json.Unmarshal(payload, into); err != nil {
		return unreadable("the payload", err)
	}
	return nil
}

// unreadable says where JSON fails, without quoting it: encoding/json's own
// texts hold names and characters of the input.
func unreadable(what string, err error) error {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		return fmt.Errorf("%w: %s is not JSON from byte %d on", ErrUnreadable, what, syntax.Offset)
	case errors.As(err, &kind):
		return fmt.Errorf("%w: %s has a value of another type than it should at byte %d", ErrUnreadable, what, kind.Offset)
	}
	return fmt.Errorf("%w: %s is not JSON", ErrUnreadable, what)
}

// parseTime reads the time of oslo_utils.timeutils.utcnow, in its two forms.
// One that cannot be read says nothing: the time only aims.
func parseTime(text string) time.Time {
	for _, layout := range []string{"2006-01-02 15:04:05", "2006-01-02T15:04:05", time.RFC3339} {
		if at, err := time.Parse(layout, text); err == nil {
			return at.UTC()
		}
	}
	return time.Time{}
}

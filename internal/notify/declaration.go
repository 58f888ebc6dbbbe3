// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package notify

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/rabbitmq/amqp091-go"
)

// declaration is how a queue was declared. Who declares it otherwise is refused.
type declaration struct {
	durable, autoDelete bool
	arguments           amqp091.Table
}

const (
	queueType = "x-queue-type"
	// noType is the type of no queue, in no release.
	noType = "none-muster-looks"
	// maxLooks bounds the looks at one argument: each tells one property, and there are some twenty.
	maxLooks = 40
)

// errUnclear: the broker does not tell how a queue was declared.
var errUnclear = errors.New("the broker does not tell how the queue was declared")

// afterType are the arguments that RabbitMQ compares after the type, if at all.
var afterType = map[string][]string{
	"classic": {"x-queue-master-locator"},
	"quorum":  {"x-quorum-initial-group-size", "x-delivery-limit", "x-message-ttl"},
	"stream":  {"x-max-age", "x-stream-max-segment-size-bytes"},
}

// inspect finds out how a queue that is there was declared. AMQP has no question for that, but the
// broker's refusal of another declaration names the first difference (406 PRECONDITION_FAILED). So
// inspect declares the queue again and again, each time as it was told, and always with something
// that no queue can have: should the queue be gone meanwhile, the broker refuses that too, and makes
// nothing.
//
// errUnclear if the broker words its refusals otherwise, or has nothing to say; an *amqp091.Error
// with code 403 if the user may not configure the queue.
func inspect(connection *amqp091.Connection, queue string) (declaration, error) {
	d := declaration{arguments: amqp091.Table{}}
	if err := d.settle(connection, queue, queueType, noType); err != nil {
		return declaration{}, err
	}
	for _, argument := range afterType[d.kind()] {
		// Each is a number or a text, never a truth value.
		if err := d.settle(connection, queue, argument, false); err != nil {
			return declaration{}, err
		}
	}
	return d, nil
}

// settle takes over what the broker tells, until it has told about one argument, which is asked for
// with a value that it cannot have.
func (d *declaration) settle(connection *amqp091.Connection, queue, argument string, impossible any) error {
	for range maxLooks {
		asked := maps.Clone(d.arguments)
		asked[argument] = impossible
		err := onChannel(connection, func(c *amqp091.Channel) error {
			_, err := c.QueueDeclare(queue, d.durable, d.autoDelete, false, false, asked)
			return err
		})
		if err == nil && argument != queueType {
			return nil // of a queue of this type it compares no such argument
		}
		var refused *amqp091.Error
		if !errors.As(err, &refused) || refused.Code != amqp091.PreconditionFailed {
			return errors.Join(errUnclear, err)
		}
		name, value, ok := difference(refused.Reason)
		flag, isFlag := value.(bool)
		switch {
		case !ok:
			return fmt.Errorf("%w: %w", errUnclear, err)
		case name == "durable" && isFlag:
			d.durable = flag
		case name == "auto_delete" && isFlag:
			d.autoDelete = flag
		case value != nil:
			d.arguments[name] = value
		case name != argument:
			return fmt.Errorf("%w: %w", errUnclear, err)
		}
		if name == argument {
			return nil
		}
	}
	return errUnclear
}

// difference reads how RabbitMQ refuses a declaration. These are 3.10's words:
//
//	PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'q' in vhost '/': received 'false' but current is 'true'
//	... inequivalent arg 'x-expires' for queue 'q' in vhost '/': received none but current is the value '70000' of type 'long'
//	... inequivalent arg 'x-delivery-limit' for queue 'q' in vhost '/': received 'false' but current is '7'
//	... inequivalent arg 'x-queue-type' for queue 'q' in vhost '/': received the value 'none' of type 'longstr' but current is none
//
// The value is nil where the queue has none.
func difference(reason string) (name string, value any, ok bool) {
	_, rest, found := strings.Cut(reason, "inequivalent arg '")
	if !found {
		return "", nil, false
	}
	name, rest, _ = strings.Cut(rest, "'")
	at := strings.LastIndex(rest, " but current is ")
	if at < 0 || name == "" {
		return "", nil, false
	}
	current := strings.TrimSpace(rest[at+len(" but current is "):])
	if current == "none" {
		return name, nil, true
	}
	kind := ""
	if typed, isTyped := strings.CutPrefix(current, "the value "); isTyped {
		if current, kind, found = strings.Cut(typed, " of type "); !found {
			return "", nil, false
		}
		kind = strings.Trim(kind, "'")
	}
	if len(current) < 2 || current[0] != '\'' || current[len(current)-1] != '\'' {
		return "", nil, false
	}
	text := current[1 : len(current)-1]
	switch kind {
	case "longstr":
		return name, text, true
	case "bool":
		flag, err := strconv.ParseBool(text)
		return name, flag, err == nil
	case "byte", "unsignedbyte", "short", "unsignedshort", "signedint", "unsignedint", "long":
		number, err := strconv.ParseInt(text, 10, 64)
		return name, number, err == nil
	case "":
		// A flag of the queue, or an argument whose type is not told.
		if !strings.HasPrefix(name, "x-") {
			flag, err := strconv.ParseBool(text)
			return name, flag, err == nil
		}
		if number, err := strconv.ParseInt(text, 10, 64); err == nil {
			return name, number, true
		}
		return name, text, true
	}
	return "", nil, false
}

func (d declaration) kind() string {
	if kind, ok := d.arguments[queueType].(string); ok {
		return kind
	}
	return "classic"
}

// String says it for operators.
func (d declaration) String() string {
	words := []string{d.kind(), "not durable"}
	if d.durable {
		words[1] = "durable"
	}
	if d.autoDelete {
		words = append(words, "deleted with its last listener")
	}
	for _, name := range slices.Sorted(maps.Keys(d.arguments)) {
		if name != queueType {
			words = append(words, fmt.Sprintf("%s %v", name, d.arguments[name]))
		}
	}
	return strings.Join(words, ", ")
}

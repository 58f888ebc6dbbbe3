// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package notify

import (
	"strings"
	"testing"
)

// refusals are RabbitMQ 3.10.8's, as it wrote them.
var refusals = map[string]struct {
	name  string
	value any
}{
	"PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'q' in vhost 'cloud/0': received 'false' but current is 'true'":                                              {"durable", true},
	"PRECONDITION_FAILED - inequivalent arg 'auto_delete' for queue 'q' in vhost 'cloud/0': received 'true' but current is 'false'":                                          {"auto_delete", false},
	"PRECONDITION_FAILED - inequivalent arg 'x-expires' for queue 'q' in vhost 'cloud/0': received none but current is the value '70000' of type 'long'":                     {"x-expires", int64(70000)},
	"PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'q' in vhost 'cloud/0': received 'none' but current is 'classic'":                                       {"x-queue-type", "classic"},
	"PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'q' in vhost 'cloud/0': received the value 'none' of type 'longstr' but current is none":                {"x-queue-type", nil},
	"PRECONDITION_FAILED - inequivalent arg 'x-delivery-limit' for queue 'muster_notifications.info' in vhost 'cloud/0': received 'false' but current is '7'":                {"x-delivery-limit", int64(7)},
	"PRECONDITION_FAILED - inequivalent arg 'x-overflow' for queue ' but current is ' in vhost 'it's': received none but current is the value 'drop-head' of type 'longstr'": {"x-overflow", "drop-head"},
}

func TestDifference(t *testing.T) {
	for reason, want := range refusals {
		name, value, ok := difference(reason)
		if !ok || name != want.name || value != want.value {
			t.Errorf("%s:\ngot %q %v %v", reason, name, value, ok)
		}
	}
	for _, reason := range []string{
		"", "PRECONDITION_FAILED - invalid arg 'x-queue-type' for queue 'q' in vhost '/': \"unsupported queue type 'none'\"",
		"inequivalent arg '", "inequivalent arg 'x': received none but current is the value '7' of type 'decimal'",
		"inequivalent arg 'x': received none but current is the value '7", "inequivalent arg 'x': received none but current is '",
		"inequivalent arg 'durable': received 'true' but current is 'b'",
	} {
		if name, value, ok := difference(reason); ok {
			t.Errorf("%q: got %q %v", reason, name, value)
		}
	}
}

func FuzzDifference(f *testing.F) {
	for reason := range refusals {
		f.Add(reason)
	}
	f.Fuzz(func(t *testing.T, reason string) {
		name, _, ok := difference(reason)
		if ok && (name == "" || !strings.Contains(reason, name)) {
			t.Errorf("a name that is not there: %q", name)
		}
	})
}

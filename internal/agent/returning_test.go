// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"strings"
	"testing"
	"time"
)

// TestBackAfterAllCertificatesEnded: an instance that was off for too long says
// what it needs, and comes back by the token that its metadata have then.
func TestBackAfterAllCertificatesEnded(t *testing.T) {
	live(t, func(t *testing.T, l *life) {
		l.start()
		settle(time.Second)
		l.end()
		settle(lifetime + time.Hour)
		l.cloud.do(func(c *cloud) { c.token = "t2" }) // the old one gives nothing any more
		l.start()
		settle(time.Minute)
		if p := l.status().problem(aboutState); p == nil || !strings.Contains(p.Text, "muster instance token "+instanceID) {
			t.Errorf("problems: %+v", l.status().Problems)
		}
		if l.host.version(t) == 0 || len(l.host.wanted().State.Accounts) != 2 {
			t.Error("what was there did not stay")
		}
		if n := l.cloud.called("hostcerts"); n > 12 {
			t.Errorf("the spent token was tried %d times in a minute", n-1)
		}
		l.cloud.do(func(c *cloud) { c.found.Token, c.spent = "t2", "" })
		settle(longestRefused + time.Minute)
		l.end()
		if problems := l.status().Problems; len(problems) != 0 {
			t.Errorf("afterwards: %+v", problems)
		}
		for _, line := range l.host.wanted().HostCerts {
			if l.cloud.called("hostcerts") < 3 || !l.agent().covered(l.keys(t)) {
				t.Errorf("not certified anew: %s", line)
			}
		}
	})
}

func (l *life) keys(t *testing.T) []HostKey {
	t.Helper()
	keys, err := l.host.HostKeys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/muster-cloud/muster/internal/agent/muster"
	"github.com/muster-cloud/muster/internal/sshca/krl"
)

// shortestWait is the least time between two requests for the list when the
// first found nothing new: a server that does not wait must not be asked
// without end.
const shortestWait = 2 * time.Second

// allKnow is how soon all of Muster's replicas know of a new list. One that does
// not would name the accounts of before it.
const allKnow = 500 * time.Millisecond

// ensureList makes an empty list if there is none: without the file, sshd
// refuses every login.
func (a *Agent) ensureList(ctx context.Context) error {
	raw, err := a.machine.Revoked()
	if err != nil {
		return err
	}
	if len(raw) > 0 {
		if list, err := krl.Parse(raw); err == nil {
			a.showList(list.Version, false)
			return nil
		}
		a.log.Warn("The revocation list on this machine is damaged; making an empty one until Muster gives the right one")
	}
	empty, err := new(krl.List).Marshal()
	if err != nil {
		return err
	}
	return a.machine.SetRevoked(ctx, empty)
}

// keepList follows the project's list. What was refused is looked at again as
// soon as other user CAs are trusted. After a failure it asks once without
// waiting: that Muster is back, or that the list is right, must not be known
// only when a long poll ends. Only one that ends well ends the failures.
func (a *Agent) keepList(ctx context.Context) {
	etag, failures, failed := "", 0, false
	for ctx.Err() == nil {
		begin := a.cfg.Now()
		longest := longPoll(a.snapshot().State)
		wait := longest
		if failed {
			wait = 0
		}
		fresh, err := a.takeList(ctx, etag, wait)
		if ctx.Err() != nil {
			return
		}
		a.note(aboutList, err)
		switch {
		case err != nil:
			select {
			case <-ctx.Done():
			case <-a.trustChanged:
			case <-time.After(pauseAfter(err, failures)):
			}
			failures, failed = failures+1, true
		case fresh == etag && failed && longest > 0:
			failed = false
		case fresh == etag:
			failures, failed = 0, false
			least := shortestWait
			if longest == 0 {
				least = a.pollPause()
			}
			_ = sleep(ctx, least-a.cfg.Now().Sub(begin))
		default:
			if etag != "" || failures > 0 {
				// Whoever was taken away may have lost an account, too.
				time.AfterFunc(allKnow+rand.N(allKnow), func() { wake(a.askState) })
			}
			etag, failures, failed = fresh, 0, false
		}
	}
}

// fetchList takes the list as it is now.
func (a *Agent) fetchList(ctx context.Context) error {
	_, err := a.takeList(ctx, "", 0)
	return err
}

// takeList asks for a list that differs, verifies it, and gives it to sshd. It
// returns the tag of the list in hand.
func (a *Agent) takeList(ctx context.Context, etag string, wait time.Duration) (string, error) {
	list, err := a.muster().RevokedKeys(ctx, etag, wait)
	if err := a.contact(err); err != nil {
		return etag, err
	}
	if list == nil {
		a.showList(0, true)
		return etag, nil
	}
	current, version, err := a.currentList()
	if err != nil {
		return etag, err
	}
	parsed, err := a.verify(list, version)
	if errors.Is(err, muster.ErrUnsigned) || errors.Is(err, muster.ErrNoAuthority) {
		// The authority may be newer than what we know of it.
		wake(a.askState)
	}
	if err != nil {
		return etag, fmt.Errorf("keeping the old list: %w", err)
	}
	if !bytes.Equal(list.Raw, current) {
		if err := a.machine.SetRevoked(ctx, list.Raw); err != nil {
			return etag, err
		}
		a.log.Info("Have a new revocation list", "version", parsed.Version)
	}
	a.showList(parsed.Version, true)
	return list.ETag, nil
}

func (a *Agent) verify(list *muster.List, version uint64) (*krl.KRL, error) {
	r := a.snapshot()
	return list.Verify(r.Identity.ProjectID, r.State.UserCAs, version)
}

// currentList is what sshd reads now. A list of ours that is of another
// project has no version that counts; ensureList's has the lowest.
func (a *Agent) currentList() ([]byte, uint64, error) {
	raw, err := a.machine.Revoked()
	if err != nil || len(raw) == 0 {
		return nil, 0, err
	}
	list, err := krl.Parse(raw)
	if err != nil || list.Comment != a.identity().ProjectID {
		return raw, 0, nil
	}
	return raw, list.Version, nil
}

// showList puts the list into the status; a version of 0 stays as it was.
func (a *Agent) showList(version uint64, checked bool) {
	a.mu.Lock()
	if version > 0 {
		a.status.List.Version = version
	}
	if checked {
		a.status.List.CheckedAt = a.cfg.Now().UTC()
	}
	a.mu.Unlock()
	a.publish()
}

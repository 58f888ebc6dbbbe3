// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sshca

import (
	"context"
	"fmt"
	"runtime/debug"

	"golang.org/x/sync/singleflight"
)

// together lets one of those who want the same at once do the work, and gives
// its result to all. Everybody waits as long as its own context allows, and the
// work, which others may wait for, has to set its own limit. Joined tells that
// the work had begun before the call.
func together[T any](ctx context.Context, group *singleflight.Group, key string, do func() (T, error)) (result T, joined bool, err error) {
	mine := false
	done := group.DoChan(key, func() (value any, err error) {
		mine = true
		// It runs outside of any request, where a panic would end the process.
		defer func() {
			if cause := recover(); cause != nil {
				err = fmt.Errorf("panic: %v\n%s", cause, debug.Stack())
			}
		}()
		return do()
	})
	select {
	case r := <-done:
		if r.Err == nil {
			result = r.Val.(T)
		}
		return result, !mine, r.Err
	case <-ctx.Done():
		return result, false, ctx.Err()
	}
}

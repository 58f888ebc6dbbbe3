// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sudo

import (
	"context"
	"strings"
	"sync"
)

// transcript collects what a program writes.
type transcript struct {
	mu   sync.Mutex
	text strings.Builder
	grew chan struct{} // closed by the next Write; nil: nobody waits
}

func (s *transcript) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.grew != nil {
		close(s.grew)
		s.grew = nil
	}
	return s.text.Write(p)
}

func (s *transcript) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// until returns when the text is as wanted, or with the context's error.
func (s *transcript) until(ctx context.Context, wanted func(text string) bool) error {
	for {
		s.mu.Lock()
		if s.grew == nil {
			s.grew = make(chan struct{})
		}
		text, grew := s.text.String(), s.grew
		s.mu.Unlock()
		if wanted(text) {
			return nil
		}
		select {
		case <-grew:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

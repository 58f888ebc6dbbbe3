// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package krl

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// Never is the expiry of a certificate that is valid for ever.
const Never int64 = math.MaxInt64

// Entry is a revoked serial and when its certificate expires by itself, after
// which it need not be listed.
type Entry struct {
	Serial  uint64
	Expires int64 // Unix time in seconds, or Never
}

// Set keeps the revoked serials of one authority, sorted, so that one more
// among a million costs a move of memory instead of a sort. It needs 16 bytes
// for each entry and up to a quarter more in reserve. The zero value is empty
// and ready. A Set is not safe for use by several goroutines at once.
type Set struct {
	serials  []uint64
	expires  []int64 // of the serial at the same place
	earliest int64   // none expires before it
}

// Len returns the number of serials.
func (s *Set) Len() int { return len(s.serials) }

// Serials returns the serials in ascending order, fit for Authority.Serials.
// The slice belongs to the Set: it must not be changed, and is valid until
// the next Insert or Expire.
func (s *Set) Serials() []uint64 { return slices.Clip(s.serials) }

// Has tells whether the serial is in the set.
func (s *Set) Has(serial uint64) bool {
	_, found := slices.BinarySearch(s.serials, serial)
	return found
}

// Insert adds entries in any order and returns how many serials are new. Of
// two expiries for a serial the later one counts. Serial 0 is passed over,
// since it cannot be revoked. The entries are left as they are.
func (s *Set) Insert(entries ...Entry) int {
	batch := entries
	if !slices.IsSortedFunc(batch, bySerial) {
		batch = slices.Clone(batch)
		slices.SortFunc(batch, bySerial)
	}
	// Most batches lie above all that is known: serials are taken in order.
	above := 0
	if n := len(s.serials); n > 0 {
		above, _ = slices.BinarySearchFunc(batch, s.serials[n-1], func(e Entry, last uint64) int {
			if e.Serial <= last {
				return -1
			}
			return 1
		})
	}
	if len(s.serials) == 0 {
		s.earliest = Never
	}
	for _, e := range batch {
		s.earliest = min(s.earliest, e.Expires)
	}
	return s.merge(batch[:above]) + s.push(batch[above:])
}

// push appends sorted entries that are above all that is known.
func (s *Set) push(batch []Entry) int {
	s.reserve(len(batch))
	before := len(s.serials)
	for _, e := range batch {
		n := len(s.serials)
		switch {
		case e.Serial == 0:
		case n > 0 && s.serials[n-1] == e.Serial:
			s.expires[n-1] = max(s.expires[n-1], e.Expires)
		default:
			s.serials = append(s.serials, e.Serial)
			s.expires = append(s.expires, e.Expires)
		}
	}
	return len(s.serials) - before
}

// merge puts sorted entries in their places between those that are known.
func (s *Set) merge(batch []Entry) int {
	added := s.countNew(batch)
	end := len(s.serials) // what is at or above it stands already in its new place
	s.reserve(added)
	s.serials = s.serials[:end+added]
	s.expires = s.expires[:end+added]
	free := end + added                        // what is at or above it is filled
	for i := len(batch) - 1; free > end; i-- { // ends above serial 0, which is not counted
		e := batch[i]
		at, found := slices.BinarySearch(s.serials[:end], e.Serial)
		if found || i > 0 && batch[i-1].Serial == e.Serial {
			continue
		}
		copy(s.serials[free-(end-at):free], s.serials[at:end])
		copy(s.expires[free-(end-at):free], s.expires[at:end])
		free -= end - at + 1
		s.serials[free], s.expires[free] = e.Serial, e.Expires
		end = at
	}
	for _, e := range batch { // those known before, and duplicates in the batch
		s.prolong(e)
	}
	return added
}

// Expire removes the serials of certificates that expire before the given
// time, and returns how many there were.
func (s *Set) Expire(before time.Time) int {
	limit := before.Unix()
	if limit <= s.earliest {
		return 0
	}
	kept := 0
	s.earliest = Never
	for i, expires := range s.expires {
		if expires >= limit {
			s.serials[kept], s.expires[kept] = s.serials[i], expires
			s.earliest = min(s.earliest, expires)
			kept++
		}
	}
	removed := len(s.serials) - kept
	s.serials, s.expires = s.serials[:kept], s.expires[:kept]
	if cap(s.serials) > 2*kept+1024 {
		s.serials, s.expires = slices.Clone(s.serials), slices.Clone(s.expires)
	}
	return removed
}

func bySerial(a, b Entry) int { return cmp.Compare(a.Serial, b.Serial) }

// countNew counts the different serials of a sorted batch that are not known.
func (s *Set) countNew(batch []Entry) int {
	added := 0
	previous := uint64(0)
	for _, e := range batch {
		if e.Serial != previous && !s.Has(e.Serial) {
			added++
		}
		previous = e.Serial
	}
	return added
}

func (s *Set) prolong(e Entry) {
	if at, found := slices.BinarySearch(s.serials, e.Serial); found && s.expires[at] < e.Expires {
		s.expires[at] = e.Expires
	}
}

func (s *Set) reserve(n int) {
	s.serials = slices.Grow(s.serials, n)
	s.expires = slices.Grow(s.expires, n)
}

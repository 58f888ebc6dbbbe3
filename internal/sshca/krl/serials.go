// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package krl

import (
	"encoding/binary"
	"math"
	"slices"
)

// The serial numbers of an authority are a set of runs (maximal intervals of
// consecutive numbers). Each run goes into one list section that all share
// (8 bytes a serial, and 5 once), into a range section of its own (21 bytes),
// or, with neighbours, into a bitmap section. A bitmap costs 5 bytes of
// section header, 8 of offset, 4 of length, and as an mpint must be positive,
// one byte for each 8 bits begun with at least one zero bit on top:
// 18 + floor(bits/8).
//
// The choice is optimal: a dynamic programme over the runs finds the least
// sum. Splitting a run between sections never helps, because a bitmap that
// touches a run grows by at most 8 bytes for each serial taken from the list.
const (
	sectionCost = 5
	serialCost  = 8
	rangeCost   = sectionCost + 16
	bitmapCost  = sectionCost + 8 + 4 + 1

	// maxBitmapBits is OpenSSH's limit when it reads (SSHBUF_MAX_BIGNUM, 2048
	// bytes). ssh-keygen -k writes longer ones, which nobody can load.
	maxBitmapBits = 16384

	// A bitmap that crosses a gap of this many bits is never smaller than two
	// bitmaps: the gap alone costs as much as the second one's header.
	clusterGap = 8 * bitmapCost
)

// Choices for a run. Any other value n is a bitmap of n-byBitmap+1 runs.
const (
	byList   = 0
	byRange  = 1
	byBitmap = 2
)

// serialEncoder writes a sorted set of serials in the least number of bytes.
// measure must come before append, with the same serials.
type serialEncoder struct {
	noList  bool // no list section pays
	listed  int  // serials in the list section
	compact int  // bytes of all ranges and bitmaps

	// What measure planned for clusters of several serials, a list being
	// allowed, in their order. Muster's serials are dense: a cluster of a million
	// is common, and dear to plan again.
	plans   []clusterPlan
	choices []uint16 // of all these plans
	scratch []uint16 // of a plan that is not kept
	ends    ends
}

// clusterPlan is how a cluster is written.
type clusterPlan struct {
	runs   int // that is also how many choices it has
	listed int // serials that go into the list section
}

// measure decides whether a list section pays at all and computes sizes.
func (e *serialEncoder) measure(serials []uint64) {
	e.plans, e.choices = e.plans[:0], e.choices[:0]
	var listed, compact, withoutList int
	for rest := serials; len(rest) > 0; {
		n := clusterLen(rest)
		cluster := rest[:n]
		rest = rest[n:]

		cost, inList := serialCost, 1
		if n > 1 {
			cost, inList = e.planListing(cluster)
		}
		listed += inList
		compact += cost - inList*serialCost
		if inList > 0 && withoutList < compact+listed*serialCost+sectionCost {
			e.scratch, cost = e.plan(e.scratch[:0], cluster, false)
		}
		withoutList += cost
	}
	withList := compact + listed*serialCost + sectionCost
	if listed == 0 || withoutList <= withList {
		// Where nothing was listed, the plans are the same with and without.
		e.noList, e.listed, e.compact = listed > 0, 0, withoutList
		return
	}
	e.noList, e.listed, e.compact = false, listed, compact
}

// planListing plans a cluster, a list being allowed, and keeps the plan.
func (e *serialEncoder) planListing(cluster []uint64) (cost, listed int) {
	before := len(e.choices)
	e.choices, cost = e.plan(e.choices, cluster, true)
	choices := e.choices[before:]
	listed = countListed(cluster, choices)
	e.plans = append(e.plans, clusterPlan{runs: len(choices), listed: listed})
	return cost, listed
}

// size returns the number of bytes that append will write.
func (e *serialEncoder) size() int {
	if e.listed == 0 {
		return e.compact
	}
	return sectionCost + e.listed*serialCost + e.compact
}

// append writes the sections: the list first, then ranges and bitmaps.
func (e *serialEncoder) append(dst []byte, serials []uint64) []byte {
	end := len(dst) + e.size()
	dst = slices.Grow(dst, e.size())
	list := dst
	if e.listed > 0 {
		list = append(list, certSerialList)
		list = binary.BigEndian.AppendUint32(list, uint32(e.listed*serialCost))
	}
	compact := dst[:end-e.compact]
	plans, choices := e.plans, e.choices
	for rest := serials; len(rest) > 0; {
		n := clusterLen(rest)
		cluster := rest[:n]
		rest = rest[n:]

		kept := clusterPlan{listed: 1}
		if n > 1 {
			kept, plans = plans[0], plans[1:]
		}
		chosen := choices[:kept.runs]
		choices = choices[kept.runs:]
		switch {
		case e.noList && kept.listed > 0:
			e.scratch, _ = e.plan(e.scratch[:0], cluster, false)
			chosen = e.scratch
		case n == 1:
			list = binary.BigEndian.AppendUint64(list, cluster[0])
			continue
		}
		list, compact = appendCluster(list, compact, cluster, chosen)
	}
	return dst[:end]
}

func appendCluster(list, compact []byte, cluster []uint64, choices []uint16) (_, _ []byte) {
	for i := len(choices) - 1; i >= 0; {
		choice := choices[i]
		i -= runsOf(choice)
		n := serialsOf(cluster, choice)
		switch choice {
		case byList:
			for _, serial := range cluster[:n] {
				list = binary.BigEndian.AppendUint64(list, serial)
			}
		case byRange:
			compact = appendRange(compact, cluster[0], cluster[n-1])
		default:
			compact = appendBitmap(compact, cluster[:n])
		}
		cluster = cluster[n:]
	}
	return list, compact
}

// countListed counts the serials that go into the list section. Most large
// clusters have none, which the choices tell without the serials.
func countListed(cluster []uint64, choices []uint16) int {
	first := len(choices) - 1
	for first >= 0 && choices[first] != byList {
		first -= runsOf(choices[first])
	}
	if first < 0 {
		return 0
	}
	listed := 0
	for i := len(choices) - 1; i >= 0; {
		n := serialsOf(cluster, choices[i])
		if choices[i] == byList {
			listed += n
		}
		cluster = cluster[n:]
		i -= runsOf(choices[i])
	}
	return listed
}

// runsOf returns how many runs a choice is for.
func runsOf(choice uint16) int { return max(1, int(choice)-byBitmap+1) }

// serialsOf returns how many serials a choice is for, from the first.
func serialsOf(cluster []uint64, choice uint16) int {
	n := 0
	for range runsOf(choice) {
		n += runLen(cluster[n:])
	}
	return n
}

// plan appends the choices for a cluster and returns their cost in bytes,
// without the header of the list section. useList tells whether listing is
// allowed.
//
// It goes from the last run to the first, so that the choices can be
// followed from the first to the last while the runs are found again.
func (e *serialEncoder) plan(choices []uint16, cluster []uint64, useList bool) ([]uint16, int) {
	e.ends.reset()
	base := cluster[0]
	cost := 0 // of everything above the run at hand
	for run := 0; len(cluster) > 0; run++ {
		n := lastRunLen(cluster)
		last := len(cluster) - n
		begin, end := cluster[last]-base, cluster[len(cluster)-1]-base+1

		e.ends.push(candidate{cost: cost + int(end/8), end: end, run: run})
		best, choice := cost+rangeCost, uint16(byRange)
		if listCost := cost + n*serialCost; useList && listCost <= best {
			best, choice = listCost, byList
		}
		if endRun, bitmap := e.ends.best(begin); bitmapCost+bitmap < best {
			best, choice = bitmapCost+bitmap, uint16(byBitmap+run-endRun)
		}
		choices = append(choices, choice)
		cost = best
		cluster = cluster[:last]
	}
	return choices, cost
}

// candidate is a place where a bitmap may end.
type candidate struct {
	cost int    // of all that follows, plus floor(end/8)
	end  uint64 // first bit after the bitmap, counted from the cluster's first serial
	run  int    // counted from the cluster's last run
}

// window keeps, among the ends of one remainder modulo 8 that a bitmap can
// still reach, those that may become the best: the older the cheaper. Costs
// of two reachable candidates differ by at most bitmapCost+1, since a bitmap
// from one to the other is always possible, so there are never more than 20,
// and one that was just pushed.
type window struct {
	ring  [32]candidate
	head  uint8 // oldest
	count uint8
}

func (w *window) reset() { w.head, w.count = 0, 0 }

func (w *window) push(c candidate) {
	for w.count > 0 && w.ring[(w.head+w.count-1)%32].cost >= c.cost {
		w.count--
	}
	w.ring[(w.head+w.count)%32] = c
	w.count++
}

// forget drops the candidates that a bitmap from begin cannot reach.
func (w *window) forget(begin uint64) {
	for w.count > 0 && w.ring[w.head].end-begin > maxBitmapBits {
		w.head = (w.head + 1) % 32
		w.count--
	}
}

// ends keeps the candidates, one window for each remainder modulo 8. The best
// of each window stands in a row of its own, since they are compared for every run.
type ends struct {
	windows  [8]window
	cheapest [8]int // cost of the window's best candidate, or unreachable; times 8, plus the window's place
	farthest uint64 // the end of one of these, or more
}

// unreachable is more than any plan costs.
const unreachable = math.MaxInt / 16

func (e *ends) reset() {
	for class := range e.windows {
		e.windows[class].reset()
		e.look(class)
	}
	e.farthest = 0
}

func (e *ends) push(c candidate) {
	class := int(c.end % 8)
	e.windows[class].push(c)
	e.look(class)
	e.farthest = max(e.farthest, c.end)
}

func (e *ends) look(class int) {
	cost := unreachable
	if w := &e.windows[class]; w.count > 0 {
		cost = w.ring[w.head%32].cost
	}
	e.cheapest[class] = 8*cost + class
}

// best returns the end of the cheapest bitmap from begin, and what it and all
// that follows cost, without the bitmap's header. It forgets what this and all
// lower beginnings cannot reach.
func (e *ends) best(begin uint64) (run, cost int) {
	if e.farthest-begin > maxBitmapBits {
		e.forget(begin)
	}
	least := 8 * unreachable
	for class, cheapest := range &e.cheapest {
		// Where the remainder of begin is higher, floor((end-begin)/8) borrows
		// one. No branch: it would be guessed wrong half of the time.
		borrowed := int((uint64(class) - begin%8) >> 63)
		least = min(least, cheapest-8*borrowed)
	}
	w := &e.windows[least%8]
	return w.ring[w.head%32].run, least/8 - int(begin/8)
}

func (e *ends) forget(begin uint64) {
	e.farthest = 0
	for class := range e.windows {
		w := &e.windows[class]
		w.forget(begin)
		e.look(class)
		if w.count > 0 {
			e.farthest = max(e.farthest, w.ring[w.head].end)
		}
	}
}

// clusterLen returns how many of the serials, from the first, lie close enough
// together that bitmaps may cross the gaps.
func clusterLen(serials []uint64) int {
	for i := 1; i < len(serials); i++ {
		if serials[i]-serials[i-1] > clusterGap {
			return i
		}
	}
	return len(serials)
}

// runLen returns the number of consecutive serials at the beginning.
func runLen(serials []uint64) int {
	n := 1
	for n < len(serials) && serials[n]-serials[n-1] == 1 {
		n++
	}
	return n
}

// lastRunLen returns the number of consecutive serials at the end.
func lastRunLen(serials []uint64) int {
	i := len(serials) - 1
	for i > 0 && serials[i]-serials[i-1] == 1 {
		i--
	}
	return len(serials) - i
}

func appendRange(dst []byte, low, high uint64) []byte {
	dst = append(dst, certSerialRange)
	dst = binary.BigEndian.AppendUint32(dst, 16)
	dst = binary.BigEndian.AppendUint64(dst, low)
	return binary.BigEndian.AppendUint64(dst, high)
}

// appendBitmap writes a bitmap section: the offset and an mpint in which bit
// n stands for serial offset+n.
func appendBitmap(dst []byte, serials []uint64) []byte {
	offset := serials[0]
	bits := int(serials[len(serials)-1]-offset) + 1
	size := bits/8 + 1
	dst = append(dst, certSerialBitmap)
	dst = binary.BigEndian.AppendUint32(dst, uint32(8+4+size))
	dst = binary.BigEndian.AppendUint64(dst, offset)
	dst = binary.BigEndian.AppendUint32(dst, uint32(size))

	start := len(dst)
	dst = slices.Grow(dst, size)[:start+size]
	bitmap := dst[start:]
	clear(bitmap)
	for _, serial := range serials {
		bit := int(serial - offset)
		bitmap[size-1-bit/8] |= 1 << (bit % 8)
	}
	return dst
}

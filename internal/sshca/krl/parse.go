// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package krl

import (
	"cmp"
	"crypto/sha1"
	"encoding/binary"
	"math/bits"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"
)

// KRL is a list that was read. Ranges and bitmaps stay what they are, so that
// it needs only a small multiple of the list's own size, whatever a list says.
// It may be used by several goroutines.
type KRL struct {
	Version     uint64
	GeneratedAt time.Time // the zero time if the list does not say
	Comment     string

	authorities map[string]*revoked // by the key's blob; "" is any authority
	sha256      map[Fingerprint]struct{}
	sha1        map[[sha1.Size]byte]struct{}
	blobs       map[string]struct{}
}

// revoked is what is revoked under one authority.
type revoked struct {
	serials []uint64 // sorted
	ranges  []interval
	bitmaps []bitmap // sorted by offset
	keyIDs  map[string]struct{}
}

type interval struct{ low, high uint64 }

// bitmap revokes offset+n for each bit n that is set, the last byte first.
type bitmap struct {
	offset uint64
	bits   []byte
}

// Parse reads a list. It is as strict as sshd: an unknown section, an unknown
// critical extension or a byte too many makes the whole list invalid. It also
// refuses the signatures that old versions of OpenSSH wrote. Extensions that
// are not critical are passed over. The list b is not kept.
func Parse(b []byte) (*KRL, error) {
	if len(b) > MaxSize {
		return nil, ErrTooLarge
	}
	r := reader{rest: slices.Clone(b)}
	k := &KRL{authorities: map[string]*revoked{}}
	if string(r.bytes(len(magic))) != magic {
		return nil, malformed("it does not begin with the words of a KRL")
	}
	if version := r.uint32(); r.err == nil && version != formatVersion {
		return nil, malformed("format version %d, want %d", version, formatVersion)
	}
	k.Version = r.uint64()
	if seconds := int64(r.uint64()); seconds > 0 {
		k.GeneratedAt = time.Unix(seconds, 0).UTC()
	}
	r.uint64() // flags
	r.string() // reserved
	k.Comment = r.text()
	for r.more() {
		kind, data := r.byte(), r.string()
		if r.err == nil {
			r.err = k.parseSection(kind, data)
		}
	}
	if r.err != nil {
		return nil, r.err
	}
	for _, a := range k.authorities {
		a.order()
	}
	return k, nil
}

func (k *KRL) parseSection(kind byte, data []byte) error {
	r := reader{rest: data}
	switch kind {
	case sectionCertificates:
		return k.parseCertificates(&r)
	case sectionExplicitKey:
		k.blobs = makeOnce(k.blobs)
		for r.more() {
			k.blobs[string(r.string())] = struct{}{}
		}
	case sectionSHA1:
		k.sha1 = makeOnce(k.sha1)
		for r.more() {
			k.sha1[[sha1.Size]byte(r.hash(sha1.Size))] = struct{}{}
		}
	case sectionSHA256:
		k.sha256 = makeOnce(k.sha256)
		for r.more() {
			k.sha256[Fingerprint(r.hash(len(Fingerprint{})))] = struct{}{}
		}
	case sectionExtension:
		r.extension()
	default:
		return malformed("unknown section %d", kind)
	}
	return r.err
}

func (k *KRL) parseCertificates(r *reader) error {
	blob := r.string()
	r.string() // reserved
	if r.err != nil {
		return r.err
	}
	if len(blob) > 0 {
		key, err := ssh.ParsePublicKey(blob)
		if err != nil {
			return malformed("the key of an authority cannot be read")
		}
		if _, isCert := key.(*ssh.Certificate); isCert {
			return malformed("the key of an authority is a certificate")
		}
		blob = key.Marshal()
	}
	a := k.authorities[string(blob)]
	if a == nil {
		a = &revoked{}
		k.authorities[string(blob)] = a
	}
	for r.more() {
		kind, data := r.byte(), r.string()
		if r.err == nil {
			r.err = a.parseSection(kind, data)
		}
	}
	return r.err
}

func (a *revoked) parseSection(kind byte, data []byte) error {
	r := reader{rest: data}
	switch kind {
	case certSerialList:
		return a.parseSerials(data)
	case certSerialRange:
		low, high := r.uint64(), r.uint64()
		if r.err == nil && (low == 0 || low > high) {
			return malformed("a range of serials from %d to %d", low, high)
		}
		a.ranges = append(a.ranges, interval{low, high})
	case certSerialBitmap:
		m := bitmap{offset: r.uint64(), bits: r.bitmap()}
		if r.err == nil && !m.valid() {
			return malformed("a bitmap at serial %d revokes serial 0 or runs over 2^64", m.offset)
		}
		if len(m.bits) > 0 {
			a.bitmaps = append(a.bitmaps, m)
		}
	case certKeyID:
		a.keyIDs = makeOnce(a.keyIDs)
		for r.more() {
			a.keyIDs[r.text()] = struct{}{}
		}
	case certExtension:
		r.extension()
	default:
		return malformed("unknown certificate section %#x", kind)
	}
	return r.end()
}

func (a *revoked) parseSerials(data []byte) error {
	if len(data)%8 != 0 {
		return malformed("a list of serials of %d bytes", len(data))
	}
	a.serials = slices.Grow(a.serials, len(data)/8)
	for ; len(data) > 0; data = data[8:] {
		serial := binary.BigEndian.Uint64(data)
		if serial == 0 {
			return malformed("serial 0 in a list")
		}
		a.serials = append(a.serials, serial)
	}
	return nil
}

// order sorts what was read so that it can be searched.
func (a *revoked) order() {
	if !ascending(a.serials) {
		slices.Sort(a.serials)
	}
	slices.SortFunc(a.bitmaps, func(x, y bitmap) int { return cmp.Compare(x.offset, y.offset) })
	slices.SortFunc(a.ranges, func(x, y interval) int { return cmp.Compare(x.low, y.low) })
	merged := a.ranges[:0]
	for _, next := range a.ranges {
		if n := len(merged); n > 0 && next.low <= merged[n-1].high {
			merged[n-1].high = max(merged[n-1].high, next.high)
			continue
		}
		merged = append(merged, next)
	}
	a.ranges = merged
}

func (m *bitmap) valid() bool {
	if len(m.bits) == 0 {
		return true
	}
	highest := uint64(len(m.bits)*8 - bits.LeadingZeros8(m.bits[0]) - 1)
	startsAtZero := m.offset == 0 && m.bits[len(m.bits)-1]&1 == 1
	return !startsAtZero && m.offset+highest >= m.offset
}

func (m *bitmap) has(serial uint64) bool {
	bit := serial - m.offset
	return bit < uint64(len(m.bits))*8 && m.bits[uint64(len(m.bits))-1-bit/8]>>(bit%8)&1 == 1
}

// reader takes SSH's data types (RFC 4251, section 5) from the front of a
// list. After the first error it gives only zero values.
type reader struct {
	rest []byte
	err  error
}

func (r *reader) more() bool { return r.err == nil && len(r.rest) > 0 }

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = malformed(format, args...)
	}
}

func (r *reader) bytes(n int) []byte {
	if r.err == nil && n > len(r.rest) {
		r.fail("it ends too early")
	}
	if r.err != nil {
		return nil
	}
	taken := r.rest[:n:n]
	r.rest = r.rest[n:]
	return taken
}

func (r *reader) byte() byte {
	if b := r.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) uint32() uint32 {
	if b := r.bytes(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) uint64() uint64 {
	if b := r.bytes(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (r *reader) string() []byte {
	n := r.uint32()
	if uint64(n) > MaxSize {
		r.fail("it ends too early")
	}
	return r.bytes(int(n))
}

// text takes a string that OpenSSH reads as a C string.
func (r *reader) text() string {
	b := r.string()
	if slices.Contains(b, 0) {
		r.fail("a comment or key ID contains a NUL byte")
	}
	return string(b)
}

// hash takes a string of size bytes, and gives zeros if there is an error.
func (r *reader) hash(size int) []byte {
	b := r.string()
	if r.err == nil && len(b) != size {
		r.fail("a fingerprint of %d bytes, want %d", len(b), size)
	}
	if r.err != nil {
		return make([]byte, size)
	}
	return b
}

// bitmap takes an mpint that is positive and within OpenSSH's limit, and
// returns its bytes without leading zeros.
func (r *reader) bitmap() []byte {
	b := r.string()
	if len(b) > 0 && b[0]&0x80 != 0 {
		r.fail("a bitmap is a negative number")
	}
	if len(b) > maxBitmapBits/8+1 || len(b) == maxBitmapBits/8+1 && b[0] != 0 {
		r.fail("a bitmap has more than %d bits", maxBitmapBits)
	}
	for len(b) > 0 && b[0] == 0 {
		b = b[1:]
	}
	return b
}

// extension passes over an extension that is not critical; no other is known.
func (r *reader) extension() {
	r.string() // name
	if critical := r.byte(); critical != 0 {
		r.fail("an unknown critical extension")
	}
	r.string() // content
	r.err = r.end()
}

// end is the error so far, or that something is left over.
func (r *reader) end() error {
	if r.err == nil && len(r.rest) > 0 {
		r.fail("%d bytes too many in a section", len(r.rest))
	}
	return r.err
}

func makeOnce[K comparable](m map[K]struct{}) map[K]struct{} {
	if m == nil {
		return map[K]struct{}{}
	}
	return m
}

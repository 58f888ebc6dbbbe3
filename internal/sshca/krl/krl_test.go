// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package krl

import (
	"bytes"
	"cmp"
	"crypto/ed25519"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

func newSigner(t testing.TB) ssh.Signer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

func newCert(t testing.TB, authority ssh.Signer, key ssh.PublicKey, serial uint64, keyID string) *ssh.Certificate {
	t.Helper()
	cert := &ssh.Certificate{
		Key: key, Serial: serial, KeyId: keyID, CertType: ssh.UserCert,
		ValidPrincipals: []string{"somebody"}, ValidBefore: ssh.CertTimeInfinity,
	}
	if err := cert.SignCert(strings.NewReader(strings.Repeat("n", 64)), authority); err != nil {
		t.Fatal(err)
	}
	return cert
}

// distributions are the shapes that sets of revoked serials may have.
var distributions = map[string]func(r *rand.Rand) []uint64{
	"random": func(r *rand.Rand) []uint64 { return pick(2000, r.Uint64) },
	"single": func(r *rand.Rand) []uint64 { return []uint64{r.Uint64() | 1} },
	"near the top": func(r *rand.Rand) []uint64 {
		return pick(200, func() uint64 { return math.MaxUint64 - r.Uint64N(2000) })
	},
	"first":    func(r *rand.Rand) []uint64 { return runs(1, 1+r.Uint64N(3000)) },
	"half":     func(r *rand.Rand) []uint64 { return pick(1500, func() uint64 { return 1 + r.Uint64N(3000) }) },
	"sparse":   func(r *rand.Rand) []uint64 { return pick(500, func() uint64 { return 1 + r.Uint64N(20000) }) },
	"hundreds": func(r *rand.Rand) []uint64 { return pick(300, func() uint64 { return 1 + r.Uint64N(30000) }) },
	"few": func(r *rand.Rand) []uint64 {
		return pick(1+r.IntN(6), func() uint64 { return 1000 + r.Uint64N(300) })
	},
	"clusters": func(r *rand.Rand) []uint64 {
		var all []uint64
		for range 40 {
			middle := r.Uint64() | 1<<20
			all = append(all, pick(1+r.IntN(40), func() uint64 { return middle + r.Uint64N(400) })...)
		}
		return sorted(all)
	},
	"runs with holes": func(r *rand.Rand) []uint64 {
		var all []uint64
		next := r.Uint64N(1 << 40)
		for range 60 {
			next += 2 + r.Uint64N(200)
			n := 1 + r.Uint64N(300)
			all = append(all, runs(next, next+n)...)
			next += n
		}
		return sorted(all)
	},
}

func pick(n int, next func() uint64) []uint64 {
	all := make([]uint64, 0, n)
	for range n {
		all = append(all, max(1, next()))
	}
	return sorted(all)
}

func runs(low, high uint64) []uint64 {
	var all []uint64
	for serial := max(low, 1); serial <= high; serial++ {
		all = append(all, serial)
	}
	return all
}

func sorted(all []uint64) []uint64 {
	slices.Sort(all)
	return slices.Compact(all)
}

func TestSerialsSurvive(t *testing.T) {
	signer := newSigner(t)
	for name, make := range distributions {
		t.Run(name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(1, 2))
			for range 20 {
				serials := make(r)
				list := List{Authorities: []Authority{{Key: signer.PublicKey(), Serials: serials}}}
				b, err := list.Marshal()
				if err != nil {
					t.Fatal(err)
				}
				if cap(b)-len(b) > len(b)/4+4096 {
					t.Errorf("%d bytes in a slice of %d", len(b), cap(b))
				}
				k, err := Parse(b)
				if err != nil {
					t.Fatal(err)
				}
				a := k.authorities[string(signer.PublicKey().Marshal())]
				for _, serial := range serials {
					if !a.hasSerial(serial) {
						t.Fatalf("serial %d is lost", serial)
					}
					for _, other := range []uint64{serial - 1, serial + 1, serial ^ 1<<r.IntN(64)} {
						_, want := slices.BinarySearch(serials, other)
						if a.hasSerial(other) != want {
							t.Fatalf("serial %d: revoked = %v", other, !want)
						}
					}
				}
			}
		})
	}
}

// TestLeastSize compares with the best of all ways to write a small set.
func TestLeastSize(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 3000 {
		var serials []uint64
		next := 1 + r.Uint64N(100)
		for range 1 + r.IntN(7) {
			n := 1 + r.Uint64N(cmp.Or(r.Uint64N(5), 40))
			serials = append(serials, runs(next, next+n-1)...)
			next += n + 1 + r.Uint64N([]uint64{10, 100, 160, 5000, 20000}[r.IntN(5)])
		}
		var enc serialEncoder
		enc.measure(serials)
		if got, want := enc.size(), least(serials, false); got != want {
			t.Fatalf("%v: %d bytes, the least is %d", serials, got, want)
		}
		if b := enc.append(nil, serials); len(b) != enc.size() {
			t.Fatalf("%v: wrote %d bytes, measured %d", serials, len(b), enc.size())
		}
	}
}

// least tries all ways to write the serials.
func least(serials []uint64, hasList bool) int {
	if len(serials) == 0 {
		return 0
	}
	n := runLen(serials)
	listed := 8 * n
	if !hasList {
		listed += 5
	}
	best := min(listed+least(serials[n:], true), 21+least(serials[n:], hasList))
	for {
		span := serials[n-1] - serials[0] + 1
		if span > 16384 {
			return best
		}
		best = min(best, 5+8+4+int(span/8)+1+least(serials[n:], hasList))
		if n == len(serials) {
			return best
		}
		n += runLen(serials[n:])
	}
}

func TestUnsortedSerials(t *testing.T) {
	want, err := (&List{Authorities: []Authority{{Serials: []uint64{1, 2, 3, 9}}}}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	given := []uint64{9, 2, 1, 2, 3}
	got, err := (&List{Authorities: []Authority{{Serials: given}}}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
	if !slices.Equal(given, []uint64{9, 2, 1, 2, 3}) {
		t.Errorf("the caller's slice was changed to %v", given)
	}
}

func TestMarshalRefuses(t *testing.T) {
	signer := newSigner(t)
	cert := newCert(t, signer, signer.PublicKey(), 1, "x")
	for name, test := range map[string]struct {
		list List
		want error
	}{
		"zero serial":           {List{Authorities: []Authority{{Serials: []uint64{0, 1}}}}, ErrZeroSerial},
		"unsorted zero serial":  {List{Authorities: []Authority{{Serials: []uint64{1, 0}}}}, ErrZeroSerial},
		"NUL in comment":        {List{Comment: "a\x00"}, ErrText},
		"NUL in key ID":         {List{Authorities: []Authority{{KeyIDs: []string{"a\x00b"}}}}, ErrText},
		"certificate authority": {List{Authorities: []Authority{{Key: cert, Serials: []uint64{1}}}}, ErrAuthority},
		"too many keys":         {List{Keys: make([]Fingerprint, MaxSize/36+1)}, ErrTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := test.list.Marshal(); !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}

func TestRevoked(t *testing.T) {
	authority, other, stranger := newSigner(t), newSigner(t), newSigner(t)
	alice, bob := newSigner(t).PublicKey(), newSigner(t).PublicKey()
	list := List{
		Version: 7, GeneratedAt: time.Unix(1700000000, 0), Comment: "for tests",
		Authorities: []Authority{
			{Key: authority.PublicKey(), Serials: []uint64{5, 6}, KeyIDs: []string{"carol_9"}},
			{Key: nil, Serials: []uint64{77}, KeyIDs: []string{"everywhere"}},
			{Key: stranger.PublicKey()},
		},
		Keys: []Fingerprint{FingerprintOf(bob), FingerprintOf(other.PublicKey())},
	}
	b, err := list.Append([]byte("before"))
	if err != nil {
		t.Fatal(err)
	}
	k, err := Parse(bytes.TrimPrefix(b, []byte("before")))
	if err != nil {
		t.Fatal(err)
	}
	if k.Version != 7 || !k.GeneratedAt.Equal(list.GeneratedAt) || k.Comment != "for tests" {
		t.Errorf("header: got %d, %v, %q", k.Version, k.GeneratedAt, k.Comment)
	}
	for name, test := range map[string]struct {
		key  ssh.PublicKey
		want bool
	}{
		"listed serial":                  {newCert(t, authority, alice, 5, "a"), true},
		"other serial":                   {newCert(t, authority, alice, 7, "a"), false},
		"no serial":                      {newCert(t, authority, alice, 0, "a"), false},
		"same serial, another authority": {newCert(t, stranger, alice, 5, "a"), false},
		"key ID":                         {newCert(t, authority, alice, 8, "carol_9"), true},
		"key ID, another authority":      {newCert(t, stranger, alice, 8, "carol_9"), false},
		"key ID of any authority":        {newCert(t, stranger, alice, 8, "everywhere"), true},
		"serial of any authority":        {newCert(t, stranger, alice, 77, "a"), true},
		"certificate for a revoked key":  {newCert(t, authority, bob, 8, "a"), true},
		"by a revoked authority":         {newCert(t, other, alice, 8, "a"), true},
		"revoked key":                    {bob, true},
		"other key":                      {alice, false},
		"no key":                         {nil, true},
	} {
		if got := k.Revoked(test.key); got != test.want {
			t.Errorf("%s: revoked = %v", name, got)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	header, err := (&List{}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	section := func(kind byte, data string) string { return string(appendString([]byte{kind}, data)) }
	certs := func(sub string) string {
		return string(header) + section(sectionCertificates, "\x00\x00\x00\x00\x00\x00\x00\x00"+sub)
	}
	u64 := func(n byte) string { return "\x00\x00\x00\x00\x00\x00\x00" + string([]byte{n}) }
	top := strings.Repeat("\xff", 8)
	mpint := func(b string) string { return string(appendString(nil, b)) }
	for name, test := range map[string]struct {
		in string
		ok bool
	}{
		"header only":            {string(header), true},
		"nothing":                {"", false},
		"cut header":             {string(header[:20]), false},
		"another format version": {strings.Replace(string(header), "\x00\x00\x00\x01", "\x00\x00\x00\x02", 1), false},
		"trailing byte":          {string(header) + "\x01", false},
		"unknown section":        {string(header) + section(9, ""), false},
		"signature":              {string(header) + section(4, ""), false},
		"short fingerprint":      {string(header) + section(sectionSHA256, mpint("abc")), false},
		"harmless extension":     {string(header) + section(sectionExtension, mpint("x")+"\x00"+mpint("y")), true},
		"critical extension":     {string(header) + section(sectionExtension, mpint("x")+"\x01"+mpint("y")), false},
		"bad authority":          {string(header) + section(sectionCertificates, mpint("abc")+mpint("")), false},
		"empty authority":        {certs(""), true},
		"serial":                 {certs(section(certSerialList, u64(1))), true},
		"serial zero":            {certs(section(certSerialList, u64(0))), false},
		"half a serial":          {certs(section(certSerialList, "\x00\x01")), false},
		"range":                  {certs(section(certSerialRange, u64(1)+top)), true},
		"range from zero":        {certs(section(certSerialRange, u64(0)+u64(9))), false},
		"range upside down":      {certs(section(certSerialRange, u64(3)+u64(2))), false},
		"range and more":         {certs(section(certSerialRange, u64(1)+u64(2)+"x")), false},
		"bitmap":                 {certs(section(certSerialBitmap, u64(1)+mpint("\x01"))), true},
		"bitmap at the top":      {certs(section(certSerialBitmap, top+mpint("\x01"))), true},
		"bitmap over the top":    {certs(section(certSerialBitmap, top+mpint("\x02"))), false},
		"bitmap with serial 0":   {certs(section(certSerialBitmap, u64(0)+mpint("\x03"))), false},
		"bitmap without 0":       {certs(section(certSerialBitmap, u64(0)+mpint("\x02"))), true},
		"negative bitmap":        {certs(section(certSerialBitmap, u64(1)+mpint("\x80"))), false},
		"longest bitmap":         {certs(section(certSerialBitmap, u64(1)+mpint("\x00"+strings.Repeat("\xff", 2048)))), true},
		"longer bitmap":          {certs(section(certSerialBitmap, u64(1)+mpint("\x01"+strings.Repeat("\xff", 2048)))), false},
		"key ID":                 {certs(section(certKeyID, mpint("x"))), true},
		"key ID with NUL":        {certs(section(certKeyID, mpint("x\x00"))), false},
		"unknown subsection":     {certs(section(0x30, "")), false},
		"subsection too long":    {certs("\x20\xff\xff\xff\xff"), false},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Parse([]byte(test.in)); (err == nil) != test.ok {
				t.Errorf("got error %v, want accepted = %v", err, test.ok)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	signer := newSigner(f)
	cert := newCert(f, signer, signer.PublicKey(), 3, "x")
	r := rand.New(rand.NewPCG(5, 6))
	for _, make := range distributions {
		serials := make(r)
		serials = serials[:min(len(serials), 40)] // small seeds keep the fuzzer fast
		list := List{
			Comment:     "seed",
			Authorities: []Authority{{KeyIDs: []string{"a"}}, {Key: signer.PublicKey(), Serials: serials}},
			Keys:        []Fingerprint{FingerprintOf(cert)},
		}
		b, err := list.Marshal()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := Parse(b)
		if err == nil {
			k.Revoked(cert)
			k.Revoked(signer.PublicKey())
		} else if k != nil {
			t.Error("a list and an error")
		}
	})
}

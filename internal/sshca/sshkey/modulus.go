// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package sshkey

import (
	"math/big"
	"math/bits"
)

const (
	// Factors below this are looked for. A sound key's are hundreds of bits.
	smallPrimeLimit = 2048

	// fermatSteps bounds the search for two primes that are too close. Random
	// primes are never found, however many steps are made; keys known from
	// practice (CVE-2022-26320) fall within the first few.
	fermatSteps = 100
)

// checkModulus refuses an RSA modulus that is known to be weak, as far as
// that is cheap: small factors, the fingerprint of ROCA (CVE-2017-15361), and
// primes close to each other.
func checkModulus(n *big.Int) error {
	if n.Bit(0) == 0 {
		return reject("the RSA key's modulus is even, so it is no RSA key; make a new key")
	}
	roca := true
	for _, batch := range primeBatches {
		residue := modWord(n, batch.product)
		for _, prime := range batch.primes {
			r := residue % prime.value
			if r == 0 {
				return reject("the RSA key's modulus has a small factor; make a new key with: ssh-keygen -t ed25519")
			}
			roca = roca && (prime.rocaPowers == nil || prime.rocaPowers[r])
		}
	}
	if roca {
		return reject("the RSA key was made by a faulty chip (ROCA, CVE-2017-15361) and can be broken; " +
			"make a new key with: ssh-keygen -t ed25519")
	}
	if closePrimes(n) {
		return reject("the RSA key's primes are too close to each other, so it can be broken; " +
			"make a new key with: ssh-keygen -t ed25519")
	}
	return nil
}

// primeBatch is a set of odd primes whose product fits a machine word, so
// that one division of the modulus serves them all.
type primeBatch struct {
	product uint
	primes  []smallPrime
}

type smallPrime struct {
	value uint
	// rocaPowers marks the powers of 65537 modulo the prime. Keys from the
	// faulty library are such a power modulo every prime up to 167; another
	// key is so with a probability of 2^-27. Nil for larger primes.
	rocaPowers []bool
}

var primeBatches = makePrimeBatches()

func makePrimeBatches() []primeBatch {
	var batches []primeBatch
	composite := make([]bool, smallPrimeLimit)
	for p := uint(3); p < smallPrimeLimit; p += 2 {
		if composite[p] {
			continue
		}
		for multiple := p * p; multiple < smallPrimeLimit; multiple += 2 * p {
			composite[multiple] = true
		}
		last := len(batches) - 1
		if last >= 0 {
			if overflow, product := bits.Mul(batches[last].product, p); overflow == 0 {
				batches[last].product = product
				batches[last].primes = append(batches[last].primes, newSmallPrime(p))
				continue
			}
		}
		batches = append(batches, primeBatch{product: p, primes: []smallPrime{newSmallPrime(p)}})
	}
	return batches
}

func newSmallPrime(p uint) smallPrime {
	if p > 167 {
		return smallPrime{value: p}
	}
	powers := make([]bool, p)
	for power := uint(1); !powers[power]; power = power * 65537 % p {
		powers[power] = true
	}
	return smallPrime{value: p, rocaPowers: powers}
}

// modWord returns n modulo m, for n of any length.
func modWord(n *big.Int, m uint) uint {
	words := n.Bits()
	var r uint
	for i := len(words) - 1; i >= 0; i-- {
		_, r = bits.Div(r, uint(words[i]), m)
	}
	return r
}

// closePrimes makes the first steps of Fermat's factorization: n = a²-b² with a
// near the square root of n. Equal primes are found too.
func closePrimes(n *big.Int) bool {
	a := new(big.Int).Sqrt(n)
	square := new(big.Int).Mul(a, a)
	if square.Cmp(n) == 0 {
		return true
	}
	a.Add(a, big.NewInt(1))
	residues := newSquareResidues(a, n)
	for step := range int64(fermatSteps) {
		if residues.maySquare() {
			b := new(big.Int).Add(a, big.NewInt(step))
			b.Mul(b, b).Sub(b, n)
			root := new(big.Int).Sqrt(b)
			if root.Mul(root, root).Cmp(b) == 0 {
				return true
			}
		}
		residues.next()
	}
	return false
}

// squareModuli are coprime; few residues of each are squares, so nearly every
// number that is no square is known by one of them.
var squareModuli = [...]uint{64, 63, 65, 11, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53}

var squareTables = makeSquareTables()

func makeSquareTables() [len(squareModuli)][]bool {
	var tables [len(squareModuli)][]bool
	for i, m := range squareModuli {
		tables[i] = make([]bool, m)
		for root := range m {
			tables[i][root*root%m] = true
		}
	}
	return tables
}

// squareResidues follows a and n modulo each of squareModuli.
type squareResidues struct {
	a, n [len(squareModuli)]uint
}

func newSquareResidues(a, n *big.Int) *squareResidues {
	var s squareResidues
	for i, m := range squareModuli {
		s.a[i], s.n[i] = modWord(a, m), modWord(n, m)
	}
	return &s
}

// maySquare is false only if a²-n is certainly no square.
func (s *squareResidues) maySquare() bool {
	for i, m := range squareModuli {
		if !squareTables[i][(s.a[i]*s.a[i]+m-s.n[i])%m] {
			return false
		}
	}
	return true
}

// next adds one to a.
func (s *squareResidues) next() {
	for i, m := range squareModuli {
		if s.a[i]++; s.a[i] == m {
			s.a[i] = 0
		}
	}
}

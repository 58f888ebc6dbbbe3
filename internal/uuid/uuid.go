// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Package uuid reads the identifiers that OpenStack gives to projects, users,
// instances and tokens, and writes them in the one form that Muster keeps: 32
// lower-case hexadecimal digits.
//
// It accepts just the two spellings that OpenStack services use. Braces, a
// "urn:" prefix and dashes elsewhere are refused, because two spellings of one
// identifier that compare unequal are a way around an ownership check. It
// never makes identifiers up.
package uuid

import "errors"

// ErrInvalid is what every function here returns for text that is no identifier.
var ErrInvalid = errors.New("not a UUID: want 32 hexadecimal digits, or 8-4-4-4-12 with dashes")

// Parse returns s as 32 lower-case hexadecimal digits. It takes 32 digits, or
// 36 characters with dashes as in RFC 9562, in any case.
func Parse(s string) (string, error) {
	switch len(s) {
	case 32:
		return lowerHex(s)
	case 36:
		if s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
			return "", ErrInvalid
		}
		return lowerHex(s[:8] + s[9:13] + s[14:18] + s[19:23] + s[24:])
	default:
		return "", ErrInvalid
	}
}

// ParseUser is Parse for Keystone's user IDs, which are 64 hexadecimal digits
// for users that come from LDAP or from federation (Keystone's sha256 ID
// generator).
func ParseUser(s string) (string, error) {
	if len(s) == 64 {
		return lowerHex(s)
	}
	return Parse(s)
}

// Dashed returns a parsed identifier of 32 digits in the form 8-4-4-4-12,
// which is how Nova writes instance IDs. Any other text is returned unchanged.
func Dashed(id string) string {
	if len(id) != 32 {
		return id
	}
	return id[:8] + "-" + id[8:12] + "-" + id[12:16] + "-" + id[16:20] + "-" + id[20:]
}

func lowerHex(s string) (string, error) {
	lower := []byte(s)
	for i, c := range lower {
		switch {
		case c >= '0' && c <= '9', c >= 'a' && c <= 'f':
		case c >= 'A' && c <= 'F':
			lower[i] = c + ('a' - 'A')
		default:
			return "", ErrInvalid
		}
	}
	return string(lower), nil
}

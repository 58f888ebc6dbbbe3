// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package store

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// The limits of a page.
const (
	DefaultPageLimit = 100
	MaxPageLimit     = 1000
)

// Page is the part of a list that a call returns.
type Page struct {
	After string // the last key seen, exclusive; empty: from the start
	Limit int    // 0: DefaultPageLimit; at most MaxPageLimit
}

// limit returns how many records the page holds.
func (p Page) limit() (int, error) {
	if p.Limit < 0 || p.Limit > MaxPageLimit {
		return 0, fmt.Errorf("page: %w: the limit is from 1 to %d", ErrInvalid, MaxPageLimit)
	}
	if len(p.After) > maxID || asciiOnly(p.After) != p.After {
		return 0, fmt.Errorf("page: %w: the marker is not one of ours", ErrInvalid)
	}
	return cmp.Or(p.Limit, DefaultPageLimit), nil
}

// afterSerial reads the marker of a list that goes by serial.
func (p Page) afterSerial() (uint64, error) {
	if p.After == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(p.After, 10, 63)
	if err != nil {
		return 0, fmt.Errorf("page: %w: the marker is not a serial", ErrInvalid)
	}
	return n, nil
}

// Filter selects records of a list; empty fields select all. A field that the listed kind doesn't have is refused with ErrInvalid.
type Filter struct {
	ProjectID  string
	UserID     string
	InstanceID string
}

// conditions collects the WHERE of a list. A list has few forms, and so few statements.
type conditions struct {
	texts []string
	args  []any
}

func (c *conditions) add(text string, arg any) {
	c.texts = append(c.texts, text)
	c.args = append(c.args, arg)
}

// addSet adds a condition if the caller asked for it.
func (c *conditions) addSet(text, arg string) {
	if arg != "" {
		c.add(text, arg)
	}
}

func (c *conditions) where() string {
	if len(c.texts) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(c.texts, " AND ")
}

// The widths of columns, in bytes.
const (
	maxID      = 64
	maxName    = 255 // a name of Keystone's has as many characters, see check.name
	maxText    = 1024
	maxLine    = 16384 // a public key or certificate
	maxJSON    = 32768
	maxHandle  = 32768
	maxWant    = 131072
	maxObject  = 512
	maxSerial  = 1<<53 - 1
	maxDetails = 64
)

// check says which value can't be stored.
type check struct{ err error }

// text checks a value's length in bytes, and that all databases take it.
func (c *check) text(name, value string, limit int) {
	switch {
	case c.err != nil:
	case len(value) > limit:
		c.err = fmt.Errorf("%s: %w: longer than %d bytes", name, ErrInvalid, limit)
	case !plain(value):
		c.err = fmt.Errorf("%s: %w: not UTF-8, or with a zero byte", name, ErrInvalid)
	}
}

// name checks a name of Keystone's, which has up to 255 characters.
func (c *check) name(name, value string) {
	if c.err == nil && utf8.RuneCountInString(value) > maxName {
		c.err = fmt.Errorf("%s: %w: longer than %d characters", name, ErrInvalid, maxName)
	}
	c.text(name, value, utf8.UTFMax*maxName)
}

// id checks an ID that must be there.
func (c *check) id(name, value string) {
	if c.err == nil && value == "" {
		c.err = fmt.Errorf("%s: %w: missing", name, ErrInvalid)
	}
	c.ascii(name, value)
}

// ascii checks an ID or fingerprint, which may be missing.
func (c *check) ascii(name, value string) {
	if c.err == nil && asciiOnly(value) != value {
		c.err = fmt.Errorf("%s: %w: not ASCII", name, ErrInvalid)
	}
	c.text(name, value, maxID)
}

// asciiOnly puts a question mark for each character that isn't printable ASCII.
func asciiOnly(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}

func (c *check) that(ok bool, message string) {
	if c.err == nil && !ok {
		c.err = fmt.Errorf("%w: %s", ErrInvalid, message)
	}
}

// plain: PostgreSQL takes nothing else as text.
func plain(s string) bool { return utf8.ValidString(s) && !strings.Contains(s, "\x00") }

// cut makes foreign text fit.
func cut(s string, limit int) string {
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
	if len(s) <= limit {
		return s
	}
	s = s[:limit]
	for !utf8.ValidString(s) {
		s = s[:len(s)-1]
	}
	return s
}

// note makes an error fit, in one line: joined errors have one for each, and so have some of other services.
func note(s string) string {
	lines := slices.DeleteFunc(strings.Split(strings.ReplaceAll(s, "\r", "\n"), "\n"), func(line string) bool {
		return strings.TrimSpace(line) == ""
	})
	return cut(strings.Join(lines, "; "), maxText)
}

// encodeList writes a list of names. JSON, for a name may hold any character.
func encodeList(names []string) string {
	if len(names) == 0 {
		return "[]"
	}
	text, err := json.Marshal(names)
	if err != nil {
		return "[]"
	}
	return string(text)
}

func decodeList(text string) ([]string, error) {
	var names []string
	if err := json.Unmarshal([]byte(text), &names); err != nil {
		return nil, fmt.Errorf("%w: a list in the database is damaged", ErrUnavailable)
	}
	return names, nil
}

func scanString(r scanner) (string, error) {
	var s string
	err := r.Scan(&s)
	return s, err
}

func scanUint(r scanner) (uint64, error) {
	var n int64
	err := r.Scan(&n)
	return uint64(n), err
}

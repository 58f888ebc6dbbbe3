// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"strings"
	"unicode/utf8"
)

// maxFile bounds a configuration file. Real ones have a few kilobytes.
const maxFile = 1 << 20

// assignment is one `key = value` of a file, with its continuation lines
// joined by line feeds as oslo.config does.
type assignment struct {
	section string // as written between the brackets
	key     string
	value   string
	line    int // of the key
}

// header is one `[section]` line.
type header struct {
	section string
	line    int
}

// document is a parsed file: its assignments and sections in the order of the
// file.
type document struct {
	headers     []header
	assignments []assignment
}

// syntaxError is a line that oslo.config refuses. It never holds the line's
// text, which may be part of a secret.
type syntaxError struct {
	line    int
	message string
	hint    string
}

func (e *syntaxError) Error() string { return e.message }

// parseINI reads text by the rules of oslo_config.iniparser:
//
//   - a line that starts with a blank or a tab continues the value before it;
//     a blank line or a comment ends a value
//   - `#` and `;` start a comment only in the first column
//   - a key ends at the first `=` or `:`; a value that is wholly inside one pair
//     of equal quotes on its first line loses them
//   - a section goes on until the next, and may come again
//
// It stops at the first line that breaks them, as oslo.config does: what
// follows such a line can't be told apart from the rest of a broken value.
func parseINI(text string) (document, *syntaxError) {
	p := iniParser{}
	if !utf8.ValidString(text) {
		return document{}, &syntaxError{1, "the file is not UTF-8 text", "save it as UTF-8"}
	}
	for i, line := range splitLines(text) {
		if err := p.next(i+1, strings.TrimRightFunc(line, isSpace)); err != nil {
			return p.doc, err
		}
	}
	p.flush()
	return p.doc, nil
}

type iniParser struct {
	doc     document
	section string
	open    *assignment // the value that continuation lines may still extend
	more    []string    // those lines
}

func (p *iniParser) next(number int, line string) *syntaxError {
	switch {
	case line == "":
		p.flush()
		return nil
	case line[0] == ' ' || line[0] == '\t':
		if p.open == nil {
			return &syntaxError{number, "an indented line that continues no value",
				"remove the blanks before it, or the empty or comment line above it"}
		}
		p.more = append(p.more, strings.TrimLeftFunc(line, isSpace))
		return nil
	}
	p.flush()
	switch line[0] {
	case '[':
		return p.startSection(number, line)
	case '#', ';':
		return nil
	}
	return p.assign(number, line)
}

func (p *iniParser) startSection(number int, line string) *syntaxError {
	if line[len(line)-1] != ']' {
		return &syntaxError{number, "a section line must end with ]", "write [section] and nothing after it"}
	}
	if len(line) <= len("[]") {
		return &syntaxError{number, "a section without a name", "write [DEFAULT] or another section's name"}
	}
	p.section = line[1 : len(line)-1]
	p.doc.headers = append(p.doc.headers, header{p.section, number})
	return nil
}

func (p *iniParser) assign(number int, line string) *syntaxError {
	end := strings.IndexAny(line, "=:")
	if end < 0 {
		return &syntaxError{number, "neither a section, a comment nor `option = value`",
			"indent it if it continues the value above"}
	}
	key := strings.TrimFunc(line[:end], isSpace)
	if key == "" {
		return &syntaxError{number, "a value without an option's name", "write `option = value`"}
	}
	if p.section == "" {
		return &syntaxError{number, "an option before the first section", "put [DEFAULT] or another section above it"}
	}
	value := unquote(strings.TrimFunc(line[end+1:], isSpace))
	p.open = &assignment{section: p.section, key: key, value: value, line: number}
	return nil
}

func (p *iniParser) flush() {
	if p.open == nil {
		return
	}
	if len(p.more) > 0 {
		p.open.value += "\n" + strings.Join(p.more, "\n")
	}
	p.doc.assignments = append(p.doc.assignments, *p.open)
	p.open, p.more = nil, nil
}

// unquote removes one pair of equal quotes around s. A single quote character
// alone becomes empty, as in oslo.config.
func unquote(s string) string {
	if s == "" || (s[0] != '"' && s[0] != '\'') || s[0] != s[len(s)-1] {
		return s
	}
	if len(s) == 1 {
		return ""
	}
	return s[1 : len(s)-1]
}

// splitLines splits at LF, CR LF and CR, Python's universal newlines.
func splitLines(text string) []string {
	text = strings.ReplaceAll(text, "\r\n", "\n")
	return strings.Split(strings.ReplaceAll(text, "\r", "\n"), "\n")
}

// isSpace is Python's str.isspace, which knows four separators more than
// unicode.IsSpace.
func isSpace(r rune) bool {
	switch r {
	case '\t', '\n', '\v', '\f', '\r', ' ', 0x1c, 0x1d, 0x1e, 0x1f, 0x85, 0xa0,
		0x1680, 0x2028, 0x2029, 0x202f, 0x205f, 0x3000:
		return true
	}
	return r >= 0x2000 && r <= 0x200a
}

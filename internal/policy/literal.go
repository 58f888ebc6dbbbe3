// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// template is the right side of a check: text with %(NAME)s in it, which
// Python's % operator fills from the target.
type template []part

// part is either fixed text, or the name of an attribute of the target.
type part struct {
	text      string
	attribute bool
}

var errFormat = errors.New(`the part after ":" may hold only %(name)s and %% besides plain text`)

// parseTemplate reads what oslo.policy's checks can format with a dictionary.
// A name may hold balanced parentheses, as in Python.
func parseTemplate(s string) (template, error) {
	var t template
	var plain strings.Builder
	for {
		before, after, found := strings.Cut(s, "%")
		plain.WriteString(before)
		if !found {
			break
		}
		if rest, ok := strings.CutPrefix(after, "%"); ok {
			plain.WriteByte('%')
			s = rest
			continue
		}
		name, rest, err := substitution(after)
		if err != nil {
			return nil, err
		}
		if plain.Len() > 0 {
			t = append(t, part{text: plain.String()})
			plain.Reset()
		}
		t = append(t, part{text: name, attribute: true})
		s = rest
	}
	if plain.Len() > 0 {
		t = append(t, part{text: plain.String()})
	}
	return t, nil
}

// substitution reads "(NAME)s" and returns NAME and what follows.
func substitution(s string) (name, rest string, err error) {
	if !strings.HasPrefix(s, "(") {
		return "", "", errFormat
	}
	depth := 0
	for i := range len(s) {
		switch s[i] {
		case '(':
			depth++
		case ')':
			depth--
		}
		if depth == 0 {
			if !strings.HasPrefix(s[i+1:], "s") {
				return "", "", errFormat
			}
			return s[1:i], s[i+2:], nil
		}
	}
	return "", "", errFormat
}

// fixed says that the template has no substitution.
func (t template) fixed() bool {
	return len(t) == 0 || len(t) == 1 && !t[0].attribute
}

// expand fills the template. It fails if the target lacks an attribute; the
// check is then false, whatever its left side is.
func (t template) expand(target Target) (string, bool) {
	switch len(t) {
	case 0:
		return "", true
	case 1:
		return t[0].value(target)
	}
	var b strings.Builder
	for _, p := range t {
		text, ok := p.value(target)
		if !ok {
			return "", false
		}
		b.WriteString(text)
	}
	return b.String(), true
}

func (p part) value(target Target) (string, bool) {
	if !p.attribute {
		return p.text, true
	}
	value, ok := target[p.text]
	if !ok {
		return "", false
	}
	text, ok := pythonText(value)
	if !ok {
		return noText, true
	}
	return text, true
}

// noText stands for a list or dictionary of the target. It equals no literal
// and no name, but unlike a missing attribute it lets the left side be looked
// at, which may be broken.
const noText = "\x00"

// pythonText returns a value as Python's str() writes it. Lists and
// dictionaries have no text here: they equal nothing.
func pythonText(value any) (string, bool) {
	switch v := value.(type) {
	case string:
		return v, true
	case nil:
		return "None", true
	case bool:
		if v {
			return "True", true
		}
		return "False", true
	case int:
		return strconv.Itoa(v), true
	case int64:
		return strconv.FormatInt(v, 10), true
	case uint64:
		return strconv.FormatUint(v, 10), true
	case float64:
		return pythonFloat(v), true
	default:
		return "", false
	}
}

// pythonFloat writes a float as Python's repr(): the shortest text that reads
// back the same, with an exponent below 1e-4 and from 1e16.
func pythonFloat(f float64) string {
	scientific := strconv.FormatFloat(f, 'e', -1, 64)
	_, exponent, found := strings.Cut(scientific, "e")
	if !found { // infinite, or not a number
		return strings.ToLower(strings.TrimPrefix(scientific, "+"))
	}
	if n, err := strconv.Atoi(exponent); err == nil && n >= -4 && n < 16 {
		decimal := strconv.FormatFloat(f, 'f', -1, 64)
		if !strings.Contains(decimal, ".") {
			decimal += ".0"
		}
		return decimal
	}
	return scientific
}

// parseLeft reads the left side of a check that is neither "rule" nor "role".
// oslo.policy takes it for a Python literal if ast.literal_eval does, and else
// for a path into the credentials; where it is no Python expression at all,
// oslo.policy fails at each call, so it is refused here.
//
// Literals are None, True, False, numbers, and quoted text without backslashes.
// Python's other literals (bytes, tuples, escapes) have no use in a policy.
func parseLeft(kind string) (literal string, path []string, err error) {
	switch {
	case kind == "None" || kind == "True" || kind == "False":
		return kind, nil, nil
	case isQuoted(kind):
		return kind[1 : len(kind)-1], nil, nil
	case isPath(kind):
		return "", strings.Split(kind, "."), nil
	}
	if text, ok := parseNumber(kind); ok {
		return text, nil, nil
	}
	return "", nil, fmt.Errorf("%.80q is neither the name of a credential nor a literal", kind)
}

func isQuoted(s string) bool {
	if len(s) < 2 || s[0] != s[len(s)-1] || s[0] != '\'' && s[0] != '"' {
		return false
	}
	return !strings.ContainsAny(s[1:len(s)-1], string(s[0])+"\\\r\n\x00")
}

// parseNumber returns a Python integer or float as str() writes it.
func parseNumber(s string) (string, bool) {
	digits := strings.TrimPrefix(s, "-")
	sign := s[:len(s)-len(digits)]
	if sign == "" {
		digits = strings.TrimPrefix(s, "+")
	}
	if digits == "" || strings.Trim(digits, "0123456789.eE+-") != "" {
		return "", false
	}
	if strings.Trim(digits, "0123456789") != "" {
		if digits[0] == '+' || digits[0] == '-' {
			return "", false
		}
		f, err := strconv.ParseFloat(digits, 64)
		if err != nil && !errors.Is(err, strconv.ErrRange) {
			return "", false
		}
		return sign + pythonFloat(f), true
	}
	if strings.Trim(digits, "0") == "" {
		return "0", true
	}
	return sign + digits, digits[0] != '0'
}

// keywords are the words that Python refuses as a name. None, True and False
// may begin a path, but not go on one.
var keywords = []string{
	"and", "as", "assert", "async", "await", "break", "class", "continue", "def", "del", "elif", "else", "except",
	"finally", "for", "from", "global", "if", "import", "in", "is", "lambda", "nonlocal", "not", "or", "pass",
	"raise", "return", "try", "while", "with", "yield",
}

// isPath says whether Python reads s as names joined by dots or minus signs,
// which is what ast.literal_eval declines and oslo.policy then looks up.
func isPath(s string) bool {
	for operand := range strings.SplitSeq(s, "-") {
		for i, name := range strings.Split(operand, ".") {
			if !isName(name) || i > 0 && (name == "None" || name == "True" || name == "False") {
				return false
			}
		}
	}
	return true
}

func isName(s string) bool {
	for i, r := range s {
		if r != '_' && !unicode.IsLetter(r) && (i == 0 || !unicode.IsDigit(r)) {
			return false
		}
	}
	return s != "" && !slices.Contains(keywords, s)
}

// lower is Python's str.lower() as far as role names need it. Unlike Go it
// keeps the dot of a capital I with a dot, so that such a name is not taken
// for the one with a plain i.
func lower(s string) string {
	return strings.ToLower(strings.ReplaceAll(s, "\u0130", "i\u0307"))
}

// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"fmt"
	"strings"
)

const (
	// maxRuleLen bounds the text of one rule, in bytes.
	maxRuleLen = 64 << 10
	// maxDepth bounds parentheses and "not" within one rule.
	maxDepth = 100
)

var (
	errIncomplete = errors.New(`the rule ends where a check, "not" or "(" was expected`)
	errTooDeep    = fmt.Errorf(`more than %d nested "(" and "not"`, maxDepth)
	errTooLong    = fmt.Errorf("longer than %d bytes", maxRuleLen)
)

// parseText parses a rule in the policy language:
//
//	expr  = all { "or" all }
//	all   = unit { "and" unit }
//	unit  = "not" unit | "(" expr ")" | check
//	check = "@" | "!" | KIND ":" MATCH
//
// oslo.policy's own parser reduces a stack of tokens instead; its results are
// those of this grammar. Empty text allows everybody.
func parseText(text string) (check, error) {
	if text == "" {
		return constant(allow), nil
	}
	if len(text) > maxRuleLen {
		return nil, errTooLong
	}
	p := parser{tokens: tokenize(text)}
	c, err := p.expr(0)
	if err != nil {
		return nil, err
	}
	if len(p.tokens) > 0 {
		return nil, fmt.Errorf(`%.80q where "and", "or" or the end was expected`, p.tokens[0].text)
	}
	return c, nil
}

// parseList parses the old form, a list of lists of checks: the outer list is
// joined by "or", the inner ones by "and". A check there is taken as it
// stands, blanks and parentheses included.
func parseList(alternatives [][]string) (check, error) {
	if len(alternatives) == 0 {
		return constant(allow), nil
	}
	var either anyOf
	for _, texts := range alternatives {
		if len(texts) == 0 {
			continue
		}
		var all allOf
		for _, text := range texts {
			if len(text) > maxRuleLen {
				return nil, errTooLong
			}
			c, err := parseCheck(text)
			if err != nil {
				return nil, err
			}
			all = append(all, c)
		}
		either = append(either, all.simplify())
	}
	return either.simplify(), nil
}

func (c allOf) simplify() check {
	if len(c) == 1 {
		return c[0]
	}
	return c
}

func (c anyOf) simplify() check {
	if len(c) == 1 {
		return c[0]
	}
	return c
}

type tokenKind uint8

const (
	tokenCheck tokenKind = iota
	tokenQuoted
	tokenAnd
	tokenOr
	tokenNot
	tokenOpen
	tokenClose
)

type token struct {
	kind tokenKind
	text string
}

// tokenize splits at white space, and takes parentheses off the front and the
// end of each word. Those inside a word belong to it, as in %(name)s.
func tokenize(text string) []token {
	var tokens []token
	for word := range strings.FieldsFuncSeq(text, isSpace) {
		bare := strings.TrimLeft(word, "(")
		for range len(word) - len(bare) {
			tokens = append(tokens, token{tokenOpen, "("})
		}
		clean := strings.TrimRight(bare, ")")
		if clean != "" {
			tokens = append(tokens, wordToken(bare, clean))
		}
		for range len(bare) - len(clean) {
			tokens = append(tokens, token{tokenClose, ")"})
		}
	}
	return tokens
}

// wordToken classifies a word. bare still has its closing parentheses:
// oslo.policy sees quoted text only if no parenthesis follows it.
func wordToken(bare, clean string) token {
	switch strings.ToLower(clean) {
	case "and":
		return token{tokenAnd, clean}
	case "or":
		return token{tokenOr, clean}
	case "not":
		return token{tokenNot, clean}
	}
	if first, last := bare[0], bare[len(bare)-1]; len(bare) >= 2 && first == last && (first == '"' || first == '\'') {
		return token{tokenQuoted, bare}
	}
	return token{tokenCheck, clean}
}

// isSpace is what Python's \s matches.
func isSpace(r rune) bool {
	switch {
	case r >= '\t' && r <= '\r', r >= 0x1c && r <= ' ', r == 0x85, r == 0xa0, r == 0x1680,
		r >= 0x2000 && r <= 0x200a, r == 0x2028, r == 0x2029, r == 0x202f, r == 0x205f, r == 0x3000:
		return true
	}
	return false
}

// parser holds the tokens that are still to be read.
type parser struct{ tokens []token }

// take reads the next token if it is of this kind.
func (p *parser) take(kind tokenKind) bool {
	if len(p.tokens) == 0 || p.tokens[0].kind != kind {
		return false
	}
	p.tokens = p.tokens[1:]
	return true
}

func (p *parser) expr(depth int) (check, error) {
	var either anyOf
	for {
		c, err := p.all(depth)
		if err != nil {
			return nil, err
		}
		either = append(either, c)
		if !p.take(tokenOr) {
			return either.simplify(), nil
		}
	}
}

func (p *parser) all(depth int) (check, error) {
	var all allOf
	for {
		c, err := p.unit(depth)
		if err != nil {
			return nil, err
		}
		all = append(all, c)
		if !p.take(tokenAnd) {
			return all.simplify(), nil
		}
	}
}

func (p *parser) unit(depth int) (check, error) {
	if depth > maxDepth {
		return nil, errTooDeep
	}
	if len(p.tokens) == 0 {
		return nil, errIncomplete
	}
	next := p.tokens[0]
	p.tokens = p.tokens[1:]
	switch next.kind {
	case tokenNot:
		inner, err := p.unit(depth + 1)
		return notCheck{inner}, err
	case tokenOpen:
		inner, err := p.expr(depth + 1)
		if err == nil && !p.take(tokenClose) {
			return nil, errors.New(`a ")" is missing`)
		}
		return inner, err
	case tokenCheck:
		return parseCheck(next.text)
	case tokenQuoted:
		return nil, fmt.Errorf("%.80q is quoted text, not a check; quote at most what stands before the colon", next.text)
	default:
		return nil, fmt.Errorf("%.80q where a check was expected", next.text)
	}
}

// parseCheck parses KIND:MATCH, "@" or "!".
func parseCheck(text string) (check, error) {
	switch text {
	case "@":
		return constant(allow), nil
	case "!":
		return constant(deny), nil
	}
	kind, match, found := strings.Cut(text, ":")
	if !found {
		return nil, fmt.Errorf(`%.80q is no check: write KIND:VALUE, as in role:admin, or "@" or "!"`, text)
	}
	switch kind {
	case "http", "https":
		return nil, fmt.Errorf("%s: checks are not supported: Muster asks no other server while it decides; "+
			"write the rule out here", kind)
	case "rule":
		return &ruleCheck{name: match}, nil
	}
	expand, err := parseTemplate(match)
	if err != nil {
		return nil, err
	}
	if kind == "role" {
		c := roleCheck{match: expand}
		if expand.fixed() {
			text, _ := expand.expand(nil)
			c.fixed = lower(text)
		}
		return c, nil
	}
	literal, path, err := parseLeft(kind)
	if err != nil {
		return nil, err
	}
	if path != nil {
		return attributeCheck{path: path, match: expand}, nil
	}
	return literalCheck{literal: literal, match: expand}, nil
}

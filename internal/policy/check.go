// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package policy

// verdict is what one check says.
type verdict uint8

const (
	deny verdict = iota
	allow
	// broken is the verdict where oslo.policy raises an exception: a path that
	// goes on inside something that is no dictionary. It ends the evaluation
	// and refuses the call, also from under a "not".
	broken
)

func verdictOf(ok bool) verdict {
	if ok {
		return allow
	}
	return deny
}

// check is a node of a parsed rule. Nodes never change once the rules are
// linked, so any number of goroutines may evaluate them.
type check interface {
	eval(creds Credentials, target Target) verdict
}

type (
	// constant is "@" or "!".
	constant verdict
	notCheck struct{ inner check }
	allOf    []check
	anyOf    []check
	// ruleCheck is "rule:NAME". The loader sets to.
	ruleCheck struct {
		name string
		to   *rule
	}
	// roleCheck is "role:NAME", which ignores case. fixed is set where NAME has
	// no substitution.
	roleCheck struct {
		match template
		fixed string
	}
	// literalCheck compares a constant, as Python's str() writes it.
	literalCheck struct {
		literal string
		match   template
	}
	// attributeCheck follows a path into the credentials.
	attributeCheck struct {
		path  []string
		match template
	}
)

func (c constant) eval(Credentials, Target) verdict { return verdict(c) }

func (c notCheck) eval(creds Credentials, target Target) verdict {
	switch c.inner.eval(creds, target) {
	case deny:
		return allow
	case allow:
		return deny
	default:
		return broken
	}
}

func (c allOf) eval(creds Credentials, target Target) verdict {
	for _, inner := range c {
		if v := inner.eval(creds, target); v != allow {
			return v
		}
	}
	return allow
}

func (c anyOf) eval(creds Credentials, target Target) verdict {
	for _, inner := range c {
		if v := inner.eval(creds, target); v != deny {
			return v
		}
	}
	return deny
}

func (c *ruleCheck) eval(creds Credentials, target Target) verdict {
	return c.to.check.eval(creds, target)
}

func (c roleCheck) eval(creds Credentials, target Target) verdict {
	want := c.fixed
	if !c.match.fixed() {
		text, ok := c.match.expand(target)
		if !ok {
			return deny
		}
		want = lower(text)
	}
	for _, role := range creds.roles {
		if role == want {
			return allow
		}
	}
	return deny
}

func (c literalCheck) eval(_ Credentials, target Target) verdict {
	want, ok := c.match.expand(target)
	return verdictOf(ok && want == c.literal)
}

func (c attributeCheck) eval(creds Credentials, target Target) verdict {
	want, ok := c.match.expand(target)
	if !ok {
		return deny
	}
	return member(creds.values, c.path, want)
}

// member looks at path[0] of a dictionary; a list found there is searched.
func member(dict map[string]any, path []string, want string) verdict {
	value, ok := dict[path[0]]
	if !ok {
		return deny
	}
	rest := path[1:]
	switch list := value.(type) {
	case []any:
		for _, element := range list {
			if v := compare(element, rest, want); v != deny {
				return v
			}
		}
		return deny
	case []string:
		for _, element := range list {
			if v := compareText(element, rest, want); v != deny {
				return v
			}
		}
		return deny
	case string:
		return compareText(list, rest, want)
	default:
		return compare(value, rest, want)
	}
}

func compareText(value string, path []string, want string) verdict {
	if len(path) > 0 {
		return broken
	}
	return verdictOf(value == want)
}

func compare(value any, path []string, want string) verdict {
	if len(path) == 0 {
		text, ok := pythonText(value)
		return verdictOf(ok && text == want)
	}
	dict, ok := value.(map[string]any)
	if !ok {
		return broken
	}
	return member(dict, path, want)
}

// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bufio"
	_ "embed" // for the page's introduction
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
)

// Show writes what is in force, in the form of a file, with where each value
// comes from: default, FILE:LINE, environment or credentials. Secrets appear
// as ****.
func Show(w io.Writer, c *Config) error {
	out := bufio.NewWriter(w)
	section := ""
	for _, s := range c.settings {
		if s.section != section {
			if section != "" {
				fmt.Fprintln(out)
			}
			section = s.section
			fmt.Fprintf(out, "[%s]\n", section)
		}
		value := s.text
		if s.masked {
			value = concealed(value)
		}
		fmt.Fprintf(out, "# from %s\n%s\n", s.origin, line(s.option.name, value))
	}
	return out.Flush()
}

// String says where a value comes from.
func (o origin) String() string {
	switch {
	case o.file == "":
		return "default"
	case o.line > 0:
		return fmt.Sprintf("%s:%d", o.file, o.line)
	}
	return o.file
}

// line writes an assignment that parses back to value.
func line(option, value string) string {
	if value == "" {
		return option + " ="
	}
	first, rest, more := strings.Cut(value, "\n") // only the first line can have quotes
	if first != strings.TrimFunc(first, isSpace) || unquote(first) != first {
		first = `"` + first + `"`
	}
	if more {
		first += "\n    " + strings.ReplaceAll(rest, "\n", "\n    ")
	}
	return option + " = " + first
}

var secretParameter = regexp.MustCompile(`(?i)([?&][^=&]*(?:pass|secret|token|key)[^=&]*=)[^&]*`)

// concealed masks a secret as oslo.config does, but leaves of a URL all that is
// no password.
func concealed(value string) string {
	scheme, rest, isURL := strings.Cut(value, "://")
	switch {
	case value == "":
		return ""
	case !isURL || strings.ContainsAny(scheme, " \t\n@:/?"):
		return mask
	}
	// The last @ ends the password, also one that should have been escaped.
	if at := strings.LastIndex(rest, "@"); at >= 0 {
		user, _, has := strings.Cut(rest[:at], ":")
		if has {
			user += ":" + mask
		}
		rest = user + rest[at:]
	}
	return scheme + "://" + secretParameter.ReplaceAllString(rest, "${1}"+mask)
}

// Sample writes a file with every option, commented out and set to its
// default, as oslo-config-generator does.
func Sample(w io.Writer) error {
	out := bufio.NewWriter(w)
	fmt.Fprintln(out, "# Configuration of Muster. Every option is shown with its default.")
	for _, s := range table() {
		fmt.Fprintln(out)
		if !s.family {
			sampleSection(out, s, "["+s.name+"]", nil)
			continue
		}
		members := slices.Clone(s.standing)
		if len(members) == 0 {
			members = []standing{{name: "NAME"}}
		}
		for i, m := range members {
			if i > 0 {
				fmt.Fprintln(out)
			}
			sampleSection(out, s, "#["+s.name+":"+m.name+"]", m.values)
		}
	}
	return out.Flush()
}

func sampleSection(out io.Writer, s section, title string, values map[string]string) {
	fmt.Fprintln(out, title)
	fmt.Fprintln(out)
	comment(out, s.help)
	for _, o := range s.options {
		field := o.field(s.target(&Config{}, ""))
		fmt.Fprintln(out)
		comment(out, o.help+" ("+kindOf(field)+")")
		for _, fact := range o.facts(s) {
			comment(out, fact)
		}
		initial, own := values[o.name]
		if !own {
			initial = o.initial
		}
		fmt.Fprintln(out, "#"+line(o.name, initial))
	}
}

// facts are what the table knows about an option besides its help.
func (o option) facts(s section) []string {
	var facts []string
	if len(o.choices) > 0 {
		facts = append(facts, "Possible values: "+strings.Join(o.choices, ", "))
	}
	if o.min != "" {
		facts = append(facts, "Minimum value: "+o.min)
	}
	if o.max != "" {
		facts = append(facts, "Maximum value: "+o.max)
	}
	for _, old := range o.deprecated {
		facts = append(facts, "Deprecated group/name - ["+old.section+"]/"+old.option)
	}
	if s.isSecret(o) {
		facts = append(facts, "Also "+o.name+"_file = PATH, or the systemd credential "+s.name+"."+o.name)
	}
	if o.example != "" {
		facts = append(facts, "Example: "+o.example)
	}
	return facts
}

// comment writes text as comment lines of at most 79 characters.
func comment(out io.Writer, text string) {
	row := "#"
	for word := range strings.FieldsSeq(text) {
		if len(row)+1+len(word) > 79 && row != "#" {
			fmt.Fprintln(out, row)
			row = "#"
		}
		row += " " + word
	}
	fmt.Fprintln(out, row)
}

// introduction is the page's text above the options.
//
//go:embed introduction.md
var introduction string

// Markdown writes the documentation page of all options, docs/configuration.md.
func Markdown(w io.Writer) error {
	out := bufio.NewWriter(w)
	fmt.Fprint(out, introduction)
	for _, s := range table() {
		fmt.Fprintf(out, "\n## [%s]\n\n%s\n", s.title(), s.help)
		for _, o := range s.options {
			field := o.field(s.target(&Config{}, ""))
			fmt.Fprintf(out, "\n### %s\n\n%s\n\n- Type: %s\n", o.name, o.help, kindOf(field))
			if o.initial != "" {
				fmt.Fprintf(out, "- Default: `%s`\n", o.initial)
			}
			for _, fact := range o.facts(s) {
				label, value, _ := strings.Cut(fact, ": ")
				if value != "" {
					fact = label + ": `" + value + "`"
				}
				fmt.Fprintf(out, "- %s\n", fact)
			}
		}
		for _, m := range s.standing {
			fmt.Fprintf(out, "\nWithout such a section, there is `[%s:%s]` with", s.name, m.name)
			separator := " "
			for _, o := range s.options {
				if v, ok := m.values[o.name]; ok {
					fmt.Fprintf(out, "%s`%s = %s`", separator, o.name, v)
					separator = ", "
				}
			}
			fmt.Fprintln(out, ".")
		}
	}
	return out.Flush()
}

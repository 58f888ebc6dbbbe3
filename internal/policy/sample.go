// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"bufio"
	"fmt"
	"io"
	"strings"
)

// sampleWidth is where oslopolicy-sample-generator breaks lines.
const sampleWidth = 70

// Sample writes the defaults as a policy.yaml with every rule commented out,
// in the form of oslopolicy-sample-generator.
func (e *Enforcer) Sample(w io.Writer) error {
	out := bufio.NewWriter(w)
	for _, d := range e.defaults {
		for _, line := range wrap(d.Description, sampleWidth-len("# ")) {
			fmt.Fprintf(out, "# %s\n", line)
		}
		for _, op := range d.Operations {
			fmt.Fprintf(out, "# %s  %s\n", op.Method, op.Path)
		}
		if len(d.Scopes) > 0 {
			fmt.Fprintf(out, "# Intended scope(s): %s\n", strings.Join(d.Scopes, ", "))
		}
		fmt.Fprintf(out, "#%q: %q\n\n", d.Name, d.Check)
	}
	return out.Flush()
}

// Markdown writes the defaults as a table for the documentation.
func (e *Enforcer) Markdown(w io.Writer) error {
	out := bufio.NewWriter(w)
	fmt.Fprint(out, "| Rule | Default | Calls | Meaning |\n| --- | --- | --- | --- |\n")
	for _, d := range e.defaults {
		calls := make([]string, 0, len(d.Operations))
		for _, op := range d.Operations {
			calls = append(calls, fmt.Sprintf("`%s %s`", op.Method, op.Path))
		}
		fmt.Fprintf(out, "| `%s` | `%s` | %s | %s |\n",
			d.Name, d.Check, strings.Join(calls, "<br>"), strings.ReplaceAll(d.Description, "|", `\|`))
	}
	return out.Flush()
}

// wrap breaks text into lines of at most width bytes, but never a word.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		switch {
		case line == "":
			line = word
		case len(line)+1+len(word) <= width:
			line += " " + word
		default:
			lines = append(lines, line)
			line = word
		}
	}
	if line != "" {
		lines = append(lines, line)
	}
	return lines
}

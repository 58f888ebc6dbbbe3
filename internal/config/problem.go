// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Problem is one thing that is wrong with the configuration: where it stands,
// what it is and what to do about it. It never holds a value from a file.
type Problem struct {
	File    string // a path, "environment" or "credentials"; empty if there is no one place
	Line    int    // 1 is the first; 0 if unknown
	Section string
	Option  string
	Message string // what is wrong
	Hint    string // what to do; may be empty
}

// String writes p as `FILE:LINE [section] option: what is wrong; what to do`.
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d", p.Line)
	}
	if p.Section != "" {
		fmt.Fprintf(&b, " [%s]", p.Section)
	}
	if p.Option != "" {
		b.WriteString(" " + p.Option)
	}
	if b.Len() > 0 {
		b.WriteString(": ")
	}
	b.WriteString(p.Message)
	if p.Hint != "" {
		b.WriteString("; " + p.Hint)
	}
	return strings.TrimSpace(b.String())
}

// Problems is the error of Load and Complete: all that is wrong, in the order
// of files and lines.
type Problems []Problem

// Error lists the problems, one on a line.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// orNil returns ps sorted as an error, or nil if there is none.
func (ps Problems) orNil() error {
	if len(ps) == 0 {
		return nil
	}
	slices.SortStableFunc(ps, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line))
	})
	return ps
}

// nearest returns the candidate that is closest to name, or "" if none is
// close enough to be meant.
func nearest(name string, candidates []string) string {
	const longest = 64 // the distance costs the product of the lengths
	if len(name) > longest {
		return ""
	}
	best, bestDistance := "", 1+min(3, len(name)/2)
	for _, c := range candidates {
		d := distance(strings.ToLower(name), strings.ToLower(c))
		if d < bestDistance {
			best, bestDistance = c, d
		}
	}
	return best
}

// didYouMean is the hint for an unknown name.
func didYouMean(name string, candidates []string, otherwise string) string {
	if c := nearest(name, candidates); c != "" {
		return "did you mean " + c + "?"
	}
	return otherwise
}

// distance is the Levenshtein distance in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(diagonal+cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// measure is one number of a row, with its goal if there is one.
type measure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	Goal  float64 `json:"goal,omitempty"` // 0: none
	Least bool    `json:"least,omitempty"`
}

// atLeast is a number that should be as large as the goal.
func atLeast(name string, value float64, unit string, goal float64) measure {
	return measure{Name: name, Value: value, Unit: unit, Goal: goal, Least: true}
}

// atMost is a number that should not be larger than the goal.
func atMost(name string, value float64, unit string, goal float64) measure {
	return measure{Name: name, Value: value, Unit: unit, Goal: goal}
}

// plain is a number without a goal.
func plain(name string, value float64, unit string) measure {
	return measure{Name: name, Value: value, Unit: unit}
}

func (m measure) verdict() string {
	switch {
	case m.Goal == 0:
		return ""
	case m.Least && m.Value >= m.Goal, !m.Least && m.Value <= m.Goal:
		return "met"
	default:
		return "MISSED"
	}
}

func (m measure) goal() string {
	switch {
	case m.Goal == 0:
		return ""
	case m.Least:
		return "≥ " + number(m.Goal) + " " + m.Unit
	default:
		return "≤ " + number(m.Goal) + " " + m.Unit
	}
}

// result is a row of which all runs are done, or what kept it from being run.
type result struct {
	Row      string    `json:"row"`
	Measures []measure `json:"measures,omitempty"`
	Error    string    `json:"error,omitempty"`
}

// medians takes the middle of each number's runs, which have the same order.
func medians(runs [][]measure) []measure {
	middle := slices.Clone(runs[0])
	for i := range middle {
		values := make([]float64, len(runs))
		for j, run := range runs {
			values[j] = run[i].Value
		}
		slices.Sort(values)
		middle[i].Value = values[(len(values)-1)/2]
		if n := len(values); n%2 == 0 {
			middle[i].Value = (values[n/2-1] + values[n/2]) / 2
		}
	}
	return middle
}

func printTable(w io.Writer, results []result) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "row\tnumber\tgoal\tresult\t")
	for _, r := range results {
		if r.Error != "" {
			fmt.Fprintf(table, "%s\tnot measured: %s\t\t\t\n", r.Row, r.Error)
		}
		for _, m := range r.Measures {
			fmt.Fprintf(table, "%s\t%s\t%s\t%s %s\t%s\n", r.Row, m.Name, m.goal(), number(m.Value), m.Unit, m.verdict())
		}
	}
	return table.Flush()
}

// brief is a run in one line.
func brief(measures []measure) string {
	words := make([]string, len(measures))
	for i, m := range measures {
		words[i] = fmt.Sprintf("%s %s %s", m.Name, number(m.Value), m.Unit)
	}
	return strings.Join(words, ", ")
}

// number writes three digits that matter.
func number(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.3f", v)
	}
}

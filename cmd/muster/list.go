// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"strings"
	"text/tabwriter"
)

// table is how a list is shown to people.
type table[T any] struct {
	head []string
	row  func(T) []string
}

// show writes a list that comes in pages, until the first error.
func show[T any](w io.Writer, output format, pages iter.Seq2[[]T, error], people table[T]) error {
	write, end := people.writer(w)
	if output == asJSON {
		write, end = jsonWriter[T](w)
	}
	for page, err := range pages {
		if err != nil {
			return err
		}
		if err := write(page); err != nil {
			return err
		}
	}
	return end()
}

// writer writes a row for each entry. The columns are as wide as a page needs,
// so that the next one need not be waited for.
func (t table[T]) writer(w io.Writer) (write func([]T) error, end func() error) {
	out := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(out, strings.Join(t.head, "\t"))
	write = func(page []T) error {
		for _, entry := range page {
			row := t.row(entry)
			for i, cell := range row {
				row[i] = printable(cmp.Or(cell, "-"))
			}
			fmt.Fprintln(out, strings.Join(row, "\t"))
		}
		return out.Flush()
	}
	return write, out.Flush
}

// jsonWriter writes one list, an entry on a line.
func jsonWriter[T any](w io.Writer) (write func([]T) error, end func() error) {
	separator := "[\n"
	write = func(page []T) error {
		for _, entry := range page {
			text, err := json.Marshal(entry)
			if err != nil {
				return err
			}
			if _, err := fmt.Fprintf(w, "%s%s", separator, text); err != nil {
				return err
			}
			separator = ",\n"
		}
		return nil
	}
	end = func() error {
		text := "\n]"
		if separator == "[\n" {
			text = "[]"
		}
		_, err := fmt.Fprintln(w, text)
		return err
	}
	return write, end
}

// second cuts the fraction of a second from a time of Muster's.
func second(at string) string {
	whole, _, _ := strings.Cut(at, ".")
	return whole
}

// writeFields writes names and values, one on a line.
func writeFields(w io.Writer, fields [][2]string) error {
	out := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, field := range fields {
		fmt.Fprintf(out, "%s\t%s\n", field[0], printable(cmp.Or(field[1], "-")))
	}
	return out.Flush()
}

// Copyright The Muster Authors
// SPDX-License-Identifier: Apache-2.0

// Bench measures Muster: rates, latencies, the server's CPU time for each
// request and its memory, each beside its goal. It starts Muster as a process
// of its own beside the in-process cloud, with fresh databases in a temporary
// folder, and sends requests that were prepared before the clock starts.
//
// It asserts nothing: a goal that is missed is printed as missed. It touches no
// server or database that is on the machine, but for a step-ca that -step-ca
// names.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"syscall"
	"time"
)

// options are the flags.
type options struct {
	rows     *regexp.Regexp
	runs     int
	requests int
	records  int
	issued   int
	waiters  int
	dir      string
	profiles string
	output   string
	step     stepCA
}

func main() {
	// The child process is this program again: see serveMuster.
	if len(os.Args) == 3 && os.Args[1] == serveArgument {
		exit(serveMuster(os.Args[2], os.Stdin, os.Stdout))
	}
	opt, err := parseOptions(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		exit(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	exit(run(ctx, opt))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func parseOptions(args []string) (options, error) {
	var o options
	var rows string
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.StringVar(&rows, "rows", ".", "measure the rows whose names match this regular expression; -rows '?' lists them")
	flags.IntVar(&o.runs, "runs", 3, "runs of each row; the table shows medians")
	flags.IntVar(&o.requests, "n", 20_000, "requests in a run")
	flags.IntVar(&o.records, "records", 1_000_000, "certificates in the large database, and entries of the large revocation list")
	flags.IntVar(&o.issued, "issued", 1_000_000, "certificates issued for the row memory")
	flags.IntVar(&o.waiters, "waiters", 10_000, "long polls that wait, ten in each project")
	flags.StringVar(&o.dir, "dir", "", "where the temporary folder is made; its disk decides what a commit costs")
	flags.StringVar(&o.profiles, "profiles", "", "folder for profiles of the server, of CPU time and of memory, for each measurement")
	flags.StringVar(&o.output, "o", "text", "text or json")
	o.step.flags(flags)
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if rows == "?" {
		for _, r := range allRows() {
			fmt.Println(r.name)
		}
		return o, flag.ErrHelp
	}
	if min(o.runs, o.requests, o.records, o.issued, o.waiters) < 1 {
		return o, errors.New("-runs, -n, -records, -issued and -waiters must be above 0")
	}
	if o.output != "text" && o.output != "json" {
		return o, errors.New("-o: want text or json")
	}
	var err error
	o.rows, err = regexp.Compile(rows)
	return o, err
}

// run measures the chosen rows and prints them.
func run(ctx context.Context, o options) (err error) {
	if err := raiseFileLimit(); err != nil {
		return err
	}
	b, err := newBench(o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	rows := allRows()
	if o.step.URL != "" {
		rows = []row{{"step-ca", o.step.measure}}
	}
	var results []result
	for _, r := range rows {
		if !o.rows.MatchString(r.name) {
			continue
		}
		measured, err := b.repeat(ctx, r)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", r.name, err)
		}
		results = append(results, measured)
	}
	if o.output == "json" {
		encoder := json.NewEncoder(os.Stdout)
		encoder.SetIndent("", "  ")
		return encoder.Encode(results)
	}
	return printTable(os.Stdout, results)
}

// repeat runs a row several times and returns the medians.
func (b *bench) repeat(ctx context.Context, r row) (result, error) {
	var runs [][]measure
	for i := range b.runs {
		started := time.Now()
		measured, err := r.run(ctx, b)
		if err != nil {
			return result{Row: r.name, Error: err.Error()}, err
		}
		fmt.Fprintf(os.Stderr, "%-24s run %d of %d, %.0f s: %s\n", r.name, i+1, b.runs, time.Since(started).Seconds(), brief(measured))
		runs = append(runs, measured)
	}
	return result{Row: r.name, Measures: medians(runs)}, nil
}

// raiseFileLimit makes room for the connections of thousands of waiters, here
// and in the child. Beyond the hard limit only root may go; without that,
// -waiters must be less.
func raiseFileLimit() error {
	const wanted = 65_536
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	more := syscall.Rlimit{Cur: max(limit.Max, wanted), Max: max(limit.Max, wanted)}
	if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &more) == nil {
		return nil
	}
	limit.Cur = limit.Max
	return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
}

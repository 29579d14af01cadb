package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/manykv/manykv/client"
	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/load"
)

const benchHelp = `Measure a cluster: set-many, get-many, set, get, mixed (nine get-many to a set-many)
and delete-many, one after the other, each for --duration, with random keys of a key
space that is filled first and removed afterwards.

Latencies are per call. Values are random bytes. delete-many also meets keys
that are gone already, which cost it the same.

What it writes takes room in the nodes' logs, also after it was removed, until
they are cut (journal_bytes of 'manykv server'). Run it on a cluster that you can
throw away.`

// benchOptions are the flags of bench.
type benchOptions struct {
	load.Load
	bucket string
	ops    []string
	json   bool
}

func (p *program) benchCommand() *cobra.Command {
	var o benchOptions
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure reads and writes: keys/s, calls/s and latencies",
		Long:  benchHelp,
		Args:  asUsed,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.check(); err != nil {
				return err
			}
			return p.withBucket(cmd.Context(), o.bucket, true, func(_ *client.Client, b *client.Bucket) error {
				return p.bench(cmd.Context(), b, &o)
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.bucket, "bucket", "manykv-bench", "bucket to use; made if there is none of that name")
	f.StringSliceVar(&o.ops, "ops", load.Ops, "what to measure")
	f.IntVar(&o.Batch, "batch", 100, "keys in a call of set-many, get-many, mixed and delete-many")
	f.IntVar(&o.ValueSize, "value-size", 256, "bytes of a value")
	f.IntVar(&o.Keys, "keys", 100_000, "size of the key space")
	f.IntVar(&o.Callers, "callers", 16, "calls in flight")
	f.DurationVar(&o.Duration, "duration", 5*time.Second, "how long each operation is measured")
	f.BoolVar(&o.json, "json", false, "print the results as JSON")
	return p.calls(cmd)
}

func (o *benchOptions) check() error {
	err := o.Check(kv.Limits{}.WithDefaults())
	if err == nil {
		err = load.CheckOps(o.ops)
	}
	if err != nil {
		return usagef("%w", err)
	}
	return nil
}

// benchReport is the JSON of a run.
type benchReport struct {
	Batch     int           `json:"batch"`
	ValueSize int           `json:"value_size"`
	KeySpace  int           `json:"key_space"`
	Callers   int           `json:"callers"`
	Results   []load.Result `json:"results"`
}

func (p *program) bench(ctx context.Context, b load.Store, o *benchOptions) (err error) {
	l := &o.Load
	l.Store, l.Timeout = b, p.conn.timeout
	l.Try = func(ctx context.Context, call func(context.Context) error) error {
		return insist(ctx, p.conn.timeout, call)
	}
	if err := p.sweep(l, "fill", func(seen *load.Seen) error { return l.Fill(ctx, seen) }); err != nil {
		return fmt.Errorf("fill the key space: %w", err)
	}
	defer func() { // also after Ctrl-C: a second one ends the process
		clean := func(seen *load.Seen) error { return l.Clean(context.WithoutCancel(ctx), seen) }
		if swept := p.sweep(l, "clean up", clean); swept != nil {
			err = errors.Join(err, fmt.Errorf("remove the key space: %w", swept))
		}
	}()
	report := benchReport{Batch: o.Batch, ValueSize: o.ValueSize, KeySpace: o.Keys, Callers: o.Callers}
	failed := int64(0)
	for _, op := range load.Ops {
		if !slices.Contains(o.ops, op) {
			continue
		}
		r := p.measure(ctx, l, op)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		failed += r.Errors
		report.Results = append(report.Results, r)
	}
	if o.json {
		err = p.stdout.json(report)
	} else {
		p.printBench(&report)
	}
	if failed > 0 {
		err = errors.Join(err, errors.New(count(failed, "call failed", "calls failed")))
	}
	return err
}

// measure runs one operation and shows how it goes.
func (p *program) measure(ctx context.Context, l *load.Load, op string) load.Result {
	var seen load.Seen
	start := time.Now()
	shown := startProgress(p.stderr, p.terminal, func() string {
		return fmt.Sprintf("%s: %.0f keys/s, %s, %s", op, perSecond(float64(seen.Keys.Load()), time.Since(start)),
			count(seen.Calls.Load(), "call", "calls"), count(seen.Errors.Load(), "error", "errors"))
	})
	defer shown.Close()
	return l.Measure(ctx, op, &seen)
}

// sweep does something with the whole key space and shows how far it is.
func (p *program) sweep(l *load.Load, what string, do func(*load.Seen) error) error {
	var seen load.Seen
	shown := startProgress(p.stderr, p.terminal, func() string {
		done := seen.Keys.Load()
		return fmt.Sprintf("%s %s: %d of %s", bar(done, int64(l.Keys)), what, done, count(l.Keys, "key", "keys"))
	})
	defer shown.Close()
	return do(&seen)
}

func (p *program) printBench(r *benchReport) {
	p.stdout.printf("%s, batches of %s, values of %s, %s\n\n", count(r.Callers, "caller", "callers"),
		count(r.Batch, "key", "keys"), count(r.ValueSize, "byte", "bytes"), count(r.KeySpace, "key", "keys"))
	rows := [][]string{{"operation", "keys/s", "calls/s", "p50 ms", "p99 ms", "p99.9 ms", "errors"}}
	for _, o := range r.Results {
		rows = append(rows, []string{o.Op, decimal(o.KeysPerSec, 0), decimal(o.CallsPerSec, 0),
			decimal(o.P50, 2), decimal(o.P99, 2), decimal(o.P999, 2), strconv.FormatInt(o.Errors, 10)})
	}
	p.stdout.table(true, rows)
	for _, o := range r.Results {
		if o.FirstError != "" {
			p.stderr.printf("%s: first error: %s\n", o.Op, o.FirstError)
		}
	}
}

func decimal(v float64, places int) string { return strconv.FormatFloat(v, 'f', places, 64) }

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/manykv/manykv/client"
	"github.com/manykv/manykv/kv"
)

// benchOps in the order they are run: deletions last, so that reads find what
// they ask for.
var benchOps = []string{"set-many", "get-many", "set", "get", "delete-many"}

const benchHelp = `Measure a cluster: set-many, get-many, set, get and delete-many, one after the
other, each for --duration, with random keys of a key space that is filled
first and removed afterwards.

Latencies are per call. Values are random bytes. delete-many also meets keys
that are gone already, which cost it the same.

What it writes takes room in the nodes' logs, also after it was removed, until
they are cut (journal_bytes of 'manykv server'). Run it on a cluster that you can
throw away.`

// benchOptions are the flags of bench.
type benchOptions struct {
	bucket    string
	ops       []string
	batch     int
	valueSize int
	keys      int
	callers   int
	duration  time.Duration
	json      bool
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
	f.StringSliceVar(&o.ops, "ops", benchOps, "what to measure")
	f.IntVar(&o.batch, "batch", 100, "keys in a call of set-many, get-many and delete-many")
	f.IntVar(&o.valueSize, "value-size", 256, "bytes of a value")
	f.IntVar(&o.keys, "keys", 100_000, "size of the key space")
	f.IntVar(&o.callers, "callers", 16, "calls in flight")
	f.DurationVar(&o.duration, "duration", 5*time.Second, "how long each operation is measured")
	f.BoolVar(&o.json, "json", false, "print the results as JSON")
	return p.calls(cmd)
}

func (o *benchOptions) check() error {
	l := kv.Limits{}.WithDefaults()
	for _, f := range []struct {
		flag           string
		got, min, most int
	}{
		{"batch", o.batch, 1, l.BatchKeys},
		{"value-size", o.valueSize, 0, l.ValueBytes},
		{"keys", o.keys, 1, 1 << 30},
		{"callers", o.callers, 1, 1 << 12},
	} {
		if f.got < f.min || f.got > f.most {
			return usagef("--%s %d, want %d to %d", f.flag, f.got, f.min, f.most)
		}
	}
	if o.batch*o.valueSize > l.BatchBytes/2 {
		return usagef("--batch %d of --value-size %d is %d bytes, want at most %d", o.batch, o.valueSize, o.batch*o.valueSize, l.BatchBytes/2)
	}
	if o.duration <= 0 {
		return usagef("--duration %v, want more than 0", o.duration)
	}
	for _, op := range o.ops {
		if !slices.Contains(benchOps, op) {
			return usagef("--ops %q, want some of %s", op, strings.Join(benchOps, ","))
		}
	}
	return nil
}

// benchResult is what was measured of one operation.
type benchResult struct {
	Op          string  `json:"op"`
	Calls       int64   `json:"calls"`
	Keys        int64   `json:"keys"`
	Errors      int64   `json:"errors"`
	FirstError  string  `json:"first_error,omitempty"`
	Seconds     float64 `json:"seconds"`
	KeysPerSec  float64 `json:"keys_per_second"`
	CallsPerSec float64 `json:"calls_per_second"`
	P50         float64 `json:"p50_ms"`
	P99         float64 `json:"p99_ms"`
	P999        float64 `json:"p999_ms"`
}

// benchReport is the JSON of a run.
type benchReport struct {
	Batch     int           `json:"batch"`
	ValueSize int           `json:"value_size"`
	KeySpace  int           `json:"key_space"`
	Callers   int           `json:"callers"`
	Results   []benchResult `json:"results"`
}

func (p *program) bench(ctx context.Context, b benchBucket, o *benchOptions) (err error) {
	w := newWorkload(b, o)
	if err := w.sweep(ctx, p, "fill", w.fill); err != nil {
		return fmt.Errorf("fill the key space: %w", err)
	}
	defer func() { // also after Ctrl-C: a second one ends the process
		if swept := w.sweep(context.WithoutCancel(ctx), p, "clean up", w.clean); swept != nil {
			err = errors.Join(err, fmt.Errorf("remove the key space: %w", swept))
		}
	}()
	report := benchReport{Batch: o.batch, ValueSize: o.valueSize, KeySpace: o.keys, Callers: o.callers}
	failed := int64(0)
	for _, op := range benchOps {
		if !slices.Contains(o.ops, op) {
			continue
		}
		r := p.measure(ctx, w, op)
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

// measure runs one operation in all callers until its time is over.
func (p *program) measure(ctx context.Context, w *workload, op string) benchResult {
	ctx, done := context.WithTimeout(ctx, w.o.duration+p.conn.timeout)
	defer done()
	call, keys := w.call(op)
	var calls, errs atomic.Int64
	var first atomic.Pointer[string]
	each := make([]histogram, w.o.callers)
	start := time.Now()
	shown := startProgress(p.stderr, p.terminal, func() string {
		return fmt.Sprintf("%s: %.0f keys/s, %s, %s", op, perSecond(float64(calls.Load()*keys), time.Since(start)),
			count(calls.Load(), "call", "calls"), count(errs.Load(), "error", "errors"))
	})
	var all sync.WaitGroup
	for i := range each {
		all.Go(func() {
			random := rand.New(rand.NewPCG(uint64(i), uint64(start.UnixNano())))
			for time.Since(start) < w.o.duration && ctx.Err() == nil {
				begun := time.Now()
				if err := call(ctx, random); err != nil {
					errs.Add(1)
					first.CompareAndSwap(nil, new(err.Error()))
					continue
				}
				each[i].add(time.Since(begun))
				calls.Add(1)
			}
		})
	}
	all.Wait()
	took := time.Since(start)
	shown.Close()
	sum := &each[0]
	for i := range each[1:] {
		sum.merge(&each[1+i])
	}
	r := benchResult{
		Op: op, Calls: calls.Load(), Keys: calls.Load() * keys, Errors: errs.Load(), Seconds: took.Seconds(),
		KeysPerSec: perSecond(float64(calls.Load()*keys), took), CallsPerSec: perSecond(float64(calls.Load()), took),
		P50: milliseconds(sum.quantile(0.5)), P99: milliseconds(sum.quantile(0.99)), P999: milliseconds(sum.quantile(0.999)),
	}
	if text := first.Load(); text != nil {
		r.FirstError = *text
	}
	return r
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

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

// benchKey is the i-th key of the key space.
func benchKey(i int) string { return "bench/" + strconv.Itoa(i) }

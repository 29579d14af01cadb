package main

import (
	"context"
	crand "crypto/rand"
	"fmt"
	"math/rand/v2"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/manykv/manykv/kv"
)

// benchBucket is what is measured.
type benchBucket interface {
	getter
	setter
	deleter
}

type deleter interface {
	DeleteMany(ctx context.Context, keys []string) error
}

// workload makes the calls of a measurement.
type workload struct {
	b     benchBucket
	o     *benchOptions
	value []byte // of every key: nobody compresses, so one will do
}

func newWorkload(b benchBucket, o *benchOptions) *workload {
	w := &workload{b: b, o: o, value: make([]byte, o.valueSize)}
	crand.Read(w.value) // never fails
	return w
}

// call returns what a caller does over and over, and how many keys it covers.
func (w *workload) call(op string) (call func(context.Context, *rand.Rand) error, keys int64) {
	size := w.o.batch
	if op == "set" || op == "get" {
		size = 1
	}
	return func(ctx context.Context, random *rand.Rand) error {
		batch := make([]string, size)
		for i := range batch {
			batch[i] = benchKey(random.IntN(w.o.keys))
		}
		switch op {
		case "get", "get-many":
			_, err := w.b.GetMany(ctx, batch)
			return err
		case "delete-many":
			return w.b.DeleteMany(ctx, batch)
		default:
			return w.b.SetMany(ctx, w.pairs(batch))
		}
	}, int64(size)
}

func (w *workload) pairs(keys []string) []kv.Pair {
	pairs := make([]kv.Pair, len(keys))
	for i, key := range keys {
		pairs[i] = kv.Pair{Key: key, Value: w.value}
	}
	return pairs
}

func (w *workload) fill(ctx context.Context, keys []string) error {
	return w.b.SetMany(ctx, w.pairs(keys))
}

func (w *workload) clean(ctx context.Context, keys []string) error { return w.b.DeleteMany(ctx, keys) }

// sweep does something with every key, in batches of several callers at once.
func (w *workload) sweep(ctx context.Context, p *program, what string, do func(context.Context, []string) error) error {
	var done atomic.Int64
	shown := startProgress(p.stderr, p.terminal, func() string {
		return fmt.Sprintf("%s %s: %d of %s", bar(done.Load(), int64(w.o.keys)), what, done.Load(), count(w.o.keys, "key", "keys"))
	})
	defer shown.Close()
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(w.o.callers)
	for first := 0; first < w.o.keys && ctx.Err() == nil; first += w.o.batch {
		g.Go(func() error {
			keys := make([]string, min(w.o.batch, w.o.keys-first))
			for i := range keys {
				keys[i] = benchKey(first + i)
			}
			err := insist(ctx, p.conn.timeout, func(ctx context.Context) error { return do(ctx, keys) })
			done.Add(int64(len(keys)))
			return err
		})
	}
	return g.Wait()
}

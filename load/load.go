// Package load measures stores that read, write and delete many keys with one call:
// manykv's own by `manykv bench`, and others beside it by the module in ../bench, with
// the same calls in the same order.
//
// Keys are drawn at random, all alike, from a key space that is filled first. A caller
// makes one call after the other (a closed loop), so latencies are those of a store
// that is as busy as its callers can make it. Keys, values and the order of a caller's
// calls are the same for every store measured. Values are random and differ, so that a
// store that compresses gains nothing by it.
package load

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/manykv/manykv/kv"
)

// Store is what is measured. GetMany answers in the order of keys, nil for one that is
// not there.
type Store interface {
	GetMany(ctx context.Context, keys []string) ([]*kv.Pair, error)
	SetMany(ctx context.Context, pairs []kv.Pair) error
	DeleteMany(ctx context.Context, keys []string) error
}

// Ops in the order they are to be measured: deletions last, so that reads find what
// they ask for. Calls of mixed are get-many, one in ten set-many.
var Ops = []string{"set-many", "get-many", "set", "get", "mixed", "delete-many"}

const mixedReads = 9 // of ten calls

// Load says what is measured, and how.
type Load struct {
	Store     Store
	Batch     int           // keys in a call of set-many, get-many, mixed and delete-many
	ValueSize int           // bytes of a value
	Keys      int           // size of the key space
	Callers   int           // calls in flight
	Duration  time.Duration // of each operation
	Timeout   time.Duration // of one call; 0: none
	// Try makes a call of Fill and Clean, perhaps more than once; nil: once.
	Try func(ctx context.Context, call func(context.Context) error) error

	once sync.Once
	pool []byte // values are parts of it
}

// poolBytes is how much randomness values are cut from: more than what a store
// compresses together.
const poolBytes = 4 << 20

// Check says which figure is out of bounds.
func (l *Load) Check(limits kv.Limits) error {
	for _, f := range []struct {
		name           string
		got, min, most int
	}{
		{"batch", l.Batch, 1, limits.BatchKeys},
		{"value-size", l.ValueSize, 0, limits.ValueBytes},
		{"keys", l.Keys, 1, 1 << 30},
		{"callers", l.Callers, 1, 1 << 12},
	} {
		if f.got < f.min || f.got > f.most {
			return fmt.Errorf("--%s %d, want %d to %d", f.name, f.got, f.min, f.most)
		}
	}
	if l.Batch*l.ValueSize > limits.BatchBytes/2 {
		return fmt.Errorf("--batch %d of --value-size %d is %d bytes, want at most %d", l.Batch, l.ValueSize, l.Batch*l.ValueSize, limits.BatchBytes/2)
	}
	if l.Duration <= 0 {
		return fmt.Errorf("--duration %v, want more than 0", l.Duration)
	}
	return nil
}

// CheckOps says which of the operations there is not.
func CheckOps(ops []string) error {
	for _, op := range ops {
		if !slices.Contains(Ops, op) {
			return fmt.Errorf("--ops %q, want some of %s", op, strings.Join(Ops, ","))
		}
	}
	return nil
}

// Key is the i-th key of the key space.
func Key(i int) string { return "bench/" + strconv.Itoa(i) }

// Result is what was measured of one operation.
type Result struct {
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

// Seen is how far a measurement is; it may be read while that is under way.
type Seen struct {
	Calls, Keys, Errors atomic.Int64
}

// Fill writes every key, in batches of several callers at once, and counts them.
func (l *Load) Fill(ctx context.Context, seen *Seen) error {
	return l.sweep(ctx, seen, func(ctx context.Context, first int, keys []string) error {
		return l.Store.SetMany(ctx, l.pairs(keys, rand.New(rand.NewPCG(uint64(first), 1))))
	})
}

// Clean deletes every key likewise.
func (l *Load) Clean(ctx context.Context, seen *Seen) error {
	return l.sweep(ctx, seen, func(ctx context.Context, _ int, keys []string) error { return l.Store.DeleteMany(ctx, keys) })
}

// Measure makes calls of one operation until its time is over. Calls that fail, and
// reads of keys that are not there, are counted apart and have no latency.
func (l *Load) Measure(ctx context.Context, op string, seen *Seen) Result {
	each := make([]histogram, l.Callers)
	var first atomic.Pointer[string]
	start := time.Now()
	var all sync.WaitGroup
	for i := range each {
		all.Go(func() {
			random := rand.New(rand.NewPCG(uint64(i), 0))
			for time.Since(start) < l.Duration && ctx.Err() == nil {
				begun := time.Now()
				keys, err := l.call(ctx, op, random)
				if err != nil {
					seen.Errors.Add(1)
					first.CompareAndSwap(nil, new(err.Error()))
					continue
				}
				each[i].add(time.Since(begun))
				seen.Calls.Add(1)
				seen.Keys.Add(int64(keys))
			}
		})
	}
	all.Wait()
	took := time.Since(start)
	sum := &each[0]
	for i := range each[1:] {
		sum.merge(&each[1+i])
	}
	r := Result{
		Op: op, Calls: seen.Calls.Load(), Keys: seen.Keys.Load(), Errors: seen.Errors.Load(), Seconds: took.Seconds(),
		P50: milliseconds(sum.quantile(0.5)), P99: milliseconds(sum.quantile(0.99)), P999: milliseconds(sum.quantile(0.999)),
	}
	if took > 0 {
		r.KeysPerSec, r.CallsPerSec = float64(r.Keys)/took.Seconds(), float64(r.Calls)/took.Seconds()
	}
	if text := first.Load(); text != nil {
		r.FirstError = *text
	}
	return r
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// call makes one call and returns how many keys it was about.
func (l *Load) call(ctx context.Context, op string, random *rand.Rand) (keys int, err error) {
	size := l.Batch
	if op == "set" || op == "get" {
		size = 1
	}
	if op == "mixed" {
		op = "set-many"
		if random.IntN(mixedReads+1) < mixedReads {
			op = "get-many"
		}
	}
	batch := make([]string, size)
	for i := range batch {
		batch[i] = Key(random.IntN(l.Keys))
	}
	ctx, done := l.limited(ctx)
	defer done()
	switch op {
	case "get", "get-many":
		var got []*kv.Pair
		got, err = l.Store.GetMany(ctx, batch)
		if err == nil {
			err = l.checkPairs(got, batch)
		}
	case "delete-many":
		err = l.Store.DeleteMany(ctx, batch)
	default:
		err = l.Store.SetMany(ctx, l.pairs(batch, random))
	}
	return size, err
}

func (l *Load) limited(ctx context.Context) (context.Context, context.CancelFunc) {
	if l.Timeout == 0 {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, l.Timeout)
}

// checkPairs wants every key's value to be there, of the size that was written.
func (l *Load) checkPairs(got []*kv.Pair, keys []string) error {
	if len(got) != len(keys) {
		return fmt.Errorf("got %d answers to %d keys", len(got), len(keys))
	}
	for i, p := range got {
		if p == nil || len(p.Value) != l.ValueSize {
			return fmt.Errorf("key %s: got %+v, want a value of %d bytes", keys[i], p, l.ValueSize)
		}
	}
	return nil
}

func (l *Load) pairs(keys []string, random *rand.Rand) []kv.Pair {
	l.once.Do(func() {
		l.pool = make([]byte, poolBytes+l.ValueSize)
		_, _ = rand.NewChaCha8([32]byte{}).Read(l.pool) // never fails
	})
	pairs := make([]kv.Pair, len(keys))
	for i, key := range keys {
		at := random.IntN(poolBytes)
		pairs[i] = kv.Pair{Key: key, Value: l.pool[at : at+l.ValueSize : at+l.ValueSize]}
	}
	return pairs
}

// sweep does something with every key.
func (l *Load) sweep(ctx context.Context, seen *Seen, do func(ctx context.Context, first int, keys []string) error) error {
	g, going := errgroup.WithContext(ctx)
	g.SetLimit(l.Callers)
	for first := 0; first < l.Keys && going.Err() == nil; first += l.Batch {
		g.Go(func() error {
			keys := make([]string, min(l.Batch, l.Keys-first))
			for i := range keys {
				keys[i] = Key(first + i)
			}
			err := l.try(going, func(ctx context.Context) error { return do(ctx, first, keys) })
			seen.Keys.Add(int64(len(keys)))
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return context.Cause(ctx)
}

func (l *Load) try(ctx context.Context, call func(context.Context) error) error {
	if l.Try != nil {
		return l.Try(ctx, call)
	}
	ctx, done := l.limited(ctx)
	defer done()
	return call(ctx)
}

package jepsen

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/manykv/manykv/kv"
)

const (
	// shortestCall and longestCall bound how long a call may take: shorter and
	// longer than an election, so that callers give up before, while and after
	// one.
	shortestCall = 500 * time.Millisecond
	longestCall  = 3 * time.Second
	// fewestKeys and mostKeys are the sizes of a batch.
	fewestKeys, mostKeys = 2, 8
	// stay is how many calls, on average, a worker makes before it takes another
	// route; it does at once after one that failed.
	stay = 20
)

// worker makes one call after the other.
type worker struct {
	history *History
	tally   *Tally
	keys    *hotKeys
	// counters are the keys that are counted in; the others hold values of their own.
	counters *hotKeys
	routes   []Route
	id       int
	process  int
	rand     *rand.Rand
	written  int // values so far, so that each is another
}

func (w *worker) run(ctx context.Context, turns <-chan struct{}) error {
	route := w.rand.IntN(len(w.routes))
	for range turns {
		err := w.call(ctx, w.routes[route])
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil && !explained(err):
			return fmt.Errorf("worker %d via %s: %w", w.id, w.routes[route].Name, err)
		case err != nil || w.rand.IntN(stay) == 0:
			route = w.rand.IntN(len(w.routes))
		}
	}
	return nil
}

// explained says whether a dead or paused node may be why a call failed.
func explained(err error) bool {
	return errors.Is(err, kv.ErrUnknown) || errors.Is(err, kv.ErrUnavailable) || errors.Is(err, kv.ErrBusy)
}

// call makes one call of a random kind on random keys.
func (w *worker) call(ctx context.Context, route Route) error {
	ctx, done := context.WithTimeout(ctx, shortestCall+time.Duration(w.rand.Int64N(int64(longestCall-shortestCall))))
	defer done()
	one := w.keys.pick(w.rand, 1)
	many := w.keys.pick(w.rand, fewestKeys+w.rand.IntN(mostKeys-fewestKeys+1))
	switch n := w.rand.IntN(100); {
	case n < 18:
		return w.get(ctx, route, one[0])
	case n < 24:
		return w.exists(ctx, route, one[0])
	case n < 40:
		return w.set(ctx, route, one)
	case n < 46:
		return w.delete(ctx, route, one)
	case n < 64:
		return w.getMany(ctx, route, many)
	case n < 78:
		return w.set(ctx, route, many)
	case n < 83:
		return w.delete(ctx, route, many)
	case n < 91:
		return w.swap(ctx, route, one[0])
	default:
		return w.count(ctx, route, w.counters.pick(w.rand, 1)[0])
	}
}

func (w *worker) get(ctx context.Context, route Route, key string) error {
	op := Operation{Kind: Get, Key: key, Call: w.history.Now()}
	value, found, err := route.Bucket.Get(ctx, key)
	op.Return, op.Value, op.Found = w.history.Now(), string(value), found
	return w.hasRead("get", route, err, op)
}

func (w *worker) exists(ctx context.Context, route Route, key string) error {
	op := Operation{Kind: Exists, Key: key, Call: w.history.Now()}
	found, err := route.Bucket.Exists(ctx, key)
	op.Return, op.Found = w.history.Now(), found
	return w.hasRead("exists", route, err, op)
}

func (w *worker) getMany(ctx context.Context, route Route, keys []string) error {
	call := w.history.Now()
	pairs, err := route.Bucket.GetMany(ctx, keys)
	end := w.history.Now()
	if err == nil && len(pairs) != len(keys) {
		return fmt.Errorf("get-many answered %d of %d keys", len(pairs), len(keys))
	}
	operations := make([]Operation, len(pairs))
	for i, p := range pairs {
		operations[i] = Operation{Kind: Get, Key: keys[i], Call: call, Return: end, Found: p != nil}
		if p == nil {
			continue
		}
		if p.Key != keys[i] {
			return fmt.Errorf("get-many answered key %q in place %d, want %q", p.Key, i, keys[i])
		}
		operations[i].Value = string(p.Value)
	}
	return w.hasRead("get-many", route, err, operations...)
}

// hasRead records what a read saw; one that failed saw nothing.
func (w *worker) hasRead(name string, route Route, err error, operations ...Operation) error {
	if err != nil {
		w.tally.count(name, resultFailed)
		return err
	}
	w.tally.count(name, resultOK)
	w.record(route, operations)
	return nil
}

// swap reads a key's version and swaps it for a value of its own.
func (w *worker) swap(ctx context.Context, route Route, key string) error {
	op := Operation{Kind: Get, Key: key, Call: w.history.Now()}
	value, version, found, err := route.Bucket.GetVersion(ctx, key)
	op.Return, op.Value, op.Found, op.Version = w.history.Now(), string(value), found, version
	if err := w.hasRead("get-version", route, err, op); err != nil {
		return err
	}
	w.written++
	swap := Operation{Kind: Swap, Key: key, Found: found, Expect: op.Value, Value: fmt.Sprintf("w%d-%06d", w.id, w.written)}
	call := w.history.Now()
	swap.Version, err = route.Bucket.CompareAndSwap(ctx, key, version, []byte(swap.Value))
	if errors.Is(err, kv.ErrConflict) && !errors.Is(err, kv.ErrUnknown) {
		swap.Kind, swap.Call, swap.Return = Conflict, call, w.history.Now()
		return w.hasRead("swap", route, nil, swap)
	}
	return w.hasWritten("swap", route, call, err, []Operation{swap})
}

// count adds to a counter, or reads it, or now and then deletes it.
func (w *worker) count(ctx context.Context, route Route, key string) error {
	switch n := w.rand.IntN(10); {
	case n == 0:
		return w.delete(ctx, route, []string{key})
	case n < 4:
		return w.get(ctx, route, key)
	}
	op := Operation{Kind: Increment, Key: key, Delta: w.rand.Int64N(200) - 100}
	call := w.history.Now()
	sum, err := route.Bucket.Increment(ctx, key, op.Delta)
	if err == nil {
		op.Value = strconv.FormatInt(sum, 10)
	}
	return w.hasWritten("increment", route, call, err, []Operation{op})
}

// set writes a value of its own to each key.
func (w *worker) set(ctx context.Context, route Route, keys []string) error {
	pairs := make([]kv.Pair, len(keys))
	operations := make([]Operation, len(keys))
	for i, key := range keys {
		w.written++
		value := fmt.Sprintf("w%d-%06d", w.id, w.written)
		pairs[i] = kv.Pair{Key: key, Value: []byte(value)}
		operations[i] = Operation{Kind: Set, Key: key, Value: value}
	}
	call := w.history.Now()
	if len(keys) == 1 {
		err := route.Bucket.Set(ctx, keys[0], pairs[0].Value)
		return w.hasWritten("set", route, call, err, operations)
	}
	err := route.Bucket.SetMany(ctx, pairs)
	return w.hasWritten("set-many", route, call, err, operations)
}

func (w *worker) delete(ctx context.Context, route Route, keys []string) error {
	operations := make([]Operation, len(keys))
	for i, key := range keys {
		operations[i] = Operation{Kind: Delete, Key: key}
	}
	call := w.history.Now()
	if len(keys) == 1 {
		err := route.Bucket.Delete(ctx, keys[0])
		return w.hasWritten("delete", route, call, err, operations)
	}
	err := route.Bucket.DeleteMany(ctx, keys)
	return w.hasWritten("delete-many", route, call, err, operations)
}

// hasWritten records what a write did, or may have done. After an unknown
// outcome the worker goes on as another process: this one never returned.
func (w *worker) hasWritten(name string, route Route, call int64, err error, operations []Operation) error {
	end := w.history.Now()
	happened := operations[:0]
	lost := false
	applied := 0
	for i, outcome := range Outcomes(err, len(operations)) {
		op := operations[i]
		op.Call, op.Return = call, end
		switch outcome {
		case kv.OutcomeApplied:
			applied++
		case kv.OutcomeNotApplied:
			continue
		default:
			op.Return, op.Why, lost = Never, err.Error(), true
			w.keys.unknown(op.Key)
			w.counters.unknown(op.Key)
		}
		happened = append(happened, op)
	}
	w.tally.count(name, writeResult(err, lost, applied))
	w.record(route, happened)
	if lost {
		w.process = w.history.NewProcess()
	}
	return err
}

// Outcomes says what became of each of n keys of a write that ended with err.
func Outcomes(err error, n int) []kv.Outcome {
	out := make([]kv.Outcome, n)
	var batch *kv.BatchError
	switch {
	case err == nil:
		fill(out, kv.OutcomeApplied)
	case errors.As(err, &batch) && len(batch.Outcomes) == n:
		copy(out, batch.Outcomes)
	case errors.As(err, &batch) || kv.CodeOf(err) == kv.CodeUnknown:
		fill(out, kv.OutcomeUnknown)
	default: // refused before anything was sent
		fill(out, kv.OutcomeNotApplied)
	}
	return out
}

func fill(out []kv.Outcome, outcome kv.Outcome) {
	for i := range out {
		out[i] = outcome
	}
}

func (w *worker) record(route Route, operations []Operation) {
	for i := range operations {
		operations[i].Process, operations[i].Via = w.process, route.Name
	}
	w.history.Add(operations)
}

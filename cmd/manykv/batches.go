package main

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/manykv/manykv/kv"
)

const (
	// batchKeys and batchBytes bound what is sent in one call: enough to make
	// the round trip cheap, little enough that several in flight cost neither
	// side much memory. Both are well below the store's limits.
	batchKeys  = 1000
	batchBytes = 4 << 20
	// mostConcerned is how many keys of a failed batch are named: enough to see
	// what they have in common.
	mostConcerned = 10
)

// batches cuts items into runs of at most batchKeys items and batchBytes
// bytes, or of one larger item. It ends with the first error; the items before
// it are handed out first.
func batches[T any](items iter.Seq2[T, error], size func(T) int64) iter.Seq2[[]T, error] {
	return func(yield func([]T, error) bool) {
		var run []T
		bytes := int64(0)
		for item, err := range items {
			if err != nil {
				if len(run) == 0 || yield(run, nil) {
					yield(nil, err)
				}
				return
			}
			n := size(item)
			if len(run) == batchKeys || len(run) > 0 && bytes+n > batchBytes {
				if !yield(run, nil) {
					return
				}
				run, bytes = nil, 0
			}
			run = append(run, item)
			bytes += n
		}
		if len(run) > 0 {
			yield(run, nil)
		}
	}
}

// each is the items of a list, as batches reads them.
func each[T any](items []T) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for _, item := range items {
			if !yield(item, nil) {
				return
			}
		}
	}
}

func keySize(key string) int64   { return int64(len(key)) }
func pairSize(p kv.Pair) int64   { return int64(len(p.Key) + len(p.Value)) }
func itself(key string) string   { return key }
func keyOfPair(p kv.Pair) string { return p.Key }

// tally adds up what became of the keys of several calls.
type tally struct {
	Calls      int         `json:"calls"`
	Applied    int         `json:"applied"`
	NotApplied int         `json:"not_applied"`
	Unknown    int         `json:"unknown"`
	Concerned  []concerned `json:"concerned,omitempty"` // the first of those not applied or unknown
}

type concerned struct {
	Key     string `json:"key"`
	Outcome string `json:"outcome"`
}

// add takes in one call. A call that failed without outcomes sent nothing.
func (t *tally) add(keys []string, err error) {
	t.Calls++
	if err == nil {
		t.Applied += len(keys)
		return
	}
	batch, _ := errors.AsType[*kv.BatchError](err)
	for i, key := range keys {
		outcome := kv.OutcomeNotApplied
		if batch != nil {
			outcome = kv.OutcomeUnknown
			if i < len(batch.Outcomes) {
				outcome = batch.Outcomes[i]
			}
		}
		switch outcome {
		case kv.OutcomeApplied:
			t.Applied++
			continue
		case kv.OutcomeNotApplied:
			t.NotApplied++
		default:
			t.Unknown++
		}
		if len(t.Concerned) < mostConcerned {
			t.Concerned = append(t.Concerned, concerned{key, outcome.String()})
		}
	}
}

func (t *tally) set() string {
	return fmt.Sprintf("set %s in %s", count(t.Applied, "key", "keys"), count(t.Calls, "call", "calls"))
}

// gone is of deletions: how many of the keys there were, nobody knows.
func (t *tally) gone() string {
	return fmt.Sprintf("%s gone (%s)", count(t.Applied, "key is", "keys are"), count(t.Calls, "call", "calls"))
}

// printConcerned names the keys that a script, or a person, must look after.
func (t *tally) printConcerned(w *printer) {
	for _, c := range t.Concerned {
		w.printf("  %s: %q\n", c.Outcome, c.Key)
	}
	if more := t.NotApplied + t.Unknown - len(t.Concerned); more > 0 {
		w.printf("  and %d more\n", more)
	}
}

// writeAll sends items in batches, one after the other so that the last
// occurrence of a key wins, and stops at the first that fails: the input after
// it is not read.
func writeAll[T any](ctx context.Context, items iter.Seq2[T, error], size func(T) int64, key func(T) string,
	call func(context.Context, []T) error) (tally, error) {
	var t tally
	for batch, err := range batches(items, size) {
		if err != nil {
			return t, err
		}
		keys := make([]string, len(batch))
		for i, item := range batch {
			keys[i] = key(item)
		}
		err := call(ctx, batch)
		t.add(keys, err)
		if err != nil {
			return t, err
		}
	}
	return t, nil
}

// getter is a bucket to read from.
type getter interface {
	GetMany(ctx context.Context, keys []string) ([]*kv.Pair, error)
}

// getRuns is GetMany in as many calls as the size of the answers needs, in the
// order of keys: only one of them is in memory.
func getRuns(ctx context.Context, from getter, keys []string) iter.Seq2[[]*kv.Pair, error] {
	return func(yield func([]*kv.Pair, error) bool) { yieldRuns(ctx, from, keys, yield) }
}

func yieldRuns(ctx context.Context, from getter, keys []string, yield func([]*kv.Pair, error) bool) (more bool) {
	pairs, err := from.GetMany(ctx, keys)
	if !errors.Is(err, kv.ErrTooLarge) || len(keys) < 2 {
		return yield(pairs, err) && err == nil
	}
	half := len(keys) / 2
	return yieldRuns(ctx, from, keys[:half], yield) && yieldRuns(ctx, from, keys[half:], yield)
}

// getAll is GetMany, in halves if the answer would be too large.
func getAll(ctx context.Context, from getter, keys []string) (all []*kv.Pair, err error) {
	for pairs, err := range getRuns(ctx, from, keys) {
		if err != nil {
			return nil, err
		}
		all = append(all, pairs...)
	}
	return all, nil
}

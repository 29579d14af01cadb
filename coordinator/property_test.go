package coordinator

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

// smallEntries makes several commands of a part, of two or three pairs each.
var smallEntries = kv.Limits{EntryBytes: kv.CommandOverhead + 50}

// drawCluster draws a cluster and a way to it: a client's coordinator, a node's,
// or through a node.
func drawCluster(t *rapid.T, fates []fate, each int) (*fakeCluster, carrier) {
	nodes := rapid.IntRange(1, 4).Draw(t, "nodes")
	f := newFake(nodes, rapid.IntRange(1, 6).Draw(t, "shards"), rapid.IntRange(1, 3).Draw(t, "replicas"))
	f.leads = rapid.IntRange(0, 2).Draw(t, "leads")
	for i := range nodes {
		id := sharding.NodeID(fmt.Sprintf("n%d", i+1))
		f.will(id, rapid.SliceOfN(rapid.SampledFrom(fates), 0, each).Draw(t, "fates of "+string(id))...)
	}
	switch rapid.SampledFrom([]string{"client", "node", "through"}).Draw(t, "by") {
	case "client":
		return f, f.coordinator(smallEntries)
	case "node":
		return f, f.node("n1", smallEntries)
	default:
		return f, &Through{Call: (&through{node: f.node("n1", smallEntries)}).call, Limits: smallEntries}
	}
}

// inFakeTime checks a property in bubbles where waiting takes no time.
func inFakeTime(t *testing.T, property func(t *rapid.T)) {
	rapid.Check(t, func(t *rapid.T) { rapid.SyncTest(t, property) })
}

// allFates but the code of a later version, of which a write knows only that it
// was refused: the one error that is unknown although no outcome is.
func allFates() (all []fate) {
	for x := served; x <= lastFate; x++ {
		if x != partUnknownCode {
			all = append(all, x)
		}
	}
	return all
}

// drawKeys draws a batch's keys: few different ones, so that many occur twice;
// the empty one is among them, and so are missing ones.
func drawKeys(t *rapid.T) []string {
	names := []string{"", "ä", "x"}
	for i := range 12 {
		names = append(names, fmt.Sprintf("key-%d", i))
	}
	return rapid.SliceOfN(rapid.SampledFrom(names), 0, 24).Draw(t, "keys")
}

// timed runs a call with a deadline and complains if it outlasts it.
func timed(t *rapid.T, call func(ctx context.Context)) {
	allowed := time.Duration(rapid.SampledFrom([]int{0, 1, 10, 100, 10_000, 600_000}).Draw(t, "milliseconds")) * time.Millisecond
	ctx, cancel := context.WithTimeout(context.Background(), allowed)
	defer cancel()
	began := time.Now()
	call(ctx)
	if took := time.Since(began); took > allowed {
		t.Fatalf("the call took %v, allowed were %v", took, allowed)
	}
}

func (f *fakeCluster) noProblems(t *rapid.T) {
	if len(f.problems) > 0 {
		t.Fatalf("nodes were sent what they must not be: %v", errors.Join(f.problems...))
	}
}

// checkRead compares a read's answer with the data.
func (f *fakeCluster) checkRead(ctx context.Context, t *rapid.T, c carrier, keys []string) error {
	if rapid.Bool().Draw(t, "exists only") {
		there, err := c.Exists(ctx, testBucket, keys)
		if err != nil {
			return err
		}
		for i, key := range keys {
			if _, want := f.data[key]; there[i] != want || len(there) != len(keys) {
				t.Fatalf("position %d of %q: exists is %v, want %v", i, keys, there[i], want)
			}
		}
		return nil
	}
	pairs, err := c.GetMany(ctx, testBucket, keys)
	if err != nil {
		return err
	}
	if len(pairs) != len(keys) {
		t.Fatalf("%d answers to %d keys", len(pairs), len(keys))
	}
	for i, key := range keys {
		want, there := f.data[key]
		switch p := pairs[i]; {
		case there != (p != nil):
			t.Fatalf("position %d of %q is %v, want %q, %v", i, keys, p, want, there)
		case there && (p.Key != key || string(p.Value) != want):
			t.Fatalf("position %d of %q is %q: %q, want %q", i, keys, p.Key, p.Value, want)
		}
	}
	return nil
}

// A read answers every position rightly, or fails as a whole in time, with an
// error that says what to do.
func TestReadsAreRightOrFail(t *testing.T) {
	inFakeTime(t, func(t *rapid.T) {
		f, c := drawCluster(t, allFates(), 6)
		for i, key := range drawKeys(t) {
			f.data[key] = fmt.Sprint("value ", i)
		}
		keys := drawKeys(t)
		timed(t, func(ctx context.Context) {
			err := f.checkRead(ctx, t, c, keys)
			if err != nil && !isOneOf(err, kv.ErrUnavailable, kv.ErrBusy, kv.ErrInvalid, kv.ErrAccessDenied) || errors.Is(err, kv.ErrUnknown) {
				t.Fatalf("a read failed with %v", err)
			}
		})
		f.noProblems(t)
	})
}

func isOneOf(err error, classes ...error) bool {
	return slices.ContainsFunc(classes, func(class error) bool { return errors.Is(err, class) })
}

// A write that fails says the truth about every key, also about what arrives
// after the caller has left; and nothing that may have been applied is sent
// again.
func TestWritesAreHonest(t *testing.T) {
	inFakeTime(t, func(t *rapid.T) {
		f, c := drawCluster(t, allFates(), 4)
		keys := drawKeys(t)
		var writes []write
		var err error
		timed(t, func(ctx context.Context) { writes, err = f.drawWrite(ctx, t, c, keys) })
		outcomes := outcomesOf(t, err, len(keys))
		f.checkOutcomes(t, writes, outcomes)
		f.arrive()
		f.checkOutcomes(t, writes, outcomes)
		f.checkOrder(t, writes)
		f.noProblems(t)
	})
}

// drawWrite writes keys, each with a value of its own, or deletes them.
func (f *fakeCluster) drawWrite(ctx context.Context, t *rapid.T, c carrier, keys []string) ([]write, error) {
	writes := make([]write, len(keys))
	if rapid.Bool().Draw(t, "delete") {
		for i, key := range keys {
			f.data[key] = "old"
			writes[i] = write{key: key}
		}
		return writes, c.DeleteMany(ctx, testBucket, keys)
	}
	pairs := make([]kv.Pair, len(keys))
	for i, key := range keys {
		writes[i] = write{key, fmt.Sprintf("value %03d", i)}
		pairs[i] = kv.Pair{Key: key, Value: []byte(writes[i].value)}
	}
	return writes, c.SetMany(ctx, testBucket, pairs)
}

// outcomesOf returns what a write of n keys says of each.
func outcomesOf(t *rapid.T, err error, n int) []kv.Outcome {
	if err == nil {
		return allOutcomes(n, kv.OutcomeApplied)
	}
	var batch *kv.BatchError
	if !errors.As(err, &batch) || len(batch.Outcomes) != n {
		t.Fatalf("a write of %d keys failed without their outcomes: %v", n, err)
	}
	if slices.Contains(batch.Outcomes, kv.OutcomeUnknown) != errors.Is(err, kv.ErrUnknown) {
		t.Fatalf("outcomes %v, error %v: want an unknown one and an ErrUnknown together", batch.Outcomes, err)
	}
	if !isOneOf(err, kv.ErrUnknown, kv.ErrUnavailable, kv.ErrBusy, kv.ErrInvalid, kv.ErrAccessDenied, kv.ErrNoSuchStore) {
		t.Fatalf("a write failed with %v", err)
	}
	return batch.Outcomes
}

// checkOutcomes compares outcomes with what was applied.
func (f *fakeCluster) checkOutcomes(t *rapid.T, writes []write, outcomes []kv.Outcome) {
	type said struct{ applied, unknown int }
	of := make(map[write]said)
	for i, w := range writes {
		s := of[w]
		switch outcomes[i] {
		case kv.OutcomeApplied:
			s.applied++
		case kv.OutcomeUnknown:
			s.unknown++
		}
		of[w] = s
	}
	for w, s := range of {
		if n := f.writes.count(w); n < s.applied || n > s.applied+s.unknown {
			t.Fatalf("%v: applied %d times, the call says %d times and perhaps %d more", w, n, s.applied, s.unknown)
		}
		if n := f.writes.exposed[w]; n != s.applied+s.unknown {
			t.Fatalf("%v: may have been applied %d times, the call says %d and perhaps %d", w, n, s.applied, s.unknown)
		}
	}
	for _, w := range f.writes.applied {
		if _, ok := of[w]; !ok {
			t.Fatalf("%v was applied and never asked for", w)
		}
	}
}

// checkOrder checks that what was set of one key was set in the caller's order,
// and that the last of it stands.
func (f *fakeCluster) checkOrder(t *rapid.T, writes []write) {
	last := make(map[string]string)
	for _, w := range f.writes.applied {
		if w.value == "" {
			continue // deleted: in whatever order
		}
		if w.value < last[w.key] {
			t.Fatalf("key %q: %s was set after %s", w.key, w.value, last[w.key])
		}
		last[w.key] = w.value
	}
	for key, value := range last {
		if f.data[key] != value {
			t.Fatalf("key %q is %q, want %q", key, f.data[key], value)
		}
	}
}

// Whatever passes by itself is not seen by the caller.
func TestHarmlessFatesAreHealed(t *testing.T) {
	inFakeTime(t, func(t *rapid.T) {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
		defer cancel()
		keys := drawKeys(t)
		f, c := drawCluster(t, harmless, 8)
		writes, err := f.drawWrite(ctx, t, c, keys)
		if err != nil {
			t.Fatalf("a write failed: %v", err)
		}
		f.checkOutcomes(t, writes, allOutcomes(len(keys), kv.OutcomeApplied))
		f.checkOrder(t, writes)
		want := make(map[string]string)
		for _, w := range writes {
			if want[w.key] = w.value; w.value == "" {
				delete(want, w.key)
			}
		}
		if !maps.Equal(f.data, want) {
			t.Fatalf("the data is %q, want %q", f.data, want)
		}
		f.noProblems(t)

		f, c = drawCluster(t, harmlessToReads, 8)
		f.data = want
		if err := f.checkRead(ctx, t, c, append(keys, "missing")); err != nil {
			t.Fatalf("a read failed: %v", err)
		}
		f.noProblems(t)
	})
}

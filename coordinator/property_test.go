package coordinator

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

// smallEntries makes several commands of a part, of two or three pairs each.
var smallEntries = kv.Limits{EntryBytes: kv.CommandOverhead + 50}

// drawCluster draws a cluster and a way to it: a client's coordinator, a node's,
// or through nodes.
func drawCluster(t *rapid.T, fates, onTheWay []fate, each int) (*fakeCluster, user) {
	nodes := rapid.IntRange(1, 4).Draw(t, "nodes")
	f := newFake(nodes, rapid.IntRange(1, 6).Draw(t, "shards"), rapid.IntRange(1, 3).Draw(t, "replicas"))
	f.leads = rapid.IntRange(0, 2).Draw(t, "leads")
	f.hurry = rapid.IntRange(0, 3).Draw(t, "hurry")
	f.pageKeys = rapid.IntRange(0, 3).Draw(t, "keys of a page")
	for i := range nodes {
		id := sharding.NodeID(fmt.Sprintf("n%d", i+1))
		f.will(id, rapid.SliceOfN(rapid.SampledFrom(fates), 0, each).Draw(t, "fates of "+string(id))...)
	}
	switch rapid.SampledFrom([]string{"client", "node", "through"}).Draw(t, "by") {
	case "client":
		return f, f.client(smallEntries)
	case "node":
		c := f.node("n1", smallEntries)
		return f, user{c, c.NewSession()}
	default:
		through := rapid.SliceOfN(rapid.SampledFrom(onTheWay), 0, 3).Draw(t, "fates of nodes in between")
		return f, f.through(smallEntries, through, f.node("n1", smallEntries), f.node("n2", kv.Limits{}))
	}
}

// onTheWay are the fates of calls to a node in between; those of which harmlessOnTheWay
// are healed by another.
var (
	onTheWay         = append([]fate{refusedCall, deniedCall, hungBefore}, harmlessOnTheWay...)
	harmlessOnTheWay = []fate{served, notSent, lostBefore, lostAfter, failedBefore, failedAfter, garbage}
)

// inFakeTime checks a property in bubbles where waiting takes no time.
func inFakeTime(t *testing.T, property func(t *rapid.T)) {
	rapid.Check(t, func(t *rapid.T) { rapid.SyncTest(t, property) })
}

func allFates() (all []fate) {
	for x := served; x <= lastFate; x++ {
		all = append(all, x)
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
func (f *fakeCluster) checkRead(ctx context.Context, t *rapid.T, c user, keys []string) error {
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
		f, c := drawCluster(t, allFates(), onTheWay, 6)
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

// A list has every key once, whatever passes by itself.
func TestListsAreWhole(t *testing.T) {
	inFakeTime(t, func(t *rapid.T) {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
		defer cancel()
		f, c := drawCluster(t, harmlessToReads, []fate{served}, 6)
		for _, key := range drawKeys(t) {
			f.data[key] = "value"
		}
		var got []string
		pages := 0
		for cursor := uint64(0); ; pages++ {
			keys, next, err := c.List(ctx, testBucket, cursor)
			if err != nil {
				t.Fatal(err)
			}
			if got = append(got, keys...); next == 0 {
				break
			}
			cursor = next
		}
		want := slices.Sorted(maps.Keys(f.data))
		if slices.Sort(got); !slices.Equal(got, want) || pages > 0 {
			t.Fatalf("listed %q on %d pages, want %q on one", got, pages+1, want)
		}
		f.noProblems(t)
	})
}

func isOneOf(err error, classes ...error) bool {
	return slices.ContainsFunc(classes, func(class error) bool { return errors.Is(err, class) })
}

// wrote is one write call and what its caller heard.
type wrote struct {
	writes   []write
	outcomes []kv.Outcome
	err      error
}

// Writes that fail say the truth about every key, also about copies that arrive
// later, and nothing is applied twice. Once the cluster is healed, Retry tells of
// every unknown outcome what became of it.
func TestWritesAreHonest(t *testing.T) {
	inFakeTime(t, func(t *rapid.T) {
		f, c := drawCluster(t, allFates(), onTheWay, 4)
		var calls []wrote
		for n := range rapid.IntRange(1, 3).Draw(t, "calls") {
			w, do := f.drawWrite(t, c, n)
			timed(t, func(ctx context.Context) { w.err = do(ctx) })
			w.outcomes = outcomesOf(t, w.err, len(w.writes))
			calls = append(calls, w)
		}
		f.checkCalls(t, c, calls)
	})
}

// So do writes of several callers that share requests, also to those who leave.
func TestConcurrentWritesAreHonest(t *testing.T) {
	shared := 0
	inFakeTime(t, func(t *rapid.T) {
		f := newFake(1, rapid.IntRange(1, 2).Draw(t, "shards"), 1)
		f.will("n1", rapid.SliceOfN(rapid.SampledFrom(allFates()), 0, 4).Draw(t, "fates")...)
		f.slowly = 2 * time.Millisecond // so that requests are under way together,
		f.lossy = true                  // and callers leave meanwhile
		c := f.client(smallEntries)
		join(c)
		op := rapid.SampledFrom([]Op{OpSet, OpSet, OpDelete, OpSwap}).Draw(t, "op")
		calls := make([]wrote, rapid.IntRange(2, 8).Draw(t, "calls"))
		do, stays := make([]func(ctx context.Context) error, len(calls)), make([]time.Duration, len(calls))
		for n := range calls {
			keys := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c", "d", "e"}), 1, 3).Draw(t, "keys")
			calls[n], do[n] = f.drawWriteOf(t, c, n, op, keys)
			stays[n] = rapid.SampledFrom([]time.Duration{time.Millisecond, 3 * time.Millisecond, time.Hour}).Draw(t, "stays")
		}
		var all sync.WaitGroup
		for n := range calls {
			all.Go(func() {
				ctx, cancel := context.WithCancel(context.Background()) // who has a deadline that is near shares no request
				defer time.AfterFunc(stays[n], cancel).Stop()
				defer cancel()
				calls[n].err = do[n](ctx)
			})
		}
		all.Wait()
		synctest.Wait() // a request that all its callers have left ends, too
		for n := range calls {
			calls[n].outcomes = outcomesOf(t, calls[n].err, len(calls[n].writes))
		}
		for _, s := range f.seenBy("") {
			if callsIn(s.q) > 1 {
				shared++
			}
		}
		f.checkCalls(t, c, calls)
	})
	if t.Logf("%d requests were shared", shared); shared == 0 {
		t.Error("no request was shared")
	}
}

// checkCalls checks what calls said, before and after copies arrive that are on their
// way and what is unknown is found out.
func (f *fakeCluster) checkCalls(t *rapid.T, c user, calls []wrote) {
	f.checkOutcomes(t, calls)
	if rapid.Bool().Draw(t, "late copies arrive before the retries") {
		f.arrive()
		f.checkOutcomes(t, calls)
	}
	f.heal()
	for n := range calls {
		f.retry(t, c, &calls[n])
	}
	f.checkOutcomes(t, calls)
	f.arrive()
	f.checkOutcomes(t, calls)
	f.checkOrder(t, calls)
	f.noProblems(t)
}

// retry sends a call again whose outcome is unknown. There must be nothing unknown
// then, unless it may not be sent any more.
func (f *fakeCluster) retry(t *rapid.T, c user, w *wrote) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	var batch *kv.BatchError
	if !errors.As(w.err, &batch) || batch.Call == 0 {
		return
	}
	if !slices.Contains(batch.Outcomes, kv.OutcomeUnknown) {
		t.Fatalf("%v can be sent again, and nothing of it is unknown", w.err)
	}
	_, err := c.Retry(ctx, fmt.Errorf("wrapped: %w", w.err))
	if errors.Is(err, kv.ErrInvalid) && !errors.As(err, &batch) {
		if !strings.Contains(err.Error(), "is closed") { // 5 minutes have gone by
			t.Fatalf("retry of %v: %v", w.err, err)
		}
		return
	}
	before := w.outcomes
	w.err, w.outcomes = err, outcomesOf(t, err, len(w.writes))
	for i, o := range w.outcomes {
		// A split leaves what was begun behind for good, and what a shard has
		// forgotten nobody knows.
		if o == kv.OutcomeUnknown && !strings.Contains(err.Error(), "ranges have changed") && !f.forgot {
			t.Fatalf("after a retry the outcomes are %v: %v", w.outcomes, err)
		}
		if before[i] == kv.OutcomeApplied && o != before[i] {
			t.Fatalf("after a retry the outcomes are %v, before %v", w.outcomes, before)
		}
	}
}

// drawWrite draws a call that writes keys, each with a value of its own, or deletes them.
func (f *fakeCluster) drawWrite(t *rapid.T, c user, call int) (w wrote, do func(ctx context.Context) error) {
	keys := drawKeys(t)
	return f.drawWriteOf(t, c, call, rapid.SampledFrom([]Op{OpSet, OpDelete, OpSwap}).Draw(t, "op"), keys)
}

func (f *fakeCluster) drawWriteOf(t *rapid.T, c user, call int, op Op, keys []string) (w wrote, do func(ctx context.Context) error) {
	if op == OpDelete {
		for _, key := range keys {
			f.data[key] = "old"
			w.writes = append(w.writes, write{key: key})
		}
		return w, func(ctx context.Context) error { return c.DeleteMany(ctx, testBucket, keys) }
	}
	if op == OpSwap {
		keys = append(keys, "swapped")[:1]
	}
	large := rapid.IntRange(0, 30).Draw(t, "the large one")
	var pairs []kv.Pair
	for i, key := range keys {
		value := fmt.Sprintf("call %d value %03d", call, i)
		if i == large {
			value += strings.Repeat("x", 2500)
		}
		w.writes = append(w.writes, write{key, value})
		pairs = append(pairs, kv.Pair{Key: key, Value: []byte(value)})
	}
	if op == OpSet {
		return w, func(ctx context.Context) error { return c.SetMany(ctx, testBucket, pairs) }
	}
	f.mu.Lock()
	version := f.versions[keys[0]] + uint64(rapid.IntRange(0, 1).Draw(t, "wrong version"))
	f.mu.Unlock()
	return w, func(ctx context.Context) error {
		_, err := c.CompareAndSwap(ctx, testBucket, version, pairs[0])
		return err
	}
}

// outcomesOf returns what a write of n keys says of each.
func outcomesOf(t *rapid.T, err error, n int) []kv.Outcome {
	if err == nil {
		return slices.Repeat([]kv.Outcome{kv.OutcomeApplied}, n)
	}
	var batch *kv.BatchError
	if !errors.As(err, &batch) || len(batch.Outcomes) != n {
		t.Fatalf("a write of %d keys failed without their outcomes: %v", n, err)
	}
	if slices.Contains(batch.Outcomes, kv.OutcomeUnknown) != errors.Is(err, kv.ErrUnknown) {
		t.Fatalf("outcomes %v, error %v: want an unknown one and an ErrUnknown together", batch.Outcomes, err)
	}
	if !isOneOf(err, kv.ErrUnknown, kv.ErrUnavailable, kv.ErrBusy, kv.ErrInvalid, kv.ErrAccessDenied, kv.ErrNoSuchStore, kv.ErrConflict) {
		t.Fatalf("a write failed with %v", err)
	}
	return batch.Outcomes
}

// checkOutcomes compares outcomes with what was applied.
func (f *fakeCluster) checkOutcomes(t *rapid.T, calls []wrote) {
	type said struct{ applied, unknown int }
	of := make(map[write]said)
	for _, c := range calls {
		for i, w := range c.writes {
			s := of[w]
			switch c.outcomes[i] {
			case kv.OutcomeApplied:
				s.applied++
			case kv.OutcomeUnknown:
				s.unknown++
				if !f.exposed[w.key] && !f.lossy {
					t.Fatalf("%q is unknown, and no answer about it was lost", w.key)
				}
			}
			of[w] = s
		}
	}
	for w, s := range of {
		if n := f.count(w); n < s.applied || n > s.applied+s.unknown {
			t.Fatalf("%.40v: applied %d times, the calls say %d times and perhaps %d more", w, n, s.applied, s.unknown)
		}
	}
	for _, w := range f.applied {
		if _, ok := of[w]; !ok {
			t.Fatalf("%v was applied and never asked for", w)
		}
	}
}

// checkOrder checks that what each call set of one key was set in the caller's order.
func (f *fakeCluster) checkOrder(t *rapid.T, calls []wrote) {
	for n := range calls {
		last := make(map[string]string)
		for _, w := range f.applied {
			if !strings.HasPrefix(w.value, fmt.Sprintf("call %d ", n)) {
				continue
			}
			if w.value < last[w.key] {
				t.Fatalf("key %q: %s was set after %s", w.key, w.value, last[w.key])
			}
			last[w.key] = w.value
		}
	}
}

// Whatever passes by itself is not seen by the caller, and what arrives afterwards
// changes nothing.
func TestHarmlessFatesAreHealed(t *testing.T) {
	inFakeTime(t, func(t *rapid.T) {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
		defer cancel()
		f, c := drawCluster(t, harmless, harmlessOnTheWay, 8)
		keys := drawKeys(t)
		want := make(map[string]string)
		var pairs []kv.Pair
		for i, key := range keys {
			want[key] = fmt.Sprintf("value %03d", i)
			pairs = append(pairs, kv.Pair{Key: key, Value: []byte(want[key])})
		}
		if err := c.SetMany(ctx, testBucket, pairs); err != nil {
			t.Fatalf("a set failed: %v", err)
		}
		if len(keys) > 0 && rapid.Bool().Draw(t, "and delete") {
			if err := c.DeleteMany(ctx, testBucket, keys[:1]); err != nil {
				t.Fatalf("a delete failed: %v", err)
			}
			delete(want, keys[0])
		}
		f.arrive()
		if !maps.Equal(f.data, want) || len(f.applied) > len(keys)+1 {
			t.Fatalf("the data is %q, want %q; %d writes were applied", f.data, want, len(f.applied))
		}
		f.noProblems(t)

		f, c = drawCluster(t, harmlessToReads, []fate{served}, 8)
		f.data = want
		if err := f.checkRead(ctx, t, c, append(keys, "missing")); err != nil {
			t.Fatalf("a read failed: %v", err)
		}
		f.noProblems(t)
	})
}

// Increments of which each is sent until its outcome is known make an exact sum.
func TestIncrementsAreExact(t *testing.T) {
	inFakeTime(t, func(t *rapid.T) {
		f, c := drawCluster(t, allFates(), onTheWay, 6)
		var sum int64
		var failed []error
		for range rapid.IntRange(1, 6).Draw(t, "increments") {
			timed(t, func(ctx context.Context) {
				switch n, err := c.Increment(ctx, testBucket, "n", 1); {
				case err == nil:
					if sum++; n < sum {
						t.Fatalf("the sum is %d after %d increments", n, sum)
					}
				case errors.Is(err, kv.ErrUnknown):
					failed = append(failed, err)
				}
			})
		}
		f.heal()
		unknown := int64(0)
		for _, err := range failed {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			n, again := c.Retry(ctx, err)
			cancel()
			var batch *kv.BatchError
			switch isBatch := errors.As(again, &batch); {
			case again == nil:
				if sum++; n < 1 {
					t.Fatalf("a retry says the sum is %d", n)
				}
			case isBatch && !errors.Is(again, kv.ErrUnknown): // not applied
			default:
				unknown++
			}
		}
		f.arrive()
		if got, _ := strconv.ParseInt("0"+f.data["n"], 10, 64); got < sum || got > sum+unknown {
			t.Fatalf("the sum is %d, want %d, and at most %d more", got, sum, unknown)
		}
		f.noProblems(t)
	})
}

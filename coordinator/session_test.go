package coordinator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

// origins returns whose the commands were that nodes were sent, in order.
func (f *fakeCluster) origins(t *testing.T) (out []kv.Origin) {
	t.Helper()
	for _, s := range f.seenBy("") {
		for _, c := range commandsOf(s.q) {
			w, err := kv.DecodeWrite(c.bytes)
			must(t, err)
			out = append(out, w.Origin)
		}
	}
	return out
}

// fails lets one set of a key fail with an unknown outcome.
func (f *fakeCluster) fails(t *testing.T, u user, key string) error {
	t.Helper()
	f.mu.Lock()
	f.always = lostLater
	f.mu.Unlock()
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	err := u.SetMany(ctx, testBucket, pairsOf([]string{key}, "first"))
	var batch *kv.BatchError
	if !errors.Is(err, kv.ErrUnknown) || !errors.As(err, &batch) {
		t.Fatalf("a lost set: %v, want it unknown", err)
	}
	f.heal()
	return err
}

func callOf(t *testing.T, err error) uint64 {
	t.Helper()
	var batch *kv.BatchError
	if !errors.As(err, &batch) {
		t.Fatalf("%v is no error of a batch", err)
	}
	return batch.Call
}

// Calls have numbers, in each shard entries from 0, and the mark follows the oldest
// call without an answer.
func TestCallsAreNumberedAndAcknowledged(t *testing.T) {
	within(t, func(t *testing.T, ctx context.Context) {
		f := newFake(1, 2, 1)
		u := f.client(kv.Limits{EntryBytes: kv.CommandOverhead + 1}) // every pair alone
		must(t, u.SetMany(ctx, testBucket, pairsOf(someKeys(8), "1")))
		next := make(map[sharding.Shard]uint32)
		for _, c := range commandsOf(f.seenBy("")[0].q) {
			w, err := kv.DecodeWrite(c.bytes)
			must(t, err)
			if want := (kv.Origin{Client: 1, Seq: 1, Entry: next[c.shard]}); w.Origin != want {
				t.Errorf("shard %d was sent %+v, want %+v", c.shard, w.Origin, want)
			}
			next[c.shard]++
		}
		if len(next) != 2 {
			t.Fatalf("%d shards have keys, want 2", len(next))
		}

		f.requests = nil
		must(t, u.SetMany(ctx, testBucket, pairsOf([]string{"a"}, "1")))
		failed := f.fails(t, u, "a")
		must(t, u.SetMany(ctx, testBucket, pairsOf([]string{"a"}, "2")))
		must(t, u.SetMany(ctx, testBucket, pairsOf([]string{"a"}, "3")))
		_, err := u.Retry(ctx, failed)
		must(t, err)
		must(t, u.SetMany(ctx, testBucket, pairsOf([]string{"a"}, "4")))
		f.arrive()
		want := []kv.Origin{
			{Client: 1, Seq: 2, Acked: 1}, {Client: 1, Seq: 3, Acked: 2}, // it is lost
			{Client: 1, Seq: 4, Acked: 2}, {Client: 1, Seq: 5, Acked: 2}, // it holds the mark
			{Client: 1, Seq: 3, Acked: 2}, {Client: 1, Seq: 6, Acked: 5}, // it is answered
		}
		if got := f.origins(t); !slices.Equal(got, want) {
			t.Errorf("sent %+v, want %+v", got, want)
		}
		if f.count(write{"a", "first"}) != 1 || f.data["a"] != "4" {
			t.Errorf("the data is %q after %v", f.data, f.applied)
		}
	})
}

// A call is sent again as the same bytes, and from its first command on that is not
// settled.
func TestCallsAreSentAgainAsTheyWere(t *testing.T) {
	within(t, func(t *testing.T, ctx context.Context) {
		f := newFake(1, 1, 1)
		u := f.client(kv.Limits{EntryBytes: kv.CommandOverhead + 1}) // every pair alone
		f.will("n1", restLost, lostBefore, restLost, lostAfter)
		must(t, u.SetMany(ctx, testBucket, pairsOf([]string{"a", "b", "c", "d"}, "1")))
		requests := f.seenBy("")
		all := requests[0].q.Parts[0].Commands
		for i, from := range []int{0, 1, 1, 2, 2} {
			if got := requests[i].q.Parts[0].Commands; !slices.EqualFunc(got, all[from:], slices.Equal) {
				t.Errorf("request %d has %d commands, want those from %d on", i, len(got), from)
			}
		}
		if len(f.applied) != 4 || len(requests) != 5 {
			t.Errorf("applied %v in %d requests", f.applied, len(requests))
		}
	})
}

// Retry resolves what was unknown, with the value of the write; what was answered
// is not sent again.
func TestRetry(t *testing.T) {
	within(t, func(t *testing.T, ctx context.Context) {
		f := newFake(3, 2, 3)
		for name, u := range map[string]user{"client": f.client(kv.Limits{}), "through": f.through(kv.Limits{}, nil, f.node("n1", kv.Limits{}))} {
			var key [3]string // one of each shard
			for _, k := range someKeys(40) {
				key[f.m.ShardOfKey(testBucket, k)] = k
			}
			brief, cancel := context.WithTimeout(ctx, 3*time.Second)
			defer cancel()
			f.will(f.leader(1), slices.Repeat([]fate{lostLater}, 1000)...)
			err := u.SetMany(brief, testBucket, pairsOf(key[1:], name))
			var batch *kv.BatchError
			if !errors.As(err, &batch) || !slices.Equal(batch.Outcomes, []kv.Outcome{kv.OutcomeUnknown, kv.OutcomeApplied}) || batch.Call == 0 {
				t.Fatalf("%s: %v, want one unknown and one applied", name, err)
			}
			_, again := u.Retry(brief, err) // it has no time
			if !errors.Is(again, kv.ErrUnknown) || callOf(t, again) != batch.Call {
				t.Errorf("%s: a retry without time: %v", name, again)
			}
			f.heal()
			f.requests = nil
			_, again = u.Retry(ctx, fmt.Errorf("wrapped: %w", errors.Join(err)))
			must(t, again)
			if name == "client" {
				for _, r := range f.seenBy("") {
					if p := r.q.Parts; len(p) != 1 || p[0].Shard != 1 {
						t.Errorf("%d parts were sent again, want that of shard 1", len(p))
					}
				}
			}
			f.arrive()
			if f.count(write{key[1], name}) != 1 || f.count(write{key[2], name}) != 1 {
				t.Errorf("%s: applied %v", name, f.applied)
			}
			if _, again = u.Retry(ctx, err); !errors.Is(again, kv.ErrInvalid) {
				t.Errorf("%s: a retry of what is known: %v", name, again)
			}
		}
	})
}

// Retry gives the value that the write would have.
func TestRetryReturnsValues(t *testing.T) {
	within(t, func(t *testing.T, ctx context.Context) {
		for _, lost := range []fate{lostAfter, lostBefore} {
			f := newFake(1, 1, 1)
			u := f.client(kv.Limits{})
			n, err := u.Increment(ctx, testBucket, "n", 5)
			if err != nil || n != 5 {
				t.Fatalf("the sum is %d, %v", n, err)
			}
			brief, cancel := context.WithTimeout(ctx, time.Millisecond)
			f.always = lost
			_, err = u.Increment(brief, testBucket, "n", -7)
			_, swap := u.CompareAndSwap(brief, testBucket, 0, kv.Pair{Key: "s"})
			cancel()
			f.heal()
			if n, err := u.Retry(ctx, err); n != -2 || err != nil {
				t.Errorf("retried: the sum is %d, %v, want -2", n, err)
			}
			if n, err := u.Increment(ctx, testBucket, "n", 0); n != -2 || err != nil {
				t.Errorf("the sum is %d, %v, want -2", n, err)
			}
			if errors.Is(swap, kv.ErrUnknown) { // its time was not up before it was sent
				if v, err := u.Retry(ctx, swap); uint64(v) != f.versions["s"] || err != nil {
					t.Errorf("retried: the version is %d, %v, want %d", v, err, f.versions["s"])
				}
			}
		}
	})
}

// A swap that was applied without an answer is no conflict with itself; one that
// meets another version is, each time it is sent.
func TestSwapsAreHonest(t *testing.T) {
	within(t, func(t *testing.T, ctx context.Context) {
		f := newFake(1, 1, 1)
		u := f.client(kv.Limits{})
		f.will("n1", lostAfter)
		version, err := u.CompareAndSwap(ctx, testBucket, 0, kv.Pair{Key: "a", Value: []byte("1")})
		if err != nil || version == 0 || version != f.versions["a"] {
			t.Errorf("swapped to version %d, %v", version, err)
		}
		f.will("n1", lostLater, served)
		_, err = u.CompareAndSwap(ctx, testBucket, 0, kv.Pair{Key: "a", Value: []byte("2")})
		checkClass(t, "swap", err, kv.ErrConflict)
		must(t, u.DeleteMany(ctx, testBucket, []string{"a"}))
		f.arrive() // the key is not there now, but the swap was refused
		if f.data["a"] != "" || callOf(t, err) != 0 || !strings.Contains(err.Error(), fmt.Sprint("version ", version)) {
			t.Errorf("the data is %q; %v", f.data, err)
		}
		value, v, found, err := u.GetVersion(ctx, testBucket, "a")
		if value != nil || v != 0 || found || err != nil {
			t.Errorf("a deleted key: %q of %d, %v, %v", value, v, found, err)
		}
		version, err = u.CompareAndSwap(ctx, testBucket, 0, kv.Pair{Key: "a", Value: []byte("3")})
		must(t, err)
		if value, v, found, err := u.GetVersion(ctx, testBucket, "a"); string(value) != "3" || v != version || !found || err != nil {
			t.Errorf("%q of %d, %v, %v, want version %d", value, v, found, err, version)
		}
	})
}

// Retry refuses what is none of its calls.
func TestRetryOfOthersErrors(t *testing.T) {
	within(t, func(t *testing.T, ctx context.Context) {
		f := newFake(1, 1, 1)
		u, other := f.client(kv.Limits{}), f.client(kv.Limits{})
		failed := f.fails(t, u, "a")
		f.fails(t, other, "a") // it has the same number
		for name, err := range map[string]error{
			"nothing":           nil,
			"another error":     errNetwork,
			"a known outcome":   &kv.BatchError{Outcomes: []kv.Outcome{kv.OutcomeNotApplied}, Err: kv.ErrBusy},
			"a made up call":    &kv.BatchError{Outcomes: []kv.Outcome{kv.OutcomeUnknown}, Call: 1, Err: kv.ErrUnknown},
			"another client's":  failed,
			"not only unknowns": errors.Join(errNetwork, failed),
		} {
			if _, err := other.Retry(ctx, err); !errors.Is(err, kv.ErrInvalid) || errors.Is(err, kv.ErrUnknown) {
				t.Errorf("%s: %v", name, err)
			}
		}
		f.enter = func(context.Context, sharding.NodeID) { sleep(context.Background(), time.Second) }
		done := make(chan error, 1)
		go func() {
			_, err := u.Retry(ctx, failed)
			done <- err
		}()
		synctest.Wait()
		if _, err := u.Retry(ctx, failed); !errors.Is(err, kv.ErrInvalid) || !strings.Contains(err.Error(), "already") {
			t.Errorf("while it is retried: %v", err)
		}
		must(t, <-done)
	})
}

// What is held is bounded in time, number and bytes; what is given up is unknown
// for good, and holds the mark no more.
func TestHeldCallsAreBounded(t *testing.T) {
	closed := func(t *testing.T, u user, failed error) {
		t.Helper()
		if _, err := u.Retry(t.Context(), failed); !errors.Is(err, kv.ErrInvalid) || !strings.Contains(err.Error(), "closed") {
			t.Errorf("a call that was given up: %v", err)
		}
	}
	mark := func(t *testing.T, f *fakeCluster, u user) uint64 {
		t.Helper()
		must(t, u.SetMany(t.Context(), testBucket, pairsOf([]string{"mark"}, "1")))
		all := f.origins(t)
		return all[len(all)-1].Acked
	}
	t.Run("time", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newFake(1, 1, 1)
			u := f.client(kv.Limits{})
			failed := f.fails(t, u, "a")
			sleep(t.Context(), retryWindow-time.Second)
			if n := mark(t, f, u); n != 0 {
				t.Errorf("%d calls are acknowledged, want 0", n)
			}
			sleep(t.Context(), time.Second)
			if n := mark(t, f, u); n != 2 {
				t.Errorf("%d calls are acknowledged, want 2", n)
			}
			closed(t, u, failed)
			f.arrive()
			if len(f.applied) != 2 {
				t.Errorf("a copy of a call that was given up was applied: %v", f.applied)
			}
		})
	})
	t.Run("number", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newFake(1, 1, 1)
			u := f.client(kv.Limits{})
			var failed []error
			for i := range heldCalls + 1 {
				failed = append(failed, f.fails(t, u, fmt.Sprint(i)))
			}
			if n := mark(t, f, u); n != 1 {
				t.Errorf("%d calls are acknowledged, want 1", n)
			}
			closed(t, u, failed[0])
			_, err := u.Retry(t.Context(), failed[1])
			must(t, err)
		})
	})
	t.Run("bytes", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newFake(1, 1, 1)
			u := f.client(kv.Limits{})
			large := func(mib int) error {
				f.always = lostBefore
				var pairs []kv.Pair
				for i := range mib / 8 {
					pairs = append(pairs, kv.Pair{Key: fmt.Sprint(i), Value: make([]byte, 8<<20-100)})
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
				defer cancel()
				return u.SetMany(ctx, testBucket, pairs)
			}
			first, second := large(32), large(24)
			third := large(16)
			f.heal()
			closed(t, u, first)
			for _, err := range []error{second, third} {
				_, err = u.Retry(t.Context(), err)
				must(t, err)
			}
		})
	})
}

// A call is not sent for longer than a retry could be.
func TestCallsEndAfterTheRetryWindow(t *testing.T) {
	for fate, want := range map[fate]error{lostBefore: kv.ErrUnknown, notSent: kv.ErrUnavailable} {
		synctest.Test(t, func(t *testing.T) {
			f := newFake(1, 1, 1)
			f.always = fate
			began := time.Now()
			err := f.client(kv.Limits{}).SetMany(t.Context(), testBucket, pairsOf([]string{"a"}, "1"))
			if took := time.Since(began); !errors.Is(err, want) || took != retryWindow || callOf(t, err) != 0 {
				t.Errorf("%v after %v, want %v after %v, and no call", err, took, want, retryWindow)
			}
		})
	}
}

// No more calls are open than the shards remember. One more waits; a call that is
// only held makes room.
func TestOpenCallsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(1, 1, 1)
		u := f.client(kv.Limits{})
		failed := f.fails(t, u, "held")
		var ended atomic.Int32
		resume := make(chan struct{})
		f.enter = func(context.Context, sharding.NodeID) { <-resume }
		var all sync.WaitGroup
		for i := range kv.MaxOpenCalls + 5 {
			all.Go(func() {
				must(t, u.SetMany(t.Context(), testBucket, pairsOf([]string{fmt.Sprint(i)}, "1")))
				ended.Add(1)
			})
		}
		synctest.Wait()
		if n := len(f.seenBy("")); n != 1+kv.MaxOpenCalls {
			t.Errorf("%d calls were sent, want %d", n-1, kv.MaxOpenCalls)
		}
		if _, err := u.Retry(t.Context(), failed); !errors.Is(err, kv.ErrInvalid) {
			t.Errorf("the call that made room: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		err := u.SetMany(ctx, testBucket, pairsOf([]string{"late"}, "1"))
		cancel()
		if !errors.Is(err, kv.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) || callOf(t, err) != 0 {
			t.Errorf("a call that finds no room: %v", err)
		}
		close(resume)
		all.Wait()
		if n := ended.Load(); n != kv.MaxOpenCalls+5 || len(f.problems) > 0 { // the machines check every origin
			t.Errorf("%d calls ended: %v", n, f.problems)
		}
		must(t, u.SetMany(t.Context(), testBucket, pairsOf([]string{"last"}, "1")))
		origins := f.origins(t)
		if o := origins[len(origins)-1]; o.Acked != o.Seq-1 {
			t.Errorf("the last call is %+v, want all before it acknowledged", o)
		}
	})
}

// A client asks once for its id, however many begin to write, and again when no
// answer came.
func TestAClientGetsOneId(t *testing.T) {
	within(t, func(t *testing.T, ctx context.Context) {
		f := newFake(1, 1, 1)
		asked := 0
		f.newClient = func(ctx context.Context) error {
			if asked++; asked < 4 {
				<-ctx.Done()
				return lostErr("n1", context.Cause(ctx))
			}
			return nil
		}
		for _, u := range []user{f.client(kv.Limits{}), f.through(kv.Limits{}, []fate{lostAfter, notSent, garbage}, f.node("n1", kv.Limits{}))} {
			var all sync.WaitGroup
			for i := range 10 {
				all.Go(func() { must(t, u.SetMany(ctx, testBucket, pairsOf([]string{fmt.Sprint(i)}, "1"))) })
			}
			all.Wait()
		}
		// The second client lost two answers, of which one had an id.
		clients := make(map[uint64]int)
		for _, o := range f.origins(t) {
			clients[o.Client]++
		}
		if len(clients) != 2 || asked != 7 {
			t.Errorf("asked %d times for the ids of %v, want 7 times for those of 2 clients", asked, clients)
		}
	})
}

// Without an id nothing is sent.
func TestAClientWithoutAnId(t *testing.T) {
	for _, through := range []bool{false, true} {
		within(t, func(t *testing.T, ctx context.Context) {
			f := newFake(1, 1, 1)
			f.newClient = func(context.Context) error { return lostErr("n1", errNetwork) }
			u := f.client(kv.Limits{})
			if through {
				u = f.through(kv.Limits{}, nil, f.node("n1", kv.Limits{}))
			}
			brief, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			var all sync.WaitGroup
			for range 3 {
				all.Go(func() {
					err := u.SetMany(brief, testBucket, pairsOf([]string{"a", "b"}, "1"))
					var batch *kv.BatchError
					if !errors.Is(err, kv.ErrUnavailable) || !errors.As(err, &batch) || !slices.Equal(batch.Outcomes, []kv.Outcome{1, 1}) || batch.Call != 0 {
						t.Errorf("%v, want both not applied", err)
					}
				})
			}
			all.Wait()
			if n := len(f.seenBy("")); n > 0 {
				t.Errorf("%d requests were sent", n)
			}
			f.newClient = nil
			must(t, u.SetMany(ctx, testBucket, pairsOf([]string{"a"}, "1")))
		})
	}
}

// When shards get other ranges, a write that nobody has seen is cut anew; one that
// may have been applied is not taken to another shard.
func TestWritesStayInTheirShards(t *testing.T) {
	for _, through := range []bool{false, true} {
		within(t, func(t *testing.T, ctx context.Context) {
			f := newFake(1, 2, 1)
			u := f.client(kv.Limits{})
			if through {
				u = f.through(kv.Limits{}, nil, f.node("n1", kv.Limits{}))
			}
			keys := someKeys(40)
			f.will("n1", mapIsSplit)
			must(t, u.SetMany(ctx, testBucket, pairsOf(keys, "1")))
			brief, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			f.will("n1", lostAfter, mapIsSplit)
			err := u.SetMany(brief, testBucket, pairsOf(keys, "2"))
			if !errors.Is(err, kv.ErrUnknown) || !strings.Contains(err.Error(), "ranges have changed") {
				t.Errorf("%v, want it unknown", err)
			}
			must(t, u.SetMany(ctx, testBucket, pairsOf(keys, "3")))
			f.arrive()
			if len(f.applied) != 120 || len(f.problems) > 0 {
				t.Errorf("%d writes were applied, want 120: %v", len(f.applied), f.problems)
			}
		})
	}
}

// After a refusal nothing more is begun, but what may have been applied is asked
// for until it is known.
func TestARefusalEndsWhatHasNotBegun(t *testing.T) {
	within(t, func(t *testing.T, ctx context.Context) {
		f := newFake(2, 2, 1)
		u := f.client(kv.Limits{EntryBytes: kv.CommandOverhead + 1}) // every pair alone
		keys := someKeys(12)
		f.will(f.leader(1), restNoStore)
		f.will(f.leader(2), lostAfter)
		err := u.SetMany(ctx, testBucket, pairsOf(keys, "1"))
		checkClass(t, "set", err, kv.ErrNoSuchStore)
		var batch *kv.BatchError
		if !errors.As(err, &batch) {
			t.Fatalf("no outcomes: %v", err)
		}
		first := true // of shard 1: applied, the rest is refused
		for i, key := range keys {
			want := kv.OutcomeApplied
			if f.m.ShardOfKey(testBucket, key) == 1 && !first {
				want = kv.OutcomeNotApplied
			}
			first = first && f.m.ShardOfKey(testBucket, key) != 1
			if batch.Outcomes[i] != want || (f.count(write{key, "1"}) == 1) != (want == kv.OutcomeApplied) {
				t.Errorf("key %s is %v, want %v", key, batch.Outcomes[i], want)
			}
		}

		f.will(f.leader(1), restNoStore)
		f.will(f.leader(2), notSent)
		err = u.SetMany(ctx, testBucket, pairsOf(keys, "2"))
		checkClass(t, "set", err, kv.ErrNoSuchStore)
		for _, key := range keys {
			if f.m.ShardOfKey(testBucket, key) == 2 && f.count(write{key, "2"}) > 0 {
				t.Errorf("key %s was set after the refusal", key)
			}
		}
	})
}

// What was said to be not applied may have been written anew since: Retry only
// finds out about the rest.
func TestRetryBeginsNothing(t *testing.T) {
	within(t, func(t *testing.T, ctx context.Context) {
		f := newFake(3, 2, 3)
		for name, u := range map[string]user{"client": f.client(kv.Limits{}), "through": f.through(kv.Limits{}, nil, f.node("n3", kv.Limits{}))} {
			var key [3]string // one of each shard
			for _, k := range someKeys(40) {
				key[f.m.ShardOfKey(testBucket, k)] = k
			}
			brief, cancel := context.WithTimeout(ctx, 3*time.Second)
			f.will(f.leader(1), slices.Repeat([]fate{lostLater}, 1000)...)
			f.will(f.leader(2), slices.Repeat([]fate{notSent}, 1000)...)
			err := u.SetMany(brief, testBucket, pairsOf(key[1:], name+" old"))
			cancel()
			var batch *kv.BatchError
			if !errors.As(err, &batch) || !slices.Equal(batch.Outcomes, []kv.Outcome{kv.OutcomeUnknown, kv.OutcomeNotApplied}) {
				t.Fatalf("%s: %v, want one unknown and one not applied", name, err)
			}
			f.heal()
			must(t, u.SetMany(ctx, testBucket, pairsOf(key[2:], name+" new")))
			_, err = u.Retry(ctx, err)
			if !errors.As(err, &batch) || !slices.Equal(batch.Outcomes, []kv.Outcome{kv.OutcomeApplied, kv.OutcomeNotApplied}) || !errors.Is(err, kv.ErrUnavailable) {
				t.Errorf("%s: after the retry %v, want one applied and one not", name, err)
			}
			f.arrive()
			if f.data[key[1]] != name+" old" || f.data[key[2]] != name+" new" {
				t.Errorf("%s: the keys hold %q and %q", name, f.data[key[1]], f.data[key[2]])
			}
			f.healed, f.fates = false, make(map[sharding.NodeID][]fate)
		}
	})
}

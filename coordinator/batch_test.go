package coordinator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

// someKeys returns n keys; with several dozen every shard has some.
func someKeys(n int) []string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprintf("key-%d", i)
	}
	return keys
}

// within runs a test in fake time with a context that ends after callTime.
func within(t *testing.T, test func(t *testing.T, ctx context.Context)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), callTime)
		defer cancel()
		test(t, ctx)
	})
}

// What callers see when every node does the same thing for ever.
func TestEveryFaultHasItsClass(t *testing.T) {
	const applied, not, unknown = kv.OutcomeApplied, kv.OutcomeNotApplied, kv.OutcomeUnknown
	for _, c := range []struct {
		name    string
		fate    fate
		read    error
		write   error
		outcome kv.Outcome // of the second of two commands
	}{
		{"nothing can be sent", notSent, kv.ErrUnavailable, kv.ErrUnavailable, not},
		{"nobody can be reached", notConnected, kv.ErrUnavailable, kv.ErrUnavailable, not},
		{"lost on the way there", lostBefore, kv.ErrUnavailable, kv.ErrUnknown, unknown},
		{"lost on the way back", lostAfter, kv.ErrUnavailable, kv.ErrUnknown, unknown},
		{"lost, and arrives later", lostLater, kv.ErrUnavailable, kv.ErrUnknown, unknown},
		{"no answer, not done", hungBefore, kv.ErrUnavailable, kv.ErrUnknown, unknown},
		{"no answer, done", hungAfter, kv.ErrUnavailable, kv.ErrUnknown, unknown},
		{"over budget", refusedCall, kv.ErrBusy, kv.ErrBusy, not},
		{"access denied", deniedCall, kv.ErrAccessDenied, kv.ErrAccessDenied, not},
		{"a handler fails before", failedBefore, kv.ErrInvalid, kv.ErrUnknown, unknown},
		{"a handler fails after", failedAfter, kv.ErrInvalid, kv.ErrUnknown, unknown},
		{"a handler's own code", failedCode, kv.ErrInvalid, kv.ErrUnknown, unknown},
		{"garbage", garbage, kv.ErrUnavailable, kv.ErrUnknown, unknown},
		{"a part without answer", missingPart, kv.ErrUnavailable, kv.ErrUnknown, unknown},
		{"an answer to another part", wrongShard, kv.ErrUnavailable, kv.ErrUnknown, unknown},
		{"a status of a later version", strangeStatus, kv.ErrUnavailable, kv.ErrUnknown, unknown},
		{"nobody leads", pointsNowhere, kv.ErrUnavailable, kv.ErrUnavailable, not},
		{"leaders point at others", pointsWrong, kv.ErrUnavailable, kv.ErrUnavailable, not},
		{"leaders point at a stranger", pointsAway, kv.ErrUnavailable, kv.ErrUnavailable, not},
		{"leaders point at themselves", pointsBack, kv.ErrUnavailable, kv.ErrUnavailable, not},
		{"the map changes all the time", mapIsOld, kv.ErrUnavailable, kv.ErrUnavailable, not},
		{"nodes do not get the newest map", mapIsNew, kv.ErrUnavailable, kv.ErrUnavailable, not},
		{"busy", partBusy, kv.ErrBusy, kv.ErrBusy, not},
		{"invalid", partInvalid, kv.ErrInvalid, kv.ErrInvalid, not},
		{"a leader that dies after proposing", diesProposing, kv.ErrUnavailable, kv.ErrUnknown, unknown},
		{"a code of a later version", partUnknownCode, kv.ErrUnavailable, kv.ErrUnavailable, not},
		{"the rest is not proposed, at first", restNotProposed, nil, nil, applied},
		{"the rest is not applied, at first", restNotLeader, nil, nil, applied},
		{"the rest is not applied, without a reason", restNoReason, nil, nil, applied},
		{"the rest meets a busy leader, at first", restBusy, nil, nil, applied},
		{"the rest meets no bucket", restNoStore, nil, kv.ErrNoSuchStore, not},
		{"the rest is unknown, and applied", restUnknown, nil, nil, applied},
		{"the rest is unknown, and lost", restLost, nil, nil, applied},
		{"the rest is unknown, and applied later", restLater, nil, nil, applied},
		{"the rest without the beginning", firstMissing, nil, kv.ErrUnavailable, not},
		{"a result too many", oneTooMany, nil, kv.ErrUnknown, unknown},
		{"the call is forgotten", allForgotten, nil, kv.ErrUnknown, unknown},
		{"a copy arrives later", servedTwice, nil, nil, applied},
		{"the shards change all the time", mapIsSplit, kv.ErrUnavailable, kv.ErrUnavailable, not},
	} {
		t.Run(c.name, func(t *testing.T) {
			within(t, func(t *testing.T, ctx context.Context) {
				f := newFake(3, 1, 3)
				f.always = c.fate
				co := f.client(kv.Limits{EntryBytes: kv.CommandOverhead + 1}) // every pair alone
				_, err := co.GetMany(ctx, testBucket, []string{"a"})
				checkClass(t, "read", err, c.read)

				ctx, cancel := context.WithTimeout(t.Context(), callTime)
				defer cancel()
				err = co.SetMany(ctx, testBucket, pairsOf([]string{"a", "b"}, "value"))
				checkClass(t, "write", err, c.write)
				outcome := applied
				var batch *kv.BatchError
				if errors.As(err, &batch) {
					outcome = batch.Outcomes[1]
				}
				if outcome != c.outcome {
					t.Errorf("the second key is %v, want %v: %v", outcome, c.outcome, err)
				}
			})
		})
	}
}

// checkClass checks that an error is of its class and of no other.
func checkClass(t *testing.T, what string, err, want error) {
	t.Helper()
	if want == nil {
		if err != nil {
			t.Errorf("%s: %v, want no error", what, err)
		}
		return
	}
	for _, class := range []error{
		kv.ErrNoSuchStore, kv.ErrExists, kv.ErrAccessDenied, kv.ErrInvalid, kv.ErrTooLarge, kv.ErrBusy, kv.ErrUnavailable, kv.ErrUnknown,
	} {
		if got := errors.Is(err, class); got != (class == want) { // the class itself is compared
			t.Errorf("%s: %v: is it %q? %v, want %q", what, err, class, got, want)
		}
	}
	if strings.Contains(err.Error(), "%!") {
		t.Errorf("%s: badly formatted: %v", what, err)
	}
}

// calls are the operations on many keys.
var calls = []struct {
	name string
	do   func(ctx context.Context, c user, keys []string) error
}{
	{"get-many", func(ctx context.Context, c user, keys []string) error {
		_, err := c.GetMany(ctx, testBucket, keys)
		return err
	}},
	{"exists", func(ctx context.Context, c user, keys []string) error {
		_, err := c.Exists(ctx, testBucket, keys)
		return err
	}},
	{"set-many", func(ctx context.Context, c user, keys []string) error {
		return c.SetMany(ctx, testBucket, pairsOf(keys, "value"))
	}},
	{"delete-many", func(ctx context.Context, c user, keys []string) error { return c.DeleteMany(ctx, testBucket, keys) }},
}

// A batch costs each node one request, and all of them are under way at once.
func TestOneRequestPerNodeInParallel(t *testing.T) {
	for _, call := range calls {
		t.Run(call.name, func(t *testing.T) {
			within(t, func(t *testing.T, ctx context.Context) {
				f := newFake(3, 6, 3)
				arrived, answer := make(chan sharding.NodeID), make(chan struct{})
				f.enter = func(ctx context.Context, node sharding.NodeID) {
					select {
					case arrived <- node:
						<-answer
					case <-ctx.Done():
					}
				}
				done := make(chan error, 1)
				go func() { done <- call.do(ctx, f.client(kv.Limits{}), someKeys(60)) }()
				asked := make(map[sharding.NodeID]bool)
				for range 3 {
					asked[<-arrived] = true // nobody is answered before all were asked
				}
				close(answer)
				must(t, <-done)
				shards := make(map[sharding.Shard]bool)
				for _, s := range f.seenBy("") {
					for i := range s.q.Parts {
						shards[s.q.Parts[i].Shard] = true
					}
				}
				if n := len(f.seenBy("")); n != 3 || len(asked) != 3 || len(shards) != 6 {
					t.Errorf("%d requests to %d nodes for %d shards, want 3, 3 and 6", n, len(asked), len(shards))
				}
			})
		})
	}
}

// An empty batch asks nobody.
func TestEmptyBatchesCostNothing(t *testing.T) {
	f := newFake(3, 6, 3)
	for _, call := range calls {
		must(t, call.do(t.Context(), f.client(kv.Limits{}), nil))
	}
	if n := len(f.seenBy("")); n != 0 {
		t.Errorf("%d requests, want none", n)
	}
}

// pauses returns the time between one request and the next.
func pauses(requests []seen) []time.Duration {
	var out []time.Duration
	for i := 1; i < len(requests); i++ {
		out = append(out, requests[i].at.Sub(requests[i-1].at))
	}
	return out
}

// A redirect costs no pause, twice; then an election is going on.
func TestRedirectsAreFollowedAtOnceTwice(t *testing.T) {
	within(t, func(t *testing.T, ctx context.Context) {
		f := newFake(3, 1, 3)
		for _, id := range f.m.Groups[0].Replicas {
			f.will(id, pointsRight, pointsRight) // each has just lost the lead to the next
		}
		must(t, f.client(kv.Limits{}).SetMany(ctx, testBucket, pairsOf([]string{"a"}, "1")))
		got := pauses(f.seenBy(""))
		if len(got) != 6 || got[0] != 0 || got[1] != 0 {
			t.Fatalf("pauses of %v, want 6, the first two of nothing", got)
		}
		for i, want := 2, firstBackoff; i < len(got); i, want = i+1, min(2*want, lastBackoff) {
			if got[i] < want || got[i] >= 2*want {
				t.Errorf("pause %d of %v is %v, want %v to %v", i, got, got[i], want, 2*want)
			}
		}
		if f.data["a"] != "1" || f.count(write{"a", "1"}) != 1 {
			t.Errorf("the data is %q", f.data)
		}
	})
}

// A cluster without leaders is not asked without end or pause.
func TestBackoffIsBounded(t *testing.T) {
	within(t, func(t *testing.T, ctx context.Context) {
		f := newFake(3, 1, 3)
		f.always = pointsNowhere
		asked := make(map[sharding.NodeID]int)
		err := f.client(kv.Limits{}).SetMany(ctx, testBucket, pairsOf([]string{"a"}, "1"))
		checkClass(t, "write", err, kv.ErrUnavailable)
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "no leader that node") {
			t.Errorf("%v does not say why", err)
		}
		requests := f.seenBy("")
		for i, pause := range pauses(requests) {
			if pause < firstBackoff || pause >= 2*lastBackoff {
				t.Errorf("pause %d is %v, want %v to %v", i, pause, firstBackoff, 2*lastBackoff)
			}
			asked[requests[i].node]++
		}
		if least := int(callTime / (2 * lastBackoff)); len(requests) < least || len(asked) != 3 {
			t.Errorf("%d requests to %d nodes in %v, want at least %d to all 3", len(requests), len(asked), callTime, least)
		}
	})
}

// A node at its limit is asked again a few times, however much of the batch it
// has; then the caller hears of it.
func TestBusyIsCountedByRound(t *testing.T) {
	for _, busy := range []fate{refusedCall, partBusy, restBusy} {
		within(t, func(t *testing.T, ctx context.Context) {
			f := newFake(1, 6, 1)
			c := f.client(kv.Limits{EntryBytes: kv.CommandOverhead + 1})
			pairs := pairsOf(someKeys(120), "1")
			f.will("n1", slices.Repeat([]fate{busy}, busyRetries)...)
			must(t, c.SetMany(ctx, testBucket, pairs))
			if n := len(f.seenBy("")); n != busyRetries+1 {
				t.Errorf("fate %d: %d requests, want %d", busy, n, busyRetries+1)
			}
			f.requests = nil
			f.will("n1", slices.Repeat([]fate{busy}, busyRetries+1)...)
			err := c.SetMany(ctx, testBucket, pairs)
			checkClass(t, "write", err, kv.ErrBusy)
			if n := len(f.seenBy("")); n != busyRetries+1 {
				t.Errorf("fate %d: gave up after %d requests, want %d", busy, n, busyRetries+1)
			}
		})
	}
}

// What a page of answers leaves is asked for at once, and of a node's own replica
// again.
func TestPagesOfAnswersAreReadAtOnce(t *testing.T) {
	for _, self := range []sharding.NodeID{"", "n1"} {
		within(t, func(t *testing.T, ctx context.Context) {
			f := newFake(2, 2, 2)
			f.pageKeys = 3
			keys := someKeys(50)
			for _, key := range keys {
				f.data[key] = "value of " + key
			}
			f.fetchMap = func(context.Context, uint64) (*sharding.Map, error) {
				t.Error("somebody was asked for a map")
				return nil, errNetwork
			}
			c := f.node(self, kv.Limits{})
			c.UseMap(f.m)
			began := time.Now()
			pairs, err := c.GetMany(ctx, testBucket, keys)
			must(t, err)
			for i, p := range pairs {
				if p == nil || string(p.Value) != "value of "+keys[i] {
					t.Errorf("key %s: %v", keys[i], p)
				}
			}
			largest := 0
			for _, s := range f.seenBy("") {
				for i := range s.q.Parts {
					largest = max(largest, len(s.q.Parts[i].Keys))
				}
				if s.q.AnyReplica != (self != "") {
					t.Errorf("asked %s, any replica: %v", s.node, s.q.AnyReplica)
				}
			}
			least := (largest + 2) / 3
			if n := len(f.seenBy("")); time.Since(began) != 0 || n < least || n > 2*least {
				t.Errorf("%d requests in %v, want %d to %d at once", n, time.Since(began), least, 2*least)
			}
		})
	}
}

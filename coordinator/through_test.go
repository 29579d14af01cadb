package coordinator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/manykv/manykv/kv"
)

// What becomes of a batch of which no request, or no answer, gets through.
func TestAFailingNodeInBetween(t *testing.T) {
	for _, c := range []struct {
		name        string
		fate        fate
		read, write error
		outcome     kv.Outcome
		done        bool
	}{
		{"not sent", notSent, kv.ErrUnavailable, kv.ErrUnavailable, kv.OutcomeNotApplied, false},
		{"lost on the way there", lostBefore, kv.ErrUnavailable, kv.ErrUnknown, kv.OutcomeUnknown, false},
		{"lost on the way back", lostAfter, kv.ErrUnavailable, kv.ErrUnknown, kv.OutcomeUnknown, true},
		{"over budget", refusedCall, kv.ErrBusy, kv.ErrBusy, kv.OutcomeNotApplied, false},
		{"access denied", deniedCall, kv.ErrAccessDenied, kv.ErrAccessDenied, kv.OutcomeNotApplied, false},
		{"failed before", failedBefore, kv.ErrUnavailable, kv.ErrUnknown, kv.OutcomeUnknown, false},
		{"failed after", failedAfter, kv.ErrUnavailable, kv.ErrUnknown, kv.OutcomeUnknown, true},
		{"garbage", garbage, kv.ErrUnavailable, kv.ErrUnknown, kv.OutcomeUnknown, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, call := range calls {
				within(t, func(t *testing.T, ctx context.Context) {
					f := newFake(3, 6, 3)
					keys := someKeys(9)
					for _, key := range keys {
						f.data[key] = "old"
					}
					th := f.through(kv.Limits{}, nil, f.node("n1", kv.Limits{}))
					must(t, th.DeleteMany(ctx, testBucket, []string{"it has an id"}))
					f.applied = nil
					th.Session.path.(*Through).Call = (&between{
						f: f, nodes: []*Coordinator{f.node("n1", kv.Limits{})}, fates: slices.Repeat([]fate{c.fate}, 10_000),
					}).call
					err := call.do(ctx, th, keys)
					if call.name == "get-many" || call.name == "exists" {
						checkClass(t, call.name, err, c.read)
						return
					}
					checkClass(t, call.name, err, c.write)
					var batch *kv.BatchError
					if !errors.As(err, &batch) || batch.Op != call.name || !slices.Equal(batch.Outcomes, slices.Repeat([]kv.Outcome{c.outcome}, 9)) {
						t.Errorf("%s: %v, want 9 outcomes that are %v", call.name, err, c.outcome)
					}
					if got := len(f.applied); (got > 0) != c.done || got > 9 {
						t.Errorf("%s: %d are applied, want some: %v", call.name, got, c.done)
					}
				})
			}
		})
	}
}

// A write whose answer is lost is sent through another node, which may know other
// limits: it is applied once. A node that hangs does not use up the time.
func TestWritesThroughAreSentAgain(t *testing.T) {
	for _, lost := range []fate{lostAfter, lostBefore, failedAfter, garbage, hungBefore} {
		within(t, func(t *testing.T, ctx context.Context) {
			f := newFake(3, 2, 3)
			c := f.through(smallEntries, []fate{served, lost, lost}, f.node("n1", kv.Limits{}), f.node("n2", kv.Limits{EntryBytes: 500}))
			pairs := pairsOf(someKeys(60), "value")
			pairs[20].Value = make([]byte, 5000)
			must(t, c.SetMany(ctx, testBucket, pairs))
			if n := len(f.applied); n != 60 || len(f.problems) > 0 {
				t.Errorf("fate %d: %d keys were set, want 60: %v", lost, n, f.problems)
			}
			if n, err := c.Increment(ctx, testBucket, "n", 5); n != 5 || err != nil {
				t.Errorf("fate %d: the sum is %d, %v", lost, n, err)
			}
		})
	}
}

// The outcome of each key arrives as the node said it, with its reason once.
func TestOutcomesComeThrough(t *testing.T) {
	within(t, func(t *testing.T, ctx context.Context) {
		f := newFake(1, 1, 1)
		limits := kv.Limits{EntryBytes: kv.CommandOverhead + 1} // every pair alone
		c := f.through(limits, nil, f.node("n1", limits))
		f.will("n1", restNoStore)
		err := c.DeleteMany(ctx, testBucket, []string{"a", "b", "a"})
		want := "delete-many of 3 keys: 1 applied, 2 not applied, 0 unknown: no such store: shard 1: no such store: the machine refuses"
		var batch *kv.BatchError
		if !errors.As(err, &batch) || !slices.Equal(batch.Outcomes, []kv.Outcome{2, 1, 1}) || err.Error() != want || batch.Call != 0 {
			t.Errorf("got  %v\nwant %s", err, want)
		}

		must(t, c.SetMany(ctx, testBucket, pairsOf([]string{"a"}, "1")))
		_, err = c.CompareAndSwap(ctx, testBucket, 99, kv.Pair{Key: "a"})
		want = fmt.Sprintf("compare-and-swap of 1 keys: 0 applied, 1 not applied, 0 unknown: conflict: the key has version %d, expected was 99", f.versions["a"])
		if !errors.Is(err, kv.ErrConflict) || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}

		f.always = restLost
		f.will("n1", allForgotten)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err = c.SetMany(ctx, testBucket, pairsOf([]string{"a"}, "1"))
		want = "set-many of 1 keys: 0 applied, 0 not applied, 1 unknown: outcome unknown: shard 1: forgotten"
		if err == nil || err.Error() != want || !errors.As(err, &batch) || batch.Call != 0 {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	})
}

// Whatever a node answers, a write whose answer cannot be understood is unknown
// and a read did not happen.
func TestStrangeBatchAnswers(t *testing.T) {
	head := "01 07 03 627573" // version 1, unavailable, "bus"
	value := " 0000000000000000"
	const un, ma, ap, re, fo = unsent, maybe, applied, refused, forgotten
	for _, c := range []struct {
		name, answer string
		write        error
		states       []state
	}{
		{"nothing", "", kv.ErrUnknown, []state{ma, ma}},
		{"of a later version", "02 00 00 00", kv.ErrUnknown, []state{ma, ma}},
		{"too few bytes", "01 00 00 00", kv.ErrUnknown, []state{ma, ma}},
		{"too many bytes", "01 00 00 00 00" + value, kv.ErrUnknown, []state{ma, ma}},
		{"applied", "01 00 00 00" + value, nil, []state{ap, ap}},
		{"states of both", head + "02 02 00" + value, kv.ErrUnavailable, []state{ap, un}},
		{"settled states", head + "02 03 04" + value, kv.ErrUnavailable, []state{re, fo}},
		{"a state too few", head + "01 02" + value, kv.ErrUnknown, []state{ma, ma}},
		{"a state too many", head + "03 02 02 02" + value, kv.ErrUnknown, []state{ma, ma}},
		{"a state of a later version", head + "02 00 05" + value, kv.ErrUnavailable, []state{un, ma}},
		{"a code of a later version", "01 63 00 00" + value, kv.ErrUnknown, []state{ma, ma}},
		{"refused as a whole", head + "00" + value, kv.ErrUnavailable, []state{un, un}},
	} {
		t.Run(c.name, func(t *testing.T) {
			th := &Through{Call: func(context.Context, byte, []byte) ([]byte, error) { return golden(t, c.answer), nil }}
			_, err := th.GetMany(t.Context(), testBucket, []string{"a", "b"})
			checkClass(t, "get-many", err, kv.ErrUnavailable)
			_, err = th.Exists(t.Context(), testBucket, []string{"a", "b"})
			checkClass(t, "exists", err, kv.ErrUnavailable)
			_, _, err = th.List(t.Context(), testBucket, 7)
			if c.write != nil {
				checkClass(t, "list", err, kv.ErrUnavailable)
			}
			w := &call{size: 2, known: make([]state, 2)}
			if err := w.takeAnswer(golden(t, c.answer)); !errors.Is(err, c.write) || !slices.Equal(w.known, c.states) {
				t.Errorf("a write: %v with %v, want %v with %v", err, w.known, c.write, c.states)
			}
		})
	}
}

// What one node says of its own copies says nothing of another's.
func TestStatesAreMerged(t *testing.T) {
	for was, after := range map[state][]state{ // by what is said
		unsent:    {unsent, maybe, applied, refused, forgotten},
		maybe:     {maybe, maybe, applied, refused, forgotten},
		applied:   {applied, applied, applied, applied, applied},
		refused:   {refused, refused, refused, refused, refused},
		forgotten: {forgotten, forgotten, forgotten, forgotten, forgotten},
	} {
		for said, want := range after {
			if got := was.after(state(said)); got != want {
				t.Errorf("%d after %d is said is %d, want %d", was, said, got, want)
			}
		}
	}
}

func TestMalformedBatchesAreNotServed(t *testing.T) {
	f := newFake(1, 1, 1)
	c := f.coordinator(kv.Limits{})
	for _, request := range []string{"", "02", "01 08 0000000000000007 00", "01 01 0000000000000007 01"} {
		if answer, err := c.ServeBatch(t.Context(), golden(t, request)); !errors.Is(err, kv.ErrMalformed) {
			t.Errorf("%q: answer %x, error %v", request, answer, err)
		}
	}
	if len(f.seenBy("")) > 0 {
		t.Errorf("something was sent on")
	}
}

// What is being made for somebody else is counted while it is made, and refused
// when there is no room.
func TestAnswersForOthersAreCounted(t *testing.T) {
	f := newFake(1, 1, 1)
	f.data["a"], f.data["b"] = "vv", "w"
	c := f.coordinator(kv.Limits{})
	request := (&BatchRequest{Op: OpGet, Bucket: testBucket, Keys: []string{"a", "b"}}).Append(nil)
	for _, most := range []int64{6, 5} { // both values, twice; or less
		used := int64(0)
		c.cfg.Reserve = func(n int64) bool {
			if used+n > most {
				return false
			}
			used += n
			return true
		}
		c.cfg.Release = func(n int64) { used -= n }
		answer, err := c.ServeBatch(t.Context(), request)
		must(t, err)
		want := kv.CodeOK
		if most < 6 {
			want = kv.CodeBusy
		}
		if code := kv.Code(answer[1]); code != want || used != 0 {
			t.Errorf("with room for %d bytes: code %d, want %d; %d bytes are never given back", most, code, want, used)
		}
	}
}

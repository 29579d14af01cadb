package coordinator

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/manykv/manykv/kv"
)

// What becomes of a batch whose request, or answer, does not get through.
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
				f := newFake(3, 6, 3)
				keys := someKeys(9)
				for _, key := range keys {
					f.data[key] = "old"
				}
				th := &Through{Call: (&through{node: f.node("n1", kv.Limits{}), fates: []fate{c.fate}}).call}
				err := call.do(t.Context(), th, keys)
				if call.name == "get-many" || call.name == "exists" {
					checkClass(t, call.name, err, c.read)
					continue
				}
				checkClass(t, call.name, err, c.write)
				var batch *kv.BatchError
				if !errors.As(err, &batch) || batch.Op != call.name || !slices.Equal(batch.Outcomes, allOutcomes(9, c.outcome)) {
					t.Errorf("%s: %v, want 9 outcomes that are %v", call.name, err, c.outcome)
				}
				if got := len(f.writes.applied) > 0; got != c.done {
					t.Errorf("%s: applied: %v, want %v", call.name, got, c.done)
				}
			}
		})
	}
}

// The outcome of each key arrives as the node said it, with its reason once.
func TestOutcomesComeThrough(t *testing.T) {
	within(t, func(t *testing.T, ctx context.Context) {
		f := newFake(1, 1, 1)
		limits := kv.Limits{EntryBytes: kv.CommandOverhead + 1} // every pair alone
		f.will("n1", restUnknown)
		node := &through{node: f.node("n1", limits)}
		err := (&Through{Call: node.call}).SetMany(ctx, testBucket, pairsOf([]string{"a", "b"}, "1"))
		want := "set-many of 2 keys: 1 applied, 0 not applied, 1 unknown: outcome unknown: shard 1: leadership lost"
		if err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
		f.will("n1", restNoStore)
		err = (&Through{Call: node.call}).DeleteMany(ctx, testBucket, []string{"a", "b", "a"})
		var batch *kv.BatchError
		if !errors.As(err, &batch) || !slices.Equal(batch.Outcomes, []kv.Outcome{2, 1, 1}) || !errors.Is(err, kv.ErrNoSuchStore) {
			t.Errorf("got %v", err)
		}
	})
}

// Whatever a node answers, a write whose answer cannot be understood is unknown
// and a read did not happen.
func TestStrangeBatchAnswers(t *testing.T) {
	head := "01 07 03 627573" // version 1, unavailable, "bus"
	for _, c := range []struct {
		name, answer string
		read, write  error
		outcomes     []kv.Outcome
	}{
		{"nothing", "", kv.ErrUnavailable, kv.ErrUnknown, []kv.Outcome{0, 0}},
		{"of a later version", "02 00 00 00", kv.ErrUnavailable, kv.ErrUnknown, []kv.Outcome{0, 0}},
		{"too few items", "01 00 00 00 00", kv.ErrUnavailable, kv.ErrUnknown, []kv.Outcome{0, 0}},
		{"too many items", "01 00 00 00 00 00 00", kv.ErrUnavailable, kv.ErrUnknown, []kv.Outcome{0, 0}},
		{"outcomes of both", head + "02 02 01", kv.ErrUnavailable, kv.ErrUnavailable, []kv.Outcome{2, 1}},
		{"an outcome too few", head + "01 02", kv.ErrUnavailable, kv.ErrUnknown, []kv.Outcome{0, 0}},
		{"an outcome too many", head + "03 02 02 02", kv.ErrUnavailable, kv.ErrUnknown, []kv.Outcome{0, 0}},
		{"an outcome of a later version", head + "02 01 03", kv.ErrUnavailable, kv.ErrUnknown, []kv.Outcome{1, 0}},
		{"a code of a later version", "01 63 00 00", kv.ErrUnavailable, kv.ErrUnknown, []kv.Outcome{0, 0}},
		{"refused as a whole", head + "00", kv.ErrUnavailable, kv.ErrUnavailable, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			th := &Through{Call: func(context.Context, byte, []byte) ([]byte, error) { return golden(t, c.answer), nil }}
			_, err := th.GetMany(t.Context(), testBucket, []string{"a", "b"})
			checkClass(t, "get-many", err, c.read)
			_, err = th.Exists(t.Context(), testBucket, []string{"a", "b"})
			checkClass(t, "exists", err, c.read)
			err = th.DeleteMany(t.Context(), testBucket, []string{"a", "b"})
			if !errors.Is(err, c.write) || !slices.Equal(outcomes(err), c.outcomes) {
				t.Errorf("a write: %v with %v, want %v with %v", err, outcomes(err), c.write, c.outcomes)
			}
		})
	}
}

func TestMalformedBatchesAreNotServed(t *testing.T) {
	f := newFake(1, 1, 1)
	c := f.coordinator(kv.Limits{})
	for _, request := range []string{"", "02", "01 05 0000000000000007 00", "01 01 0000000000000007 01"} {
		if answer, err := c.ServeBatch(t.Context(), golden(t, request)); !errors.Is(err, kv.ErrMalformed) {
			t.Errorf("%q: answer %x, error %v", request, answer, err)
		}
	}
	if len(f.seenBy("")) > 0 {
		t.Errorf("something was sent on")
	}
}

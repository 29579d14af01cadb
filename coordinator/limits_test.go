package coordinator

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/manykv/manykv/kv"
)

// testLimits are small, so that a test can reach each of them alone.
var testLimits = kv.Limits{KeyBytes: 8, ValueBytes: 16, BatchKeys: 5, BatchBytes: 60, AnswerBytes: 40}

// Everything at a limit passes; one over it is refused before anything is sent,
// with or without a node in between.
func TestLimits(t *testing.T) {
	key, value := strings.Repeat("k", 8), strings.Repeat("v", 16)
	long := func(n int) []kv.Pair { // n bytes in 4 keys
		pairs := pairsOf([]string{"a", "b", "c", "d"}, strings.Repeat("v", n/4-1))
		pairs[0].Value = append(pairs[0].Value, make([]byte, n%4)...)
		return pairs
	}
	for _, c := range []struct {
		name  string
		pairs []kv.Pair
		want  error
	}{
		{"longest key and value", pairsOf([]string{key}, value), nil},
		{"key too long", pairsOf([]string{"a", key + "k"}, ""), kv.ErrTooLarge},
		{"value too long", pairsOf([]string{"a"}, value+"v"), kv.ErrTooLarge},
		{"most keys", pairsOf(someKeys(5), ""), nil},
		{"too many keys", pairsOf(someKeys(6), ""), kv.ErrTooLarge},
		{"most bytes", long(60), nil},
		{"too many bytes", long(61), kv.ErrTooLarge},
		{"not UTF-8", pairsOf([]string{"a", "\xff"}, ""), kv.ErrInvalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFake(3, 6, 3)
			for name, carry := range map[string]user{
				"coordinator": f.client(testLimits),
				"through":     f.through(testLimits, nil, f.node("n1", kv.Limits{})),
				"served":      f.through(kv.Limits{}, nil, f.node("n1", testLimits)), // the node's limits are lower
			} {
				f.requests = nil
				err := carry.SetMany(t.Context(), testBucket, c.pairs)
				checkRefused(t, f, name, err, c.want)
				if len(c.pairs) == 1 {
					f.requests = nil
					_, err := carry.CompareAndSwap(t.Context(), testBucket, f.versions[c.pairs[0].Key], c.pairs[0])
					checkRefused(t, f, name+" compare-and-swap", err, c.want)
				}
				if strings.Contains(c.name, "value") || strings.Contains(c.name, "bytes") {
					continue
				}
				var keys []string
				for _, p := range c.pairs {
					keys = append(keys, p.Key)
				}
				for _, call := range calls {
					f.requests = nil
					checkRefused(t, f, name+" "+call.name, call.do(t.Context(), carry, keys), c.want)
				}
			}
		})
	}
}

// checkRefused checks that a call succeeded, or was refused before anything was
// sent: then no key has an outcome, or, if a node in between said so, all are not
// applied.
func checkRefused(t *testing.T, f *fakeCluster, what string, err, want error) {
	t.Helper()
	if want == nil {
		must(t, err)
		return
	}
	var batch *kv.BatchError
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
	if errors.As(err, &batch) && (!strings.HasPrefix(what, "served") || batch.Call != 0 || slices.ContainsFunc(batch.Outcomes, func(o kv.Outcome) bool { return o != kv.OutcomeNotApplied })) {
		t.Errorf("%s: %v, want no outcomes", what, err)
	}
	if n := len(f.seenBy("")); n > 0 {
		t.Errorf("%s: %d requests were sent", what, n)
	}
}

// What an answer takes is only known when it is there.
func TestAnswersAreBounded(t *testing.T) {
	f := newFake(3, 6, 3)
	f.data["a"] = strings.Repeat("v", 20)
	for name, c := range map[string]user{
		"coordinator": f.client(testLimits),
		"through":     f.through(kv.Limits{}, nil, f.node("n1", testLimits)),
	} {
		pairs, err := c.GetMany(t.Context(), testBucket, []string{"a", "a"})
		if err != nil || string(pairs[1].Value) != f.data["a"] {
			t.Errorf("%s: 40 bytes: %v, %v", name, pairs, err)
		}
		f.data["b"] = "v"
		_, err = c.GetMany(t.Context(), testBucket, []string{"a", "b", "a"})
		if !errors.Is(err, kv.ErrTooLarge) {
			t.Errorf("%s: 41 bytes: %v, want too large", name, err)
		}
		_, err = c.Exists(t.Context(), testBucket, []string{"a", "b", "a"})
		if err != nil {
			t.Errorf("%s: whether they exist: %v", name, err)
		}
	}
}

func TestBadLimitsAreRefused(t *testing.T) {
	if _, err := New(Config{Limits: kv.Limits{BatchKeys: -1}}); !errors.Is(err, kv.ErrInvalid) {
		t.Errorf("a batch of -1 keys: %v, want it to be invalid", err)
	}
}

// A part travels as commands of at most EntryBytes, in order and not many more
// than needed; a value that is larger travels in pieces, as few as it takes.
func TestLargePartsAreCut(t *testing.T) {
	const entry = 2000
	f := newFake(1, 1, 1)
	c := f.client(kv.Limits{EntryBytes: entry})
	var pairs []kv.Pair
	for i, key := range someKeys(40) {
		size := 100 * (i % 5)
		if i == 0 || i == 7 || i == 8 || i == 20 || i == 39 {
			size = 3 * entry
		}
		pairs = append(pairs, kv.Pair{Key: key, Value: []byte(strings.Repeat(string(rune('a'+i%26)), size))})
	}
	must(t, c.SetMany(t.Context(), testBucket, pairs))
	for _, p := range pairs {
		if f.data[p.Key] != string(p.Value) {
			t.Errorf("key %s has %d bytes, want %d", p.Key, len(f.data[p.Key]), len(p.Value))
		}
	}
	must(t, c.DeleteMany(t.Context(), testBucket, someKeys(40)))
	requests := f.seenBy("")
	if len(requests) != 2 {
		t.Fatalf("%d requests, want 2", len(requests))
	}
	for _, r := range requests {
		var keys []string
		last := 2 * entry
		for n, command := range r.q.Parts[0].Commands {
			w, err := kv.Limits{}.WithDefaults().CheckWrite(command)
			if err != nil || len(command) > entry || int(w.Origin.Entry) != n || !r.q.Op.Carries(&w) {
				t.Errorf("%s: command %d of kind %d has %d bytes and number %d: %v", r.q.Op, n, w.Kind, len(command), w.Origin.Entry, err)
			}
			writes := f.writesOf(command)
			need := len(command) + 2*binary.MaxVarintLen32*len(writes) // lengths are taken for as long as they may be
			large := w.Kind == kv.KindPiece || w.Kind == kv.KindLast
			if last+need < entry-kv.CommandOverhead && !large {
				t.Errorf("%s: commands %d and %d would fit into one", r.q.Op, n-1, n)
			}
			if last = need; large {
				last = 2 * entry
			}
			if w.Kind == kv.KindPiece {
				if n := len(command); n < entry-kv.CommandOverhead {
					t.Errorf("a piece of %d bytes, want about %d", n, entry)
				}
				continue
			}
			for _, w := range writes {
				keys = append(keys, w.key)
			}
		}
		if !slices.Equal(keys, someKeys(40)) {
			t.Errorf("%s: keys in the order %q", r.q.Op, keys)
		}
	}
	if n := len(f.problems); n > 0 {
		t.Errorf("%d problems: %v", n, f.problems)
	}
}

// The largest pair there may be is set, and swapped, in pieces that a node takes.
func TestTheLargestPair(t *testing.T) {
	f := newFake(1, 1, 1)
	limits := kv.Limits{}.WithDefaults()
	c := f.client(limits)
	pair := kv.Pair{Key: strings.Repeat("k", limits.KeyBytes), Value: make([]byte, limits.ValueBytes)}
	must(t, c.SetMany(t.Context(), testBucket, []kv.Pair{{Key: "a"}, pair, {Key: "b"}}))
	pair.Value[8_000_000] = 1
	version, err := c.CompareAndSwap(t.Context(), testBucket, f.versions[pair.Key], pair)
	if err != nil || version != f.versions[pair.Key] || f.data[pair.Key] != string(pair.Value) {
		t.Errorf("swapped to version %d, %v", version, err)
	}
	_, err = c.CompareAndSwap(t.Context(), testBucket, 1, pair)
	checkClass(t, "swap of another version", err, kv.ErrConflict)
	for _, r := range f.seenBy("") {
		for _, command := range r.q.Parts[0].Commands {
			if w, err := limits.CheckWrite(command); err != nil || !r.q.Op.Carries(&w) {
				t.Errorf("a node refuses it: %v", err)
			}
		}
	}
	if n := len(f.problems); n > 0 {
		t.Errorf("%d problems: %v", n, f.problems)
	}
}

// A call that ends before it began sends nothing and says so.
func TestACallWhoseTimeIsUp(t *testing.T) {
	f := newFake(3, 6, 3)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, call := range calls {
		err := call.do(ctx, f.client(kv.Limits{}), someKeys(10))
		checkClass(t, call.name, err, kv.ErrUnavailable)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v does not say why", call.name, err)
		}
	}
	if len(f.seenBy("")) > 0 || len(f.exposed) > 0 {
		t.Errorf("%d requests were sent", len(f.seenBy("")))
	}
}

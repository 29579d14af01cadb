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
			node := &through{node: f.node("n1", kv.Limits{})}
			for name, carry := range map[string]carrier{
				"coordinator": f.coordinator(testLimits),
				"through":     &Through{Call: node.call, Limits: testLimits},
				"served":      &Through{Call: (&through{node: f.node("n1", testLimits)}).call}, // the node's limits are lower
			} {
				f.requests = nil
				err := carry.SetMany(t.Context(), testBucket, c.pairs)
				checkRefused(t, f, name, err, c.want)
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
// sent: then no key has an outcome.
func checkRefused(t *testing.T, f *fakeCluster, what string, err, want error) {
	t.Helper()
	if want == nil {
		must(t, err)
		return
	}
	var batch *kv.BatchError
	if !errors.Is(err, want) || errors.As(err, &batch) {
		t.Errorf("%s: %v, want %v without outcomes", what, err, want)
	}
	if n := len(f.seenBy("")); n > 0 {
		t.Errorf("%s: %d requests were sent", what, n)
	}
}

// What an answer takes is only known when it is there.
func TestAnswersAreBounded(t *testing.T) {
	f := newFake(3, 6, 3)
	f.data["a"] = strings.Repeat("v", 20)
	for name, c := range map[string]carrier{
		"coordinator": f.coordinator(testLimits),
		"through":     &Through{Call: (&through{node: f.node("n1", testLimits)}).call},
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
// than needed; a pair that is larger goes alone.
func TestLargePartsAreCut(t *testing.T) {
	const entry = 200
	f := newFake(1, 1, 1)
	c := f.coordinator(kv.Limits{EntryBytes: entry})
	var pairs []kv.Pair
	for i, key := range someKeys(40) {
		size := 10 * (i % 5)
		if i == 7 || i == 20 || i == 39 {
			size = 3 * entry
		}
		pairs = append(pairs, kv.Pair{Key: key, Value: []byte(strings.Repeat("v", size))})
	}
	must(t, c.SetMany(t.Context(), testBucket, pairs))
	must(t, c.DeleteMany(t.Context(), testBucket, someKeys(40)))
	requests := f.seenBy("")
	if len(requests) != 2 {
		t.Fatalf("%d requests, want 2", len(requests))
	}
	for _, r := range requests {
		var keys []string
		last := 2 * entry
		for n, command := range r.q.Parts[0].Commands {
			writes := f.writesOf(command)
			if len(command) > entry && len(writes) > 1 {
				t.Errorf("%s: command %d of %d keys has %d bytes, want at most %d", r.q.Op, n, len(writes), len(command), entry)
			}
			need := len(command) + 2*binary.MaxVarintLen32*len(writes) // lengths are taken for as long as they may be
			if last+need < entry-kv.CommandOverhead {
				t.Errorf("%s: commands %d and %d would fit into one", r.q.Op, n-1, n)
			}
			last = need
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

// The largest pair there may be fits a log entry.
func TestTheLargestPair(t *testing.T) {
	f := newFake(1, 1, 1)
	limits := kv.Limits{}.WithDefaults()
	c := f.coordinator(limits)
	pair := kv.Pair{Key: strings.Repeat("k", limits.KeyBytes), Value: make([]byte, limits.ValueBytes)}
	must(t, c.SetMany(t.Context(), testBucket, []kv.Pair{{Key: "a"}, pair, {Key: "b"}}))
	commands := f.seenBy("")[0].q.Parts[0].Commands
	if len(commands) != 3 || len(commands[1]) > kv.MaxCommandBytes {
		t.Errorf("%d commands, the second of %d bytes; want 3 of at most %d", len(commands), len(commands[1]), kv.MaxCommandBytes)
	}
	for _, command := range commands {
		if _, err := limits.CheckWrite(command); err != nil {
			t.Errorf("a node refuses it: %v", err)
		}
	}
}

// A call that ends before it began sends nothing and says so.
func TestACallWhoseTimeIsUp(t *testing.T) {
	f := newFake(3, 6, 3)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, call := range calls {
		err := call.do(ctx, f.coordinator(kv.Limits{}), someKeys(10))
		checkClass(t, call.name, err, kv.ErrUnavailable)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v does not say why", call.name, err)
		}
	}
	if len(f.seenBy("")) > 0 || len(f.writes.exposed) > 0 {
		t.Errorf("%d requests were sent", len(f.seenBy("")))
	}
}

//go:build unix

package jepsen

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestSessionsSee(t *testing.T) {
	for _, c := range []struct {
		name         string
		tried, least int
		value        string
		found, right bool
	}{
		{"nothing yet", 0, 0, "", false, true},
		{"its own write", 3, 3, "3", true, true},
		{"a write of unknown outcome", 3, 2, "3", true, true},
		{"an older write", 3, 3, "2", true, false},
		{"nothing after a write", 3, 3, "", false, false},
		{"what was never written", 3, 3, "4", true, false},
		{"what is no number", 3, 0, "x", true, false},
	} {
		o := &session{key: "k", tried: c.tried, least: c.least}
		if err := o.saw(c.value, c.found); (err == nil) != c.right {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	o := &session{tried: 5, least: 1}
	if o.saw("4", true) != nil || o.saw("3", true) == nil {
		t.Error("reads went back")
	}
}

func TestListingsAreJudged(t *testing.T) {
	all := make([]string, stableKeys)
	for i := range all {
		all[i] = stableKey(i)
	}
	pages := func(keys ...string) func(cursor uint64) ([]string, uint64, error) {
		const size = 700
		return func(cursor uint64) ([]string, uint64, error) {
			end := min(int(cursor)+size, len(keys))
			next := uint64(end)
			if end == len(keys) {
				next = 0
			}
			return keys[cursor:end], next, nil
		}
	}
	for what, keys := range map[string][]string{
		"a key is missing":   all[1:],
		"a key stands twice": append(slices.Clone(all), churnKey(1), churnKey(1)),
		"nobody wrote a key": append(slices.Clone(all), "other"),
		"one too many":       append(slices.Clone(all), "stable-x"),
	} {
		if err := new(Listing).scan(pages(keys...)); !errors.Is(err, errListed) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := new(Listing).scan(pages(append(slices.Clone(all), churnKey(1), churnKey(2))...)); err != nil {
		t.Error(err)
	}
}

func TestLargeValuesAreJudged(t *testing.T) {
	k := &largeKey{name: "large-0-1", tried: 3, least: 2}
	second, third := k.value(2), k.value(3)
	broken := slices.Clone(third)
	broken[len(broken)/2] ^= 1
	for what, c := range map[string]struct {
		value []byte
		found bool
	}{"an older one": {k.value(1), true}, "none": {nil, false}, "a flipped bit": {broken, true}, "cut short": {third[:len(third)-1], true}, "too short": {third[:9], true}} {
		if k.is(c.value, c.found) == nil {
			t.Errorf("%s was accepted", what)
		}
	}
	if k.is(second, true) != nil || k.is(third, true) != nil || k.is(second, true) == nil {
		t.Error("what was written, or read before, is not what is accepted")
	}
}

// A write that stands in no log is left out, if the log of its shard is whole.
func TestUnknownWritesAreLookedUp(t *testing.T) {
	log := &commitLog{writes: make(map[[2]string]bool), shards: make(map[string]uint32), first: make(map[uint32]uint64)}
	lines := `{"shard":1,"index":1,"pairs":[{"key":"a","value":{"begins_hex":"7631"}}]}
{"shard":2,"index":7,"pairs":[{"key":"b","value":{"begins_hex":"7631"}},{"key":"c"}]}
{"shard":1,"index":2}
`
	if err := log.lines(strings.NewReader(lines)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		op    Operation
		lacks bool
	}{
		{Operation{Kind: Set, Key: "a", Value: "v1"}, false},
		{Operation{Kind: Set, Key: "a", Value: "v2"}, true},
		{Operation{Kind: Swap, Key: "a", Value: "v2"}, true},
		{Operation{Kind: Delete, Key: "a"}, false},
		{Operation{Kind: Increment, Key: "a"}, false},
		{Operation{Kind: Set, Key: "b", Value: "v2"}, false},  // the log was cut
		{Operation{Kind: Set, Key: "zz", Value: "v2"}, false}, // whose shard is not known
	} {
		if got := log.lacks(&c.op); got != c.lacks {
			t.Errorf("%v: %v, want %v", &c.op, got, c.lacks)
		}
	}
	if err := log.lines(strings.NewReader("{")); err == nil {
		t.Error("half a line was accepted")
	}
}

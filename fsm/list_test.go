package fsm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

// crafted puts pairs of bucket 1 into shard 1 under hashes that are not theirs,
// since nobody has keys of one hash at hand.
func crafted(t tb, s *Store, hashes map[uint64][]string) {
	t.Helper()
	for hash, keys := range hashes {
		for _, key := range keys {
			row := binary.BigEndian.AppendUint64(nil, 1)
			if err := s.db.Set(appendPairKey(nil, 1, 1, hash, key), row, pebble.NoSync); err != nil {
				t.Fatalf("%v", err)
			}
		}
	}
}

func TestList(t *testing.T) {
	const last = math.MaxUint64
	long := strings.Repeat("x", 100)
	for _, c := range []struct {
		name              string
		rows              map[uint64][]string
		cursor            uint64
		maxKeys, maxBytes int
		keys              string
		next              uint64
		err               error
	}{
		{"no keys", nil, 0, 3, 100, "", 0, nil},
		{"all of them", map[uint64][]string{5: {"a"}, 7: {"b"}}, 0, 3, 100, "a b", 0, nil},
		{"exactly all", map[uint64][]string{5: {"a"}, 7: {"b"}}, 0, 2, 100, "a b", 0, nil},
		{"in the order of their hashes", map[uint64][]string{7: {"a"}, 5: {"b"}, 1 << 60: {"c"}}, 0, 3, 100, "b a c", 0, nil},
		{"some", map[uint64][]string{5: {"a"}, 7: {"b"}, 9: {"c"}}, 0, 2, 100, "a b", 8, nil},
		{"from a hash on", map[uint64][]string{5: {"a"}, 7: {"b"}, 9: {"c"}}, 7, 3, 100, "b c", 0, nil},
		{"from after a hash on", map[uint64][]string{5: {"a"}, 7: {"b"}, 9: {"c"}}, 8, 3, 100, "c", 0, nil},
		{"past the last", map[uint64][]string{5: {"a"}}, 6, 3, 100, "", 0, nil},
		{"the empty key", map[uint64][]string{5: {""}, 7: {"b"}}, 0, 1, 100, "", 6, nil},
		{"the last hash", map[uint64][]string{5: {"a"}, last: {"b"}}, 6, 1, 100, "b", 0, nil},
		{"before the last hash", map[uint64][]string{last - 1: {"a"}, last: {"b"}}, 0, 1, 100, "a", last, nil},
		{"a hash as a whole", map[uint64][]string{5: {"a", "b", "c"}, 7: {"d"}}, 0, 3, 100, "a b c", 6, nil},
		{"a hash alone", map[uint64][]string{5: {"a", "b", "c"}, 7: {"d"}}, 0, 1, 100, "a b c", 6, nil},
		{"a hash alone, at the end", map[uint64][]string{5: {"a", "b", "c"}}, 0, 1, 100, "a b c", 0, nil},
		{"not a part of a hash", map[uint64][]string{5: {"a"}, 7: {"b", "c", "d"}}, 0, 3, 100, "a", 6, nil},
		{"not a part of the last hash", map[uint64][]string{5: {"a"}, last: {"b", "c", "d"}}, 0, 3, 100, "a", 6, nil},
		{"bytes enough", map[uint64][]string{5: {"aaaa"}, 7: {"bbbb"}}, 0, 3, 8, "aaaa bbbb", 0, nil},
		{"bytes for one", map[uint64][]string{5: {"aaaa"}, 7: {"bbbb"}}, 0, 3, 7, "aaaa", 6, nil},
		{"bytes for a part of a hash", map[uint64][]string{5: {"aa"}, 7: {"bb", "cc"}}, 0, 9, 5, "aa", 6, nil},
		{"too large a key", map[uint64][]string{5: {long}}, 0, 3, 99, "", 0, kv.ErrTooLarge},
		{"too large a hash", map[uint64][]string{5: {"aa", "bb", "cc"}}, 0, 1, 5, "", 0, kv.ErrTooLarge},
		{"too large a hash, later", map[uint64][]string{5: {"a"}, 7: {"aa", "bb", "cc"}}, 0, 9, 5, "a", 6, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := openMem(t)
			d := leading(t, s, 1)
			apply(t, d, set(2, 2, "another bucket", ""))
			apply(t, leading(t, s, 2), set(2, 1, "another shard", ""))
			crafted(t, s, c.rows)
			keys, next, err := d.List(1, c.cursor, c.maxKeys, c.maxBytes)
			if got := strings.Join(keys, " "); got != c.keys || next != c.next || !errors.Is(err, c.err) {
				t.Errorf("listed %q, next %d, %v, want %q, %d, %v", got, next, err, c.keys, c.next, c.err)
			}
		})
	}
}

// TestListingUnderChurn lists a bucket in pages while keys come and go: those
// that are there all the time are listed once, the others at most once, and none
// that never was.
func TestListingUnderChurn(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := openOn(t, vfs.NewMem())
		defer closeStore(t, s)
		d := leading(t, s, 1)
		names := make([]string, 24)
		for i := range names {
			names[i] = fmt.Sprintf("key-%d", i)
		}
		steady := rapid.SliceOfDistinct(rapid.SampledFrom(names), func(k string) string { return k }).Draw(t, "steady")
		churn := func() {
			for _, key := range rapid.SliceOfN(rapid.SampledFrom(names), 0, 5).Draw(t, "churn") {
				if rapid.Bool().Draw(t, "comes") {
					apply(t, d, set(d.Position().Index+1, 1, key, "v"))
				} else if !slices.Contains(steady, key) {
					apply(t, d, del(d.Position().Index+1, 1, key))
				}
			}
		}
		for _, key := range steady {
			apply(t, d, set(d.Position().Index+1, 1, key, "v"))
		}
		churn()
		seen := make(map[string]int)
		for cursor, more := uint64(0), true; more; more = cursor != 0 {
			maxKeys := rapid.IntRange(1, 5).Draw(t, "page")
			keys, next, err := d.List(1, cursor, maxKeys, 1<<10)
			if err != nil || len(keys) > maxKeys || next != 0 && len(keys) != maxKeys {
				t.Fatalf("from %x: %q, %v, want %d keys unless at the end", cursor, keys, err, maxKeys)
			}
			for _, key := range keys {
				if hash := sharding.HashString(1, key); hash < cursor || next != 0 && hash >= next {
					t.Fatalf("key %q of hash %x is on the page from %x to %x", key, hash, cursor, next)
				}
				seen[key]++
			}
			cursor = next
			churn()
		}
		for _, key := range names {
			if n := seen[key]; n > 1 || n == 0 && slices.Contains(steady, key) {
				t.Errorf("key %q was listed %d times", key, n)
			}
			delete(seen, key)
		}
		if len(seen) > 0 {
			t.Errorf("listed too: %v", seen)
		}
	})
}

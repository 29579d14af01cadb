package fsm

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// checkCache checks what a segment says of itself, and its bound.
func checkCache(t *testing.T, c *valueCache) {
	t.Helper()
	for i := range c.segments {
		s := &c.segments[i]
		bytes, entries := 0, 0
		for slot := range s.slots {
			e := &s.slots[slot]
			if e.of == nil {
				continue
			}
			entries++
			bytes += e.size()
			if s.index[e.hash] != int32(slot) || c.segment(e.hash) != s {
				t.Errorf("segment %d: the entry of slot %d is elsewhere", i, slot)
			}
		}
		if bytes != s.bytes || bytes > s.limit || entries != len(s.index) || entries+len(s.free) != len(s.slots) {
			t.Errorf("segment %d: %d bytes of %d counted as %d, %d entries in %d slots with %d free, index of %d",
				i, bytes, s.limit, s.bytes, entries, len(s.slots), len(s.free), len(s.index))
		}
	}
}

// A cache for a tenth of the keys stays within its bound, and what is read often
// stays in it although everything else is read once.
func TestValueCacheIsBoundedAndKeepsWhatIsHot(t *testing.T) {
	const keys, size = 10_000, 256
	s := openCached(t, keys/10*(size+entryBytes), 1)
	d := leading(t, s, 1)
	var kvs, names []string
	for i := range keys {
		names = append(names, fmt.Sprintf("key-%d", i))
		kvs = append(kvs, names[i], strings.Repeat("v", size))
	}
	apply(t, d, set(2, 1, kvs...))
	hot := names[:keys/50]
	look(t, d, 1, hot...)
	for cold := range slices.Chunk(names, keys/50) {
		look(t, d, 1, cold...)
		look(t, d, 1, hot...)
	}
	checkCache(t, s.values)
	before := s.Stats()
	look(t, d, 1, hot...)
	if hits := s.Stats().ValueHits - before.ValueHits; int(hits) < len(hot)*9/10 {
		t.Errorf("%d of %d hot keys are cached, want nine tenths", hits, len(hot))
	}
	// Values that grow push others out, not the bound.
	for i, name := range hot {
		apply(t, d, set(uint64(3+i), 1, name, strings.Repeat("w", 4*size)))
	}
	checkCache(t, s.values)
}

// What is cached is let go when the rows change, are deleted and replaced.
func TestValueCacheFollowsTheRows(t *testing.T) {
	s := openCached(t, 1<<20, 1)
	d := leading(t, s, 1)
	names := []string{"a", "b", "c"}
	want := func(what string, values ...string) {
		t.Helper()
		for _, how := range []string{"from rows, perhaps", "cached"} {
			if got := look(t, d, 1, names...); !slices.Equal(got, values) {
				t.Errorf("%s, %s: %q, want %q", what, how, got, values)
			}
		}
	}
	apply(t, d, set(2, 1, "a", "1", "b", "1", "c", "1"), set(3, 2, "a", "other bucket"))
	want("first", "1@2", "1@2", "1@2")
	apply(t, d, set(4, 1, "a", "2"), del(5, 1, "b"))
	want("changed", "2@4", "-", "1@2")
	if before := s.Stats(); before.ValueHits == 0 {
		t.Error("nothing came from the cache")
	}
	apply(t, d, set(6, 1, "b", strings.Repeat("L", 1<<20)), set(7, 1, "b", "small"))
	want("large and small", "2@4", "small@7", "1@2")
	stream := streamed(t, d)
	apply(t, d, set(8, 1, "a", "3", "b", "3", "c", "3"))
	want("ahead", "3@8", "3@8", "3@8")
	install(t, s, 1, stream)
	want("restored", "2@4", "small@7", "1@2")
	checkCache(t, s.values)
}

// A value stays as long as it is read between writes, and is not copied for nobody.
func TestValueCacheKeepsWhatIsReadBetweenWrites(t *testing.T) {
	s := openCached(t, 1<<20, 1)
	d := leading(t, s, 1)
	read := func(want string, hits int) {
		t.Helper()
		before := s.Stats()
		if got := look(t, d, 1, "a"); got[0] != want {
			t.Errorf("got %s, want %s", got[0], want)
		}
		if got := int(s.Stats().ValueHits - before.ValueHits); got != hits {
			t.Errorf("%s: %d hits, want %d", want, got, hits)
		}
	}
	apply(t, d, set(2, 1, "a", "1"))
	read("1@2", 0)
	apply(t, d, set(3, 1, "a", "2"))
	read("2@3", 1)
	apply(t, d, set(4, 1, "a", "3"))
	apply(t, d, set(5, 1, "a", "4"))
	read("4@5", 0)
	read("4@5", 1)
	checkCache(t, s.values)
}

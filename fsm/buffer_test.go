package fsm

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

// A table gives back what a Go map does, in the order of keys, whatever the lengths.
func TestRowTable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		table, want := rowTables.New().(*rowTable), make(map[string]string)
		const gone = "gone"
		for i := range rapid.IntRange(0, 40).Draw(t, "writes") {
			key := shardPrefix(1)
			key = append(key, rapid.SampledFrom([]string{"", "a", "aa", "a\x00", strings.Repeat("k", 30), strings.Repeat("k", 31)}).Draw(t, "key")...)
			value := fmt.Appendf(nil, "%d%s", i, strings.Repeat("v", rapid.SampledFrom([]int{0, 1, 100, bufferedBytes - 100}).Draw(t, "length")))
			if rapid.IntRange(0, 3).Draw(t, "delete") == 0 {
				table.put(hashRow(key), key, nil)
				want[string(key)] = gone
				continue
			}
			table.put(hashRow(key), key, value)
			want[string(key)] = string(value)
			if rapid.IntRange(0, 30).Draw(t, "reset") == 0 {
				table.reset()
				clear(want)
			}
		}
		if least := (size{len(want) * (rowHead + bufferedRowBytes), len(want) * pebbleRowBytes}); !least.fits(table.size()) {
			t.Errorf("a table of %d rows takes %v bytes, want at least %v", len(want), table.size(), least)
		}
		var got []string
		for _, o := range table.sorted() {
			key := string(table.row(o.at).key())
			got = append(got, key)
			_, r := table.find(hashRow([]byte(key)), []byte(key))
			if gotten := r.state() == rowDeleted; gotten != (want[key] == gone) || !gotten && string(r.value()) != want[key] {
				t.Errorf("key %q: %d bytes in state %d, want %d", key, len(r.value()), r.state(), len(want[key]))
			}
		}
		if keys := slices.Sorted(maps.Keys(want)); !slices.Equal(got, keys) {
			t.Errorf("rows %q, want %q", got, keys)
		}
		if _, r := table.find(hashRow([]byte("nobody's")), []byte("nobody's")); r != nil {
			t.Error("found a key that was never written")
		}
	})
}

// Keys of one hash are rows of their own, also when one of them grows, or the table.
func TestRowsOfOneHash(t *testing.T) {
	const hash = 7
	table, want := rowTables.New().(*rowTable), make(map[string]string)
	for _, length := range []int{1, 2, 1} {
		for i := range leastSlots {
			key := fmt.Sprint(i)
			want[key] = strings.Repeat("v", i*length)
			table.put(hash, []byte(key), []byte(want[key]))
		}
	}
	for key, value := range want {
		if _, r := table.find(hash, []byte(key)); r == nil || string(r.value()) != value {
			t.Errorf("key %s: %q, want %q", key, r, value)
		}
	}
	if _, r := table.find(hash, []byte("nobody's")); r != nil {
		t.Error("found a key that was never written")
	}
	if n := len(table.sorted()); n != len(want) {
		t.Errorf("%d rows, want %d", n, len(want))
	}
}

// pebbleHas says whether Pebble itself has a pair of bucket 1.
func pebbleHas(t *testing.T, s *Store, d *Data, key string) bool {
	t.Helper()
	value, err := row(s.db, d.pairKey(1, []byte(key)))
	if err != nil {
		t.Fatal(err)
	}
	return value != nil
}

// Rows stay in the buffer, which is bounded, and leave it for those who read Pebble.
func TestRowsWaitInTheBuffer(t *testing.T) {
	for name, read := range map[string]func(s *Store, d *Data) error{
		"list": func(_ *Store, d *Data) error {
			keys, _, err := d.List(1, 0, 10, 1000)
			if !slices.Equal(keys, []string{"k"}) {
				t.Errorf("listed %q", keys)
			}
			return err
		},
		"hash":   func(_ *Store, d *Data) error { _, err := d.Hash(t.Context()); return err },
		"flush":  func(s *Store, _ *Data) error { return s.Flush() },
		"shards": func(s *Store, _ *Data) error { _, err := s.Shards(); return err },
		"increment": func(_ *Store, d *Data) error {
			return d.Apply([]Entry{{Index: 3, Term: 1, Command: add(kv.Origin{}, 1)}})[0].Err
		},
		"large value": func(_ *Store, d *Data) error {
			return d.Apply([]Entry{set(3, 1, "large", strings.Repeat("v", bufferedBytes))})[0].Err
		},
		"drop of another bucket": func(_ *Store, d *Data) error {
			return d.Apply([]Entry{{Index: 3, Term: 1, Command: kv.AppendDrop(nil, 2)}})[0].Err
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := openMem(t)
			d := leading(t, s, 1)
			apply(t, d, set(2, 1, "k", "v"))
			if pebbleHas(t, s, d, "k") {
				t.Error("the row was not buffered")
			}
			before := s.Stats()
			if got := look(t, d, 1, "k", "missing"); !slices.Equal(got, []string{"v@2", "-"}) {
				t.Errorf("read %q", got)
			}
			if after := s.Stats(); after.ValueHits-before.ValueHits != 1 || after.ValueMisses-before.ValueMisses != 1 {
				t.Errorf("%d hits and %d misses, want 1 and 1", after.ValueHits-before.ValueHits, after.ValueMisses-before.ValueMisses)
			}
			if err := read(s, d); err != nil {
				t.Fatal(err)
			}
			if !pebbleHas(t, s, d, "k") {
				t.Error("the row is not in Pebble")
			}
			if got := look(t, d, 1, "k"); got[0] != "v@2" {
				t.Errorf("read %q", got)
			}
		})
	}
}

// Buffers take no more than they may, all shards' together, and as much again while rows
// move.
func TestBuffersAreBounded(t *testing.T) {
	const bound, shards = 1 << 20, 4
	s := openCached(t, 1, bound)
	value := strings.Repeat("v", 1000)
	var all []*Data
	for i := range shards {
		all = append(all, leading(t, s, sharding.Shard(i+1)))
	}
	const last = 2000
	moved := false
	for index := uint64(2); index <= last; index++ {
		for _, d := range all {
			apply(t, d, set(index, 1, fmt.Sprint("k", index), value))
			moved = moved || pebbleHas(t, s, d, "k2")
		}
		if got := s.Stats().BufferBytes; got > 2*bound {
			t.Fatalf("%d bytes are buffered at %d, want at most %d", got, index, 2*bound)
		}
		for _, d := range all {
			d.buffer.mu.RLock()
			for _, table := range d.buffer.tables() {
				if took := table.used + len(table.slots)*8; took > bound/shards {
					t.Errorf("rows counted with %v bytes take %d, want at most %d", table.size(), took, bound/shards)
				}
			}
			d.buffer.mu.RUnlock()
		}
	}
	if !moved {
		t.Error("nothing was moved")
	}
	for _, d := range all {
		if got := look(t, d, 1, "k2", fmt.Sprint("k", last)); got[0] != value+"@2" || got[1] != fmt.Sprintf("%s@%d", value, last) {
			t.Errorf("read %.20q", got)
		}
	}
}

// A read that would copy much from the buffer has it moved, and reads it value by value.
func TestAReadCopiesNotMuch(t *testing.T) {
	s := openCached(t, 1, 0)
	d := leading(t, s, 1)
	value := strings.Repeat("v", bufferedBytes-100)
	apply(t, d, set(2, 1, "large", value, "small", "v", "gone", "v"), del(3, 1, "gone"))
	keys := append([]string{"small", "gone"}, slices.Repeat([]string{"large"}, 10*maxRoom/bufferedBytes)...)
	if pebbleHas(t, s, d, "large") {
		t.Error("the rows were not buffered")
	}
	for _, where := range []string{"buffer", "Pebble"} {
		got := look(t, d, 1, keys...)
		want := append([]string{"v@2", "-"}, slices.Repeat([]string{value + "@2"}, len(keys)-2)...)
		if !slices.Equal(got, want) {
			t.Errorf("from the %s: %.40q", where, got)
		}
		if !pebbleHas(t, s, d, "large") {
			t.Error("the rows were not moved")
		}
	}
	apply(t, d, set(4, 1, "large", value))
	r := d.cached(1, keys)
	defer r.end()
	r.hashRows(d, 1, keys)
	d.buffer.mu.RLock()
	defer d.buffer.mu.RUnlock()
	if err := d.buffered(1, keys, r); !errors.Is(err, errMuch) || len(r.room) > maxRoom+bufferedBytes {
		t.Errorf("copied %d bytes, %v", len(r.room), err)
	}
}

// Rows begin to move before there is no room for more.
func TestRowsMoveBeforeTheBufferIsFull(t *testing.T) {
	const share = 100 << 10
	s := openCached(t, 1, share)
	d := leading(t, s, 1)
	value := strings.Repeat("v", 1000)
	for index := uint64(2); !d.filled(); index++ {
		apply(t, d, set(index, 1, fmt.Sprint("k", index), value))
	}
	for deadline := time.Now().Add(10 * time.Second); s.Stats().BufferMoves == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nothing was moved")
		}
	}
	if got := look(t, d, 1, "k2"); got[0] != value+"@2" {
		t.Errorf("read %.20q", got)
	}
}

// What is counted for a batch is what Pebble counts, so that no table's batch is a large one.
func TestBatchesAreCountedAsPebbleDoes(t *testing.T) {
	s := openMem(t)
	table := rowTables.New().(*rowTable)
	for i := range 1000 {
		value := make([]byte, i%50)
		if i%3 == 0 {
			value = nil
		}
		key := fmt.Appendf(nil, "%d", i)
		table.put(hashRow(key), key, value)
	}
	b := s.db.NewBatch()
	defer b.Close()
	if err := table.writeTo(b); err != nil {
		t.Fatal(err)
	}
	counted := int(reflect.ValueOf(b).Elem().FieldByName("memTableSize").Uint())
	if got := table.size().batch; got < counted || got > counted*11/10 {
		t.Errorf("a batch is counted with %d bytes, Pebble counts %d", got, counted)
	}
	if 2*mostBatchBytes >= memTableBytes {
		t.Errorf("batches of %d bytes are large to Pebble", mostBatchBytes)
	}
}

// A read of a cached key and one that is not, while restores change both: it sees the
// old state or the new one.
func TestOneStateWhileRestoring(t *testing.T) {
	s := openCached(t, 1<<20, 0)
	d := leading(t, s, 1)
	large := func(value string) string { return strings.Repeat(value, 1<<20/cacheSegments/segmentShare) } // not cached
	var streams [][]byte
	for i, value := range []string{"1", "2"} {
		apply(t, d, set(uint64(2+i), 1, "a", value, "b", large(value)))
		streams = append(streams, streamed(t, d))
	}
	var stop atomic.Bool
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for !stop.Load() {
				var versions []uint64
				err := d.Get(1, []string{"a", "b"}, func(_ int, _ []byte, version uint64, _ bool) error {
					versions = append(versions, version)
					return nil
				})
				if err != nil || versions[0] != versions[1] {
					t.Errorf("read versions %d, %v", versions, err)
					return
				}
			}
		})
	}
	for i := range 200 {
		install(t, s, 1, streams[i%2])
	}
	stop.Store(true)
	readers.Wait()
}

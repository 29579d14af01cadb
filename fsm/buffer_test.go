package fsm

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

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
		if least := len(want) * (rowHead + bufferedRowBytes); table.size() < least {
			t.Errorf("a table of %d rows takes %d bytes, want at least %d", len(want), table.size(), least)
		}
		var got []string
		for _, o := range table.sorted() {
			key := string(o.row.key())
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

// Buffers take no more than they may, all shards' together.
func TestBuffersAreBounded(t *testing.T) {
	const bound, shards = 64 << 10, 4
	s := openCached(t, 1, bound)
	value := strings.Repeat("v", 300)
	var all []*Data
	for i := range shards {
		all = append(all, leading(t, s, sharding.Shard(i+1)))
	}
	moved := false
	for index := uint64(2); index < 400; index++ {
		taken := 0
		for _, d := range all {
			apply(t, d, set(index, 1, fmt.Sprint("k", index), value))
			if d.buffer.rows != nil {
				taken += d.buffer.rows.size()
			}
			moved = moved || pebbleHas(t, s, d, "k2")
		}
		if taken > bound {
			t.Fatalf("%d bytes are buffered at %d, want at most %d", taken, index, bound)
		}
	}
	if !moved {
		t.Error("nothing was moved")
	}
	for _, d := range all {
		if got := look(t, d, 1, "k2", "k399"); got[0] != value+"@2" || !bytes.HasSuffix([]byte(got[1]), []byte("@399")) {
			t.Errorf("read %.20q", got)
		}
	}
}

package raftlog

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"hash/crc32"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// golden frames, made by another program from the layout in frame.go.
var golden = []struct {
	name  string
	bytes string
	frame frame
	entry *raft.Log
}{
	{
		name:  "entry",
		bytes: "00000031d85b8c9701000000030000000000000007000000000000010200000000000000050517979cfe3d85cd1500000002787968656c6c6f",
		frame: frame{kind: kindEntry, replica: replica{3, 7}},
		entry: &raft.Log{Index: 258, Term: 5, Type: raft.LogConfiguration, AppendedAt: time.Unix(0, 1700000000123456789), Extensions: []byte("xy"), Data: []byte("hello")},
	},
	{
		name:  "entry without data, extensions and time",
		bytes: "0000002a5a7323b9010000000300000000000000070000000000000103000000000000000501800000000000000000000000",
		frame: frame{kind: kindEntry, replica: replica{3, 7}},
		entry: &raft.Log{Index: 259, Term: 5, Type: raft.LogNoop},
	},
	{
		name:  "cut",
		bytes: "0000001d9b537ac40200000003000000000000000700000000000001030000000000000000",
		frame: frame{kind: kindCut, replica: replica{3, 7}, index: 259},
	},
	{
		name:  "trim",
		bytes: "0000001d9248ada803ffffffffffffffffffffffff00000000000000010000000000000000",
		frame: frame{kind: kindTrim, replica: replica{math.MaxUint32, math.MaxUint64}, index: 1},
	},
	{
		name:  "carry",
		bytes: "000000310ff3518e04000000030000000000000007000000000000010200000000000000050517979cfe3d85cd1500000002787968656c6c6f",
		frame: frame{kind: kindCarry, replica: replica{3, 7}},
		entry: &raft.Log{Index: 258, Term: 5, Type: raft.LogConfiguration, AppendedAt: time.Unix(0, 1700000000123456789), Extensions: []byte("xy"), Data: []byte("hello")},
	},
	{
		name:  "drop",
		bytes: "0000001d857191510500000003000000000000000700000000000000000000000000000000",
		frame: frame{kind: kindDrop, replica: replica{3, 7}},
	},
	{
		name:  "head",
		bytes: "0000001d563924c00600000000000000000000000000000000000001020000000000000000",
		frame: frame{kind: kindHead, index: 258},
	},
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestGoldenFrames(t *testing.T) {
	for _, g := range golden {
		t.Run(g.name, func(t *testing.T) {
			want := unhex(t, g.bytes)
			var got []byte
			if g.entry != nil {
				got = appendEntry(nil, g.frame.replica, g.entry)
				if len(got) != entryBytes(g.entry) {
					t.Errorf("entryBytes: got %d, want %d", entryBytes(g.entry), len(got))
				}
				if g.frame.kind == kindCarry {
					got = appendCarry(nil, got)
				}
			} else {
				got = appendMark(nil, g.frame.kind, g.frame.replica, g.frame.index)
			}
			if !bytes.Equal(got, want) {
				t.Fatalf("encode: got %x, want %x", got, want)
			}
			if err := checkFrame(want); err != nil {
				t.Fatal(err)
			}
			f, err := parseFrame(append(want, 0xff))
			if err != nil || !bytes.Equal(f.bytes, want) {
				t.Fatalf("parse: got %x, %v, want %x", f.bytes, err, want)
			}
			if f.kind != g.frame.kind || f.replica != g.frame.replica {
				t.Errorf("parse: got kind %d of %+v, want %d of %+v", f.kind, f.replica, g.frame.kind, g.frame.replica)
			}
			if g.entry == nil {
				if f.index != g.frame.index {
					t.Errorf("parse: got index %d, want %d", f.index, g.frame.index)
				}
				return
			}
			e := f.entry()
			if !sameEntry(&e, g.entry) || (e.Data == nil) != (g.entry.Data == nil) {
				t.Errorf("parse: got %+v, want %+v", e, *g.entry)
			}
		})
	}
}

func TestDamagedFrames(t *testing.T) {
	entry := unhex(t, golden[0].bytes)
	cut, drop, head := unhex(t, golden[2].bytes), unhex(t, golden[5].bytes), unhex(t, golden[6].bytes)
	// with changes a frame and makes its checksum right again.
	with := func(b []byte, change func(b []byte)) []byte {
		b = bytes.Clone(b)
		change(b)
		binary.BigEndian.PutUint32(b[4:], crc32.Checksum(b[prefixBytes:], castagnoli))
		return b
	}
	for name, c := range map[string]struct {
		bytes []byte
		want  string
	}{
		"nothing":             {nil, "empty record"},
		"cut short":           {entry[:20], "cut short"},
		"length beyond bytes": {with(entry, func(b []byte) { b[3]++ }), "shard 3: got length 58"},
		"length too small":    {with(cut, func(b []byte) { b[3]-- }), "shard 3: got length 36"},
		"length enormous":     {with(entry, func(b []byte) { b[0] = 0xff }), "shard 3: got length 4278190137"},
		"flipped bit":         {append(bytes.Clone(entry[:40]), append([]byte{entry[40] ^ 4}, entry[41:]...)...), "shard 3: got checksum"},
		"unknown kind":        {with(entry, func(b []byte) { b[8] = 9 }), "got kind 9, want 1 to 6"},
		"index zero":          {with(cut, func(b []byte) { clear(b[21:29]) }), "got index 0"},
		"drop with an index":  {with(drop, func(b []byte) { b[28] = 1 }), "got index 1, want 0 in a drop"},
		"head of a shard":     {with(head, func(b []byte) { b[12] = 3 }), "head: got shard 3"},
		"head of a stay":      {with(head, func(b []byte) { b[20] = 3 }), "head: got shard 0 generation 3"},
		"head with more":      {with(append(bytes.Clone(head), 0), func(b []byte) { b[3]++ }), "got length 38"},
		"carry too short":     {with(cut, func(b []byte) { b[8] = kindCarry }), "want 50 or more"},
		"cut with a term":     {with(cut, func(b []byte) { b[36] = 1 }), "term 1"},
		"cut kind on entry":   {with(entry, func(b []byte) { b[8] = kindCut }), "got length 57"},
		"entry too short":     {with(cut, func(b []byte) { b[8] = kindEntry }), "want 50 or more"},
		"extensions too long": {with(entry, func(b []byte) { b[49] = 8 }), "got 8 bytes of extensions, want at most 7"},
		"good then garbage":   {append(bytes.Clone(cut), 1, 2, 3), "offset 37"},
	} {
		t.Run(name, func(t *testing.T) {
			err := walk(c.bytes, func(int, frame) error { return nil })
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want an error with %q", err, c.want)
			}
		})
	}
}

// A record that walks must encode back to itself, and its frames must not hold
// more bytes than it has: they alias it.
func FuzzRecord(f *testing.F) {
	var all []byte
	for _, g := range golden {
		b := unhex(f, g.bytes)
		f.Add(b)
		all = append(all, b...)
		b[0] = 0x7f
		f.Add(b)
	}
	f.Add(all)
	f.Add(all[:len(all)-1])
	f.Fuzz(func(t *testing.T, record []byte) {
		var again []byte
		held := 0
		err := walk(record, func(offset int, f frame) error {
			if offset != len(again) {
				t.Fatalf("offset: got %d, want %d", offset, len(again))
			}
			held += cap(f.data) + cap(f.extensions)
			e := f.entry()
			switch f.kind {
			case kindEntry:
				again = appendEntry(again, f.replica, &e)
			case kindCarry:
				again = appendCarry(again, appendEntry(nil, f.replica, &e))
			default:
				again = appendMark(again, f.kind, f.replica, f.index)
			}
			return nil
		})
		if held > len(record) {
			t.Fatalf("frames hold %d bytes, want at most the record's %d", held, len(record))
		}
		if err == nil && !bytes.Equal(again, record) {
			t.Fatalf("encoded again: got %x, want %x", again, record)
		}
	})
}

func TestParseAllocatesNothing(t *testing.T) {
	frame := appendEntry(nil, replica{1, 1}, entryOf(1, 4, 1, 64<<10))
	if n := testing.AllocsPerRun(10, func() {
		if _, err := parseFrame(frame); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("got %v allocations, want 0", n)
	}
}

func TestCacheIsBoundedInBytes(t *testing.T) {
	c := newCache(1000)
	for seq := uint64(1); seq <= 100; seq++ {
		c.put(seq, make([]byte, 100+seq))
		c.put(seq, make([]byte, 100+seq)) // a second reader that missed
		held := int64(0)
		for _, record := range c.records {
			held += int64(cap(record))
		}
		if held != c.bytes || held > 1000 || len(c.order) != len(c.records) {
			t.Fatalf("after %d: holds %d bytes in %d records, counts %d in %d, want at most 1000",
				seq, held, len(c.records), c.bytes, len(c.order))
		}
		if _, ok := c.get(seq); !ok {
			t.Fatalf("record %d is not cached", seq)
		}
	}
	if _, ok := c.get(1); ok {
		t.Error("record 1 is cached, want it gone")
	}
	c.put(200, make([]byte, 1001))
	if _, ok := c.get(200); ok || c.bytes == 0 {
		t.Error("a record above the limit was cached, want it refused and the others kept")
	}
	c.drop(100)
	c.put(99, make([]byte, 10)) // a reader that was slow
	if len(c.records) != 1 || len(c.order) != 1 || c.bytes != 200 || c.records[100] == nil {
		t.Errorf("after the deletion of all up to 99: %d records of %d bytes, want number 100 of 200 bytes", len(c.records), c.bytes)
	}
}

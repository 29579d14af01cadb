package fsm

import (
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

// TestGoldenRows fixes the layout on disk: what an older version wrote must be
// read by every later one.
func TestGoldenRows(t *testing.T) {
	s := openMem(t)
	m := testMap(t)
	for i, r := range run(catalogueOf(t, s), 1, AppendInit(nil, m), AppendCreateBucket(nil, "users")) {
		if r.Err != nil {
			t.Fatalf("command %d: %v", i, r.Err)
		}
	}
	apply(t, dataOf(t, s, 0x01020304),
		Entry{Index: 5, Term: 3, Command: kv.AppendLead(nil, 0, 0x3fff)},
		Entry{Index: 6, Term: 4, Command: kv.AppendSet(nil, kv.Origin{}, 9, []kv.Pair{{Key: "key", Value: []byte("value")}, {Key: ""}})},
		Entry{Index: 7, Term: 4, Time: 0x0a0b, Command: kv.AppendPiece(nil, kv.Origin{Client: 0x21, Seq: 0x32, Acked: 0x31}, 9, 0, kv.Pair{Key: "key", Value: []byte("aside")})},
		Entry{Index: 8, Term: 4, Command: kv.AppendDrop(nil, 10)})
	want := []string{
		// shard    bucket 0         tag    row
		"00000000 0000000000000000 00 = 01 0000000000000002 0000000000000002 0000000000000000 0000000000000000 00 0000 0000 0000000000000001 0000000000000000",
		"00000000 0000000000000000 01 = " + hex.EncodeToString(m.Append(nil)),
		"00000000 0000000000000000 02 7573657273 = 0000000000000001",
		"01020304 0000000000000000 00 = 01 0000000000000008 0000000000000004 0000000000000003 0000000000000a0b 01 0000 3fff 0000000000000000 0000000000000000",
		//                         tag client                last             index            acked            calls: seq, entries, bytes aside, hash, answers
		"01020304 0000000000000000 08 0000000000000021 = 01 0000000000000a0b 0000000000000007 0000000000000031 01 01 01 05 " + goldenHashKey + " 00",
		//                         tag client           seq              offset
		"01020304 0000000000000000 09 0000000000000021 0000000000000032 0000000000000000 = 6173696465",
		"01020304 0000000000000000 0a 000000000000000a =",
		// shard    bucket           hash             key    version          value
		"01020304 0000000000000009 " + goldenHashEmpty + " = 0000000000000006",
		"01020304 0000000000000009 " + goldenHashKey + " 6b6579 = 0000000000000006 76616c7565",
	}
	slices.Sort(want) // the two pairs are in hash order
	got := dump(t, s)
	if len(got) != len(want) {
		t.Fatalf("%d rows, want %d:\n%s", len(got), len(want), strings.Join(got, "\n"))
	}
	for i := range got {
		key, value, _ := strings.Cut(want[i], " =")
		if w := strings.ReplaceAll(key, " ", "") + " = " + strings.ReplaceAll(value, " ", ""); got[i] != w {
			t.Errorf("row %d is\n%s, want\n%s", i, got[i], w)
		}
	}
}

// The hashes of the keys "" and "key" of bucket 9: xxhash64, seed 0.
const (
	goldenHashEmpty = "4484807364d1d52b"
	goldenHashKey   = "4646c7d8d37d437b"
)

var goldenRecord = record{
	Position:   Position{Index: 0x0102, Term: 3, LeadTerm: 2},
	time:       0x5005,
	owns:       true,
	owned:      sharding.Range{First: 0x10, Last: 0x2000},
	lastBucket: 7,
	lastClient: 0x0809,
}

const goldenRecordBytes = "01" + "0000000000000102" + "0000000000000003" + "0000000000000002" + "0000000000005005" + "01" + "0010" + "2000" + "0000000000000007" + "0000000000000809"

func TestGoldenRecord(t *testing.T) {
	if got := hex.EncodeToString(goldenRecord.append(nil)); got != goldenRecordBytes {
		t.Errorf("the record is %s, want %s", got, goldenRecordBytes)
	}
	b, err := hex.DecodeString(goldenRecordBytes)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := decodeRecord(b); err != nil || got != goldenRecord {
		t.Errorf("decoded %+v (%v), want %+v", got, err, goldenRecord)
	}
}

func FuzzDecodeRecord(f *testing.F) {
	good := goldenRecord.append(nil)
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add(append([]byte{recordFormat + 1}, good[1:]...))
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeRecord(b)
		if err != nil {
			if !errors.Is(err, kv.ErrMalformed) {
				t.Errorf("got %v, want %v", err, kv.ErrMalformed)
			}
			return
		}
		if again := r.append(nil); !slices.Equal(again, b) {
			t.Errorf("%x decodes to what encodes as %x", b, again)
		}
	})
}

// TestUnreadableRows: rows that no version has written stop the opening of a
// machine, or the read, and are not taken for something else.
func TestUnreadableRows(t *testing.T) {
	s := openMem(t)
	put := func(key, value []byte) {
		t.Helper()
		if err := s.db.Set(key, value, pebble.NoSync); err != nil {
			t.Fatal(err)
		}
	}
	put(rowKey(7, tagRecord, ""), []byte{recordFormat + 1})
	if _, err := s.Data(7); !errors.Is(err, kv.ErrMalformed) {
		t.Errorf("a record of another format: %v, want %v", err, kv.ErrMalformed)
	}
	put(rowKey(sharding.Meta, tagMap, ""), []byte{99})
	if _, err := s.Catalogue(); !errors.Is(err, kv.ErrMalformed) {
		t.Errorf("a map of another format: %v, want %v", err, kv.ErrMalformed)
	}
	put(rowKey(sharding.Meta, tagMap, ""), testMap(t).Append(nil))
	put(rowKey(sharding.Meta, tagBucket, "short"), []byte{1})
	if id, ok, err := catalogueOf(t, s).Bucket("short"); err == nil {
		t.Errorf("a short bucket row is id %d, %v", id, ok)
	}
	put(numberedKey(8, tagDropped, 5)[:rowBytes+7], nil)
	if _, err := s.Data(8); err == nil {
		t.Error("a dropped bucket of seven bytes was read")
	}
	put(numberedKey(9, tagSession, 5)[:rowBytes+7], new(session).append(nil))
	if _, err := s.Data(9); err == nil {
		t.Error("a session of a client of seven bytes was read")
	}
	put(append(appendBucketPrefix(nil, 1, 2), 1), nil)
	if keys, _, err := dataOf(t, s, 1).List(2, 0, 10, 10); err == nil {
		t.Errorf("a pair without a hash was listed as %q", keys)
	}
	put(appendPairKey(nil, 1, 1, sharding.HashString(1, "k"), "k"), []byte("short"))
	err := dataOf(t, s, 1).Get(1, []string{"k"}, func(_ int, value []byte, _ uint64, _ bool) error {
		t.Errorf("a short pair is %q", value)
		return nil
	})
	if err == nil {
		t.Error("a short pair gave no error")
	}
}

func TestSuccessor(t *testing.T) {
	for _, c := range []struct{ prefix, want string }{
		{"\x00\x00", "\x00\x01"}, {"a", "b"}, {"a\xff\xff", "b"}, {"\x00\xff", "\x01"}, {"\xff", ""}, {"", ""},
	} {
		if got := successor([]byte(c.prefix)); string(got) != c.want {
			t.Errorf("after %q comes %q, want %q", c.prefix, got, c.want)
		}
	}
}

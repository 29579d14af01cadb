package kv_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/manykv/manykv/kv"
)

const bucket = 0x0102030405060708

// commands are the golden bytes of every kind: what is in the log must be read
// by all later versions.
var commands = []struct {
	name, bytes string
	made        []byte
	kind        kv.Kind
	read        string // what DecodeWrite and Next make of it
}{
	{
		"set two pairs", "01 01 0102030405060708 02  0161 0131  02c3a9 03 00ff80",
		kv.AppendSet(nil, bucket, []kv.Pair{{Key: "a", Value: []byte("1")}, {Key: "é", Value: []byte{0, 0xff, 0x80}}}),
		kv.KindSet, `"a"="1" "é"="\x00\xff\x80"`,
	},
	{
		"set the empty key to nothing", "01 01 0102030405060708 01  00 00",
		kv.AppendSet(nil, bucket, []kv.Pair{{}}),
		kv.KindSet, `""=""`,
	},
	{
		"set no pairs", "01 01 0102030405060708 00",
		kv.AppendSet(nil, bucket, nil),
		kv.KindSet, ``,
	},
	{
		"delete two keys", "01 02 0102030405060708 02  0161 00",
		kv.AppendDelete(nil, bucket, []string{"a", ""}),
		kv.KindDelete, `"a" ""`,
	},
	{
		"delete no keys", "01 02 0102030405060708 00",
		kv.AppendDelete(nil, bucket, nil),
		kv.KindDelete, ``,
	},
	{"lead", "01 03 0aab 1fff", kv.AppendLead(nil, 0x0aab, 0x1fff), kv.KindLead, ""},
	{"init", "01 10", kv.AppendHeader(nil, kv.KindInit), kv.KindInit, ""},
	{"create bucket", "01 11", kv.AppendHeader(nil, kv.KindCreateBucket), kv.KindCreateBucket, ""},
	{"node address", "01 12", kv.AppendHeader(nil, kv.KindNodeAddr), kv.KindNodeAddr, ""},
}

// readWrite prints the rest of a write.
func readWrite(w *kv.Write) (string, error) {
	var items []string
	for {
		key, value, ok := w.Next()
		if !ok {
			return strings.Join(items, " "), w.Err()
		}
		item := fmt.Sprintf("%q", key)
		if w.Kind == kv.KindSet {
			item += fmt.Sprintf("=%q", value)
		}
		items = append(items, item)
	}
}

func TestCommandsHaveGoldenBytes(t *testing.T) {
	for _, c := range commands {
		t.Run(c.name, func(t *testing.T) {
			want := golden(t, c.bytes)
			if !bytes.Equal(c.made, want) {
				t.Errorf("made %x, want %x", c.made, want)
			}
			kind, body, err := kv.Header(want)
			if err != nil || kind != c.kind || body.Left() != len(want)-2 {
				t.Fatalf("header: kind %d, %v, want kind %d and the body after it", kind, err, c.kind)
			}
			w, err := kv.DecodeWrite(want)
			if c.kind != kv.KindSet && c.kind != kv.KindDelete {
				wantText := fmt.Sprintf("malformed: command kind %d, want set or delete", c.kind)
				if !errors.Is(err, kv.ErrMalformed) || err.Error() != wantText {
					t.Fatalf("as a write: %v, want %q", err, wantText)
				}
				return
			}
			if err != nil || w.Kind != c.kind || w.Bucket != bucket {
				t.Fatalf("as a write: kind %d of bucket %x, %v, want kind %d of bucket %x", w.Kind, w.Bucket, err, c.kind, bucket)
			}
			if got, err := readWrite(&w); err != nil || got != c.read {
				t.Errorf("read %s, %v, want %s", got, err, c.read)
			}
		})
	}
}

func TestLeadNamesItsSlots(t *testing.T) {
	_, body, err := kv.Header(kv.AppendLead(nil, 0x0aab, 0x1fff))
	if err != nil {
		t.Fatal(err)
	}
	first, last := body.U16(), body.U16()
	if err := body.Finish(); err != nil || first != 0x0aab || last != 0x1fff {
		t.Errorf("slots %#x to %#x, %v, want 0xaab to 0x1fff", first, last, err)
	}
}

func TestCommandsAreRefused(t *testing.T) {
	for _, c := range []struct{ name, bytes, want string }{
		{"nothing", "", "malformed at byte 0 of 0: u8 needs 1 bytes, 0 are left"},
		{"no kind", "01", "malformed at byte 1 of 1: u8 needs 1 bytes, 0 are left"},
		{"version 0", "00 01", "malformed: command version 0, want 1"},
		{"a later version", "02 01 00", "malformed: command version 2, want 1"},
		{"kind 0", "01 00", "malformed: command kind 0, want set or delete"},
		{"an unknown kind", "01 ff", "malformed: command kind 255, want set or delete"},
		{"a bucket cut short", "01 01 01020304", "malformed at byte 2 of 6: u64 needs 8 bytes, 4 are left"},
		{"no count", "01 02 0102030405060708", "malformed at byte 10 of 10: a varint does not end or overflows"},
		{"more pairs than fit", "01 01 0102030405060708 02 000000", "malformed at byte 11 of 14: 2 items of at least 2 bytes, 3 bytes are left"},
		{"more keys than fit", "01 02 0102030405060708 03 0000", "malformed at byte 11 of 13: 3 items of at least 1 bytes, 2 bytes are left"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := kv.DecodeWrite(golden(t, c.bytes))
			if !errors.Is(err, kv.ErrMalformed) || err.Error() != c.want {
				t.Errorf("got error %v, want %q", err, c.want)
			}
		})
	}
}

// What the start of a write does not show must come out of Err after Next.
func TestWritesThatEndBadly(t *testing.T) {
	for _, c := range []struct{ name, bytes, read, want string }{
		{"a pair without value", "01 01 0102030405060708 02  00 00  03 616263", `""=""`, "malformed at byte 17 of 17: a varint does not end or overflows"},
		{"a value cut short", "01 01 0102030405060708 01  0161 02 31", ``, "malformed at byte 14 of 15: a string of 2 bytes, 1 are left"},
		{"a key cut short", "01 02 0102030405060708 01  02 61", ``, "malformed at byte 12 of 13: a string of 2 bytes, 1 are left"},
		{"bytes left over", "01 02 0102030405060708 01  0161 00", `"a"`, "malformed at byte 13 of 14: 1 bytes are left over"},
	} {
		t.Run(c.name, func(t *testing.T) {
			command := golden(t, c.bytes)
			w, err := kv.DecodeWrite(command)
			if err != nil {
				t.Fatal(err)
			}
			got, err := readWrite(&w)
			if got != c.read || !errors.Is(err, kv.ErrMalformed) || err.Error() != c.want {
				t.Errorf("read %s with error %v, want %s and %q", got, err, c.read, c.want)
			}
			if _, _, ok := w.Next(); ok {
				t.Error("a write that ended goes on")
			}
			_, err = kv.Limits{}.WithDefaults().CheckWrite(command)
			if !errors.Is(err, kv.ErrInvalid) || err.Error() != "invalid: "+c.want {
				t.Errorf("checked: %v, want invalid: %s", err, c.want)
			}
		})
	}
}

func TestCheckWriteHoldsEveryLimit(t *testing.T) {
	limits := kv.Limits{KeyBytes: 4, ValueBytes: 8, BatchKeys: 3, BatchBytes: 20}.WithDefaults()
	text := func(n int) string { return strings.Repeat("x", n) }
	set := func(pairs ...string) []byte {
		var ps []kv.Pair
		for _, p := range pairs {
			key, value, _ := strings.Cut(p, "=")
			ps = append(ps, kv.Pair{Key: key, Value: []byte(value)})
		}
		return kv.AppendSet(nil, bucket, ps)
	}
	del := func(keys ...string) []byte { return kv.AppendDelete(nil, bucket, keys) }
	for _, c := range []struct {
		name    string
		command []byte
		want    error
	}{
		{"longest key", set(text(4) + "=v"), nil},
		{"longest key deleted", del(text(4)), nil},
		{"key one too long", set(text(5) + "=v"), kv.ErrTooLarge},
		{"key one too long deleted", del("a", text(5)), kv.ErrTooLarge},
		{"largest value", set("k=" + text(8)), nil},
		{"value one too large", set("k=" + text(9)), kv.ErrTooLarge},
		{"most keys", set("a=1", "b=2", "c=3"), nil},
		{"most keys deleted", del("a", "b", "c"), nil},
		{"one key too many", set("a=1", "b=2", "c=3", "d=4"), kv.ErrTooLarge},
		{"one key too many deleted", del("a", "b", "c", "d"), kv.ErrTooLarge},
		{"most bytes", set("a="+text(8), "b="+text(8), "cc="), nil},
		{"one byte too many", set("a="+text(8), "b="+text(8), "ccc="), kv.ErrTooLarge},
		{"empty key", set("=v"), nil},
		{"no keys", del(), nil},
		{"key not UTF-8", set("a\xff=v"), kv.ErrInvalid},
		{"key not UTF-8 deleted", del("\xc3"), kv.ErrInvalid},
		{"value of any bytes", set("k=\xff\x00"), nil},
		{"another kind", kv.AppendLead(nil, 0, 1), kv.ErrInvalid},
		{"another version", []byte{2, 1}, kv.ErrInvalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, err := limits.CheckWrite(c.command)
			if !errors.Is(err, c.want) {
				t.Fatalf("got error %v, want %v", err, c.want)
			}
			if err != nil {
				return
			}
			n := 0 // the checked write is handed out unread
			for _, _, ok := w.Next(); ok; _, _, ok = w.Next() {
				n++
			}
			if n != w.Count || w.Err() != nil {
				t.Errorf("read %d of %d keys of a checked write: %v", n, w.Count, w.Err())
			}
		})
	}
}

func TestCheckWriteHoldsTheCommandsOwnLimit(t *testing.T) {
	limits := kv.Limits{}.WithDefaults()
	half := make([]byte, kv.MaxCommandBytes/2)
	bare := len(kv.AppendSet(nil, bucket, []kv.Pair{{Value: half}, {Value: half[:len(half)/2+1]}}))
	rest := len(half)/2 + 1 + kv.MaxCommandBytes - bare // fills a command to its limit

	command := kv.AppendSet(nil, bucket, []kv.Pair{{Value: half}, {Value: half[:rest]}})
	if _, err := limits.CheckWrite(command); err != nil || len(command) != kv.MaxCommandBytes {
		t.Errorf("a command of %d bytes: %v, want %d bytes to be allowed", len(command), err, kv.MaxCommandBytes)
	}
	command = kv.AppendSet(nil, bucket, []kv.Pair{{Value: half}, {Value: half[:rest+1]}})
	if _, err := limits.CheckWrite(command); !errors.Is(err, kv.ErrTooLarge) {
		t.Errorf("a command of %d bytes: %v, want %v", len(command), err, kv.ErrTooLarge)
	}
}

func TestWritesComeBack(t *testing.T) {
	pairs := rapid.SliceOf(rapid.Custom(func(t *rapid.T) kv.Pair {
		return kv.Pair{Key: rapid.String().Draw(t, "key"), Value: rapid.SliceOf(rapid.Byte()).Draw(t, "value")}
	}))
	rapid.Check(t, func(t *rapid.T) {
		in, of := pairs.Draw(t, "pairs"), rapid.Uint64().Draw(t, "bucket")
		keys := make([]string, len(in))
		for i := range in {
			keys[i] = in[i].Key
		}
		for _, c := range []struct {
			command []byte
			kind    kv.Kind
		}{
			{kv.AppendSet(nil, of, in), kv.KindSet},
			{kv.AppendDelete(nil, of, keys), kv.KindDelete},
		} {
			w, err := kv.Limits{}.WithDefaults().CheckWrite(c.command)
			if err != nil || w.Kind != c.kind || w.Bucket != of || w.Count != len(in) {
				t.Fatalf("kind %d of bucket %d with %d keys, %v, want kind %d of bucket %d with %d keys",
					w.Kind, w.Bucket, w.Count, err, c.kind, of, len(in))
			}
			for i := range in {
				key, value, ok := w.Next()
				want := in[i].Value
				if c.kind == kv.KindDelete {
					want = nil
				}
				if !ok || string(key) != in[i].Key || !bytes.Equal(value, want) {
					t.Fatalf("key %d is %q=%x, %v, want %q=%x", i, key, value, ok, in[i].Key, want)
				}
			}
			if _, _, ok := w.Next(); ok || w.Err() != nil {
				t.Fatalf("the write goes on after its last key: %v", w.Err())
			}
		}
	})
}

// FuzzCommand feeds any bytes to what reads the log and the wire: no panic, the
// same answer twice, a checked write reads to its end, and what was read makes,
// appended again, a command that reads alike and is no longer.
func FuzzCommand(f *testing.F) {
	for _, c := range commands {
		f.Add(golden(f, c.bytes))
	}
	f.Add(golden(f, "01 01 0102030405060708 ffffffffffffffffff01 00"))
	f.Add(golden(f, "01 02 0102030405060708 8100 8000")) // varints longer than need be
	f.Fuzz(func(t *testing.T, command []byte) {
		limits := kv.Limits{KeyBytes: 64, ValueBytes: 1 << 10, BatchKeys: 100}.WithDefaults()
		w, err := limits.CheckWrite(slices.Clone(command))
		if _, again := limits.CheckWrite(command); fmt.Sprint(again) != fmt.Sprint(err) {
			t.Fatalf("checked twice: %v, then %v", err, again)
		}
		if err != nil {
			if !errors.Is(err, kv.ErrInvalid) && !errors.Is(err, kv.ErrTooLarge) {
				t.Fatalf("refused with %v, want %v or %v", err, kv.ErrInvalid, kv.ErrTooLarge)
			}
			return
		}
		var pairs []kv.Pair
		var keys []string
		for key, value, ok := w.Next(); ok; key, value, ok = w.Next() {
			pairs = append(pairs, kv.Pair{Key: string(key), Value: value})
			keys = append(keys, string(key))
		}
		if len(keys) != w.Count || w.Err() != nil {
			t.Fatalf("a checked write gave %d of %d keys: %v", len(keys), w.Count, w.Err())
		}
		again := kv.AppendDelete(nil, w.Bucket, keys)
		if w.Kind == kv.KindSet {
			again = kv.AppendSet(nil, w.Bucket, pairs)
		}
		if len(again) > len(command) || len(again) == len(command) && !bytes.Equal(again, command) {
			t.Fatalf("appended again: %x, was %x", again, command)
		}
		first, err1 := kv.DecodeWrite(command)
		second, err2 := kv.DecodeWrite(again)
		text1, end1 := readWrite(&first)
		text2, end2 := readWrite(&second)
		if err := errors.Join(err1, err2, end1, end2); err != nil || text1 != text2 {
			t.Fatalf("read %s, then %s: %v", text1, text2, err)
		}
	})
}

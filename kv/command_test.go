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

// origin is the one of the golden commands, and originBytes it and the bucket.
var origin = kv.Origin{Client: 0x11, Seq: 0x22, Acked: 0x21, Entry: 3}

const originBytes = "0000000000000011 0000000000000022 0000000000000021 00000003 0102030405060708 "

// large is the pair of which piece and last commands have bytes.
var large = kv.Pair{Key: "é", Value: []byte{0, 0xff}}

// commands are the golden bytes of every kind: what is in the log must be read
// by all later versions.
var commands = []struct {
	name, bytes string
	made        []byte
	kind        kv.Kind
	read        string // what DecodeWrite and Next make of it; "" for one that no client sends
}{
	{
		"set two pairs", "02 01 " + originBytes + "02  0161 0131  02c3a9 03 00ff80",
		kv.AppendSet(nil, origin, bucket, []kv.Pair{{Key: "a", Value: []byte("1")}, {Key: "é", Value: []byte{0, 0xff, 0x80}}}),
		kv.KindSet, `2 of 0: "a"="1" "é"="\x00\xff\x80"`,
	},
	{
		"set the empty key to nothing", "02 01 " + originBytes + "01  00 00",
		kv.AppendSet(nil, origin, bucket, []kv.Pair{{}}),
		kv.KindSet, `1 of 0: ""=""`,
	},
	{
		"set no pairs", "02 01 " + originBytes + "00",
		kv.AppendSet(nil, origin, bucket, nil),
		kv.KindSet, `0 of 0:`,
	},
	{
		"delete two keys", "02 02 " + originBytes + "02  0161 00",
		kv.AppendDelete(nil, origin, bucket, []string{"a", ""}),
		kv.KindDelete, `2 of 0: "a" ""`,
	},
	{
		"delete no keys", "02 02 " + originBytes + "00",
		kv.AppendDelete(nil, origin, bucket, nil),
		kv.KindDelete, `0 of 0:`,
	},
	{
		"increment", "02 04 " + originBytes + "0000000000000102 02c3a9",
		kv.AppendIncrement(nil, origin, bucket, "é", 0x102),
		kv.KindIncrement, `1 of 0: delta 258 "é"`,
	},
	{
		"decrement the empty key", "02 04 " + originBytes + "fffffffffffffffe 00",
		kv.AppendIncrement(nil, origin, bucket, "", -2),
		kv.KindIncrement, `1 of 0: delta -2 ""`,
	},
	{
		"swap", "02 05 " + originBytes + "0000000000000304 02c3a9 02 00ff",
		kv.AppendSwap(nil, origin, bucket, 0x304, large),
		kv.KindSwap, `1 of 0: version 772 "é"="\x00\xff"`,
	},
	{
		"piece", "02 06 " + originBytes + "0000000000000506 02c3a9 02 00ff",
		kv.AppendPiece(nil, origin, bucket, 0x506, large),
		kv.KindPiece, `1 of 1286: "é"="\x00\xff"`,
	},
	{
		"last", "02 07 " + originBytes + "0000000000000506 00 0000000000000000 02c3a9 02 00ff",
		kv.AppendLast(nil, origin, bucket, 0x506, false, 0, large),
		kv.KindLast, `1 of 1286: "é"="\x00\xff"`,
	},
	{
		"last that swaps", "02 07 " + originBytes + "0000000000000506 01 0000000000000304 02c3a9 02 00ff",
		kv.AppendLast(nil, origin, bucket, 0x506, true, 0x304, large),
		kv.KindLast, `1 of 1286: version 772 swaps "é"="\x00\xff"`,
	},
	{"lead", "02 03 0aab 1fff", kv.AppendLead(nil, 0x0aab, 0x1fff), kv.KindLead, ""},
	{"drop", "02 08 0102030405060708", kv.AppendDrop(nil, bucket), kv.KindDrop, ""},
	{
		"bundle of a set and a delete", "02 09 02  29 02 01 " + originBytes + "01 00 00" + "  28 02 02 " + originBytes + "01 00",
		kv.AppendBundle(nil, [][]byte{kv.AppendSet(nil, origin, bucket, []kv.Pair{{}}), kv.AppendDelete(nil, origin, bucket, []string{""})}),
		kv.KindBundle, "",
	},
	{"init", "02 10", kv.AppendHeader(nil, kv.KindInit), kv.KindInit, ""},
	{"create bucket", "02 11", kv.AppendHeader(nil, kv.KindCreateBucket), kv.KindCreateBucket, ""},
	{"node address", "02 12", kv.AppendHeader(nil, kv.KindNodeAddr), kv.KindNodeAddr, ""},
	{"add node", "02 13", kv.AppendHeader(nil, kv.KindAddNode), kv.KindAddNode, ""},
	{"remove node", "02 14", kv.AppendHeader(nil, kv.KindRemoveNode), kv.KindRemoveNode, ""},
	{"replace node", "02 15", kv.AppendHeader(nil, kv.KindReplaceNode), kv.KindReplaceNode, ""},
	{"move", "02 16", kv.AppendHeader(nil, kv.KindMove), kv.KindMove, ""},
	{"moved", "02 17", kv.AppendHeader(nil, kv.KindMoved), kv.KindMoved, ""},
	{"forget node", "02 18", kv.AppendHeader(nil, kv.KindForgetNode), kv.KindForgetNode, ""},
	{"delete bucket", "02 19", kv.AppendHeader(nil, kv.KindDeleteBucket), kv.KindDeleteBucket, ""},
	{"dropped", "02 1a", kv.AppendHeader(nil, kv.KindDropped), kv.KindDropped, ""},
	{"new client", "02 1b", kv.AppendHeader(nil, kv.KindNewClient), kv.KindNewClient, ""},
	{"abort", "02 1c", kv.AppendHeader(nil, kv.KindAbort), kv.KindAbort, ""},
}

// readWrite prints a write: count and offset, numbers that are not 0, and its
// keys, with values if the kind has some.
func readWrite(w *kv.Write) (string, error) {
	items := []string{fmt.Sprintf("%d of %d:", w.Count, w.Offset)}
	if w.Delta != 0 {
		items = append(items, fmt.Sprintf("delta %d", w.Delta))
	}
	if w.Version != 0 {
		items = append(items, fmt.Sprintf("version %d", w.Version))
	}
	if w.Swaps {
		items = append(items, "swaps")
	}
	for {
		key, value, ok := w.Next()
		if !ok {
			return strings.Join(items, " "), w.Err()
		}
		item := fmt.Sprintf("%q", key)
		if w.Kind != kv.KindDelete && w.Kind != kv.KindIncrement {
			item += fmt.Sprintf("=%q", value)
		} else if value != nil {
			item += "=something"
		}
		items = append(items, item)
	}
}

func TestCommandsHaveGoldenBytes(t *testing.T) {
	kinds := make(map[kv.Kind]bool)
	for _, c := range commands {
		kinds[c.kind] = true
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
			if c.read == "" {
				wantText := fmt.Sprintf("malformed: command kind %d, want a client's write", c.kind)
				if !errors.Is(err, kv.ErrMalformed) || err.Error() != wantText {
					t.Fatalf("as a write: %v, want %q", err, wantText)
				}
				return
			}
			if err != nil || w.Kind != c.kind || w.Bucket != bucket || w.Origin != origin {
				t.Fatalf("as a write: kind %d of bucket %x from %+v, %v, want kind %d of bucket %x from %+v",
					w.Kind, w.Bucket, w.Origin, err, c.kind, bucket, origin)
			}
			if got, err := readWrite(&w); err != nil || got != c.read {
				t.Errorf("read %s, %v, want %s", got, err, c.read)
			}
			if _, err := (kv.Limits{}).WithDefaults().CheckWrite(want); err != nil {
				t.Errorf("checked: %v", err)
			}
		})
	}
	if len(kinds) != 9+13 {
		t.Errorf("%d kinds have golden bytes, want all of 9 and 13", len(kinds))
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

func TestBundlesAreReadBack(t *testing.T) {
	for n := range 4 {
		commands := [][]byte{kv.AppendDelete(nil, origin, bucket, nil)}
		size := len(commands[0])
		for i := range n {
			commands = append(commands, kv.AppendSet(nil, origin, bucket, []kv.Pair{{Key: fmt.Sprint(i)}}))
			size += len(commands[i])
		}
		made := kv.AppendBundle(nil, commands)
		got, err := kv.DecodeBundle(made)
		if err != nil || !slices.EqualFunc(got, commands, bytes.Equal) || len(made) > kv.BundleBytes(len(commands), size) {
			t.Errorf("a bundle of %d commands: %x, %v, in %d bytes, want %x in at most %d", len(commands), got, err, len(made), commands, kv.BundleBytes(len(commands), size))
		}
	}
}

func TestWhatBundles(t *testing.T) {
	one := everyKind(origin, bucket, kv.Pair{Key: "k"})
	for a := range one {
		for b := range one {
			want := a <= kv.KindDelete && b <= kv.KindDelete
			if got := kv.BundlesWith(one[a], one[b]); got != want {
				t.Errorf("kinds %d and %d: %v, want %v", a, b, got, want)
			}
		}
	}
	other := kv.AppendSet(nil, kv.Origin{Client: origin.Client + 1}, bucket, nil)
	if kv.BundlesWith(one[kv.KindSet], other) || !kv.BundlesWith(other, other) {
		t.Error("want commands of one client to stand in a bundle, not of two")
	}
	if short := other[:9]; kv.BundlesWith(short, short) {
		t.Errorf("%x stands in a bundle", short)
	}
}

func TestBundlesAreRefused(t *testing.T) {
	const (
		del     = "27 02 02 " + originBytes + "00 "
		another = "27 02 02 0000000000000012 0000000000000022 0000000000000021 00000003 0102030405060708 00"
		want    = " of a bundle is of kind %d, want a set or a delete, and one client's"
	)
	for _, c := range []struct{ name, bytes, want string }{
		{"nothing", "", "malformed at byte 0 of 0: u8 needs 1 bytes, 0 are left"},
		{"another kind", "02 01", "malformed: command kind 1, want a bundle"},
		{"no count", "02 09", "malformed at byte 2 of 2: a varint does not end or overflows"},
		{"more commands than fit", "02 09 ffffffffffffffffff01 02 02 01", "malformed at byte 12 of 15: 18446744073709551615 items of at least 11 bytes, 3 bytes are left"},
		{"no commands", "02 09 00", "malformed at byte 3 of 3: a bundle of no commands"},
		{"one command too few", "02 09 02 " + del, "malformed at byte 43 of 43: a varint does not end or overflows"},
		{"bytes left over", "02 09 01 " + del + "00", "malformed at byte 43 of 44: 1 bytes are left over"},
		{"a bundle", "02 09 01 0a 02 09 0000000000000000", "malformed at byte 14 of 14: command 0 of 1" + fmt.Sprintf(want, 9)},
		{"an increment", "02 09 02 " + del + "0a 02 04 0000000000000011", "malformed at byte 54 of 54: command 1 of 2" + fmt.Sprintf(want, 4)},
		{"two clients", "02 09 02 " + del + another, "malformed at byte 83 of 83: command 1 of 2" + fmt.Sprintf(want, 2)},
		{"a command of another version", "02 09 01 0a 01 01 0000000000000000", "malformed at byte 14 of 14: command 0 of 1" + fmt.Sprintf(want, 0)},
		{"a command cut short", "02 09 02 " + del + "09 02 02 00000000000000 00", "malformed at byte 53 of 54: command 1 of 2" + fmt.Sprintf(want, 2)},
		{"an empty command", "02 09 01 00 00000000000000000000", "malformed at byte 4 of 14: command 0 of 1" + fmt.Sprintf(want, 0)},
	} {
		if got, err := kv.DecodeBundle(golden(t, c.bytes)); !errors.Is(err, kv.ErrMalformed) || err.Error() != c.want {
			t.Errorf("%s: got %x, %v, want %q", c.name, got, err, c.want)
		}
	}
	if got, err := kv.DecodeBundle(golden(t, "02 09 01 0a 02 01 0000000000000011")); err != nil || len(got) != 1 {
		t.Errorf("a set that ends badly: got %x, %v, want it unread", got, err)
	}
}

func TestCommandsAreRefused(t *testing.T) {
	for _, c := range []struct{ name, bytes, want string }{
		{"nothing", "", "malformed at byte 0 of 0: u8 needs 1 bytes, 0 are left"},
		{"no kind", "02", "malformed at byte 1 of 1: u8 needs 1 bytes, 0 are left"},
		{"version 0", "00 01", "malformed: command version 0, want 2"},
		{"an earlier version", "01 01 00", "malformed: command version 1, want 2"},
		{"a later version", "03 01 00", "malformed: command version 3, want 2"},
		{"kind 0", "02 00", "malformed: command kind 0, want a client's write"},
		{"a bundle", "02 09 00", "malformed: command kind 9, want a client's write"},
		{"an unknown kind", "02 ff", "malformed: command kind 255, want a client's write"},
		{"no origin", "02 04", "malformed at byte 2 of 2: u64 needs 8 bytes, 0 are left"},
		{"an origin cut short", "02 01 0000000000000011 0000000000000022 0000000000000021 0000", "malformed at byte 26 of 28: u32 needs 4 bytes, 2 are left"},
		{"a bucket cut short", "02 01 0000000000000011 0000000000000022 0000000000000021 00000003 01020304", "malformed at byte 30 of 34: u64 needs 8 bytes, 4 are left"},
		{"no count", "02 02 " + originBytes, "malformed at byte 38 of 38: a varint does not end or overflows"},
		{"more pairs than fit", "02 01 " + originBytes + "02 000000", "malformed at byte 39 of 42: 2 items of at least 2 bytes, 3 bytes are left"},
		{"more keys than fit", "02 02 " + originBytes + "03 0000", "malformed at byte 39 of 41: 3 items of at least 1 bytes, 2 bytes are left"},
		{"a delta cut short", "02 04 " + originBytes + "00000000000000", "malformed at byte 38 of 45: u64 needs 8 bytes, 7 are left"},
		{"a version cut short", "02 05 " + originBytes + "00000000000000", "malformed at byte 38 of 45: u64 needs 8 bytes, 7 are left"},
		{"an offset cut short", "02 06 " + originBytes + "00000000000000", "malformed at byte 38 of 45: u64 needs 8 bytes, 7 are left"},
		{"a flag of 2", "02 07 " + originBytes + "0000000000000506 02 0000000000000000 00 00", "malformed at byte 47 of 57: a flag is 2, want 0 or 1"},
		{"a last one's version cut short", "02 07 " + originBytes + "0000000000000506 01 00000000000000", "malformed at byte 47 of 54: u64 needs 8 bytes, 7 are left"},
	} {
		t.Run(c.name, func(t *testing.T) {
			command := golden(t, c.bytes)
			_, err := kv.DecodeWrite(command)
			if !errors.Is(err, kv.ErrMalformed) || err.Error() != c.want {
				t.Errorf("got error %v, want %q", err, c.want)
			}
			if _, err := (kv.Limits{}).WithDefaults().CheckWrite(command); !errors.Is(err, kv.ErrInvalid) || err.Error() != "invalid: "+c.want {
				t.Errorf("checked: %v, want invalid: %s", err, c.want)
			}
		})
	}
}

// What the start of a write does not show must come out of Err after Next.
func TestWritesThatEndBadly(t *testing.T) {
	for _, c := range []struct{ name, bytes, read, want string }{
		{"a pair without value", "02 01 " + originBytes + "02  00 00  03 616263", `2 of 0: ""=""`, "malformed at byte 45 of 45: a varint does not end or overflows"},
		{"a value cut short", "02 01 " + originBytes + "01  0161 02 31", `1 of 0:`, "malformed at byte 42 of 43: a string of 2 bytes, 1 are left"},
		{"a key cut short", "02 02 " + originBytes + "01  02 61", `1 of 0:`, "malformed at byte 40 of 41: a string of 2 bytes, 1 are left"},
		{"bytes left over", "02 02 " + originBytes + "01  0161 00", `1 of 0: "a"`, "malformed at byte 41 of 42: 1 bytes are left over"},
		{"an increment with a value", "02 04 " + originBytes + "0000000000000001 0161 0131", `1 of 0: delta 1 "a"`, "malformed at byte 48 of 50: 2 bytes are left over"},
		{"an increment without a key", "02 04 " + originBytes + "0000000000000001", `1 of 0: delta 1`, "malformed at byte 46 of 46: a varint does not end or overflows"},
		{"a swap without a value", "02 05 " + originBytes + "0000000000000001 0161", `1 of 0: version 1`, "malformed at byte 48 of 48: a varint does not end or overflows"},
		{"a piece and bytes left over", "02 06 " + originBytes + "0000000000000001 0161 0131 00", `1 of 1: "a"="1"`, "malformed at byte 50 of 51: 1 bytes are left over"},
		{"a last piece cut short", "02 07 " + originBytes + "0000000000000001 00 0000000000000000 0161 0231", `1 of 1:`, "malformed at byte 58 of 59: a string of 2 bytes, 1 are left"},
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

func TestOriginsAreChecked(t *testing.T) {
	const last = 1<<64 - 1
	for _, c := range []struct {
		name string
		o    kv.Origin
		want string // of a set; "" for none
	}{
		{"no session", kv.Origin{}, ""},
		{"no session, and numbers nobody looks at", kv.Origin{Seq: 1, Acked: 9, Entry: 7}, ""},
		{"the first call", kv.Origin{Client: 1, Seq: 1}, ""},
		{"an entry far on", kv.Origin{Client: last, Seq: last, Acked: last - 1, Entry: 1<<32 - 1}, ""},
		{"call 0", kv.Origin{Client: 1}, "invalid: call 0 of a session that has acknowledged 0, want 1 to 1024"},
		{"an acknowledged call", kv.Origin{Client: 1, Seq: 7, Acked: 7}, "invalid: call 7 of a session that has acknowledged 7, want 8 to 1031"},
		{"a call long acknowledged", kv.Origin{Client: 1, Seq: 1, Acked: 7}, "invalid: call 1 of a session that has acknowledged 7, want 8 to 1031"},
		{"most open calls", kv.Origin{Client: 1, Seq: 7 + kv.MaxOpenCalls, Acked: 7}, ""},
		{"one open call more", kv.Origin{Client: 1, Seq: 8 + kv.MaxOpenCalls, Acked: 7}, "invalid: call 1032 of a session that has acknowledged 7, want 8 to 1031"},
	} {
		for kind, command := range everyKind(c.o, bucket, kv.Pair{Key: "k", Value: []byte("v")}) {
			want := c.want
			if c.o.Client == 0 && (kind == kv.KindPiece || kind == kv.KindLast) {
				want = "invalid: a piece of a value without a session"
			}
			_, err := kv.Limits{}.WithDefaults().CheckWrite(command)
			if (err == nil) != (want == "") || err != nil && (!errors.Is(err, kv.ErrInvalid) || err.Error() != want) {
				t.Errorf("%s, kind %d: %v, want %q", c.name, kind, err, want)
			}
		}
	}
}

// everyKind returns a client's command of each kind for a pair.
func everyKind(o kv.Origin, bucket uint64, p kv.Pair) map[kv.Kind][]byte {
	return map[kv.Kind][]byte{
		kv.KindSet:       kv.AppendSet(nil, o, bucket, []kv.Pair{p}),
		kv.KindDelete:    kv.AppendDelete(nil, o, bucket, []string{p.Key}),
		kv.KindIncrement: kv.AppendIncrement(nil, o, bucket, p.Key, 1),
		kv.KindSwap:      kv.AppendSwap(nil, o, bucket, 1, p),
		kv.KindPiece:     kv.AppendPiece(nil, o, bucket, 0, p),
		kv.KindLast:      kv.AppendLast(nil, o, bucket, 0, true, 1, p),
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
		return kv.AppendSet(nil, origin, bucket, ps)
	}
	del := func(keys ...string) []byte { return kv.AppendDelete(nil, origin, bucket, keys) }
	pair := func(keyBytes, valueBytes int) kv.Pair {
		return kv.Pair{Key: text(keyBytes), Value: []byte(text(valueBytes))}
	}
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
		{"longest key incremented", kv.AppendIncrement(nil, origin, bucket, text(4), 1), nil},
		{"key one too long incremented", kv.AppendIncrement(nil, origin, bucket, text(5), 1), kv.ErrTooLarge},
		{"key not UTF-8 incremented", kv.AppendIncrement(nil, origin, bucket, "\xff", 1), kv.ErrInvalid},
		{"largest pair swapped", kv.AppendSwap(nil, origin, bucket, 1, pair(4, 8)), nil},
		{"key one too long swapped", kv.AppendSwap(nil, origin, bucket, 1, pair(5, 8)), kv.ErrTooLarge},
		{"value one too large swapped", kv.AppendSwap(nil, origin, bucket, 1, pair(4, 9)), kv.ErrTooLarge},
		{"piece that ends at the largest value", kv.AppendPiece(nil, origin, bucket, 5, pair(4, 3)), nil},
		{"piece that ends one past it", kv.AppendPiece(nil, origin, bucket, 5, pair(4, 4)), kv.ErrTooLarge},
		{"piece that begins there", kv.AppendPiece(nil, origin, bucket, 8, pair(4, 0)), nil},
		{"piece that begins one past it", kv.AppendPiece(nil, origin, bucket, 9, pair(4, 0)), kv.ErrTooLarge},
		{"piece at the end of all numbers", kv.AppendPiece(nil, origin, bucket, 1<<64-1, pair(4, 1)), kv.ErrTooLarge},
		{"last piece that ends at the largest value", kv.AppendLast(nil, origin, bucket, 5, true, 1, pair(4, 3)), nil},
		{"last piece that ends one past it", kv.AppendLast(nil, origin, bucket, 5, true, 1, pair(4, 4)), kv.ErrTooLarge},
		{"key one too long of a piece", kv.AppendPiece(nil, origin, bucket, 0, pair(5, 1)), kv.ErrTooLarge},
		{"a leader's command", kv.AppendLead(nil, 0, 1), kv.ErrInvalid},
		{"the catalogue's drop", kv.AppendDrop(nil, 1), kv.ErrInvalid},
		{"another version", []byte{1, 1}, kv.ErrInvalid},
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
	bare := len(kv.AppendSet(nil, origin, bucket, []kv.Pair{{Value: half}, {Value: half[:len(half)/2+1]}}))
	rest := len(half)/2 + 1 + kv.MaxCommandBytes - bare // fills a command to its limit

	command := kv.AppendSet(nil, origin, bucket, []kv.Pair{{Value: half}, {Value: half[:rest]}})
	if _, err := limits.CheckWrite(command); err != nil || len(command) != kv.MaxCommandBytes {
		t.Errorf("a command of %d bytes: %v, want %d bytes to be allowed", len(command), err, kv.MaxCommandBytes)
	}
	command = kv.AppendSet(nil, origin, bucket, []kv.Pair{{Value: half}, {Value: half[:rest+1]}})
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
		acked := rapid.Uint64Max(1<<63).Draw(t, "acked")
		o := kv.Origin{
			Client: rapid.Uint64Min(1).Draw(t, "client"), Acked: acked,
			Seq: acked + rapid.Uint64Range(1, kv.MaxOpenCalls).Draw(t, "seq"), Entry: rapid.Uint32().Draw(t, "entry"),
		}
		keys := make([]string, len(in))
		for i := range in {
			keys[i] = in[i].Key
		}
		one := kv.Pair{Key: rapid.String().Draw(t, "key"), Value: rapid.SliceOf(rapid.Byte()).Draw(t, "value")}
		delta, version := rapid.Int64().Draw(t, "delta"), rapid.Uint64().Draw(t, "version")
		offset, swaps := rapid.Uint64Max(1<<20).Draw(t, "offset"), rapid.Bool().Draw(t, "swaps")
		for _, c := range []struct {
			command []byte
			want    kv.Write
			pairs   []kv.Pair
			values  bool
		}{
			{kv.AppendSet(nil, o, of, in), kv.Write{Kind: kv.KindSet}, in, true},
			{kv.AppendDelete(nil, o, of, keys), kv.Write{Kind: kv.KindDelete}, in, false},
			{kv.AppendIncrement(nil, o, of, one.Key, delta), kv.Write{Kind: kv.KindIncrement, Delta: delta}, []kv.Pair{one}, false},
			{kv.AppendSwap(nil, o, of, version, one), kv.Write{Kind: kv.KindSwap, Version: version}, []kv.Pair{one}, true},
			{kv.AppendPiece(nil, o, of, offset, one), kv.Write{Kind: kv.KindPiece, Offset: offset}, []kv.Pair{one}, true},
			{
				kv.AppendLast(nil, o, of, offset, swaps, version, one),
				kv.Write{Kind: kv.KindLast, Offset: offset, Swaps: swaps, Version: version}, []kv.Pair{one}, true,
			},
		} {
			w, err := kv.Limits{}.WithDefaults().CheckWrite(c.command)
			if err != nil {
				t.Fatalf("kind %d: %v", c.want.Kind, err)
			}
			if w.Kind != c.want.Kind || w.Bucket != of || w.Origin != o || w.Count != len(c.pairs) || w.Delta != c.want.Delta ||
				w.Version != c.want.Version || w.Swaps != c.want.Swaps || w.Offset != c.want.Offset {
				t.Fatalf("came back as %+v, want %+v of bucket %d from %+v with %d keys", w, c.want, of, o, len(c.pairs))
			}
			for i, p := range c.pairs {
				key, value, ok := w.Next()
				if !ok || string(key) != p.Key || c.values && !bytes.Equal(value, p.Value) || !c.values && value != nil {
					t.Fatalf("kind %d: key %d is %q=%x, %v, want %q=%x", w.Kind, i, key, value, ok, p.Key, p.Value)
				}
			}
			if _, _, ok := w.Next(); ok || w.Err() != nil {
				t.Fatalf("the write goes on after its last key: %v", w.Err())
			}
		}
	})
}

// again makes a command of what was read of one.
func again(w *kv.Write, pairs []kv.Pair) []byte {
	keys := make([]string, len(pairs))
	for i := range pairs {
		keys[i] = pairs[i].Key
	}
	switch w.Kind {
	case kv.KindSet:
		return kv.AppendSet(nil, w.Origin, w.Bucket, pairs)
	case kv.KindDelete:
		return kv.AppendDelete(nil, w.Origin, w.Bucket, keys)
	case kv.KindIncrement:
		return kv.AppendIncrement(nil, w.Origin, w.Bucket, keys[0], w.Delta)
	case kv.KindSwap:
		return kv.AppendSwap(nil, w.Origin, w.Bucket, w.Version, pairs[0])
	case kv.KindPiece:
		return kv.AppendPiece(nil, w.Origin, w.Bucket, w.Offset, pairs[0])
	default:
		return kv.AppendLast(nil, w.Origin, w.Bucket, w.Offset, w.Swaps, w.Version, pairs[0])
	}
}

// FuzzBundle: what is read from a bundle makes, appended again, one that is no longer
// and reads alike.
func FuzzBundle(f *testing.F) {
	for _, c := range commands {
		f.Add(golden(f, c.bytes))
		f.Add(kv.AppendBundle(nil, [][]byte{golden(f, c.bytes), golden(f, c.bytes)}))
	}
	f.Fuzz(func(t *testing.T, bundle []byte) {
		commands, err := kv.DecodeBundle(bundle)
		if err != nil {
			return
		}
		again := kv.AppendBundle(nil, commands)
		twice, err := kv.DecodeBundle(again)
		if err != nil || len(again) > len(bundle) || !slices.EqualFunc(twice, commands, bytes.Equal) {
			t.Fatalf("%x, appended again %x, reads as %x, %v, want %x", bundle, again, twice, err, commands)
		}
		for _, c := range commands {
			if !kv.BundlesWith(commands[0], c) {
				t.Fatalf("%x is in a bundle with %x", c, commands[0])
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
	f.Add(golden(f, "02 01 "+originBytes+"ffffffffffffffffff01 00"))
	f.Add(golden(f, "02 02 "+originBytes+"8100 8000")) // varints longer than need be
	f.Add(golden(f, "02 06 "+originBytes+"ffffffffffffffff 00 00"))
	f.Fuzz(func(t *testing.T, command []byte) {
		limits := kv.Limits{KeyBytes: 64, ValueBytes: 1 << 10, BatchKeys: 100}.WithDefaults()
		w, err := limits.CheckWrite(slices.Clone(command))
		if _, twice := limits.CheckWrite(command); fmt.Sprint(twice) != fmt.Sprint(err) {
			t.Fatalf("checked twice: %v, then %v", err, twice)
		}
		if err != nil {
			if !errors.Is(err, kv.ErrInvalid) && !errors.Is(err, kv.ErrTooLarge) {
				t.Fatalf("refused with %v, want %v or %v", err, kv.ErrInvalid, kv.ErrTooLarge)
			}
			return
		}
		var pairs []kv.Pair
		for key, value, ok := w.Next(); ok; key, value, ok = w.Next() {
			if len(key) > 64 || w.Offset+uint64(len(value)) > 1<<10 {
				t.Fatalf("a key of %d bytes and a value of %d at %d are past the limits", len(key), len(value), w.Offset)
			}
			pairs = append(pairs, kv.Pair{Key: string(key), Value: value})
		}
		if len(pairs) != w.Count || w.Err() != nil {
			t.Fatalf("a checked write gave %d of %d keys: %v", len(pairs), w.Count, w.Err())
		}
		again := again(&w, pairs)
		if len(again) > len(command) || len(again) == len(command) && !bytes.Equal(again, command) {
			t.Fatalf("appended again: %x, was %x", again, command)
		}
		first, err1 := kv.DecodeWrite(command)
		second, err2 := kv.DecodeWrite(again)
		text1, end1 := readWrite(&first)
		text2, end2 := readWrite(&second)
		if err := errors.Join(err1, err2, end1, end2); err != nil || text1 != text2 || first.Origin != second.Origin {
			t.Fatalf("read %s from %+v, then %s from %+v: %v", text1, first.Origin, text2, second.Origin, err)
		}
	})
}

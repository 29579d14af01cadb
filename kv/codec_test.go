package kv_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"runtime"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/manykv/manykv/kv"
)

// golden turns hex with blanks into bytes.
func golden(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
	if err != nil {
		t.Fatalf("golden bytes %q: %v", text, err)
	}
	return b
}

// primitives are the golden bytes of what every format here is built from.
var primitives = []struct {
	name   string
	bytes  string
	append func(dst []byte) []byte
	read   func(d *kv.Decoder) any
	want   any
}{
	{
		"false", "00",
		func(dst []byte) []byte { return kv.AppendBool(dst, false) },
		func(d *kv.Decoder) any { return d.Bool() }, false,
	},
	{
		"true", "01",
		func(dst []byte) []byte { return kv.AppendBool(dst, true) },
		func(d *kv.Decoder) any { return d.Bool() }, true,
	},
	{
		"u8", "fe",
		func(dst []byte) []byte { return append(dst, 0xfe) },
		func(d *kv.Decoder) any { return d.U8() }, uint8(0xfe),
	},
	{
		"u16", "0102",
		func(dst []byte) []byte { return binary.BigEndian.AppendUint16(dst, 0x0102) },
		func(d *kv.Decoder) any { return d.U16() }, uint16(0x0102),
	},
	{
		"u32", "01020304",
		func(dst []byte) []byte { return binary.BigEndian.AppendUint32(dst, 0x01020304) },
		func(d *kv.Decoder) any { return d.U32() }, uint32(0x01020304),
	},
	{
		"u64", "0102030405060708",
		func(dst []byte) []byte { return binary.BigEndian.AppendUint64(dst, 0x0102030405060708) },
		func(d *kv.Decoder) any { return d.U64() }, uint64(0x0102030405060708),
	},
	{
		"varint of one byte", "7f",
		func(dst []byte) []byte { return binary.AppendUvarint(dst, 127) },
		func(d *kv.Decoder) any { return d.Uvarint() }, uint64(127),
	},
	{
		"varint of two bytes", "ac02",
		func(dst []byte) []byte { return binary.AppendUvarint(dst, 300) },
		func(d *kv.Decoder) any { return d.Uvarint() }, uint64(300),
	},
	{
		"the largest varint", "ffffffffffffffffff01",
		func(dst []byte) []byte { return binary.AppendUvarint(dst, 1<<64-1) },
		func(d *kv.Decoder) any { return d.Uvarint() }, uint64(1<<64 - 1),
	},
	{
		"bytes", "03 000102",
		func(dst []byte) []byte { return kv.AppendBytes(dst, []byte{0, 1, 2}) },
		func(d *kv.Decoder) any { return string(d.Bytes()) }, "\x00\x01\x02",
	},
	{
		"no bytes", "00",
		func(dst []byte) []byte { return kv.AppendBytes(dst, nil) },
		func(d *kv.Decoder) any { return string(d.Bytes()) }, "",
	},
	{
		"string", "03 e282ac",
		func(dst []byte) []byte { return kv.AppendString(dst, "€") },
		func(d *kv.Decoder) any { return d.String() }, "€",
	},
	{
		"keys", "03 0161 00 026263",
		func(dst []byte) []byte { return kv.AppendKeys(dst, []string{"a", "", "bc"}) },
		func(d *kv.Decoder) any { return strings.Join(d.Keys(), "|") }, "a||bc",
	},
	{
		"no keys", "00",
		func(dst []byte) []byte { return kv.AppendKeys(dst, nil) },
		func(d *kv.Decoder) any { return len(d.Keys()) }, 0,
	},
	{
		"count", "02 ffff",
		func(dst []byte) []byte { return append(dst, 2, 0xff, 0xff) },
		func(d *kv.Decoder) any { return []any{d.Count(1), string(d.Rest())}[0] }, 2,
	},
	{
		"block", "00000003 000102",
		func(dst []byte) []byte { return append(binary.BigEndian.AppendUint32(dst, 3), 0, 1, 2) },
		func(d *kv.Decoder) any { return string(d.Take32()) }, "\x00\x01\x02",
	},
	{
		"rest", "0900",
		func(dst []byte) []byte { return append(dst, 9, 0) },
		func(d *kv.Decoder) any { return string(d.Rest()) }, "\x09\x00",
	},
}

func TestPrimitivesHaveGoldenBytes(t *testing.T) {
	for _, p := range primitives {
		t.Run(p.name, func(t *testing.T) {
			want := golden(t, p.bytes)
			if got := p.append([]byte("before")); !bytes.Equal(got, append([]byte("before"), want...)) {
				t.Errorf("appended %x after \"before\", want %x", got, want)
			}
			d := kv.NewDecoder(want)
			if got := p.read(d); got != p.want {
				t.Errorf("read %v, want %v", got, p.want)
			}
			if err := d.Finish(); err != nil {
				t.Errorf("finish: %v", err)
			}
		})
	}
}

// Every primitive that holds something refuses to be cut short anywhere, and
// answers zero values from then on.
func TestCutPrimitivesAreMalformed(t *testing.T) {
	for _, p := range primitives {
		whole := golden(t, p.bytes)
		if p.name == "rest" { // has no end of its own
			continue
		}
		for n := range whole {
			d := kv.NewDecoder(whole[:n])
			p.read(d)
			if err := d.Finish(); !errors.Is(err, kv.ErrMalformed) {
				t.Errorf("%s cut to %d of %d bytes: %v, want %v", p.name, n, len(whole), err, kv.ErrMalformed)
			}
		}
	}
}

func TestDecoderRefuses(t *testing.T) {
	for _, c := range []struct {
		name, bytes string
		read        func(d *kv.Decoder)
		want        string
	}{
		{"a flag of 2", "02", func(d *kv.Decoder) { d.Bool() }, "malformed at byte 1 of 1: a flag is 2, want 0 or 1"},
		{"bytes left over", "0102", func(d *kv.Decoder) { d.U8() }, "malformed at byte 1 of 2: 1 bytes are left over"},
		{"a varint that does not end", "ffff", func(d *kv.Decoder) { d.Uvarint() }, "malformed at byte 0 of 2: a varint does not end or overflows"},
		{"a varint of 65 bits", "ffffffffffffffffff02", func(d *kv.Decoder) { d.Uvarint() }, "malformed at byte 0 of 10: a varint does not end or overflows"},
		{"a string longer than the input", "0361", func(d *kv.Decoder) { d.Bytes() }, "malformed at byte 1 of 2: a string of 3 bytes, 1 are left"},
		{"a string of 2^64-1 bytes", "ffffffffffffffffff01", func(d *kv.Decoder) { d.Bytes() }, "malformed at byte 10 of 10: a string of 18446744073709551615 bytes, 0 are left"},
		{"a block longer than the input", "00000003 6161", func(d *kv.Decoder) { d.Take32() }, "malformed at byte 4 of 6: a block of 3 bytes, 2 are left"},
		{"a block of 2^32-1 bytes", "ffffffff", func(d *kv.Decoder) { d.Take32() }, "malformed at byte 4 of 4: a block of 4294967295 bytes, 0 are left"},
		{"more items than fit", "03 0000000000", func(d *kv.Decoder) { d.Count(2) }, "malformed at byte 1 of 6: 3 items of at least 2 bytes, 5 bytes are left"},
		{"a caller's own check", "01", func(d *kv.Decoder) { d.Fail("op %d", d.U8()) }, "malformed at byte 1 of 1: op 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := kv.NewDecoder(golden(t, c.bytes))
			c.read(d)
			err := d.Finish()
			if !errors.Is(err, kv.ErrMalformed) || err.Error() != c.want {
				t.Fatalf("got error %v, want %q", err, c.want)
			}
			if d.Left() != 0 || d.U8() != 0 || d.U64() != 0 || d.Bool() || d.Uvarint() != 0 || d.Count(1) != 0 ||
				d.Bytes() != nil || d.Take32() != nil || d.String() != "" || d.Keys() != nil || d.Rest() != nil {
				t.Error("a failed decoder still reads something")
			}
			if d.Err() != err || d.Finish() != err { // the very same error must stick
				t.Errorf("the first error did not stick: %v", d.Err())
			}
		})
	}
}

func TestDecodedSlicesAliasTheInputAndCannotGrowIntoIt(t *testing.T) {
	input := []byte{1, 'a', 1, 'b'}
	d := kv.NewDecoder(input)
	first := d.Bytes()
	if &first[0] != &input[1] {
		t.Error("a decoded string is a copy, want the input's bytes")
	}
	_ = append(first, 'X')
	if second := d.Bytes(); string(second) != "b" {
		t.Errorf("appending to the first string changed the second to %q", second)
	}
}

// allocated returns how many bytes f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// A few bytes that announce a huge list or string must not cost memory.
func TestHostileCountsAllocateNothingLarge(t *testing.T) {
	const most = 16 << 10 // an error's text and the test's own noise
	for _, count := range []uint64{1 << 10, 1 << 20, 1 << 31, 1<<31 - 1, 1 << 32, 1 << 62, 1 << 63, 1<<64 - 1} {
		input := binary.AppendUvarint(nil, count)
		input = append(input, "few"...)
		write := append(kv.AppendHeader(nil, kv.KindSet), make([]byte, 36)...) // no session, and the bucket
		write = append(write, input...)
		for name, read := range map[string]func() error{
			"bytes": func() error { d := kv.NewDecoder(input); d.Bytes(); return d.Err() },
			"block": func() error {
				d := kv.NewDecoder(append(binary.BigEndian.AppendUint32(nil, uint32(min(count, 1<<32-1))), "few"...))
				d.Take32()
				return d.Err()
			},
			"text":  func() error { d := kv.NewDecoder(input); _ = d.String(); return d.Err() },
			"keys":  func() error { d := kv.NewDecoder(input); d.Keys(); return d.Err() },
			"write": func() error { _, err := kv.Limits{}.WithDefaults().CheckWrite(write); return err },
		} {
			var err error
			if got := allocated(func() { err = read() }); got > most {
				t.Errorf("%s with a count of %d in %d bytes allocated %d bytes, want at most %d", name, count, len(input), got, most)
			}
			if !errors.Is(err, kv.ErrMalformed) {
				t.Errorf("%s with a count of %d: %v, want %v", name, count, err, kv.ErrMalformed)
			}
		}
	}
}

func TestKeysComeBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		keys := rapid.SliceOf(rapid.String()).Draw(t, "keys")
		flags := rapid.SliceOfN(rapid.Bool(), 2, 2).Draw(t, "flags")
		value := rapid.SliceOf(rapid.Byte()).Draw(t, "value")
		b := kv.AppendBool(nil, flags[0])
		b = kv.AppendKeys(b, keys)
		b = kv.AppendBytes(b, value)
		b = kv.AppendBool(b, flags[1])

		d := kv.NewDecoder(b)
		if got := d.Bool(); got != flags[0] {
			t.Fatalf("first flag %v, want %v", got, flags[0])
		}
		if got := d.Keys(); !slices.Equal(got, keys) {
			t.Fatalf("keys %q, want %q", got, keys)
		}
		if got := d.Bytes(); !bytes.Equal(got, value) {
			t.Fatalf("value %x, want %x", got, value)
		}
		if got := d.Bool(); got != flags[1] {
			t.Fatalf("second flag %v, want %v", got, flags[1])
		}
		if err := d.Finish(); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzDecoder reads data with the operations that script names and checks what
// holds for any bytes: no panic, no reading backwards or past the end, the first
// error sticks, and nothing longer than the input comes out.
func FuzzDecoder(f *testing.F) {
	every := []byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10}
	for i := range primitives {
		f.Add(every[i%len(every):], golden(f, primitives[i].bytes))
	}
	f.Add([]byte{10}, golden(f, "ffffffffffffffffff01"))
	f.Add([]byte{8, 6, 7}, golden(f, "03 0161 00 026263 0101 00"))
	f.Fuzz(func(t *testing.T, script, data []byte) {
		d := kv.NewDecoder(data)
		for _, op := range script {
			left, failed := d.Left(), d.Err()
			out := readOp(d, op)
			if d.Left() < 0 || d.Left() > left {
				t.Fatalf("operation %d left %d bytes of %d", op, d.Left(), left)
			}
			if out > left {
				t.Fatalf("operation %d gave %d bytes or items of %d bytes", op, out, left)
			}
			if failed != nil && (out != 0 || d.Err() != failed) { // the very same error must stick
				t.Fatalf("operation %d on a failed decoder gave %d and %v, failed with %v before", op, out, d.Err(), failed)
			}
		}
		if err := d.Finish(); err != nil && !errors.Is(err, kv.ErrMalformed) {
			t.Fatalf("finished with %v, want %v", err, kv.ErrMalformed)
		}
	})
}

// readOp runs one operation and returns how many bytes or items it gave.
func readOp(d *kv.Decoder, op byte) int {
	switch op % 11 {
	case 0:
		d.U8()
	case 1:
		d.U16()
	case 2:
		d.U32()
	case 3:
		d.U64()
	case 4:
		d.Bool()
	case 5:
		d.Uvarint()
	case 6:
		return len(d.Bytes())
	case 7:
		return len(d.String())
	case 8:
		return len(d.Keys())
	case 9:
		return len(d.Take32())
	default:
		return d.Count(1 + int(op)/11)
	}
	return 0
}

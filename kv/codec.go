package kv

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrMalformed is wrapped by every decoding error.
var ErrMalformed = errors.New("malformed")

// Decoder reads the primitives of the codec from a byte slice. Integers are
// big endian or unsigned varints; byte strings are a varint length and the
// bytes. The first error sticks: read everything, then ask Finish or Err.
// Returned slices alias the input.
type Decoder struct {
	b   []byte
	off int
	err error
}

// NewDecoder returns a decoder of b.
func NewDecoder(b []byte) *Decoder { return &Decoder{b: b} }

// NewVersioned returns a decoder of a message whose first byte must be want; what
// names the format in the error.
func NewVersioned(b []byte, what string, want uint8) *Decoder {
	d := NewDecoder(b)
	if v := d.U8(); v != want {
		d.fail("%s version %d, want %d", what, v, want)
	}
	return d
}

// Err returns the first error.
func (d *Decoder) Err() error { return d.err }

// Finish returns the first error, or one if bytes are left over.
func (d *Decoder) Finish() error {
	if d.err == nil && d.off != len(d.b) {
		d.fail("%d bytes are left over", len(d.b)-d.off)
	}
	return d.err
}

// Left returns the number of bytes not read yet; 0 after an error.
func (d *Decoder) Left() int { return len(d.b) - d.off }

// Rest returns all bytes not read yet.
func (d *Decoder) Rest() []byte { return d.take(d.Left(), "rest") }

// Fail makes the decoder fail at its place, for a caller's own checks.
func (d *Decoder) Fail(format string, args ...any) { d.fail(format, args...) }

func (d *Decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("%w at byte %d of %d: %s", ErrMalformed, d.off, len(d.b), fmt.Sprintf(format, args...))
	}
	d.off = len(d.b)
}

func (d *Decoder) take(n int, what string) []byte {
	if n > d.Left() {
		d.fail("%s needs %d bytes, %d are left", what, n, d.Left())
	}
	if d.err != nil {
		return nil
	}
	b := d.b[d.off : d.off+n : d.off+n]
	d.off += n
	return b
}

// U8 reads one byte.
func (d *Decoder) U8() uint8 {
	if b := d.take(1, "u8"); b != nil {
		return b[0]
	}
	return 0
}

// U16 reads two bytes.
func (d *Decoder) U16() uint16 {
	if b := d.take(2, "u16"); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

// U32 reads four bytes.
func (d *Decoder) U32() uint32 {
	if b := d.take(4, "u32"); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// U64 reads eight bytes.
func (d *Decoder) U64() uint64 {
	if b := d.take(8, "u64"); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// Bool reads one byte that must be 0 or 1.
func (d *Decoder) Bool() bool {
	v := d.U8()
	if v > 1 {
		d.fail("a flag is %d, want 0 or 1", v)
	}
	return v == 1
}

// Uvarint reads an unsigned varint.
func (d *Decoder) Uvarint() uint64 {
	v, n := binary.Uvarint(d.b[d.off:])
	if n <= 0 {
		d.fail("a varint does not end or overflows")
		return 0
	}
	d.off += n
	return v
}

// Bytes reads a length and that many bytes.
func (d *Decoder) Bytes() []byte {
	n := d.Uvarint()
	if n > uint64(d.Left()) {
		d.fail("a string of %d bytes, %d are left", n, d.Left())
		return nil
	}
	return d.take(int(n), "string")
}

// String reads a length and that many bytes as a string of its own.
func (d *Decoder) String() string { return string(d.Bytes()) }

// Strings reads n strings. They share one allocation, so that one that is kept keeps
// them all: for the keys of a request, which live and die together.
func (d *Decoder) Strings(n int) []string {
	begin := d.off
	for range n {
		d.Bytes()
	}
	if d.err != nil || n == 0 {
		return nil
	}
	end := d.off
	block := string(d.b[begin:end])
	out := make([]string, n)
	d.off = begin
	for i := range out {
		size := int(d.Uvarint())
		at := d.off - begin
		out[i] = block[at : at+size]
		d.off += size
	}
	return out
}

// Count reads the number of items that follow, each of at least itemBytes
// bytes, so that what a caller allocates for them is justified by the input.
func (d *Decoder) Count(itemBytes int) int {
	n := d.Uvarint()
	if n > uint64(d.Left()/itemBytes) {
		d.fail("%d items of at least %d bytes, %d bytes are left", n, itemBytes, d.Left())
		return 0
	}
	return int(n)
}

// AppendBytes appends a length and b.
func AppendBytes(dst, b []byte) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(b))), b...)
}

// AppendString appends a length and s.
func AppendString(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

// AppendBool appends a flag.
func AppendBool(dst []byte, v bool) []byte {
	if v {
		return append(dst, 1)
	}
	return append(dst, 0)
}

// AppendKeys appends a list of keys: count, then each key.
func AppendKeys(dst []byte, keys []string) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(keys)))
	for _, key := range keys {
		dst = AppendString(dst, key)
	}
	return dst
}

// Keys reads a list of keys.
func (d *Decoder) Keys() []string {
	return d.Strings(d.Count(1))
}

// Take32 reads a length of four bytes and that many bytes.
func (d *Decoder) Take32() []byte {
	n := d.U32()
	if uint64(n) > uint64(d.Left()) {
		d.fail("a block of %d bytes, %d are left", n, d.Left())
		return nil
	}
	return d.take(int(n), "block")
}

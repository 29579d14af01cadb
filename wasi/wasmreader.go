package wasi

import (
	"fmt"
	"math"
	"unicode/utf8"
)

// wasmReader reads the primitives of WebAssembly's binary format, for modules and
// components alike. The first error sticks and ends the input, so that readers
// above read everything and then look at err. What it returns aliases the input.
type wasmReader struct {
	data []byte // the binary up to where this reader ends: positions are the binary's
	at   int    // of the next byte, never beyond data
	err  error
}

func (r *wasmReader) left() int { return len(r.data) - r.at }

func (r *wasmReader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("byte %d: %s", r.at, fmt.Sprintf(format, args...))
	}
	r.at = len(r.data)
}

// take reads n bytes.
func (r *wasmReader) take(n uint32) []byte {
	if uint64(n) > uint64(r.left()) {
		r.fail("needs %d bytes, %d are left", n, r.left())
		return nil
	}
	r.at += int(n)
	return r.data[r.at-int(n) : r.at : r.at]
}

// byte reads one byte; 0 after an error.
func (r *wasmReader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

// peek returns the byte that is read next; 0 at the end.
func (r *wasmReader) peek() byte {
	if r.left() == 0 {
		return 0
	}
	return r.data[r.at]
}

// leb reads an unsigned LEB128 of at most that many bits.
func (r *wasmReader) leb(bits int) uint64 {
	var v uint64
	for shift := 0; shift < bits; shift += 7 {
		b := r.byte()
		if part := b & 0x7f; bits-shift < 7 && part>>(bits-shift) != 0 {
			break
		}
		v |= uint64(b&0x7f) << shift
		if b < 0x80 {
			return v
		}
	}
	r.fail("an integer of more than %d bits", bits)
	return 0
}

func (r *wasmReader) u32() uint32 { return uint32(r.leb(32)) }

// typeIndex reads an index where an opcode could be as well. It is therefore a
// signed LEB128 of 33 bits: indices are not negative, opcodes are.
func (r *wasmReader) typeIndex() uint32 {
	v := r.leb(33)
	if r.err == nil && (v > math.MaxUint32 || r.data[r.at-1]&0x40 != 0) {
		r.fail("no index of a type: opcode %#02x", r.data[r.at-1])
	}
	return uint32(v)
}

// bytes reads a length and that many bytes.
func (r *wasmReader) bytes() []byte { return r.take(r.u32()) }

// name reads a string that must be UTF-8.
func (r *wasmReader) name() string {
	b := r.bytes()
	if !utf8.Valid(b) {
		r.fail("a name that is no UTF-8: %.40q", b)
	}
	return string(b)
}

// count reads how many items follow. An item has at least one byte, so a count
// above the bytes left is an error before anything is allocated for it.
func (r *wasmReader) count() int {
	n := r.u32()
	if uint64(n) > uint64(r.left()) {
		r.fail("%d items, but %d bytes are left", n, r.left())
		return 0
	}
	return int(n)
}

// each reads a vector: item is called to read each item, until an error.
func (r *wasmReader) each(item func()) {
	for n := r.count(); n > 0 && r.err == nil; n-- {
		item()
	}
}

// finish returns the first error, or one if bytes are left over.
func (r *wasmReader) finish() error {
	if r.left() > 0 {
		r.fail("%d bytes are left over", r.left())
	}
	return r.err
}

// wasmSection is one section of a module or component.
type wasmSection struct {
	id   byte
	body *wasmReader
}

// sections reads sections to the end of the input, until visit returns an error.
func (r *wasmReader) sections(visit func(wasmSection) error) error {
	for r.left() > 0 {
		id, size := r.byte(), r.u32()
		start := r.at
		r.take(size)
		if r.err != nil {
			return fmt.Errorf("section %d: %w", id, r.err)
		}
		if err := visit(wasmSection{id, &wasmReader{data: r.data[:r.at:r.at], at: start}}); err != nil {
			return err
		}
	}
	return nil
}

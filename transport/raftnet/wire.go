package raftnet

import (
	"encoding/binary"
	"fmt"
)

// reader reads a message front to back. The first fault is kept and every
// later read returns zero, so that callers check once at the end. A reader
// never allocates: byte strings are slices of its input.
//
// It accepts one encoding of each value only (shortest varints, no unknown
// bits), so that a message decodes and encodes to the same bytes: the fuzz
// targets rest on it.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
	}
	r.b = nil
}

func (r *reader) take(n uint64) []byte {
	if n > uint64(len(r.b)) {
		r.fail("message ends early: got %d bytes, want %d", len(r.b), n)
		return nil
	}
	b := r.b[:n:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) uint32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) uint64() uint64 {
	if b := r.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 || (n > 1 && r.b[n-1] == 0) {
		r.fail("bad varint in the last %d bytes", len(r.b))
		return 0
	}
	r.b = r.b[n:]
	return v
}

// bytes reads a byte string; the empty one is nil.
func (r *reader) bytes() []byte {
	if n := r.uvarint(); n > 0 {
		return r.take(n)
	}
	return nil
}

// flags reads a byte of which only the bits in known may be set.
func (r *reader) flags(known byte) byte {
	f := r.byte()
	if f&^known != 0 {
		r.fail("unknown flags: got %#02x, want at most %#02x", f, known)
		return 0
	}
	return f
}

// end reports the first fault, or bytes nobody read.
func (r *reader) end() error {
	if r.err == nil && len(r.b) > 0 {
		r.fail("got %d bytes after the message, want none", len(r.b))
	}
	return r.err
}

func appendBytes(dst, b []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(b)))
	return append(dst, b...)
}

func appendFlag(dst []byte, set bool, flag byte) []byte {
	if !set {
		flag = 0
	}
	return append(dst, flag)
}

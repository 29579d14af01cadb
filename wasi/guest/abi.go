//go:build wasip1

package guest

import (
	"errors"
	"sync"
	"unsafe"
)

// The canonical ABI of component-model's CanonicalABI.md, from the caller's side. A
// pointer is 4 bytes there and 8 in Go for wasm, so that no struct of Go's can be
// passed: words are packed by hand.
//
// While the host runs it calls cabi_realloc, which runs Go code: the stack of the
// goroutine that called may move then, the heap and variables do not. So whatever the
// host is given the address of is one of the variables here, or held by one.

// mu is held during a call of the host and while its answer is read.
var mu sync.Mutex

// Guarded by mu; cabi_realloc runs for who holds it.
var (
	area   [4]uint64  // where the host writes a result
	blocks [][]uint64 // what the host had allocated for the answer
	held   any        // the arguments: what they refer to escapes to the heap
	packed []uint32   // a list of them: addresses and lengths
)

// cabiRealloc gives the host memory for a part of its answer, which lives until the
// answer is read, and on as what is made of it.
//
//go:wasmexport cabi_realloc
func cabiRealloc(old, oldSize, align, size uint32) uint32 {
	if align > 8 {
		panic("cabi_realloc: no type is aligned to more than 8 bytes")
	}
	block := make([]uint64, max(1, (uint64(size)+7)/8))
	blocks = append(blocks, block)
	if old != 0 {
		copy(bytesAt(address(unsafe.Pointer(&block[0])), size), bytesAt(old, min(oldSize, size)))
	}
	return address(unsafe.Pointer(&block[0]))
}

func address(p unsafe.Pointer) uint32 { return uint32(uintptr(p)) }

// bytesAt returns the memory at an address, which is in one of blocks or held.
func bytesAt(at, n uint32) []byte {
	if n == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(uintptr(at))), n)
}

// call has the host do something, with mu held, and reads its answer. arguments are
// kept where they are until then.
func call(arguments any, host func(result unsafe.Pointer), read func() error) error {
	mu.Lock()
	defer mu.Unlock()
	held = arguments
	area = [4]uint64{}
	host(unsafe.Pointer(&area))
	err := read()
	held, packed = nil, packed[:0]
	clear(blocks)
	blocks = blocks[:0]
	return err
}

// none is an index that no handle has.
const none = 0

// take returns a handle that is given back, with mu held, and leaves none of it: the
// host gives its index to the next one that is opened, which must not be closed for it.
func take(handle *uint32) uint32 {
	h := *handle
	*handle = none
	return h
}

// octet, word and number read the result at an offset in bytes.
func octet(at int) byte    { return byte(area[at/8] >> (at % 8 * 8)) }
func word(at int) uint32   { return uint32(area[at/8] >> (at % 8 * 8)) }
func number(at int) uint64 { return area[at/8] }

// owned returns the list<u8> at an offset. It is one of the blocks, and the caller's
// from now on.
func owned(at int) []byte {
	b := bytesAt(word(at), word(at+4))
	if b == nil {
		b = []byte{}
	}
	return b
}

// text returns a copy of the string at an offset.
func text(at int) string { return string(bytesAt(word(at), word(at+4))) }

// pack appends the address and length of a string or of bytes to packed.
func packString(s string) {
	packed = append(packed, address(unsafe.Pointer(unsafe.StringData(s))), uint32(len(s)))
}

func packBytes(b []byte) {
	packed = append(packed, address(unsafe.Pointer(unsafe.SliceData(b))), uint32(len(b)))
}

// list returns the address of packed, and how many elements of so many words it has.
func list(words int) (at unsafe.Pointer, n uint32) {
	return unsafe.Pointer(unsafe.SliceData(packed)), uint32(len(packed) / words)
}

// Errors of the store.
var (
	ErrNoSuchStore  = errors.New("no such store")
	ErrAccessDenied = errors.New("access denied")
)

// OtherError is any other error of the store, in its words.
type OtherError struct{ Text string }

func (e *OtherError) Error() string { return e.Text }

// failure reads the error variant at an offset.
func failure(at int) error {
	switch octet(at) {
	case 0:
		return ErrNoSuchStore
	case 1:
		return ErrAccessDenied
	default:
		return &OtherError{text(at + 4)}
	}
}

// outcome reads a result whose error is at an offset, and whose value ok reads.
func outcome(at int, ok func()) func() error {
	return func() error {
		if octet(0) != 0 {
			return failure(at)
		}
		if ok != nil {
			ok()
		}
		return nil
	}
}

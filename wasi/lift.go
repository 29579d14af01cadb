package wasi

import (
	"encoding/binary"
	"fmt"
	"unicode/utf8"

	"github.com/manykv/manykv/kv"
)

// Lifting: arguments out of a guest's memory. Whatever leaves the functions here is
// a copy, since the memory may move and the guest may change it. An error of theirs is
// a trap: the guest broke the canonical ABI
// (https://github.com/WebAssembly/component-model/blob/main/design/mvp/CanonicalABI.md).
// Limits are not among those: a batch that is too large is answered, and nothing is
// allocated for it.

// Bytes of a list's elements.
const (
	stringBytes = 8  // u32 address, u32 length
	pairBytes   = 16 // two of them
)

// view returns n bytes of the guest's memory as they stand there now.
func (c *call) view(ptr, n uint32) ([]byte, error) {
	b, ok := c.in.memory.Read(ptr, n)
	if !ok {
		return nil, fmt.Errorf("%d bytes at %#x are outside the memory of %d bytes", n, ptr, c.in.memory.Size())
	}
	return b, nil
}

// text returns a view of a string.
func (c *call) text(ptr, n uint32) ([]byte, error) {
	b, err := c.view(ptr, n)
	if err == nil && !utf8.Valid(b) {
		err = fmt.Errorf("the string of %d bytes at %#x is not valid UTF-8", n, ptr)
	}
	return b, err
}

// key lifts the key of arguments i and i+1. refused is an error to answer with.
func (c *call) key(i int) (key string, refused, trap error) {
	b, err := c.text(uint32(c.args[i]), uint32(c.args[i+1]))
	if err != nil {
		return "", nil, err
	}
	if most := c.limits().KeyBytes; len(b) > most {
		return "", fmt.Errorf("%w: a key of %d bytes, at most %d are allowed", kv.ErrTooLarge, len(b), most), nil
	}
	return string(b), nil, nil
}

// value lifts the list<u8> of arguments i and i+1.
func (c *call) value(i int) (value []byte, refused, trap error) {
	b, err := c.view(uint32(c.args[i]), uint32(c.args[i+1]))
	if err != nil {
		return nil, nil, err
	}
	if most := c.limits().ValueBytes; len(b) > most {
		return nil, fmt.Errorf("%w: a value of %d bytes, at most %d are allowed", kv.ErrTooLarge, len(b), most), nil
	}
	return append([]byte{}, b...), nil, nil
}

// list returns a view of the list of arguments i and i+1, whose elements have so
// many bytes. An empty one may be anywhere.
func (c *call) list(i int, element uint32) (view []byte, n uint32, err error) {
	ptr, n := uint32(c.args[i]), uint32(c.args[i+1])
	switch {
	case n == 0:
		return nil, 0, nil
	case ptr%4 != 0:
		return nil, 0, fmt.Errorf("a list at %#x, want a multiple of 4", ptr)
	case uint64(n)*uint64(element) > uint64(c.in.memory.Size()):
		return nil, 0, fmt.Errorf("a list of %d elements of %d bytes is larger than the memory of %d bytes", n, element, c.in.memory.Size())
	}
	view, err = c.view(ptr, n*element)
	return view, n, err
}

// word reads a u32 of a view.
func word(view []byte, at uint32) uint32 { return binary.LittleEndian.Uint32(view[at:]) }

// batch is list, of keys or pairs. refused, which is answered, says that they are more
// than the limit.
func (c *call) batch(i int, element uint32) (view []byte, n uint32, refused, trap error) {
	view, n, trap = c.list(i, element)
	if most := c.limits().BatchKeys; trap == nil && uint64(n) > uint64(most) {
		refused = fmt.Errorf("%w: a batch of %d keys, at most %d are allowed", kv.ErrTooLarge, n, most)
	}
	return view, n, refused, trap
}

// tooLarge says that a batch is over the limit of bytes; it is answered.
func (c *call) tooLarge(n uint64) error {
	if most := c.limits().BatchBytes; n > uint64(most) {
		return fmt.Errorf("%w: a batch of more than %d bytes, which is the most", kv.ErrTooLarge, most)
	}
	return nil
}

// keyList lifts the list<string> of arguments i and i+1. refused is an error to answer
// with.
func (c *call) keyList(i int) (keys []string, refused, trap error) {
	view, n, refused, err := c.batch(i, stringBytes)
	if refused != nil || err != nil {
		return nil, refused, err
	}
	total := uint64(0)
	for at := uint32(0); at < n; at++ {
		total += uint64(word(view, stringBytes*at+4))
	}
	if refused := c.tooLarge(total); refused != nil {
		return nil, refused, nil
	}
	joined := make([]byte, 0, total) // one allocation for all
	for at := uint32(0); at < n; at++ {
		b, err := c.text(word(view, stringBytes*at), word(view, stringBytes*at+4))
		if err != nil {
			return nil, nil, fmt.Errorf("key %d of %d: %w", at, n, err)
		}
		joined = append(joined, b...)
	}
	rest := string(joined)
	keys = make([]string, n)
	for at := range keys {
		size := word(view, stringBytes*uint32(at)+4)
		keys[at], rest = rest[:size], rest[size:]
	}
	return keys, nil, nil
}

// pairList lifts the list<tuple<string, list<u8>>> of arguments i and i+1.
func (c *call) pairList(i int) (pairs []kv.Pair, refused, trap error) {
	view, n, refused, err := c.batch(i, pairBytes)
	if refused != nil || err != nil {
		return nil, refused, err
	}
	total := uint64(0)
	for at := uint32(0); at < n; at++ {
		total += uint64(word(view, pairBytes*at+4)) + uint64(word(view, pairBytes*at+12))
	}
	if refused := c.tooLarge(total); refused != nil {
		return nil, refused, nil
	}
	pairs = make([]kv.Pair, n)
	values := make([]byte, 0, total)
	for at := range pairs {
		element := view[pairBytes*at:]
		key, err := c.text(word(element, 0), word(element, 4))
		if err != nil {
			return nil, nil, fmt.Errorf("key %d of %d: %w", at, n, err)
		}
		value, err := c.view(word(element, 8), word(element, 12))
		if err != nil {
			return nil, nil, fmt.Errorf("value %d of %d: %w", at, n, err)
		}
		from := len(values)
		values = append(values, value...)
		pairs[at] = kv.Pair{Key: string(key), Value: values[from:len(values):len(values)]}
	}
	return pairs, nil, nil
}

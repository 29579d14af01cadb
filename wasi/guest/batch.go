//go:build wasip1

package guest

import "unsafe"

//go:wasmimport wasi:keyvalue/batch@0.2.0-draft2 get-many
func hostGetMany(bucket uint32, keys unsafe.Pointer, n uint32, result unsafe.Pointer)

//go:wasmimport wasi:keyvalue/batch@0.2.0-draft2 set-many
func hostSetMany(bucket uint32, pairs unsafe.Pointer, n uint32, result unsafe.Pointer)

//go:wasmimport wasi:keyvalue/batch@0.2.0-draft2 delete-many
func hostDeleteMany(bucket uint32, keys unsafe.Pointer, n uint32, result unsafe.Pointer)

// Pair is a key with its value.
type Pair struct {
	Key   string
	Value []byte
}

// found is the size of an element of get-many's list: an option of a tuple of a
// string and a list.
const found = 20

// GetMany returns one element for each key, in the order of keys and with duplicates
// answered in each place: the pair, or nil if the key has no value.
func (b *Bucket) GetMany(keys []string) (pairs []*Pair, err error) {
	err = call(keys, func(result unsafe.Pointer) {
		at, n := packKeys(keys)
		hostGetMany(b.handle, at, n, result)
	}, outcome(4, func() {
		pairs = make([]*Pair, word(8))
		elements := bytesAt(word(4), found*word(8))
		for i := range pairs {
			e := elements[i*found:]
			if e[0] == 0 {
				continue
			}
			value := bytesAt(wordOf(e, 12), wordOf(e, 16))
			if value == nil {
				value = []byte{}
			}
			pairs[i] = &Pair{string(bytesAt(wordOf(e, 4), wordOf(e, 8))), value}
		}
	}))
	return pairs, err
}

// SetMany sets all pairs; if a key occurs more than once its last value wins. It is not
// atomic: when it fails, some of it may have been set.
func (b *Bucket) SetMany(pairs []Pair) error {
	return call(pairs, func(result unsafe.Pointer) {
		for i := range pairs {
			packString(pairs[i].Key)
			packBytes(pairs[i].Value)
		}
		at, n := list(4)
		hostSetMany(b.handle, at, n, result)
	}, outcome(4, nil))
}

// DeleteMany deletes all keys; absent ones are skipped. It is not atomic.
func (b *Bucket) DeleteMany(keys []string) error {
	return call(keys, func(result unsafe.Pointer) {
		at, n := packKeys(keys)
		hostDeleteMany(b.handle, at, n, result)
	}, outcome(4, nil))
}

func packKeys(keys []string) (at unsafe.Pointer, n uint32) {
	for _, key := range keys {
		packString(key)
	}
	return list(2)
}

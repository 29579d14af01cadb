//go:build wasip1

package guest

import (
	"iter"
	"unsafe"
)

//go:wasmimport wasi:keyvalue/store@0.2.0-draft2 open
func hostOpen(identifier string, result unsafe.Pointer)

//go:wasmimport wasi:keyvalue/store@0.2.0-draft2 [resource-drop]bucket
func hostDropBucket(bucket uint32)

//go:wasmimport wasi:keyvalue/store@0.2.0-draft2 [method]bucket.get
func hostGet(bucket uint32, key string, result unsafe.Pointer)

//go:wasmimport wasi:keyvalue/store@0.2.0-draft2 [method]bucket.set
func hostSet(bucket uint32, key string, value unsafe.Pointer, n uint32, result unsafe.Pointer)

//go:wasmimport wasi:keyvalue/store@0.2.0-draft2 [method]bucket.delete
func hostDelete(bucket uint32, key string, result unsafe.Pointer)

//go:wasmimport wasi:keyvalue/store@0.2.0-draft2 [method]bucket.exists
func hostExists(bucket uint32, key string, result unsafe.Pointer)

//go:wasmimport wasi:keyvalue/store@0.2.0-draft2 [method]bucket.list-keys
func hostListKeys(bucket, some uint32, cursor string, result unsafe.Pointer)

// Bucket is an open bucket. It must be closed, or is when the guest ends. Another call
// after Close ends the guest.
type Bucket struct{ handle uint32 }

// Open opens what the host lets this guest know as identifier, often "".
func Open(identifier string) (*Bucket, error) {
	var b *Bucket
	err := call(identifier, func(result unsafe.Pointer) { hostOpen(identifier, result) },
		outcome(4, func() { b = &Bucket{word(4)} }))
	return b, err
}

// Close gives the handle back. Closing again does nothing.
func (b *Bucket) Close() {
	mu.Lock()
	defer mu.Unlock()
	if h := take(&b.handle); h != none {
		hostDropBucket(h)
	}
}

// option reads a result<option<list<u8>>, error>.
func option(value *[]byte, found *bool) func() error {
	return outcome(4, func() {
		if *found = octet(4) != 0; *found {
			*value = owned(8)
		}
	})
}

// Get returns the value of key; found is false if there is none.
func (b *Bucket) Get(key string) (value []byte, found bool, err error) {
	err = call(key, func(result unsafe.Pointer) { hostGet(b.handle, key, result) }, option(&value, &found))
	return value, found, err
}

// Set sets the value of key.
func (b *Bucket) Set(key string, value []byte) error {
	return call(Pair{key, value}, func(result unsafe.Pointer) {
		hostSet(b.handle, key, unsafe.Pointer(unsafe.SliceData(value)), uint32(len(value)), result)
	}, outcome(4, nil))
}

// Delete deletes key; an absent key is no error.
func (b *Bucket) Delete(key string) error {
	return call(key, func(result unsafe.Pointer) { hostDelete(b.handle, key, result) }, outcome(4, nil))
}

// Exists says whether key has a value.
func (b *Bucket) Exists(key string) (there bool, err error) {
	err = call(key, func(result unsafe.Pointer) { hostExists(b.handle, key, result) },
		outcome(4, func() { there = octet(4) != 0 }))
	return there, err
}

// ListKeys returns a page of keys, in the host's order, from the cursor on: "" for the
// first page. next is the cursor of the next page, "" at the end.
func (b *Bucket) ListKeys(cursor string) (keys []string, next string, err error) {
	some := uint32(0)
	if cursor != "" {
		some = 1
	}
	err = call(cursor, func(result unsafe.Pointer) { hostListKeys(b.handle, some, cursor, result) }, outcome(4, func() {
		elements := bytesAt(word(4), 8*word(8))
		for ; len(elements) > 0; elements = elements[8:] {
			keys = append(keys, string(bytesAt(wordOf(elements, 0), wordOf(elements, 4))))
		}
		if octet(12) != 0 {
			next = text(16)
		}
	}))
	return keys, next, err
}

// wordOf reads a u32 of a list's element.
func wordOf(b []byte, at int) uint32 {
	return uint32(b[at]) | uint32(b[at+1])<<8 | uint32(b[at+2])<<16 | uint32(b[at+3])<<24
}

// All yields all keys, page by page. An error ends it.
func (b *Bucket) All() iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for cursor := ""; ; {
			keys, next, err := b.ListKeys(cursor)
			if err != nil {
				yield("", err)
				return
			}
			for _, key := range keys {
				if !yield(key, nil) {
					return
				}
			}
			if cursor = next; cursor == "" {
				return
			}
		}
	}
}

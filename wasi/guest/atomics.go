//go:build wasip1

package guest

import "unsafe"

//go:wasmimport wasi:keyvalue/atomics@0.2.0-draft2 increment
func hostIncrement(bucket uint32, key string, delta int64, result unsafe.Pointer)

//go:wasmimport wasi:keyvalue/atomics@0.2.0-draft2 [static]cas.new
func hostNewCAS(bucket uint32, key string, result unsafe.Pointer)

//go:wasmimport wasi:keyvalue/atomics@0.2.0-draft2 [method]cas.current
func hostCurrent(cas uint32, result unsafe.Pointer)

//go:wasmimport wasi:keyvalue/atomics@0.2.0-draft2 swap
func hostSwap(cas uint32, value unsafe.Pointer, n uint32, result unsafe.Pointer)

//go:wasmimport wasi:keyvalue/atomics@0.2.0-draft2 [resource-drop]cas
func hostDropCAS(cas uint32)

// Increment adds delta to the value of key, decimal text, and returns the sum; an
// absent key counts from 0.
func (b *Bucket) Increment(key string, delta int64) (sum int64, err error) {
	err = call(key, func(result unsafe.Pointer) { hostIncrement(b.handle, key, delta, result) },
		outcome(8, func() { sum = int64(number(8)) }))
	return sum, err
}

// CAS is a compare-and-swap that has been begun: Swap ends it, or Close. Another call
// than Close ends the guest after that.
type CAS struct{ handle uint32 }

// ConflictError is how a swap fails when the key was written since the CAS began. CAS
// is a new one, of what is there now, to be swapped or closed.
type ConflictError struct{ CAS *CAS }

func (*ConflictError) Error() string { return "the key was written meanwhile" }

// CAS begins a compare-and-swap of key as it is now, with a value or without one.
func (b *Bucket) CAS(key string) (*CAS, error) {
	var c *CAS
	err := call(key, func(result unsafe.Pointer) { hostNewCAS(b.handle, key, result) },
		outcome(4, func() { c = &CAS{word(4)} }))
	return c, err
}

// Current returns the value that Swap will replace.
func (c *CAS) Current() (value []byte, found bool, err error) {
	err = call(nil, func(result unsafe.Pointer) { hostCurrent(c.handle, result) }, option(&value, &found))
	return value, found, err
}

// Swap sets the value if the key is as it was. Whatever comes of it, the CAS is used up:
// a *ConflictError has the next one.
func (c *CAS) Swap(value []byte) error {
	return call(value, func(result unsafe.Pointer) {
		hostSwap(take(&c.handle), unsafe.Pointer(unsafe.SliceData(value)), uint32(len(value)), result)
	}, func() error {
		switch {
		case octet(0) == 0:
			return nil
		case octet(4) == 0:
			return failure(8)
		default:
			return &ConflictError{&CAS{word(8)}}
		}
	})
}

// Close gives a CAS up. After Swap, or another Close, it does nothing.
func (c *CAS) Close() {
	mu.Lock()
	defer mu.Unlock()
	if h := take(&c.handle); h != none {
		hostDropCAS(h)
	}
}

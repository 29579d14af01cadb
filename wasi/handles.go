package wasi

import "fmt"

const (
	// maxHandles is how many handles an instance may hold: more is a leak, and each
	// costs the host a key.
	maxHandles = 1024
	// maxHeld and maxHeldAll are how large a value a cas keeps for `current`, and how
	// much all of an instance may keep; a value beyond is read again.
	maxHeld    = 16 << 10
	maxHeldAll = 1 << 20
)

// handle is what an index of a guest's means; its zero value is none.
type handle struct {
	kind  handleKind
	grant Grant
	swap  swap // of a handleCas
}

type handleKind uint8

const (
	handleNone handleKind = iota
	handleBucket
	handleCas
)

func (k handleKind) String() string { return [...]string{"nothing", "a bucket", "a cas"}[k] }

// swap is what a compare-and-swap expects.
type swap struct {
	key     string
	version uint64
	known   bool // value is the one of that version
	found   bool
	value   []byte
}

// handles are an instance's. Index 0 is never given out.
type handles struct {
	all  []handle
	free []uint32 // indices to be given out again
	held int      // bytes of values that are known
}

// room says whether a value may be held.
func (h *handles) room(value []byte) bool {
	return len(value) <= maxHeld && h.held+len(value) <= maxHeldAll
}

// put gives a handle an index; 0 if there are too many.
func (h *handles) put(v handle) uint32 {
	if n := len(h.free); n > 0 {
		at := h.free[n-1]
		h.free = h.free[:n-1]
		h.all[at] = v
		h.held += len(v.swap.value)
		return at
	}
	if len(h.all) == 0 {
		h.all = append(h.all, handle{})
	}
	if len(h.all) > maxHandles {
		return 0
	}
	h.all = append(h.all, v)
	h.held += len(v.swap.value)
	return uint32(len(h.all) - 1)
}

// at returns the handle of an index; an error, which is a trap, if it is none of
// that kind.
func (h *handles) at(index uint32, kind handleKind) (*handle, error) {
	if index == 0 || index >= uint32(len(h.all)) || h.all[index].kind == handleNone {
		return nil, fmt.Errorf("unknown handle %d, want %v", index, kind)
	}
	if got := h.all[index].kind; got != kind {
		return nil, fmt.Errorf("handle %d is %v, want %v", index, got, kind)
	}
	return &h.all[index], nil
}

// take removes a handle and returns it.
func (h *handles) take(index uint32, kind handleKind) (handle, error) {
	p, err := h.at(index, kind)
	if err != nil {
		return handle{}, err
	}
	v := *p
	*p = handle{}
	h.held -= len(v.swap.value)
	h.free = append(h.free, index)
	return v, nil
}

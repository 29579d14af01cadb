package wasi

import "fmt"

// maxHandles is how many handles an instance may hold: more is a leak, and each
// costs the host some memory.
const maxHandles = 4096

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
}

// put gives a handle an index; 0 if there are too many.
func (h *handles) put(v handle) uint32 {
	if n := len(h.free); n > 0 {
		at := h.free[n-1]
		h.free = h.free[:n-1]
		h.all[at] = v
		return at
	}
	if len(h.all) == 0 {
		h.all = append(h.all, handle{})
	}
	if len(h.all) > maxHandles {
		return 0
	}
	h.all = append(h.all, v)
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
	h.free = append(h.free, index)
	return v, nil
}

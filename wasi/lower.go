package wasi

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/manykv/manykv/kv"
)

// Lowering: a result into a guest's memory. What of it does not fit the area that the
// caller gave goes into blocks which the guest allocates, in the canonical ABI's
// order: a list before what its elements point to.
//
// The layouts, as offsets in bytes of the caller's area:
//
//	result<_, error>            0 tag · 4 error
//	error                       0 case · 4 address and 8 length of other's text
//	result<own, error>          0 tag · 4 handle
//	result<bool, error>         0 tag · 4 bool
//	result<option<list>, error> 0 tag · 4 option · 8 address · 12 length
//	result<list, error>         0 tag · 4 address · 8 length
//	result<64 bits, error>      0 tag · 8 number, or error
//	key-response of draft       0 tag · 8 keys' address · 12 length · 16 option · 24 cursor
//	key-response of draft2      0 tag · 4 keys' address · 8 length · 12 option · 16 address · 20 length
//	result<_, cas-error>        0 tag · 4 case · 8 error, or handle
//
// An element of get-many's list: 0 option · 4 and 8 the key · 12 and 16 the value.

// The areas for them.
var (
	small        = area{16, 4}
	number       = area{24, 8}
	pageNumbered = area{32, 8}
	pageNamed    = area{24, 4}
	swapped      = area{20, 4}
)

const (
	foundBytes = 20 // of an element of get-many's list

	caseNoSuchStore  = 0
	caseAccessDenied = 1
	caseOther        = 2

	caseStoreError = 0
	caseCasFailed  = 1

	// maxErrorText bounds the text of an error that a guest gets.
	maxErrorText = 1 << 10
)

// answer is a result on its way into a guest's memory.
type answer struct {
	ret    uint32  // where the caller's area is
	area   area    // of the caller
	image  []byte  // the area, then the list's elements
	blocks []block // that the guest allocates
}

// block is memory that a guest allocates. What goes into it is the image after the
// area, for a list, else text or data.
type block struct {
	slot int // where in image its address goes
	list bool
	text string
	data []byte
}

func (b *block) align() uint32 {
	if b.list {
		return 4
	}
	return 1
}

// begin starts the answer to a call. The area is checked before anything is done: a
// call that traps has done nothing.
func (a *answer) begin(c *call, want area) error {
	a.blocks, a.image, a.area = a.blocks[:0], a.image[:0], want
	if want.size == 0 {
		return nil
	}
	a.ret = uint32(c.args[len(c.args)-1])
	if a.ret%want.align != 0 {
		return fmt.Errorf("the result's address is %#x, want a multiple of %d", a.ret, want.align)
	}
	if _, err := c.view(a.ret, want.size); err != nil {
		return fmt.Errorf("the result: %w", err)
	}
	a.grow(int(want.size))
	return nil
}

// grow appends zeroes to the image.
func (a *answer) grow(n int) {
	a.image = append(a.image, make([]byte, n)...)
}

func (a *answer) byte(at int, b byte)     { a.image[at] = b }
func (a *answer) word(at int, n uint32)   { binary.LittleEndian.PutUint32(a.image[at:], n) }
func (a *answer) number(at int, n uint64) { binary.LittleEndian.PutUint64(a.image[at:], n) }

// data puts a list<u8> at an offset: its length, and later its address.
func (a *answer) data(at int, b []byte) {
	a.word(at+4, uint32(len(b)))
	a.blocks = append(a.blocks, block{slot: at, data: b})
}

// text puts a string at an offset.
func (a *answer) text(at int, s string) {
	a.word(at+4, uint32(len(s)))
	a.blocks = append(a.blocks, block{slot: at, text: s})
}

// list puts a list of n elements at an offset and returns where in the image they are.
func (a *answer) list(at, n, element int) int {
	a.word(at+4, uint32(n))
	a.blocks = append(a.blocks, block{slot: at, list: true})
	from := len(a.image)
	a.grow(n * element)
	return from
}

// size returns how many bytes a block takes.
func (a *answer) size(b *block) int {
	if b.list {
		return len(a.image) - int(a.area.size)
	}
	return len(b.text) + len(b.data)
}

// refuse makes the answer the error err, whose variant is at an offset.
func (a *answer) refuse(at int, err error) {
	a.byte(0, 1)
	switch {
	case errors.Is(err, kv.ErrUnknown):
		// First: the store of a write of unknown outcome may be gone as well.
	case errors.Is(err, kv.ErrNoSuchStore):
		a.byte(at, caseNoSuchStore)
		return
	case errors.Is(err, kv.ErrAccessDenied):
		a.byte(at, caseAccessDenied)
		return
	}
	a.byte(at, caseOther)
	a.text(at+4, clip(err.Error()))
}

// clip returns an error's text as valid UTF-8, and bounded.
func clip(text string) string {
	return strings.ToValidUTF8(text[:min(len(text), maxErrorText)], "")
}

// request writes the sizes and alignments of the blocks into the adapter's memory.
func (c *call) request(a *answer) error {
	sizes := c.in.sizes[:0]
	for i := range a.blocks {
		b := &a.blocks[i]
		sizes = binary.LittleEndian.AppendUint32(sizes, uint32(a.size(b)))
		sizes = binary.LittleEndian.AppendUint32(sizes, b.align())
	}
	c.in.sizes = sizes
	memory := c.adapter.Memory()
	if lack := len(sizes) - int(memory.Size()); lack > 0 {
		const page = 64 << 10
		if _, ok := memory.Grow(uint32(lack+page-1) / page); !ok {
			return fmt.Errorf("an answer of %d blocks does not fit the limit of memory", len(a.blocks))
		}
	}
	if !memory.Write(0, sizes) {
		return errors.New("the adapter has no memory")
	}
	return nil
}

// finish fills the blocks that the guest has allocated, and the caller's area. The
// guest chose the addresses: each is checked.
func (c *call) finish(a *answer) error {
	addresses, ok := c.adapter.Memory().Read(0, uint32(len(a.blocks)*blockBytes))
	if !ok {
		return errors.New("the adapter has no memory")
	}
	memory, list := c.in.memory, uint32(0)
	for i := range a.blocks {
		b := &a.blocks[i]
		at := binary.LittleEndian.Uint32(addresses[i*blockBytes:])
		if at%b.align() != 0 {
			return fmt.Errorf("cabi_realloc returned %#x, want a multiple of %d", at, b.align())
		}
		if uint64(at)+uint64(a.size(b)) > uint64(memory.Size()) {
			return fmt.Errorf("cabi_realloc returned %#x for %d bytes, outside the memory of %d bytes", at, a.size(b), memory.Size())
		}
		a.word(b.slot, at)
		switch { // the address is checked: writing cannot fail
		case b.list:
			list = at
		case len(b.data) > 0:
			memory.Write(at, b.data)
		default:
			memory.WriteString(at, b.text)
		}
	}
	if elements := a.image[a.area.size:]; len(elements) > 0 {
		memory.Write(list, elements)
	}
	if !memory.Write(a.ret, a.image[:a.area.size]) {
		return errors.New("the result's area is gone") // memory never shrinks
	}
	return nil
}

// largeImage is what an instance keeps for its next answer at most.
const largeImage = 1 << 20

// release lets go of what an answer holds of the store's.
func (a *answer) release() {
	clear(a.blocks)
	if cap(a.image) > largeImage {
		a.image, a.blocks = nil, nil
	}
}

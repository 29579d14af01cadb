package fsm

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"hash/maphash"
	"slices"
	"sync"

	"github.com/cockroachdb/pebble/v2"
)

const (
	// chunkBytes is in what pieces a table takes room for rows.
	chunkBytes = 64 << 10
	// bufferedBytes is the largest row, key and value, that a table holds.
	bufferedBytes = 32 << 10
	// bufferedRowBytes is what a row takes besides its piece of a chunk: slots, its place, its
	// part of the order when rows are moved.
	bufferedRowBytes = 52
	// pebbleRowBytes is what Pebble counts a row of a batch with besides key and value.
	pebbleRowBytes = 196
)

// rowTable is a hash table of rows, with open addressing: to find a row and to write it
// again touches one line of slots and the row. Rows do not go, so nothing is ever
// removed. Nobody can make keys collide.
type rowTable struct {
	slots  []uint64 // 0, or a hash u32 and, in the lower half, the row's place plus one
	rows   []uint32 // places
	chunks [][]byte // in which places are, as if they were one
	used   int      // bytes of chunks, from the first on
	bytes  int      // of keys, and the room for values
	order  []rowOrder

	touched uint64 // so that touching has a purpose
}

// leastSlots is how many slots the smallest table has; their number is a power of two.
const leastSlots = 64

var rowSeed = maphash.MakeSeed()

func hashRow(key []byte) uint32 { return uint32(maphash.Bytes(rowSeed, key)) }

var rowTables = sync.Pool{New: func() any { return &rowTable{slots: make([]uint64, leastSlots)} }}

// bufferedRow begins with a row:
//
//	state u16 · key's length u16 · value's room u16 · value's length u16 · key · room for a value
//
// in the machine's own order of bytes, as it does not leave the memory.
type bufferedRow []byte

const rowHead = 8

// States of a row.
const (
	rowSet     = iota
	rowDeleted // it is to be deleted
	rowMoved   // its key has another row, with more room
)

func (r bufferedRow) state() uint16     { return binary.NativeEndian.Uint16(r) }
func (r bufferedRow) setState(s uint16) { binary.NativeEndian.PutUint16(r, s) }
func (r bufferedRow) keyBytes() int     { return int(binary.NativeEndian.Uint16(r[2:])) }
func (r bufferedRow) room() int         { return int(binary.NativeEndian.Uint16(r[4:])) }
func (r bufferedRow) key() []byte       { return r[rowHead : rowHead+r.keyBytes()] }

func (r bufferedRow) value() []byte {
	at := rowHead + r.keyBytes()
	return r[at : at+int(binary.NativeEndian.Uint16(r[6:]))]
}

// write gives a row its value, for which it has room; nil: it is to be deleted.
func (r bufferedRow) write(value []byte) {
	if value == nil {
		r.setState(rowDeleted)
		return
	}
	r.setState(rowSet)
	binary.NativeEndian.PutUint16(r[6:], uint16(len(value)))
	copy(r[rowHead+r.keyBytes():], value)
}

// row returns the row at a place.
func (t *rowTable) row(at uint32) bufferedRow { return t.chunks[at/chunkBytes][at%chunkBytes:] }

// find returns the slot of a key, and its row; nil: the slot is free, and where it belongs.
func (t *rowTable) find(hash uint32, key []byte) (slot int, r bufferedRow) {
	for slot = int(hash) & (len(t.slots) - 1); ; slot = (slot + 1) & (len(t.slots) - 1) {
		s := t.slots[slot]
		if s == 0 {
			return slot, nil
		}
		if uint32(s>>32) == hash {
			if r := t.row(uint32(s) - 1); bytes.Equal(r.key(), key) {
				return slot, r
			}
		}
	}
}

// size is what the table takes.
func (t *rowTable) size() size {
	return size{memory: t.used + bufferedRowBytes*len(t.rows), batch: t.bytes + pebbleRowBytes*len(t.rows)}
}

// size is of rows: what they take in a table, and what Pebble counts their batch with.
type size struct{ memory, batch int }

func (s size) plus(other size) size { return size{s.memory + other.memory, s.batch + other.batch} }

func (s size) fits(most size) bool { return s.memory <= most.memory && s.batch <= most.batch }

// put writes a row; value is nil to delete it.
func (t *rowTable) put(hash uint32, key, value []byte) {
	slot, r := t.find(hash, key)
	switch {
	case r == nil:
		r = t.add(slot, hash, key, len(value))
		t.grow()
	case len(value) > r.room():
		r.setState(rowMoved)
		r = t.add(slot, hash, key, len(value))
	}
	r.write(value)
}

// add makes a row and points the slot to it.
func (t *rowTable) add(slot int, hash uint32, key []byte, room int) bufferedRow {
	size := rowHead + len(key) + room
	if left := chunkBytes - t.used%chunkBytes; size > left {
		t.used += left
	}
	if t.used/chunkBytes == len(t.chunks) {
		t.chunks = append(t.chunks, make([]byte, chunkBytes))
	}
	at := uint32(t.used)
	t.used += size
	t.bytes += len(key) + room
	t.slots[slot] = uint64(hash)<<32 | uint64(at+1)
	t.rows = append(t.rows, at)
	r := t.row(at)
	binary.NativeEndian.PutUint16(r[2:], uint16(len(key)))
	binary.NativeEndian.PutUint16(r[4:], uint16(room))
	copy(r[rowHead:], key)
	return r
}

// grow keeps a quarter of the slots free.
func (t *rowTable) grow() {
	if len(t.rows) <= len(t.slots)/4*3 {
		return
	}
	old := t.slots
	t.slots = make([]uint64, 2*len(old))
	for _, s := range old {
		if s == 0 {
			continue
		}
		slot := int(s>>32) & (len(t.slots) - 1)
		for t.slots[slot] != 0 {
			slot = (slot + 1) & (len(t.slots) - 1)
		}
		t.slots[slot] = s
	}
}

// rowOrder sorts rows by the beginning of their keys behind the shard, which mostly
// decides: a pair's bucket and hash.
type rowOrder struct {
	bucket, hash uint64
	at           uint32 // the row's place
}

func (t *rowTable) sorted() []rowOrder {
	t.order = slices.Grow(t.order[:0], len(t.rows))
	var start [pairBytes]byte
	for _, at := range t.rows {
		r := t.row(at)
		if r.state() == rowMoved {
			continue
		}
		clear(start[copy(start[:], r.key()):])
		t.order = append(t.order, rowOrder{
			bucket: binary.BigEndian.Uint64(start[shardBytes:]),
			hash:   binary.BigEndian.Uint64(start[bucketBytes:]),
			at:     at,
		})
	}
	slices.SortFunc(t.order, func(a, b rowOrder) int {
		if c := cmp.Or(cmp.Compare(a.bucket, b.bucket), cmp.Compare(a.hash, b.hash)); c != 0 {
			return c
		}
		return bytes.Compare(t.row(a.at).key(), t.row(b.at).key())
	})
	return t.order
}

// writeTo puts all rows into a batch.
func (t *rowTable) writeTo(b *pebble.Batch) error {
	for _, o := range t.sorted() {
		var err error
		if r := t.row(o.at); r.state() == rowDeleted {
			err = b.Delete(r.key(), nil)
		} else {
			err = b.Set(r.key(), r.value(), nil)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// reset forgets all rows and keeps the room, but for slots that many more rows would need.
func (t *rowTable) reset() {
	if len(t.slots) > leastSlots && len(t.rows) < len(t.slots)/8 {
		t.slots = make([]uint64, len(t.slots)/2)
	} else {
		clear(t.slots)
	}
	t.rows, t.order, t.used, t.bytes = t.rows[:0], t.order[:0], 0, 0
}

// batchRow is a row of a batch on its way into a table.
type batchRow struct {
	hash       uint32
	slot       uint64
	key, value []byte // value nil: the row is to be deleted
}

// mostBatchRows is for how many the room is kept for the next batch.
const mostBatchRows = 4096

func sizeOf(rows []batchRow) size {
	bytes := 0
	for i := range rows {
		bytes += len(rows[i].key) + len(rows[i].value)
	}
	n := len(rows)
	return size{memory: bytes + n*(rowHead+bufferedRowBytes), batch: bytes + n*pebbleRowBytes}
}

// putAll writes rows, after it has touched their places.
func (t *rowTable) putAll(rows []batchRow) {
	for i := range rows {
		rows[i].slot = t.first(rows[i].hash)
	}
	for i := range rows {
		t.touched += t.touch(rows[i].slot)
	}
	for i := range rows {
		t.put(rows[i].hash, rows[i].key, rows[i].value)
	}
}

// first returns the first slot that a row of some hash may have. Nearly each slot, and
// each row, is in no cache of the processor, and finding rows one after the other waits
// for each of them. Looking at all slots first, and then touching all rows, it waits
// for several at a time: a batch takes half as long.
func (t *rowTable) first(hash uint32) uint64 { return t.slots[int(hash)&(len(t.slots)-1)] }

// touch reads something of the row of a slot, from its first two lines of cache.
func (t *rowTable) touch(slot uint64) uint64 {
	if slot == 0 {
		return 0
	}
	r := t.row(uint32(slot) - 1)
	return uint64(r[0]) + uint64(r[min(64, len(r)-1)])
}

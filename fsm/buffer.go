package fsm

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"sync"

	"github.com/cockroachdb/pebble/v2"

	"github.com/manykv/manykv/crash"
	"github.com/manykv/manykv/sharding"
)

// A shard's write buffer holds the rows that were applied and are not in Pebble yet.
// To find a row's place in Pebble's memtable costs some 2 µs among the rows of all
// shards, to flush it and to compact it half as much again; in the buffer a row's place
// is that of its hash, and a row that is written again takes the place it had.
//
// The rows move to Pebble sorted, and all of them in one batch with the record, so what a
// crash leaves is a position the shard had, as it was without a buffer. They move when
// the buffer is full, before a Flush, and before whatever reads Pebble only: lists,
// streams, hashes, restores, and commands that depend on rows. What reads pairs by
// their keys looks here first.
//
// mu makes one state of the buffer and Pebble: who holds it and opens an iterator has what
// the buffer holds, and below it the rest. While rows move, they are in moving and
// maybe in Pebble, which is the same to a reader.

// DefaultWriteBufferBytes is what a node keeps if nobody says otherwise: some 120,000
// pairs of 256 bytes.
const DefaultWriteBufferBytes = 48 << 20

const (
	// chunkBytes is in what pieces the room for rows is taken.
	chunkBytes = 256 << 10
	// bufferedBytes is the largest row that is buffered: of larger ones, the place costs
	// little beside the bytes.
	bufferedBytes = 32 << 10
	// bufferedRowBytes is what a row takes besides its piece of a chunk: slots, its place,
	// and its part of the order when rows are moved.
	bufferedRowBytes = 64
)

// writeBuffer is one shard's.
type writeBuffer struct {
	turn sync.Mutex // held by who moves rows; taken before mu

	mu     sync.RWMutex // guards the fields below
	rows   *rowTable    // changed by the apply goroutine; nil: there are none
	moving *rowTable    // on their way to Pebble, not changed any more; nil if none are
}

// rowTable is a hash table of rows, with open addressing: to find a row and to write it
// again touches one line of slots and the row. Rows do not go, so nothing is ever
// removed. Nobody can make keys collide.
type rowTable struct {
	slots   []uint64 // 0, or a hash u32 and, in the lower half, the row's place plus one
	rows    []uint32 // places
	chunks  [][]byte // in which places are, as if they were one
	used    int      // bytes of chunks, from the first on
	order   []rowOrder
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
func (t *rowTable) size() int { return t.used + bufferedRowBytes*len(t.rows) }

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
	row          bufferedRow
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
			row:    r,
		})
	}
	slices.SortFunc(t.order, func(a, b rowOrder) int {
		if c := cmp.Or(cmp.Compare(a.bucket, b.bucket), cmp.Compare(a.hash, b.hash)); c != 0 {
			return c
		}
		return bytes.Compare(a.row.key(), b.row.key())
	})
	return t.order
}

// writeTo puts all rows into a batch.
func (t *rowTable) writeTo(b *pebble.Batch) error {
	for _, o := range t.sorted() {
		var err error
		if o.row.state() == rowDeleted {
			err = b.Delete(o.row.key(), nil)
		} else {
			err = b.Set(o.row.key(), o.row.value(), nil)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// reset forgets all rows and keeps the room.
func (t *rowTable) reset() {
	clear(t.slots)
	clear(t.order)
	t.rows, t.order, t.used = t.rows[:0], t.order[:0], 0
}

// tables returns those there are, the newer one first. The caller holds mu.
func (w *writeBuffer) tables() []*rowTable {
	all := [...]*rowTable{w.rows, w.moving}
	switch {
	case w.rows == nil && w.moving == nil:
		return nil
	case w.rows == nil:
		return all[1:]
	case w.moving == nil:
		return all[:1]
	default:
		return all[:]
	}
}

// add writes rows into the buffer, unless that would then take more than limit.
func (w *writeBuffer) add(rows []batchRow, limit int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.rows == nil {
		w.rows = rowTables.Get().(*rowTable)
	}
	if w.rows.size()+sizeOf(rows) > limit {
		return false
	}
	w.rows.putAll(rows)
	return true
}

// batchRow is a row of a batch on its way into a table.
type batchRow struct {
	hash       uint32
	slot       uint64
	key, value []byte // value nil: the row is to be deleted
}

// mostBatchRows is for how many the room is kept for the next batch.
const mostBatchRows = 4096

func sizeOf(rows []batchRow) (bytes int) {
	for i := range rows {
		bytes += rowHead + len(rows[i].key) + len(rows[i].value) + bufferedRowBytes
	}
	return bytes
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

// buffered is what the buffers of all shards take.
func (s *Store) buffered() (bytes uint64) {
	for _, d := range s.machinesOfData() {
		d.buffer.mu.RLock()
		for _, t := range d.buffer.tables() {
			bytes += uint64(t.size())
		}
		d.buffer.mu.RUnlock()
	}
	return bytes
}

func (s *Store) machinesOfData() []*Data {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.data))
}

// bufferShare is how much one shard's buffer may take: its part of the whole, and not so
// much that its batch is a large one to Pebble.
func (s *Store) bufferShare() int {
	return min(commitBytes, int(s.cfg.WriteBufferBytes/max(1, s.machines.Load())))
}

// put writes a batch to where readers look: the buffer, or, if it holds what is not
// buffered, Pebble, after what is buffered.
func (d *Data) put(b *pebble.Batch) error {
	share := d.store.bufferShare()
	buffered, err := d.bufferable(b, share)
	if err != nil {
		return err
	}
	defer d.forgetBatch()
	if buffered && d.buffer.add(d.batch, share) {
		return nil
	}
	if err := d.drain(); err != nil {
		return err
	}
	if buffered && d.buffer.add(d.batch, share) {
		return nil
	}
	return b.Commit(pebble.NoSync)
}

// bufferable takes a batch's rows apart and says whether they can be buffered: single
// rows, none of them large. A batch that has read rows is not, for the next one like it
// would have to move it on.
func (d *Data) bufferable(b *pebble.Batch, share int) (bool, error) {
	if b.Indexed() || b.Len() > share/2 {
		return false, nil
	}
	for r := b.Reader(); ; {
		kind, key, value, ok, err := r.Next()
		if !ok || err != nil {
			return err == nil, err
		}
		switch kind {
		case pebble.InternalKeyKindDelete:
			value = nil
		case pebble.InternalKeyKindSet:
			value = value[:len(value):len(value)]
		default:
			return false, nil
		}
		if len(key)+len(value) > bufferedBytes {
			return false, nil
		}
		d.batch = append(d.batch, batchRow{hash: hashRow(key), key: key, value: value})
	}
}

func (d *Data) forgetBatch() {
	if clear(d.batch); cap(d.batch) > mostBatchRows {
		d.batch = nil
	}
	d.batch = d.batch[:0]
}

// drain moves what is buffered to Pebble: everything applied before the call.
func (d *Data) drain() error {
	w := &d.buffer
	w.turn.Lock()
	defer w.turn.Unlock()
	if err := context.Cause(d.store.failed); err != nil {
		return err // what was to be moved then is still in moving
	}
	w.mu.Lock()
	t := w.rows
	w.rows, w.moving = nil, t
	w.mu.Unlock()
	if t == nil {
		return nil
	}
	if err := d.move(t); err != nil {
		return fmt.Errorf("moving what is buffered of shard %d to Pebble: %w", d.shard, err)
	}
	w.mu.Lock()
	w.moving = nil
	w.mu.Unlock()
	t.reset()
	rowTables.Put(t)
	return nil
}

func (d *Data) move(t *rowTable) error {
	b := d.store.db.NewBatchWithSize(t.size())
	if err := t.writeTo(b); err != nil {
		return err
	}
	crash.Point("fsm.drain.before")
	if err := b.Commit(pebble.NoSync); err != nil {
		return err
	}
	crash.Point("fsm.drain.after")
	if err := context.Cause(d.store.failed); err != nil {
		return err // the commit may have failed without an error: see pebbleLog
	}
	return b.Close()
}

// drain moves to Pebble what the buffers of all shards hold.
func (s *Store) drain() error {
	for _, d := range s.machinesOfData() {
		if err := d.drained(); err != nil {
			return err
		}
	}
	return nil
}

// drainShard moves what one shard's buffer holds.
func (s *Store) drainShard(shard sharding.Shard) error {
	s.mu.Lock()
	d := s.data[shard]
	s.mu.Unlock()
	if d == nil {
		return nil
	}
	return d.drained()
}

// drained is drain for those who do not apply: a failure stops the store for them, too,
// as what was applied would never be durable.
func (d *Data) drained() error {
	err := d.drain()
	if err != nil {
		d.store.fatal(err)
	}
	return err
}

package fsm

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

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
// crash leaves is a position the shard had, as it was without a buffer. They move in the
// background when there are many, while others come; before a Flush; and before
// whatever reads Pebble only: lists, streams, hashes, restores, and commands that depend
// on rows. What reads pairs by their keys looks here first.
//
// mu makes one state of the buffer and Pebble: who holds it and opens an iterator has what
// the buffer holds, and below it the rest. While rows move, they are in moving and
// maybe in Pebble, which is the same to a reader. Whoever is about to change rows, here or
// in Pebble, says so under mu (Data.changing).

// DefaultWriteBufferBytes is what a node keeps if nobody says otherwise: some 120,000
// pairs of 256 bytes.
const DefaultWriteBufferBytes = 48 << 20

const (
	// mostBatchBytes is how large a batch Pebble may see in one shard's buffer: three fit a
	// memtable, and it is less than the half of one, from which on Pebble flushes for a batch.
	mostBatchBytes = memTableBytes / 3
	// moveAt is at how many parts of eight of what it may take a shard's rows begin to move.
	moveAt = 7
)

// writeBuffer is one shard's.
type writeBuffer struct {
	turn sync.Mutex // held by who moves rows; taken before mu

	mu     sync.RWMutex // guards the fields below
	rows   *rowTable    // changed by the apply goroutine; nil: there are none
	moving *rowTable    // on their way to Pebble, not changed any more; nil if none are

	soon atomic.Bool // somebody is about to move rows
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

// size is that of the rows that are not moving.
func (w *writeBuffer) size() size {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if w.rows == nil {
		return size{}
	}
	return w.rows.size()
}

// add writes rows into the buffer.
func (w *writeBuffer) add(rows []batchRow) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.rows == nil {
		w.rows = rowTables.Get().(*rowTable)
	}
	w.rows.putAll(rows)
}

// buffered is what the buffers of all shards take.
func (s *Store) buffered() (bytes uint64) {
	for _, d := range s.machinesOfData() {
		d.buffer.mu.RLock()
		for _, t := range d.buffer.tables() {
			bytes += uint64(t.size().memory)
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

// bufferShare is how large one shard's buffer may be: its part of the whole.
func (s *Store) bufferShare() size {
	return size{memory: int(s.cfg.WriteBufferBytes / max(1, s.machines.Load())), batch: mostBatchBytes}
}

// put writes a batch to where readers look: the buffer, or, if it holds what is not
// buffered, Pebble, after what is buffered.
func (d *Data) put(b *pebble.Batch) error {
	if d.store.cfg.ReadOnly {
		return pebble.ErrReadOnly
	}
	share := d.store.bufferShare()
	buffered, err := d.bufferable(b, share)
	if err != nil {
		return err
	}
	defer d.forgetBatch()
	// Nobody can use what is cached while rows change: they do not until there is room.
	if !buffered || !d.buffer.size().plus(sizeOf(d.batch)).fits(share) {
		if err := d.drain(); err != nil {
			return err
		}
	}
	d.changing()
	if err := d.cacheBatch(b, buffered); err != nil {
		return err
	}
	if !buffered {
		return b.Commit(pebble.NoSync)
	}
	d.buffer.add(d.batch)
	if d.filled() {
		d.drainSoon()
	}
	return nil
}

// filled says whether rows should move soon.
func (d *Data) filled() bool {
	share := d.store.bufferShare()
	return !d.buffer.size().fits(size{share.memory / 8 * moveAt, share.batch / 8 * moveAt})
}

// drainSoon moves rows while others are applied, one shard's at a time, unless a shard fills
// meanwhile: shards are filled alike, and moving takes as much memory again. The caller
// does not wait for this.
func (d *Data) drainSoon() {
	if !d.buffer.soon.CompareAndSwap(false, true) {
		return
	}
	go func() {
		defer d.buffer.soon.Store(false)
		if d.store.acquire() != nil { // Close has moved them, or nobody will
			return
		}
		defer d.store.release()
		d.store.drainingSoon.Lock()
		defer d.store.drainingSoon.Unlock()
		if d.filled() { // nobody else has moved them meanwhile
			_ = d.drain() // which has told the store
		}
	}()
}

// bufferable takes a batch's rows apart and says whether they can be buffered: single
// rows, none of them large. A batch that has read rows is not, for the next one like it
// would have to move it on.
func (d *Data) bufferable(b *pebble.Batch, share size) (bool, error) {
	if b.Indexed() || b.Len() > share.memory/2 {
		return false, nil
	}
	for r := b.Reader(); ; {
		kind, key, value, ok, err := r.Next()
		if !ok || err != nil {
			return err == nil && sizeOf(d.batch).fits(share), err
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

// drain moves what is buffered to Pebble: everything applied before the call. A failure
// stops the store: what was applied would never be durable.
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
		d.store.fatal(fmt.Errorf("moving what is buffered of shard %d to Pebble: %w", d.shard, err))
		return context.Cause(d.store.failed)
	}
	w.mu.Lock()
	w.moving = nil
	w.mu.Unlock()
	d.store.moves.Add(1)
	t.reset()
	rowTables.Put(t)
	return nil
}

func (d *Data) move(t *rowTable) error {
	b := d.store.db.NewBatchWithSize(t.size().memory)
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
		if err := d.drain(); err != nil {
			return err
		}
	}
	return nil
}

// drainShard moves what one shard's buffer holds.
func (s *Store) drainShard(shard sharding.Shard) error {
	if d := s.opened(shard); d != nil {
		return d.drain()
	}
	return nil
}

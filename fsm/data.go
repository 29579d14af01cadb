package fsm

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

// Data is the state machine of one data shard: its pairs.
type Data struct {
	machine
	owned atomic.Pointer[sharding.Range] // nil before the first lead entry
}

func openData(s *Store, shard sharding.Shard) (*Data, error) {
	d := &Data{}
	if err := d.open(s, shard); err != nil {
		return nil, err
	}
	d.publish()
	return d, nil
}

// Apply applies committed entries, in the log's order, and returns a Result
// for each. Entries at or below the position are skipped. Only one goroutine
// may call it.
func (d *Data) Apply(entries []Entry) []Result { return d.apply(d, entries) }

// Range returns the slots the shard owns; false before its first lead entry.
func (d *Data) Range() (sharding.Range, bool) {
	r := d.owned.Load()
	if r == nil {
		return sharding.Range{}, false
	}
	return *r, true
}

func (d *Data) newBatch() *pebble.Batch { return d.store.db.NewBatch() }

func (d *Data) publish() {
	if d.rec.owns && d.owned.Load() == nil {
		r := d.rec.owned
		d.owned.Store(&r)
	}
}

func (d *Data) command(b *pebble.Batch, e *Entry) (Result, error) {
	kind, body, err := kv.Header(e.Command)
	switch {
	case err != nil:
		return Result{Err: invalid(err)}, nil
	case kind == kv.KindSet, kind == kv.KindDelete:
		return Result{Err: d.write(b, e)}, nil
	case kind == kv.KindLead:
		return Result{Err: d.lead(body, e.Term)}, nil
	default:
		return Result{Err: fmt.Errorf("%w: command kind %d for a data shard", kv.ErrInvalid, kind)}, nil
	}
}

// lead starts a leader's term. The first one fixes the slots of the shard; the
// later ones carry them too and only tell the term.
func (d *Data) lead(body *kv.Decoder, term uint64) error {
	r := sharding.Range{First: body.U16(), Last: body.U16()}
	if err := body.Finish(); err != nil {
		return invalid(err)
	}
	if r.First > r.Last || r.Last >= sharding.Slots {
		return fmt.Errorf("%w: a shard of slots %d to %d, want some of 0 to %d", kv.ErrInvalid, r.First, r.Last, sharding.Slots-1)
	}
	if !d.rec.owns {
		d.rec.owns, d.rec.owned = true, r
	}
	d.rec.LeadTerm = term
	return nil
}

// write applies a set or delete command. It reads the command twice: a batch
// cannot be rolled back, and whether anything may be applied is known only at
// the command's end. Hashing again is cheaper than keeping the hashes.
func (d *Data) write(b *pebble.Batch, e *Entry) error {
	if err := d.check(e.Command); err != nil {
		return err
	}
	w, err := kv.DecodeWrite(e.Command)
	if err != nil {
		return invalid(err)
	}
	for {
		key, value, ok := w.Next()
		if !ok {
			return nil
		}
		hash := sharding.Hash(w.Bucket, key)
		var op *pebble.DeferredBatchOp
		if w.Kind == kv.KindSet {
			op = b.SetDeferred(pairBytes+len(key), versionBytes+len(value))
			binary.BigEndian.PutUint64(op.Value, e.Index)
			copy(op.Value[versionBytes:], value)
		} else {
			op = b.DeleteDeferred(pairBytes + len(key))
		}
		putPairKey(op.Key, d.shard, w.Bucket, hash, key)
		_ = op.Finish() // only an indexed batch has anything to finish
	}
}

// check reads a set or delete command to its end and says whether it may be
// applied.
func (d *Data) check(command []byte) error {
	w, err := kv.DecodeWrite(command)
	if err != nil {
		return invalid(err)
	}
	if w.Bucket == 0 {
		return fmt.Errorf("%w: a write to bucket 0, want 1 or more", kv.ErrInvalid)
	}
	foreign := -1 // the first slot that is not the shard's
	for {
		key, _, ok := w.Next()
		if !ok {
			break
		}
		if slot := sharding.SlotOf(sharding.Hash(w.Bucket, key)); foreign < 0 && !d.rec.owned.Contains(slot) {
			foreign = int(slot)
		}
	}
	switch err := w.Err(); {
	case err != nil:
		return invalid(err)
	case !d.rec.owns:
		return fmt.Errorf("%w: shard %d owns none yet", ErrNotOwner, d.shard)
	case foreign >= 0:
		return fmt.Errorf("%w: shard %d owns %d to %d, a key is in %d", ErrNotOwner, d.shard, d.rec.owned.First, d.rec.owned.Last, foreign)
	default:
		return nil
	}
}

// keyBuffer is room for the disk key of an ordinary key.
const keyBuffer = 128

// Get calls visit for each of keys, in their order, for one that is there twice
// twice. A missing key has found false, version 0 and a nil value; a present
// one the index of the entry that wrote it and a value that is valid only until
// visit returns. All keys are read from one state of the shard, at or after the
// position it had when Get was called. The first error of visit ends Get and is
// returned. visit must not call the store: a Close that waits for it would wait
// for ever.
//
// One iterator reads all keys: it is a consistent view that costs no lock of
// the store (a Pebble snapshot takes two) and no allocation for each key.
// Measured on two cores with 400,000 keys of 256 B, 100 of them at random:
// 289 µs against 361 µs for Gets of a snapshot. Only a shard still wholly in
// memory is read faster that way, 83 µs against 139 µs.
func (d *Data) Get(bucket uint64, keys []string, visit func(i int, value []byte, version uint64, found bool) error) (err error) {
	if err := d.store.acquire(); err != nil {
		return err
	}
	defer d.store.release()
	// With the filters of the last level a missing key reads no block there.
	it, err := d.store.db.NewIter(&pebble.IterOptions{UseL6Filters: true})
	if err != nil {
		return fmt.Errorf("fsm: reading shard %d: %w", d.shard, err)
	}
	defer func() {
		if closeErr := it.Close(); err == nil && closeErr != nil {
			err = fmt.Errorf("fsm: reading shard %d: %w", d.shard, closeErr)
		}
	}()
	buf := make([]byte, 0, keyBuffer)
	for i, key := range keys {
		buf = appendPairKey(buf[:0], d.shard, bucket, sharding.HashString(bucket, key), key)
		version, value, found, err := seekPair(it, buf)
		if err != nil {
			return fmt.Errorf("fsm: reading shard %d: %w", d.shard, err)
		}
		if err := visit(i, value, version, found); err != nil {
			return err
		}
	}
	return nil
}

// seekPair reads one pair. Pebble's default comparer takes a whole key for its
// prefix, so what a prefix seek finds is this key.
func seekPair(it *pebble.Iterator, key []byte) (version uint64, value []byte, found bool, err error) {
	if !it.SeekPrefixGE(key) {
		return 0, nil, false, it.Error()
	}
	row, err := it.ValueAndErr()
	if err != nil {
		return 0, nil, false, err
	}
	version, value, err = splitPair(row)
	return version, value, err == nil, err
}

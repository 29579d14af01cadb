package fsm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"

	"github.com/cockroachdb/pebble/v2"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/mutant"
	"github.com/manykv/manykv/sharding"
)

// write applies a client's command, if it is its turn in the client's session.
func (d *Data) write(b *pebble.Batch, e *Entry) (Result, error) {
	w, err := kv.DecodeWrite(e.Command)
	if err != nil {
		return Result{Err: invalid(err)}, nil
	}
	refusal := d.check(&w)
	if refusal != nil && errors.Is(refusal, ErrNotOwner) { // elsewhere it may be the call's first entry
		return Result{Err: refusal}, nil
	}
	if w.Origin.Client == 0 {
		return d.perform(b, e, nil, refusal)
	}
	c, r, err := d.sessions.turn(b, &w.Origin, d.rec.time, e.Index)
	if c == nil || err != nil {
		return r, err
	}
	if r, err = d.perform(b, e, c, refusal); err != nil {
		return Result{}, err
	}
	c.remember(r)
	return r, nil
}

// check reads a client's command to its end and says whether it may be applied.
func (d *Data) check(w *kv.Write) error {
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
		return d.exists(w.Bucket)
	}
}

// perform applies a command, or refuses it. It reads the command again from its
// start: a batch cannot be rolled back, and whether anything may be applied was
// known only at the command's end. Hashing again is cheaper than keeping the
// hashes. Only a command of a session has a call.
func (d *Data) perform(b *pebble.Batch, e *Entry, c *call, refusal error) (Result, error) {
	w, err := kv.DecodeWrite(e.Command)
	if err != nil { // check has read it
		return Result{}, err
	}
	switch {
	case w.Kind == kv.KindPiece, w.Kind == kv.KindLast:
		return d.large(b, e, &w, c, refusal)
	case refusal != nil:
		return Result{Err: refusal}, nil
	case w.Kind == kv.KindIncrement:
		return d.increment(b, e, &w)
	case w.Kind == kv.KindSwap:
		return d.swap(b, e, &w)
	default:
		return Result{}, d.setOrDelete(b, e, &w)
	}
}

func (d *Data) setOrDelete(b *pebble.Batch, e *Entry, w *kv.Write) error {
	for {
		key, value, ok := w.Next()
		if !ok {
			return nil
		}
		var op *pebble.DeferredBatchOp
		if w.Kind == kv.KindSet {
			op = b.SetDeferred(pairBytes+len(key), versionBytes+len(value))
			binary.BigEndian.PutUint64(op.Value, e.Index)
			copy(op.Value[versionBytes:], value)
		} else {
			if mutant.On(mutant.DeleteForgotten) && e.Index%50 == 0 {
				continue
			}
			op = b.DeleteDeferred(pairBytes + len(key))
		}
		putPairKey(op.Key, d.shard, w.Bucket, sharding.Hash(w.Bucket, key), key)
		if err := op.Finish(); err != nil { // an indexed batch has something to finish
			return err
		}
	}
}

// maxNumber is the longest decimal number of 64 bits.
const maxNumber = len("-9223372036854775808")

// increment adds to a number in the only decimal form it can have.
func (d *Data) increment(b *pebble.Batch, e *Entry, w *kv.Write) (Result, error) {
	key, _, _ := w.Next()
	at := d.pairKey(w.Bucket, key)
	version, value, err := readPair(b, at)
	if err != nil {
		return Result{}, err
	}
	var n int64
	if version != 0 {
		if len(value) <= maxNumber {
			n, err = strconv.ParseInt(string(value), 10, 64)
		}
		if err != nil || strconv.FormatInt(n, 10) != string(value) {
			return Result{Err: fmt.Errorf("%w: a value of %d bytes is not a decimal number of 64 bits", kv.ErrInvalid, len(value))}, nil
		}
	}
	if w.Delta > 0 && n > math.MaxInt64-w.Delta || w.Delta < 0 && n < math.MinInt64-w.Delta {
		return Result{Err: fmt.Errorf("%w: %d and %d overflow 64 bits", kv.ErrInvalid, n, w.Delta)}, nil
	}
	n += w.Delta
	row := binary.BigEndian.AppendUint64(make([]byte, 0, versionBytes+maxNumber), e.Index)
	return Result{Value: uint64(n)}, b.Set(at, strconv.AppendInt(row, n, 10), nil)
}

func (d *Data) swap(b *pebble.Batch, e *Entry, w *kv.Write) (Result, error) {
	key, value, _ := w.Next()
	at := d.pairKey(w.Bucket, key)
	if conflict, err := expect(b, at, w.Version); conflict.Err != nil || err != nil {
		return conflict, err
	}
	row := binary.BigEndian.AppendUint64(make([]byte, 0, versionBytes+len(value)), e.Index)
	return Result{Value: e.Index}, b.Set(at, append(row, value...), nil)
}

// expect says with kv.ErrConflict and the actual version if the pair at a disk
// key has another version than want.
func expect(b *pebble.Batch, at []byte, want uint64) (Result, error) {
	version, _, err := readPair(b, at)
	if err != nil || version == want {
		return Result{}, err
	}
	return Result{Value: version, Err: fmt.Errorf("%w: the key has version %d, want %d", kv.ErrConflict, version, want)}, nil
}

// pairKey returns the disk key of a pair.
func (d *Data) pairKey(bucket uint64, key []byte) []byte {
	at := make([]byte, pairBytes+len(key))
	putPairKey(at, d.shard, bucket, sharding.Hash(bucket, key), key)
	return at
}

// readPair reads a pair as the batch leaves it; version 0 means there is none.
func readPair(b *pebble.Batch, at []byte) (version uint64, value []byte, err error) {
	pair, err := row(b, at)
	if err != nil || pair == nil {
		return 0, nil, err
	}
	return splitPair(pair)
}

// reads says whether an entry's command depends on what the entries before it
// have written.
func reads(e Entry) bool {
	kind := kv.KindOf(e.Command)
	return kind == kv.KindIncrement || kind == kv.KindSwap || kind == kv.KindLast
}

package fsm

import (
	"encoding/binary"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

// large applies a piece or last command. A refused one ends the value: what was
// put aside of it is dropped.
func (d *Data) large(b *pebble.Batch, e *Entry, w *kv.Write, c *call, refusal error) (Result, error) {
	if c == nil {
		return Result{Err: fmt.Errorf("%w: a piece of a value without a session", kv.ErrInvalid)}, nil
	}
	key, part, _ := w.Next() // of a malformed command nil: it was refused
	hash := sharding.Hash(w.Bucket, key)
	if w.Offset == 0 { // another value begins
		if err := d.sessions.dropAside(b, w.Origin.Client, c); err != nil {
			return Result{}, err
		}
	}
	if refusal == nil {
		refusal = c.follows(w.Offset, hash, len(part))
	}
	r := Result{Err: refusal}
	var err error
	if refusal == nil && w.Kind == kv.KindLast {
		if r, err = d.last(b, e, w, c, key, part); err != nil {
			return Result{}, err
		}
	}
	if r.Err != nil {
		return r, d.sessions.dropAside(b, w.Origin.Client, c)
	}
	if w.Kind == kv.KindPiece && len(part) > 0 {
		c.aside, c.hash = c.aside+uint64(len(part)), hash
		return r, b.Set(numberedKey(d.shard, tagPiece, w.Origin.Client, c.seq, w.Offset), part, nil)
	}
	return r, nil
}

// follows says whether a part of a value may come after what is aside.
func (c *call) follows(offset, hash uint64, size int) error {
	switch {
	case offset != c.aside:
		return fmt.Errorf("%w: a piece at byte %d of a value, %d are put aside", kv.ErrInvalid, offset, c.aside)
	case c.aside > 0 && hash != c.hash:
		return fmt.Errorf("%w: a piece at byte %d of another key's value", kv.ErrInvalid, offset)
	case offset+uint64(size) > kv.MaxValueBytes:
		return fmt.Errorf("%w: a value of %d bytes, at most %d are allowed", kv.ErrTooLarge, offset+uint64(size), kv.MaxValueBytes)
	default:
		return nil
	}
}

// last makes a value visible: what is aside and then rest.
func (d *Data) last(b *pebble.Batch, e *Entry, w *kv.Write, c *call, key, rest []byte) (Result, error) {
	at := d.pairKey(w.Bucket, key)
	var r Result
	if w.Swaps {
		if conflict, err := expect(b, at, w.Version); conflict.Err != nil || err != nil {
			return conflict, err
		}
		r.Value = e.Index
	}
	row := make([]byte, 0, versionBytes+int(c.aside)+len(rest))
	row = binary.BigEndian.AppendUint64(row, e.Index)
	row, err := d.takeAside(b, w.Origin.Client, c, row)
	if err != nil {
		return Result{}, err
	}
	return r, b.Set(at, append(row, rest...), nil)
}

// takeAside appends the bytes that a call has put aside and deletes their rows:
// one by one, because Pebble has to cut up all range tombstones of a memtable
// again after each new one, and this is the ordinary end of a large value.
func (d *Data) takeAside(b *pebble.Batch, client uint64, c *call, dst []byte) ([]byte, error) {
	for offset := uint64(0); offset < c.aside; {
		at := numberedKey(d.shard, tagPiece, client, c.seq, offset)
		part, err := row(b, at)
		if err != nil {
			return nil, err
		}
		if len(part) == 0 || uint64(len(part)) > c.aside-offset {
			return nil, fmt.Errorf("the piece of client %d, call %d, byte %d has %d bytes, want 1 to %d", client, c.seq, offset, len(part), c.aside-offset)
		}
		if err := b.Delete(at, nil); err != nil {
			return nil, err
		}
		dst = append(dst, part...)
		offset += uint64(len(part))
	}
	c.aside, c.hash = 0, 0
	return dst, nil
}

package fsm

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/cespare/xxhash/v2"
)

// StateHash tells whether two replicas that are at the same index have the same
// state.
type StateHash struct {
	Position        // of the state
	Hash     uint64 // xxhash64 of all rows in key order, each  length u32 · key without the shard · length u32 · value
	Rows     uint64
}

// hashStride is after how many rows a scan looks whether it should end.
const hashStride = 256

// Hash reads the machine's whole state, as it is at one moment. One scan runs at
// a time in a store, the others wait; ctx or Close ends it.
func (m *machine) Hash(ctx context.Context) (StateHash, error) {
	select {
	case m.store.hashing <- struct{}{}:
		defer func() { <-m.store.hashing }()
	case <-ctx.Done():
		return StateHash{}, fmt.Errorf("fsm: hashing shard %d: %w", m.shard, ctx.Err())
	case <-m.store.done.Done():
		return StateHash{}, context.Cause(m.store.done)
	}
	if err := m.store.acquire(); err != nil {
		return StateHash{}, err
	}
	defer m.store.release()
	r, err := m.scan()
	if err != nil {
		return StateHash{}, err
	}
	h, err := m.hash(ctx, r)
	if closeErr := r.it.Close(); err == nil {
		err = closeErr // with the scan's own error
	}
	if err != nil {
		return StateHash{}, fmt.Errorf("fsm: hashing shard %d: %w", m.shard, err)
	}
	return h, nil
}

func (m *machine) hash(ctx context.Context, r *rows) (StateHash, error) {
	h := StateHash{Position: r.position}
	sum := xxhash.New()
	var length [4]byte
	add := func(b []byte) {
		binary.BigEndian.PutUint32(length[:], uint32(len(b)))
		sum.Write(length[:])
		sum.Write(b)
	}
	for ; r.it.Valid(); r.it.Next() {
		if h.Rows%hashStride == 0 {
			if err := m.interrupted(ctx); err != nil {
				return StateHash{}, err
			}
		}
		value, err := r.value()
		if err != nil {
			return StateHash{}, err
		}
		add(r.key())
		add(value)
		h.Rows++
	}
	h.Hash = sum.Sum64()
	return h, nil
}

// interrupted says why a scan must end: its caller went away, or the store is
// being closed and waits for it.
func (m *machine) interrupted(ctx context.Context) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return context.Cause(m.store.done)
}

package coordinator

import (
	"context"
	"errors"
	"fmt"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

const (
	// PageKeys is how many keys a list returns at once: enough to make the round
	// trip small beside the work.
	PageKeys = 1000
	// PageBytes is where a node ends a page, of a list or of a get-many's answer: a
	// small part of what its memory budget allows, and far more than a round trip.
	PageBytes = 4 << 20
)

// page is one shard's part of a list on its way.
type page struct {
	cursor uint64
	most   int // keys

	keys []string
	next uint64
}

// List returns keys of a bucket in the order of their hashes, from the cursor on:
// 0 for the first. next is the cursor of those after them, 0 if there are none. A
// page has about PageKeys keys, fewer only if it would be over PageBytes, or the
// end. It is not the bucket at one instant: a key that is set or deleted
// meanwhile may be there or not, every other is there once.
func (c *Coordinator) List(ctx context.Context, bucket, cursor uint64) (keys []string, next uint64, err error) {
	for next, size := cursor, 0; ; {
		p := page{cursor: next, most: PageKeys - len(keys)}
		b := &batch{c: c, op: OpList, bucket: bucket, size: 1, page: &p}
		if err := b.read(ctx); err != nil {
			return nil, 0, err
		}
		keys, next = append(keys, p.keys...), p.next
		for _, key := range p.keys {
			size += len(key)
		}
		if next == 0 || len(keys) >= PageKeys || size >= PageBytes {
			return keys, next, nil
		}
	}
}

// read runs a read.
func (b *batch) read(ctx context.Context) error {
	b.run(ctx)
	switch {
	case b.failed != nil:
		return b.failed
	case len(b.pending) > 0:
		return b.timeUp(ctx)
	}
	return nil
}

// settleList takes in a page of a shard.
func (b *batch) settleList(p *part, a *PartAnswer) {
	keys, next, err := ReadKeys(a)
	if err == nil && next != 0 && (next <= b.page.cursor || sharding.SlotOf(next) > p.slots.Last) {
		err = errors.New("the cursor after it does not follow")
	}
	if err != nil {
		b.fail(fmt.Errorf("%w: the page of shard %d from %#x to %#x: %w", kv.ErrUnavailable, p.shard, b.page.cursor, next, err))
		return
	}
	if next == 0 {
		next = afterSlot(p.slots.Last)
	}
	b.page.keys, b.page.next = keys, next
}

// hashesOfSlot is how many hashes make a slot.
const hashesOfSlot = 1 << 64 / sharding.Slots

// afterSlot returns the first hash after a slot: 0, by overflow, after the last.
func afterSlot(slot uint16) uint64 { return (uint64(slot) + 1) * hashesOfSlot }

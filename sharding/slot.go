package sharding

import (
	"encoding/binary"

	"github.com/cespare/xxhash/v2"
)

const (
	// slotBits is how many top bits of the hash make the slot.
	slotBits = 14
	// Slots is the number of slots the hash space is cut into.
	Slots = 1 << slotBits
)

// Hash returns the 64-bit hash of a key: xxhash64, seed 0, of the bucket id
// (8 bytes, big endian) and the key's bytes.
func Hash(bucket uint64, key []byte) uint64 {
	d := seeded(bucket)
	d.Write(key)
	return d.Sum64()
}

// HashString is Hash of a key held as a string.
func HashString(bucket uint64, key string) uint64 {
	d := seeded(bucket)
	d.WriteString(key)
	return d.Sum64()
}

func seeded(bucket uint64) (d xxhash.Digest) {
	d.Reset()
	var id [8]byte
	binary.BigEndian.PutUint64(id[:], bucket)
	d.Write(id[:])
	return d
}

// SlotOf returns the slot of a hash: its top 14 bits.
func SlotOf(hash uint64) uint16 { return uint16(hash >> (64 - slotBits)) }

// FirstHash returns the least hash of a slot; 0 for Slots, which is behind the
// last one.
func FirstHash(slot uint16) uint64 { return uint64(slot) << (64 - slotBits) }

// Range is the slots First to Last, both inclusive.
type Range struct{ First, Last uint16 }

// Contains says whether the range holds slot.
func (r Range) Contains(slot uint16) bool { return r.First <= slot && slot <= r.Last }

// Next returns the first hash behind the range: where a walk in the order of
// hashes goes on with the next shard. 0 at the end of all hashes.
func (r Range) Next() (cursor uint64) { return FirstHash(r.Last + 1) }

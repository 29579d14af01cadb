package sharding_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/manykv/manykv/sharding"
)

// hashes were computed with an implementation of XXH64 other than the one used
// here: keys on disk are ordered by them and every client routes by them.
var hashes = []struct {
	bucket uint64
	key    string
	hash   uint64
	slot   uint16
}{
	{0, "", 0x34c96acdcadb1bbb, 3378},
	{1, "", 0x9f1ffc793b8a47da, 10183},
	{1, "a", 0xb648a0e2222a84c6, 11666},
	{0x6162636465666768, "ijklmnopqrstuvwxyz", 0xcfe1f278fa89835c, 13304}, // the hash of "abc…z"
	{2, "schlüssel/€", 0x41afb489d0c01efc, 4203},
	{
		7, "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789",
		0x58c1bd040cf4eff5, 5680,
	},
	{1<<64 - 1, "\xff\x00", 0xe4602bfd2a62ae40, 14616},
}

func TestHashesAreGolden(t *testing.T) {
	for _, h := range hashes {
		if got := sharding.HashString(h.bucket, h.key); got != h.hash {
			t.Errorf("hash of %q in bucket %#x is %#x, want %#x", h.key, h.bucket, got, h.hash)
		}
		if got := sharding.SlotOf(h.hash); got != h.slot {
			t.Errorf("slot of hash %#x is %d, want %d", h.hash, got, h.slot)
		}
	}
}

func TestSlotsAreTheTopBits(t *testing.T) {
	for hash, want := range map[uint64]uint16{
		0: 0, 1<<50 - 1: 0, 1 << 50: 1, 1<<63 - 1: sharding.Slots/2 - 1, 1 << 63: sharding.Slots / 2, 1<<64 - 1: sharding.Slots - 1,
	} {
		if got := sharding.SlotOf(hash); got != want {
			t.Errorf("slot of hash %#x is %d, want %d", hash, got, want)
		}
	}
}

func TestKeysHashAlikeAsStringAndBytes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bucket, key := rapid.Uint64().Draw(t, "bucket"), rapid.SliceOf(rapid.Byte()).Draw(t, "key")
		if a, b := sharding.Hash(bucket, key), sharding.HashString(bucket, string(key)); a != b {
			t.Fatalf("hash %#x as bytes, %#x as a string", a, b)
		}
	})
}

func TestRangesHoldBothEnds(t *testing.T) {
	r := sharding.Range{First: 10, Last: 12}
	for slot, want := range map[uint16]bool{9: false, 10: true, 11: true, 12: true, 13: false, 0: false, 65535: false} {
		if got := r.Contains(slot); got != want {
			t.Errorf("slots 10 to 12 hold %d: %v, want %v", slot, got, want)
		}
	}
}

func TestASlotsHashesBeginAtItsFirst(t *testing.T) {
	for slot, want := range map[uint16]uint64{0: 0, 1: 1 << 50, 0x1fff: 0x1fff << 50, sharding.Slots - 1: 0xfffc << 48, sharding.Slots: 0} {
		if got := sharding.FirstHash(slot); got != want {
			t.Errorf("slot %d begins at hash %#x, want %#x", slot, got, want)
		}
	}
	for slot := range uint16(sharding.Slots) {
		first := sharding.FirstHash(slot)
		if sharding.SlotOf(first) != slot || slot > 0 && sharding.SlotOf(first-1) != slot-1 {
			t.Fatalf("hash %#x is of slot %d, the one before of %d, want %d to begin there", first, sharding.SlotOf(first), sharding.SlotOf(first-1), slot)
		}
	}
}

// A walk over all hashes goes from shard to shard and ends.
func TestRangesFollowEachOther(t *testing.T) {
	m := found(t, 3, 7, 3)
	cursor := uint64(0)
	for i := range m.Groups {
		if got := m.GroupOf(sharding.SlotOf(cursor)); got != &m.Groups[i] {
			t.Errorf("cursor %#x is in shard %d, want %d", cursor, got.Shard, i+1)
		}
		cursor = m.Groups[i].Range.Next()
	}
	if cursor != 0 {
		t.Errorf("behind the last shard the cursor is %#x, want 0", cursor)
	}
	if got := (sharding.Range{First: 3, Last: 5}).Next(); got != 6<<50 {
		t.Errorf("behind slot 5 the cursor is %#x, want %#x", got, uint64(6)<<50)
	}
}

// Routing is on the path of every key.
func TestRoutingDoesNotAllocate(t *testing.T) {
	m := found(t, 3, 6, 3)
	key := "a key of more than thirty-two bytes, to reach the block loop"
	if n := testing.AllocsPerRun(100, func() { m.ShardOfKey(1, key) }); n != 0 {
		t.Errorf("routing a key allocates %v times, want 0", n)
	}
}

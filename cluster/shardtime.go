package cluster

import (
	"encoding/binary"
	"time"
)

// A shard's time is what its sessions grow old by. A leader stamps each entry it
// proposes with the time the machine had when its term was announced and the time
// that has passed since on this process's monotonic clock. So shard time runs at
// most as fast as real time, stands still while nobody writes, and no wall clock
// has a part in it.

// stampBytes is the length of a stamp, which travels as a log entry's extension:
// milliseconds, big endian.
const stampBytes = 8

// shardClock is a point from which a leader counts on.
type shardClock struct {
	base uint64    // shard time in milliseconds
	at   time.Time // when it was that; its monotonic part counts
}

// startClock begins to count from the machine's time.
func (r *replica) startClock() {
	r.clock.Store(&shardClock{base: r.machine.Time(), at: time.Now()})
}

// stamp returns the shard time for an entry proposed now.
func (r *replica) stamp() []byte {
	now := r.machine.Time()
	if c := r.clock.Load(); c != nil {
		now = max(now, c.base+uint64(time.Since(c.at).Milliseconds()))
	}
	return binary.BigEndian.AppendUint64(make([]byte, 0, stampBytes), now)
}

// readStamp reads an entry's stamp; 0 if it has none.
func readStamp(extension []byte) uint64 {
	if len(extension) != stampBytes {
		return 0
	}
	return binary.BigEndian.Uint64(extension)
}

package raftlog

import (
	"slices"
	"sync"
)

// cache keeps recent records, bounded by their bytes over all shards
// (raft.LogCache counts entries, and an entry may be 256 bytes or 1 MiB).
// A record is verified before it goes in and never changed; entries read from
// it share its bytes. The oldest arrival leaves first: an LRU list would need
// its lock exclusively on every read, for a log that is read near its end.
type cache struct {
	limit int64

	mu      sync.RWMutex // guards what follows
	records map[uint64][]byte
	order   []uint64 // keys of records, oldest arrival first
	bytes   int64
	first   uint64 // records below this are deleted
}

func newCache(limit int64) *cache {
	return &cache{limit: limit, records: make(map[uint64][]byte)}
}

func (c *cache) get(seq uint64) ([]byte, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	record, ok := c.records[seq]
	return record, ok
}

// put takes ownership of record. It counts capacity, which is what stays alive.
func (c *cache) put(seq uint64, record []byte) {
	size := int64(cap(record))
	if size > c.limit {
		return // it would push out everything and then itself
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.records[seq]; ok || seq < c.first {
		return // two readers missed at once, or one read what was then deleted
	}
	for c.bytes+size > c.limit {
		oldest := c.order[0]
		c.order = c.order[1:]
		c.bytes -= int64(cap(c.records[oldest]))
		delete(c.records, oldest)
	}
	c.records[seq] = record
	c.order = append(c.order, seq)
	c.bytes += size
}

// drop forgets the records below first, which are deleted.
func (c *cache) drop(first uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.first = first
	c.order = slices.DeleteFunc(c.order, func(seq uint64) bool {
		if seq >= first {
			return false
		}
		c.bytes -= int64(cap(c.records[seq]))
		delete(c.records, seq)
		return true
	})
}

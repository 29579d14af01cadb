package fsm

import (
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"

	"github.com/manykv/manykv/mutant"
	"github.com/manykv/manykv/sharding"
)

// The value cache answers reads of hot pairs without a look at Pebble, which takes
// some 3 µs for a key that is in memory. It has what was read; what was written since it
// was moved to Pebble is in the write buffer.
//
// It is right by a sequence lock for each shard (Data.changes): odd while the rows
// and the cached values of the shard are being changed, together. While it is even, a
// value that is cached is the row's. Whoever reads takes the number, looks its keys
// up, and looks at the number again: if it is the same, and even, then all values are
// of one state. Otherwise, and for the keys that are not cached, an iterator is
// opened, which is a state by itself; if the number is still the same then, that
// state is the cached values' too, and else all keys are read through it.
//
// What a reader adds is the row of the state it read. It is added under the lock of
// its segment, and only if the number is still the same there: apply makes it odd
// before it takes the lock to let the cached value go, so one of the two sees the
// other.

// DefaultValueCacheBytes is what a node keeps if nobody says otherwise: some 80,000
// pairs of 256 bytes.
const DefaultValueCacheBytes = 32 << 20

const (
	// cacheSegments is how many locks there are: enough that the readers of a few
	// cores seldom meet.
	cacheSegments = 64
	// entryBytes is what an entry takes besides its key and value: its slot, its place
	// in the index, the header of its row.
	entryBytes = 160
	// segmentShare: a value that takes more than that part of a segment is not kept.
	segmentShare = 8
	// doorkeepers is how many keys a full segment remembers having refused once.
	doorkeepers = 256
)

// valueCache holds values of all shards of a store.
type valueCache struct {
	segments     [cacheSegments]cacheSegment
	hits, misses atomic.Uint64 // keys
}

func newValueCache(size int64) *valueCache {
	c := &valueCache{}
	for i := range c.segments {
		c.segments[i].limit = int(size / cacheSegments)
		c.segments[i].index = make(map[uint64]int32)
	}
	return c
}

// segment returns where a pair is; the low bits of its hash are not those that say
// its shard.
func (c *valueCache) segment(hash uint64) *cacheSegment { return &c.segments[hash%cacheSegments] }

// cacheSegment evicts by CLOCK: an entry that was read since the hand last passed has
// another round.
type cacheSegment struct {
	limit int // bytes

	mu      sync.Mutex
	index   map[uint64]int32 // a pair's hash: its slot
	slots   []cacheEntry
	free    []int32
	hand    int
	bytes   int
	refused [doorkeepers]uint64 // hashes
}

// cacheEntry is one pair; of is nil in a slot that is free. A row is never changed:
// a reader may still hold it.
type cacheEntry struct {
	of      *Data
	era     uint64
	bucket  uint64
	hash    uint64
	version uint64
	row     []byte // key, value
	key     int    // length of the key
	used    bool   // since the hand passed
}

func (e *cacheEntry) size() int { return entryBytes + len(e.row) }

// get looks a pair up.
func (s *cacheSegment) get(d *Data, era, bucket, hash uint64, key string) (value []byte, version uint64, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	slot, ok := s.index[hash]
	if !ok {
		return nil, 0, false
	}
	e := &s.slots[slot]
	if e.of != d || e.era != era || e.bucket != bucket || string(e.row[:e.key]) != key {
		return nil, 0, false
	}
	e.used = true
	return e.row[e.key:], e.version, true
}

// add keeps a pair that was read when the shard's number was at; e says whose it is.
func (s *cacheSegment) add(e cacheEntry, at uint64, key string, value []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.of.changes.Load() == at {
		s.keep(e, key, value)
	}
}

// drop lets go of what has a hash, because apply changes it.
func (s *cacheSegment) drop(hash uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget(hash)
}

// keep stores a pair in the place of what has its hash, if it is welcome.
func (s *cacheSegment) keep(e cacheEntry, key string, value []byte) {
	s.forget(e.hash)
	size := entryBytes + len(key) + len(value)
	if size > s.limit/segmentShare || !s.welcome(e.hash, size) {
		return
	}
	e.row = append(append(make([]byte, 0, len(key)+len(value)), key...), value...)
	e.key = len(key)
	s.put(e)
}

// welcome makes room for an entry, if it is worth what it pushes out: not if it is seen
// for the first time.
func (s *cacheSegment) welcome(hash uint64, size int) bool {
	if s.bytes+size <= s.limit {
		return true
	}
	if door := &s.refused[hash/cacheSegments%doorkeepers]; *door != hash {
		*door = hash
		return false
	}
	s.makeRoom(size)
	return true
}

// put fills a free slot.
func (s *cacheSegment) put(e cacheEntry) {
	slot := int32(len(s.slots))
	if n := len(s.free); n > 0 {
		slot = s.free[n-1]
		s.free = s.free[:n-1]
		s.slots[slot] = e
	} else {
		s.slots = append(s.slots, e)
	}
	s.index[e.hash] = slot
	s.bytes += e.size()
}

// makeRoom evicts until size bytes fit, which is possible.
func (s *cacheSegment) makeRoom(size int) {
	for s.bytes+size > s.limit {
		slot := s.hand
		s.hand = (s.hand + 1) % len(s.slots)
		switch e := &s.slots[slot]; {
		case e.of == nil:
		case e.used:
			e.used = false
		default:
			s.remove(int32(slot))
		}
	}
}

// forget removes what has a hash.
func (s *cacheSegment) forget(hash uint64) {
	if slot, ok := s.index[hash]; ok {
		s.remove(slot)
	}
}

func (s *cacheSegment) remove(slot int32) {
	e := &s.slots[slot]
	s.bytes -= e.size()
	delete(s.index, e.hash)
	*e = cacheEntry{}
	s.free = append(s.free, slot)
}

// changing begins a change of rows. Only the apply goroutine changes any.
func (d *Data) changing() { d.changes.Store(d.changes.Load() | 1) }

// changed ends it, unless a restore that has not ended replaced rows.
func (d *Data) changed() {
	if at := d.changes.Load(); at%2 == 1 && !d.replacing.Load() {
		d.changes.Store(at + 1)
	}
}

// uncache lets go of the cached values of the pairs that a batch, which is about to be
// committed, changes. For a while they will be in the write buffer.
func (d *Data) uncache(b *pebble.Batch) error {
	d.changing()
	if mutant.On(mutant.CacheForgotten) {
		return nil
	}
	for r := b.Reader(); ; {
		kind, key, _, ok, err := r.Next()
		if !ok || err != nil {
			return err
		}
		if len(key) < bucketBytes {
			continue
		}
		bucket := binary.BigEndian.Uint64(key[shardBytes:])
		if bucket == 0 { // the machine's own rows
			continue
		}
		if kind != pebble.InternalKeyKindSet && kind != pebble.InternalKeyKindDelete {
			d.era.Add(1) // a bucket was dropped
			continue
		}
		hash := binary.BigEndian.Uint64(key[bucketBytes:])
		d.store.values.segment(hash).drop(hash)
	}
}

// cachedRead is what a read of several keys has found in the cache.
type cachedRead struct {
	at, era uint64 // the shard's, when it was looked up
	pairs   []cachedPair
	missing int
	room    []byte // for keys of rows, and values from the write buffer
	touched uint64
}

type cachedPair struct {
	hash    uint64
	value   []byte
	version uint64
	known   bool // what the pair is, or that there is none
	found   bool // there is one

	// Of a look into the write buffer, for a pair that is not known.
	key     []byte // the row's
	rowHash uint32
	slot    uint64
}

// maxRoom is how much room is kept for the next read.
const maxRoom = 256 << 10

var cachedReads = sync.Pool{New: func() any { return new(cachedRead) }}

// end lets go of the values.
func (r *cachedRead) end() {
	clear(r.pairs)
	if r.room = r.room[:0]; cap(r.room) > maxRoom {
		r.room = nil
	}
	if cap(r.pairs) <= 1024 {
		cachedReads.Put(r)
	}
}

// cached looks keys up. What it finds is of one state if d.changes is r.at
// afterwards, and that is even.
func (d *Data) cached(bucket uint64, keys []string) *cachedRead {
	r := cachedReads.Get().(*cachedRead)
	if cap(r.pairs) < len(keys) {
		r.pairs = make([]cachedPair, len(keys))
	}
	r.pairs = r.pairs[:len(keys)]
	r.missing = len(keys)
	r.at = d.changes.Load()
	r.era = d.era.Load()
	for i, key := range keys {
		p := &r.pairs[i]
		p.hash = sharding.HashString(bucket, key)
		if r.at%2 == 1 {
			continue
		}
		if p.value, p.version, p.found = d.store.values.segment(p.hash).get(d, r.era, bucket, p.hash, key); p.found {
			p.known = true
			r.missing--
		}
	}
	d.store.values.hits.Add(uint64(len(keys) - r.missing))
	return r
}

// buffered looks up in the write buffer, whose lock the caller holds, what is missing.
// Places are touched first, see rowTable.first.
func (d *Data) buffered(bucket uint64, keys []string, r *cachedRead) error {
	tables := d.buffer.tables()
	if tables == nil {
		return nil
	}
	for i := range r.pairs {
		if p := &r.pairs[i]; !p.known {
			at := len(r.room)
			r.room = appendPairKey(r.room, d.shard, bucket, p.hash, keys[i])
			p.key = r.room[at:len(r.room):len(r.room)]
			p.rowHash = hashRow(p.key)
		}
	}
	for _, t := range tables {
		for i := range r.pairs {
			r.pairs[i].slot = t.first(r.pairs[i].rowHash)
		}
		for i := range r.pairs {
			r.touched += t.touch(r.pairs[i].slot)
		}
		for i := range r.pairs {
			if p := &r.pairs[i]; !p.known {
				if err := r.take(p, t); err != nil {
					return fmt.Errorf("fsm: reading shard %d: %w", d.shard, err)
				}
			}
		}
	}
	return nil
}

// take looks for a pair in a table, and copies what it finds.
func (r *cachedRead) take(p *cachedPair, t *rowTable) (err error) {
	_, row := t.find(p.rowHash, p.key)
	if row == nil {
		return nil
	}
	p.known = true
	r.missing--
	if row.state() == rowDeleted {
		return nil
	}
	at := len(r.room)
	r.room = append(r.room, row.value()...)
	p.version, p.value, err = splitPair(r.room[at:])
	p.found = err == nil
	return err
}

// stands says whether what was found is still what the rows are.
func (r *cachedRead) stands(d *Data) bool { return r.at%2 == 0 && d.changes.Load() == r.at }

// forget makes all keys missing.
func (r *cachedRead) forget() {
	r.missing = len(r.pairs)
	for i := range r.pairs {
		r.pairs[i] = cachedPair{hash: r.pairs[i].hash}
	}
}

package fsm

import (
	"encoding/binary"
	"errors"
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
// opened, which is a state by itself, below that of the write buffer, whose lock is held
// meanwhile; if the number is still the same under the lock, that state is the cached
// values' too, and else all keys are read from there. The number becomes odd under that
// lock.
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
	wanted  bool   // read since it was written
	written uint64 // the shard's number when apply wrote it; 0: a reader added it
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
	e.used, e.wanted = true, true
	return e.row[e.key:], e.version, true
}

// add keeps a pair that was read when the shard's number was at; e says whose it is.
func (s *cacheSegment) add(e cacheEntry, at uint64, key string, value []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.of.changes.Load() == at {
		e.wanted = true
		keep(s, e, key, value)
	}
}

// write brings a pair to what apply makes of it; row is nil if it is deleted, or found
// elsewhere. A value is kept for those who read it: what nobody has read since it was
// written before, by another batch, is let go, so that a load that only writes does not
// copy every value once more.
func (s *cacheSegment) write(e cacheEntry, key, row []byte) (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	slot, ok := s.index[e.hash]
	if !ok {
		return nil
	}
	if at := &s.slots[slot]; row == nil || !at.wanted && at.written != e.written {
		s.remove(slot)
		return nil
	}
	var value []byte
	if e.version, value, err = splitPair(row); err == nil {
		keep(s, e, key, value)
	}
	return err
}

// keep stores a pair in the place of what has its hash, and else if it is welcome.
func keep[K string | []byte](s *cacheSegment, e cacheEntry, key K, value []byte) {
	cached := s.forget(e.hash)
	size := entryBytes + len(key) + len(value)
	switch {
	case size > s.limit/segmentShare:
		return
	case cached:
		s.makeRoom(size)
	case !s.welcome(e.hash, size):
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

// forget removes what has a hash, and says whether there was anything.
func (s *cacheSegment) forget(hash uint64) bool {
	slot, ok := s.index[hash]
	if ok {
		s.remove(slot)
	}
	return ok
}

func (s *cacheSegment) remove(slot int32) {
	e := &s.slots[slot]
	s.bytes -= e.size()
	delete(s.index, e.hash)
	*e = cacheEntry{}
	s.free = append(s.free, slot)
}

// changing begins a change of rows, of which only the apply goroutine changes any. A reader
// that has seen the number even under the write buffer's lock has the lock until it has
// the rows, too.
func (d *Data) changing() {
	d.buffer.mu.Lock()
	defer d.buffer.mu.Unlock()
	d.changes.Store(d.changes.Load() | 1)
}

// changed ends it, unless a restore that has not ended replaced rows.
func (d *Data) changed() {
	if at := d.changes.Load(); at%2 == 1 && !d.replacing.Load() {
		d.changes.Store(at + 1)
	}
}

// cacheBatch brings the cached values to where a batch, which is about to be written,
// brings the rows. Those that go into the write buffer are found there.
func (d *Data) cacheBatch(b *pebble.Batch, buffered bool) error {
	if mutant.On(mutant.CacheForgotten) {
		return nil
	}
	for r := b.Reader(); ; {
		kind, key, row, ok, err := r.Next()
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
		if buffered || kind == pebble.InternalKeyKindDelete {
			row = nil
		}
		e := cacheEntry{of: d, era: d.era.Load(), bucket: bucket, hash: binary.BigEndian.Uint64(key[bucketBytes:]), written: d.changes.Load()}
		if err := d.store.values.segment(e.hash).write(e, key[pairBytes:], row); err != nil {
			return err
		}
	}
}

// cachedRead is what a read of several keys has found in the cache.
type cachedRead struct {
	at, era uint64 // the shard's, when it was looked up
	pairs   []cachedPair
	missing int
	room    []byte // for values from the write buffer
	key     []byte // for the key of a row
	touched uint64 // so that touching has a purpose
}

type cachedPair struct {
	hash    uint64
	value   []byte
	version uint64
	known   bool // what the pair is, or that there is none
	found   bool // there is one

	// Of a look into the write buffer, for a pair that is not known.
	hashed bool
	row    uint32 // hash of the row's key
	slot   uint64
}

// maxRoom is how much a read copies from the write buffer: what is more, it has moved to
// Pebble, where it is read value by value.
const maxRoom = 1 << 20

var cachedReads = sync.Pool{New: func() any { return new(cachedRead) }}

// end lets go of the values.
func (r *cachedRead) end() {
	clear(r.pairs)
	r.room, r.key = r.room[:0], r.key[:0]
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
	return r
}

// errMuch: what is buffered of the keys of a read is more than is copied.
var errMuch = errors.New("more than a read copies")

// hashRows hashes the rows of pairs that are not known, for the write buffer.
func (r *cachedRead) hashRows(d *Data, bucket uint64, keys []string) {
	for i := range r.pairs {
		if p := &r.pairs[i]; !p.known && !p.hashed {
			r.key = appendPairKey(r.key[:0], d.shard, bucket, p.hash, keys[i])
			p.row, p.hashed = hashRow(r.key), true
		}
	}
}

// buffered looks up in the write buffer, whose lock the caller holds, what is missing.
// Places are touched first, see rowTable.first.
func (d *Data) buffered(bucket uint64, keys []string, r *cachedRead) error {
	for _, t := range d.buffer.tables() {
		for i := range r.pairs {
			r.pairs[i].slot = t.first(r.pairs[i].row)
		}
		for i := range r.pairs {
			r.touched += t.touch(r.pairs[i].slot)
		}
		for i := range r.pairs {
			p := &r.pairs[i]
			if p.known {
				continue
			}
			r.key = appendPairKey(r.key[:0], d.shard, bucket, p.hash, keys[i])
			if _, row := t.find(p.row, r.key); row != nil {
				if err := r.take(p, row); err != nil {
					return fmt.Errorf("fsm: reading shard %d: %w", d.shard, err)
				}
			}
			if len(r.room) > maxRoom {
				return errMuch
			}
		}
	}
	return nil
}

// take copies what is buffered of a pair.
func (r *cachedRead) take(p *cachedPair, row bufferedRow) (err error) {
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
		p := &r.pairs[i]
		*p = cachedPair{hash: p.hash, hashed: p.hashed, row: p.row}
	}
}

package fsm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/mutant"
	"github.com/manykv/manykv/sharding"
)

// Data is the state machine of one data shard: its pairs, the sessions of those
// who write them, and the ids of the buckets it has dropped.
type Data struct {
	machine
	sessions *sessions // only the apply goroutine
	buffer   writeBuffer
	batch    []batchRow // what put writes; only the apply goroutine

	owned      atomic.Pointer[sharding.Range] // nil before the first lead entry
	droppedIDs atomic.Pointer[[]uint64]       // of buckets: sorted, replaced and never edited
	replacing  atomic.Bool                    // the rows may be ahead of droppedIDs: set by Store.replace until load is done

	// Of the value cache, see there.
	changes atomic.Uint64 // odd while rows change
	era     atomic.Uint64 // values cached in an earlier one are void; changed only while changes is odd
}

func openData(s *Store, shard sharding.Shard) (*Data, error) {
	d := &Data{machine: machine{store: s, shard: shard}}
	if err := d.load(); err != nil {
		return nil, err
	}
	return d, nil
}

// load makes all that is kept in memory from the rows, and shows it to readers;
// if it fails nothing has changed. Besides openData only the apply goroutine may
// call it. Who has seen the new position sees the rest.
func (d *Data) load() error {
	rec, err := readRecord(d.store.db, d.shard)
	if err != nil {
		return err
	}
	sessions, err := loadSessions(d.store.db, d.shard, rec.time, rec.Index)
	if err != nil {
		return err
	}
	dropped, err := loadDropped(d.store.db, d.shard)
	if err != nil {
		return err
	}
	var owned *sharding.Range
	if rec.owns {
		owned = &rec.owned
	}
	d.rec, d.sessions = rec, sessions
	d.droppedIDs.Store(&dropped)
	d.changing()
	d.era.Add(1)
	d.replacing.Store(false)
	d.changed()
	d.owned.Store(owned)
	d.show()
	return nil
}

func loadDropped(from pebble.Reader, shard sharding.Shard) (ids []uint64, err error) {
	err = eachRow(from, numberedKey(shard, tagDropped), func(name, _ []byte) error {
		if len(name) != 8 {
			return fmt.Errorf("a name of %d bytes, want 8", len(name))
		}
		ids = append(ids, binary.BigEndian.Uint64(name))
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("fsm: the dropped buckets of shard %d: %w", shard, err)
	}
	return ids, nil
}

// Apply applies committed entries, in the log's order, and returns a Result
// for each. Entries at or below the position are skipped. Only one goroutine
// may call it.
func (d *Data) Apply(entries []Entry) []Result { return d.apply(d, entries) }

// Range returns the slots the shard owns; false before its first lead entry.
func (d *Data) Range() (sharding.Range, bool) {
	r := d.owned.Load()
	if r == nil {
		return sharding.Range{}, false
	}
	return *r, true
}

// newBatch is indexed only if an entry reads what others may have written in the
// same batch: an index costs a write for each key. What it reads besides, it
// reads from Pebble.
func (d *Data) newBatch(entries []Entry) (*pebble.Batch, error) {
	if !slices.ContainsFunc(entries, reads) {
		return d.store.db.NewBatch(), nil
	}
	if err := d.drain(); err != nil {
		return nil, err
	}
	return d.store.db.NewIndexedBatch(), nil
}

func (d *Data) finish(b *pebble.Batch) error {
	return d.sessions.finish(b)
}

func (d *Data) publish() {
	d.changed()
	if now := d.owned.Load(); d.rec.owns && (now == nil || *now != d.rec.owned) {
		r := d.rec.owned
		d.owned.Store(&r)
	}
}

func (d *Data) command(b *pebble.Batch, e *Entry) (Result, error) {
	if err := d.sessions.expire(b, d.rec.time); err != nil {
		return Result{}, err
	}
	switch kv.KindOf(e.Command) {
	case kv.KindLead:
		return Result{Err: d.lead(e)}, nil
	case kv.KindDrop:
		return d.drop(b, e)
	case kv.KindBundle:
		return d.bundle(b, e)
	default:
		return d.write(b, e)
	}
}

// bundle applies commands that share an entry.
func (d *Data) bundle(b *pebble.Batch, e *Entry) (r Result, err error) {
	commands, err := kv.DecodeBundle(e.Command)
	if err != nil {
		return Result{Err: invalid(err)}, nil
	}
	r.Each = make([]Result, len(commands))
	one := *e
	for i, c := range commands {
		if i > 1 && i == len(commands)-1 && mutant.On(mutant.BundleCutShort) {
			continue
		}
		one.Command = c
		if r.Each[i], err = d.write(b, &one); err != nil {
			return Result{}, err
		}
	}
	return r, nil
}

// lead starts a leader's term. The first one fixes the slots of the shard; the
// later ones carry them too and only tell the term.
func (d *Data) lead(e *Entry) error {
	_, body, err := kv.Header(e.Command)
	if err != nil {
		return invalid(err)
	}
	r := sharding.Range{First: body.U16(), Last: body.U16()}
	if err := body.Finish(); err != nil {
		return invalid(err)
	}
	if r.First > r.Last || r.Last >= sharding.Slots {
		return fmt.Errorf("%w: a shard of slots %d to %d, want some of 0 to %d", kv.ErrInvalid, r.First, r.Last, sharding.Slots-1)
	}
	if !d.rec.owns {
		d.rec.owns, d.rec.owned = true, r
	}
	d.rec.LeadTerm = e.Term
	return nil
}

// drop removes a bucket's pairs and remembers its id. Readers are told before the
// batch is committed: one that opens its iterator and looks then never takes the
// emptied bucket for one without keys.
func (d *Data) drop(b *pebble.Batch, e *Entry) (Result, error) {
	_, body, err := kv.Header(e.Command)
	if err != nil {
		return Result{Err: invalid(err)}, nil
	}
	bucket := body.U64()
	if err := body.Finish(); err != nil {
		return Result{Err: invalid(err)}, nil
	}
	if bucket == 0 {
		return Result{Err: fmt.Errorf("%w: a drop of bucket 0, want 1 or more", kv.ErrInvalid)}, nil
	}
	ids := *d.droppedIDs.Load()
	at, found := slices.BinarySearch(ids, bucket)
	if found {
		return Result{}, nil
	}
	ids = slices.Insert(slices.Clip(ids), at, bucket) // into an array of its own
	d.droppedIDs.Store(&ids)
	prefix := appendBucketPrefix(nil, d.shard, bucket)
	if err := b.DeleteRange(prefix, successor(prefix), nil); err != nil {
		return Result{}, err
	}
	return Result{}, b.Set(numberedKey(d.shard, tagDropped, bucket), nil, nil)
}

// exists says with kv.ErrNoSuchStore if a bucket was dropped, or is that of the
// machine's own rows.
func (d *Data) exists(bucket uint64) error {
	if _, dropped := slices.BinarySearch(*d.droppedIDs.Load(), bucket); dropped || bucket == 0 {
		return noBucket(d.shard, bucket)
	}
	return nil
}

// existsNow is exists for readers, who may come while a restore replaces the rows:
// then the rows say what was dropped.
func (d *Data) existsNow(bucket uint64) error {
	if d.replacing.Load() {
		dropped, err := row(d.store.db, numberedKey(d.shard, tagDropped, bucket))
		if err != nil {
			return err
		}
		if dropped != nil {
			return noBucket(d.shard, bucket)
		}
	}
	return d.exists(bucket) // only now: load publishes the ids before it ends replacing
}

func noBucket(shard sharding.Shard, bucket uint64) error {
	return fmt.Errorf("%w: bucket %d of shard %d", kv.ErrNoSuchStore, bucket, shard)
}

// iterator opens an iterator for a reader of a bucket.
func (d *Data) iterator(bucket uint64, o *pebble.IterOptions) (*pebble.Iterator, error) {
	it, err := d.iterate(o)
	if err != nil {
		return nil, err
	}
	if err := d.readable(bucket); err != nil { // only now: see drop
		return nil, errors.Join(err, it.Close())
	}
	return it, nil
}

// readable says why a bucket cannot be read, after whoever asks has a state to read.
func (d *Data) readable(bucket uint64) error {
	err := d.existsNow(bucket)
	if d.dropped.Load() {
		// Set before the rows go: else what is missing was never there.
		err = fmt.Errorf("fsm: reading shard %d: %w", d.shard, ErrDropped)
	}
	return err
}

// keyBuffer is room for the disk key of an ordinary key.
const keyBuffer = 128

// Get calls visit for each of keys, in their order, for one that is there twice
// twice. A missing key has found false, version 0 and a nil value; a present
// one the index of the entry that wrote it and a value that is valid only until
// visit returns. All keys are read from one state of the shard, at or after the
// position it had when Get was called. The first error of visit ends Get and is
// returned; kv.ErrNoSuchStore, before any visit, means that the bucket was
// dropped. visit must not call the store: a Close that waits for it would wait
// for ever.
//
// Values come from the value cache and the write buffer; for the keys that are in
// neither one iterator reads all. It is a consistent view that costs no lock of Pebble's (a
// snapshot takes two) and no allocation for each key. Measured on two cores with
// 400,000 keys of 256 B, 100 of them at random: 289 µs against 361 µs for Gets of a
// snapshot. Only a shard still wholly in memory is read faster that way, 83 µs
// against 139 µs.
func (d *Data) Get(bucket uint64, keys []string, visit Visit) error {
	if err := d.store.acquire(); err != nil {
		return err
	}
	defer d.store.release()
	r := d.cached(bucket, keys)
	defer r.end()
	if r.missing > 0 {
		return d.getRows(bucket, keys, r, visit)
	}
	if err := d.readable(bucket); err != nil {
		return err
	}
	if !r.stands(d) {
		return d.getRows(bucket, keys, r, visit)
	}
	d.store.values.hits.Add(uint64(len(keys)))
	for i := range r.pairs {
		if err := visit(i, r.pairs[i].value, r.pairs[i].version, true); err != nil {
			return err
		}
	}
	return nil
}

// Visit is shown the i-th key's pair.
type Visit = func(i int, value []byte, version uint64, found bool) error

// getRows is Get for keys that are not all cached.
func (d *Data) getRows(bucket uint64, keys []string, r *cachedRead, visit Visit) (err error) {
	it, keep, err := d.below(bucket, keys, r)
	if errors.Is(err, errMuch) {
		it, keep, err = d.allBelow(r)
	}
	if it != nil {
		defer func() {
			if closeErr := it.Close(); err == nil && closeErr != nil {
				err = fmt.Errorf("fsm: reading shard %d: %w", d.shard, closeErr)
			}
		}()
	}
	if err == nil {
		err = d.readable(bucket) // only now: see drop
	}
	if err != nil {
		return err
	}
	buf := make([]byte, 0, keyBuffer)
	for i, key := range keys {
		p := &r.pairs[i]
		if p.known {
			if err := visit(i, p.value, p.version, p.found); err != nil {
				return err
			}
			continue
		}
		buf = appendPairKey(buf[:0], d.shard, bucket, p.hash, key)
		version, value, found, err := seekPair(it, buf)
		if err != nil {
			return fmt.Errorf("fsm: reading shard %d: %w", d.shard, err)
		}
		if found && keep {
			e := cacheEntry{of: d, era: r.era, bucket: bucket, hash: p.hash, version: version}
			d.store.values.segment(p.hash).add(e, r.at, key, value)
		}
		if err := visit(i, value, version, found); err != nil {
			return err
		}
	}
	return nil
}

// below looks up in the write buffer what the cache has not, and opens an iterator of
// the state below the buffer for keys that are in neither; nil if there are none. keep:
// that state is the one at which the cache was read, else nothing from there counts.
func (d *Data) below(bucket uint64, keys []string, r *cachedRead) (it *pebble.Iterator, keep bool, err error) {
	r.hashRows(d, bucket, keys)
	d.buffer.mu.RLock()
	defer d.buffer.mu.RUnlock()
	if keep = r.stands(d); !keep {
		r.forget()
		r.hashRows(d, bucket, keys) // the others
	}
	if err := d.buffered(bucket, keys, r); err != nil {
		return nil, keep, err
	}
	d.store.values.hits.Add(uint64(len(keys) - r.missing))
	if d.store.values.misses.Add(uint64(r.missing)); r.missing == 0 {
		return nil, keep, nil
	}
	it, err = d.iterate(forPairs())
	return it, keep, err
}

// allBelow opens an iterator that has everything, for a read that would have to copy too
// much from the write buffer.
func (d *Data) allBelow(r *cachedRead) (it *pebble.Iterator, keep bool, err error) {
	r.forget()
	if err := d.drain(); err != nil {
		return nil, false, err
	}
	d.store.values.misses.Add(uint64(r.missing))
	it, err = d.iterate(forPairs())
	return it, false, err
}

// forPairs are the options of an iterator for seekPair: with the filters of the last
// level a missing key reads no block there.
func forPairs() *pebble.IterOptions { return &pebble.IterOptions{UseL6Filters: true} }

// iterate opens an iterator.
func (d *Data) iterate(o *pebble.IterOptions) (*pebble.Iterator, error) {
	it, err := d.store.db.NewIter(o)
	if err != nil {
		return nil, fmt.Errorf("fsm: reading shard %d: %w", d.shard, err)
	}
	return it, nil
}

// seekPair reads one pair. Pebble's default comparer takes a whole key for its
// prefix, so what a prefix seek finds is this key.
func seekPair(it *pebble.Iterator, key []byte) (version uint64, value []byte, found bool, err error) {
	if !it.SeekPrefixGE(key) {
		return 0, nil, false, it.Error()
	}
	row, err := it.ValueAndErr()
	if err != nil {
		return 0, nil, false, err
	}
	version, value, err = splitPair(row)
	return version, value, err == nil, err
}

package fsm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/manykv/manykv/sharding"
)

// ErrClosed: the store was closed.
var ErrClosed = errors.New("the store of the state machines is closed")

// DefaultCacheBytes is the block cache of a node nobody configured: small
// beside the memory of any machine that runs one, large enough for the index
// and filter blocks of some ten million keys.
const DefaultCacheBytes = 64 << 20

// Config says where the state machines live. Only Dir is required.
type Config struct {
	Dir        string
	CacheBytes int64 // Pebble's block cache; default 64 MiB
	// ValueCacheBytes is how much of hot pairs is kept besides, ready to be read;
	// default 32 MiB.
	ValueCacheBytes int64
	// WriteBufferBytes is how much of what was applied is kept together before it goes to
	// Pebble, all shards' together; default 48 MiB.
	WriteBufferBytes int64
	// ReadOnly opens a store that is there and changes nothing of it, not even
	// what Open would tidy up: nothing may be applied, staged or flushed.
	ReadOnly bool

	// Fatal is called once, with the first background or write error of
	// Pebble, or when the disk hangs: an operation is under way for more than
	// 10 s. nil means panic. The process must stop: what was applied may
	// never become durable. It may be called under Pebble's locks and must not
	// call the store. Should it return, the store refuses all further work;
	// a call in progress may then wait for Pebble for ever, and Close for it.
	Fatal func(error)

	Logger *slog.Logger // nil discards

	fs vfs.FS // tests put a file system that crashes or fails here; nil is the real one

	// Smaller in tests; 0 is the constant of that name.
	slowDisk, hungDisk time.Duration
	tableBytes         int
}

func (c Config) withDefaults() Config {
	if c.CacheBytes == 0 {
		c.CacheBytes = DefaultCacheBytes
	}
	if c.ValueCacheBytes == 0 {
		c.ValueCacheBytes = DefaultValueCacheBytes
	}
	if c.WriteBufferBytes == 0 {
		c.WriteBufferBytes = DefaultWriteBufferBytes
	}
	if c.Fatal == nil {
		c.Fatal = func(err error) { panic(err) }
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.fs == nil {
		c.fs = vfs.Default
	}
	if c.slowDisk == 0 {
		c.slowDisk, c.hungDisk = slowDisk, hungDisk
	}
	if c.tableBytes == 0 {
		c.tableBytes = tableBytes
	}
	return c
}

func (c Config) validate() error {
	if c.Dir == "" {
		return errors.New("fsm: no directory given")
	}
	if c.CacheBytes < 0 {
		return fmt.Errorf("fsm: a block cache of %d bytes, want 0 (the default) or more", c.CacheBytes)
	}
	if c.ValueCacheBytes < 0 {
		return fmt.Errorf("fsm: a value cache of %d bytes, want 0 (the default) or more", c.ValueCacheBytes)
	}
	if c.WriteBufferBytes < 0 {
		return fmt.Errorf("fsm: a write buffer of %d bytes, want 0 (the default) or more", c.WriteBufferBytes)
	}
	return nil
}

// Store is the Pebble store that all state machines of a node share.
type Store struct {
	cfg Config
	db  *pebble.DB

	// fs watches the file system for slow operations. Pebble would do so
	// itself, but leaves the watching goroutine behind when its Open fails.
	fs      vfs.FS
	closeFS io.Closer

	tableOptions sstable.WriterOptions // of tables made for Pebble to take over
	values       *valueCache
	machines     atomic.Int64  // in data
	moves        atomic.Uint64 // of a shard's buffered rows to Pebble
	drainingSoon sync.Mutex    // held by who moves a shard's buffered rows in the background, before writeBuffer.turn
	flushes      flushes
	hashing      chan struct{} // holds one token while a scan for Hash runs

	// failed ends with the first fatal error; done is its child and ends with
	// that or with ErrClosed. Both carry the cause.
	failed    context.Context
	fail      context.CancelCauseFunc
	done      context.Context
	stop      context.CancelCauseFunc
	failOnce  sync.Once // the first fatal error
	closeOnce sync.Once // the first Close
	closeErr  error     // what the first Close returned

	// gate is held for reading by every call that uses db, and for writing by
	// Close: Pebble panics when it is used after or during its Close.
	gate sync.RWMutex

	mu        sync.Mutex // guards the fields below; taken inside gate, Stream.mu and Stage.mu
	data      map[sharding.Shard]*Data
	catalogue *Catalogue
	streams   map[*Stream]struct{}      // open
	stages    map[sharding.Shard]*Stage // open
}

// Open opens the store of a node, or makes it.
func Open(cfg Config) (*Store, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	s := &Store{
		cfg:     cfg.withDefaults(),
		hashing: make(chan struct{}, 1),
		data:    make(map[sharding.Shard]*Data),
		streams: make(map[*Stream]struct{}),
		stages:  make(map[sharding.Shard]*Stage),
	}
	s.values = newValueCache(s.cfg.ValueCacheBytes)
	s.failed, s.fail = context.WithCancelCause(context.Background())
	s.done, s.stop = context.WithCancelCause(s.failed)
	s.fs, s.closeFS = vfs.WithDiskHealthChecks(s.cfg.fs, s.cfg.slowDisk, nil, s.slow)
	options := s.options()
	options.EnsureDefaults()
	db, err := pebble.Open(cfg.Dir, options)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("fsm: opening Pebble in %s: %w", cfg.Dir, err), s.closeFS.Close())
	}
	s.db = db
	s.tableOptions = options.MakeWriterOptions(len(options.Levels)-1, db.TableFormat())
	if s.cfg.ReadOnly {
		return s, nil
	}
	if err := s.sweepStages(); err != nil {
		return nil, errors.Join(fmt.Errorf("fsm: removing incomplete stagings: %w", err), s.Close())
	}
	return s, nil
}

// slow is told of an operation of the file system that takes long, again and
// again, every 2 s, while it is under way: so it hears of one that never ends.
func (s *Store) slow(info vfs.DiskSlowInfo) {
	s.cfg.Logger.Warn("the disk is slow", "detail", info.String())
	if info.Duration > s.cfg.hungDisk {
		s.fatal(fmt.Errorf("the disk hangs: %s of %s is under way for %v, want less than %v",
			info.OpType, info.Path, info.Duration, s.cfg.hungDisk))
	}
}

// acquire lets its caller use db until release; after Close or a fatal error
// it says why not.
func (s *Store) acquire() error {
	s.gate.RLock()
	if s.done.Err() != nil {
		s.gate.RUnlock()
		return context.Cause(s.done)
	}
	return nil
}

func (s *Store) release() { s.gate.RUnlock() }

// fatal stops the store and reports err, once.
func (s *Store) fatal(err error) {
	err = fmt.Errorf("fsm: %w", err)
	first := false
	s.failOnce.Do(func() {
		s.fail(err)
		first = true
	})
	if first {
		s.cfg.Fatal(err)
	}
}

// Flush makes everything applied before the call durable. One flush serves all
// shards, and all callers that come before it begins.
func (s *Store) Flush() error {
	if err := s.acquire(); err != nil {
		return err
	}
	defer s.release()
	return s.sharedFlush()
}

// flushes lets callers that come at the same time share a flush.
type flushes struct {
	turn sync.Mutex // held while a flush runs; the next one waits for it

	mu   sync.Mutex   // guards next
	next *sharedFlush // has not begun, so whoever comes now may share it
}

type sharedFlush struct {
	done chan struct{}
	err  error // once done
}

// sharedFlush needs the gate. A caller that finds a flush running waits for the
// one after it, since the running one may have begun before what it is to save.
func (s *Store) sharedFlush() error {
	s.flushes.mu.Lock()
	f := s.flushes.next
	if f != nil {
		s.flushes.mu.Unlock()
		<-f.done // ends when flush does
		return f.err
	}
	f = &sharedFlush{done: make(chan struct{})}
	s.flushes.next = f
	s.flushes.mu.Unlock()

	s.flushes.turn.Lock()
	defer s.flushes.turn.Unlock()
	s.flushes.mu.Lock()
	s.flushes.next = nil
	s.flushes.mu.Unlock()
	f.err = s.flush()
	close(f.done)
	return f.err
}

// flush needs the gate. It does not use Pebble's own Flush, which tries again
// for ever, and returns never, when the disk refuses.
func (s *Store) flush() error {
	if err := s.drain(); err != nil {
		return err
	}
	flushed, err := s.db.AsyncFlush()
	if err != nil {
		return fmt.Errorf("fsm: flushing: %w", err)
	}
	select {
	case <-flushed:
		return nil
	case <-s.failed.Done():
		return context.Cause(s.failed)
	}
}

// Close waits for the calls in progress, ends streams and stagings that are
// open, flushes and closes. Later calls of the store and its machines return
// ErrClosed, and so do calls of Wait that are waiting; Close itself returns what
// it returned first.
func (s *Store) Close() error {
	s.closeOnce.Do(func() {
		s.stop(ErrClosed)
		s.gate.Lock()
		defer s.gate.Unlock()
		err := s.endOpen()
		if failure := context.Cause(s.failed); failure != nil {
			err = failure
		} else if !s.cfg.ReadOnly {
			err = errors.Join(err, s.flush())
		}
		if closeErr := s.db.Close(); closeErr != nil {
			err = errors.Join(err, fmt.Errorf("fsm: closing Pebble: %w", closeErr))
		}
		s.closeErr = errors.Join(err, s.closeFS.Close())
	})
	return s.closeErr
}

// endOpen ends the streams and stagings that are open. Close has locked the
// gate, so nobody is using them.
func (s *Store) endOpen() error {
	s.mu.Lock()
	streams, stages := slices.Collect(maps.Keys(s.streams)), slices.Collect(maps.Values(s.stages))
	clear(s.streams)
	s.mu.Unlock()
	var err error
	for _, stream := range streams {
		err = errors.Join(err, stream.drop())
	}
	for _, stage := range stages {
		err = errors.Join(err, stage.abandon(ErrClosed))
	}
	return err
}

// Stats are what Pebble tells of itself, and the value cache; counters are since Open.
type Stats struct {
	DiskBytes              uint64 // taken by its files
	CacheHits, CacheMisses uint64 // of blocks in its cache
	Flushes, Compactions   uint64
	CompactionDebt         uint64 // bytes that wait to be compacted, as estimated
	ValueHits, ValueMisses uint64 // keys read that the value cache or a write buffer had, or neither
	BufferBytes            uint64 // taken by the write buffers
	BufferMoves            uint64 // how often a shard's rows moved from there to Pebble
}

// Stats returns them; zeros once the store is closed.
func (s *Store) Stats() Stats {
	if s.acquire() != nil {
		return Stats{}
	}
	defer s.release()
	m := s.db.Metrics()
	return Stats{
		DiskBytes: m.DiskSpaceUsage(), CacheHits: uint64(m.BlockCache.Hits), CacheMisses: uint64(m.BlockCache.Misses),
		Flushes: uint64(m.Flush.Count), Compactions: uint64(m.Compact.Count), CompactionDebt: m.Compact.EstimatedDebt,
		ValueHits: s.values.hits.Load(), ValueMisses: s.values.misses.Load(), BufferBytes: s.buffered(), BufferMoves: s.moves.Load(),
	}
}

// Data returns the machine of a data shard: always the same one, because a
// machine's position lives in it.
func (s *Store) Data(shard sharding.Shard) (*Data, error) {
	if shard == sharding.Meta {
		return nil, fmt.Errorf("fsm: shard %d holds the catalogue, want a data shard", shard)
	}
	if err := s.acquire(); err != nil {
		return nil, err
	}
	defer s.release()
	s.mu.Lock()
	defer s.mu.Unlock()
	if d := s.data[shard]; d != nil {
		return d, nil
	}
	d, err := openData(s, shard)
	if err != nil {
		return nil, err
	}
	s.data[shard] = d
	s.machines.Store(int64(len(s.data)))
	for _, other := range s.data {
		if other.filled() { // its share is less now
			other.drainSoon()
		}
	}
	return d, nil
}

// Catalogue returns the machine of shard 0: always the same one.
func (s *Store) Catalogue() (*Catalogue, error) {
	if err := s.acquire(); err != nil {
		return nil, err
	}
	defer s.release()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.catalogue == nil {
		c, err := openCatalogue(s)
		if err != nil {
			return nil, err
		}
		s.catalogue = c
	}
	return s.catalogue, nil
}

// Shards returns the shards that have rows in the store, sorted. It costs a seek
// for each of them.
func (s *Store) Shards() (all []sharding.Shard, err error) {
	if err := s.acquire(); err != nil {
		return nil, err
	}
	defer s.release()
	if err := s.drain(); err != nil {
		return nil, err
	}
	it, err := s.db.NewIter(nil)
	if err != nil {
		return nil, fmt.Errorf("fsm: looking for shards: %w", err)
	}
	for ok := it.First(); ok; {
		key := it.Key()
		if len(key) < shardBytes {
			return nil, errors.Join(fmt.Errorf("fsm: looking for shards: a key of %d bytes, want at least %d", len(key), shardBytes), it.Close())
		}
		shard := sharding.Shard(binary.BigEndian.Uint32(key))
		all = append(all, shard)
		ok = it.SeekGE(shardPrefix(shard + 1))
	}
	if err := it.Close(); err != nil { // with the iterator's own error
		return nil, fmt.Errorf("fsm: looking for shards: %w", err)
	}
	return all, nil
}

// row reads a machine's own row, copied; nil if there is none. The caller has
// acquired the store.
func row(r pebble.Reader, key []byte) ([]byte, error) {
	value, closer, err := r.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("fsm: reading row %x: %w", key, err)
	}
	value = append(make([]byte, 0, len(value)), value...)
	if err := closer.Close(); err != nil {
		return nil, fmt.Errorf("fsm: reading row %x: %w", key, err)
	}
	return value, nil
}

// eachRow shows visit the rows of a machine whose keys begin with prefix, in
// order: what follows in the key, and the value, both valid only until visit
// returns. The caller has acquired the store.
func eachRow(r pebble.Reader, prefix []byte, visit func(name, value []byte) error) (err error) {
	it, err := r.NewIter(span(prefix))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, it.Close()) }() // with the iterator's own error
	for it.First(); it.Valid(); it.Next() {
		value, err := it.ValueAndErr()
		if err != nil {
			return err
		}
		if err := visit(it.Key()[len(prefix):], value); err != nil {
			return err
		}
	}
	return nil
}

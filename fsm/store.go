package fsm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/manykv/manykv/sharding"
)

// ErrClosed: the store was closed.
var ErrClosed = errors.New("the store of the state machines is closed")

// defaultCacheBytes is the block cache of a node nobody configured: small
// beside the memory of any machine that runs one, large enough for the index
// and filter blocks of some ten million keys.
const defaultCacheBytes = 64 << 20

// Config says where the state machines live. Only Dir is required.
type Config struct {
	Dir        string
	CacheBytes int64 // Pebble's block cache; default 64 MiB

	// Fatal is called once, with the first background or write error of
	// Pebble; nil means panic. The process must stop: what was applied may
	// never become durable. It may be called under Pebble's locks and must not
	// call the store. Should it return, the store refuses all further work;
	// a call in progress may then wait for Pebble for ever, and Close for it.
	Fatal func(error)

	Logger *slog.Logger // nil discards

	fs vfs.FS // tests put a file system that crashes or fails here; nil is the real one
}

func (c Config) withDefaults() Config {
	if c.CacheBytes == 0 {
		c.CacheBytes = defaultCacheBytes
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
	return c
}

func (c Config) validate() error {
	if c.Dir == "" {
		return errors.New("fsm: no directory given")
	}
	if c.CacheBytes < 0 {
		return fmt.Errorf("fsm: a block cache of %d bytes, want 0 (the default) or more", c.CacheBytes)
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

	mu        sync.Mutex // guards the fields below; taken inside gate
	data      map[sharding.Shard]*Data
	catalogue *Catalogue
}

// Open opens the store of a node, or makes it.
func Open(cfg Config) (*Store, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	s := &Store{cfg: cfg.withDefaults(), data: make(map[sharding.Shard]*Data)}
	s.failed, s.fail = context.WithCancelCause(context.Background())
	s.done, s.stop = context.WithCancelCause(s.failed)
	s.fs, s.closeFS = vfs.WithDiskHealthChecks(s.cfg.fs, slowDisk, nil, func(info vfs.DiskSlowInfo) {
		s.cfg.Logger.Warn("the disk is slow", "detail", info.String())
	})
	db, err := pebble.Open(cfg.Dir, s.options())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("fsm: opening Pebble in %s: %w", cfg.Dir, err), s.closeFS.Close())
	}
	s.db = db
	return s, nil
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
// shards.
func (s *Store) Flush() error {
	if err := s.acquire(); err != nil {
		return err
	}
	defer s.release()
	return s.flush()
}

// flush needs the gate. It does not use Pebble's own Flush, which tries again
// for ever, and returns never, when the disk refuses.
func (s *Store) flush() error {
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

// Close waits for the calls in progress, flushes and closes. Later calls of
// the store and its machines return ErrClosed, and so do calls of Wait that
// are waiting; Close itself returns what it returned first.
func (s *Store) Close() error {
	s.closeOnce.Do(func() {
		s.stop(ErrClosed)
		s.gate.Lock()
		defer s.gate.Unlock()
		err := context.Cause(s.failed)
		if err == nil {
			err = s.flush()
		}
		if closeErr := s.db.Close(); closeErr != nil {
			err = errors.Join(err, fmt.Errorf("fsm: closing Pebble: %w", closeErr))
		}
		s.closeErr = errors.Join(err, s.closeFS.Close())
	})
	return s.closeErr
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

package raftlog

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// journal stores records: a raft.LogStore whose entries are our group commits,
// numbered from 1 without gaps. StoreLog returns once the record is durable.
type journal interface {
	raft.LogStore
	io.Closer
}

// Log is the journal of one node, shared by the logs of all its replicas.
type Log struct {
	gather      time.Duration
	committed   func(bytes int, took time.Duration)
	limit       int64  // Config.JournalBytes
	commitBytes int    // the most a record may have
	deletePiece uint64 // the most records to delete at once
	journal     journal
	fail        *failStop
	cache       *cache

	mu     sync.Mutex        // guards what follows, up to the next empty line
	shards map[uint32]*Shard // the current stay of each shard
	queue  []*batch          // in the order of commit; the last one still grows
	spare  []byte            // of a durable record, for the next one to grow in; may be nil
	closed bool
	stats  Stats    // Journal and Live are kept up to date
	first  uint64   // the first record of the journal
	sizes  []uint32 // bytes of frames in each record from first on
	kept   int64    // Live when the last Reclaim ended
	told   int64    // the size at which Full got its last token since then
	yields int      // maxYields, but for a test

	full chan struct{} // 1 slot: Full
	wake chan struct{} // 1 slot: the queue or closed changed
	done chan struct{} // closed when the committer has ended
	seq  uint64        // the last record written; only rebuild, then the committer

	reclaiming sync.Mutex // one Reclaim at a time; Close waits for it
	closing    sync.Once
	closeErr   error // written inside closing
}

// Open opens the log in cfg.Dir, verifies every frame in it and finds the
// positions of every replica.
func Open(cfg Config) (*Log, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	j, err := openJournal(cfg, cfg.segmentBytes())
	if err != nil {
		return nil, fmt.Errorf("raftlog: open %s journal in %s: %w", cfg.Store, cfg.Dir, err)
	}
	return start(newLog(cfg, j), cfg)
}

func newLog(cfg Config, j journal) *Log {
	l := &Log{
		gather:      cfg.Gather,
		committed:   cfg.Committed,
		limit:       cfg.JournalBytes,
		commitBytes: cfg.commitBytes(),
		deletePiece: math.MaxUint64,
		journal:     j,
		cache:       newCache(cfg.CacheBytes),
		shards:      make(map[uint32]*Shard),
		yields:      maxYields,
		full:        make(chan struct{}, 1),
		wake:        make(chan struct{}, 1),
		done:        make(chan struct{}),
	}
	if cfg.Store == StoreBolt {
		l.deletePiece = boltDeletePiece
	}
	return l
}

// start runs l, whose journal it closes if it cannot.
func start(l *Log, cfg Config) (*Log, error) {
	began := time.Now()
	if err := l.rebuild(); err != nil {
		return nil, errors.Join(fmt.Errorf("raftlog: %w", err), l.journal.Close())
	}
	cfg.Logger.Info("raft log open", slog.String("store", cfg.Store),
		slog.Uint64("first_record", l.first), slog.Int("records", len(l.sizes)),
		slog.Int64("bytes", l.stats.Journal), slog.Int64("live_bytes", l.stats.Live),
		slog.Int("shards", len(l.shards)), slog.Duration("took", time.Since(began)))
	l.fail = newFailStop(cfg.Fatal)
	go l.commitLoop()
	return l, nil
}

// Close commits what was submitted, ends the committer, waits for the Reclaim
// under way, which then fails, and closes the journal.
// A second call waits for the first and answers the same. While a write hangs
// Close hangs too: the process must stop then.
func (l *Log) Close() error {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.signal()
	<-l.done
	l.closing.Do(func() {
		l.reclaiming.Lock()
		defer l.reclaiming.Unlock()
		l.fail.close()
		l.closeErr = l.journal.Close()
	})
	return l.closeErr
}

// Shard returns the log of the current stay of a shard on this node: the same
// object until that is dropped, then one of the next generation. The first stay
// has generation 1, and so has one that finds no trace of an earlier one.
func (l *Log) Shard(shard uint32) *Shard {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stay(replica{shard, 1})
}

// stay returns the current stay of r's shard, which is r if there is none. Log.mu
// is held, or nobody else knows the log yet.
func (l *Log) stay(r replica) *Shard {
	s := l.shards[r.shard]
	if s == nil {
		s = &Shard{log: l, replica: r}
		l.shards[r.shard] = s
	}
	return s
}

// succeed replaces a stay that was dropped. Log.mu is held, or nobody else knows
// the log yet.
func (l *Log) succeed(s *Shard) {
	next := replica{s.replica.shard, s.replica.generation + 1}
	l.shards[next.shard] = &Shard{log: l, replica: next}
}

// Shards returns the shards, ascending, of which the journal still says that
// they are on this node: those with entries, and those whose log is empty but
// which were not dropped since the oldest record.
func (l *Log) Shards() []uint32 {
	l.mu.Lock()
	defer l.mu.Unlock()
	var shards []uint32
	for shard, s := range l.shards {
		if latest := s.latestRecord(); latest != 0 && latest >= l.first {
			shards = append(shards, shard)
		}
	}
	slices.Sort(shards)
	return shards
}

// Stats returns the counters since Open.
func (l *Log) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stats
}

// Size returns what the journal holds now.
func (l *Log) Size() Size {
	stats := l.Stats()
	return Size{Journal: stats.Journal, Live: stats.Live}
}

// record returns the bytes of a durable record.
func (l *Log) record(seq uint64) ([]byte, error) {
	if record, ok := l.cache.get(seq); ok {
		return record, nil
	}
	record, err := l.read(seq, func(int, frame) error { return nil })
	if err != nil {
		return nil, err
	}
	l.cache.put(seq, record)
	return record, nil
}

// read reads a record from the journal and shows its verified frames to visit.
func (l *Log) read(seq uint64, visit func(offset int, f frame) error) ([]byte, error) {
	record, err := l.bytes(seq)
	if err != nil {
		return nil, fmt.Errorf("record %d: %w", seq, err)
	}
	if err := walk(record, visit); err != nil {
		return nil, fmt.Errorf("record %d: %w", seq, err)
	}
	return record, nil
}

// bytes returns the bytes of a record as the journal has them.
func (l *Log) bytes(seq uint64) (_ []byte, err error) {
	// Both journals decode before anything is verified, and panic on some damage
	// (raft-wal on an overlong varint, bbolt on a broken page).
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the journal cannot decode it: %v", p)
		}
	}()
	var e raft.Log
	if err := l.journal.GetLog(seq, &e); err != nil {
		return nil, err
	}
	if e.Index != seq {
		return nil, fmt.Errorf("got sequence number %d, want %d", e.Index, seq)
	}
	// The limit keeps every offset and size within a position's 32 bits.
	if len(e.Data) > maxCommitBytes {
		return nil, fmt.Errorf("got %d bytes, want at most %d", len(e.Data), maxCommitBytes)
	}
	return e.Data, nil
}

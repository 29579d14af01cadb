package raftlog

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
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
	gather  time.Duration
	journal journal
	fail    *failStop
	cache   *cache

	mu       sync.Mutex // guards what follows, up to the next empty line
	replicas map[replica]*Shard
	queue    []*batch // in the order of commit; the last one still grows
	closed   bool
	stats    Stats
	yields   int // maxYields, but for a test

	wake chan struct{} // 1 slot: the queue or closed changed
	done chan struct{} // closed when the committer has ended
	seq  uint64        // the last record written; only rebuild, then the committer

	closing  sync.Once
	closeErr error // written inside closing
}

// Open opens the log in cfg.Dir, verifies every frame in it and finds the
// positions of every replica.
func Open(cfg Config) (*Log, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	j, err := openJournal(cfg, segmentBytes)
	if err != nil {
		return nil, fmt.Errorf("raftlog: open %s journal in %s: %w", cfg.Store, cfg.Dir, err)
	}
	return start(cfg, j)
}

// start runs a log on j, which it closes if it cannot.
func start(cfg Config, j journal) (*Log, error) {
	l := &Log{
		gather:   cfg.Gather,
		journal:  j,
		cache:    newCache(cfg.CacheBytes),
		replicas: make(map[replica]*Shard),
		yields:   maxYields,
		wake:     make(chan struct{}, 1),
		done:     make(chan struct{}),
	}
	began := time.Now()
	if err := l.rebuild(); err != nil {
		return nil, errors.Join(fmt.Errorf("raftlog: %w", err), j.Close())
	}
	cfg.Logger.Info("raft log open", slog.String("store", cfg.Store), slog.Uint64("records", l.seq),
		slog.Int("replicas", len(l.replicas)), slog.Duration("took", time.Since(began)))
	l.fail = newFailStop(cfg.Fatal)
	go l.commitLoop()
	return l, nil
}

// Close commits what was submitted, ends the committer and closes the journal.
// A second call waits for the first and answers the same. While a write hangs
// Close hangs too: the process must stop then.
func (l *Log) Close() error {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.signal()
	<-l.done
	l.closing.Do(func() {
		l.fail.close()
		l.closeErr = l.journal.Close()
	})
	return l.closeErr
}

// Shard returns the log of one replica: the same object for the same arguments.
func (l *Log) Shard(shard uint32, generation uint64) *Shard {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.shardLocked(replica{shard, generation})
}

func (l *Log) shardLocked(r replica) *Shard {
	s := l.replicas[r]
	if s == nil {
		s = &Shard{log: l, replica: r}
		l.replicas[r] = s
	}
	return s
}

// Stats returns the counters since Open.
func (l *Log) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stats
}

// rebuild reads the journal from its first to its last record.
func (l *Log) rebuild() error {
	first, err := l.journal.FirstIndex()
	if err != nil {
		return fmt.Errorf("first record: %w", err)
	}
	last, err := l.journal.LastIndex()
	if err != nil {
		return fmt.Errorf("last record: %w", err)
	}
	if last == 0 {
		return nil
	}
	if first != 1 {
		return fmt.Errorf("the journal starts at record %d, want 1", first)
	}
	for seq := first; seq <= last; seq++ {
		_, err := l.load(seq, func(offset int, f frame) error {
			s := l.shardLocked(f.replica)
			return s.positions.apply(f.kind, f.index, position{record: seq, offset: uint32(offset)})
		})
		if err != nil {
			return err
		}
	}
	l.seq = last
	return nil
}

// record returns the bytes of a durable record.
func (l *Log) record(seq uint64) ([]byte, error) {
	if record, ok := l.cache.get(seq); ok {
		return record, nil
	}
	return l.load(seq, func(int, frame) error { return nil })
}

// load reads a record, shows its verified frames to visit and caches it.
func (l *Log) load(seq uint64, visit func(offset int, f frame) error) ([]byte, error) {
	record, err := l.read(seq)
	if err != nil {
		return nil, fmt.Errorf("record %d: %w", seq, err)
	}
	if err := walk(record, visit); err != nil {
		return nil, fmt.Errorf("record %d: %w", seq, err)
	}
	l.cache.put(seq, record)
	return record, nil
}

// read returns the bytes of a record as the journal has them.
func (l *Log) read(seq uint64) (_ []byte, err error) {
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
	// The limit keeps every offset within a position's 32 bits.
	if most := max(maxCommitBytes, maxFrameBytes); len(e.Data) > most {
		return nil, fmt.Errorf("got %d bytes, want at most %d", len(e.Data), most)
	}
	return e.Data, nil
}

package raftlog

import (
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// The values of Config.Store.
const (
	StoreWAL  = "wal"    // hashicorp/raft-wal: one sync per record
	StoreBolt = "boltdb" // hashicorp/raft-boltdb/v2: two syncs per record
)

const (
	// defaultGather is what the callers woken by one commit need to come back
	// with their next entries; a sync takes longer on any disk.
	defaultGather = 100 * time.Microsecond

	// maxYields ends that wait if the clock does not: testing/synctest's stands
	// still while anybody runs. A yield takes 100 ns or more, so this is 1 ms or
	// more, which no sensible Gather reaches.
	maxYields = 1 << 14

	// defaultCacheBytes holds a few seconds of writes, which is what replication
	// and apply read back.
	defaultCacheBytes = 64 << 20

	// maxCommitBytes bounds one record: a read of one entry reads its whole
	// record, and a record delays everybody who waits for it.
	maxCommitBytes = 4 << 20

	// maxEntryBytes bounds data and extensions of one entry: the largest value a
	// user may store and its envelope. raft-wal writes records that it cannot
	// read back from 64 MiB on, far above.
	maxEntryBytes = 8<<20 + 64<<10

	// segmentBytes is the size of one raft-wal file, pre-allocated, and so the
	// unit in which space can be given back.
	segmentBytes = 64 << 20

	// stallLimit is the longest a write may take before the disk counts as
	// broken: raft keeps a leader whose disk hangs (hashicorp/raft#503).
	stallLimit = 10 * time.Second

	// watchPeriod is how often the watchdog looks: a tenth of stallLimit, so a
	// stall is noticed at most a tenth late.
	watchPeriod = stallLimit / 10
)

// ErrClosed is the answer to every change after Close.
var ErrClosed = errors.New("raftlog: closed")

// Config says where a Log lives and how it commits. Only Dir is required.
type Config struct {
	Dir        string        // created if absent; the journal is Dir/journal
	Store      string        // StoreWAL (default) or StoreBolt
	Gather     time.Duration // how long a commit waits for the callers of the one before it; default 100 µs
	CacheBytes int64         // recent records kept in memory, bytes over all shards; default 64 MiB

	// Fatal is called once, when a write failed or hung; the process must stop.
	// It runs on a goroutine of the log and so must not call Close. nil panics.
	Fatal  func(error)
	Logger *slog.Logger // nil discards
}

func (c Config) withDefaults() (Config, error) {
	if c.Dir == "" {
		return c, errors.New("raftlog: Dir is empty, want a directory")
	}
	switch c.Store {
	case "":
		c.Store = StoreWAL
	case StoreWAL, StoreBolt:
	default:
		return c, fmt.Errorf("raftlog: Store is %q, want %q or %q", c.Store, StoreWAL, StoreBolt)
	}
	if c.Gather < 0 {
		return c, fmt.Errorf("raftlog: Gather is %v, want 0 (the default) or more", c.Gather)
	}
	if c.Gather == 0 {
		c.Gather = defaultGather
	}
	if c.CacheBytes < 0 {
		return c, fmt.Errorf("raftlog: CacheBytes is %d, want 0 (the default) or more", c.CacheBytes)
	}
	if c.CacheBytes == 0 {
		c.CacheBytes = defaultCacheBytes
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

// Stats are counters since Open.
type Stats struct {
	Commits         uint64        // records written, one sync each
	Entries         uint64        // raft entries in them
	Bytes           uint64        // bytes of frames in them
	LastCommitBytes uint64        // bytes of frames in the latest record
	SyncTime        time.Duration // spent writing and syncing
}

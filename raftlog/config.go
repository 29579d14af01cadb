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
	defaultCacheBytes = 32 << 20

	// defaultJournalBytes is a few minutes of heavy writing: what a replica that
	// was away for less finds here, it need not fetch as a snapshot.
	defaultJournalBytes = 512 << 20

	// minJournalBytes is enough for some raft-wal files that hold some records
	// each; below, most of the journal would be the one being written.
	minJournalBytes = 8 << 20

	// journalParts is how many raft-wal files make JournalBytes, so that what can
	// only be given back whole is a small part.
	journalParts = 8

	// maxCommitBytes bounds one record: a read of one entry reads its whole
	// record, and a record delays everybody who waits for it.
	maxCommitBytes = 4 << 20

	// maxEntryBytes bounds data and extensions of one entry: raft bounds its
	// messages by entries, so this is what bounds their bytes.
	maxEntryBytes = 1 << 20

	// maxSegmentBytes and minSegmentBytes bound the size of one raft-wal file. It
	// is pre-allocated, and the unit in which space can be given back.
	maxSegmentBytes = 64 << 20
	minSegmentBytes = 1 << 20

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
	CacheBytes int64         // recent records kept in memory, bytes over all shards; default 32 MiB

	// JournalBytes is the size of the journal above which Full asks for a
	// Reclaim; default 512 MiB, at least 8 MiB. On disk raft-wal adds up to two
	// files of an eighth of it, 64 MiB at most; a bbolt file does not shrink.
	JournalBytes int64

	// Fatal is called once, when a write failed or hung; the process must stop.
	// It runs on a goroutine of the log and so must not call Close. nil panics.
	Fatal  func(error)
	Logger *slog.Logger // nil discards

	// Committed, if set, hears of each record that became durable: its bytes and how
	// long writing and syncing it took. Callers wait for it.
	Committed func(bytes int, took time.Duration)
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
	if c.JournalBytes == 0 {
		c.JournalBytes = defaultJournalBytes
	}
	if c.JournalBytes < minJournalBytes {
		return c, fmt.Errorf("raftlog: JournalBytes is %d, want 0 (the default) or at least %d", c.JournalBytes, int64(minJournalBytes))
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Committed == nil {
		c.Committed = func(int, time.Duration) {}
	}
	return c, nil
}

// segmentBytes is the size of one raft-wal file.
func (c Config) segmentBytes() int {
	return int(min(max(c.JournalBytes/journalParts, minSegmentBytes), maxSegmentBytes))
}

// commitBytes is the most a record may have. The largest entry always fits,
// with the trim that may have to go before it.
func (c Config) commitBytes() int {
	return int(min(max(c.JournalBytes/journalParts, maxFrameBytes+markBytes), maxCommitBytes))
}

// Stats are counters since Open, and the size now.
type Stats struct {
	Commits         uint64        // records written, one sync each
	Entries         uint64        // raft entries in them, without those carried forward
	Bytes           uint64        // bytes of frames in them
	LastCommitBytes uint64        // bytes of frames in the latest record
	SyncTime        time.Duration // spent writing and syncing
	Carried         uint64        // bytes of frames carried forward
	Reclaimed       uint64        // bytes of frames in the records deleted
	Journal         int64         // as in Size
	Live            int64         // as in Size
}

// Size is what the journal holds, in bytes of frames.
type Size struct {
	Journal int64 // in all records
	Live    int64 // of entries that can be read, which is the least Reclaim can leave
}

package fsm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
)

const (
	// memTableBytes is how much comes from the write buffers between two flushes: with the
	// write-ahead log off, larger means fewer and larger tables in L0, and more of
	// the Raft log to apply again after a crash. Compactions took half the time
	// they took at 16 MiB; at 64 MiB what they save goes into looking for
	// a key's place, which misses the processor's caches. A node of 512 MiB has
	// room for memTables of them.
	memTableBytes = 32 << 20

	// memTables is how many memtables there may be before Apply waits for a flush:
	// 96 MiB, a second or two of a slow disk.
	memTables = 3

	// tableBlock is what one block of a table holds. Each block written costs a call of
	// the system and several hand-overs among goroutines, each one read a look into
	// an index; of a value on disk, more is read than it takes. It is CockroachDB's
	// choice, too.
	tableBlock = 32 << 10

	// residentMemTables is how many memtables an ordinary load keeps: the one
	// written to and the one that is flushed or kept for reuse. Pebble takes
	// them out of the block cache's size (Cache.Reserve), so that a cache of
	// 64 MiB would have no room left for blocks; they are added to it.
	residentMemTables = 2

	// filterBits for each key make one in a hundred look-ups of an absent key
	// read a block for nothing.
	filterBits = 10

	// compactL0 starts a compaction when a look-up may have to visit that many
	// layers of L0; Pebble's default, at which one core keeps up.
	compactL0 = 4

	// stopL0 makes Apply wait when there are that many: some 600 MiB behind.
	// Further behind, reads cost more than waiting does.
	stopL0 = 20

	// maxCompactions leaves applying and serving something on a machine of two
	// cores: one, and a second only when Pebble sees it falling behind.
	minCompactions, maxCompactions = 1, 2

	// slowDisk is how long one operation of the file system may take before
	// the log says so: Pebble's own default.
	slowDisk = 5 * time.Second

	// hungDisk is how long it may take before the disk counts as broken, as for
	// the journal: raft keeps a leader whose disk hangs (hashicorp/raft#503).
	// It is noticed up to 2 s late.
	hungDisk = 10 * time.Second
)

func (s *Store) options() *pebble.Options {
	o := &pebble.Options{
		CacheSize:                   s.cfg.CacheBytes + residentMemTables*memTableBytes,
		ReadOnly:                    s.cfg.ReadOnly,
		DisableWAL:                  true,
		FormatMajorVersion:          pebble.FormatNewest,
		FS:                          s.fs,
		L0CompactionThreshold:       compactL0,
		L0StopWritesThreshold:       stopL0,
		MemTableSize:                memTableBytes,
		MemTableStopWritesThreshold: memTables,
		CompactionConcurrencyRange:  func() (int, int) { return minCompactions, maxCompactions },
		Logger:                      pebbleLog{s.cfg.Logger, s.fatal},
		EventListener:               s.listener(),
	}
	for i := range o.Levels {
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(filterBits)
		o.Levels[i].BlockSize = tableBlock
	}
	return o
}

func (s *Store) listener() *pebble.EventListener {
	return &pebble.EventListener{
		BackgroundError: s.backgroundError,
		DataCorruption: func(info pebble.DataCorruptionInfo) {
			s.fatal(fmt.Errorf("%s is corrupt: %w", info.Path, info.Details))
		},
		WriteStallBegin: func(info pebble.WriteStallBeginInfo) {
			s.cfg.Logger.Warn("applying waits for Pebble", "reason", info.Reason)
		},
	}
}

// backgroundError is fatal, but for a compaction that had to make way for Restore
// or Drop: Pebble reports it and does it again.
func (s *Store) backgroundError(err error) {
	if errors.Is(err, pebble.ErrCancelledCompaction) {
		s.cfg.Logger.Debug("a compaction made way", "detail", err)
		return
	}
	s.fatal(fmt.Errorf("pebble in the background: %w", err))
}

// pebbleLog gives Pebble's log to slog.
type pebbleLog struct {
	log   *slog.Logger
	fatal func(error)
}

func (l pebbleLog) Infof(format string, args ...any) {
	if l.log.Enabled(context.Background(), slog.LevelDebug) { // the texts are long and made in the apply path
		l.log.Debug("pebble", "detail", fmt.Sprintf(format, args...))
	}
}

func (l pebbleLog) Errorf(format string, args ...any) {
	l.log.Error("pebble", "detail", fmt.Sprintf(format, args...))
}

// Fatalf may return, if Config.Fatal does. Pebble then goes on as if nothing
// had happened, so whoever writes asks for the store's failure afterwards.
func (l pebbleLog) Fatalf(format string, args ...any) {
	l.fatal(fmt.Errorf(format, args...))
}

package raftlog

import (
	"errors"
	"fmt"
	"sync"

	"github.com/hashicorp/raft"
)

// Shard is the log of one replica, a raft.LogStore. Gaps are legal in it, so it
// does not claim to be a raft.MonotonicLogStore.
type Shard struct {
	log     *Log
	replica replica

	// write lets one change at a time check the bounds and reach the disk: raft
	// appends on one goroutine and trims, after a snapshot, on another.
	write sync.Mutex

	mu        sync.RWMutex // guards positions
	positions positions
}

var _ raft.LogStore = (*Shard)(nil)

// FirstIndex returns the first index, 0 if the log is empty.
func (s *Shard) FirstIndex() (uint64, error) {
	first, _ := s.bounds()
	return first, nil
}

// LastIndex returns the last durable index, 0 if the log is empty.
func (s *Shard) LastIndex() (uint64, error) {
	_, last := s.bounds()
	return last, nil
}

func (s *Shard) bounds() (first, last uint64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.positions.bounds()
}

// GetLog reads the entry at index into e. The bytes of the entry are shared and
// must not be changed. An index that is not there is raft.ErrLogNotFound itself,
// since raft compares with ==.
//
// An entry that is there and cannot be read is fail-stop, too: raft would try
// again for ever, in silence, and its follower would never catch up.
func (s *Shard) GetLog(index uint64, e *raft.Log) error {
	err := s.getLog(index, e)
	if err != nil && !errors.Is(err, raft.ErrLogNotFound) && !errors.Is(err, ErrClosed) {
		s.log.fail.poison(err)
	}
	return err
}

func (s *Shard) getLog(index uint64, e *raft.Log) error {
	s.mu.RLock()
	where, ok := s.positions.find(index)
	s.mu.RUnlock()
	if !ok {
		return raft.ErrLogNotFound
	}
	record, err := s.log.record(where.record)
	if err != nil {
		return fmt.Errorf("raftlog: shard %d index %d: %w", s.replica.shard, index, err)
	}
	f, _, err := parseFrame(record[where.offset:])
	if err != nil {
		return fmt.Errorf("raftlog: shard %d index %d: record %d offset %d: %w",
			s.replica.shard, index, where.record, where.offset, err)
	}
	if f.kind != kindEntry || f.replica != s.replica || f.index != index {
		return fmt.Errorf("raftlog: record %d offset %d: got kind %d of %+v index %d, want an entry of %+v index %d",
			where.record, where.offset, f.kind, f.replica, f.index, s.replica, index)
	}
	*e = f.entry()
	return nil
}

// StoreLog appends one entry.
func (s *Shard) StoreLog(e *raft.Log) error {
	return s.StoreLogs([]*raft.Log{e})
}

// StoreLogs appends consecutive entries and returns once they are durable. It
// copies them. If it fails, some of them, from the first on, may be durable.
func (s *Shard) StoreLogs(entries []*raft.Log) error {
	if len(entries) == 0 {
		return s.log.fail.failure()
	}
	for i, e := range entries {
		if want := entries[0].Index + uint64(i); e.Index != want || e.Index == 0 {
			return fmt.Errorf("raftlog: append to shard %d: got index %d at place %d of %d, want %d, and not 0",
				s.replica.shard, e.Index, i, len(entries), want)
		}
		if n := len(e.Data) + len(e.Extensions); n > maxEntryBytes {
			return fmt.Errorf("raftlog: append to shard %d: entry %d has %d bytes, want at most %d",
				s.replica.shard, e.Index, n, maxEntryBytes)
		}
	}
	s.write.Lock()
	defer s.write.Unlock()
	if first, _ := s.bounds(); entries[0].Index < first {
		return fmt.Errorf("raftlog: append to shard %d: got index %d, want %d (the first index) or more",
			s.replica.shard, entries[0].Index, first)
	}
	return s.log.submit(func() (b *batch) {
		for _, e := range entries {
			b = s.log.place(s, kindEntry, e.Index, entryBytes(e))
			b.buf = appendEntry(b.buf, s.replica, e)
		}
		return b
	})
}

// DeleteRange deletes the entries from lowest to highest, both included, and
// returns once that is durable. They must be a prefix or a suffix of the log;
// bounds beyond the log's are fine.
func (s *Shard) DeleteRange(lowest, highest uint64) error {
	s.write.Lock()
	defer s.write.Unlock()
	first, last := s.bounds()
	switch {
	case last == 0 || lowest > highest || highest < first || lowest > last:
		return s.log.fail.failure() // nothing to delete
	case lowest <= first:
		return s.mark(kindTrim, min(highest, last)+1)
	case highest >= last:
		return s.mark(kindCut, lowest)
	}
	return fmt.Errorf("raftlog: delete %d to %d from shard %d: want a prefix or a suffix of %d to %d",
		lowest, highest, s.replica.shard, first, last)
}

func (s *Shard) mark(kind byte, index uint64) error {
	return s.log.submit(func() *batch {
		b := s.log.place(s, kind, index, markBytes)
		b.buf = appendMark(b.buf, kind, s.replica, index)
		return b
	})
}

// applied makes a durable frame visible. Only the committer calls it.
func (s *Shard) applied(kind byte, index uint64, where position) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.positions.apply(kind, index, where); err != nil {
		// StoreLogs checked the same bounds and holds s.write, so they cannot
		// have changed: memory and journal disagree, and only a bug does that.
		panic(fmt.Sprintf("raftlog: shard %d: %v", s.replica.shard, err))
	}
}

package raftlog

import (
	"errors"
	"fmt"
	"sync"

	"github.com/hashicorp/raft"
)

// ErrDropped is the answer of a Shard after Drop.
var ErrDropped = errors.New("raftlog: the replica was dropped")

// Shard is the log of one replica, a raft.LogStore, from when the shard came to
// this node until it leaves. Gaps are legal in it, so it does not claim to be a
// raft.MonotonicLogStore.
type Shard struct {
	log     *Log
	replica replica

	// write lets one change at a time check the bounds and reach the disk: raft
	// appends on one goroutine and trims, after a snapshot, on another.
	write sync.Mutex

	mu        sync.RWMutex // guards what follows
	positions positions
	latest    uint64 // the last record with a frame of this stay, 0 = none
	dropped   bool
}

var _ raft.LogStore = (*Shard)(nil)

// FirstIndex returns the first index, 0 if the log is empty.
func (s *Shard) FirstIndex() (uint64, error) {
	first, _, err := s.bounds()
	return first, err
}

// LastIndex returns the last durable index, 0 if the log is empty.
func (s *Shard) LastIndex() (uint64, error) {
	_, last, err := s.bounds()
	return last, err
}

func (s *Shard) bounds() (first, last uint64, err error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.dropped {
		return 0, 0, ErrDropped
	}
	first, last = s.positions.bounds()
	return first, last, nil
}

// TrailingFit returns how many of the last entries have at most so many bytes,
// as the journal counts them: the number for raft's TrailingLogs.
func (s *Shard) TrailingFit(bytes int64) uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.positions.fit(bytes)
}

// where returns the position of index. An index that is not there is
// raft.ErrLogNotFound itself.
func (s *Shard) where(index uint64) (position, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.dropped {
		return position{}, ErrDropped
	}
	at := s.positions.find(index)
	if at == nil {
		return position{}, raft.ErrLogNotFound
	}
	return *at, nil
}

func (s *Shard) latestRecord() uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.latest
}

// GetLog reads the entry at index into e. The bytes of the entry are shared and
// must not be changed. An index that is not there is raft.ErrLogNotFound itself,
// since raft compares with ==.
//
// An entry that is there and cannot be read is fail-stop, too: raft would try
// again for ever, in silence, and its follower would never catch up.
func (s *Shard) GetLog(index uint64, e *raft.Log) error {
	for {
		where, err := s.where(index)
		if err != nil {
			return err
		}
		readErr := s.readEntry(index, where, e)
		if readErr == nil {
			return nil
		}
		// Reclaim may have moved the entry and deleted the record meanwhile.
		again, err := s.where(index)
		if err != nil {
			return err
		}
		if again == where {
			s.log.fail.poison(readErr)
			return readErr
		}
	}
}

// readEntry reads the entry of index, which is at where.
func (s *Shard) readEntry(index uint64, where position, e *raft.Log) error {
	record, err := s.log.record(where.record)
	if err != nil {
		return fmt.Errorf("raftlog: shard %d index %d: %w", s.replica.shard, index, err)
	}
	f, err := parseFrame(record[where.offset:])
	if err != nil {
		return fmt.Errorf("raftlog: shard %d index %d: record %d offset %d: %w",
			s.replica.shard, index, where.record, where.offset, err)
	}
	if f.kind != kindEntry && f.kind != kindCarry || f.replica != s.replica || f.index != index {
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
	first, last, err := s.bounds()
	if err != nil {
		return err
	}
	if entries[0].Index < first {
		return fmt.Errorf("raftlog: append to shard %d: got index %d, want %d (the first index) or more",
			s.replica.shard, entries[0].Index, first)
	}
	return s.log.submit(func() (b *batch) {
		if next := entries[0]; last != 0 && next.Index > last+1 {
			// Beyond a gap. A trim says so, as a replay may not know last; in one
			// record with the entry, as the log must not be seen without both.
			s.log.room(markBytes + entryBytes(next))
			s.placeMark(kindTrim, next.Index)
		}
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
	first, last, err := s.bounds()
	switch {
	case err != nil:
		return err
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

// Drop ends this stay of the shard, durably: its entries are gone and every
// later call answers ErrDropped. The caller has shut raft down. Log.Shard then
// returns the next stay, which does not meet what this one left.
func (s *Shard) Drop() error {
	s.write.Lock()
	defer s.write.Unlock()
	if _, _, err := s.bounds(); err != nil {
		return err
	}
	return s.mark(kindDrop, 0)
}

func (s *Shard) mark(kind byte, index uint64) error {
	return s.log.submit(func() *batch { return s.placeMark(kind, index) })
}

// placeMark places a cut, a trim or a drop. Log.mu is held.
func (s *Shard) placeMark(kind byte, index uint64) *batch {
	b := s.log.place(s, kind, index, markBytes)
	b.buf = appendMark(b.buf, kind, s.replica, index)
	return b
}

// applied makes a durable frame of record seq visible and returns by how much
// the bytes of live entries grew. Only the committer calls it.
func (s *Shard) applied(f placed, seq uint64) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	grown, err := s.apply(f.kind, f.index, position{record: seq, offset: f.offset, size: f.size}, true)
	if err != nil {
		// Whoever placed the frame checked the same bounds under s.write, so they
		// cannot have changed: memory and journal disagree, and only a bug does that.
		panic(fmt.Sprintf("raftlog: shard %d: %v", s.replica.shard, err))
	}
	return grown
}

// apply does what a frame says, writing and replaying alike, and returns by how
// much the bytes of live entries grew. s.mu is held, or nobody else knows s.
func (s *Shard) apply(kind byte, index uint64, where position, whole bool) (grown int64, err error) {
	before := s.positions.bytes
	s.latest = where.record
	if kind == kindDrop {
		s.positions, s.latest, s.dropped = positions{}, 0, true
		return -before, nil
	}
	err = s.positions.apply(kind, index, where, whole)
	return s.positions.bytes - before, err
}

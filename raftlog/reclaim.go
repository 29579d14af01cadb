package raftlog

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/manykv/manykv/crash"
)

// Full gets a token when a commit made the journal larger than
// Config.JournalBytes, and than twice what the last Reclaim could not give back;
// and again each time it grew by another eighth of JournalBytes without one. The
// one who takes it makes raft free entries and calls Reclaim.
func (l *Log) Full() <-chan struct{} { return l.full }

// tellFull leaves a token if it is due. Log.mu is held.
func (l *Log) tellFull() {
	if l.stats.Journal <= max(l.limit, 2*l.kept, l.told) {
		return
	}
	l.told = l.stats.Journal + l.limit/8
	select {
	case l.full <- struct{}{}:
	default:
	}
}

// Reclaim gives back the beginning of the journal and returns by how many bytes
// of frames that made it smaller. What raft has not freed in there is carried
// forward first: written again at the end of the journal. Afterwards the journal
// has at most half of Config.JournalBytes, or 5/4 of the live bytes if that is
// more, and what was appended meanwhile. At most the live bytes are carried.
//
// A live entry that cannot be read and a failed deletion are fail-stop.
func (l *Log) Reclaim() (freed int64, err error) {
	l.reclaiming.Lock()
	defer l.reclaiming.Unlock()
	t, err := l.tally()
	if err != nil {
		return 0, err
	}
	if n := t.worth(l.limit); n > 0 {
		freed, err = l.giveBack(t.first, t.live[:n])
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kept, l.told = l.stats.Live, 0
	select {
	case <-l.full: // from before
	default:
	}
	return freed, err
}

// tally is what each record of the journal holds, from record first on.
type tally struct {
	first uint64
	sizes []uint32 // bytes of frames
	live  []uint32 // bytes of frames of live entries
}

func (l *Log) tally() (tally, error) {
	if err := l.fail.failure(); err != nil {
		return tally{}, err
	}
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return tally{}, ErrClosed
	}
	// The committer only appends to sizes, and deletes only for Reclaim.
	t := tally{first: l.first, sizes: l.sizes, live: make([]uint32, len(l.sizes))}
	stays := slices.Collect(maps.Values(l.shards))
	l.mu.Unlock()
	for _, s := range stays {
		s.addLive(t)
	}
	return t, nil
}

func (s *Shard) addLive(t tally) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, run := range s.positions.stretches {
		for _, where := range run.at {
			if i := where.record - t.first; i < uint64(len(t.live)) { // not younger than t
				t.live[i] += where.size
			}
		}
	}
}

// worth returns how many records to give back: all up to where what is carried
// is a quarter of what is deleted, since that is cheap, and as many more as it
// takes to come down to the size that Reclaim promises.
func (t tally) worth(limit int64) int {
	var journal, live int64
	for i := range t.sizes {
		journal += int64(t.sizes[i])
		live += int64(t.live[i])
	}
	target := max(limit/2, live+live/4)
	var deleted, carried int64
	n, gain := 0, int64(0)
	for i := range t.sizes {
		needed := journal-gain > target
		deleted += int64(t.sizes[i])
		carried += int64(t.live[i])
		if needed || 4*carried <= deleted {
			n, gain = i+1, deleted-carried
		}
	}
	if gain <= markBytes {
		return 0 // the head that Reclaim writes takes as much
	}
	return n
}

// giveBack deletes the records from first on that have so many live bytes each,
// after carrying these forward. They are not the last ones, as a head follows.
func (l *Log) giveBack(first uint64, live []uint32) (freed int64, err error) {
	crash.Point(crashReclaimBegin)
	carried, err := l.carry(first, live)
	if err != nil {
		return 0, err
	}
	crash.Point(crashReclaimCarried)
	last := first + uint64(len(live)) - 1
	err = l.submit(func() *batch {
		b := l.place(nil, kindHead, last, markBytes)
		b.buf = appendMark(b.buf, kindHead, replica{}, last)
		return b
	})
	if err != nil {
		return 0, err
	}
	before := l.Stats().Reclaimed
	for done := false; !done; {
		to := last
		if last-first >= l.deletePiece {
			to = first + l.deletePiece - 1
		}
		err := l.submit(func() *batch { return l.push(&batch{delete: to, done: make(chan struct{})}) })
		if err != nil {
			return 0, err
		}
		first, done = to+1, to == last
	}
	return int64(l.Stats().Reclaimed-before) - carried, nil
}

// moved is an entry on its way to the end of the journal.
type moved struct {
	index uint64
	from  position
	frame []byte // what is written there
}

// carry writes the live entries of the records from first on, which have so many
// bytes each, again. It takes them record by record, so each is read once, and
// waits after each commit's worth.
func (l *Log) carry(first uint64, live []uint32) (carried int64, err error) {
	load, size := make(map[*Shard][]moved), 0
	for i, bytes := range live {
		if bytes > 0 {
			n, err := l.collect(first+uint64(i), load)
			if err != nil {
				l.fail.poison(err)
				return 0, err
			}
			size += n
		}
		if size >= l.commitBytes || i == len(live)-1 {
			n, err := l.carryAll(load)
			if err != nil {
				return 0, err
			}
			crash.Point(crashReclaimChunk)
			carried += n
			clear(load)
			size = 0
		}
	}
	return carried, nil
}

// collect adds the live entries of a record to load.
func (l *Log) collect(seq uint64, load map[*Shard][]moved) (size int, err error) {
	_, err = l.read(seq, func(offset int, f frame) error {
		if f.kind != kindEntry && f.kind != kindCarry {
			return nil
		}
		l.mu.Lock()
		s := l.shards[f.replica.shard]
		l.mu.Unlock()
		m := moved{index: f.index, from: position{record: seq, offset: uint32(offset), size: uint32(len(f.bytes))}}
		if s == nil || !s.has(m) {
			return nil
		}
		m.frame = appendCarry(make([]byte, 0, len(f.bytes)), f.bytes)
		load[s] = append(load[s], m)
		size += len(f.bytes)
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("raftlog: carry forward: %w", err)
	}
	return size, nil
}

// has says whether m is still where it was.
func (s *Shard) has(m moved) bool {
	where, err := s.where(m.index)
	return err == nil && where == m.from
}

// carryAll writes what is still live of load and waits until it is durable, so
// that the queue stays short.
func (l *Log) carryAll(load map[*Shard][]moved) (carried int64, err error) {
	shards := slices.SortedFunc(maps.Keys(load), func(a, b *Shard) int {
		return cmp.Compare(a.replica.shard, b.replica.shard)
	})
	var last *batch
	for _, s := range shards {
		b, n, err := s.enqueueCarry(load[s])
		if err != nil {
			return 0, err
		}
		if b != nil {
			last = b
			carried += n
		}
	}
	if last == nil {
		return 0, nil
	}
	return carried, l.await(last)
}

// enqueueCarry queues the entries that are still where they were, nil if none
// is. It holds s.write for that only, not until they are durable: a change that
// comes later is also later in the queue, and carrying changes no bounds.
func (s *Shard) enqueueCarry(entries []moved) (*batch, int64, error) {
	s.write.Lock()
	defer s.write.Unlock()
	entries = slices.DeleteFunc(entries, func(m moved) bool { return !s.has(m) })
	if len(entries) == 0 {
		return nil, 0, nil
	}
	size := int64(0)
	b, err := s.log.enqueue(func() (b *batch) {
		for _, m := range entries {
			b = s.log.place(s, kindCarry, m.index, len(m.frame))
			b.buf = append(b.buf, m.frame...)
			size += int64(len(m.frame))
		}
		return b
	})
	return b, size, err
}

// deleteRecords deletes the first records, up to number last. Only the committer
// calls it: a deletion is a write like any other.
func (l *Log) deleteRecords(last uint64) error {
	l.mu.Lock()
	first := l.first
	l.mu.Unlock()
	crash.Point(crashDelete)
	err := l.fail.guard(func() error {
		err := l.journal.DeleteRange(first, last)
		if err == nil {
			err = l.wantFirst(last + 1)
		}
		if err != nil {
			return fmt.Errorf("raftlog: delete records %d to %d: %w", first, last, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	crash.Point(crashDeleted)
	l.cache.drop(last + 1)
	l.mu.Lock()
	defer l.mu.Unlock()
	n := last + 1 - first
	for _, size := range l.sizes[:n] {
		l.stats.Journal -= int64(size)
		l.stats.Reclaimed += uint64(size)
	}
	// The old array goes when the slice next outgrows it.
	l.first, l.sizes = last+1, l.sizes[n:]
	return nil
}

// wantFirst fails unless the journal begins at record seq: one that kept an
// older record could not be opened, as the one after it is missing.
func (l *Log) wantFirst(seq uint64) error {
	first, err := l.journal.FirstIndex()
	if err == nil && first != seq {
		err = errors.New("unfinished")
	}
	if err != nil {
		return fmt.Errorf("first record is %d, want %d: %w", first, seq, err)
	}
	return nil
}

package raftlog

import (
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// gatedJournal holds every write until the test lets it go.
type gatedJournal struct {
	memJournal
	gate chan error // what the next write answers
}

func newGatedJournal() gatedJournal { return gatedJournal{newMemJournal(), make(chan error)} }

func (g gatedJournal) StoreLog(e *raft.Log) error {
	if err := <-g.gate; err != nil {
		return err
	}
	return g.memJournal.StoreLog(e)
}

// Callers that arrive while a record is being synced share the next one, and
// nothing is visible before it is durable.
func TestGroupCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newGatedJournal()
		l := startTest(t, Config{}, j)
		var wg sync.WaitGroup
		store := func(shard uint32) {
			wg.Go(func() { mustStore(t, l.Shard(shard), run(shard, 1, 1, 100, 100)) })
			synctest.Wait()
		}
		store(1)
		for shard := uint32(2); shard <= 8; shard++ {
			store(shard)
		}
		for shard := uint32(1); shard <= 8; shard++ {
			want(t, l.Shard(shard), nil)
		}
		j.gate <- nil
		synctest.Wait()
		want(t, l.Shard(1), run(1, 1, 1, 100, 100))
		want(t, l.Shard(2), nil)
		j.gate <- nil
		wg.Wait()
		for shard := uint32(1); shard <= 8; shard++ {
			want(t, l.Shard(shard), run(shard, 1, 1, 100, 100))
		}
		if got := l.Stats(); got.Commits != 2 || got.Entries != 16 || got.LastCommitBytes*8 != got.Bytes*7 {
			t.Errorf("got %+v, want 2 commits, 16 entries, 7/8 of the bytes in the last", got)
		}
		mustClose(t, l)
	})
}

// With an hour to wait, a lone caller waits for nobody, and two that just
// committed together wait for each other.
func TestGather(t *testing.T) {
	j := newGatedJournal()
	l := startTest(t, Config{Gather: time.Hour}, j)
	l.mu.Lock()
	l.yields = math.MaxInt
	l.mu.Unlock()
	a, b := l.Shard(1), l.Shard(2)
	store := func(s *Shard, index uint64) chan error {
		done := make(chan error, 1)
		go func() { done <- s.StoreLog(entryOf(s.replica.shard, index, 1, 10)) }()
		return done
	}
	answer := func(done chan error) {
		t.Helper()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	for index := uint64(1); index <= 3; index++ {
		done := store(a, index)
		j.gate <- nil
		answer(done)
	}
	// The first is being written while the next two queue up.
	first := store(l.Shard(3), 1)
	waitQueued(l, 0)
	second, third := store(a, 4), store(b, 1)
	waitQueued(l, 2)
	j.gate <- nil
	j.gate <- nil
	answer(first)
	answer(second)
	answer(third)
	before := l.Stats().Commits
	second = store(a, 5)
	waitQueued(l, 1) // it stays there: the committer waits for the other one
	third = store(b, 2)
	j.gate <- nil
	answer(second)
	answer(third)
	if got := l.Stats().Commits - before; got != 1 {
		t.Errorf("got %d commits, want 1", got)
	}
	// Close does not wait for company.
	second = store(a, 6)
	waitQueued(l, 1)
	closed := make(chan error, 1)
	go func() { closed <- l.Close() }()
	j.gate <- nil
	answer(second)
	answer(closed)
	if err := a.StoreLog(entryOf(1, 7, 1, 10)); err != ErrClosed {
		t.Errorf("append after Close: got %v, want ErrClosed", err)
	}
	mustClose(t, l)
}

// waitQueued spins until calls wait to be taken by the committer, and at least
// one write began if that is none.
func waitQueued(l *Log, calls int) {
	for {
		l.mu.Lock()
		queued := 0
		for _, b := range l.queue {
			queued += b.calls
		}
		l.mu.Unlock()
		if queued == calls && (calls > 0 || l.fail.began.Load() != 0) {
			return
		}
	}
}

// A call above the size of a commit is split in order and answered after the
// last part; the largest entry always fits.
func TestLargeCalls(t *testing.T) {
	const mib = 1 << 20
	// The frames of the first three below have 1 MiB and entryFixedBytes each; the
	// third entry has no extensions, the others 8 bytes.
	rest := maxCommitBytes - 3*(mib+entryFixedBytes) - (entryFixedBytes + 8)
	for name, c := range map[string]struct {
		journal int64
		sizes   []int
		records uint64
	}{
		"fits":              {0, []int{mib / 2, mib / 2, mib / 2, mib / 2}, 1},
		"split":             {0, []int{mib - 8, mib - 8, mib, mib - 8, mib - 8}, 2},
		"exactly full":      {0, []int{mib - 8, mib - 8, mib, rest}, 1},
		"one byte too many": {0, []int{mib - 8, mib - 8, mib, rest + 1}, 2},
		"small journal":     {minJournalBytes, []int{10, mib - 8, mib, 10, 10}, 4},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				j := newGatedJournal()
				l := startTest(t, Config{JournalBytes: c.journal}, j)
				s := l.Shard(1)
				entries := run(1, 1, 1, c.sizes...)
				var answered atomic.Bool
				var wg sync.WaitGroup
				wg.Go(func() {
					mustStore(t, s, entries)
					answered.Store(true)
				})
				for range c.records {
					synctest.Wait()
					if answered.Load() {
						t.Fatal("answered before the last record was durable")
					}
					j.gate <- nil
				}
				wg.Wait()
				want(t, s, entries)
				if got := l.Stats().Commits; got != c.records {
					t.Errorf("got %d records, want %d", got, c.records)
				}
				mustClose(t, l)
				l = startTest(t, Config{CacheBytes: 1}, j)
				want(t, l.Shard(1), entries)
				mustClose(t, l)
			})
		})
	}
	t.Run("too large", func(t *testing.T) {
		l := startTest(t, Config{}, newMemJournal())
		defer mustClose(t, l)
		if err := l.Shard(1).StoreLogs(run(1, 1, 1, 10, maxEntryBytes+1)); err == nil {
			t.Error("got no error")
		}
		want(t, l.Shard(1), nil)
	})
}

// Many shards at once on real stores: everything can be read back, before and
// after reopening, and there were fewer commits than calls.
func TestConcurrentShards(t *testing.T) {
	const shards, calls = 8, 60
	for _, store := range []string{StoreWAL, StoreBolt} {
		t.Run(store, func(t *testing.T) {
			t.Parallel()
			cfg := Config{Dir: t.TempDir(), Store: store, CacheBytes: 64 << 10}
			l := mustOpenSmall(t, cfg)
			var wg sync.WaitGroup
			for shard := uint32(1); shard <= shards; shard++ {
				s := l.Shard(shard)
				acks := make(chan uint64, calls)
				wg.Go(func() {
					defer close(acks)
					for i := uint64(0); i < calls; i++ {
						mustStore(t, s, run(shard, 2*i+1, 1, 300, int(i*20)))
						acks <- 2*i + 2
					}
				})
				wg.Go(func() { readTail(t, s, acks) })
			}
			wg.Wait()
			if got := l.Stats(); got.Commits >= shards*calls || got.Entries != 2*shards*calls || got.SyncTime <= 0 {
				t.Errorf("got %+v, want fewer commits than %d and %d entries", got, shards*calls, 2*shards*calls)
			}
			for range 2 {
				for shard := uint32(1); shard <= shards; shard++ {
					var entries []*raft.Log
					for i := uint64(0); i < calls; i++ {
						entries = append(entries, run(shard, 2*i+1, 1, 300, int(i*20))...)
					}
					want(t, l.Shard(shard), entries)
				}
				mustClose(t, l)
				l = mustOpenSmall(t, cfg)
			}
			mustClose(t, l)
		})
	}
}

// readTail reads the last entry after every append, while the next is under way.
func readTail(t *testing.T, s *Shard, acks <-chan uint64) {
	for acked := range acks {
		last, err := s.LastIndex()
		if err != nil || last < acked {
			t.Errorf("last index: got %d, %v, want %d or more", last, err, acked)
		}
		var e raft.Log
		if err := s.GetLog(last, &e); err != nil || e.Index != last {
			t.Errorf("read %d: got index %d, %v", last, e.Index, err)
		}
	}
}

// A change is checked against a log that no other change is about to alter.
func TestChangesOfOneShardTakeTurns(t *testing.T) {
	j := newGatedJournal()
	l := startTest(t, Config{}, j)
	s := l.Shard(1)
	done := make(chan error, 1)
	store := func(entries []*raft.Log) { go func() { done <- s.StoreLogs(entries) }() }
	answer := func() {
		t.Helper()
		j.gate <- nil
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	store(run(1, 1, 1, 10, 10, 10))
	answer()
	store(run(1, 4, 1, 10))
	waitQueued(l, 0)
	if s.write.TryLock() {
		t.Error("a second change can begin during an append")
	}
	// A suffix of what is durable now, the middle of what will be.
	deleted := make(chan error, 1)
	go func() { deleted <- s.DeleteRange(2, 3) }()
	answer()
	if err := <-deleted; err == nil {
		t.Error("deleting the middle: got no error")
	}
	want(t, s, run(1, 1, 1, 10, 10, 10, 10))
	mustClose(t, l)
}

// A clock that stands still must not make a commit wait for ever.
func TestGatherWithoutClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newGatedJournal()
		l := startTest(t, Config{}, j)
		var wg sync.WaitGroup
		store := func(shard uint32, index uint64) {
			wg.Go(func() { mustStore(t, l.Shard(shard), run(shard, index, 1, 10)) })
			synctest.Wait()
		}
		store(1, 1)
		store(2, 1)
		store(3, 1)
		j.gate <- nil
		j.gate <- nil
		wg.Wait()
		store(1, 2) // the company of two does not come
		j.gate <- nil
		wg.Wait()
		mustClose(t, l)
	})
}

// raft keeps pointers to what it stores, and a caller may reuse its buffers.
func TestEntriesAreCopied(t *testing.T) {
	l := startTest(t, Config{}, newMemJournal())
	defer mustClose(t, l)
	e := entryOf(1, 1, 1, 100)
	before := fmt.Sprintf("%+v", *e)
	mustStore(t, l.Shard(1), []*raft.Log{e})
	if after := fmt.Sprintf("%+v", *e); after != before {
		t.Errorf("the caller's entry changed: got %s, want %s", after, before)
	}
	clear(e.Data)
	want(t, l.Shard(1), run(1, 1, 1, 100))
}

func TestIsNotMonotonic(t *testing.T) {
	var s any = &Shard{}
	if m, ok := s.(raft.MonotonicLogStore); ok && m.IsMonotonic() {
		t.Error("a Shard claims to be monotonic, but gaps are legal in it")
	}
}

func TestConfigIsChecked(t *testing.T) {
	for name, cfg := range map[string]Config{
		"no dir": {}, "store": {Dir: "x", Store: "tape"}, "gather": {Dir: "x", Gather: -1}, "cache": {Dir: "x", CacheBytes: -1},
		"journal": {Dir: "x", JournalBytes: -1}, "small journal": {Dir: "x", JournalBytes: minJournalBytes - 1},
	} {
		if _, err := Open(cfg); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
	if _, err := OpenVotes(VotesConfig{}); err == nil {
		t.Error("votes without a path: got no error")
	}
}

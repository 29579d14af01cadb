package raftlog

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// After a failed write every caller and every later change gets that error,
// Fatal hears of it once, nothing becomes visible and nothing is written again.
func TestWriteErrorPoisons(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newGatedJournal()
		var fatal atomic.Int32
		l := startTest(t, Config{Fatal: func(err error) {
			if !errors.Is(err, errDisk) {
				t.Errorf("Fatal: got %v, want errDisk", err)
			}
			fatal.Add(1)
		}}, j)
		good := l.Shard(1)
		var wg sync.WaitGroup
		wg.Go(func() { mustStore(t, good, run(1, 1, 1, 10, 10, 10)) })
		j.gate <- nil
		wg.Wait()
		// One is being written, three wait in the queue.
		for shard := uint32(1); shard <= 4; shard++ {
			wg.Go(func() {
				if err := l.Shard(shard).StoreLog(entryOf(shard, 4, 1, 10)); !errors.Is(err, errDisk) {
					t.Errorf("shard %d: got %v, want errDisk", shard, err)
				}
			})
			synctest.Wait()
		}
		j.gate <- errDisk
		wg.Wait()
		synctest.Wait()
		for range 2 {
			for name, change := range map[string]func() error{
				"append":         func() error { return good.StoreLog(entryOf(1, 4, 1, 10)) },
				"append nothing": func() error { return good.StoreLogs(nil) },
				"cut":            func() error { return good.DeleteRange(3, 3) },
				"trim":           func() error { return good.DeleteRange(1, 1) },
				"delete nothing": func() error { return good.DeleteRange(7, 8) },
			} {
				if err := change(); !errors.Is(err, errDisk) {
					t.Errorf("%s: got %v, want errDisk", name, err)
				}
			}
		}
		if got := fatal.Load(); got != 1 {
			t.Errorf("Fatal was called %d times, want once", got)
		}
		want(t, good, run(1, 1, 1, 10, 10, 10))
		want(t, l.Shard(2), nil)
		if last, err := j.LastIndex(); err != nil || last != 1 {
			t.Errorf("journal: got %d records, %v, want 1", last, err)
		}
		mustClose(t, l)
	})
}

// A hung write is a failed write, even if it returns in the end.
func TestHungWritePoisons(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newGatedJournal()
		fatal := make(chan error, 2)
		l := startTest(t, Config{Fatal: func(err error) { fatal <- err }}, j)
		// A write just below the limit is none of the watchdog's business.
		var wg sync.WaitGroup
		wg.Go(func() { mustStore(t, l.Shard(1), run(1, 1, 1, 10)) })
		time.Sleep(stallLimit - time.Millisecond)
		j.gate <- nil
		wg.Wait()

		began := time.Now()
		var answer error
		wg.Go(func() { answer = l.Shard(1).StoreLog(entryOf(1, 2, 1, 10)) })
		err := <-fatal
		if took := time.Since(began); took < stallLimit || took > stallLimit+watchPeriod {
			t.Errorf("Fatal after %v, want %v to %v", took, stallLimit, stallLimit+watchPeriod)
		}
		wg.Wait()
		if answer != err { // the very same
			t.Errorf("append: got %v, want %v", answer, err)
		}
		j.gate <- nil // the disk comes back
		synctest.Wait()
		want(t, l.Shard(1), run(1, 1, 1, 10))
		if err := l.Shard(1).StoreLog(entryOf(1, 2, 1, 10)); err != answer { // the very same
			t.Errorf("later append: got %v, want %v", err, answer)
		}
		if len(fatal) != 0 {
			t.Errorf("Fatal was called again: %v", <-fatal)
		}
		mustClose(t, l)
	})
}

func TestNilFatalPanics(t *testing.T) {
	f := newFailStop(nil)
	defer f.close()
	defer func() {
		if got := recover(); got != errDisk {
			t.Errorf("got panic %v, want errDisk", got)
		}
	}()
	t.Errorf("got %v, want a panic", f.guard(func() error { return errDisk }))
}

// unreadableJournal keeps what is written and gives nothing back.
type unreadableJournal struct{ memJournal }

func (unreadableJournal) GetLog(uint64, *raft.Log) error { return errDisk }

// An entry that is there but cannot be read stops the process: raft would try
// again for ever without a word. One that is not there does not.
func TestUnreadableEntryPoisons(t *testing.T) {
	fatal := make(chan error, 2)
	l := startTest(t, Config{CacheBytes: 1, Fatal: func(err error) { fatal <- err }}, unreadableJournal{newMemJournal()})
	s := l.Shard(1)
	mustStore(t, s, run(1, 1, 1, 100, 100))
	var e raft.Log
	if err := s.GetLog(9, &e); err != raft.ErrLogNotFound { // raft compares with ==
		t.Errorf("an index that is not there: got %v, want %v", err, raft.ErrLogNotFound)
	}
	if len(fatal) != 0 {
		t.Fatalf("Fatal was called: %v", <-fatal)
	}
	for range 2 {
		if err := s.GetLog(1, &e); !errors.Is(err, errDisk) {
			t.Errorf("got %v, want errDisk", err)
		}
	}
	if len(fatal) != 1 {
		t.Errorf("Fatal was called %d times, want once", len(fatal))
	}
	if err := s.StoreLogs(run(1, 3, 1, 10)); !errors.Is(err, errDisk) {
		t.Errorf("append: got %v, want errDisk", err)
	}
	mustClose(t, l)
}

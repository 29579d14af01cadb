package raftlog

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// failStop lets the writes of one store through until one fails or hangs; from
// then on it refuses them all with that first failure. A failed sync is never
// retried: the kernel may have dropped the pages and marked them clean.
type failStop struct {
	fatal  func(error)
	failed chan struct{} // closed by the first poison

	mu  sync.Mutex // guards err
	err error

	epoch time.Time    // the origin of began; its monotonic part is what counts
	began atomic.Int64 // nanoseconds after epoch when the write under way began, 0 = none

	stop chan struct{} // closed by close
	done chan struct{} // closed when the watchdog has ended
}

func newFailStop(fatal func(error)) *failStop {
	if fatal == nil {
		fatal = func(err error) { panic(err) }
	}
	f := &failStop{
		fatal:  fatal,
		failed: make(chan struct{}),
		epoch:  time.Now(),
		stop:   make(chan struct{}),
		done:   make(chan struct{}),
	}
	go f.watch()
	return f
}

// guard runs one write; its callers take turns. A nil answer means that the
// write succeeded and that nothing failed or stalled before it returned.
func (f *failStop) guard(write func() error) error {
	if err := f.failure(); err != nil {
		return err
	}
	f.began.Store(int64(time.Since(f.epoch)) + 1) // 0 means none
	err := write()
	f.began.Store(0)
	if err != nil {
		f.poison(err)
	}
	return f.failure()
}

// poison makes err the failure, if it is the first, and tells the process to
// stop. Waiting callers are released before that, since fatal may not return.
func (f *failStop) poison(err error) {
	f.mu.Lock()
	first := f.err == nil
	if first {
		f.err = err
		close(f.failed)
	}
	f.mu.Unlock()
	if first {
		f.fatal(err)
	}
}

func (f *failStop) failure() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// watch poisons the store when one write takes longer than stallLimit.
func (f *failStop) watch() {
	defer close(f.done)
	tick := time.NewTicker(watchPeriod)
	defer tick.Stop()
	for {
		select {
		case <-f.stop:
			return
		case <-tick.C:
		}
		began := f.began.Load()
		if began == 0 {
			continue
		}
		if took := time.Since(f.epoch) - time.Duration(began); took >= stallLimit {
			f.poison(fmt.Errorf("raftlog: a write is under way for %v, want less than %v", took, stallLimit))
			return
		}
	}
}

// close ends the watchdog. It is called once, after the last guard.
func (f *failStop) close() {
	close(f.stop)
	<-f.done
}

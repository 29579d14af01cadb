//go:build linux

package disk

import (
	"errors"
	"fmt"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// On is a set of kinds of operations that a fault is about.
type On uint8

// The kinds of operations.
const (
	// OnRead: reads that the page cache does not answer. SetFault drops what is cached
	// of the files it is about. What the kernel failed to read ahead it reads again, so
	// that a program may see nothing of one failure.
	OnRead On = 1 << iota
	// OnWrite: writes, truncations and allocations of files. A write(2) of more than
	// 1 MiB is several.
	OnWrite
	// OnSync: fsync, fdatasync and msync of files and directories, and writes to
	// files opened with O_SYNC or O_DSYNC.
	OnSync
	// OnNames: creating, linking, renaming and removing files and directories.
	OnNames

	onAll = OnRead | OnWrite | OnSync | OnNames
)

// Fault is what the disk does wrong until ClearFaults. First Delay passes, then
// Hang holds the operation, then it fails with Err.
//
// A sync that fails leaves the file's data as Linux does ("fsyncgate"): readers
// see it, but it is not durable, and no later sync makes it durable, although
// later syncs succeed. Blocks that are written again, even in part, are as good as new. Sizes,
// truncations and operations on names wait for the next sync that succeeds.
type Fault struct {
	On On // what it is about, at least one kind
	// Match is a pattern of package path. One without a slash is about the files
	// and directories with such a name, in whatever directory; one with a slash
	// is about whole paths below the mount. The mount itself is ".". What is renamed
	// has its old path. Empty: all.
	Match string
	// First limits the fault to the first operations it is about; 0: all.
	First int

	Delay time.Duration
	// Hang holds operations until ClearFaults, when they go on, or PowerCut or
	// Close, when they fail. Signals do not end them, not even SIGKILL: the killed
	// process is there until then.
	Hang bool
	// Err is what operations fail with, for example syscall.EIO or syscall.ENOSPC; 0: they do not.
	Err syscall.Errno
}

// validate says what is wrong with the fault.
func (f *Fault) validate() error {
	switch {
	case f.On == 0 || f.On&^onAll != 0:
		return fmt.Errorf("disk: fault on kinds of operations %#b, want some of %#b", f.On, onAll)
	case f.First < 0:
		return fmt.Errorf("disk: fault on the first %d operations, want 0 (all) or more", f.First)
	case f.Delay < 0:
		return fmt.Errorf("disk: fault with a delay of %s, want 0 or more", f.Delay)
	case f.Delay == 0 && !f.Hang && f.Err == 0:
		return errors.New("disk: fault without Delay, Hang or Err")
	}
	return checkPattern(f.Match)
}

// checkPattern says what is wrong with a pattern.
func checkPattern(pattern string) error {
	if _, err := path.Match(pattern, ""); err != nil {
		return fmt.Errorf("disk: pattern %q: %w", pattern, err)
	}
	return nil
}

// matches says whether a valid pattern, see [Fault], is about a path.
func matches(pattern, name string) bool {
	if pattern == "" {
		return true
	}
	if !strings.Contains(pattern, "/") {
		name = path.Base(name)
	}
	ok, _ := path.Match(pattern, name) // checked by checkPattern
	return ok
}

// faults are those that are set.
type faults struct {
	mu    sync.Mutex // held to change the set
	stops int        // calls of stop without one of resume
	now   atomic.Pointer[faultSet]
	hit   atomic.Int64 // operations that were delayed, held or failed
}

// faultSet is never changed, except for what its channels and counters are for.
type faultSet struct {
	list    []*setFault
	cleared chan struct{} // closed when the faults are cleared: operations go on
	stopped chan struct{} // closed when the disk goes away: operations fail
}

// setFault is a fault, and how often it may still strike.
type setFault struct {
	Fault
	left atomic.Int64 // used if First > 0
}

// init makes the set empty.
func (f *faults) init() {
	f.now.Store(&faultSet{cleared: make(chan struct{}), stopped: make(chan struct{})})
}

// add puts a valid fault into the set.
func (f *faults) add(fault Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := &setFault{Fault: fault}
	s.left.Store(int64(fault.First))
	old := f.now.Load()
	list := append(append([]*setFault(nil), old.list...), s)
	f.now.Store(&faultSet{list: list, cleared: old.cleared, stopped: old.stopped})
}

// clear empties the set and lets the operations it holds go on.
func (f *faults) clear() {
	f.mu.Lock()
	defer f.mu.Unlock()
	old := f.now.Load()
	f.now.Store(&faultSet{cleared: make(chan struct{}), stopped: old.stopped})
	close(old.cleared)
}

// stop makes the operations that are held, or would be, fail until resume.
func (f *faults) stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stops++; f.stops == 1 {
		close(f.now.Load().stopped)
	}
}

// resume undoes one stop.
func (f *faults) resume() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stops--; f.stops > 0 {
		return
	}
	old := f.now.Load()
	f.now.Store(&faultSet{list: old.list, cleared: old.cleared, stopped: make(chan struct{})})
}

// strike lets an operation pass the faults: it may take its time, and fail.
// The path is asked for only if there are faults.
func (f *faults) strike(on On, path func() string) syscall.Errno {
	set := f.now.Load()
	if len(set.list) == 0 {
		return 0
	}
	name := path()
	for _, s := range set.list {
		if s.On&on == 0 || !matches(s.Match, name) || s.First > 0 && s.left.Add(-1) < 0 {
			continue
		}
		f.hit.Add(1)
		if errno := s.strike(set); errno != 0 {
			return errno
		}
	}
	return 0
}

// strike does to an operation what the fault says.
func (s *setFault) strike(set *faultSet) syscall.Errno {
	if s.Delay > 0 {
		timer := time.NewTimer(s.Delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-set.cleared:
			return 0
		case <-set.stopped:
			return syscall.EIO
		}
	}
	if s.Hang {
		select {
		case <-set.cleared:
			return 0
		case <-set.stopped:
			return syscall.EIO
		}
	}
	return s.Err
}

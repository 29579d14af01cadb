//go:build linux

package disk

import (
	"path"
	"syscall"
	"time"
)

// Fault is what is wrong with a disk. The zero value of a field is nothing.
type Fault struct {
	// Match is which files, as path.Match has it, by their path from the root; "": all.
	Match string
	// WriteError, SyncError and ReadError are how such calls fail: with SyncError syncs
	// of files and of directories.
	WriteError, SyncError, ReadError syscall.Errno
	// Times is how many calls fail; 0: all.
	Times int
	// Full has every write fail with ENOSPC that would make a file larger, and every
	// new file.
	Full bool
	// SyncDelay and WriteDelay are how much longer such calls take.
	SyncDelay, WriteDelay time.Duration
	// HangSync has syncs not return before ClearFaults.
	HangSync bool
}

// fault is one that is in force.
type fault struct {
	Fault
	failed int
}

// call is what a program asks for.
type call uint8

const (
	callRead call = iota
	callWrite
	callGrow // a write beyond the end, or a new file
	callSync
)

// SetFault adds a fault to those there are.
func (d *Disk) SetFault(f Fault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.faults = append(d.faults, &fault{Fault: f})
}

// ClearFaults makes the disk good again, and ends what hangs.
func (d *Disk) ClearFaults() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.faults = nil
	close(d.clear)
	d.clear = make(chan struct{})
}

// meet has a call meet the faults there are: it takes longer, or fails.
func (d *Disk) meet(c call, name string) syscall.Errno {
	d.mu.Lock()
	errno, delay, hang, cleared := d.met(c, name)
	if errno != 0 {
		d.stats.Failed++
	}
	if delay > 0 || hang {
		d.stats.Delayed++
	}
	d.mu.Unlock()
	if hang {
		<-cleared
		return errno
	}
	if delay > 0 {
		timer := time.NewTimer(delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-cleared:
		}
	}
	return errno
}

// met says what faults do to a call. d.mu is held.
func (d *Disk) met(c call, name string) (errno syscall.Errno, delay time.Duration, hang bool, cleared <-chan struct{}) {
	for _, f := range d.faults {
		if f.Match != "" {
			if ok, err := path.Match(f.Match, name); err != nil || !ok {
				continue
			}
		}
		switch c {
		case callWrite, callGrow:
			delay += f.WriteDelay
		case callSync:
			delay += f.SyncDelay
			hang = hang || f.HangSync
		}
		if failure := f.failure(c); failure != 0 && errno == 0 && (f.Times == 0 || f.failed < f.Times) {
			f.failed++
			errno = failure
		}
	}
	return errno, delay, hang, d.clear
}

func (f *fault) failure(c call) syscall.Errno {
	switch {
	case c == callRead:
		return f.ReadError
	case c == callSync:
		return f.SyncError
	case f.Full && c == callGrow:
		return syscall.ENOSPC
	}
	return f.WriteError
}

// Flip is a bit that was flipped.
type Flip struct {
	Path   string
	Offset int64
	Bit    int
}

// FlipBits flips n bits at random places in files that match, as path.Match has it,
// by their path from the root. Readers see them: no program may have the files open.
// None are flipped if all files that match are empty.
func (d *Disk) FlipBits(match string, n int) (flips []Flip, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	type candidate struct {
		name string
		file *file
	}
	var files []candidate
	d.tree.walk(rootNumber, "", func(name string, f *file) {
		if ok, err := path.Match(match, name); err == nil && ok && f.size > 0 {
			files = append(files, candidate{name, f})
		}
	})
	if len(files) == 0 {
		return nil, nil
	}
	for range n {
		c := files[d.rand.IntN(len(files))]
		flip := Flip{c.name, d.rand.Int64N(c.file.size), d.rand.IntN(8)}
		if err := c.file.flip(flip.Offset, flip.Bit); err != nil {
			return flips, err
		}
		flips = append(flips, flip)
	}
	return flips, nil
}

func (f *file) flip(at int64, bit int) error {
	var b [1]byte
	if _, err := f.live.ReadAt(b[:], at); err != nil {
		return err
	}
	b[0] ^= 1 << bit
	if _, err := f.live.WriteAt(b[:], at); err != nil {
		return err
	}
	if at >= f.durableSize {
		return nil
	}
	if _, err := f.durable.ReadAt(b[:], at); err != nil {
		return err
	}
	b[0] ^= 1 << bit
	_, err := f.durable.WriteAt(b[:], at)
	return err
}

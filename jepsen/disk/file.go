//go:build linux

package disk

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// file is the data of one file: what readers see and what is durable, each in a
// file of the store. Neither is ever synced: it is this process's word that
// decides what is durable, and it is gone with the process.
type file struct {
	livePath, durablePath string
	space                 *space

	// size is what readers see. Written under mu, read by anybody.
	size atomic.Int64

	mu    sync.RWMutex // guards what follows, and writing; taken after volume.mu
	users int          // who needs the files below open
	live  *os.File     // as long as size
	// durable is nil until it is needed, and as long as durableSize.
	durable     *os.File
	durableSize int64
	// low is the smallest size since the last sync. If it is less than durableSize,
	// a truncation is not durable yet.
	low int64
	// dirty are the blocks the next sync makes durable, failed those whose sync
	// failed: only writing them again makes them dirty.
	dirty, failed blockSet
}

// newFile is an empty file with the given number.
func newFile(store string, ino uint64, space *space) *file {
	name := strconv.FormatUint(ino, 10)
	return &file{
		livePath: filepath.Join(store, liveDir, name), durablePath: filepath.Join(store, durableDir, name),
		space: space, dirty: blockSet{}, failed: blockSet{},
	}
}

// open makes the file usable until as many calls of close.
func (f *file) open() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.openLive(); err != nil {
		return err
	}
	f.users++
	return nil
}

// close undoes one open.
func (f *file) close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.users--
	if f.users > 0 {
		return nil
	}
	return f.closeFiles()
}

// closeFiles closes what is open in the store. The caller holds mu.
func (f *file) closeFiles() error {
	var errs []error
	for _, at := range []**os.File{&f.live, &f.durable} {
		if *at != nil {
			errs = append(errs, (*at).Close())
			*at = nil
		}
	}
	return errors.Join(errs...)
}

// openLive opens what readers see. The caller holds mu.
func (f *file) openLive() (err error) {
	if f.live == nil {
		f.live, err = os.OpenFile(f.livePath, os.O_RDWR|os.O_CREATE, 0o600)
	}
	return err
}

// openDurable opens what is durable. The caller holds mu.
func (f *file) openDurable() (err error) {
	if f.durable == nil {
		f.durable, err = os.OpenFile(f.durablePath, os.O_RDWR|os.O_CREATE, 0o600)
	}
	return err
}

// synced says whether everything is durable. The caller holds mu.
func (f *file) synced() bool {
	return len(f.dirty) == 0 && len(f.failed) == 0 && f.size.Load() == f.durableSize && f.low >= f.durableSize
}

// read fills p from off and says how much there is.
func (f *file) read(p []byte, off int64) (int, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	n, err := f.live.ReadAt(p, off)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

// write writes p at off, or the first part of it if there is no room for more.
func (f *file) write(p []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	size := f.size.Load()
	end, err := f.grow(off, off+int64(len(p)))
	if err != nil {
		return 0, err
	}
	n, err := f.live.WriteAt(p[:end-off], off)
	f.markDirty(off, off+int64(n))
	f.size.Store(max(size, off+int64(n)))
	if err != nil {
		f.space.give(wholeBlocks(max(end, size)) - wholeBlocks(f.size.Load()))
		return n, fmt.Errorf("write what readers see: %w", err)
	}
	return n, nil
}

// grow takes the room for bytes from off up to end and says up to where there is
// some. The caller holds mu.
func (f *file) grow(off, end int64) (int64, error) {
	have := wholeBlocks(f.size.Load())
	if end <= have {
		return end, nil
	}
	// Room that ends before off would be of no use.
	got := f.space.takeUpTo(wholeBlocks(end)-have, max(wholeBlocks(off+1)-have, 0))
	if end = min(end, have+got); end <= off {
		return 0, syscall.ENOSPC
	}
	return end, nil
}

// markDirty says that the bytes from off up to end were written. The caller holds mu.
func (f *file) markDirty(off, end int64) {
	if off >= end {
		return
	}
	first, last := blocksOf(off, end)
	f.dirty.add(first, last)
	f.failed.remove(first, last)
}

// truncate makes the file so long.
func (f *file) truncate(size int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.resize(size)
}

// resize is truncate for a caller that holds mu.
func (f *file) resize(size int64) error {
	old := f.size.Load()
	more := wholeBlocks(size) - wholeBlocks(old)
	if more > 0 && !f.space.take(more) {
		return syscall.ENOSPC
	}
	if err := f.live.Truncate(size); err != nil {
		f.space.give(max(more, 0))
		return fmt.Errorf("truncate what readers see: %w", err)
	}
	if more < 0 {
		f.space.give(-more)
	}
	f.size.Store(size)
	if size < old {
		f.low = min(f.low, size)
		_, last := blocksOf(0, size)
		f.dirty.removeFrom(last)
		f.failed.removeFrom(last)
	}
	return nil
}

// allocate is fallocate(2): it makes the file longer, or zeros a part of it.
func (f *file) allocate(off, end int64, mode uint32) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	const keep, punch, zero = unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_PUNCH_HOLE, unix.FALLOC_FL_ZERO_RANGE
	switch mode {
	case 0, zero:
		if size := f.size.Load(); end > size {
			if err := f.resize(end); err != nil {
				return err
			}
		}
	case keep, keep | zero, keep | punch:
		// What is asked for beyond the end is not noted: a file takes its size.
	default:
		return syscall.EOPNOTSUPP
	}
	if mode&(punch|zero) == 0 {
		return nil
	}
	end = min(end, f.size.Load())
	if off >= end {
		return nil
	}
	if err := unix.Fallocate(int(f.live.Fd()), keep|punch, off, end-off); err != nil {
		return fmt.Errorf("zero what readers see: %w", err)
	}
	f.markDirty(off, end)
	return nil
}

// sync makes what is dirty durable, and says how many bytes that were.
func (f *file) sync() (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.synced() {
		return 0, nil
	}
	size := f.size.Load()
	if err := f.openDurable(); err != nil {
		return 0, err
	}
	if err := f.truncateDurable(); err != nil {
		return 0, err
	}
	var bytes int64
	for first, last := range f.dirty.runs() {
		n, err := copyRange(f.durable, f.live, first*blockSize, min(last*blockSize, size))
		if err != nil {
			return bytes, fmt.Errorf("make durable: %w", err)
		}
		bytes += n
	}
	if err := f.durable.Truncate(size); err != nil {
		return bytes, fmt.Errorf("make the size durable: %w", err)
	}
	f.durableSize, f.low = size, size
	clear(f.dirty)
	return bytes, nil
}

// truncateDurable makes a truncation durable, if there was one. The caller holds mu.
func (f *file) truncateDurable() error {
	if f.low >= f.durableSize {
		return nil
	}
	if err := f.durable.Truncate(f.low); err != nil {
		return fmt.Errorf("make a truncation durable: %w", err)
	}
	f.durableSize = f.low
	return nil
}

// failSync is a sync that failed: what was dirty counts as written, as Linux has
// it since 4.13, but is not.
func (f *file) failSync() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failed.addAll(f.dirty)
	clear(f.dirty)
}

// unsynced is how many blocks are not durable.
func (f *file) unsynced() int64 {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.dirty.len() + f.failed.len()
}

// remove deletes the file from the store. Nobody uses it any more.
func (f *file) remove() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	errs := []error{f.closeFiles()}
	for _, path := range []string{f.livePath, f.durablePath} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

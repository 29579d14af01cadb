//go:build linux

package disk

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
)

const (
	blockBytes  = 4096
	sectorBytes = 512
)

// file is one file's data, twice. The disk's mutex guards it.
type file struct {
	live, durable *os.File
	size          int64 // of live
	durableSize   int64
	dirty         map[int64]bool // blocks written since the last sync
	// doomed blocks were to be synced when that failed: no later sync saves them.
	doomed map[int64]bool
	// shrunk is the least size since the last sync, if that cut something off; -1 if not.
	shrunk int64
	opens  int
	links  uint32
}

func (t *tree) newFile(number uint64) (*file, error) {
	open := func(kind string) (*os.File, error) {
		return os.OpenFile(filepath.Join(t.store, fmt.Sprintf("%06d.%s", number, kind)), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	}
	live, err := open("live")
	if err != nil {
		return nil, err
	}
	durable, err := open("durable")
	if err != nil {
		return nil, errors.Join(err, live.Close())
	}
	f := &file{live: live, durable: durable, dirty: make(map[int64]bool), doomed: make(map[int64]bool), shrunk: -1}
	t.files[number] = f
	return f, nil
}

func (f *file) close() error { return errors.Join(f.live.Close(), f.durable.Close()) }

func (f *file) remove() error {
	return errors.Join(f.close(), os.Remove(f.live.Name()), os.Remove(f.durable.Name()))
}

func (f *file) write(data []byte, at int64) error {
	if _, err := f.live.WriteAt(data, at); err != nil {
		return err
	}
	for b := at / blockBytes; b*blockBytes < at+int64(len(data)); b++ {
		f.dirty[b] = true
		delete(f.doomed, b)
	}
	f.size = max(f.size, at+int64(len(data)))
	return nil
}

func (f *file) truncate(size int64) error {
	if err := f.live.Truncate(size); err != nil {
		return err
	}
	if size < f.size {
		if size < f.durableSize && (f.shrunk < 0 || size < f.shrunk) {
			f.shrunk = size
		}
		for _, blocks := range []map[int64]bool{f.dirty, f.doomed} {
			maps.DeleteFunc(blocks, func(b int64, _ bool) bool { return b*blockBytes >= size })
		}
		if size%blockBytes != 0 {
			f.dirty[size/blockBytes] = true // its end is zeros now
		}
	}
	f.size = size
	return nil
}

// sync makes data and size durable.
func (f *file) sync() error {
	if f.shrunk >= 0 {
		if err := f.durable.Truncate(f.shrunk); err != nil {
			return err
		}
	}
	if err := f.copyBlocks(f.durable, f.live, f.dirty); err != nil {
		return err
	}
	if err := f.durable.Truncate(f.size); err != nil {
		return err
	}
	f.durableSize, f.shrunk = f.size, -1
	clear(f.dirty)
	return nil
}

// failSync dooms what was to be synced.
func (f *file) failSync() {
	maps.Copy(f.doomed, f.dirty)
	clear(f.dirty)
}

// copyBlocks copies blocks, those that follow each other at once.
func (f *file) copyBlocks(to, from *os.File, blocks map[int64]bool) error {
	sorted := slices.Sorted(maps.Keys(blocks))
	for i := 0; i < len(sorted); {
		n := 1
		for i+n < len(sorted) && sorted[i+n] == sorted[i]+int64(n) {
			n++
		}
		if err := copyRange(to, from, sorted[i]*blockBytes, int64(n)*blockBytes); err != nil {
			return err
		}
		i += n
	}
	return nil
}

func copyRange(to, from *os.File, at, size int64) error {
	_, err := io.Copy(io.NewOffsetWriter(to, at), io.NewSectionReader(from, at, size))
	return err
}

// cut leaves of a file what a power cut does, and makes that what programs see.
func (f *file) cut(r *rand.Rand, lost *Lost) error {
	unsynced := maps.Clone(f.dirty)
	maps.Copy(unsynced, f.doomed)
	size := f.durableSize
	if f.shrunk >= 0 && r.IntN(2) == 0 {
		size = f.shrunk
		if err := f.durable.Truncate(size); err != nil {
			return err
		}
	}
	// Of some files all, or nothing, or a part was written back before.
	share := []float64{0, 0.5, 0.9, 1}[r.IntN(4)]
	for _, b := range slices.Sorted(maps.Keys(unsynced)) {
		kept, err := f.keep(r, b, share)
		if err != nil {
			return err
		}
		lost.Blocks++
		if kept > 0 {
			lost.Kept++
			size = max(size, min(b*blockBytes+kept, f.size))
		}
		if kept > 0 && kept < blockBytes {
			lost.Torn++
		}
	}
	if size < f.size && r.IntN(4) == 0 {
		size += r.Int64N(f.size - size + 1) // a size without the data
	}
	if err := f.durable.Truncate(size); err != nil {
		return err
	}
	// Blocks that were cut off and written again are in live only.
	if err := f.live.Truncate(min(size, f.size)); err != nil {
		return err
	}
	from := min(f.durableSize, size)
	if f.shrunk >= 0 {
		from = min(from, f.shrunk)
	}
	for b := from / blockBytes; b*blockBytes < size; b++ {
		unsynced[b] = true
	}
	if err := f.copyBlocks(f.live, f.durable, unsynced); err != nil {
		return err
	}
	if err := f.live.Truncate(size); err != nil {
		return err
	}
	f.size, f.durableSize, f.shrunk = size, size, -1
	clear(f.dirty)
	clear(f.doomed)
	return nil
}

// keep keeps a block, by chance, or a first part of it, and returns how many bytes.
func (f *file) keep(r *rand.Rand, block int64, share float64) (int64, error) {
	if r.Float64() >= share {
		return 0, nil
	}
	size := int64(blockBytes)
	const oneIn = 8 // blocks is torn
	if r.IntN(oneIn) == 0 {
		size = sectorBytes * (1 + r.Int64N(blockBytes/sectorBytes-1))
	}
	return size, copyRange(f.durable, f.live, block*blockBytes, size)
}

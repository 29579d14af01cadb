package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/manykv/manykv/kv"
)

// partFile is a file of lines that gets its name when it is complete.
type partFile struct {
	file  *os.File
	final string
	whole int64 // bytes up to the last mark
	end   int64 // bytes written
}

// openPart opens the file under the name it has until it is complete. A file that
// is complete already is never overwritten.
func openPart(final string, flags int) (*partFile, error) {
	switch _, err := os.Lstat(final); {
	case err == nil:
		return nil, fmt.Errorf("%s is there already: it is not overwritten", final)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	f := &partFile{final: final}
	var err error
	if f.file, err = os.OpenFile(f.name(), os.O_RDWR|flags, 0o644); err != nil {
		return nil, err
	}
	return f, nil
}

// fewPairs may be in the order of a bucket by chance, and are soon written again.
// So many are not: there are more orders of 100 pairs than atoms in the universe.
const fewPairs = 100

// resumePart opens what an export left behind, however it ended, and returns the
// cursor to go on from. hash is the order of the bucket. What does not fit to it
// is left as it is.
func resumePart(final string, hash func(key string) uint64) (*partFile, uint64, error) {
	f, err := openPart(final, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, fmt.Errorf("there is nothing to go on with, an export begins without --resume: %w", err)
	}
	if err != nil {
		return nil, 0, err
	}
	left, err := f.read(hash)
	if err == nil && left.pairs < fewPairs {
		left = leftover{}
	}
	if err == nil {
		err = f.cut(left.end)
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.file.Close())
	}
	return f, left.hash, nil
}

// leftover is what a file holds. Of its last hash there may be pairs missing.
type leftover struct {
	pairs int
	hash  uint64 // the last
	end   int64  // of the pairs before it
}

// read checks that the file holds pairs in the order of their hashes. A last line
// without an end is none.
func (f *partFile) read(hash func(key string) uint64) (leftover, error) {
	var left leftover
	whole, size, err := f.endsWhole()
	if err != nil {
		return left, err
	}
	key, begins := "", int64(0)
	for line, err := range readLines(io.NewSectionReader(f.file, 0, size), place{}) {
		if err == nil && line.Offset == size && !whole {
			break
		}
		var pair kv.Pair
		if err == nil {
			pair, err = parseRecord(line.text)
		}
		if err != nil {
			return left, fmt.Errorf("%s is not what an export leaves behind, line %d: %w", f.name(), left.pairs+1, err)
		}
		h := hash(pair.Key)
		if left.pairs > 0 && (h < left.hash || pair.Key == key) {
			return left, fmt.Errorf("%s is not of this bucket as it is now: key %q of line %d does not come after that of the line before; without --resume the export begins anew",
				f.name(), pair.Key, line.Line)
		}
		if left.pairs == 0 || h > left.hash {
			left.hash, left.end = h, begins
		}
		key, begins = pair.Key, line.Offset
		left.pairs++
	}
	return left, nil
}

// endsWhole says whether the file ends with a line's end.
func (f *partFile) endsWhole() (whole bool, size int64, err error) {
	info, err := f.file.Stat()
	if err != nil || info.Size() == 0 {
		return true, 0, err
	}
	var last [1]byte
	_, err = f.file.ReadAt(last[:], info.Size()-1)
	return last[0] == '\n', info.Size(), err
}

// cut removes what comes after end, where writing goes on.
func (f *partFile) cut(end int64) error {
	f.whole, f.end = end, end
	_, err := f.file.Seek(end, io.SeekStart)
	return errors.Join(f.file.Truncate(end), err)
}

func (f *partFile) name() string { return f.final + ".part" }

func (f *partFile) Write(b []byte) (int, error) {
	n, err := f.file.Write(b)
	f.end += int64(n)
	return n, err
}

// mark says that what was written so far is worth keeping.
func (f *partFile) mark() error {
	f.whole = f.end
	return nil
}

// keep closes the file with what was written before the last mark, for later.
func (f *partFile) keep() error {
	return errors.Join(f.file.Truncate(f.whole), f.file.Sync(), f.file.Close())
}

// complete gives the file its name, when all of it is on disk.
func (f *partFile) complete() error {
	if err := errors.Join(f.file.Sync(), f.file.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.name(), f.final); err != nil {
		return err
	}
	return syncDir(filepath.Dir(f.final))
}

// replaceFile makes a file hold b, or after a crash what it held before.
func replaceFile(name string, b []byte) error {
	next := name + ".new"
	f, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(next, name); err != nil {
		return err
	}
	return syncDir(filepath.Dir(name))
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

package raftlog

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	walfs "github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/types"
)

// watched counts the calls and remembers the end of the furthest write.
type watched struct {
	types.WritableFile
	writes, syncs int
	furthest      int64
	full          bool // no room for zeros
}

func (w *watched) WriteAt(p []byte, at int64) (int, error) {
	w.writes++
	if w.full && p[0] == 0 {
		return 0, syscall.ENOSPC
	}
	w.furthest = max(w.furthest, at+int64(len(p)))
	return w.WritableFile.WriteAt(p, at)
}

func (w *watched) Sync() error {
	w.syncs++
	return w.WritableFile.Sync()
}

// TestSegmentsAreWrittenAhead: only zeros, only where nothing was written, behind small
// records, and never beyond the segment.
func TestSegmentsAreWrittenAhead(t *testing.T) {
	const size = 2*aheadBytes + 100
	dir := t.TempDir()
	made, err := walfs.New().Create(dir, "segment", size)
	if err != nil {
		t.Fatal(err)
	}
	w := &watched{WritableFile: made}
	f := &segmentFile{WritableFile: w, size: size}
	var want []byte
	record := func(n int, wantWrites int, wantFurthest int64) {
		t.Helper()
		p := bytes.Repeat([]byte{byte(len(want)%250 + 1)}, n)
		before := w.writes
		if _, err := f.WriteAt(p, int64(len(want))); err != nil {
			t.Fatal(err)
		}
		want = append(want, p...)
		if w.writes-before != wantWrites || w.furthest != wantFurthest {
			t.Errorf("a record of %d bytes that ends at %d: %d writes up to %d, want %d up to %d", n, len(want), w.writes-before, w.furthest, wantWrites, wantFurthest)
		}
	}
	record(1000, 2, 1000+aheadBytes)
	record(aheadFor, 1, 1000+aheadBytes)
	record(aheadBytes, 1, int64(1000+aheadFor+aheadBytes)) // large, and past the zeros
	record(10, 2, size)                                    // as far as there is room
	record(aheadFor, 1, size)
	got, err := os.ReadFile(filepath.Join(dir, "segment"))
	if err != nil || len(got) != size || !bytes.Equal(got[:len(want)], want) || !bytes.Equal(got[len(want):], make([]byte, size-len(want))) {
		t.Errorf("%v: a file of %d bytes, want the records and zeros, %d in all", err, len(got), size)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestSyncsOfNewBlocksAreWhole: fdatasync is for those that were written before.
func TestSyncsOfNewBlocksAreWhole(t *testing.T) {
	made, err := walfs.New().Create(t.TempDir(), "segment", 4*aheadBytes)
	if err != nil {
		t.Fatal(err)
	}
	w := &datasynced{watched{WritableFile: made}, made.(syscall.Conn)}
	f := &segmentFile{WritableFile: w, size: 4 * aheadBytes}
	at := int64(0)
	sync := func(n int, whole int) {
		t.Helper()
		before := w.syncs
		_, err := f.WriteAt(bytes.Repeat([]byte{1}, n), at)
		if err := errors.Join(err, f.Sync()); err != nil {
			t.Fatal(err)
		}
		at += int64(n)
		if runtime.GOOS == "linux" && w.syncs-before != whole {
			t.Errorf("%d whole syncs after a write up to %d, want %d", w.syncs-before, at, whole)
		}
	}
	sync(100, 1)
	sync(100, 0)
	sync(aheadFor, 0)
	sync(aheadBytes, 1)
	sync(aheadBytes, 1)
	sync(100, 1)
	sync(100, 0)
	w.full = true
	sync(aheadBytes, 1)
	sync(100, 1) // no zeros: the disk is full, the records fit
	sync(100, 1)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// datasynced is a watched file that has a descriptor.
type datasynced struct {
	watched
	syscall.Conn
}

// TestASegmentOpenedAgainIsWrittenAhead, and its second sync is of the data alone.
func TestASegmentOpenedAgainIsWrittenAhead(t *testing.T) {
	dir := t.TempDir()
	files := segmentFiles{walfs.New()}
	made, err := files.Create(dir, "segment", aheadBytes)
	if err != nil {
		t.Fatal(err)
	}
	if err := made.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := files.OpenWriter(dir, "segment")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := f.WriteAt([]byte("record"), f.(*segmentFile).written/2); err != nil {
			t.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	if got := f.(*segmentFile).written; got != aheadBytes {
		t.Errorf("written up to %d, want %d", got, aheadBytes)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err == nil {
		t.Error("a closed file was synced, want an error")
	}
	if _, err := files.OpenWriter(dir, "none"); !os.IsNotExist(err) {
		t.Errorf("got %v, want %v", err, fs.ErrNotExist)
	}
}

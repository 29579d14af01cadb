package raftlog

import (
	"io/fs"

	"github.com/hashicorp/raft-wal/types"
)

// aheadBytes is how far ahead of the records zeros are written. A block that was only
// allocated becomes a written one when it is written to, which a file system has to
// note durably, too: every sync then waits for a second write, and on many for a
// commit of its journal. This way only one in so many bytes does (PostgreSQL's
// wal_init_zero; a whole segment at once would hold up everybody).
const aheadBytes = 256 << 10

// aheadFor is the largest write behind which zeros are worth it: for larger ones they
// would double what the disk has to take, and spare little.
const aheadFor = aheadBytes / 8

var zeros [aheadBytes]byte

// segmentFiles are raft-wal's files, written ahead and synced without their times.
type segmentFiles struct{ types.VFS }

// Create makes a segment of size bytes.
func (s segmentFiles) Create(dir, name string, size uint64) (types.WritableFile, error) {
	f, err := s.VFS.Create(dir, name, size)
	if err != nil {
		return nil, err
	}
	return &segmentFile{WritableFile: f, size: int64(size)}, nil
}

// OpenWriter opens the segment that was written to last. Behind its records, where the
// first write will be, there is nothing but what a crash left.
func (s segmentFiles) OpenWriter(dir, name string) (types.WritableFile, error) {
	f, err := s.VFS.OpenWriter(dir, name)
	if err != nil {
		return nil, err
	}
	size := int64(0)
	if known, ok := f.(interface{ Stat() (fs.FileInfo, error) }); ok {
		if info, err := known.Stat(); err == nil {
			size = info.Size()
		}
	}
	return &segmentFile{WritableFile: f, size: size}, nil
}

// segmentFile is written from one goroutine, each time behind what was written before.
type segmentFile struct {
	types.WritableFile
	size    int64 // it is not written ahead beyond that
	written int64 // nothing was written from here on
	settled bool  // nothing but data was changed since a whole sync
}

// WriteAt writes p, and zeros behind it if it ends where nothing was written yet. They
// are what one reads there anyhow.
func (f *segmentFile) WriteAt(p []byte, at int64) (int, error) {
	n, err := f.WritableFile.WriteAt(p, at)
	end := at + int64(n)
	if err != nil || end <= f.written {
		return n, err
	}
	f.written, f.settled = end, false
	if ahead := min(aheadBytes, f.size-end); ahead > 0 && len(p) <= aheadFor {
		if _, err := f.WritableFile.WriteAt(zeros[:ahead], end); err != nil {
			f.size = 0 // the record fitted; a disk that is broken will say so again
			return n, nil
		}
		f.written += ahead
	}
	return n, nil
}

// Sync makes durable what was written. That a block is a written one now fdatasync
// shall make durable, too, but not every file system's always has (ext4's without a journal).
// It takes one whole sync for each aheadBytes not to rely on that.
func (f *segmentFile) Sync() error {
	if f.settled {
		return syncData(f.WritableFile)
	}
	if err := f.WritableFile.Sync(); err != nil {
		return err
	}
	f.settled = true
	return nil
}

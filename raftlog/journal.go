package raftlog

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/go-hclog"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	wal "github.com/hashicorp/raft-wal"
	walfs "github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/metadb"
	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"
	"go.etcd.io/bbolt"

	"github.com/manykv/manykv/mutant"
)

const (
	journalDir  = "journal"
	journalBolt = "journal.db" // the boltdb journal, in journalDir

	// boltLockWait is how long to wait for bbolt's file lock: long enough for a
	// process that is closing, short enough to tell the user.
	boltLockWait = time.Second

	// boltDeletePiece is how many records of a bbolt journal to delete in one
	// transaction, which holds up the next commit: some 10 ms.
	boltDeletePiece = 1000
)

// openJournal opens the journal that cfg names, creating it if there is none.
func openJournal(cfg Config, segmentBytes int) (journal, error) {
	dir := filepath.Join(cfg.Dir, journalDir)
	if err := makeDir(dir); err != nil {
		return nil, err
	}
	if err := wantKind(dir, cfg.Store); err != nil {
		return nil, err
	}
	if cfg.Store == StoreBolt {
		return openBolt(filepath.Join(dir, journalBolt))
	}
	files := types.VFS(walfs.New())
	if mutant.On(mutant.JournalNotSynced) {
		files = unsynced{files}
	}
	disk := walDisk{files: files, meta: &metadb.BoltMetaDB{}, sync: func() error {
		return errors.Join(syncPath(filepath.Join(dir, metadb.FileName)), syncPath(dir))
	}}
	return openWAL(dir, disk, segmentBytes, cfg.Logger)
}

// wantKind fails if dir has a journal of another kind than store. One journal
// per directory: opening the other kind would find it empty, and a node that
// forgot its log must not vote.
func wantKind(dir, store string) error {
	other := journalBolt
	if store == StoreBolt {
		other = metadb.FileName
	}
	_, err := os.Stat(filepath.Join(dir, other))
	switch {
	case err == nil:
		return fmt.Errorf("found %s of the other kind of journal in %s, want none", other, dir)
	case errors.Is(err, fs.ErrNotExist):
		return nil
	}
	return err
}

// walDisk is where the files of a raft-wal are: on a real disk, but for tests.
type walDisk struct {
	files types.VFS
	meta  types.MetaStore
	// sync makes the directory and the file of meta durable, once that is loaded.
	sync func() error
}

// openWAL opens raft-wal in dir, after mending what it cannot mend itself, and
// closes the metadata with it.
//
// What a killed process wrote and did not sync is there when its successor looks,
// and gone when the power fails then. The successor answers others by what it
// finds, so that is made durable first: names and metadata here, because raft-wal
// syncs the directory only where it made a segment itself, records by mendTail.
func openWAL(dir string, disk walDisk, segmentBytes int, logger *slog.Logger) (*wal.WAL, error) {
	w, err := func() (*wal.WAL, error) {
		state, err := disk.meta.Load(dir)
		if err != nil {
			return nil, err
		}
		if err := disk.sync(); err != nil {
			return nil, err
		}
		if err := mendTail(dir, disk, state); err != nil {
			return nil, err
		}
		return wal.Open(dir, wal.WithMetaStore(disk.meta), wal.WithSegmentFiler(segment.NewFiler(dir, segmentFiles{disk.files})),
			wal.WithSegmentSize(segmentBytes), wal.WithLogger(quiet(logger)))
	}()
	if err != nil {
		return nil, errors.Join(err, disk.meta.Close())
	}
	return w, nil
}

// quiet is the logger for raft-wal: it reports some failures only there (that of
// a rotation, before the next append fails), the rest is noise.
func quiet(logger *slog.Logger) hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{
		Name:        "raft-wal",
		Level:       hclog.Error,
		DisableTime: true,
		Output:      slog.NewLogLogger(logger.Handler(), slog.LevelError).Writer(),
	})
}

// openBolt opens the bbolt file at path. A new one is made under another name
// first: a crash while bbolt writes its first pages leaves a file that it can
// neither open nor tell from a damaged one (bbolt#567). One that is there is synced
// before anybody reads it, for the reason given at openWAL.
func openBolt(path string) (*raftboltdb.BoltStore, error) {
	_, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := makeBolt(path); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	default:
		if err := syncPath(path); err != nil {
			return nil, err
		}
	}
	return openBoltFile(path)
}

func makeBolt(path string) error {
	unfinished := path + ".new"
	if err := os.RemoveAll(unfinished); err != nil {
		return err
	}
	store, err := openBoltFile(unfinished)
	if err != nil {
		return err
	}
	if err := store.Close(); err != nil {
		return err
	}
	if err := os.Rename(unfinished, path); err != nil {
		return err
	}
	return syncPath(filepath.Dir(path))
}

func openBoltFile(path string) (*raftboltdb.BoltStore, error) {
	return raftboltdb.New(raftboltdb.Options{Path: path, NoSync: mutant.On(mutant.VotesNotSynced), BoltOptions: &bbolt.Options{
		Timeout:        boltLockWait,
		NoFreelistSync: true, // writing the freelist can cost more than the data
		FreelistType:   bbolt.FreelistMapType,
	}})
}

// makeDir creates dir and makes its name, and its parent's, durable.
func makeDir(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	parent := filepath.Dir(dir)
	if err := syncPath(parent); err != nil {
		return err
	}
	return syncPath(filepath.Dir(parent))
}

// syncPath syncs a file or a directory.
func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// unsynced is for mutant.JournalNotSynced: files whose Sync does nothing.
type unsynced struct{ types.VFS }

type unsyncedFile struct{ types.WritableFile }

func (unsyncedFile) Sync() error { return nil }

func (u unsynced) Create(dir, name string, size uint64) (types.WritableFile, error) {
	f, err := u.VFS.Create(dir, name, size)
	return unsyncedFile{f}, err
}

func (u unsynced) OpenWriter(dir, name string) (types.WritableFile, error) {
	f, err := u.VFS.OpenWriter(dir, name)
	return unsyncedFile{f}, err
}

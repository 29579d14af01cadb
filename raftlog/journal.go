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
	walsegment "github.com/hashicorp/raft-wal/segment"
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
func openJournal(cfg Config, segment int) (journal, error) {
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
	return openWAL(dir, segment, cfg.Logger)
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

// openWAL opens raft-wal in dir, after mending what it cannot mend itself.
func openWAL(dir string, segment int, logger *slog.Logger) (*wal.WAL, error) {
	meta := &metadb.BoltMetaDB{}
	if err := mendTail(dir, meta); err != nil {
		return nil, errors.Join(err, meta.Close())
	}
	files := types.VFS(walfs.New())
	if mutant.On(mutant.JournalNotSynced) {
		files = unsynced{files}
	}
	w, err := wal.Open(dir, wal.WithMetaStore(meta), wal.WithSegmentFiler(walsegment.NewFiler(dir, files)),
		wal.WithSegmentSize(segment), wal.WithLogger(quiet(logger)))
	if err != nil {
		return nil, errors.Join(err, meta.Close())
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
// neither open nor tell from a damaged one (bbolt#567).
func openBolt(path string) (*raftboltdb.BoltStore, error) {
	_, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := makeBolt(path); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
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
	return syncDir(filepath.Dir(path))
}

func openBoltFile(path string) (*raftboltdb.BoltStore, error) {
	return raftboltdb.New(raftboltdb.Options{Path: path, BoltOptions: &bbolt.Options{
		Timeout:        boltLockWait,
		NoSync:         mutant.On(mutant.VotesNotSynced),
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
	if err := syncDir(parent); err != nil {
		return err
	}
	return syncDir(filepath.Dir(parent))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
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

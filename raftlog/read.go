package raftlog

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	wal "github.com/hashicorp/raft-wal"
	walfs "github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/metadb"
	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"
	"go.etcd.io/bbolt"
)

// Read shows the entries of all current replicas in the log that cfg names to
// visit: shard by shard, in the order of their indexes. An error of visit ends it.
// It changes nothing on disk, not even what Open would mend: it reads up to
// there. No Log may be open in the directory; the caller holds its lock file.
func Read(cfg Config, visit func(shard uint32, generation uint64, e *raft.Log) error) error {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return err
	}
	j, err := openReadOnly(cfg)
	if err != nil {
		return fmt.Errorf("raftlog: read %s journal in %s: %w", cfg.Store, cfg.Dir, err)
	}
	return errors.Join(readAll(newLog(cfg, j), visit), j.Close())
}

func readAll(l *Log, visit func(shard uint32, generation uint64, e *raft.Log) error) error {
	if err := l.rebuild(); err != nil {
		return fmt.Errorf("raftlog: %w", err)
	}
	for _, shard := range l.Shards() {
		s := l.Shard(shard)
		first, last, err := s.bounds()
		if err != nil {
			return err
		}
		for index := first; index <= last && index != 0; index++ {
			where, err := s.where(index)
			if err != nil {
				return fmt.Errorf("raftlog: shard %d index %d: %w", shard, index, err)
			}
			var e raft.Log
			if err := s.readEntry(index, where, &e); err != nil {
				return err
			}
			if err := visit(shard, s.replica.generation, &e); err != nil {
				return err
			}
		}
	}
	return nil
}

// openReadOnly opens the journal that cfg names for reading only.
func openReadOnly(cfg Config) (journal, error) {
	dir := filepath.Join(cfg.Dir, journalDir)
	if err := wantKind(dir, cfg.Store); err != nil {
		return nil, err
	}
	options := &bbolt.Options{ReadOnly: true, Timeout: boltLockWait}
	if cfg.Store == StoreBolt {
		path := filepath.Join(dir, journalBolt)
		if _, err := os.Stat(path); err != nil {
			return nil, err
		}
		b, err := raftboltdb.New(raftboltdb.Options{Path: path, BoltOptions: options})
		if err != nil {
			return nil, err
		}
		return readOnly{b}, nil
	}
	w, err := openWALReader(dir, options)
	if err != nil {
		return nil, err
	}
	return readOnly{w}, nil
}

// walReader reads a raft-wal. raft-wal's own Open creates and deletes segments
// and keeps the files open for writing.
type walReader struct {
	first, last uint64
	codec       wal.BinaryCodec
	segments    []walSegment // ascending
}

type walSegment struct {
	base   uint64
	reader types.SegmentReader
}

func openWALReader(dir string, options *bbolt.Options) (_ *walReader, err error) {
	state, err := loadState(filepath.Join(dir, metadb.FileName), options)
	if err != nil {
		return nil, err
	}
	w := &walReader{}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.Close())
		}
	}()
	// raft-wal does not write while it looks for the end of the last segment.
	filer := segment.NewFiler(dir, readOnlyFS{walfs.New()})
	for _, info := range state.Segments {
		if info.Codec != w.codec.ID() {
			return w, fmt.Errorf("segment %s: got codec %d, want %d", segment.FileName(info), info.Codec, w.codec.ID())
		}
		reader, last, err := openSegment(filer, info)
		if err != nil {
			return w, fmt.Errorf("segment %s: %w", segment.FileName(info), err)
		}
		if last == 0 {
			continue
		}
		if w.first == 0 {
			w.first = info.MinIndex
		}
		w.last = last
		w.segments = append(w.segments, walSegment{base: info.BaseIndex, reader: reader})
	}
	return w, nil
}

// openSegment opens a segment and returns its last record, 0 and no reader if it
// has none.
func openSegment(filer *segment.Filer, info types.SegmentInfo) (types.SegmentReader, uint64, error) {
	if !info.SealTime.IsZero() {
		reader, err := filer.Open(info)
		return reader, info.MaxIndex, err
	}
	tail, err := filer.RecoverTail(info)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, nil // registered but not yet created
	}
	if err != nil {
		return nil, 0, err
	}
	if tail.LastIndex() == 0 {
		return nil, 0, tail.Close()
	}
	return tail, tail.LastIndex(), nil
}

// loadState reads the metadata of a raft-wal as its MetaStore does.
func loadState(path string, options *bbolt.Options) (state types.PersistentState, err error) {
	if _, err := os.Stat(path); err != nil {
		return state, err
	}
	db, err := bbolt.Open(path, 0, options)
	if err != nil {
		return state, fmt.Errorf("open %s: %w", filepath.Base(path), err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return state, db.View(func(tx *bbolt.Tx) error {
		bucket := tx.Bucket([]byte(metadb.MetaBucket))
		if bucket == nil {
			return fmt.Errorf("%s has no bucket %s", filepath.Base(path), metadb.MetaBucket)
		}
		raw := bucket.Get([]byte(metadb.MetaKey))
		if raw == nil {
			return nil // an empty log
		}
		return json.Unmarshal(raw, &state)
	})
}

func (w *walReader) FirstIndex() (uint64, error) { return w.first, nil }
func (w *walReader) LastIndex() (uint64, error)  { return w.last, nil }

func (w *walReader) GetLog(seq uint64, e *raft.Log) error {
	i, found := slices.BinarySearchFunc(w.segments, seq, func(s walSegment, seq uint64) int {
		return cmp.Compare(s.base, seq)
	})
	if !found {
		i--
	}
	if i < 0 {
		return raft.ErrLogNotFound
	}
	raw, err := w.segments[i].reader.GetLog(seq)
	if err != nil {
		return err
	}
	return errors.Join(w.codec.Decode(raw.Bs, e), raw.Close())
}

func (w *walReader) Close() error {
	var errs []error
	for _, s := range w.segments {
		errs = append(errs, s.reader.Close())
	}
	return errors.Join(errs...)
}

// readOnlyFS opens for reading what it is asked to open for writing.
type readOnlyFS struct{ *walfs.FS }

func (readOnlyFS) OpenWriter(dir, name string) (types.WritableFile, error) {
	return os.Open(filepath.Join(dir, name))
}

// records is what reading needs of a journal.
type records interface {
	FirstIndex() (uint64, error)
	LastIndex() (uint64, error)
	GetLog(seq uint64, e *raft.Log) error
	io.Closer
}

var errReadOnly = errors.New("the journal is open for reading")

// readOnly is a journal that refuses every change.
type readOnly struct{ records }

func (readOnly) StoreLog(*raft.Log) error             { return errReadOnly }
func (readOnly) StoreLogs([]*raft.Log) error          { return errReadOnly }
func (readOnly) DeleteRange(first, last uint64) error { return errReadOnly }

package fsm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"strconv"
	"sync"

	"github.com/cockroachdb/pebble/v2/objstorage/objstorageprovider"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/manykv/manykv/crash"
	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

// A staging is a directory DIR/stage/<shard>: tables with the rows of a stream,
// as Pebble can take them over, and, once all of them are on the disk, a
// manifest. Without a valid manifest it is incomplete, and Open removes it.
const (
	stageDir     = "stage"
	manifestFile = "complete"
)

const (
	// tableBytes is how much goes into one table of a staging, before it is
	// compressed: as large as Pebble's own in the last level, where they go.
	tableBytes = 64 << 20

	// syncEvery is after how many bytes a table's data is on its way to the disk:
	// at once it would hold up the journal's next sync.
	syncEvery = 512 << 10
)

func (s *Store) stagePath(elem ...string) string {
	return s.fs.PathJoin(append([]string{s.cfg.Dir, stageDir}, elem...)...)
}

func (s *Store) stageOf(shard sharding.Shard, elem ...string) string {
	return s.stagePath(append([]string{strconv.FormatUint(uint64(shard), 10)}, elem...)...)
}

func tableName(i int) string { return fmt.Sprintf("%06d.sst", i) }

// Stage is a stream of a shard on its way into the store: written here, beside
// Pebble, which knows nothing of it until Restore.
//
// It ends with Finish or Discard. They and Write may be called from different
// goroutines. A closed store ends the stagings that are open, and their calls
// return ErrClosed; so does Drop of the shard.
type Stage struct {
	store *Store
	shard sharding.Shard

	mu     sync.Mutex // guards the fields below; taken inside store.gate
	parser *parser
	tables tables
	failed error // why nothing more can be written
	ended  bool
}

// Stage begins the staging of a stream. An earlier one of the shard is removed,
// whether it was complete or not; one that is still being written is an error.
func (s *Store) Stage(shard sharding.Shard) (*Stage, error) {
	if err := s.acquire(); err != nil {
		return nil, err
	}
	defer s.release()
	dir := s.stageOf(shard)
	st := &Stage{store: s, shard: shard, tables: tables{
		fs: s.fs, dir: dir, options: s.tableOptions, most: s.cfg.tableBytes, key: shardPrefix(shard),
	}}
	st.parser = newParser(shard, st.tables.add)
	if err := s.beginStage(shard, st); err != nil {
		return nil, err
	}
	err := s.removeStaged(shard)
	if err == nil {
		err = s.makeStageDir(dir)
	}
	if err != nil {
		s.endStage(shard, st)
		return nil, fmt.Errorf("fsm: staging shard %d: %w", shard, err)
	}
	return st, nil
}

func (s *Store) beginStage(shard sharding.Shard, st *Stage) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stages[shard] != nil {
		return fmt.Errorf("fsm: shard %d is being staged already", shard)
	}
	s.stages[shard] = st
	return nil
}

func (s *Store) endStage(shard sharding.Shard, st *Stage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stages[shard] == st {
		delete(s.stages, shard)
	}
}

// makeStageDir makes a staging's directory, durably.
func (s *Store) makeStageDir(dir string) error {
	if err := s.fs.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := syncDir(s.fs, s.stagePath()); err != nil {
		return err
	}
	return syncDir(s.fs, s.cfg.Dir)
}

func syncDir(on vfs.FS, dir string) error {
	d, err := on.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Write takes the next bytes of the stream, in any cuts. An error is final:
// what is left to do is Discard.
func (st *Stage) Write(p []byte) (int, error) {
	if err := st.store.acquire(); err != nil {
		return 0, err
	}
	defer st.store.release()
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.failed != nil {
		return 0, st.failed
	}
	if err := st.parser.write(p); err != nil {
		st.failed = fmt.Errorf("fsm: staging shard %d: %w", st.shard, err)
		return 0, st.failed
	}
	return len(p), nil
}

// Finish checks that the stream was complete and makes the staging durable: a
// crash from here on does not lose it. After an error there is no staging.
func (st *Stage) Finish() error {
	if err := st.store.acquire(); err != nil {
		return err
	}
	defer st.store.release()
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.failed == nil {
		st.failed = st.complete()
	}
	if st.ended {
		return st.failed
	}
	if st.failed != nil {
		return errors.Join(st.failed, st.discard(st.failed))
	}
	st.end(fs.ErrClosed)
	return nil
}

func (st *Stage) complete() error {
	err := st.parser.finish()
	if err == nil {
		err = st.tables.finish()
	}
	if err == nil {
		crash.Point("fsm.stage.written")
		err = st.writeManifest()
	}
	if err != nil {
		return fmt.Errorf("fsm: staging shard %d: %w", st.shard, err)
	}
	crash.Point("fsm.stage.finished")
	return nil
}

// Discard ends the staging and removes what was written; after Finish it does
// nothing.
func (st *Stage) Discard() error {
	if err := st.store.acquire(); err != nil {
		return err
	}
	defer st.store.release()
	return st.abandon(fs.ErrClosed)
}

// abandon is Discard for whoever holds the gate; later calls return cause.
func (st *Stage) abandon(cause error) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.ended {
		return nil
	}
	return st.discard(cause)
}

func (st *Stage) discard(cause error) error {
	st.tables.abort()
	err := st.store.removeStaged(st.shard)
	st.end(cause)
	return err
}

func (st *Stage) end(cause error) {
	st.ended, st.failed = true, cause
	st.parser = nil
	st.store.endStage(st.shard, st)
}

// tables writes rows into tables of a directory.
type tables struct {
	fs      vfs.FS
	dir     string
	options sstable.WriterOptions
	most    int // bytes in a table, unless one row has more

	key   []byte // the shard's prefix, and behind it the key under way
	table *sstable.Writer
	bytes int      // in table
	sizes []uint64 // of the tables that are complete
}

func (t *tables) path(i int) string { return t.fs.PathJoin(t.dir, tableName(i)) }

func (t *tables) add(key, value []byte) error {
	size := shardBytes + len(key) + len(value)
	if t.table != nil && t.bytes+size > t.most {
		if err := t.finish(); err != nil {
			return err
		}
	}
	if t.table == nil {
		f, err := t.fs.Create(t.path(len(t.sizes)), vfs.WriteCategoryUnspecified)
		if err != nil {
			return err
		}
		f = vfs.NewSyncingFile(f, vfs.SyncingFileOptions{BytesPerSync: syncEvery})
		t.table = sstable.NewWriter(objstorageprovider.NewFileWritable(f), t.options)
	}
	t.bytes += size
	t.key = append(t.key[:shardBytes], key...)
	return t.table.Set(t.key, value)
}

// finish completes the table under way, if any: it is then on the disk, but its
// name may not be.
func (t *tables) finish() error {
	if t.table == nil {
		return nil
	}
	err := t.table.Close() // syncs
	t.table, t.bytes = nil, 0
	if err != nil {
		return err
	}
	info, err := t.fs.Stat(t.path(len(t.sizes)))
	if err != nil {
		return err
	}
	t.sizes = append(t.sizes, uint64(info.Size()))
	return nil
}

// abort closes the table under way, which is of no use: its error does not
// matter.
func (t *tables) abort() {
	if t.table != nil {
		_ = t.table.Close()
		t.table = nil
	}
}

// manifest says that a staging is complete:
//
//	magic u32 · version u8 · shard u32 · position · tables u32 · each table's size u64 · crc u32
type manifest struct {
	shard    sharding.Shard
	position Position
	sizes    []uint64
}

const (
	manifestMagic   = 0x6d6b7367 // "mksg"
	manifestVersion = 1

	// maxManifest bounds a manifest: 100,000 tables, more than any shard has.
	maxManifest = 1 << 20
)

func (m *manifest) append(dst []byte) []byte {
	start := len(dst)
	dst = binary.BigEndian.AppendUint32(dst, manifestMagic)
	dst = append(dst, manifestVersion)
	dst = binary.BigEndian.AppendUint32(dst, uint32(m.shard))
	dst = appendPosition(dst, m.position)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(m.sizes)))
	for _, size := range m.sizes {
		dst = binary.BigEndian.AppendUint64(dst, size)
	}
	return appendCRC(dst, dst[start:])
}

func decodeManifest(b []byte) (*manifest, error) {
	if len(b) < crcBytes || crc32.Checksum(b[:len(b)-crcBytes], castagnoli) != binary.BigEndian.Uint32(b[len(b)-crcBytes:]) {
		return nil, fmt.Errorf("a manifest of %d bytes with a wrong checksum", len(b))
	}
	d := kv.NewDecoder(b[:len(b)-crcBytes])
	if magic := d.U32(); magic != manifestMagic {
		d.Fail("manifest magic %08x, want %08x", magic, manifestMagic)
	}
	if version := d.U8(); version != manifestVersion {
		d.Fail("manifest version %d, want %d", version, manifestVersion)
	}
	m := &manifest{
		shard:    sharding.Shard(d.U32()),
		position: Position{Index: d.U64(), Term: d.U64(), LeadTerm: d.U64()},
	}
	if tables := d.U32(); uint64(tables)*8 != uint64(d.Left()) {
		d.Fail("sizes of %d tables, %d bytes are left", tables, d.Left())
	}
	for d.Err() == nil && d.Left() > 0 {
		m.sizes = append(m.sizes, d.U64())
	}
	if err := d.Finish(); err != nil {
		return nil, err
	}
	return m, nil
}

// writeManifest makes the manifest, and the names of all files, durable. In
// which order the names get to the disk does not matter: a manifest without its
// tables counts for nothing.
func (st *Stage) writeManifest() error {
	m := manifest{shard: st.shard, position: st.parser.position, sizes: st.tables.sizes}
	on, dir := st.store.fs, st.tables.dir
	path := on.PathJoin(dir, manifestFile)
	if err := writeFile(on, path+".tmp", m.append(nil)); err != nil {
		return err
	}
	if err := on.Rename(path+".tmp", path); err != nil {
		return err
	}
	return syncDir(on, dir)
}

// writeFile makes a file with b, synced.
func writeFile(on vfs.FS, path string, b []byte) error {
	f, err := on.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// staged returns the manifest of a shard's staging; nil if there is no complete
// one. A manifest that does not fit its tables counts as none.
func (s *Store) staged(shard sharding.Shard) (*manifest, error) {
	b, err := readFile(s.fs, s.stageOf(shard, manifestFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	m, err := decodeManifest(b)
	if err == nil && m.shard != shard {
		err = fmt.Errorf("a manifest of shard %d", m.shard)
	}
	for i := 0; err == nil && i < len(m.sizes); i++ {
		var info vfs.FileInfo
		if info, err = s.fs.Stat(s.stageOf(shard, tableName(i))); err == nil && uint64(info.Size()) != m.sizes[i] {
			err = fmt.Errorf("table %d has %d bytes, want %d", i, info.Size(), m.sizes[i])
		}
	}
	if err != nil {
		s.cfg.Logger.Warn("a staging is damaged and does not count", "shard", shard, "error", err)
		return nil, nil
	}
	return m, nil
}

func readFile(on vfs.FS, path string) (b []byte, err error) {
	f, err := on.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return io.ReadAll(io.LimitReader(f, maxManifest))
}

// Staged says whether there is a complete staging of a shard, and of which
// position.
func (s *Store) Staged(shard sharding.Shard) (Position, bool, error) {
	if err := s.acquire(); err != nil {
		return Position{}, false, err
	}
	defer s.release()
	m, err := s.staged(shard)
	if err != nil {
		return Position{}, false, fmt.Errorf("fsm: looking for a staging of shard %d: %w", shard, err)
	}
	if m == nil {
		return Position{}, false, nil
	}
	return m.position, true, nil
}

// DiscardStaged removes the complete staging of a shard, if there is one. One
// that is still being written is left alone.
func (s *Store) DiscardStaged(shard sharding.Shard) error {
	if err := s.acquire(); err != nil {
		return err
	}
	defer s.release()
	s.mu.Lock()
	open := s.stages[shard] != nil
	s.mu.Unlock()
	if open {
		return nil
	}
	if err := s.removeStaged(shard); err != nil {
		return fmt.Errorf("fsm: discarding the staging of shard %d: %w", shard, err)
	}
	return nil
}

// removeStaged removes a shard's staging, its manifest first: what a crash
// leaves is not complete.
func (s *Store) removeStaged(shard sharding.Shard) error {
	dir := s.stageOf(shard)
	err := s.fs.Remove(s.fs.PathJoin(dir, manifestFile))
	if err == nil {
		err = syncDir(s.fs, dir)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return s.fs.RemoveAll(dir)
}

// sweepStages removes what a crash left of stagings that were not complete.
func (s *Store) sweepStages() error {
	names, err := s.fs.List(s.stagePath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, name := range names {
		if shard, err := strconv.ParseUint(name, 10, 32); err == nil {
			m, err := s.staged(sharding.Shard(shard))
			if err != nil {
				return err
			}
			if m != nil {
				continue
			}
		}
		if err := s.fs.RemoveAll(s.stagePath(name)); err != nil {
			return err
		}
	}
	return nil
}

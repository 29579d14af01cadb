package raftlog

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"sync"

	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"github.com/hashicorp/raft-wal/types"
)

// sectorBytes is what a disk writes whole or not at all.
const sectorBytes = 512

// errCrashed is the answer to whatever is asked of a disk whose machine is down.
var errCrashed = errors.New("the machine is down")

// simDisk is the disk of a node in memory: raft-wal's files and its metadata, and
// the votes. It promises no more than POSIX does: what was written and not synced
// may be lost when the power fails, sector by sector and in any order, and so may
// the name of a file whose directory was not synced. It has one directory.
//
// The metadata and the votes are bbolt files on a real disk. Here they are what
// these promise: a change is there once it returned, and before that as a whole or
// not at all. A change of the metadata during which the process was killed is seen
// afterwards, but not durable until the next one or SyncAll.
type simDisk struct {
	mu      sync.Mutex // guards what follows
	rng     *rand.Rand
	note    func(format string, args ...any)
	files   map[string]*simFile   // by name, as programs see them
	durable map[string]*simFile   // and as they are found when the power comes back
	meta    types.PersistentState // as programs see it
	synced  types.PersistentState // and as it was when it was synced last
	votes   map[string][]byte
	steps   int // changes since the machine came up
	crashAt int // the step in which it goes down; 0: it does not
	crashed bool

	held    chan struct{} // the next write says here that it has come, if that is not nil
	release chan struct{} // and waits for this
}

// simFile is a file.
type simFile struct {
	now    []byte     // as programs see it
	synced []byte     // and as it was when it was synced last
	dirty  []simWrite // what happened since then, in order
}

// simWrite is a write that was not synced yet. Without data it made the file so
// long.
type simWrite struct {
	offset int
	data   []byte
}

func newSimDisk(rng *rand.Rand, note func(string, ...any)) *simDisk {
	return &simDisk{
		rng: rng, note: note,
		files:   make(map[string]*simFile),
		durable: make(map[string]*simFile),
		votes:   make(map[string][]byte),
	}
}

// step is called with mu held before each change. It says whether the change is
// made, and whether its caller hears of it: in the step in which the machine goes
// down it may be made and nobody hears.
func (d *simDisk) step(what string) (made bool, err error) {
	if d.crashed {
		return false, errCrashed
	}
	d.steps++
	if d.steps != d.crashAt {
		return true, nil
	}
	d.crashed = true
	made = d.rng.IntN(2) == 0
	d.note("down in step %d, %s (done: %v)", d.steps, what, made)
	return made, errCrashed
}

// down says whether the machine went down.
func (d *simDisk) down() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.crashed
}

// crashIn lets the machine go down in so many steps from now on.
func (d *simDisk) crashIn(steps int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.crashAt = d.steps + steps
}

// restart brings the machine up. If only the process was killed, the kernel has
// all that was written, and it is as durable as before. If the power failed, what
// was not synced is there or not.
func (d *simDisk) restart(power bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.crashed, d.steps, d.crashAt = false, 0, 0
	if !power {
		return
	}
	// Mostly lost, mostly there, or anything.
	keep := []float64{0, 0.1, 0.5, 0.9, 1}[d.rng.IntN(5)]
	d.note("power failed, %.0f %% of what was not synced is there", 100*keep)
	names := slices.Sorted(maps.Keys(d.files))
	for _, name := range names {
		if d.durable[name] == nil && d.rng.Float64() >= keep {
			d.note("file %s is gone", name)
			delete(d.files, name)
			continue
		}
		d.files[name].settle(d.rng, keep)
	}
	d.durable = maps.Clone(d.files)
	if d.rng.Float64() >= keep {
		d.meta = d.synced
	}
	d.synced = d.meta
}

// settle makes a file what is left of it, with each sector of what was not synced
// being there with probability keep.
func (f *simFile) settle(rng *rand.Rand, keep float64) {
	for _, w := range f.dirty {
		if w.data == nil {
			if rng.Float64() < keep {
				f.synced = sized(f.synced, w.offset)
			}
			continue
		}
		for at, end := w.offset, w.offset+len(w.data); at < end; {
			next := min(at-at%sectorBytes+sectorBytes, end)
			if rng.Float64() < keep {
				f.synced = sized(f.synced, next)
				copy(f.synced[at:next], w.data[at-w.offset:next-w.offset])
			}
			at = next
		}
	}
	f.dirty = nil
	f.now = slices.Clone(f.synced)
}

// sized returns b with at least size bytes.
func sized(b []byte, size int) []byte {
	if len(b) >= size {
		return b
	}
	return append(b, make([]byte, size-len(b))...)
}

// hold lets the next write wait for release, after it has closed held.
func (d *simDisk) hold() (held <-chan struct{}, release chan<- struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	h, r := make(chan struct{}), make(chan struct{})
	d.held, d.release = h, r
	return h, r
}

// unhold lets no write wait any more that has not come yet.
func (d *simDisk) unhold() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.held, d.release = nil, nil
}

// wait waits as hold says.
func (d *simDisk) wait() {
	d.mu.Lock()
	held, release := d.held, d.release
	d.held, d.release = nil, nil
	d.mu.Unlock()
	if held != nil {
		close(held)
		<-release
	}
}

// What follows is types.VFS, as raft-wal's own implements it on a real disk.

func (d *simDisk) ListDir(string) ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.crashed {
		return nil, errCrashed
	}
	return slices.Sorted(maps.Keys(d.files)), nil
}

func (d *simDisk) Create(_, name string, size uint64) (types.WritableFile, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.files[name] != nil {
		return nil, fmt.Errorf("create %s: %w", name, os.ErrExist)
	}
	made, err := d.step("create " + name)
	if made {
		d.files[name] = &simFile{now: make([]byte, size), dirty: []simWrite{{offset: int(size)}}}
	}
	if err != nil {
		return nil, err
	}
	return &simHandle{disk: d, file: d.files[name], name: name, created: true}, nil
}

func (d *simDisk) Delete(_, name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.files[name] == nil {
		return fmt.Errorf("delete %s: %w", name, os.ErrNotExist)
	}
	made, err := d.step("delete " + name)
	if made {
		delete(d.files, name)
		d.durable = maps.Clone(d.files)
	}
	return err
}

// SyncAll syncs the directory and the metadata.
func (d *simDisk) SyncAll() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	made, err := d.step("sync the directory and the metadata")
	if made {
		d.durable, d.synced = maps.Clone(d.files), d.meta
	}
	return err
}

func (d *simDisk) OpenReader(_, name string) (types.ReadableFile, error) { return d.open(name) }
func (d *simDisk) OpenWriter(_, name string) (types.WritableFile, error) { return d.open(name) }

func (d *simDisk) open(name string) (*simHandle, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.crashed:
		return nil, errCrashed
	case d.files[name] == nil:
		return nil, fmt.Errorf("open %s: %w", name, os.ErrNotExist)
	}
	return &simHandle{disk: d, file: d.files[name], name: name}, nil
}

// simHandle is an open file.
type simHandle struct {
	disk    *simDisk
	file    *simFile
	name    string
	created bool // by this handle, whose first Sync syncs the directory too
}

func (h *simHandle) ReadAt(b []byte, offset int64) (int, error) {
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	if h.disk.crashed {
		return 0, errCrashed
	}
	if offset >= int64(len(h.file.now)) {
		return 0, io.EOF
	}
	n := copy(b, h.file.now[offset:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

// Stat says how long the file is, as segmentFiles asks.
func (h *simHandle) Stat() (fs.FileInfo, error) {
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	return simInfo{size: int64(len(h.file.now))}, nil
}

type simInfo struct {
	fs.FileInfo
	size int64
}

func (i simInfo) Size() int64 { return i.size }

func (h *simHandle) WriteAt(b []byte, offset int64) (int, error) {
	h.disk.wait()
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	_, err := h.disk.step(fmt.Sprintf("write %d bytes at %d of %s", len(b), offset, h.name))
	if err == errCrashed && h.disk.steps != h.disk.crashAt {
		return 0, err // it was down before
	}
	// A write that the crash interrupts is one that was not synced.
	w := simWrite{offset: int(offset), data: slices.Clone(b)}
	h.file.now = sized(h.file.now, w.offset+len(b))
	copy(h.file.now[w.offset:], b)
	h.file.dirty = append(h.file.dirty, w)
	return len(b), err
}

func (h *simHandle) Sync() error {
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	made, err := h.disk.step("sync " + h.name)
	if made {
		h.file.synced, h.file.dirty = slices.Clone(h.file.now), nil
		if h.created {
			h.disk.durable = maps.Clone(h.disk.files)
		}
	}
	return err
}

func (h *simHandle) Close() error { return nil }

// simMeta is the metadata of raft-wal on a simDisk.
type simMeta struct{ disk *simDisk }

func (m simMeta) Load(string) (types.PersistentState, error) {
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	if m.disk.crashed {
		return types.PersistentState{}, errCrashed
	}
	return copyState(m.disk.meta), nil
}

func (m simMeta) CommitState(s types.PersistentState) error {
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	made, err := m.disk.step("metadata")
	if made {
		m.disk.meta = copyState(s)
	}
	if err == nil {
		m.disk.synced = m.disk.meta
	}
	return err
}

func copyState(s types.PersistentState) types.PersistentState {
	s.Segments = slices.Clone(s.Segments)
	return s
}

func (simMeta) GetStable([]byte) ([]byte, error) { panic("not used") }
func (simMeta) SetStable(_, _ []byte) error      { panic("not used") }
func (simMeta) Close() error                     { return nil }

// simStable is the file of the votes on a simDisk.
type simStable struct{ disk *simDisk }

func (s simStable) Set(key, value []byte) error {
	s.disk.mu.Lock()
	defer s.disk.mu.Unlock()
	made, err := s.disk.step("vote")
	if made {
		s.disk.votes[string(key)] = slices.Clone(value)
	}
	return err
}

func (s simStable) Get(key []byte) ([]byte, error) {
	s.disk.mu.Lock()
	defer s.disk.mu.Unlock()
	value, ok := s.disk.votes[string(key)]
	switch {
	case s.disk.crashed:
		return nil, errCrashed
	case !ok:
		return nil, raftboltdb.ErrKeyNotFound
	}
	return slices.Clone(value), nil
}

func (simStable) Close() error { return nil }

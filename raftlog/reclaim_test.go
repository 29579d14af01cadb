package raftlog

import (
	"bytes"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/raft"
)

// crashJournal is a journal in memory that can remember what a crash after each
// of its changes would have left, and all that was ever written.
type crashJournal struct {
	mu    sync.Mutex // guards what follows
	kept  memRecords // what is in the journal
	all   memRecords // and what was deleted from it too
	every int        // remember every so many changes, 0 = none
	count int
	left  []crashed
}

// memRecords are the records of a journal by number.
type memRecords map[uint64][]byte

// crashed is a journal and the same without any deletion.
type crashed struct{ kept, all memRecords }

func newCrashJournal() *crashJournal {
	return &crashJournal{kept: make(memRecords), all: make(memRecords)}
}

func (j *crashJournal) FirstIndex() (uint64, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.kept.first(), nil
}

func (j *crashJournal) LastIndex() (uint64, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.kept.last(), nil
}

func (j *crashJournal) GetLog(seq uint64, e *raft.Log) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.kept.get(seq, e)
}

func (j *crashJournal) StoreLogs(logs []*raft.Log) error { panic("not used") }
func (j *crashJournal) Close() error                     { return nil }

func (j *crashJournal) StoreLog(e *raft.Log) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	data := bytes.Clone(e.Data) // the log writes its next record there
	j.kept[e.Index], j.all[e.Index] = data, data
	j.changed()
	return nil
}

func (j *crashJournal) DeleteRange(first, last uint64) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	for seq := first; seq <= last; seq++ {
		delete(j.kept, seq)
	}
	j.changed()
	return nil
}

func (j *crashJournal) changed() {
	if j.count++; j.every != 0 && j.count%j.every == 0 {
		j.left = append(j.left, crashed{maps.Clone(j.kept), maps.Clone(j.all)})
	}
}

func (j *crashJournal) watch(every int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.every = every
}

// restart makes what is in the journal all there ever was. A reopened log may
// count generations from 1 again, which one that has all records would refuse.
func (j *crashJournal) restart() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.all = maps.Clone(j.kept)
}

func (j *crashJournal) bytes() int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	sum := int64(0)
	for _, record := range j.kept {
		sum += int64(len(record))
	}
	return sum
}

// check fails if a crash had left other logs than one of a journal from which
// nothing was ever deleted, which is strict about every frame.
func (j *crashJournal) check(t failer) int {
	t.Helper()
	j.mu.Lock()
	left := j.left
	j.left, j.every = nil, 0
	j.mu.Unlock()
	for _, c := range left {
		kept, all := rebuilt(t, c.kept), rebuilt(t, c.all)
		for shard, s := range all.shards {
			wantSame(t, kept.Shard(shard), s)
		}
		if kept.stats.Live != all.stats.Live || len(kept.shards) > len(all.shards) {
			t.Fatalf("records %d to %d: got %d live bytes of %d shards, want %d of %d", c.kept.first(), c.kept.last(),
				kept.stats.Live, len(kept.shards), all.stats.Live, len(all.shards))
		}
	}
	return len(left)
}

// rebuilt is a log that can only be read.
func rebuilt(t failer, r memRecords) *Log {
	t.Helper()
	cfg, err := Config{Dir: "unused"}.withDefaults()
	if err != nil {
		t.Fatalf("%v", err)
	}
	l := newLog(cfg, readOnly{r})
	if err := l.rebuild(); err != nil {
		t.Fatalf("records %d to %d: %v", r.first(), r.last(), err)
	}
	return l
}

func wantSame(t failer, got, want *Shard) {
	t.Helper()
	first, last := want.positions.bounds()
	if f, l := got.positions.bounds(); f != first || l != last {
		t.Fatalf("%+v: got entries %d to %d, want %d to %d", got.replica, f, l, first, last)
	}
	if last != 0 && got.replica != want.replica {
		t.Fatalf("got %+v, want %+v", got.replica, want.replica)
	}
	for index := first; index <= last && index != 0; index++ {
		if a, b := readBack(t, got, index), readBack(t, want, index); !sameEntry(&a, &b) {
			t.Fatalf("%+v index %d: got an entry of term %d, want term %d, or other content", got.replica, index, a.Term, b.Term)
		}
	}
}

func readBack(t failer, s *Shard, index uint64) raft.Log {
	t.Helper()
	var e raft.Log
	where, err := s.where(index)
	if err == nil {
		err = s.readEntry(index, where, &e)
	}
	if err != nil {
		t.Fatalf("%+v index %d: %v", s.replica, index, err)
	}
	return e
}

func (r memRecords) first() uint64 {
	first := uint64(0)
	for seq := range r {
		if first == 0 || seq < first {
			first = seq
		}
	}
	return first
}

func (r memRecords) last() uint64 {
	last := uint64(0)
	for seq := range r {
		last = max(last, seq)
	}
	return last
}

func (r memRecords) get(seq uint64, e *raft.Log) error {
	data, ok := r[seq]
	if !ok {
		return raft.ErrLogNotFound
	}
	*e = raft.Log{Index: seq, Data: data}
	return nil
}

func (r memRecords) FirstIndex() (uint64, error)          { return r.first(), nil }
func (r memRecords) LastIndex() (uint64, error)           { return r.last(), nil }
func (r memRecords) GetLog(seq uint64, e *raft.Log) error { return r.get(seq, e) }
func (r memRecords) Close() error                         { return nil }

// Shards change, are read and dropped while the journal is given back all the
// time, and whenever a crash ends that the same logs are left.
func TestReclaimUnderLoad(t *testing.T) {
	t.Parallel()
	const shards, changes = 4, 400
	j := newCrashJournal()
	j.watch(37)
	cfg := Config{CacheBytes: 200 << 10, Fatal: noFatal(t)}
	l := startTiny(t, cfg, j)
	l.deletePiece = 50
	var writers, others sync.WaitGroup
	var stop atomic.Bool
	models := make([]modelLog, shards+1)
	for shard := uint32(1); shard <= shards; shard++ {
		writers.Go(func() { change(t, l, shard, &models[shard], changes) })
		others.Go(func() {
			for !stop.Load() {
				readAny(t, l.Shard(shard))
			}
		})
	}
	freed := int64(0)
	others.Go(func() {
		for !stop.Load() {
			n, err := l.Reclaim()
			if err != nil {
				t.Errorf("reclaim: %v", err)
				return
			}
			freed += n
		}
	})
	writers.Wait()
	stop.Store(true)
	others.Wait()
	crashes := j.check(t)
	if stats := l.Stats(); crashes < 10 || freed < int64(stats.Bytes)/4 || stats.Carried == 0 {
		t.Errorf("%d crashes, freed %d of %+v: want 10, a quarter of the bytes and some carried", crashes, freed, stats)
	}
	for range 2 {
		for shard := uint32(1); shard <= shards; shard++ {
			want(t, l.Shard(shard), models[shard].entries)
		}
		mustClose(t, l)
		l = startTiny(t, cfg, j)
	}
	mustClose(t, l)
}

// change makes so many changes of all kinds to one shard.
func change(t *testing.T, l *Log, shard uint32, m *modelLog, changes int) {
	rng := rand.New(rand.NewPCG(uint64(shard), 1))
	for term := uint64(1); term <= uint64(changes); term++ {
		s := l.Shard(shard)
		first, last := m.bounds()
		at := last + 1
		var err error
		switch kind := rng.IntN(20); {
		case kind == 0:
			err = s.Drop()
			m.entries = nil
		case kind <= 2 && last != 0: // a cut
			at = last - rng.Uint64N(min(last-first+1, 4))
			err = s.DeleteRange(at, last)
			m.keep(0, at)
		case kind <= 5 && last > first: // a trim
			to := first + rng.Uint64N(last-first)
			err = s.DeleteRange(first, to)
			m.keep(to+1, last+1)
		default:
			if kind == 6 {
				at += 1 + rng.Uint64N(5) // beyond a gap
				m.entries = nil
			} else if kind == 7 && last != 0 {
				at = last - rng.Uint64N(min(last-first+1, 4)) // over the end
				m.keep(0, at)
			}
			entries := run(shard, at, term, rng.IntN(300), rng.IntN(6000), 0)
			err = s.StoreLogs(entries)
			m.entries = append(m.entries, entries...)
		}
		if err != nil {
			t.Errorf("shard %d term %d: %v", shard, term, err)
			return
		}
	}
}

// readAny reads some entry, which may be gone by then, but not unreadable: that
// would be fatal.
func readAny(t *testing.T, s *Shard) {
	first, last, err := s.bounds()
	if err != nil || last == 0 {
		return
	}
	index := first + rand.Uint64N(last-first+1)
	var e raft.Log
	err = s.GetLog(index, &e)
	if err == raft.ErrLogNotFound || err == ErrDropped { // unwrapped
		return
	}
	if err != nil || e.Index != index || !sameEntry(&e, entryOf(s.replica.shard, index, e.Term, len(e.Data))) {
		t.Errorf("%+v: read %d: got index %d, %v", s.replica, index, e.Index, err)
	}
}

// directoryBytes is what the files of a directory take.
func directoryBytes(t *testing.T, dir string) int64 {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	sum := int64(0)
	for _, f := range files {
		if info, err := f.Info(); err == nil { // not deleted since
			sum += info.Size()
		}
	}
	return sum
}

// Ten times as much as the journal may have is written, and the directory never
// has much more than that, although one shard frees nothing.
func TestDirectoryStaysSmall(t *testing.T) {
	const calls, size = 680, 30 << 10 // 4 entries a call: 80 MiB
	for store, most := range map[string]int64{
		// Two files more than the journal, and one commit before each Reclaim.
		StoreWAL: minJournalBytes + 2*minSegmentBytes + 2*minSegmentBytes,
		// Free pages of the right number in a row have to be found.
		StoreBolt: 2 * minJournalBytes,
	} {
		t.Run(store, func(t *testing.T) {
			t.Parallel()
			cfg := Config{Dir: t.TempDir(), Store: store, JournalBytes: minJournalBytes, Fatal: noFatal(t)}
			l, err := Open(cfg)
			if err != nil {
				t.Fatal(err)
			}
			idle := run(9, 1, 1, 100<<10, 100<<10, 100<<10, 100, 100)
			mustStore(t, l.Shard(9), idle)
			largest, reclaims := int64(0), 0
			for i := range uint64(calls) {
				shard := uint32(i%3 + 1)
				first := i/3*4 + 1
				mustStore(t, l.Shard(shard), run(shard, first, 1, size, size, size, size))
				select {
				case <-l.Full():
					reclaims++
					for shard := uint32(1); shard <= 3; shard++ {
						if err := l.Shard(shard).DeleteRange(1, first-10); err != nil {
							t.Fatal(err)
						}
					}
					if freed, err := l.Reclaim(); err != nil || freed < minJournalBytes/2 {
						t.Fatalf("reclaim: freed %d, %v, want half of %d or more", freed, err, minJournalBytes)
					}
				default:
				}
				largest = max(largest, directoryBytes(t, filepath.Join(cfg.Dir, journalDir)))
			}
			if largest > most || reclaims < calls*4*size/minJournalBytes {
				t.Errorf("the directory had %d bytes, %d reclaims; want at most %d and one for each %d bytes", largest, reclaims, most, minJournalBytes)
			}
			t.Logf("at most %d bytes, %d reclaims, %+v", largest, reclaims, l.Stats())
			for range 2 {
				want(t, l.Shard(9), idle)
				for shard := uint32(1); shard <= 3; shard++ {
					first, last, err := l.Shard(shard).bounds()
					if err != nil || last < calls/3*4 {
						t.Fatalf("shard %d: last index %d, %v, want %d or more", shard, last, err, calls/3*4)
					}
					sizes := make([]int, last+1-first)
					for i := range sizes {
						sizes[i] = size
					}
					want(t, l.Shard(shard), run(shard, first, 1, sizes...))
				}
				mustClose(t, l)
				if l, err = Open(cfg); err != nil {
					t.Fatal(err)
				}
			}
			mustClose(t, l)
		})
	}
}

func TestWorth(t *testing.T) {
	for name, c := range map[string]struct {
		limit int64
		sizes []uint32
		live  []uint32
		want  int
	}{
		"nothing":              {1000, nil, nil, 0},
		"only a head":          {1000, []uint32{markBytes}, []uint32{0}, 0},
		"all dead":             {1000, []uint32{100, 100, 100}, []uint32{0, 0, 0}, 3},
		"all live":             {100, []uint32{100, 100, 100}, []uint32{100, 100, 100}, 0},
		"small, dead prefix":   {1000, []uint32{100, 100, 100}, []uint32{0, 0, 100}, 2},
		"a quarter is cheap":   {1000, []uint32{100, 100, 100}, []uint32{0, 50, 90}, 2},
		"a bit more is not":    {1000, []uint32{100, 100, 100}, []uint32{0, 51, 90}, 1},
		"dead behind live":     {1000, []uint32{100, 100, 1000}, []uint32{80, 60, 100}, 3},
		"down to half":         {500, []uint32{100, 100, 100, 100, 100}, []uint32{50, 50, 50, 0, 50}, 4},
		"no more than needed":  {700, []uint32{100, 100, 100, 100, 100}, []uint32{50, 50, 50, 50, 50}, 3},
		"much is live":         {100, []uint32{100, 100, 100, 100, 100}, []uint32{40, 40, 40, 40, 40}, 5},
		"down to 5/4 of live":  {100, []uint32{100, 100, 100, 100}, []uint32{50, 50, 50, 50}, 3},
		"not worth the head":   {1000, []uint32{30, 100}, []uint32{0, 100}, 0},
		"just worth the head":  {1000, []uint32{38, 100}, []uint32{0, 100}, 1},
		"one byte below worth": {1000, []uint32{37, 100}, []uint32{0, 100}, 0},
	} {
		if got := (tally{first: 7, sizes: c.sizes, live: c.live}).worth(c.limit); got != c.want {
			t.Errorf("%s: got %d records, want %d", name, got, c.want)
		}
	}
}

func isFull(l *Log) bool {
	select {
	case <-l.Full():
		return true
	default:
		return false
	}
}

// Full asks once the journal is too large, again when it grew by an eighth, and
// after a Reclaim that could not free much not before the rest has doubled.
func TestFull(t *testing.T) {
	l := startTest(t, Config{}, newMemJournal())
	defer mustClose(t, l)
	const frame = 1000
	l.mu.Lock()
	l.limit = 20 * frame
	l.mu.Unlock()
	s, next := l.Shard(1), uint64(3) // index 3, 6, ... have no extensions
	// grow writes n entries and returns after which of them, from 1 on, Full asked.
	grow := func(n int) (full []int) {
		for i := 1; i <= n; i++ {
			mustStore(t, s, []*raft.Log{entryOf(1, next, 1, frame-entryFixedBytes-8*int(min(next%3, 1)))})
			next++
			if isFull(l) {
				full = append(full, i)
			}
		}
		return full
	}
	reclaim := func(want int64) {
		t.Helper()
		mustStore(t, l.Shard(2), run(2, next, 1, 10))
		l.full <- struct{}{} // what was asked before is then done
		if freed, err := l.Reclaim(); err != nil || freed < want {
			t.Fatalf("reclaim: freed %d, %v, want %d or more", freed, err, want)
		}
		if isFull(l) {
			t.Error("right after a reclaim: Full has a token")
		}
	}
	check := func(when string, got []int, want ...int) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("%s: Full asked after entries %v, want %v", when, got, want)
		}
	}
	check("the first time", grow(30), 21, 24, 27, 30)
	reclaim(0) // all is live: 30, and a small one
	check("after a reclaim of nothing", grow(30))
	check("when it has doubled", grow(4), 1, 4)
	if err := s.DeleteRange(1, next-2); err != nil { // one is left, and two small ones
		t.Fatal(err)
	}
	reclaim(60 * frame)
	if size := l.Size(); size.Journal > 20*frame/2 || size.Live > 2*frame {
		t.Errorf("after a reclaim: got %+v, want at most %d and %d", size, 20*frame/2, 2*frame)
	}
	check("after a reclaim of nearly all", grow(19), 19)
}

// A stay that ended is forgotten, and the next one does not meet its entries,
// whether what it left is still in the journal or not.
func TestDrop(t *testing.T) {
	for name, reclaim := range map[string]bool{"with its records": false, "without": true} {
		t.Run(name, func(t *testing.T) {
			j := newMemJournal()
			l := startTest(t, Config{}, j)
			reopen := func() {
				mustClose(t, l)
				l = startTest(t, Config{}, j)
			}
			gone, stays, emptied := l.Shard(1), l.Shard(2), l.Shard(3)
			if got := l.Shards(); len(got) != 0 {
				t.Errorf("shards: got %v, want none: nothing was written", got)
			}
			mustStore(t, gone, run(1, 1, 1, 100, 100, 100))
			mustStore(t, stays, run(2, 1, 1, 100))
			mustStore(t, emptied, run(3, 1, 1, 100))
			if err := emptied.DeleteRange(1, 1); err != nil {
				t.Fatal(err)
			}
			if got := l.Shards(); !slices.Equal(got, []uint32{1, 2, 3}) {
				t.Errorf("shards: got %v, want 1, 2 and 3", got)
			}
			if err := gone.Drop(); err != nil {
				t.Fatal(err)
			}
			wantDropped(t, gone)
			back := replica{1, 2}
			left := []uint32{2, 3}
			if reclaim {
				if _, err := l.Reclaim(); err != nil {
					t.Fatal(err)
				}
				left = []uint32{2}
			}
			for range 2 {
				if got := l.Shards(); !slices.Equal(got, left) {
					t.Errorf("shards: got %v, want %v", got, left)
				}
				if s := l.Shard(1); s.replica != back || s != l.Shard(1) {
					t.Errorf("after a drop: got %+v, want %+v, and the same again", s.replica, back)
				}
				want(t, l.Shard(1), nil)
				reopen()
				if reclaim {
					back.generation = 1 // there is nothing to meet
				}
			}
			wantDropped(t, gone)
			mustStore(t, l.Shard(1), run(1, 2, 9, 10))
			want(t, l.Shard(1), run(1, 2, 9, 10))
			reopen()
			if s := l.Shard(1); s.replica != back {
				t.Errorf("with an entry, reopened: got %+v, want %+v", s.replica, back)
			}
			want(t, l.Shard(1), run(1, 2, 9, 10))
			want(t, l.Shard(2), run(2, 1, 1, 100))
			want(t, l.Shard(3), nil)
			mustClose(t, l)
		})
	}
}

// brokenDelete fails to delete, or deletes and says nothing of what it left.
type brokenDelete struct {
	memJournal
	err error
}

func (b brokenDelete) DeleteRange(first, last uint64) error {
	if b.err != nil {
		return b.err
	}
	return b.memJournal.DeleteRange(first, last-1)
}

// A deletion that fails, or that leaves an old record behind, is a failed write,
// and so is a live entry that cannot be read when it has to be carried.
func TestReclaimPoisons(t *testing.T) {
	for name, c := range map[string]struct {
		journal journal
		want    string
	}{
		"deletion fails":     {brokenDelete{newMemJournal(), errDisk}, "delete records 1 to 2: disk on fire"},
		"deletion leaves 2":  {brokenDelete{newMemJournal(), nil}, "delete records 1 to 2: first record is 2, want 3"},
		"entry is damaged":   {unreadableJournal{newMemJournal()}, "carry forward: record 1: disk on fire"},
		"entry is not there": {forgetfulJournal{newMemJournal()}, "carry forward: record 1: log not found"},
	} {
		t.Run(name, func(t *testing.T) {
			fatal := make(chan error, 2)
			l := startTest(t, Config{Fatal: func(err error) { fatal <- err }}, c.journal)
			s := l.Shard(1)
			mustStore(t, s, run(1, 1, 1, 1000, 1000, 1000, 1000, 1000))
			if err := s.DeleteRange(1, 4); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if _, err := l.Reclaim(); err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("got %v, want an error with %q", err, c.want)
				}
			}
			if err := s.StoreLog(entryOf(1, 6, 1, 10)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("append: got %v, want an error with %q", err, c.want)
			}
			mustClose(t, l) // callers hear of a failure before Fatal does
			if len(fatal) != 1 {
				t.Errorf("Fatal was called %d times, want once", len(fatal))
			}
		})
	}
}

// forgetfulJournal keeps what is written and then says it is not there.
type forgetfulJournal struct{ memJournal }

func (forgetfulJournal) GetLog(uint64, *raft.Log) error { return raft.ErrLogNotFound }

// A record that is deleted while it is read is no failure: its entries moved.
func TestReadDuringReclaim(t *testing.T) {
	j := &hookedJournal{memJournal: newMemJournal()}
	l := startTest(t, Config{CacheBytes: 1}, j)
	defer mustClose(t, l)
	s := l.Shard(1)
	entries := run(1, 1, 1, 1000, 1000, 1000, 1000, 1000, 1000)
	mustStore(t, s, entries)
	if err := s.DeleteRange(1, 5); err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	j.before = func() {
		once.Do(func() {
			j.before = nil
			if freed, err := l.Reclaim(); err != nil || freed <= 0 {
				t.Errorf("reclaim: freed %d, %v, want some", freed, err)
			}
		})
	}
	want(t, s, entries[5:])
	j.before = func() {
		j.before = nil
		if err := s.DeleteRange(6, 6); err != nil {
			t.Error(err)
		}
		if _, err := l.Reclaim(); err != nil {
			t.Error(err)
		}
	}
	if err := s.GetLog(6, &raft.Log{}); err != raft.ErrLogNotFound { // raft compares so
		t.Errorf("deleted while it is read: got %v, want ErrLogNotFound itself", err)
	}
}

// hookedJournal calls before, if set, before a record is read.
type hookedJournal struct {
	memJournal
	before func()
}

func (h *hookedJournal) GetLog(seq uint64, e *raft.Log) error {
	if h.before != nil {
		h.before()
	}
	return h.memJournal.GetLog(seq, e)
}

// Close waits for a Reclaim, which ends early, and a later one does nothing.
func TestCloseEndsReclaim(t *testing.T) {
	j := &hookedJournal{memJournal: newMemJournal()}
	l := startTest(t, Config{CacheBytes: 1}, j)
	s := l.Shard(1)
	mustStore(t, s, run(1, 1, 1, 1000, 1000, 1000, 1000, 1000))
	if err := s.DeleteRange(1, 4); err != nil {
		t.Fatal(err)
	}
	closed := make(chan error, 1)
	j.before = func() {
		go func() { closed <- l.Close() }()
		<-l.done // now Close has nothing else to wait for
		for range 100_000 {
			select {
			case <-l.fail.done:
				t.Error("Close goes on while a Reclaim reads the journal")
				return
			default:
				runtime.Gosched()
			}
		}
	}
	for range 2 {
		if _, err := l.Reclaim(); err != ErrClosed { // unwrapped
			t.Errorf("got %v, want ErrClosed", err)
		}
	}
	if err := <-closed; err != nil {
		t.Fatal(err)
	}
	if first, err := j.FirstIndex(); err != nil || first != 1 {
		t.Errorf("the journal begins at record %d, %v, want 1", first, err)
	}
}

package raftlog

import (
	"math"
	"slices"
	"testing"

	"github.com/hashicorp/raft"
	"pgregory.net/rapid"
)

// modelLog is what the log of one replica should hold.
type modelLog struct{ entries []*raft.Log }

func (m *modelLog) bounds() (first, last uint64) {
	if len(m.entries) == 0 {
		return 0, 0
	}
	return m.entries[0].Index, m.entries[len(m.entries)-1].Index
}

// keep drops everything outside [low, high).
func (m *modelLog) keep(low, high uint64) {
	var kept []*raft.Log
	for _, e := range m.entries {
		if e.Index >= low && e.Index < high {
			kept = append(kept, e)
		}
	}
	m.entries = kept
}

// machine drives a log and its model with the same actions.
type machine struct {
	open   func() *Log
	log    *Log
	models map[uint32]*modelLog
	term   uint64
	mem    *crashJournal // nil on disk
}

func (m *machine) pick(t *rapid.T) (*Shard, *modelLog, replica) {
	shard := rapid.Uint32Range(1, 3).Draw(t, "shard")
	if m.models[shard] == nil {
		m.models[shard] = &modelLog{}
	}
	s := m.log.Shard(shard)
	return s, m.models[shard], s.replica
}

func (m *machine) entries(t *rapid.T, r replica, first uint64) []*raft.Log {
	m.term++
	sizes := rapid.SliceOfN(rapid.SampledFrom([]int{0, 1, 300, 300, 5000, 70 << 10}), 1, 4).Draw(t, "sizes")
	return run(r.shard, first, m.term, sizes...)
}

func (m *machine) append(t *rapid.T) {
	s, model, r := m.pick(t)
	_, last := model.bounds()
	first := last + 1
	if last == 0 {
		first = rapid.SampledFrom([]uint64{1, 40}).Draw(t, "first")
	}
	entries := m.entries(t, r, first)
	if err := s.StoreLogs(entries); err != nil {
		t.Fatal(err)
	}
	model.entries = append(model.entries, entries...)
}

func (m *machine) appendBeyondGap(t *rapid.T) {
	s, model, r := m.pick(t)
	_, last := model.bounds()
	entries := m.entries(t, r, last+rapid.Uint64Range(2, 9).Draw(t, "gap"))
	if err := s.StoreLogs(entries); err != nil {
		t.Fatal(err)
	}
	model.entries = entries
}

func (m *machine) appendOver(t *rapid.T) {
	s, model, r := m.pick(t)
	first, last := model.bounds()
	if last == 0 {
		return
	}
	at := rapid.Uint64Range(first, last).Draw(t, "at")
	entries := m.entries(t, r, at)
	if err := s.StoreLogs(entries); err != nil {
		t.Fatal(err)
	}
	model.keep(0, at)
	model.entries = append(model.entries, entries...)
}

func (m *machine) appendRefused(t *rapid.T) {
	s, model, r := m.pick(t)
	entries := run(r.shard, 5, 99, 1, 1)
	entries[1].Index += rapid.Uint64Range(1, 3).Draw(t, "hole")
	if err := s.StoreLogs(entries); err == nil {
		t.Fatal("a hole inside one call: got no error")
	}
	if err := s.StoreLog(&raft.Log{}); err == nil {
		t.Fatal("index 0: got no error")
	}
	if first, _ := model.bounds(); first > 1 {
		if err := s.StoreLog(entryOf(r.shard, first-1, 99, 1)); err == nil {
			t.Fatal("below the first index: got no error")
		}
	}
}

func (m *machine) cut(t *rapid.T) {
	s, model, _ := m.pick(t)
	first, last := model.bounds()
	if last == 0 {
		return
	}
	at := rapid.Uint64Range(first, last).Draw(t, "at")
	if err := s.DeleteRange(at, last+rapid.Uint64Range(0, 2).Draw(t, "beyond")); err != nil {
		t.Fatal(err)
	}
	model.keep(0, at)
}

func (m *machine) trim(t *rapid.T) {
	s, model, _ := m.pick(t)
	first, last := model.bounds()
	if last == 0 {
		return
	}
	to := rapid.Uint64Range(first, last+1).Draw(t, "to")
	if to > last {
		to = math.MaxUint64
	}
	if err := s.DeleteRange(first-min(first, rapid.Uint64Range(0, 2).Draw(t, "before")), to); err != nil {
		t.Fatal(err)
	}
	if to == math.MaxUint64 {
		model.entries = nil
		return
	}
	model.keep(to+1, math.MaxUint64)
}

func (m *machine) deleteNothingOrTheMiddle(t *rapid.T) {
	s, model, _ := m.pick(t)
	first, last := model.bounds()
	commits := m.log.Stats().Commits
	if err := s.DeleteRange(last+1, last+5); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteRange(5, 4); err != nil {
		t.Fatal(err)
	}
	if last >= first+2 {
		if err := s.DeleteRange(first+1, last-1); err == nil {
			t.Fatal("the middle: got no error")
		}
	}
	if got := m.log.Stats().Commits; got != commits {
		t.Fatalf("deleting nothing: got %d commits, want 0", got-commits)
	}
}

func (m *machine) reopen(t *rapid.T) {
	if err := m.log.Close(); err != nil {
		t.Fatal(err)
	}
	if m.mem != nil {
		m.mem.restart()
	}
	m.log = m.open()
}

// drop ends the stay of a shard, and what is left of it takes no more calls.
func (m *machine) drop(t *rapid.T) {
	s, _, r := m.pick(t)
	if err := s.Drop(); err != nil {
		t.Fatal(err)
	}
	m.models[r.shard] = &modelLog{}
	wantDropped(t, s)
	if next := m.log.Shard(r.shard); next.replica.generation != r.generation+1 {
		t.Fatalf("shard %d: got generation %d after a drop of %d, want the next", r.shard, next.replica.generation, r.generation)
	}
}

// reclaim gives back what it promises, carries no more than it may, and wherever
// a crash interrupts it a journal is left that has the same logs.
func (m *machine) reclaim(t *rapid.T) {
	before, size := m.log.Stats(), m.log.Size()
	if m.mem != nil {
		m.mem.watch(1)
	}
	freed, err := m.log.Reclaim()
	if err != nil {
		t.Fatal(err)
	}
	if m.mem != nil {
		m.mem.check(t)
	}
	after, left := m.log.Stats(), m.log.Size()
	if most := max(m.log.limit/2, left.Live+left.Live/4) + markBytes; left.Journal > most || left.Live != size.Live {
		t.Fatalf("got %+v left of %+v, want the same live and at most %d", left, size, most)
	}
	carried := int64(after.Carried - before.Carried)
	if carried > size.Live || freed != int64(after.Reclaimed-before.Reclaimed)-carried {
		t.Fatalf("carried %d bytes and freed %d, want at most the %d live, and the %d deleted less those carried",
			carried, freed, size.Live, after.Reclaimed-before.Reclaimed)
	}
}

func (m *machine) check(t *rapid.T) {
	live, shards := int64(0), []uint32(nil)
	for shard := uint32(1); shard <= 3; shard++ {
		model := m.models[shard]
		if model == nil {
			continue
		}
		s := m.log.Shard(shard)
		want(t, s, model.entries)
		for _, e := range model.entries {
			live += int64(entryBytes(e))
		}
		if len(model.entries) > 0 {
			shards = append(shards, shard)
		}
		checkFit(t, s, model.entries)
	}
	if got := m.log.Size().Live; got != live {
		t.Fatalf("live bytes: got %d, want %d", got, live)
	}
	if m.mem != nil {
		if got, want := m.log.Size().Journal, m.mem.bytes(); got != want {
			t.Fatalf("journal bytes: got %d, want %d", got, want)
		}
	}
	listed := m.log.Shards()
	for _, shard := range shards {
		if !slices.Contains(listed, shard) {
			t.Fatalf("shards: got %v, want %d in it, which has entries", listed, shard)
		}
	}
}

// checkFit fails unless TrailingFit counts the last entries that fit, for sizes
// at which that is decided by one byte.
func checkFit(t *rapid.T, s *Shard, entries []*raft.Log) {
	bytes := int64(0)
	for n := range entries {
		if n == 5 {
			return
		}
		bytes += int64(entryBytes(entries[len(entries)-1-n]))
		if got := s.TrailingFit(bytes - 1); got != uint64(n) {
			t.Fatalf("%+v: in %d bytes fit %d entries, want %d", s.replica, bytes-1, got, n)
		}
		if got := s.TrailingFit(bytes); got != uint64(n)+1 {
			t.Fatalf("%+v: in %d bytes fit %d entries, want %d", s.replica, bytes, got, n+1)
		}
	}
}

// wantDropped fails unless every call on s says that it was dropped.
func wantDropped(t failer, s *Shard) {
	t.Helper()
	_, firstErr := s.FirstIndex()
	_, lastErr := s.LastIndex()
	for i, err := range []error{
		firstErr, lastErr, s.GetLog(1, &raft.Log{}), s.StoreLog(entryOf(s.replica.shard, 1, 1, 1)), s.DeleteRange(1, 1), s.Drop(),
	} {
		if err != ErrDropped { // unwrapped
			t.Fatalf("%+v: call %d: got %v, want ErrDropped", s.replica, i, err)
		}
	}
	if n := s.TrailingFit(math.MaxInt64); n != 0 {
		t.Fatalf("%+v: %d entries fit, want 0", s.replica, n)
	}
}

// A Shard behaves as a plain list of entries, across reopening and Reclaim.
func TestModel(t *testing.T) {
	t.Parallel()
	// Weights: the stores share all but a few lines with memory, and sync.
	stores := []string{"memory", "memory", "memory", "memory", "memory", "memory", "memory", "memory", StoreWAL, StoreBolt}
	rapid.Check(t, func(rt *rapid.T) {
		// 100 KiB cache a few records only, so that reads miss.
		cfg := Config{CacheBytes: 100 << 10, Fatal: noFatal(t)}
		m := &machine{models: make(map[uint32]*modelLog)}
		if store := rapid.SampledFrom(stores).Draw(rt, "store"); store == "memory" {
			m.mem = newCrashJournal()
			m.open = func() *Log { return startTiny(t, cfg, m.mem) }
		} else {
			cfg.Store, cfg.Dir = store, t.TempDir()
			m.open = func() *Log { return openTiny(t, cfg) }
		}
		m.log = m.open()
		defer func() { mustClose(t, m.log) }()
		rt.Repeat(map[string]func(*rapid.T){
			"append": m.append, "append more": m.append, "append beyond a gap": m.appendBeyondGap,
			"append over": m.appendOver, "append refused": m.appendRefused, "cut": m.cut, "trim": m.trim,
			"delete nothing": m.deleteNothingOrTheMiddle, "drop": m.drop, "reclaim": m.reclaim,
			"reopen": m.reopen, "": m.check,
		})
		m.reopen(rt)
		m.check(rt)
	})
}

package raftlog

import (
	"math"
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
	models map[replica]*modelLog
	term   uint64
}

func (m *machine) pick(t *rapid.T) (*Shard, *modelLog, replica) {
	r := replica{
		shard:      rapid.Uint32Range(1, 2).Draw(t, "shard"),
		generation: rapid.Uint64Range(1, 2).Draw(t, "generation"),
	}
	if m.models[r] == nil {
		m.models[r] = &modelLog{}
	}
	return m.log.Shard(r.shard, r.generation), m.models[r], r
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
	m.log = m.open()
}

func (m *machine) check(t *rapid.T) {
	for r, model := range m.models {
		want(t, m.log.Shard(r.shard, r.generation), model.entries)
	}
}

// A Shard behaves as a plain list of entries, across reopening.
func TestModel(t *testing.T) {
	t.Parallel()
	// Weights: the stores share all but a few lines with memory, and sync.
	stores := []string{"memory", "memory", "memory", "memory", "memory", "memory", "memory", "memory", StoreWAL, StoreBolt}
	rapid.Check(t, func(rt *rapid.T) {
		// 100 KiB cache a few records only, so that reads miss.
		cfg := Config{CacheBytes: 100 << 10, Fatal: noFatal(t)}
		m := &machine{models: make(map[replica]*modelLog)}
		if store := rapid.SampledFrom(stores).Draw(rt, "store"); store == "memory" {
			j := newMemJournal()
			m.open = func() *Log { return startTest(t, cfg, j) }
		} else {
			cfg.Store, cfg.Dir = store, t.TempDir()
			m.open = func() *Log { return mustOpenSmall(t, cfg) }
		}
		m.log = m.open()
		defer func() { mustClose(t, m.log) }()
		rt.Repeat(map[string]func(*rapid.T){
			"append": m.append, "append more": m.append, "append beyond a gap": m.appendBeyondGap,
			"append over": m.appendOver, "append refused": m.appendRefused, "cut": m.cut, "trim": m.trim,
			"delete nothing": m.deleteNothingOrTheMiddle, "reopen": m.reopen, "": m.check,
		})
		m.reopen(rt)
		m.check(rt)
	})
}

package raftlog

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
)

func TestMissingRecord(t *testing.T) {
	for name, c := range map[string]struct {
		from, to uint64
		want     string
	}{
		"middle": {2, 2, "record 2"},
		"start":  {1, 1, "starts at record 2, want at most 1"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := Config{Dir: t.TempDir(), Store: StoreBolt}
			l := mustOpenSmall(t, cfg)
			for _, e := range run(1, 1, 1, 10, 10, 10) {
				mustStore(t, l.Shard(1), []*raft.Log{e})
			}
			mustClose(t, l)
			b, err := raftboltdb.NewBoltStore(filepath.Join(cfg.Dir, journalDir, journalBolt))
			if err != nil {
				t.Fatal(err)
			}
			if err := b.DeleteRange(c.from, c.to); err != nil {
				t.Fatal(err)
			}
			mustClose(t, b)
			if _, err := openSmall(cfg); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
		})
	}
}

// Only what Reclaim gave back may be missing.
func TestMissingRecordAfterReclaim(t *testing.T) {
	cfg := Config{Dir: t.TempDir(), Store: StoreBolt, Fatal: noFatal(t)}
	l := mustOpenSmall(t, cfg)
	s := l.Shard(1)
	for _, e := range run(1, 1, 1, 1000, 1000, 1000, 1000) {
		mustStore(t, s, []*raft.Log{e})
	}
	if err := s.DeleteRange(1, 2); err != nil {
		t.Fatal(err)
	}
	if freed, err := l.Reclaim(); err != nil || freed < 2000 {
		t.Fatalf("reclaim: freed %d, %v, want 2000 or more", freed, err)
	}
	first, err := l.journal.FirstIndex()
	if err != nil || first != 3 {
		t.Fatalf("the journal starts at record %d, %v, want 3", first, err)
	}
	if err := l.journal.DeleteRange(first, first); err != nil {
		t.Fatal(err)
	}
	mustClose(t, l)
	if _, err := openSmall(cfg); err == nil || !strings.Contains(err.Error(), "starts at record 4, want at most 3") {
		t.Errorf("got %v, want an error about record 3", err)
	}
}

// A frame that no append can have written is damage even if its checksum fits.
func TestImpossibleFrame(t *testing.T) {
	j := newMemJournal()
	record := appendEntry(nil, replica{1, 1}, entryOf(1, 5, 1, 10))
	record = appendEntry(record, replica{1, 1}, entryOf(1, 4, 1, 10))
	if err := j.StoreLog(&raft.Log{Index: 1, Data: record}); err != nil {
		t.Fatal(err)
	}
	cfg, err := Config{Dir: "unused"}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := start(newLog(cfg, j), cfg); err == nil || !strings.Contains(err.Error(), "record 1: offset 68: shard 1 generation 1: got an entry at index 4, want 5 (the first index) to 6") {
		t.Errorf("got %v, want an error about index 4", err)
	}
}

func TestOtherKindOfJournal(t *testing.T) {
	for _, stores := range [][2]string{{StoreWAL, StoreBolt}, {StoreBolt, StoreWAL}} {
		dir := t.TempDir()
		mustClose(t, mustOpenSmall(t, Config{Dir: dir, Store: stores[0]}))
		if _, err := openSmall(Config{Dir: dir, Store: stores[1]}); err == nil || !strings.Contains(err.Error(), "other kind") {
			t.Errorf("%s, then %s: got %v, want an error", stores[0], stores[1], err)
		}
	}
}

// Close gives every file back: raft-wal v0.4.0 kept its metadata locked.
func TestCloseReleasesFiles(t *testing.T) {
	count := func() int {
		open, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Skip("no /proc/self/fd to count in")
		}
		n := 0
		for _, fd := range open {
			if target, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && strings.Contains(target, t.Name()) {
				n++
			}
		}
		return n
	}
	for _, store := range []string{StoreWAL, StoreBolt} {
		cfg := Config{Dir: t.TempDir(), Store: store}
		for i := uint64(0); i < 2; i++ {
			l, err := Open(cfg)
			if err != nil {
				t.Fatal(err)
			}
			mustStore(t, l.Shard(1), run(1, i+1, 1, 100))
			if count() == 0 {
				t.Fatalf("%s: no open file found, the test is blind", store)
			}
			mustClose(t, l)
			mustClose(t, l)
			if n := count(); n != 0 {
				t.Errorf("%s: %d files open after Close, want 0", store, n)
			}
		}
	}
}

// rebuildOf is what a log says of a journal that begins at record first and has
// these.
func rebuildOf(first uint64, records ...[]byte) (*Log, error) {
	cfg, err := Config{Dir: "unused"}.withDefaults()
	if err != nil {
		return nil, err
	}
	m := make(memRecords)
	for i, record := range records {
		m[first+uint64(i)] = record
	}
	l := newLog(cfg, readOnly{m})
	return l, l.rebuild()
}

// A journal says in itself how much of its beginning may be missing, and each
// frame must fit those before it unless these are missing.
func TestRebuild(t *testing.T) {
	entry := func(index uint64) []byte { return appendEntry(nil, replica{1, 2}, entryOf(1, index, 1, 10)) }
	carry := func(index uint64) []byte { return appendCarry(nil, entry(index)) }
	mark := func(kind byte, index uint64) []byte { return appendMark(nil, kind, replica{1, 2}, index) }
	head := func(index uint64) []byte { return appendMark(nil, kindHead, replica{}, index) }
	older := appendEntry(nil, replica{1, 1}, entryOf(1, 9, 1, 10))
	for name, c := range map[string]struct {
		first      uint64
		records    [][]byte
		from, to   uint64 // the entries found
		err        string
		generation uint64 // 0 = 2
	}{
		"whole":                      {first: 1, records: [][]byte{entry(5), entry(6)}, from: 5, to: 6},
		"whole, beyond a gap":        {first: 1, records: [][]byte{entry(5), entry(7)}, err: "got an entry at index 7, want 5 (the first index) to 6"},
		"whole, gap with its trim":   {first: 1, records: [][]byte{entry(5), mark(kindTrim, 7), entry(7)}, from: 7, to: 7},
		"whole, below":               {first: 1, records: [][]byte{entry(5), entry(4)}, err: "got an entry at index 4, want 5 (the first index) to 6"},
		"whole, carried":             {first: 1, records: [][]byte{entry(5), entry(6), carry(5)}, from: 5, to: 6},
		"whole, carried from where":  {first: 1, records: [][]byte{entry(5), carry(6)}, err: "got a carried entry at index 6, want 5 to 5"},
		"whole, with heads":          {first: 1, records: [][]byte{entry(5), head(1), head(2)}, from: 5, to: 5},
		"head at itself":             {first: 1, records: [][]byte{entry(5), head(2)}, err: "got a head at record 2, want one before this"},
		"beginning missing":          {first: 4, records: [][]byte{entry(5), head(2)}, err: "the journal starts at record 4, want at most 3"},
		"beginning missing, no head": {first: 2, records: [][]byte{entry(5)}, err: "the journal starts at record 2, want at most 1"},
		"beginning deleted":          {first: 4, records: [][]byte{entry(5), head(3)}, from: 5, to: 5},
		"beginning deleted in part":  {first: 4, records: [][]byte{entry(5), entry(6), entry(7), head(6)}, from: 5, to: 7},
		"carried late, in any order": {first: 4, records: [][]byte{entry(8), carry(5), carry(7), carry(6), entry(9), head(3)}, from: 5, to: 9},
		"carried in two Reclaims":    {first: 4, records: [][]byte{carry(1), carry(2), entry(6), carry(3), carry(4), carry(5), entry(7), head(3)}, from: 1, to: 7},
		"cut of what went":           {first: 4, records: [][]byte{mark(kindCut, 4), carry(2), carry(3), head(3)}, from: 2, to: 3},
		"cut through stretches":      {first: 4, records: [][]byte{entry(8), carry(4), mark(kindCut, 5), carry(3), head(3)}, from: 3, to: 4},
		"over what went":             {first: 4, records: [][]byte{entry(8), entry(6), carry(5), head(3)}, from: 5, to: 6},
		"below all that is left":     {first: 4, records: [][]byte{entry(8), entry(9), entry(3), head(3)}, from: 3, to: 3},
		"trim of what went":          {first: 4, records: [][]byte{mark(kindTrim, 5), entry(8), carry(5), carry(6), carry(7), head(3)}, from: 5, to: 8},
		"trim through stretches":     {first: 4, records: [][]byte{entry(8), carry(3), mark(kindTrim, 7), carry(7), head(3)}, from: 7, to: 8},
		"a hole":                     {first: 4, records: [][]byte{entry(8), carry(6), head(3)}, err: "shard 1 generation 2: got the entry at index 8 after the one at 6, want 7"},
		"dropped":                    {first: 4, records: [][]byte{entry(8), mark(kindDrop, 0), head(3)}, generation: 3},
		"dropped, all that is left":  {first: 4, records: [][]byte{mark(kindDrop, 0), head(3)}, generation: 3},
		"older, then newer":          {first: 1, records: [][]byte{older, entry(5)}, from: 5, to: 5},
		"newer, then older":          {first: 1, records: [][]byte{entry(5), older}, err: "got a frame of this generation, want 2, as it was dropped"},
		"after its drop":             {first: 1, records: [][]byte{entry(5), mark(kindDrop, 0), entry(6)}, err: "got a frame of this generation, want 3"},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := rebuildOf(c.first, c.records...)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("got %v, want an error with %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			s := l.Shard(1)
			if want := max(c.generation, 2); s.replica.generation != want {
				t.Errorf("got generation %d, want %d", s.replica.generation, want)
			}
			if from, to := s.positions.bounds(); from != c.from || to != c.to {
				t.Fatalf("got entries %d to %d, want %d to %d", from, to, c.from, c.to)
			}
			live := int64(0)
			for index := c.from; index <= c.to && index != 0; index++ {
				want := entryOf(1, index, 1, 10)
				live += int64(entryBytes(want))
				if e := readBack(t, s, index); !sameEntry(&e, want) {
					t.Errorf("index %d: got another entry", index)
				}
			}
			if got := l.Size().Live; got != live {
				t.Errorf("live bytes: got %d, want %d", got, live)
			}
		})
	}
}

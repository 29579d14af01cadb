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
		"start":  {1, 1, "starts at record 2, want 1"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := Config{Dir: t.TempDir(), Store: StoreBolt}
			l := mustOpenSmall(t, cfg)
			for _, e := range run(1, 1, 1, 10, 10, 10) {
				mustStore(t, l.Shard(1, 1), []*raft.Log{e})
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
	if _, err := start(cfg, j); err == nil || !strings.Contains(err.Error(), "record 1: offset 68: shard 1 generation 1: got an entry at index 4, want 5") {
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
			mustStore(t, l.Shard(1, 1), run(1, i+1, 1, 100))
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

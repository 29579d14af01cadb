package raftlog

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
)

// files returns the content of every file below dir by name.
func files(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	content := make(map[string][]byte)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content[path], err = os.ReadFile(path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// wantRead fails unless Read shows these entries and leaves every file as it is.
func wantRead(t *testing.T, cfg Config, owners []replica, entries []*raft.Log) {
	t.Helper()
	before := files(t, cfg.Dir)
	n := 0
	err := Read(cfg, func(shard uint32, generation uint64, e *raft.Log) error {
		if n >= len(entries) {
			t.Fatalf("got a shard %d index %d, want %d entries", shard, e.Index, len(entries))
		}
		if got := (replica{shard, generation}); got != owners[n] || !sameEntry(e, entries[n]) {
			t.Fatalf("entry %d: got index %d of %+v, want index %d of %+v", n, e.Index, got, entries[n].Index, owners[n])
		}
		n++
		return nil
	})
	if err != nil || n != len(entries) {
		t.Fatalf("got %d entries, %v, want %d", n, err, len(entries))
	}
	after := files(t, cfg.Dir)
	if len(after) != len(before) {
		t.Fatalf("got %d files after reading, want %d", len(after), len(before))
	}
	for path, content := range before {
		if !bytes.Equal(after[path], content) {
			t.Fatalf("reading changed %s", path)
		}
	}
}

// Read shows what Open would, shard by shard, also of a journal in many files
// without its beginning.
func TestRead(t *testing.T) {
	for _, store := range []string{StoreWAL, StoreBolt} {
		t.Run(store, func(t *testing.T) {
			cfg := Config{Dir: t.TempDir(), Store: store, Fatal: noFatal(t)}
			l := openTiny(t, cfg)
			wantRead := func(owners []replica, entries []*raft.Log) {
				t.Helper()
				mustClose(t, l)
				wantRead(t, cfg, owners, entries)
				l = openTiny(t, cfg)
			}
			wantRead(nil, nil)
			var two, three []*raft.Log
			mustStore(t, l.Shard(1), run(1, 1, 1, 10))
			if err := l.Shard(1).Drop(); err != nil {
				t.Fatal(err)
			}
			for i := range uint64(10) {
				more := run(2, 2*i+1, 1, 300, 40<<10)
				mustStore(t, l.Shard(2), more)
				two = append(two, more...)
				other := run(3, i+7, i, 10)
				mustStore(t, l.Shard(3), other)
				three = append(three, other...)
			}
			all := append(append([]*raft.Log(nil), two...), three...)
			owners := make([]replica, len(all))
			for i := range all {
				owners[i] = replica{2, 1}
				if i >= len(two) {
					owners[i] = replica{3, 1}
				}
			}
			wantRead(owners, all)
			if err := l.Shard(2).DeleteRange(1, 17); err != nil {
				t.Fatal(err)
			}
			if freed, err := l.Reclaim(); err != nil || freed < 300<<10 {
				t.Fatalf("reclaim: freed %d, %v, want 300 KiB or more", freed, err)
			}
			mustStore(t, l.Shard(1), run(1, 5, 5, 0))
			again := append(append(run(1, 5, 5, 0), two[17:]...), three...)
			owners = append([]replica{{1, l.Shard(1).replica.generation}}, owners[17:]...)
			wantRead(owners, again)
			mustClose(t, l)

			err := Read(cfg, func(uint32, uint64, *raft.Log) error { return errDisk })
			if !errors.Is(err, errDisk) {
				t.Errorf("got %v, want the error of visit", err)
			}
		})
	}
}

// What an unfinished append left is not read, and not mended either.
func TestReadStopsAtGarbage(t *testing.T) {
	s := save(t, 200, 200, smallSegment)
	at := s.recordAt(t)
	owners := []replica{{1, 1}, {1, 1}, {1, 1}}
	for name, c := range map[string]struct {
		change  func(b []byte) []byte
		entries int
	}{
		"none":              {func(b []byte) []byte { return b }, 3}, // sealed, but not yet replaced
		"torn":              {func(b []byte) []byte { clear(b[at[2]+100:]); return b }, 2},
		"later record":      {func(b []byte) []byte { b[at[1]] ^= 0x40; return b }, 1}, // Open refuses
		"garbage behind":    {func(b []byte) []byte { return append(b, "garbage!"...) }, 3},
		"nothing but zeros": {func(b []byte) []byte { clear(b); return b }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			wantRead(t, s.damaged(t, c.change(bytes.Clone(s.content))), owners[:c.entries], s.entries[:c.entries])
		})
	}
}

func TestReadRefuses(t *testing.T) {
	for _, store := range []string{StoreWAL, StoreBolt} {
		dir := t.TempDir()
		visit := func(uint32, uint64, *raft.Log) error { return errDisk }
		if err := Read(Config{Dir: dir, Store: store}, visit); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: no journal: got %v, want an error", store, err)
		}
		if found := files(t, dir); len(found) != 0 {
			t.Errorf("%s: no journal: reading made %d files", store, len(found))
		}
		other := StoreWAL
		if store == StoreWAL {
			other = StoreBolt
		}
		mustClose(t, mustOpenSmall(t, Config{Dir: dir, Store: other}))
		if err := Read(Config{Dir: dir, Store: store}, visit); err == nil || !strings.Contains(err.Error(), "other kind") {
			t.Errorf("%s: the other kind of journal: got %v, want an error", store, err)
		}
	}
	if err := Read(Config{}, nil); err == nil {
		t.Error("no directory: got no error")
	}
	if err := (readOnly{}).DeleteRange(1, 1); err != errReadOnly { // unwrapped
		t.Errorf("delete: got %v, want errReadOnly", err)
	}
}

// A damaged frame is an error, and so is a segment that is not there.
func TestReadDamage(t *testing.T) {
	s := save(t, 40, 50, 60)
	at := s.recordAt(t)
	content := bytes.Clone(s.content)
	content[at[1]+80] ^= 1
	visit := func(uint32, uint64, *raft.Log) error { return nil }
	if err := Read(s.damaged(t, content), visit); err == nil || !strings.Contains(err.Error(), "record 2: offset 0: frame of shard 1: got checksum") {
		t.Errorf("a flipped bit: got %v, want an error", err)
	}
	cfg := Config{Dir: t.TempDir(), Fatal: noFatal(t)}
	l := mustOpenSmall(t, cfg)
	for _, e := range run(1, 1, 1, smallSegment, smallSegment, 10) {
		mustStore(t, l.Shard(1), []*raft.Log{e})
	}
	mustClose(t, l)
	path, _ := firstSegment(t, filepath.Join(cfg.Dir, journalDir))
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := Read(cfg, visit); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing segment: got %v, want an error", err)
	}
}

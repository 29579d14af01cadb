package raftlog

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/metadb"
	"github.com/hashicorp/raft-wal/segment"
)

// The frames of a raft-wal segment are parsed by us too, so its layout is
// pinned here: a version that changes it must not pass unnoticed.
func TestSegmentLayout(t *testing.T) {
	dir := t.TempDir()
	w, err := wal.Open(dir, wal.WithSegmentSize(smallSegment), wal.WithLogger(quiet(testLogger())))
	if err != nil {
		t.Fatal(err)
	}
	record := unhex(t, golden[2].bytes)
	for seq := uint64(1); seq <= 2; seq++ {
		if err := w.StoreLog(&raft.Log{Index: seq, Data: record}); err != nil {
			t.Fatal(err)
		}
	}
	mustClose(t, w)
	_, content := firstSegment(t, dir)
	// index, term, type, length; the time (15 bytes, none) follows the data.
	payload := append([]byte{2, 0, 0, byte(len(record))}, record...)
	at := int64(walHeaderBytes + 2*walFrameBytes + 64)
	head := content[at : at+walFrameBytes]
	if head[0] != segment.FrameEntry || binary.LittleEndian.Uint32(head[4:]) != uint32(len(payload)+16) {
		t.Fatalf("frame at %d: got %x, want an entry of %d bytes", at, head, len(payload)+16)
	}
	if got := content[at+walFrameBytes:][:len(payload)]; !bytes.Equal(got, payload) {
		t.Fatalf("record: got %x, want %x", got, payload)
	}
	got, err := lastCommit(bytes.NewReader(content))
	if err != nil || got.at != at+walFrameBytes+64 || got.records != 2 || got.index != 0 {
		t.Errorf("last commit: got %+v, %v, want 2 records at %d", got, err, at+walFrameBytes+64)
	}
	seq, data, ok := walRecord(payload)
	if !ok || seq != 2 || !bytes.Equal(data, record) {
		t.Errorf("walRecord: got %d, %x, %v, want 2, %x", seq, data, ok, record)
	}
}

// firstSegment returns path and content of the oldest segment in dir.
func firstSegment(t testing.TB, dir string) (string, []byte) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*.wal"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("segments: got %v, %v, want one or more", paths, err)
	}
	content, err := os.ReadFile(paths[0])
	if err != nil {
		t.Fatal(err)
	}
	return paths[0], content
}

// saved are the files of a killed process, which a test damages over and over.
type saved struct {
	dir     string
	path    string // its only segment
	content []byte
	entries []*raft.Log // one per record
}

// save writes one record per size; only the last may seal the segment. What
// raft-wal did in the background after the last one is undone: a process that is
// killed may or may not get to it.
func save(t testing.TB, sizes ...int) saved {
	t.Helper()
	s := saved{dir: t.TempDir(), entries: run(1, 1, 1, sizes...)}
	l := mustOpenSmall(t, Config{Dir: s.dir})
	metaPath := filepath.Join(s.dir, journalDir, metadb.FileName)
	var meta []byte
	for _, e := range s.entries {
		var err error
		if meta, err = os.ReadFile(metaPath); err != nil {
			t.Fatal(err)
		}
		mustStore(t, l.Shard(1), []*raft.Log{e})
	}
	mustClose(t, l)
	if err := os.WriteFile(metaPath, meta, 0o644); err != nil {
		t.Fatal(err)
	}
	s.path, s.content = firstSegment(t, filepath.Join(s.dir, journalDir))
	paths, err := filepath.Glob(filepath.Join(s.dir, journalDir, "*.wal"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths[1:] {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// damaged returns a copy of the directory with another content of the segment.
func (s saved) damaged(t testing.TB, content []byte) Config {
	t.Helper()
	cfg := Config{Dir: t.TempDir(), Fatal: noFatal(t)}
	if err := os.CopyFS(cfg.Dir, os.DirFS(s.dir)); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(cfg.Dir, journalDir, filepath.Base(s.path))
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
	return cfg
}

// recordAt returns where in the segment each record starts.
func (s saved) recordAt(t testing.TB) []int {
	t.Helper()
	var at []int
	for i := walHeaderBytes; len(at) < len(s.entries) && i < len(s.content); i += walFrameBytes {
		if s.content[i] == segment.FrameEntry {
			at = append(at, i)
			i += int(binary.LittleEndian.Uint32(s.content[i+4:])+7) &^ 7
		}
	}
	if len(at) != len(s.entries) {
		t.Fatalf("found %d records, want %d", len(at), len(s.entries))
	}
	return at
}

// raft-wal v0.4.2 refuses every append after a process ended between sealing a
// segment and starting the next. Close right after the sealing append is that.
func TestReopenAfterSeal(t *testing.T) {
	cfg := Config{Dir: t.TempDir()}
	var entries []*raft.Log
	for i := uint64(1); i <= 12; i++ {
		l := mustOpenSmall(t, cfg)
		s := l.Shard(1)
		want(t, s, entries)
		for _, e := range []*raft.Log{entryOf(1, 2*i-1, 1, 100), entryOf(1, 2*i, 1, smallSegment)} {
			mustStore(t, s, []*raft.Log{e})
			entries = append(entries, e)
		}
		mustClose(t, l)
	}
}

// Wherever an append was torn, the log opens with everything before it, takes
// new entries in its place, and opens again.
func TestTornAppend(t *testing.T) {
	for name, sizes := range map[string][]int{
		"first":  {200},
		"middle": {200, 200, 200},
		"seal":   {200, 200, smallSegment},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := save(t, sizes...)
			n := len(sizes)
			start := s.recordAt(t)[n-1]
			used := len(bytes.TrimRight(s.content, "\x00"))
			step := max((used-start)/20/8*8, 8) + 1 // odd: cuts inside headers too
			for cut := start; cut < used; cut += step {
				content := append(bytes.Clone(s.content[:cut]), make([]byte, len(s.content)-cut)...)
				cfg := s.damaged(t, content)
				l := mustOpenSmall(t, cfg)
				want(t, l.Shard(1), s.entries[:n-1])
				// Shorter than what was torn: its rest must not come to life.
				again := append(append([]*raft.Log(nil), s.entries[:n-1]...), run(1, uint64(n), 2, 8, 8)...)
				mustStore(t, l.Shard(1), again[n-1:n])
				mustStore(t, l.Shard(1), again[n:])
				mustClose(t, l)
				l = mustOpenSmall(t, cfg)
				want(t, l.Shard(1), again)
				mustClose(t, l)
			}
			cfg := s.damaged(t, s.content) // not torn at all
			l := mustOpenSmall(t, cfg)
			want(t, l.Shard(1), s.entries)
			mustStore(t, l.Shard(1), run(1, uint64(n+1), 1, 8))
			mustClose(t, l)
		})
	}
}

// A torn append may leave its later pages and lose earlier ones: even its commit
// may be there, and the index of a seal. It is still one append, and not done.
func TestTornAppendWithItsEnd(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		size     int
		from, to int // what was lost, from the start of the record
	}{
		"head lost":           {20000, 0, 8192},
		"middle lost":         {20000, 4096, 8192},
		"head of seal lost":   {smallSegment, 0, 8192},
		"middle of seal lost": {smallSegment, 4096, 8192},
	} {
		t.Run(name, func(t *testing.T) {
			s := save(t, 200, c.size)
			start := s.recordAt(t)[1]
			content := bytes.Clone(s.content)
			clear(content[start+c.from : start+c.to])
			cfg := s.damaged(t, content)
			again := append(s.entries[:1:1], run(1, 2, 2, 10, 10)...)
			for range 2 {
				l := mustOpenSmall(t, cfg)
				want(t, l.Shard(1), s.entries[:1])
				mustClose(t, l)
			}
			l := mustOpenSmall(t, cfg)
			mustStore(t, l.Shard(1), again[1:2])
			mustStore(t, l.Shard(1), again[2:])
			mustClose(t, l)
			l = mustOpenSmall(t, cfg)
			want(t, l.Shard(1), again)
			mustClose(t, l)
		})
	}
}

// One flipped bit anywhere: the log does not open, or nothing is missing; only
// the last record may go, since it cannot be told from a torn one.
func TestFlippedBit(t *testing.T) {
	t.Parallel()
	s := save(t, 40, 50, 60, 70, 80, 90)
	used := len(bytes.TrimRight(s.content, "\x00"))
	refused := 0
	for i := 0; i < used; i += 5 {
		content := bytes.Clone(s.content)
		content[i] ^= 1 << (i % 8)
		cfg := s.damaged(t, content)
		l, err := openSmall(cfg)
		if err != nil {
			refused++
			continue
		}
		kept := s.entries
		if last, err := l.Shard(1).LastIndex(); err == nil && last == uint64(len(kept)-1) {
			kept = kept[:last]
		}
		want(t, l.Shard(1), kept)
		mustClose(t, l)
	}
	if refused < used/5/2 {
		t.Errorf("refused %d of %d damaged logs, want at least half", refused, used/5)
	}
}

// The error says which record, where in it, whose, and what was expected.
func TestDamageIsNamed(t *testing.T) {
	s := save(t, 40, 50, 60, 70)
	at := s.recordAt(t)
	for name, c := range map[string]struct {
		change func(b []byte)
		want   []string
	}{
		"data":                       {func(b []byte) { b[at[1]+80] ^= 1 }, []string{"record 2: offset 0: frame of shard 1: got checksum", "want"}},
		"record header":              {func(b []byte) { b[at[1]] ^= 0x40 }, []string{"record 3 at offset", "behind a damaged part", "want record 2"}},
		"commit header":              {func(b []byte) { b[at[2]-8] ^= 0x40 }, []string{"record 3 at offset", "behind a damaged part", "want record 2"}},
		"record number":              {func(b []byte) { b[at[1]+8] = 9 }, []string{"record 2: got sequence number 9, want 2"}},
		"codec panic":                {func(b []byte) { copy(b[at[1]+8:], bytes.Repeat([]byte{0xff}, 12)) }, []string{"record 2: the journal cannot decode it"}},
		"garbage far behind the end": {func(b []byte) { b[len(b)-1] = 1 }, nil}, // within one append: dropped
	} {
		t.Run(name, func(t *testing.T) {
			content := bytes.Clone(s.content)
			c.change(content)
			l, err := openSmall(s.damaged(t, content))
			if len(c.want) == 0 {
				if err != nil {
					t.Fatal(err)
				}
				want(t, l.Shard(1), s.entries)
				mustClose(t, l)
				return
			}
			for _, part := range c.want {
				if err == nil || !strings.Contains(err.Error(), part) {
					t.Errorf("got %v, want an error with %q", err, part)
				}
			}
		})
	}
}

// More behind the end than one append writes is damage, whatever it is.
func TestTooMuchBehindTheEnd(t *testing.T) {
	s := save(t, 40)
	content := append(bytes.Clone(s.content), bytes.Repeat([]byte{7}, maxCommitBytes+1024)...)
	if _, err := openSmall(s.damaged(t, content)); err == nil || !strings.Contains(err.Error(), "from an unfinished append") {
		t.Errorf("got %v, want an error about the bytes behind the last commit", err)
	}
}

// After a Reclaim only the last segment is left, without its first records. It
// opens like any other, whatever a crash did to its end or left beside it.
func TestTailWithoutItsBeginning(t *testing.T) {
	dir := t.TempDir()
	l := mustOpenSmall(t, Config{Dir: dir, Fatal: noFatal(t)})
	s := l.Shard(1)
	for _, e := range run(1, 1, 1, smallSegment, smallSegment, 100, 200, 300) {
		mustStore(t, s, []*raft.Log{e})
	}
	if err := s.DeleteRange(1, 4); err != nil {
		t.Fatal(err)
	}
	old := files(t, dir)
	if _, err := l.Reclaim(); err != nil {
		t.Fatal(err)
	}
	mustStore(t, s, run(1, 6, 1, 400))
	first := l.first
	mustClose(t, l)
	entries := run(1, 5, 1, 300, 400)

	meta := &metadb.BoltMetaDB{}
	state, err := meta.Load(filepath.Join(dir, journalDir))
	if err != nil {
		t.Fatal(err)
	}
	mustClose(t, meta)
	if n := len(state.Segments); n != 1 || state.Segments[0].MinIndex != first || state.Segments[0].BaseIndex >= first {
		t.Fatalf("got %d segments, %+v, want one that begins before record %d", n, state.Segments, first)
	}
	path, content := firstSegment(t, filepath.Join(dir, journalDir))
	left := saved{dir: dir, path: path, content: content, entries: run(1, 3, 1, 0, 0, 0, 0, 0, 0, 0)}
	records := left.recordAt(t) // entries 3 to 5, the trim, entry 5 carried, the head, entry 6
	check := func(cfg Config, entries []*raft.Log) {
		t.Helper()
		for term := range uint64(3) {
			l := mustOpenSmall(t, cfg)
			want(t, l.Shard(1), entries)
			more := run(1, entries[0].Index+uint64(len(entries)), term, 8)
			mustStore(t, l.Shard(1), more)
			entries = append(entries[:len(entries):len(entries)], more...)
			mustClose(t, l)
		}
	}
	check(left.damaged(t, content), entries)

	torn := bytes.Clone(content)
	clear(torn[records[6]+50:])
	check(left.damaged(t, torn), entries[:1])

	lostHead := bytes.Clone(content)
	lostHead[records[5]] ^= 0x40
	if _, err := openSmall(left.damaged(t, lostHead)); err == nil || !strings.Contains(err.Error(), "behind a damaged part") {
		t.Errorf("a damaged record before the last: got %v, want an error", err)
	}

	// The metadata forgot the old segments, but their files are still there.
	cfg := left.damaged(t, content)
	for name, content := range old {
		back := filepath.Join(cfg.Dir, journalDir, filepath.Base(name))
		if filepath.Ext(name) == ".wal" && filepath.Base(name) != filepath.Base(path) {
			if err := os.WriteFile(back, content, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	check(cfg, entries)
	if paths, err := filepath.Glob(filepath.Join(cfg.Dir, journalDir, "*.wal")); err != nil || len(paths) != 1 {
		t.Errorf("segments: got %v, %v, want one", paths, err)
	}
}

// The unfinished part of a segment may hold any bytes.
func FuzzLaterRecord(f *testing.F) {
	s := save(f, 40, 50)
	at := s.recordAt(f)
	used := len(bytes.TrimRight(s.content, "\x00"))
	f.Add(s.content[:used], uint64(1))
	f.Add(s.content[at[0]:at[1]], uint64(0))
	f.Add(s.content[at[1]:used], uint64(2))
	f.Add([]byte{1, 0, 0, 0, 255, 255, 255, 255, 1}, uint64(0))
	f.Fuzz(func(t *testing.T, rest []byte, seq uint64) {
		found, at := laterRecord(rest, seq)
		if found != 0 && (found <= seq || at < 0 || at >= int64(len(rest))) {
			t.Fatalf("got record %d at %d, want one above %d within %d", found, at, seq, len(rest))
		}
		last, err := lastCommit(bytes.NewReader(rest))
		if err != nil || last.end() > int64(len(rest)) || last.records > uint64(len(rest)) {
			t.Fatalf("got %s, %v, want a commit within %d bytes", fmt.Sprintf("%+v", last), err, len(rest))
		}
	})
}

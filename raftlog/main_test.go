package raftlog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// smallSegment makes raft-wal rotate often.
const smallSegment = 64 << 10

// memJournal is a journal in memory that survives Close.
type memJournal struct{ *raft.InmemStore }

func newMemJournal() memJournal { return memJournal{raft.NewInmemStore()} }
func (memJournal) Close() error { return nil }

// StoreLog keeps a copy: the log writes its next record where this one is.
func (m memJournal) StoreLog(e *raft.Log) error {
	return m.InmemStore.StoreLog(&raft.Log{Index: e.Index, Data: bytes.Clone(e.Data)})
}

func testLogger() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }
func noFatal(t testing.TB) func(error) {
	return func(err error) { t.Errorf("Fatal: %v", err) }
}

// startTest starts a log on j that the test closes.
func startTest(t testing.TB, cfg Config, j journal) *Log {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = "unused"
	}
	if cfg.Fatal == nil {
		cfg.Fatal = noFatal(t)
	}
	cfg, err := cfg.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	l, err := start(newLog(cfg, j), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// openSmall opens a log with small segments.
func openSmall(cfg Config) (*Log, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	j, err := openJournal(cfg, smallSegment)
	if err != nil {
		return nil, err
	}
	return start(newLog(cfg, j), cfg)
}

func mustOpenSmall(t testing.TB, cfg Config) *Log {
	t.Helper()
	if cfg.Fatal == nil {
		cfg.Fatal = noFatal(t)
	}
	l, err := openSmall(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// tiny makes l reclaim as one with a journal of 40 KiB would, in commits of 100
// KiB, which is more than any entry of the tests has, two records at a time.
func tiny(l *Log) *Log {
	l.limit, l.commitBytes, l.deletePiece = 40<<10, 100<<10, 2
	return l
}

func startTiny(t testing.TB, cfg Config, j journal) *Log {
	t.Helper()
	cfg.Dir = "unused"
	cfg, err := cfg.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	l, err := start(tiny(newLog(cfg, j)), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func openTiny(t testing.TB, cfg Config) *Log {
	t.Helper()
	cfg, err := cfg.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	j, err := openJournal(cfg, smallSegment)
	if err != nil {
		t.Fatal(err)
	}
	return startTiny(t, cfg, j)
}

func mustClose(t testing.TB, c io.Closer) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

// entryOf makes an entry whose content follows from its arguments.
func entryOf(shard uint32, index, term uint64, size int) *raft.Log {
	var seed [32]byte
	binary.BigEndian.PutUint32(seed[:], shard)
	binary.BigEndian.PutUint64(seed[4:], index)
	binary.BigEndian.PutUint64(seed[12:], term)
	e := &raft.Log{Index: index, Term: term, Type: raft.LogType(index % 6)}
	if index%3 != 0 {
		e.AppendedAt = time.Unix(int64(index), int64(term))
		e.Extensions = binary.BigEndian.AppendUint64(nil, index^term)
	}
	if size > 0 {
		e.Data = make([]byte, size)
		rand.NewChaCha8(seed).Read(e.Data)
	}
	return e
}

func sameEntry(a, b *raft.Log) bool {
	return a.Index == b.Index && a.Term == b.Term && a.Type == b.Type && a.AppendedAt.Equal(b.AppendedAt) &&
		bytes.Equal(a.Data, b.Data) && bytes.Equal(a.Extensions, b.Extensions)
}

// failer is what testing.TB and rapid.T share.
type failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

// want fails unless s holds exactly these entries.
func want(t failer, s *Shard, entries []*raft.Log) {
	t.Helper()
	var first, last uint64
	if len(entries) > 0 {
		first, last = entries[0].Index, entries[len(entries)-1].Index
	}
	if got, err := s.FirstIndex(); err != nil || got != first {
		t.Fatalf("%+v: first index: got %d, %v, want %d", s.replica, got, err, first)
	}
	if got, err := s.LastIndex(); err != nil || got != last {
		t.Fatalf("%+v: last index: got %d, %v, want %d", s.replica, got, err, last)
	}
	for _, e := range entries {
		var got raft.Log
		if err := s.GetLog(e.Index, &got); err != nil {
			t.Fatalf("%+v: index %d: %v", s.replica, e.Index, err)
		}
		if !sameEntry(&got, e) {
			t.Fatalf("%+v: index %d: got %d bytes of term %d, want %d of term %d, or other content",
				s.replica, e.Index, len(got.Data), got.Term, len(e.Data), e.Term)
		}
	}
	for _, beyond := range []uint64{0, first - 1, last + 1} {
		if beyond >= first && beyond <= last && first != 0 {
			continue
		}
		if err := s.GetLog(beyond, &raft.Log{}); err != raft.ErrLogNotFound { // raft compares so
			t.Fatalf("%+v: index %d: got %v, want ErrLogNotFound itself", s.replica, beyond, err)
		}
	}
}

// run returns consecutive entries of a shard.
func run(shard uint32, first, term uint64, sizes ...int) []*raft.Log {
	var entries []*raft.Log
	for i, size := range sizes {
		entries = append(entries, entryOf(shard, first+uint64(i), term, size))
	}
	return entries
}

func mustStore(t testing.TB, s *Shard, entries []*raft.Log) {
	t.Helper()
	if err := s.StoreLogs(entries); err != nil {
		t.Fatal(err)
	}
}

var errDisk = errors.New("disk on fire")

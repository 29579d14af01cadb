package raftlog

import (
	"bytes"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"pgregory.net/rapid"
)

// memStable is a stable store in memory that survives Close.
type memStable struct {
	values map[string][]byte
	writes int
	write  func() error // nil lets every write through
}

func newMemStable() *memStable { return &memStable{values: make(map[string][]byte)} }

func (m *memStable) Set(key, value []byte) error {
	m.writes++
	if m.write != nil {
		if err := m.write(); err != nil {
			return err
		}
	}
	m.values[string(key)] = bytes.Clone(value)
	return nil
}

func (m *memStable) Get(key []byte) ([]byte, error) {
	value, ok := m.values[string(key)]
	if !ok {
		return nil, raftboltdb.ErrKeyNotFound
	}
	return bytes.Clone(value), nil
}

func (m *memStable) Close() error { return nil }

func mustVote(t failer, s *ShardVotes, term uint64, candidate string) {
	t.Helper()
	if err := s.SetUint64([]byte(keyLastVoteTerm), term); err != nil {
		t.Fatalf("%v", err)
	}
	if err := s.Set([]byte(keyLastVoteCand), []byte(candidate)); err != nil {
		t.Fatalf("%v", err)
	}
}

// wantVote fails unless the stored vote is this one.
func wantVote(t failer, s *ShardVotes, term uint64, candidate string) {
	t.Helper()
	got, err := s.GetUint64([]byte(keyLastVoteTerm))
	if err != nil || got != term {
		t.Fatalf("shard %d: vote term: got %d, %v, want %d", s.shard, got, err, term)
	}
	who, err := s.Get([]byte(keyLastVoteCand))
	if err != nil || string(who) != candidate {
		t.Fatalf("shard %d: candidate: got %q, %v, want %q", s.shard, who, err, candidate)
	}
}

// Golden values, made by another program from the layout in votes.go.
func TestGoldenVotes(t *testing.T) {
	m := newMemStable()
	v := startVotes(m, noFatal(t))
	defer mustClose(t, v)
	s := v.Shard(3)
	mustVote(t, s, 9, "node-2")
	if err := s.SetUint64([]byte(keyCurrentTerm), 9); err != nil {
		t.Fatal(err)
	}
	for key, value := range map[string]string{
		"0000000343757272656e745465726d": "d10f19720000000000000009",
		"00000003566f7465":               "673a2d1200000000000000096e6f64652d32",
	} {
		k := string(unhex(t, key))
		if got := m.values[k]; !bytes.Equal(got, unhex(t, value)) {
			t.Errorf("%q: got %x, want %s", k, got, value)
		}
	}
	if len(m.values) != 2 || m.writes != 2 {
		t.Errorf("got %d values after %d writes, want 2 after 2", len(m.values), m.writes)
	}
	wantVote(t, s, 9, "node-2")
}

// raft compares the text of the error.
func TestVotesNotFound(t *testing.T) {
	v, err := OpenVotes(VotesConfig{Path: filepath.Join(t.TempDir(), "new", "votes.db"), Fatal: noFatal(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, v)
	s := v.Shard(1)
	for _, key := range []string{keyLastVoteTerm, keyLastVoteCand, keyCurrentTerm, "other"} {
		if _, err := s.GetUint64([]byte(key)); key != keyLastVoteCand && (err == nil || err.Error() != "not found") {
			t.Errorf("GetUint64 %s: got %v, want not found", key, err)
		}
		if _, err := s.Get([]byte(key)); key != keyLastVoteTerm && (err == nil || err.Error() != "not found") {
			t.Errorf("Get %s: got %v, want not found", key, err)
		}
	}
}

// Until its candidate comes a new term is nowhere to be read, and a crash in
// between leaves the old vote whole.
func TestVoteIsOneRecord(t *testing.T) {
	m := newMemStable()
	v := startVotes(m, noFatal(t))
	s := v.Shard(1)
	mustVote(t, s, 4, "a")
	if err := s.SetUint64([]byte(keyLastVoteTerm), 5); err != nil {
		t.Fatal(err)
	}
	wantVote(t, s, 4, "a")
	mustClose(t, v)
	v = startVotes(m, noFatal(t))
	defer mustClose(t, v)
	s = v.Shard(1)
	wantVote(t, s, 4, "a")
	if err := s.Set([]byte(keyLastVoteCand), []byte("b")); err == nil {
		t.Error("a candidate without a term: got no error")
	}
	wantVote(t, s, 4, "a")
	if m.writes != 1 {
		t.Errorf("got %d writes, want 1", m.writes)
	}
}

func TestEqualTermIsNotWritten(t *testing.T) {
	m := newMemStable()
	v := startVotes(m, noFatal(t))
	defer mustClose(t, v)
	for i, c := range []struct {
		term   uint64
		writes int
	}{{0, 1}, {0, 1}, {3, 2}, {3, 2}, {2, 3}, {3, 4}} {
		if err := v.Shard(1).SetUint64([]byte(keyCurrentTerm), c.term); err != nil {
			t.Fatal(err)
		}
		got, err := v.Shard(1).GetUint64([]byte(keyCurrentTerm))
		if err != nil || got != c.term || m.writes != c.writes {
			t.Errorf("step %d: got term %d, %v after %d writes, want %d after %d", i, got, err, m.writes, c.term, c.writes)
		}
	}
}

// Every damaged byte is an error, and none is written over in silence.
func TestDamagedVotes(t *testing.T) {
	m := newMemStable()
	v := startVotes(m, noFatal(t))
	defer mustClose(t, v)
	s := v.Shard(1)
	mustVote(t, s, 4, "a")
	term := []byte(keyCurrentTerm)
	if err := s.SetUint64(term, 4); err != nil {
		t.Fatal(err)
	}
	for key, value := range m.values {
		damaged := [][]byte{nil, value[:3], value[:len(value)-1]}
		for i := range value {
			flipped := bytes.Clone(value)
			flipped[i] ^= 0x10
			damaged = append(damaged, flipped)
		}
		for _, d := range damaged {
			m.values[key] = d
			_, errTerm := s.GetUint64([]byte(keyLastVoteTerm))
			_, errCandidate := s.Get([]byte(keyLastVoteCand))
			_, errCurrent := s.GetUint64(term)
			errs := []error{errTerm, errCandidate}
			if strings.HasSuffix(key, keyCurrentTerm) {
				errs = []error{errCurrent, s.SetUint64(term, 4), s.SetUint64(term, 5)}
			}
			for i, err := range errs {
				if err == nil || err.Error() == "not found" {
					t.Errorf("%q = %x: call %d: got %v, want an error", key, d, i, err)
				}
			}
		}
		m.values[key] = value
	}
	// A value under another shard's key is damage as well.
	other := v.Shard(2)
	m.values[string(other.key(keyVote))] = m.values[string(s.key(keyVote))]
	if _, err := other.GetUint64([]byte(keyLastVoteTerm)); err == nil || !strings.Contains(err.Error(), "checksum") {
		t.Errorf("a moved vote: got %v, want a checksum error", err)
	}
	// Valid, but not what was asked for.
	if err := s.Set(term, []byte("abc")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.GetUint64(term); err == nil || !strings.Contains(err.Error(), "3 bytes, want 8") {
		t.Errorf("a short number: got %v, want an error", err)
	}
	if err := s.Set([]byte("big"), make([]byte, maxStableBytes+1)); err == nil {
		t.Error("a value above the limit: got no error")
	}
}

func TestVotesPoison(t *testing.T) {
	m := newMemStable()
	fatal := 0
	v := startVotes(m, func(error) { fatal++ })
	s := v.Shard(1)
	mustVote(t, s, 4, "a")
	if err := s.SetUint64([]byte(keyCurrentTerm), 4); err != nil {
		t.Fatal(err)
	}
	if err := s.SetUint64([]byte(keyLastVoteTerm), 5); err != nil {
		t.Fatal(err)
	}
	m.write = func() error { return errDisk }
	if err := s.Set([]byte(keyLastVoteCand), []byte("b")); !errors.Is(err, errDisk) {
		t.Errorf("got %v, want errDisk", err)
	}
	m.write = nil
	writes := m.writes
	for name, change := range map[string]func() error{
		"staging a term": func() error { return s.SetUint64([]byte(keyLastVoteTerm), 5) },
		"same term":      func() error { return s.SetUint64([]byte(keyCurrentTerm), 4) },
		"new term":       func() error { return s.SetUint64([]byte(keyCurrentTerm), 6) },
		"other shard":    func() error { return v.Shard(2).Set([]byte("k"), []byte("v")) },
	} {
		if err := change(); !errors.Is(err, errDisk) {
			t.Errorf("%s: got %v, want errDisk", name, err)
		}
	}
	if fatal != 1 || m.writes != writes {
		t.Errorf("Fatal was called %d times and %d more writes were tried, want 1 and 0", fatal, m.writes-writes)
	}
	wantVote(t, s, 4, "a")
	mustClose(t, v)
}

func TestVotesHungWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemStable()
		gate := make(chan struct{})
		m.write = func() error { <-gate; return nil }
		fatal := make(chan error, 2)
		v := startVotes(m, func(err error) { fatal <- err })
		began := time.Now()
		var wg sync.WaitGroup
		var answer error
		wg.Go(func() { answer = v.Shard(1).SetUint64([]byte(keyCurrentTerm), 1) })
		err := <-fatal
		if took := time.Since(began); took < stallLimit || took > stallLimit+watchPeriod {
			t.Errorf("Fatal after %v, want %v to %v", took, stallLimit, stallLimit+watchPeriod)
		}
		close(gate)
		wg.Wait()
		if answer != err { // the very same
			t.Errorf("got %v, want %v", answer, err)
		}
		mustClose(t, v)
	})
}

func TestVotesAfterClose(t *testing.T) {
	v, err := OpenVotes(VotesConfig{Path: filepath.Join(t.TempDir(), "votes.db"), Fatal: noFatal(t)})
	if err != nil {
		t.Fatal(err)
	}
	mustClose(t, v)
	mustClose(t, v)
	if err := v.Shard(1).Set([]byte("k"), []byte("v")); err != ErrClosed { // unwrapped
		t.Errorf("got %v, want ErrClosed", err)
	}
}

// Votes behave as a map per shard, across reopening the file.
func TestVotesModel(t *testing.T) {
	t.Parallel()
	type vote struct {
		term      uint64
		candidate string
	}
	path := filepath.Join(t.TempDir(), "votes.db")
	tries := uint32(0) // other shards for every try, since the file stays
	rapid.Check(t, func(rt *rapid.T) {
		tries++
		m := newMemStable()
		open := func() *Votes { return startVotes(m, noFatal(t)) }
		if rapid.IntRange(1, 10).Draw(rt, "on disk if 1") == 1 {
			open = func() *Votes {
				v, err := OpenVotes(VotesConfig{Path: path, Fatal: noFatal(t)})
				if err != nil {
					rt.Fatal(err)
				}
				return v
			}
		}
		v := open()
		defer func() { mustClose(t, v) }()
		votes, terms := map[uint32]vote{}, map[uint32]uint64{}
		shard := rapid.Uint32Range(3*tries, 3*tries+2)
		rt.Repeat(map[string]func(*rapid.T){
			"vote": func(rt *rapid.T) {
				n, c := shard.Draw(rt, "shard"), vote{rapid.Uint64().Draw(rt, "term"), rapid.String().Draw(rt, "candidate")}
				mustVote(rt, v.Shard(n), c.term, c.candidate)
				votes[n] = c
			},
			"stage": func(rt *rapid.T) {
				if err := v.Shard(shard.Draw(rt, "shard")).SetUint64([]byte(keyLastVoteTerm), 77); err != nil {
					rt.Fatal(err)
				}
			},
			"term": func(rt *rapid.T) {
				n, term := shard.Draw(rt, "shard"), rapid.Uint64Range(0, 2).Draw(rt, "term")
				if err := v.Shard(n).SetUint64([]byte(keyCurrentTerm), term); err != nil {
					rt.Fatal(err)
				}
				terms[n] = term
			},
			"reopen": func(rt *rapid.T) {
				if err := v.Close(); err != nil {
					rt.Fatal(err)
				}
				v = open()
			},
			"": func(rt *rapid.T) {
				for n, c := range votes {
					wantVote(rt, v.Shard(n), c.term, c.candidate)
				}
				for n, term := range terms {
					if got, err := v.Shard(n).GetUint64([]byte(keyCurrentTerm)); err != nil || got != term {
						rt.Fatalf("shard %d: term: got %d, %v, want %d", n, got, err, term)
					}
				}
			},
		})
	})
}

func FuzzVote(f *testing.F) {
	key := (&ShardVotes{shard: 3}).key(keyVote)
	f.Add(unhex(f, "673a2d1200000000000000096e6f64652d32"))
	f.Add(sealValue(key, []byte("short")))
	f.Add(sealValue(key, nil))
	f.Add([]byte{1, 2})
	f.Fuzz(func(t *testing.T, value []byte) {
		payload, err := openValue(key, value)
		if err != nil {
			return
		}
		if again := sealValue(key, payload); !bytes.Equal(again, value) {
			t.Fatalf("sealed again: got %x, want %x", again, value)
		}
		term, candidate, err := parseVote(payload)
		if err == nil && len(candidate) != len(payload)-termBytes {
			t.Fatalf("term %d: got a candidate of %d bytes out of %d", term, len(candidate), len(payload))
		}
	})
}

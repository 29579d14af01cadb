package raftlog

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

const (
	crashEnv    = "RAFTLOG_CRASH" // the store of the child's log
	crashDirEnv = "RAFTLOG_CRASH_DIR"
	crashShards = 4
	crashRounds = 20
	// crashAcks is after how many acknowledgements, at random, the child dies.
	crashAcks = 60
)

// An acknowledgement, on the child's standard output, says what is durable.
const (
	ackAppend = 'a' // first..last were appended in term
	ackWill   = 'w' // entries from first on may be cut from here on
	ackCut    = 'c' // and now they are
	ackTrim   = 't' // entries below first may be trimmed from here on
	ackVote   = 'v' // voted in term
)

// ack is one line of the child. It is flushed before the child goes on, and a
// pipe takes a line this short whole.
type ack struct {
	kind              rune
	shard             uint32
	first, last, term uint64
}

func (a ack) String() string {
	return fmt.Sprintf("%c %d %d %d %d", a.kind, a.shard, a.first, a.last, a.term)
}

func candidate(term uint64) string { return fmt.Sprint("node-", term) }

// crashEntry is the entry the child writes at index in term; now and then one
// fills a segment, so that some kills hit a rotation.
func crashEntry(shard uint32, index, term uint64) *raft.Log {
	size := int(index*131+term) % 3000
	if index%64 == 0 {
		size = smallSegment
	}
	return entryOf(shard, index, term, size)
}

// TestCrashChild is the process that gets killed; it does nothing by itself.
func TestCrashChild(t *testing.T) {
	store := os.Getenv(crashEnv)
	if store == "" {
		t.Skip("started by TestCrash only")
	}
	l, v, err := openCrash(store, os.Getenv(crashDirEnv))
	if err != nil {
		t.Fatal(err)
	}
	failed := make(chan error, crashShards)
	for shard := uint32(1); shard <= crashShards; shard++ {
		go func() { failed <- crashWriter(l.Shard(shard, 1), v.Shard(shard, 1)) }()
	}
	t.Fatal(<-failed) // until killed
}

func openCrash(store, dir string) (*Log, *Votes, error) {
	l, err := openSmall(Config{Dir: dir, Store: store})
	if err != nil {
		return nil, nil, err
	}
	v, err := OpenVotes(VotesConfig{Path: filepath.Join(dir, "votes.db")})
	return l, v, err
}

// crashWriter appends, cuts, trims and votes, one term after the other.
func crashWriter(s *Shard, v *ShardVotes) error {
	say := func(kind rune, first, last, term uint64) error {
		_, err := fmt.Println(ack{kind, s.replica.shard, first, last, term})
		return err
	}
	term, err := v.GetUint64([]byte(keyLastVoteTerm))
	if err != nil && err.Error() != "not found" {
		return err
	}
	for term++; ; term++ {
		if err := v.SetUint64([]byte(keyLastVoteTerm), term); err != nil {
			return err
		}
		if err := v.Set([]byte(keyLastVoteCand), []byte(candidate(term))); err != nil {
			return err
		}
		if err := say(ackVote, 0, 0, term); err != nil {
			return err
		}
		for range 4 {
			_, last := s.bounds()
			var entries []*raft.Log
			for i := range uint64(rand.IntN(5) + 1) {
				entries = append(entries, crashEntry(s.replica.shard, last+1+i, term))
			}
			if err := s.StoreLogs(entries); err != nil {
				return err
			}
			if err := say(ackAppend, entries[0].Index, entries[len(entries)-1].Index, term); err != nil {
				return err
			}
		}
		first, last := s.bounds()
		if last-first > 150 {
			if err := say(ackTrim, first+50, 0, term); err != nil {
				return err
			}
			if err := s.DeleteRange(first, first+49); err != nil {
				return err
			}
		}
		cut := last - rand.Uint64N(4)
		if err := say(ackWill, cut, 0, term); err != nil {
			return err
		}
		if err := s.DeleteRange(cut, last); err != nil {
			return err
		}
		if err := say(ackCut, cut, 0, term); err != nil {
			return err
		}
	}
}

// shardAcks is what the acknowledgements of one shard promise.
type shardAcks struct {
	terms map[uint64]uint64 // the term of each index that must be there
	cut   uint64            // entries from here on may be cut, 0 = none
	trim  uint64            // entries below may be trimmed
	below uint64            // what is at or above this and of term dead or older was cut
	dead  uint64
	vote  uint64
}

func (a *shardAcks) add(k ack) {
	switch k.kind {
	case ackAppend:
		for i := k.first; i <= k.last; i++ {
			a.terms[i] = k.term
		}
	case ackWill:
		a.cut = k.first
	case ackCut:
		for i := range a.terms {
			if i >= k.first {
				delete(a.terms, i)
			}
		}
		a.cut, a.below, a.dead = 0, k.first, k.term
	case ackTrim:
		a.trim = k.first
	case ackVote:
		a.vote = k.term
	}
}

// check compares a reopened log with the promises and then promises exactly
// what it found: the child goes on from there.
func (a *shardAcks) check(t *testing.T, s *Shard, v *ShardVotes) {
	t.Helper()
	shard := s.replica.shard
	first, last := s.bounds()
	for index, term := range a.terms {
		var e raft.Log
		err := s.GetLog(index, &e)
		if err == raft.ErrLogNotFound && (index < a.trim || a.cut != 0 && index >= a.cut) { // unwrapped
			continue
		}
		if err != nil || !sameEntry(&e, crashEntry(shard, index, term)) {
			t.Fatalf("shard %d index %d of %d..%d: got term %d, %v, want the entry of term %d (a cut at %d was under way)",
				shard, index, first, last, e.Term, err, term, a.cut)
		}
	}
	a.terms, a.cut = make(map[uint64]uint64), 0
	for index := first; index <= last && index != 0; index++ {
		var e raft.Log
		if err := s.GetLog(index, &e); err != nil || !sameEntry(&e, crashEntry(shard, index, e.Term)) {
			t.Fatalf("shard %d index %d of %d..%d: got %v, want a whole entry", shard, index, first, last, err)
		}
		if index >= a.below && e.Term <= a.dead {
			t.Fatalf("shard %d index %d: got an entry of term %d, want none: a cut at %d in term %d was acknowledged",
				shard, index, e.Term, a.below, a.dead)
		}
		a.terms[index] = e.Term
	}
	term, err := v.GetUint64([]byte(keyLastVoteTerm))
	if a.vote == 0 && err != nil && err.Error() == "not found" {
		return
	}
	if err != nil || term < a.vote || term > a.vote+1 {
		t.Fatalf("shard %d: vote: got term %d, %v, want %d or the one after", shard, term, err, a.vote)
	}
	wantVote(t, v, term, candidate(term))
	a.vote = term
}

// Whenever the process is killed, everything it acknowledged is there.
func TestCrash(t *testing.T) {
	for _, store := range []string{StoreWAL, StoreBolt} {
		t.Run(store, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			var acks [crashShards + 1]shardAcks
			for i := range acks {
				acks[i].terms = make(map[uint64]uint64)
			}
			total := 0
			for range crashRounds {
				total += killChild(t, store, dir, func(k ack) { acks[k.shard].add(k) })
				l, v, err := openCrash(store, dir)
				if err != nil {
					t.Fatal(err)
				}
				for shard := uint32(1); shard <= crashShards; shard++ {
					acks[shard].check(t, l.Shard(shard, 1), v.Shard(shard, 1))
				}
				mustClose(t, v)
				mustClose(t, l)
			}
			t.Logf("%d acknowledgements in %d rounds", total, crashRounds)
		})
	}
}

// killChild runs a child, kills it after some acknowledgements at a random
// moment, and reports all it acknowledged, also between decision and death.
func killChild(t *testing.T, store, dir string, report func(ack)) int {
	t.Helper()
	child := exec.Command(os.Args[0], "-test.run=^TestCrashChild$", "-test.timeout=30s")
	child.Env = append(os.Environ(), crashEnv+"="+store, crashDirEnv+"="+dir)
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	acks, limit := 0, 1+rand.IntN(crashAcks)
	lines := bufio.NewReader(out)
	for {
		line, err := lines.ReadString('\n')
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		var k ack
		if _, err := fmt.Sscanf(line, "%c %d %d %d %d", &k.kind, &k.shard, &k.first, &k.last, &k.term); err != nil || k.shard > crashShards {
			t.Fatalf("the child said %q: %v", line, err)
		}
		report(k)
		if acks++; acks == limit {
			// Not at once: right after an acknowledgement most writes are idle.
			delay := time.Duration(rand.IntN(2000)) * time.Microsecond
			time.AfterFunc(delay, func() { _ = child.Process.Kill() })
		}
	}
	if err := child.Wait(); err == nil || child.ProcessState.ExitCode() != -1 {
		t.Fatalf("the child ended by itself: %v", err)
	}
	if acks < limit {
		t.Fatalf("the child died after %d acknowledgements, want %d or more", acks, limit)
	}
	return acks
}

package raftlog

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/manykv/manykv/crash"
)

const (
	crashEnv    = "RAFTLOG_CRASH" // the store of the child's log
	crashDirEnv = "RAFTLOG_CRASH_DIR"
	crashShards = 4
	crashRounds = 20
	// crashAcks is after how many acknowledgements, at random, the child dies.
	crashAcks = 60
	// crashJournalBytes is small, so that some kills hit a Reclaim.
	crashJournalBytes = 200 << 10
	// crashKeep is how many entries of a shard are left by a trim, about.
	crashKeep = 40
)

// An acknowledgement, on the child's standard output, says what is durable.
const (
	ackAppend   = 'a' // first..last were appended in term
	ackWillCut  = 'w' // entries from first on may be cut from here on
	ackCut      = 'c' // and now they are
	ackWillTrim = 't' // entries below first may be trimmed from here on
	ackTrim     = 'T' // and now they are
	ackWillDrop = 'd' // the stay may end from here on
	ackDrop     = 'D' // and now it has
	ackVote     = 'v' // voted in term
)

// ack is one line of the child. It is flushed before the child goes on, and a
// pipe takes a line this short whole.
type ack struct {
	kind                          rune
	shard                         uint32
	generation, first, last, term uint64
}

func (a ack) String() string {
	return fmt.Sprintf("%c %d %d %d %d %d", a.kind, a.shard, a.generation, a.first, a.last, a.term)
}

func parseAck(line string) (a ack, err error) {
	_, err = fmt.Sscanf(line, "%c %d %d %d %d %d", &a.kind, &a.shard, &a.generation, &a.first, &a.last, &a.term)
	if err == nil && (a.shard == 0 || a.shard > crashShards) {
		err = fmt.Errorf("got shard %d, want 1 to %d", a.shard, crashShards)
	}
	return a, err
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
	failed := make(chan error, crashShards+1)
	for shard := uint32(1); shard <= crashShards; shard++ {
		w := crashWriter{log: l, shard: shard, votes: v.Shard(shard)}
		go func() { failed <- w.run() }()
	}
	go func() {
		for range l.Full() {
			if _, err := l.Reclaim(); err != nil {
				failed <- err
				return
			}
		}
	}()
	t.Fatal(<-failed) // until killed
}

func openCrash(store, dir string) (*Log, *Votes, error) {
	cfg, err := Config{Dir: dir, Store: store}.withDefaults()
	if err != nil {
		return nil, nil, err
	}
	j, err := openJournal(cfg, smallSegment)
	if err != nil {
		return nil, nil, err
	}
	l := newLog(cfg, j)
	l.limit, l.commitBytes = crashJournalBytes, 100<<10
	if store == StoreBolt {
		l.deletePiece = 50
	}
	if l, err = start(l, cfg); err != nil {
		return nil, nil, err
	}
	v, err := OpenVotes(VotesConfig{Path: filepath.Join(dir, "votes.db")})
	return l, v, err
}

// crashWriter changes one shard, one term after the other.
type crashWriter struct {
	log   *Log
	shard uint32
	votes *ShardVotes
	stay  *Shard
	term  uint64
}

func (w *crashWriter) say(kind rune, first, last uint64) error {
	_, err := fmt.Println(ack{kind, w.shard, w.stay.replica.generation, first, last, w.term})
	return err
}

func (w *crashWriter) run() error {
	term, err := w.votes.GetUint64([]byte(keyLastVoteTerm))
	if err != nil && err.Error() != "not found" {
		return err
	}
	for w.term = term + 1; ; w.term++ {
		w.stay = w.log.Shard(w.shard)
		steps := []func() error{w.vote, w.append, w.append, w.append, w.append, w.trim, w.cut}
		if rand.IntN(30) == 0 {
			steps = append(steps, w.drop)
		}
		for _, step := range steps {
			if err := step(); err != nil {
				return err
			}
		}
	}
}

func (w *crashWriter) vote() error {
	if err := w.votes.SetUint64([]byte(keyLastVoteTerm), w.term); err != nil {
		return err
	}
	if err := w.votes.Set([]byte(keyLastVoteCand), []byte(candidate(w.term))); err != nil {
		return err
	}
	return w.say(ackVote, 0, 0)
}

func (w *crashWriter) append() error {
	_, last, err := w.stay.bounds()
	if err != nil {
		return err
	}
	var entries []*raft.Log
	for i := range uint64(rand.IntN(5) + 1) {
		entries = append(entries, crashEntry(w.shard, last+1+i, w.term))
	}
	if err := w.stay.StoreLogs(entries); err != nil {
		return err
	}
	return w.say(ackAppend, entries[0].Index, entries[len(entries)-1].Index)
}

func (w *crashWriter) trim() error {
	first, last, err := w.stay.bounds()
	if err != nil || last-first < 2*crashKeep {
		return err
	}
	to := last - crashKeep
	if err := w.say(ackWillTrim, to+1, 0); err != nil {
		return err
	}
	if err := w.stay.DeleteRange(first, to); err != nil {
		return err
	}
	return w.say(ackTrim, to+1, 0)
}

func (w *crashWriter) cut() error {
	_, last, err := w.stay.bounds()
	if err != nil {
		return err
	}
	from := last - rand.Uint64N(4)
	if err := w.say(ackWillCut, from, 0); err != nil {
		return err
	}
	if err := w.stay.DeleteRange(from, last); err != nil {
		return err
	}
	return w.say(ackCut, from, 0)
}

func (w *crashWriter) drop() error {
	if err := w.say(ackWillDrop, 0, 0); err != nil {
		return err
	}
	if err := w.stay.Drop(); err != nil {
		return err
	}
	return w.say(ackDrop, 0, 0)
}

// shardAcks is what the acknowledgements of one shard promise.
type shardAcks struct {
	generation uint64            // of the last append
	terms      map[uint64]uint64 // the term of each index that must be there
	cut        uint64            // entries from here on may be cut, 0 = none
	trim       uint64            // entries below may be trimmed
	trimmed    uint64            // entries below are trimmed
	below      uint64            // what is at or above this and of term dead or older was cut
	dead       uint64
	dropping   bool // the stay may have ended
	vote       uint64
}

func (a *shardAcks) add(k ack) {
	switch k.kind {
	case ackAppend:
		a.generation = k.generation
		for i := k.first; i <= k.last; i++ {
			a.terms[i] = k.term
		}
	case ackWillCut:
		a.cut = k.first
	case ackCut:
		for i := range a.terms {
			if i >= k.first {
				delete(a.terms, i)
			}
		}
		a.cut, a.below, a.dead = 0, k.first, k.term
	case ackWillTrim:
		a.trim = k.first
	case ackTrim:
		a.trimmed = k.first
	case ackWillDrop:
		a.dropping = true
	case ackDrop:
		a.drop(k.term)
	case ackVote:
		a.vote = k.term
	}
}

// drop notes that nothing of term or older may be left.
func (a *shardAcks) drop(term uint64) {
	*a = shardAcks{terms: make(map[uint64]uint64), below: 1, dead: term, vote: a.vote}
}

// check compares a reopened log with the promises and then promises exactly
// what it found: the child goes on from there.
func (a *shardAcks) check(t *testing.T, s *Shard, v *ShardVotes) {
	t.Helper()
	shard := s.replica.shard
	first, last, err := s.bounds()
	if err != nil {
		t.Fatal(err)
	}
	if a.dropping && last == 0 {
		a.drop(a.vote)
	}
	a.dropping = false
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
		if s.replica.generation != a.generation {
			t.Fatalf("shard %d: got generation %d, want %d", shard, s.replica.generation, a.generation)
		}
	}
	if last != 0 && first < a.trimmed {
		t.Fatalf("shard %d: the log starts at index %d, want %d or more: a trim was acknowledged", shard, first, a.trimmed)
	}
	a.terms, a.cut, a.generation = make(map[uint64]uint64), 0, s.replica.generation
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

// crashDir is a directory in which one child after the other dies.
type crashDir struct {
	store, dir string
	acks       [crashShards + 1]shardAcks
}

func newCrashDir(t *testing.T, store string) *crashDir {
	c := &crashDir{store: store, dir: t.TempDir()}
	for i := range c.acks {
		c.acks[i].terms = make(map[uint64]uint64)
	}
	return c
}

// check reopens what a child left.
func (c *crashDir) check(t *testing.T) {
	t.Helper()
	var read []raft.Log
	var owners []replica
	err := Read(Config{Dir: c.dir, Store: c.store}, func(shard uint32, generation uint64, e *raft.Log) error {
		read, owners = append(read, *e), append(owners, replica{shard, generation})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	l, v, err := openCrash(c.store, c.dir)
	if err != nil {
		t.Fatal(err)
	}
	entries := uint64(0)
	for shard := uint32(1); shard <= crashShards; shard++ {
		c.acks[shard].check(t, l.Shard(shard), v.Shard(shard))
		entries += l.Shard(shard).TrailingFit(math.MaxInt64)
	}
	if entries != uint64(len(read)) {
		t.Fatalf("Read: got %d entries, want %d", len(read), entries)
	}
	for i, e := range read {
		var want raft.Log
		s := l.Shard(owners[i].shard)
		if err := s.GetLog(e.Index, &want); err != nil || !sameEntry(&e, &want) || s.replica != owners[i] {
			t.Fatalf("Read: %+v index %d: got another entry than %+v has, %v", owners[i], e.Index, s.replica, err)
		}
	}
	mustClose(t, v)
	mustClose(t, l)
}

// Whenever the process is killed, everything it acknowledged is there.
func TestCrash(t *testing.T) {
	for _, store := range []string{StoreWAL, StoreBolt} {
		t.Run(store, func(t *testing.T) {
			t.Parallel()
			c := newCrashDir(t, store)
			total := 0
			for range crashRounds {
				acks, limit := 0, 1+rand.IntN(crashAcks)
				c.runChild(t, "", func(child *os.Process) {
					if acks++; acks == limit {
						// Not at once: right after an acknowledgement most writes are idle.
						delay := time.Duration(rand.IntN(2000)) * time.Microsecond
						time.AfterFunc(delay, func() { _ = child.Kill() })
					}
				})
				if acks < limit {
					t.Fatalf("the child died after %d acknowledgements, want %d or more", acks, limit)
				}
				total += acks
				c.check(t)
			}
			t.Logf("%d acknowledgements in %d rounds", total, crashRounds)
		})
	}
}

// The same at every step where a process can be made to die.
func TestCrashPoints(t *testing.T) {
	if !crash.Enabled {
		t.Skip("needs a build with -tags crashpoints")
	}
	points := []string{
		crashVoteWrite, crashVoteWritten, crashReclaimBegin, crashReclaimChunk, crashReclaimCarried, crashDelete, crashDeleted,
	}
	for _, steps := range crashCommit {
		points = append(points, steps[:]...)
	}
	slices.Sort(points)
	for _, store := range []string{StoreWAL, StoreBolt} {
		t.Run(store, func(t *testing.T) {
			t.Parallel()
			c := newCrashDir(t, store)
			for _, point := range points {
				for _, n := range []int{1, 2, 3 + rand.IntN(3)} {
					c.runChild(t, fmt.Sprintf("%s:%d", point, n), func(*os.Process) {})
					c.check(t)
				}
			}
		})
	}
}

// runChild runs a child that dies at a point, if that is not empty, or is killed
// by told, which is called for every acknowledgement. It notes all of them, also
// those between decision and death.
func (c *crashDir) runChild(t *testing.T, point string, told func(child *os.Process)) {
	t.Helper()
	child := exec.Command(os.Args[0], "-test.run=^TestCrashChild$", "-test.timeout=30s")
	child.Env = append(os.Environ(), crashEnv+"="+c.store, crashDirEnv+"="+c.dir, "MANYKV_CRASH="+point)
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	for {
		line, err := lines.ReadString('\n')
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		k, err := parseAck(line)
		if err != nil {
			t.Fatalf("the child said %q: %v", line, err)
		}
		c.acks[k.shard].add(k)
		told(child.Process)
	}
	if err := child.Wait(); err == nil || child.ProcessState.ExitCode() != -1 {
		t.Fatalf("%s: the child ended by itself: %v", point, err)
	}
}

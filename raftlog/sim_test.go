package raftlog

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/manykv/manykv/sim"
)

const (
	simShards = 4
	// simRounds and simCrashes make a simulation a few ms long; a segment of
	// simSegment bytes is full after some ten records.
	simRounds  = 40
	simCrashes = 4
	simSegment = 16 << 10
)

// simFailed are seeds that failed once. All are about a process that was killed, one
// that took over, and the power that failed after that: what the first had not
// synced was lost, although the second had answered by it.
var simFailed = []uint64{
	8,   // the name of the segment
	41,  // records of it
	335, // the metadata that names it
}

// simEntries is the log of one shard, as it should be. It is replaced, never
// edited.
type simEntries []*raft.Log

func (e simEntries) bounds() (first, last uint64) {
	if len(e) == 0 {
		return 0, 0
	}
	return e[0].Index, e[len(e)-1].Index
}

// with returns the log after entries were stored.
func (e simEntries) with(entries []*raft.Log) simEntries {
	if len(entries) == 0 {
		return e
	}
	at := entries[0].Index
	_, last := e.bounds()
	if last != 0 && at > last+1 {
		return slices.Clone(entries) // beyond a gap
	}
	return append(e.without(at, last+1), entries...)
}

// without returns the log without the entries from low up to high.
func (e simEntries) without(low, high uint64) simEntries {
	return slices.DeleteFunc(slices.Clone(e), func(l *raft.Log) bool { return l.Index >= low && l.Index <= high })
}

// simVotes is what one shard has voted.
type simVotes struct {
	term, voteTerm uint64
	candidate      string
}

// simOp is one change of one shard.
type simOp struct {
	shard uint32
	what  string
	do    func() error
	// logs and votes are what the shard may have after a crash in the middle: the
	// last of them is what it has when do returned nil.
	logs  []simEntries
	votes []simVotes
}

// simNode is one node on a simulated disk, and what it has promised.
type simNode struct {
	seed  *sim.Seed
	rng   *rand.Rand
	disk  *simDisk
	log   *Log
	poll  *Votes
	term  uint64
	logs  [simShards + 1][]simEntries // what each shard may have: one, unless a crash interrupted a change
	votes [simShards + 1][]simVotes
}

// Whatever a node acknowledged is there after it was killed or its power failed,
// at any step, also while it comes up again, and nothing that was cut comes back.
func TestSimCrash(t *testing.T) {
	sim.Run(t, 80, simFailed, func(t *testing.T, s *sim.Seed) {
		n := &simNode{seed: s, rng: s.Source("changes")}
		n.disk = newSimDisk(s.Source("disk"), s.Note)
		for shard := range n.logs {
			n.logs[shard], n.votes[shard] = []simEntries{nil}, []simVotes{{}}
		}
		must := func(err error) {
			if err != nil {
				t.Fatal(err)
			}
		}
		for range simCrashes {
			must(n.open())
			must(n.check())
			n.disk.crashIn(1 + n.rng.IntN(3*simRounds))
			for range simRounds {
				if n.disk.down() {
					break
				}
				must(n.round())
			}
			n.close()
			n.disk.restart(n.rng.IntN(2) == 0)
		}
		n.disk.restart(true)
		must(n.open())
		must(n.check())
		n.close()
	})
}

// open opens the node, which may go down while it comes up.
func (n *simNode) open() error {
	for n.rng.IntN(3) == 0 {
		n.disk.crashIn(1 + n.rng.IntN(4))
		err := n.openOnce()
		if err == nil {
			n.close()
		} else if !n.disk.down() {
			return err
		}
		n.disk.restart(n.rng.IntN(2) == 0)
	}
	return n.openOnce()
}

func (n *simNode) openOnce() error {
	cfg, err := Config{Dir: "unused", Fatal: func(error) {}, CacheBytes: 20 << 10}.withDefaults()
	if err != nil {
		return err
	}
	j, err := openWAL(cfg.Dir, walDisk{n.disk, simMeta{n.disk}, n.disk.SyncAll}, simSegment, cfg.Logger)
	if err != nil {
		return fmt.Errorf("open the journal: %w", err)
	}
	l := newLog(cfg, j)
	l.limit, l.commitBytes, l.deletePiece = 40<<10, 6<<10, 2
	l.yields = 0 // the rounds say what shares a record
	if n.log, err = start(l, cfg); err != nil {
		return err
	}
	n.poll = startVotes(simStable{n.disk}, func(error) {})
	return nil
}

// close closes what may have failed before.
func (n *simNode) close() {
	_, _ = n.log.Close(), n.poll.Close()
}

// round makes changes of one to four shards at once, which but for the first share
// a record, or gives back a part of the journal. A change that fails must have met
// the crash.
func (n *simNode) round() error {
	defer n.settle()
	if n.rng.IntN(8) == 0 {
		n.seed.Note("reclaim")
		if _, err := n.log.Reclaim(); err != nil && !n.disk.down() {
			return err
		}
		return nil
	}
	var ops []*simOp
	for _, shard := range n.rng.Perm(simShards)[:1+n.rng.IntN(simShards)] {
		ops = append(ops, n.draw(uint32(shard+1)))
	}
	errs := n.together(ops)
	for i, op := range ops {
		n.seed.Note("shard %d: %s: %v", op.shard, op.what, errs[i])
		logs, votes := n.logs[op.shard], n.votes[op.shard]
		if errs[i] != nil && !n.disk.down() {
			return fmt.Errorf("shard %d: %s: %w", op.shard, op.what, errs[i])
		}
		if len(op.logs) > 0 {
			logs = append(logs, op.logs...)
		}
		if len(op.votes) > 0 {
			votes = append(votes, op.votes...)
		}
		if errs[i] == nil {
			logs, votes = logs[len(logs)-1:], votes[len(votes)-1:]
		}
		n.logs[op.shard], n.votes[op.shard] = logs, votes
	}
	n.settle()
	if n.rng.IntN(4) == 0 && !n.disk.down() {
		return n.check()
	}
	return nil
}

// settle waits for raft-wal's rotation, which goes on after the append that filled
// a segment: a deletion of what is not there does nothing but wait for it.
func (n *simNode) settle() { _ = n.log.journal.DeleteRange(math.MaxUint64, math.MaxUint64) }

// together runs changes. While the first one is being written the others queue up,
// one after the other, so that which of them share a record follows from the seed.
func (n *simNode) together(ops []*simOp) []error {
	errs := make([]error, len(ops))
	done := make([]chan struct{}, len(ops))
	begin := func(i int) {
		done[i] = make(chan struct{})
		go func() {
			defer close(done[i])
			errs[i] = ops[i].do()
		}()
	}
	held, release := n.disk.hold()
	begin(0)
	select {
	case <-held:
	case <-done[0]:
		n.disk.unhold()
	}
	for i := 1; i < len(ops); i++ {
		queued := n.queued()
		begin(i)
		for n.queued() == queued && !isClosed(done[i]) {
			runtime.Gosched()
		}
	}
	close(release)
	for i := range ops {
		<-done[i]
	}
	return errs
}

// queued returns how many frames wait for the committer.
func (n *simNode) queued() (frames int) {
	n.log.mu.Lock()
	defer n.log.mu.Unlock()
	for _, b := range n.log.queue {
		frames += len(b.frames)
	}
	return frames
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// draw draws a change of a shard.
func (n *simNode) draw(shard uint32) *simOp {
	s, now := n.log.Shard(shard), n.logs[shard][0]
	first, last := now.bounds()
	n.term++
	op := &simOp{shard: shard}
	switch kind := n.rng.IntN(20); {
	case kind < 3:
		n.drawVote(op)
	case kind < 5 && last != 0: // a cut
		at := last - n.rng.Uint64N(min(last-first+1, 6))
		op.what = fmt.Sprintf("cut %d to %d", at, last)
		op.do = func() error { return s.DeleteRange(at, last) }
		op.logs = []simEntries{now.without(at, last)}
	case kind < 8 && last > first: // a trim
		to := first + n.rng.Uint64N(last-first)
		op.what = fmt.Sprintf("trim %d to %d", first, to)
		op.do = func() error { return s.DeleteRange(first, to) }
		op.logs = []simEntries{now.without(first, to)}
	case kind == 8 && n.rng.IntN(3) == 0:
		op.what, op.do, op.logs = "drop", s.Drop, []simEntries{nil}
	default:
		at := last + 1
		if kind == 9 && last != 0 {
			at += 1 + n.rng.Uint64N(5) // beyond a gap
		} else if kind == 10 && last != 0 {
			at = last - n.rng.Uint64N(min(last-first+1, 4)) // over the end
		}
		entries := run(shard, at, n.term, n.sizes()...)
		op.what = fmt.Sprintf("store %d to %d of term %d", at, entries[len(entries)-1].Index, n.term)
		op.do = func() error { return s.StoreLogs(entries) }
		for i := range entries {
			op.logs = append(op.logs, now.with(entries[:i+1]))
		}
	}
	return op
}

// sizes draws the sizes of entries: some of them need several records.
func (n *simNode) sizes() []int {
	sizes := make([]int, 1+n.rng.IntN(4))
	for i := range sizes {
		sizes[i] = []int{0, 10, 300, 600, 1500, 5000}[n.rng.IntN(6)]
	}
	return sizes
}

// drawVote draws a vote, as raft writes it: the term, then the vote.
func (n *simNode) drawVote(op *simOp) {
	v, now := n.poll.Shard(op.shard), n.votes[op.shard][0]
	term, name := n.term, candidate(n.term)
	op.what = fmt.Sprintf("vote in term %d", term)
	op.do = func() error {
		return errors.Join(
			v.SetUint64([]byte(keyCurrentTerm), term),
			v.SetUint64([]byte(keyLastVoteTerm), term),
			v.Set([]byte(keyLastVoteCand), []byte(name)))
	}
	begun := now
	begun.term = term
	op.votes = []simVotes{begun, {term, term, name}}
}

// check compares a node with what it has promised, and takes what it finds for
// promised: whoever reads it may answer others by it.
func (n *simNode) check() error {
	for shard := uint32(1); shard <= simShards; shard++ {
		log, err := n.checkLog(n.log.Shard(shard), n.logs[shard])
		if err != nil {
			return err
		}
		votes, err := checkVotes(n.poll.Shard(shard), n.votes[shard])
		if err != nil {
			return err
		}
		n.logs[shard], n.votes[shard] = []simEntries{log}, []simVotes{votes}
	}
	return nil
}

// checkLog returns which of the logs that it may have a shard has.
func (n *simNode) checkLog(s *Shard, may []simEntries) (simEntries, error) {
	first, last, err := s.bounds()
	if err != nil {
		return nil, err
	}
	var got simEntries
	for index := first; index <= last && index != 0; index++ {
		e := &raft.Log{}
		if err := s.GetLog(index, e); err != nil {
			return nil, err
		}
		got = append(got, e)
	}
	for _, want := range may {
		if slices.EqualFunc(got, want, sameEntry) {
			return want, nil
		}
	}
	return nil, fmt.Errorf("%+v: got %s, want %s or one of %d others", s.replica, got, may[0], len(may)-1)
}

// String tells each run of entries of one term.
func (e simEntries) String() string {
	out := "["
	for i := 0; i < len(e); {
		j := i
		for j < len(e) && e[j].Term == e[i].Term {
			j++
		}
		out += fmt.Sprintf(" %d-%d:%d", e[i].Index, e[j-1].Index, e[i].Term)
		i = j
	}
	return out + " ]"
}

// checkVotes returns which of the votes that it may have a shard has.
func checkVotes(v *ShardVotes, may []simVotes) (simVotes, error) {
	var got simVotes
	term, termErr := v.GetUint64([]byte(keyCurrentTerm))
	voteTerm, voteErr := v.GetUint64([]byte(keyLastVoteTerm))
	name, nameErr := v.Get([]byte(keyLastVoteCand))
	for _, err := range []error{termErr, voteErr, nameErr} {
		if err != nil && err.Error() != "not found" {
			return got, err
		}
	}
	got = simVotes{term, voteTerm, string(name)}
	if !slices.Contains(may, got) {
		return got, fmt.Errorf("votes of shard %d: got %+v, want one of %+v", v.shard, got, may)
	}
	return got, nil
}

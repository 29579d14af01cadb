package cluster

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/manykv/manykv/sharding"
)

var (
	simSeeds = flag.Int("sim.seeds", 300, "seeds of TestSimulatedReads")
	simSeed  = flag.Uint64("sim.seed", 0, "the only seed of TestSimulatedReads; 0: from 1 on")
)

// simNode is a raft server, as far as reads depend on it: its term, which it has
// made durable before it votes in it, and what it believes of itself.
type simNode struct {
	id       raft.ServerID
	term     uint64 // the latest it has heard of
	standing standing
	confirm  *confirmer
}

// sim is one shard of some nodes in virtual time. What is committed is a number that
// writes raise; a read must return what was acknowledged before it began, at least.
type sim struct {
	t    *testing.T
	rand *rand.Rand
	ids  []raft.ServerID
	all  sync.WaitGroup

	mu    sync.Mutex // guards the fields below, and the nodes
	nodes map[raft.ServerID]*simNode
	acked uint64

	served, refused, writes, elections int
}

// view is a node's replica as its confirmer sees it.
type view struct {
	s *sim
	n *simNode
}

func (v view) number() sharding.Shard  { return 1 }
func (v view) voters() []raft.ServerID { return v.s.ids }
func (v view) standing() (at standing) {
	v.s.mu.Lock()
	defer v.s.mu.Unlock()
	return v.n.standing
}

func newSim(t *testing.T, seed uint64) *sim {
	s := &sim{t: t, rand: rand.New(rand.NewPCG(seed, 0)), nodes: make(map[raft.ServerID]*simNode)}
	for i := range 3 + 2*s.rand.IntN(2) {
		n := &simNode{id: raft.ServerID(fmt.Sprintf("n%d", i+1))}
		n.confirm = newConfirmer(n.id, s.call)
		s.ids, s.nodes[n.id] = append(s.ids, n.id), n
	}
	return s
}

// chance is safe for concurrent use: goroutines of one moment may draw in any order,
// so that a seed gives the same events, not always the same delays.
func (s *sim) chance(n int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rand.IntN(n)
}

// wait lets up to most pass.
func (s *sim) wait(most time.Duration) { time.Sleep(time.Duration(s.chance(int(most)))) }

// call carries a confirming message: it arrives late, or never, is answered as of when
// it arrives, and the answer is late as well, as when the asker or the asked was paused.
func (s *sim) call(ctx context.Context, peer raft.ServerID, asks []ask) ([]bool, error) {
	longest := []time.Duration{time.Millisecond, 20 * time.Millisecond, 2 * confirmTimeout}[s.chance(3)]
	s.wait(longest)
	s.mu.Lock()
	answers := make([]bool, len(asks))
	for i, a := range asks {
		answers[i] = s.nodes[peer].term == a.term
	}
	s.mu.Unlock()
	s.wait(longest)
	if s.chance(8) == 0 || ctx.Err() != nil {
		return nil, errors.New("no answer")
	}
	return answers, nil
}

// elect makes a node leader by the votes of a majority, whose terms rise. The old
// leader hears of it later, or not.
func (s *sim) elect() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.elections++
	term := uint64(0)
	for _, n := range s.nodes {
		term = max(term, n.term)
	}
	term++
	majority := s.rand.Perm(len(s.ids))[:len(s.ids)/2+1]
	for _, i := range majority {
		n := s.nodes[s.ids[i]]
		n.term = term
		if n.standing.leading {
			n.standing.leading = false // a voter steps down; a leader that is not asked does not know
		}
	}
	leader := s.nodes[s.ids[majority[0]]]
	// It has every entry that was committed, but does not know how far that is before
	// an entry of its own term is.
	leader.standing = standing{leading: true, term: term, leadTerm: term - 1, commit: s.acked - min(s.acked, uint64(s.rand.IntN(3)))}
}

// write commits on a node that believes it leads, if a majority has heard of no later
// term. The first one of a term is the leader's own entry.
func (s *sim) write(n *simNode) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !n.standing.leading {
		return
	}
	with := 0
	for _, other := range s.nodes {
		if other.term <= n.standing.term {
			with++
		}
	}
	if with <= len(s.ids)/2 {
		return
	}
	for _, other := range s.nodes {
		if other.term < n.standing.term && s.rand.IntN(2) == 0 {
			other.term = n.standing.term
		}
	}
	s.writes++
	s.acked++
	n.standing.commit, n.standing.leadTerm = s.acked, n.standing.term
}

// read reads on a node that may believe it leads.
func (s *sim) read(n *simNode) {
	s.mu.Lock()
	least := s.acked
	s.mu.Unlock()
	k := n.confirm.begin(view{s, n})
	s.all.Go(func() {
		index, err := k.wait(context.Background()) // each confirmation ends by itself
		s.mu.Lock()
		defer s.mu.Unlock()
		switch {
		case err != nil:
			s.refused++
		case index < least:
			s.t.Errorf("a read on %s saw %d, but %d was acknowledged before it began", n.id, index, least)
		default:
			s.served++
		}
	})
}

// pick returns any node, more often one that believes it leads.
func (s *sim) pick() *simNode {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.nodes[s.ids[s.rand.IntN(len(s.ids))]]
	for tries := 0; !n.standing.leading && tries < 2*len(s.ids); tries++ {
		n = s.nodes[s.ids[s.rand.IntN(len(s.ids))]]
	}
	return n
}

// run lets things happen, one after the other.
func (s *sim) run() {
	const events = 150
	s.elect()
	for range events {
		n := s.pick()
		switch e := s.chance(20); {
		case e == 0:
			s.elect()
		case e < 8:
			s.write(n)
		default:
			s.read(n)
		}
		s.wait(30 * time.Millisecond)
	}
	s.all.Wait()
	for _, n := range s.nodes {
		n.confirm.close()
	}
}

// Reads are never stale, whatever is late or lost, and whoever else is elected.
func TestSimulatedReads(t *testing.T) {
	began := time.Now()
	served, refused, writes, elections := 0, 0, 0, 0
	seeds := *simSeeds
	for i := range seeds {
		seed := uint64(i + 1)
		if *simSeed != 0 {
			seed = *simSeed
		}
		synctest.Test(t, func(t *testing.T) {
			s := newSim(t, seed)
			s.run()
			served, refused, writes, elections = served+s.served, refused+s.refused, writes+s.writes, elections+s.elections
		})
		if t.Failed() {
			t.Fatalf("again: go test ./cluster -run TestSimulatedReads -sim.seed %d", seed)
		}
		if *simSeed != 0 {
			break
		}
	}
	if served < 10*seeds || refused < seeds || elections < 2*seeds {
		t.Errorf("%d reads served, %d refused, %d elections: too little happens", served, refused, elections)
	}
	t.Logf("%d seeds in %v: %d reads served, %d refused, %d writes, %d elections", seeds, time.Since(began).Round(time.Millisecond), served, refused, writes, elections)
}

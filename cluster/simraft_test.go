package cluster

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/manykv/manykv/sharding"
	"github.com/manykv/manykv/sim"
)

// simGroup is one Raft group in virtual time: terms, votes and logs as in the
// paper, over a network that is late, loses and reorders, on nodes that are paused.
// It is made to be right and to be as unhelpful as it may: a leader knows nothing
// of leases, and steps down only when it hears of a later term.
type simGroup struct {
	seed *sim.Seed
	all  sync.WaitGroup // every goroutine

	mu        sync.Mutex // guards what follows, and the peers; nobody waits with it held
	peers     []*simPeer
	links     map[[2]int]*rand.Rand
	cut       map[[2]int]bool // nothing sent there now arrives
	ended     bool
	committed []simEntry // what any peer ever took for committed
	broken    error      // why that was wrong
}

// simEntry is an entry of a log; its index is its place, from 1.
type simEntry struct {
	term uint64
	lead bool // announces the term
}

// simPeer is one node's replica. It is a subject of the confirmer.
type simPeer struct {
	group   *simGroup
	place   int
	id      raft.ServerID
	confirm *confirmer

	// Guarded by group.mu.
	asleep   chan struct{} // while it is paused; closed when it goes on
	term     uint64
	voted    int // for whom in term; -1: nobody
	leading  bool
	leader   int // who leads as far as it knows; -1: nobody
	heard    time.Time
	log      []simEntry
	commit   uint64
	applied  uint64
	leadTerm uint64
	moved    chan struct{} // closed when applied, term or leading changes
	votes    map[int]bool
	match    map[int]uint64
}

const (
	// simBeat is how often a leader sends what it has, and simPatience how long the
	// others wait for that: as many beats as in earnest, about.
	simBeat     = 80 * time.Millisecond
	simPatience = electionTimeout
)

func newSimGroup(s *sim.Seed, size int) *simGroup {
	g := &simGroup{seed: s, links: make(map[[2]int]*rand.Rand), cut: make(map[[2]int]bool)}
	for i := range size {
		p := &simPeer{group: g, place: i, id: raft.ServerID(rune('a' + i)), voted: -1, leader: -1, moved: make(chan struct{})}
		p.confirm = newConfirmer(p.id, p.call)
		g.peers = append(g.peers, p)
		for j := range size {
			g.links[[2]int{i, j}] = s.Source(fmt.Sprintf("link %d to %d", i, j))
		}
	}
	return g
}

// run lets the peers keep time by themselves until end.
func (g *simGroup) run() {
	for _, p := range g.peers {
		rng := g.seed.Source("timer " + string(p.id))
		g.all.Go(func() {
			for p.awake() {
				time.Sleep(simBeat/2 + rand64(rng, simBeat))
				p.tick(rng)
			}
		})
	}
}

// rand64 draws a duration below most.
func rand64(rng *rand.Rand, most time.Duration) time.Duration {
	return time.Duration(rng.Int64N(int64(most)))
}

// end wakes everybody up and waits until all goroutines have ended.
func (g *simGroup) end() {
	g.mu.Lock()
	g.ended = true
	for _, p := range g.peers {
		p.wake()
		p.changed()
	}
	g.mu.Unlock()
	for _, p := range g.peers {
		p.confirm.close()
	}
	g.all.Wait()
}

// late draws how long a message of a link is on its way; false if it is lost. Most
// are fast, a few come when nobody waits for them any more.
func (g *simGroup) late(from, to int) (time.Duration, bool) {
	rng := g.links[[2]int{from, to}]
	lost := rng.IntN(50) == 0
	var d time.Duration
	switch kind := rng.IntN(100); {
	case kind < 85:
		d = 50*time.Microsecond + rand64(rng, 2*time.Millisecond)
	case kind < 97:
		d = rand64(rng, 300*time.Millisecond)
	default:
		d = rand64(rng, 3*time.Second)
	}
	return d, !lost && !g.cut[[2]int{from, to}]
}

// send calls arrive, with mu held, when a message has come and its receiver is
// awake. mu is held.
func (g *simGroup) send(from, to *simPeer, arrive func()) {
	d, ok := g.late(from.place, to.place)
	if !ok {
		return
	}
	g.all.Go(func() {
		time.Sleep(d)
		if !to.awake() {
			return
		}
		g.mu.Lock()
		defer g.mu.Unlock()
		if !g.ended {
			arrive()
		}
	})
}

// awake waits while the peer is paused; false at the end of the simulation. Those
// who waited go on in any order.
func (p *simPeer) awake() bool {
	const spread = 2 * time.Millisecond
	for {
		p.group.mu.Lock()
		asleep, ended := p.asleep, p.group.ended
		var after time.Duration
		if asleep != nil {
			after = rand64(p.group.links[[2]int{p.place, p.place}], spread)
		}
		p.group.mu.Unlock()
		if ended || asleep == nil {
			return !ended
		}
		<-asleep
		time.Sleep(after)
	}
}

// pause stops a peer; a second pause does nothing.
func (p *simPeer) pause() {
	if p.asleep == nil {
		p.asleep = make(chan struct{})
	}
}

func (p *simPeer) wake() {
	if p.asleep != nil {
		close(p.asleep)
		p.asleep = nil
	}
}

// changed tells who waits for the peer to change.
func (p *simPeer) changed() {
	close(p.moved)
	p.moved = make(chan struct{})
}

// tick sends what a leader has, or stands for election if nobody leads.
func (p *simPeer) tick(rng *rand.Rand) {
	p.group.mu.Lock()
	defer p.group.mu.Unlock()
	switch {
	case p.group.ended || p.asleep != nil:
	case p.leading:
		p.spread()
	case time.Since(p.heard) > simPatience+rand64(rng, simPatience):
		p.stand()
	}
}

// follow takes in a later term.
func (p *simPeer) follow(term uint64) {
	if term <= p.term {
		return
	}
	p.term, p.voted, p.leading, p.leader = term, -1, false, -1
	p.changed()
}

// stand asks for votes in a new term.
func (p *simPeer) stand() {
	p.follow(p.term + 1)
	p.voted, p.votes, p.heard = p.place, map[int]bool{p.place: true}, time.Now()
	p.group.seed.Note("%s stands in term %d", p.id, p.term)
	term, last := p.term, p.last()
	for _, q := range p.group.peers {
		if q == p {
			continue
		}
		p.group.send(p, q, func() {
			q.follow(term)
			if q.term != term || q.voted >= 0 && q.voted != p.place || !last.atLeast(q.last()) {
				return
			}
			q.voted, q.heard = p.place, time.Now()
			p.group.send(q, p, func() { p.elected(term, q.place) })
		})
	}
}

// logEnd is what a candidate says of its log.
type logEnd struct {
	term  uint64
	index int
}

func (p *simPeer) last() logEnd {
	if len(p.log) == 0 {
		return logEnd{}
	}
	return logEnd{p.log[len(p.log)-1].term, len(p.log)}
}

func (e logEnd) atLeast(o logEnd) bool {
	return e.term > o.term || e.term == o.term && e.index >= o.index
}

// elected counts a vote.
func (p *simPeer) elected(term uint64, voter int) {
	if p.term != term || p.leading {
		return
	}
	if p.votes[voter] = true; len(p.votes) <= len(p.group.peers)/2 {
		return
	}
	p.group.seed.Note("%s leads in term %d", p.id, p.term)
	p.leading, p.leader, p.match = true, p.place, make(map[int]uint64)
	p.changed()
	p.propose(simEntry{term: term, lead: true})
}

// propose appends an entry and returns its index.
func (p *simPeer) propose(e simEntry) uint64 {
	p.log = append(p.log, e)
	p.spread()
	return uint64(len(p.log))
}

// spread sends the whole log to all.
func (p *simPeer) spread() {
	term, entries, commit := p.term, slices.Clone(p.log), p.commit
	for _, q := range p.group.peers {
		if q == p {
			continue
		}
		p.group.send(p, q, func() {
			q.follow(term)
			if q.term != term {
				p.group.send(q, p, func() { p.follow(q.term) })
				return
			}
			q.leader, q.heard = p.place, time.Now()
			q.accept(entries)
			q.learn(min(commit, uint64(len(entries))))
			p.group.send(q, p, func() { p.acknowledged(term, q.place, uint64(len(entries))) })
		})
	}
}

// accept replaces what of the log is not the leader's; an old message removes
// nothing.
func (p *simPeer) accept(entries []simEntry) {
	for i, e := range entries {
		if i < len(p.log) && p.log[i].term == e.term {
			continue
		}
		p.log = append(slices.Clip(p.log[:i]), entries[i:]...)
		return
	}
}

// acknowledged counts a follower's answer.
func (p *simPeer) acknowledged(term uint64, from int, index uint64) {
	if p.term != term || !p.leading {
		return
	}
	p.match[from] = max(p.match[from], index)
	all := []uint64{uint64(len(p.log))}
	for _, q := range p.group.peers {
		if q != p {
			all = append(all, p.match[q.place])
		}
	}
	slices.Sort(all)
	if n := all[(len(all)-1)/2]; n > 0 && p.log[n-1].term == p.term {
		p.learn(n)
	}
}

// learn takes in that entries are committed, which the machine applies a moment
// later.
func (p *simPeer) learn(commit uint64) {
	if commit <= p.commit {
		return
	}
	p.commit = commit
	p.group.agree(p.log[:commit])
	rng := p.group.links[[2]int{p.place, p.place}]
	lag := rand64(rng, time.Millisecond)
	if rng.IntN(20) == 0 {
		lag = rand64(rng, 200*time.Millisecond)
	}
	p.group.all.Go(func() {
		time.Sleep(lag)
		if !p.awake() {
			return
		}
		p.group.mu.Lock()
		defer p.group.mu.Unlock()
		for p.applied < commit {
			p.applied++
			if e := p.log[p.applied-1]; e.lead {
				p.leadTerm = e.term
			}
		}
		p.changed()
	})
}

// agree notes what is committed: if two peers differ, this model is wrong.
func (g *simGroup) agree(log []simEntry) {
	n := min(len(log), len(g.committed))
	if !slices.Equal(log[:n], g.committed[:n]) && g.broken == nil {
		g.broken = fmt.Errorf("two peers have different entries among the first %d that are committed", n)
	}
	if len(log) > len(g.committed) {
		g.committed = slices.Clone(log)
	}
}

// What follows is what the confirmer needs of a replica.

func (p *simPeer) number() sharding.Shard { return 1 }

func (p *simPeer) standing() standing {
	p.group.mu.Lock()
	defer p.group.mu.Unlock()
	return standing{leading: p.leading, term: p.term, leadTerm: p.leadTerm, commit: p.commit}
}

func (p *simPeer) voters() (all []raft.ServerID) {
	for _, q := range p.group.peers {
		all = append(all, q.id)
	}
	return all
}

package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/manykv/manykv/sim"
)

const (
	simReadTime = 10 * time.Second // of virtual time
	simReaders  = 4
	simWriters  = 2
)

var errSimLost = errors.New("the message or its answer was lost")

// call is the confirmer's way to a peer. What comes while this node is paused is
// there when it goes on, together with the end of ctx.
func (p *simPeer) call(ctx context.Context, to raft.ServerID, asks []ask) ([]bool, error) {
	if !p.awake() {
		return nil, errSimLost
	}
	q := p.group.peers[to[0]-'a']
	answer := make(chan []bool, 1)
	p.group.mu.Lock()
	p.group.send(p, q, func() {
		yes := make([]bool, len(asks))
		for i, a := range asks {
			yes[i] = q.term == a.term
		}
		p.group.send(q, p, func() { answer <- yes })
	})
	p.group.mu.Unlock()
	select {
	case yes := <-answer:
		return yes, nil
	case <-ctx.Done():
	}
	p.awake()
	select {
	case yes := <-answer:
		return yes, nil
	default:
		return nil, errSimLost
	}
}

// readIndex confirms a read on this node, which must lead.
func (p *simPeer) readIndex(ctx context.Context) (uint64, error) {
	index, err := p.confirm.begin(p).wait(ctx)
	if !p.awake() {
		return 0, errSimLost
	}
	return index, err
}

// read reads on this node, as serveReads does: with its own confirmation if it
// leads, else with one of the leader. It returns up to which entry it saw the
// state.
func (p *simPeer) read(ctx context.Context) (seen uint64, err error) {
	var index uint64
	p.group.mu.Lock()
	leading, leader := p.leading, p.leader
	p.group.mu.Unlock()
	switch {
	case leading:
		index, err = p.readIndex(ctx)
	case leader >= 0:
		index, err = p.askLeader(ctx, p.group.peers[leader])
	default:
		err = errNotLeader
	}
	if err != nil {
		return 0, err
	}
	return p.appliedAt(ctx, index)
}

// askLeader gets a read index from another node.
func (p *simPeer) askLeader(ctx context.Context, leader *simPeer) (uint64, error) {
	type readIndex struct {
		index uint64
		err   error
	}
	answer := make(chan readIndex, 1)
	p.group.mu.Lock()
	p.group.send(p, leader, func() {
		p.group.all.Go(func() {
			index, err := leader.readIndex(ctx)
			p.group.mu.Lock()
			defer p.group.mu.Unlock()
			p.group.send(leader, p, func() { answer <- readIndex{index, err} })
		})
	})
	p.group.mu.Unlock()
	select {
	case a := <-answer:
		return a.index, a.err
	case <-ctx.Done():
		return 0, errSimLost
	}
}

// appliedAt waits until the machine has applied index and returns what it has.
func (p *simPeer) appliedAt(ctx context.Context, index uint64) (uint64, error) {
	for p.awake() {
		p.group.mu.Lock()
		applied, moved := p.applied, p.moved
		p.group.mu.Unlock()
		if applied >= index {
			return applied, nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
	return 0, errSimLost
}

// write proposes an entry on this node, if it leads, and waits until it is applied
// there in the same term. It returns the entry's index.
func (p *simPeer) write(ctx context.Context) (uint64, error) {
	p.group.mu.Lock()
	term, leading, index := p.term, p.leading, uint64(0)
	if leading {
		index = p.propose(simEntry{term: term})
	}
	p.group.mu.Unlock()
	if !leading {
		return 0, errNotLeader
	}
	if _, err := p.appliedAt(ctx, index); err != nil {
		return 0, err
	}
	p.group.mu.Lock()
	defer p.group.mu.Unlock()
	if p.log[index-1].term != term {
		return 0, errNotLeader
	}
	return index, nil
}

// simHistory judges what clients see: a read that begins after a write was
// acknowledged, or after another read ended, sees at least as much.
type simHistory struct {
	group  *simGroup
	mu     sync.Mutex // guards what follows
	floor  uint64
	reads  int
	writes int
	stale  error
}

// client sends requests to random nodes until the simulation ends.
func (h *simHistory) client(name string, write bool) {
	rng := h.group.seed.Source(name)
	patience := []time.Duration{50 * time.Millisecond, confirmTimeout, 3 * time.Second}
	for began := time.Now(); time.Since(began) < simReadTime; {
		time.Sleep(rand64(rng, 60*time.Millisecond))
		p := h.group.peers[rng.IntN(len(h.group.peers))]
		there, back := rand64(rng, time.Millisecond), rand64(rng, time.Millisecond)
		h.mu.Lock()
		floor := h.floor
		h.mu.Unlock()
		ctx, done := context.WithTimeout(context.Background(), patience[rng.IntN(len(patience))])
		time.Sleep(there)
		if p.awake() {
			var index uint64
			var err error
			if write {
				index, err = p.write(ctx)
			} else {
				index, err = p.read(ctx)
			}
			time.Sleep(back)
			if err == nil {
				h.saw(name, p, write, floor, index)
			}
		}
		done()
	}
}

func (h *simHistory) saw(name string, p *simPeer, write bool, floor, index uint64) {
	h.group.seed.Note("%s: %s up to entry %d, at least %d", name, p.id, index, floor)
	h.mu.Lock()
	defer h.mu.Unlock()
	if write {
		h.writes++
	} else if h.reads++; index < floor && h.stale == nil {
		h.stale = fmt.Errorf("%s read on %s up to entry %d, and before it began up to %d were acknowledged or read", name, p.id, index, floor)
	}
	h.floor = max(h.floor, index)
}

// disturb pauses nodes, lets others stand for election, and cuts links, until the
// simulation ends.
func (g *simGroup) disturb() {
	rng := g.seed.Source("disturb")
	for began := time.Now(); time.Since(began) < simReadTime; time.Sleep(rand64(rng, 700*time.Millisecond)) {
		length := []time.Duration{100 * time.Millisecond, confirmTimeout, 3 * time.Second}[rng.IntN(3)]
		length, wait := rand64(rng, length), rand64(rng, 50*time.Millisecond)
		g.mu.Lock()
		p := g.peers[rng.IntN(len(g.peers))]
		other := g.peers[(p.place+1+rng.IntN(len(g.peers)-1))%len(g.peers)]
		kind := rng.IntN(4)
		if kind == 0 { // the leader, or one that was
			for _, q := range g.peers {
				if q.leading {
					p = q
				}
			}
		}
		link := [2]int{p.place, other.place}
		switch kind {
		case 0, 1:
			g.seed.Note("%s is paused for %v", p.id, length)
			p.pause()
		case 2:
			g.seed.Note("%s hears nothing of %s for %v", other.id, p.id, length)
			g.cut[link] = true
		}
		g.mu.Unlock()
		g.all.Go(func() {
			time.Sleep(wait)
			g.mu.Lock()
			if kind != 2 && other != p && other.asleep == nil && !other.leading && !g.ended {
				other.stand()
			}
			g.mu.Unlock()
			time.Sleep(length)
			g.mu.Lock()
			defer g.mu.Unlock()
			switch kind {
			case 0, 1:
				p.wake()
			case 2:
				delete(g.cut, link)
			}
		})
	}
}

// Whatever is paused, late or lost, and whoever is elected meanwhile, a read sees
// what was acknowledged before it began.
func TestSimReads(t *testing.T) {
	reads, writes, terms := 0, 0, uint64(0)
	sim.Run(t, 150, nil, func(t *testing.T, s *sim.Seed) {
		synctest.Test(t, func(t *testing.T) {
			s.Begin()
			g := newSimGroup(s, []int{3, 3, 5}[s.N%3])
			h := &simHistory{group: g}
			var clients sync.WaitGroup
			g.run()
			for i := range simReaders {
				clients.Go(func() { h.client(fmt.Sprint("reader ", i), false) })
			}
			for i := range simWriters {
				clients.Go(func() { h.client(fmt.Sprint("writer ", i), true) })
			}
			clients.Go(g.disturb)
			clients.Wait()
			g.end()
			if err := errors.Join(g.broken, h.stale); err != nil {
				t.Fatal(err)
			}
			reads, writes, terms = reads+h.reads, writes+h.writes, terms+g.peers[0].term
		})
	})
	t.Logf("%d reads and %d writes were answered, in %d terms", reads, writes, terms)
	if reads == 0 || writes == 0 {
		t.Error("nothing was read or nothing written: the simulation shows nothing")
	}
}

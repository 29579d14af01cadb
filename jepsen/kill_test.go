//go:build unix

package jepsen

import (
	"context"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// writers is how many write to the ledger at a time.
	writers = 4
	// roundWrites is how many writes of keys are acknowledged before each fault,
	// and after it.
	roundWrites = 2000
	// roundTime bounds the wait for them.
	roundTime = 20 * time.Second
	// resumeTime is what is promised: so soon after one node was killed all shards
	// take writes again. An election takes two time-outs of a second at most.
	resumeTime = 5 * time.Second
	// noise is by how much a busy machine may lengthen it before the test fails.
	noise = 2
	// killAllRounds is how often all nodes are killed.
	killAllRounds = 5
)

// load is writers at work.
type load struct {
	t      *testing.T
	h      *harness
	ledger *Ledger
	stop   chan struct{}
	all    *errgroup.Group
}

// startLoad starts writers, every other one through single nodes.
func (h *harness) startLoad(ledger *Ledger, name string) *load {
	h.t.Helper()
	l := &load{t: h.t, h: h, ledger: ledger, stop: make(chan struct{}), all: &errgroup.Group{}}
	for i := range writers {
		route := h.routed()
		if i%2 == 1 {
			route = h.through(i % nodeCount)
		}
		l.all.Go(func() error {
			return ledger.Write(h.t.Context(), l.stop, route.Bucket, fmt.Sprintf("%s-%d", name, i), 0)
		})
	}
	return l
}

// await waits until a number of further writes has been acknowledged.
func (l *load) await(n int) {
	l.t.Helper()
	const poll = 5 * time.Millisecond
	tick := time.NewTicker(poll)
	defer tick.Stop()
	want := l.ledger.Acknowledged() + n
	for end := time.Now().Add(roundTime); l.ledger.Acknowledged() < want; <-tick.C {
		if time.Now().After(end) {
			l.t.Fatalf("%d writes of keys acknowledged in %v, want %d", n-(want-l.ledger.Acknowledged()), roundTime, n)
		}
	}
}

func (l *load) end() {
	l.t.Helper()
	close(l.stop)
	must(l.t, l.all.Wait())
}

// audit checks every key that was ever written.
func (l *load) audit(route Route) int {
	l.t.Helper()
	ctx, done := context.WithTimeout(l.t.Context(), healTime)
	defer done()
	keys, err := l.ledger.Audit(ctx, route.Bucket)
	if err != nil {
		l.t.Errorf("via %s: %v", route.Name, err)
	}
	return keys
}

// TestKillAll kills all nodes at once under load, several times: what was
// acknowledged is on the disks of a majority.
func TestKillAll(t *testing.T) {
	h := startNodes(t)
	prober := h.prober(NewHistory())
	ledger := NewLedger()
	for round := range killAllRounds {
		load := h.startLoad(ledger, fmt.Sprintf("r%d", round))
		load.await(roundWrites)
		must(t, killTogether(h.nodes...))
		load.end()
		for _, p := range h.nodes {
			must(t, p.Start())
		}
		began := time.Now()
		ctx, done := context.WithTimeout(t.Context(), healTime)
		err := prober.Await(ctx)
		done()
		must(t, err)
		took := time.Since(began)
		keys := load.audit(h.routed())
		t.Logf("round %d: all shards take writes %v after the start; %d writes acknowledged so far, %d keys audited",
			round, took.Round(time.Millisecond), ledger.Acknowledged(), keys)
	}
}

// TestKillUnderLoad kills each node in turn, under load.
func TestKillUnderLoad(t *testing.T) {
	h := startNodes(t)
	prober := h.prober(NewHistory())
	asking := h.client(false)
	ledger := NewLedger()
	for _, p := range h.nodes {
		h.awaitWhole(asking)
		load := h.startLoad(ledger, p.Name)
		load.await(roundWrites)
		killed := time.Now()
		must(t, Kill(p.Process))
		ctx, done := context.WithTimeout(t.Context(), noise*resumeTime)
		err := prober.Await(ctx)
		done()
		if err != nil {
			t.Fatalf("%v after node %s was killed: %v", noise*resumeTime, p.Name, err)
		}
		took := time.Since(killed)
		load.await(roundWrites)
		load.end()
		must(t, p.Start())
		keys := load.audit(h.routed())
		t.Logf("node %s killed: all shards take writes after %v, want %v; %d writes acknowledged so far, %d keys audited",
			p.Name, took.Round(time.Millisecond), resumeTime, ledger.Acknowledged(), keys)
	}
}

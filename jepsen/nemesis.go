//go:build unix

package jepsen

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/manykv/manykv/jepsen/vnet"
)

// Nemesis does faults in rounds. The faults of a round overlap, and when the last
// one is undone everybody is left alone for a moment, mostly after every shard takes
// writes again. What is done, and for how
// long, comes from the seed; what it meets does not.
type Nemesis struct {
	Nodes []*Node
	// Net is the network between the nodes, and the clients; nil: the machine's own,
	// on which nothing can be done.
	Net Net
	// Points are places at which a node can be made to die; nil: there are none.
	Points []string
	// Clock says that the nodes' wall clock can be set (Node.Clock).
	Clock bool
	// Leaders returns the node that leads each shard, as far as is known.
	Leaders func(ctx context.Context) map[uint32]string
	// Replace has the node of that name, whose directory is empty now, take its own
	// place, and returns when it has everything. Needed if nodes have disks.
	Replace func(ctx context.Context, node *Node) error
	// Recovered returns when every shard takes writes, or why none does when its
	// context ends. nil: it is never waited for.
	Recovered func(ctx context.Context) error
	History   *History
	Seed      uint64
	// Kinds are the names of the faults to do; default all that can be.
	Kinds []string
	// AtOnce is how many faults a round has at most; default 1.
	AtOnce int
	// First is the kind that is done once, alone, in the first round; may be "".
	First string
	// FirstDone, if there is one, is closed after it.
	FirstDone chan struct{}

	possible []kind

	mu     sync.Mutex // guards the fields below
	held   map[string]bool
	doing  map[*injection]string // the kinds that are being done
	faults []Fault
	skips  int // faults for which nothing was free
}

// Net is what a nemesis does to a network: see jepsen/vnet.
type Net interface {
	// Set makes a link, in one direction.
	Set(from, to string, l vnet.Link)
	// Heal makes all links good.
	Heal()
}

// Clients is the name of the end of the network where all clients are.
const Clients = "clients"

// Run does faults until ctx ends. Then all nodes run, and nothing is wrong with
// them any more.
func (n *Nemesis) Run(ctx context.Context) ([]Fault, error) {
	n.held, n.doing = make(map[string]bool), make(map[*injection]string)
	random := rand.New(rand.NewPCG(n.Seed, 0))
	if err := n.choose(); err != nil {
		return nil, err
	}
	for round := 0; wait(ctx, between(random, settle, longestSettle)); round++ {
		err := errors.Join(n.round(ctx, round, n.plan(random, round)), n.deaths())
		if random.IntN(3) > 0 && err == nil { // else the next round meets what has not recovered
			n.awaited(round)
			err = n.recovered(ctx)
		}
		if round == 0 && n.FirstDone != nil {
			close(n.FirstDone)
		}
		if err != nil {
			return n.faults, err
		}
	}
	return n.faults, nil
}

// awaited marks the faults of a round after which nothing is done until every shard
// takes writes.
func (n *Nemesis) awaited(round int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i := range n.faults {
		if n.faults[i].Round == round {
			n.faults[i].Awaited = true
		}
	}
}

// recovered waits until every shard takes writes again. Without that, faults in quick
// succession would find nothing that was acknowledged since the last one.
func (n *Nemesis) recovered(ctx context.Context) error {
	if n.Recovered == nil {
		return nil
	}
	within, done := context.WithTimeout(ctx, stuckTime)
	defer done()
	if err := n.Recovered(within); err != nil && ctx.Err() == nil {
		return fmt.Errorf("nothing is wrong any more, and after %v %w", stuckTime, err)
	}
	return nil
}

// choose finds the kinds that can be done.
func (n *Nemesis) choose() error {
	known := make(map[string]bool)
	for _, k := range kinds() {
		known[k.name] = true
		if n.can(k.needs) && (n.Kinds == nil || slices.Contains(n.Kinds, k.name)) {
			n.possible = append(n.possible, k)
		}
	}
	for _, name := range append(slices.Clone(n.Kinds), n.First) {
		if name != "" && !known[name] {
			return fmt.Errorf("nemesis: no fault is named %q; there are %q", name, slices.Sorted(maps.Keys(known)))
		}
	}
	if len(n.possible) == 0 {
		return fmt.Errorf("nemesis: none of the faults %q can be done here", n.Kinds)
	}
	return nil
}

func (n *Nemesis) can(needs need) bool {
	const five = 5
	return (needs&needsNet == 0 || n.Net != nil) &&
		(needs&needsDisks == 0 || n.Nodes[0].Disk != nil) &&
		(needs&needsPoints == 0 || n.Points != nil) &&
		(needs&needsClock == 0 || n.Clock) &&
		(needs&needsFive == 0 || len(n.Nodes) >= five)
}

// planned is a fault that is to be done.
type planned struct {
	kind  kind
	after time.Duration // the round's beginning
	seed  uint64
}

// plan draws the faults of a round.
func (n *Nemesis) plan(random *rand.Rand, round int) []planned {
	if round == 0 && n.First != "" {
		for _, k := range kinds() {
			if k.name == n.First {
				return []planned{{kind: k, seed: random.Uint64()}}
			}
		}
	}
	faults := []planned{{kind: n.draw(random), seed: random.Uint64()}}
	for len(faults) < n.AtOnce && random.IntN(2) == 0 {
		faults = append(faults, planned{n.draw(random), between(random, 0, latestBegin), random.Uint64()})
	}
	return faults
}

// draw draws a kind by weight.
func (n *Nemesis) draw(random *rand.Rand) kind {
	total := 0
	for _, k := range n.possible {
		total += k.weight
	}
	at := random.IntN(total)
	for _, k := range n.possible {
		if at -= k.weight; at < 0 {
			return k
		}
	}
	panic("unreachable: at is less than the total")
}

// deaths says which nodes ended by themselves: there is no use in going on then.
func (n *Nemesis) deaths() error {
	var errs []error
	for _, node := range n.Nodes {
		errs = append(errs, node.Deaths())
	}
	return errors.Join(errs...)
}

func (n *Nemesis) round(ctx context.Context, round int, faults []planned) error {
	var all errgroup.Group
	for _, p := range faults {
		all.Go(func() error {
			if !wait(ctx, p.after) {
				return nil
			}
			return n.do(ctx, round, p)
		})
	}
	return all.Wait()
}

// do does one fault, if what it needs is free.
func (n *Nemesis) do(ctx context.Context, round int, p planned) error {
	j := &injection{n: n, ctx: ctx, rand: rand.New(rand.NewPCG(p.seed, 0)), fault: Fault{Kind: p.kind.name, Round: round}}
	n.mu.Lock()
	n.doing[j] = p.kind.name
	n.mu.Unlock()
	err := p.kind.do(j)
	j.fault.End = n.History.Now()
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.doing, j)
	for _, what := range j.held {
		delete(n.held, what)
	}
	if errors.Is(err, errTaken) {
		n.skips++
		return nil
	}
	n.faults = append(n.faults, j.fault)
	if err != nil {
		return fmt.Errorf("%s %v: %w", j.fault.Kind, j.fault.Nodes, err)
	}
	return nil
}

// Now is how many faults there were, and which are being done.
func (n *Nemesis) Now() (faults int, doing []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.faults), slices.Sorted(maps.Values(n.doing))
}

// Skipped is how many faults were not done because another one held what they
// needed.
func (n *Nemesis) Skipped() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.skips
}

// between draws a time from a span.
func between(random *rand.Rand, shortest, longest time.Duration) time.Duration {
	return shortest + time.Duration(random.Int64N(int64(longest-shortest)))
}

// wait returns true after d, false as soon as ctx ends.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

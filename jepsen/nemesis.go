//go:build unix

package jepsen

import (
	"context"
	"errors"
	"math/rand/v2"
	"syscall"
	"time"
)

const (
	// soonest and latest bound the time from the beginning of one fault to that
	// of the next.
	soonest, latest = 1500 * time.Millisecond, 3 * time.Second
	// settle is how long all nodes are left alone, at least, between two faults:
	// shorter than an election, so that the next one may meet it.
	settle = 300 * time.Millisecond
	// shortestPause and longestPause bound a pause: from well below an election
	// time-out (1 s) to several.
	shortestPause, longestPause = 100 * time.Millisecond, 5 * time.Second
	// shortestDown and longestDown bound the time before a killed node is started
	// again.
	shortestDown, longestDown = 300 * time.Millisecond, 2 * time.Second
	// newLeader is how long to wait for the one that follows a paused leader.
	newLeader = 4 * time.Second
	// ask is how often the nodes are asked who leads, and how long they may take:
	// a paused one does not answer.
	ask = 200 * time.Millisecond
	// killAllAfter is how many faults come before all nodes are killed at once.
	killAllAfter = 2
)

// Nemesis does one fault after the other, each from its random numbers.
type Nemesis struct {
	Nodes []*Process
	// Leaders returns the node that leads each shard, as far as is known.
	Leaders func(ctx context.Context) map[uint32]string
	History *History
	Rand    *rand.Rand
	// KilledAll is closed when all nodes have been killed at once, which is done
	// once.
	KilledAll chan struct{}
}

// Run does faults until ctx ends. Then all nodes run.
func (n *Nemesis) Run(ctx context.Context) ([]Fault, error) {
	var faults []Fault
	rest := n.between(soonest, latest)
	for n.wait(ctx, rest) {
		f := Fault{Begin: n.History.Now()}
		var err error
		if len(faults) == killAllAfter {
			err = n.killAll(ctx, &f)
			close(n.KilledAll)
		} else {
			err = n.once(ctx, &f)
		}
		f.End = n.History.Now()
		faults = append(faults, f)
		if err != nil {
			return faults, err
		}
		rest = max(settle, n.between(soonest, latest)-time.Duration(f.End-f.Begin))
	}
	return faults, nil
}

// once does one fault of a random kind.
func (n *Nemesis) once(ctx context.Context, f *Fault) error {
	switch k := n.Rand.IntN(10); {
	case k < 2:
		f.Kind = KillNode
		return n.kill(ctx, f, n.Nodes[n.Rand.IntN(len(n.Nodes))])
	case k < 5:
		f.Kind = KillLeader
		_, leader := n.leader(ctx)
		return n.kill(ctx, f, leader)
	case k < 8:
		f.Kind = Pause
		_, leader := n.leader(ctx)
		return n.pause(ctx, f, leader)
	default:
		f.Kind = PauseTwo
		return n.pauseTwo(ctx, f)
	}
}

// leader returns a random shard and the node that leads it. When nobody knows
// of a leader, a random node stands for it.
func (n *Nemesis) leader(ctx context.Context) (shard uint32, node *Process) {
	leaders := n.leaders(ctx)
	shard = uint32(n.Rand.IntN(max(1, len(leaders))))
	for _, p := range n.Nodes {
		if p.Name == leaders[shard] {
			return shard, p
		}
	}
	return shard, n.Nodes[n.Rand.IntN(len(n.Nodes))]
}

func (n *Nemesis) leaders(ctx context.Context) map[uint32]string {
	ctx, done := context.WithTimeout(ctx, ask)
	defer done()
	return n.Leaders(ctx)
}

func (n *Nemesis) kill(ctx context.Context, f *Fault, node *Process) error {
	f.Nodes = []string{node.Name}
	if err := Kill(node); err != nil {
		return err
	}
	n.wait(ctx, n.between(shortestDown, longestDown))
	return node.Start()
}

func (n *Nemesis) killAll(ctx context.Context, f *Fault) error {
	f.Kind = KillAll
	for _, p := range n.Nodes {
		f.Nodes = append(f.Nodes, p.Name)
	}
	if err := Kill(n.Nodes...); err != nil {
		return err
	}
	n.wait(ctx, n.between(shortestDown, longestDown))
	var errs []error
	for _, p := range n.Nodes {
		errs = append(errs, p.Start())
	}
	return errors.Join(errs...)
}

func (n *Nemesis) pause(ctx context.Context, f *Fault, node *Process) error {
	f.Nodes = []string{node.Name}
	if err := node.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	n.wait(ctx, n.pauseTime())
	return node.Signal(syscall.SIGCONT)
}

// pauseTwo pauses the leader of a shard, then the one that follows it, and lets
// them go on one after the other: the first wakes with acknowledgements in its
// socket that are older than what the second has done since.
func (n *Nemesis) pauseTwo(ctx context.Context, f *Fault) error {
	shard, first := n.leader(ctx)
	f.Nodes = []string{first.Name}
	if err := first.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	second := n.successor(ctx, shard, first)
	if second == nil {
		return first.Signal(syscall.SIGCONT)
	}
	n.wait(ctx, n.between(0, settle)) // let it write something
	f.Nodes = append(f.Nodes, second.Name)
	if err := second.Signal(syscall.SIGSTOP); err != nil {
		return errors.Join(err, first.Signal(syscall.SIGCONT))
	}
	order := []*Process{first, second}
	if n.Rand.IntN(4) == 0 {
		order = []*Process{second, first}
	}
	n.wait(ctx, n.pauseTime()/2)
	err := order[0].Signal(syscall.SIGCONT)
	n.wait(ctx, n.pauseTime()/2)
	return errors.Join(err, order[1].Signal(syscall.SIGCONT))
}

// successor waits until another node leads a shard; nil if none did in time.
func (n *Nemesis) successor(ctx context.Context, shard uint32, first *Process) *Process {
	for end := time.Now().Add(newLeader); time.Now().Before(end) && ctx.Err() == nil; {
		leader := n.leaders(ctx)[shard]
		for _, p := range n.Nodes {
			if p.Name == leader && p != first {
				return p
			}
		}
		n.wait(ctx, ask/4)
	}
	return nil
}

// pauseTime is the length of a pause: more short ones than long ones, since
// what a pause breaks depends on how it compares to an election.
func (n *Nemesis) pauseTime() time.Duration {
	x := n.Rand.Float64()
	return shortestPause + time.Duration(x*x*float64(longestPause-shortestPause))
}

func (n *Nemesis) between(least, most time.Duration) time.Duration {
	return least + time.Duration(n.Rand.Int64N(int64(most-least)))
}

// wait waits; false if ctx ended first.
func (n *Nemesis) wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

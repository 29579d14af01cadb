//go:build unix

package jepsen

import (
	"errors"
	"fmt"
	"syscall"
	"time"
)

// The faults of processes.

func (j *injection) killNode() error { return j.kill(j.node()) }

func (j *injection) killLeader() error {
	_, leader := j.leader()
	return j.kill(leader)
}

func (j *injection) killMajority() error { return j.kill(j.some(len(j.n.Nodes)/2 + 1)...) }

func (j *injection) killAll() error { return j.kill(j.n.Nodes...) }

// kill kills nodes at once, and starts them again.
func (j *injection) kill(nodes ...*Node) error {
	if err := j.holdNodes(nodes...); err != nil {
		return err
	}
	if err := killTogether(nodes...); err != nil {
		return err
	}
	j.wait(shortestDown, longestDown)
	return startTogether(nodes...)
}

func killTogether(nodes ...*Node) error {
	processes := make([]*Process, len(nodes))
	for i, node := range nodes {
		processes[i] = node.Process
	}
	return Kill(processes...)
}

func startTogether(nodes ...*Node) error {
	var errs []error
	for _, node := range nodes {
		errs = append(errs, node.Start())
	}
	return errors.Join(errs...)
}

func (j *injection) pauseLeader() error {
	_, leader := j.leader()
	if err := j.holdNodes(leader); err != nil {
		return err
	}
	if err := leader.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	j.wait(shortestPause, longestPause)
	return leader.Signal(syscall.SIGCONT)
}

// pauseTwo pauses the leader of a shard, then the one that follows it, and lets
// both go on together: two that believe they lead.
func (j *injection) pauseTwo() error {
	shard, first := j.leader()
	if err := j.holdNodes(first); err != nil {
		return err
	}
	if err := first.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	paused := []*Node{first}
	if second := j.follower(shard, first); second != nil && j.hold(processOf(second)) == nil {
		j.fault.Nodes = append(j.fault.Nodes, second.Name)
		if err := second.Signal(syscall.SIGSTOP); err != nil {
			return errors.Join(err, first.Signal(syscall.SIGCONT))
		}
		paused = append(paused, second)
	}
	j.wait(shortestPause, longestPause/2)
	var errs []error
	for _, node := range paused {
		errs = append(errs, node.Signal(syscall.SIGCONT))
	}
	return errors.Join(errs...)
}

// follower waits for the leader of a shard after another; nil if none is found in
// time.
func (j *injection) follower(shard uint32, after *Node) *Node {
	for end := time.Now().Add(newLeader); time.Now().Before(end); {
		name := j.leaders()[shard]
		for _, node := range j.n.Nodes {
			if node.Name == name && node != after {
				return node
			}
		}
		if !wait(j.ctx, ask) {
			return nil
		}
	}
	return nil
}

// stopTime is how long a node may take to end after SIGTERM: it hands over its
// shards first, which takes longer while something else is wrong.
const stopTime = 30 * time.Second

// rolling stops and starts one node after the other, as an upgrade does.
func (j *injection) rolling() error {
	if err := j.holdNodes(j.n.Nodes...); err != nil {
		return err
	}
	for _, node := range j.n.Nodes {
		if err := errors.Join(node.Stop(stopTime), node.Start()); err != nil {
			return err
		}
		j.wait(shortestDown, longestDown)
		if j.ctx.Err() != nil {
			return nil
		}
	}
	return nil
}

const (
	// mostPasses is how often a node may come by a point before it dies there, as a
	// power of two.
	mostPasses = 8
	// pointTime is how long a node may take to come by a point.
	pointTime = 5 * time.Second
)

// crashPoint starts a node again so that it dies at a named place in the code, and
// once more without that.
func (j *injection) crashPoint() error {
	node, point := j.node(), j.n.Points[j.rand.IntN(len(j.n.Points))]
	passes := 1 << j.rand.IntN(mostPasses)
	if err := j.holdNodes(node); err != nil {
		return err
	}
	if err := killTogether(node); err != nil {
		return err
	}
	if err := node.StartWith(fmt.Sprintf("MANYKV_CRASH=%s:%d", point, passes)); err != nil {
		return err
	}
	node.expectEnd()
	died := node.gone(pointTime)
	j.detail("%s, pass %d: %s", point, passes, map[bool]string{true: "died", false: "did not come by"}[died])
	if err := killTogether(node); err != nil {
		return err
	}
	j.wait(shortestDown, longestDown)
	return node.Start()
}

// clockJump sets a node's wall clock ahead or back, and right again.
func (j *injection) clockJump() error {
	const furthest = 300 * 24 * time.Hour // certificates end after a year
	node := j.node()
	if err := j.hold("clock " + node.Name); err != nil {
		return err
	}
	j.fault.Nodes = []string{node.Name}
	by := between(j.rand, -30*time.Minute, time.Hour) // certificates begin an hour before they are made
	if j.rand.IntN(2) == 0 {
		by = between(j.rand, 0, furthest)
	}
	j.detail("by %v", by.Round(time.Second))
	if err := node.Clock(by); err != nil {
		return err
	}
	j.wait(shortestCut, longestCut)
	return node.Clock(0)
}

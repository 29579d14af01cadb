//go:build unix

package jepsen

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// injection is one fault under way.
type injection struct {
	n *Nemesis
	// ctx ends when the run does: then the fault is undone at once.
	ctx   context.Context
	rand  *rand.Rand
	fault Fault
	held  []string // what no other fault touches meanwhile
}

// errTaken says that another fault holds what this one needs.
var errTaken = errors.New("taken by another fault")

// What can be held besides a node's process and disk.
const (
	theNet       = "net"
	theCorrupted = "corrupted" // at most one node has wrong bytes at a time
)

func processOf(node *Node) string { return "process " + node.Name }
func diskOf(node *Node) string    { return "disk " + node.Name }

// hold takes everything, or nothing and returns errTaken. The fault begins now.
func (j *injection) hold(what ...string) error {
	j.n.mu.Lock()
	defer j.n.mu.Unlock()
	for _, w := range what {
		if j.n.held[w] {
			return errTaken
		}
	}
	for _, w := range what {
		j.n.held[w] = true
	}
	j.held = append(j.held, what...)
	j.fault.Begin = j.n.History.Now()
	return nil
}

// holdNodes takes the processes of nodes, which the fault is about.
func (j *injection) holdNodes(nodes ...*Node) error {
	var what []string
	for _, node := range nodes {
		what = append(what, processOf(node))
	}
	j.names(nodes...)
	return j.hold(what...)
}

// wait waits for a time that is drawn from a span, or until the run ends.
func (j *injection) wait(shortest, longest time.Duration) {
	wait(j.ctx, between(j.rand, shortest, longest))
}

// node returns any node.
func (j *injection) node() *Node { return j.n.Nodes[j.rand.IntN(len(j.n.Nodes))] }

// some returns n nodes.
func (j *injection) some(n int) []*Node {
	nodes := make([]*Node, n)
	for i, at := range j.rand.Perm(len(j.n.Nodes))[:n] {
		nodes[i] = j.n.Nodes[at]
	}
	return nodes
}

// leader returns a shard and the node that leads it. When nobody knows of a
// leader, any node stands for it.
func (j *injection) leader() (shard uint32, node *Node) {
	leaders := j.leaders()
	shard = uint32(j.rand.IntN(max(1, len(leaders))))
	if at := slices.IndexFunc(j.n.Nodes, func(node *Node) bool { return node.Name == leaders[shard] }); at >= 0 {
		return shard, j.n.Nodes[at]
	}
	return shard, j.node()
}

func (j *injection) leaders() map[uint32]string {
	ctx, done := context.WithTimeout(j.ctx, ask)
	defer done()
	return j.n.Leaders(ctx)
}

// detail says more about the fault.
func (j *injection) detail(format string, a ...any) { j.fault.Detail = fmt.Sprintf(format, a...) }

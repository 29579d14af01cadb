package cluster

import (
	"context"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/manykv/manykv/sharding"
)

const (
	// settled is how long a leader has led before it is moved, so that an
	// election's aftermath is not disturbed by another.
	settled = 2 * electionTimeout
	// transferPause is how long to wait after a transfer that failed.
	transferPause = 10 * time.Second
	// transferLag is how many entries the next leader may be behind: raft stops
	// taking proposals while it catches up.
	transferLag = 1000
)

// spreadState is what the control goroutine remembers of a shard it leads.
type spreadState struct {
	since time.Time // leading since
	next  time.Time // no transfer before
}

// spread moves the leadership of one shard to the node the map names first, if
// that node is there and has caught up. One at a time: the control goroutine
// waits for it.
func (n *Node) spread() {
	m := n.current.Load()
	if m == nil || n.stopping.Load() {
		return
	}
	now := time.Now()
	for _, r := range n.replicaSet() {
		state, leading := n.led[r.shard]
		switch {
		case !r.leads():
			delete(n.led, r.shard)
			continue
		case !leading:
			n.led[r.shard] = spreadState{since: now}
			continue
		case now.Sub(state.since) < settled || now.Before(state.next):
			continue
		}
		want, ok := shouldLead(m, r)
		if !ok || want == n.self || !n.isHere(m, want) {
			continue
		}
		state.next = now.Add(transferPause)
		n.led[r.shard] = state
		if err := n.transfer(r, want); err != nil {
			n.cfg.Logger.Info("leadership not transferred", "shard", r.shard, "to", want, "error", err)
			continue
		}
		n.cfg.Logger.Info("leadership transferred", "shard", r.shard, "to", want)
		return
	}
}

// shouldLead returns the server that should lead a shard: the map's first that
// stays. false while that has no vote.
func shouldLead(m *sharding.Map, r *replica) (raft.ServerID, bool) {
	g := m.Group(r.shard)
	for _, id := range g.Replicas {
		if node, ok := m.Node(id); ok && id != g.Removing {
			return serverOf(node), slices.Contains(r.voters(), serverOf(node))
		}
	}
	return "", false
}

// transfer hands a shard to the server that should lead it.
func (n *Node) transfer(r *replica, to raft.ServerID) error {
	ctx, done := context.WithTimeout(n.ctx, handOverTimeout)
	defer done()
	if err := n.caughtUp(ctx, r, to); err != nil {
		return err
	}
	return r.handOver(ctx, to)
}

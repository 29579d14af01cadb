package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/manykv/manykv/coordinator"
	"github.com/manykv/manykv/sharding"
	"github.com/manykv/manykv/transport/raftnet"
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
		want := m.Group(r.shard).Replicas[0]
		if want == n.name || !n.gossip.alive(want) {
			continue
		}
		state.next = now.Add(transferPause)
		n.led[r.shard] = state
		if err := n.transfer(r, m, want); err != nil {
			n.cfg.Logger.Info("leadership not transferred", "shard", r.shard, "to", want, "error", err)
			continue
		}
		n.cfg.Logger.Info("leadership transferred", "shard", r.shard, "to", want)
		return
	}
}

// transfer hands a shard to the node that should lead it.
func (n *Node) transfer(r *replica, m *sharding.Map, to sharding.NodeID) error {
	node, ok := m.Node(to)
	if !ok {
		return fmt.Errorf("node %s is not of the map", to)
	}
	ctx, done := context.WithTimeout(n.ctx, handOverTimeout)
	defer done()
	if err := n.caughtUp(ctx, r, to); err != nil {
		return err
	}
	return r.handOver(ctx, raft.ServerID(raftnet.Address(string(to), node.Storage)))
}

// caughtUp says why a node cannot take a shard over yet.
func (n *Node) caughtUp(ctx context.Context, r *replica, to sharding.NodeID) error {
	b, err := n.call(ctx, to, coordinator.MethodStatus, nil)
	if err != nil {
		return err
	}
	var s coordinator.NodeStatus
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("status of node %s: %w", to, err)
	}
	for _, theirs := range s.Shards {
		if theirs.Shard != r.shard {
			continue
		}
		if ours := r.status().Last; theirs.Last+transferLag < ours {
			return fmt.Errorf("node %s is %d entries behind", to, ours-theirs.Last)
		}
		return nil
	}
	return fmt.Errorf("node %s has no replica of shard %d yet", to, r.shard)
}

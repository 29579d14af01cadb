package cluster

import (
	"context"
	"errors"
	"fmt"
)

// Ready says why the node cannot serve, or nil after it has had a read confirmed by a
// majority: of the meta group, which every batch depends on. That one data shard is
// without a leader for a moment does not make every node that holds it unready, since
// the other shards are served.
func (n *Node) Ready(ctx context.Context) error {
	if err := n.Err(); err != nil {
		return err
	}
	if n.stopping.Load() {
		return errors.New("the node stops")
	}
	if why := n.waiting.Load(); why != nil {
		return errors.New(*why)
	}
	if n.current.Load() == nil {
		return errors.New("the cluster is being founded, or is not found yet")
	}
	for _, r := range n.replicaSet() {
		if bad := r.bad.Load(); bad != nil {
			return fmt.Errorf("shard %d: %w", r.shard, *bad)
		}
	}
	if _, err := n.confirmedMap(ctx); err != nil {
		return fmt.Errorf("no read was confirmed: %w", err)
	}
	return nil
}

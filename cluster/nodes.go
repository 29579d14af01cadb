package cluster

import (
	"context"
	"errors"
	"fmt"

	"github.com/manykv/manykv/coordinator"
	"github.com/manykv/manykv/fsm"
	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

// The commands of an operator about nodes. They change the map and return; what
// follows from it, the moves, goes on by itself (move.go) and is seen in the map.

// serveNodes does a node operation, if this node leads the meta group.
func (n *Node) serveNodes(ctx context.Context, request []byte) ([]byte, error) {
	q, err := coordinator.DecodeNodeRequest(request)
	if err != nil {
		return nil, err
	}
	meta := n.replica(sharding.Meta)
	if meta == nil || !meta.leads() || n.catalog.Map() == nil {
		return coordinator.NodeAnswer{Status: coordinator.StatusNotLeader, Leader: n.leaderOf(sharding.Meta)}.Append(nil), nil
	}
	switch q.Op {
	case coordinator.NodeAdd:
		err = n.addNode(ctx, q.Addr)
	case coordinator.NodeReplace:
		err = n.replaceNode(ctx, q.Node, q.Addr)
	default:
		err = n.removeNode(ctx, q.Node, q.Heir)
	}
	switch {
	case errors.Is(err, errNotLeader):
		return coordinator.NodeAnswer{Status: coordinator.StatusNotLeader, Leader: meta.leader()}.Append(nil), nil
	case err != nil:
		return coordinator.NodeAnswer{Status: coordinator.StatusRefused, Code: kv.CodeOf(err), Detail: err.Error()}.Append(nil), nil
	}
	return coordinator.NodeAnswer{}.Append(nil), nil
}

// addNode takes the node at an address into the cluster.
func (n *Node) addNode(ctx context.Context, addr string) error {
	node, err := n.meet(ctx, addr)
	if err != nil {
		return err
	}
	return n.decideNodes(ctx, fsm.AppendAddNode(nil, node))
}

// replaceNode puts the node at an address in the place of one that is lost: one of
// the same name with another data directory gets what that had, one of another name
// joins and gets the replicas of the old one, which leaves.
func (n *Node) replaceNode(ctx context.Context, id sharding.NodeID, addr string) error {
	node, err := n.meet(ctx, addr)
	if err != nil {
		return err
	}
	if known, ok := n.catalog.Map().Node(id); !ok {
		return fmt.Errorf("%w: node %s is not of the cluster", kv.ErrInvalid, id)
	} else if node.ID == id && known.Storage == node.Storage {
		return fmt.Errorf("%w: at %s is node %s as the cluster knows it, nothing is to be replaced", kv.ErrInvalid, addr, id)
	}
	if node.ID != id && holdsAny(n.catalog.Map(), node.ID) {
		return fmt.Errorf("%w: at %s is node %s, which holds shards of the cluster already; `manykv node remove %s` moves what %s holds to the others",
			kv.ErrInvalid, addr, node.ID, id, id)
	}
	if node.ID == id {
		return n.decideNodes(ctx, fsm.AppendReplaceNode(nil, id, node.Storage, node.Addr))
	}
	if err := n.decideNodes(ctx, fsm.AppendAddNode(nil, node)); err != nil {
		return err
	}
	return n.decideNodes(ctx, fsm.AppendRemoveNode(nil, id, node.ID))
}

// removeNode makes a node leave; heir gets its replicas before others, unless it is
// "".
func (n *Node) removeNode(ctx context.Context, id, heir sharding.NodeID) error {
	return n.decideNodes(ctx, fsm.AppendRemoveNode(nil, id, heir))
}

// helloTries: the connection to a node that has just started again may be one to the
// process before.
const helloTries = 3

// meet asks who is at an address. A node of another cluster is refused.
func (n *Node) meet(ctx context.Context, addr string) (sharding.Node, error) {
	var h hello
	var err error
	for range helloTries {
		if h, err = n.sayHello(ctx, addr); err == nil || ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		return sharding.Node{}, fmt.Errorf("%w: no node answers at %s: %w", kv.ErrInvalid, addr, err)
	}
	if own := n.founded.Load(); h.Founded != nil && h.Founded.Cluster != own.Cluster {
		return sharding.Node{}, fmt.Errorf("%w: node %s at %s is of cluster %s, this is %s",
			kv.ErrInvalid, h.Node.ID, addr, clusterName(h.Founded.Cluster), clusterName(own.Cluster))
	}
	return h.Node, nil
}

// decideNodes changes the map and wakes who carries the change out.
func (n *Node) decideNodes(ctx context.Context, command []byte) error {
	_, err := n.decide(ctx, command)
	kick(n.work)
	return err
}

package client

import (
	"context"
	"fmt"

	"github.com/manykv/manykv/coordinator"
	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

// Nodes returns the cluster's map as of now: its nodes, its shards and where they
// are. Nobody may change it.
func (c *Client) Nodes(ctx context.Context) (*sharding.Map, error) {
	ctx, done := c.deadline(ctx)
	defer done()
	m, err := c.fetchMap(ctx, c.coord.Map().Epoch)
	if err != nil {
		return nil, fmt.Errorf("%w: the cluster's map: %w", kv.ErrUnavailable, err)
	}
	if m != nil {
		c.coord.UseMap(m)
	}
	return c.coord.Map(), nil
}

// AddNode has the node that answers at addr ("host:port") join the cluster. It
// returns when that is decided; replicas are moved to the node afterwards, and
// Nodes shows how far that is. kv.ErrUnknown: it may have joined. Like Status and
// the other calls about nodes it goes to the nodes themselves, also with
// Config.Through.
func (c *Client) AddNode(ctx context.Context, addr string) error {
	ctx, done := c.deadline(ctx)
	defer done()
	return c.coord.AddNode(ctx, addr)
}

// RemoveNode has a node leave the cluster: its replicas are moved to others, then
// it is no longer in Nodes. It returns when that is decided. Errors as AddNode's.
func (c *Client) RemoveNode(ctx context.Context, name string) error {
	ctx, done := c.deadline(ctx)
	defer done()
	return c.coord.RemoveNode(ctx, sharding.NodeID(name))
}

// ReplaceNode has the node that answers at addr take the place of the node of that
// name: the same node with an empty data directory, or another. It returns when
// that is decided. Errors as AddNode's.
func (c *Client) ReplaceNode(ctx context.Context, name, addr string) error {
	ctx, done := c.deadline(ctx)
	defer done()
	return c.coord.ReplaceNode(ctx, sharding.NodeID(name), addr)
}

// Hash asks a node for the hash of its replica of a shard: of how many rows it is,
// and the log position they are of. Replicas of one shard at one position must
// have one hash.
func (c *Client) Hash(ctx context.Context, node sharding.NodeID, shard sharding.Shard) (index, term, hash, rows uint64, err error) {
	ctx, done := c.deadline(ctx)
	defer done()
	b, err := c.call(ctx, node, coordinator.MethodHash, coordinator.AppendHashRequest(nil, shard))
	var a coordinator.HashAnswer
	if err == nil {
		a, err = coordinator.DecodeHashAnswer(b)
	}
	if err != nil {
		return 0, 0, 0, 0, fmt.Errorf("%w: the hash of shard %d on node %s: %w", kv.ErrUnavailable, shard, node, err)
	}
	return a.Index, a.Term, a.Hash, a.Rows, nil
}

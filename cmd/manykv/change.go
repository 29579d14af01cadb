package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/manykv/manykv/client"
	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

// change is a change of the cluster's nodes.
type change struct {
	what   string
	agreed func(ctx context.Context, m *sharding.Map) error // before it is done, with the map of then
	do     func(ctx context.Context, c *client.Client) error
	done   func(m *sharding.Map, v *view) bool // besides that nothing moves
	remark string                              // what else is to be said when it is done
}

// adding makes the node at an address one of the cluster. The address may be
// another than the node calls its own: the node is known by being new.
func adding(addr string) *change {
	var before []sharding.Node
	ch := &change{
		what: "add the node at " + addr,
		agreed: func(_ context.Context, m *sharding.Map) error {
			before = m.Nodes
			return nil
		},
		do: func(ctx context.Context, c *client.Client) error { return c.AddNode(ctx, addr) },
	}
	ch.done = func(m *sharding.Map, v *view) bool {
		if slices.ContainsFunc(m.Nodes, func(n sharding.Node) bool { return !among(before, n) }) {
			return true
		}
		if !v.confirms(m) {
			return false
		}
		ch.remark = fmt.Sprintf("the node at %s was of the cluster already", addr)
		return true
	}
	return ch
}

// removing takes a node off the cluster.
func removing(id sharding.NodeID) *change {
	return &change{
		what: "remove " + string(id),
		do:   func(ctx context.Context, c *client.Client) error { return c.RemoveNode(ctx, string(id)) },
		done: func(m *sharding.Map, _ *view) bool {
			_, ok := m.Node(id)
			return !ok
		},
	}
}

// replacing gives the place of a node to the one at an address: the node has
// another data directory then, or, if the other has a name of its own, is gone.
func replacing(id sharding.NodeID, addr string) *change {
	old := uint64(0)
	return &change{
		what: "replace " + string(id),
		agreed: func(_ context.Context, m *sharding.Map) error {
			n, _ := m.Node(id)
			old = n.Storage
			return nil
		},
		do: func(ctx context.Context, c *client.Client) error { return c.ReplaceNode(ctx, string(id), addr) },
		done: func(m *sharding.Map, v *view) bool {
			n, ok := m.Node(id)
			return !ok || n.Storage != old && v.follows(m, id)
		},
	}
}

// among says whether a node with its data directory is one of nodes.
func among(nodes []sharding.Node, n sharding.Node) bool {
	return slices.ContainsFunc(nodes, func(other sharding.Node) bool { return other.ID == n.ID && other.Storage == n.Storage })
}

// confirms says whether a map holds all that was decided before the view's nodes
// were asked: it is as new as that of the meta group's leader, and a majority of the
// group answered, so that nobody of a later term was missed.
func (v *view) confirms(m *sharding.Map) bool {
	if len(v.Shards) == 0 || v.Shards[0].Shard != sharding.Meta || v.Shards[0].Leader == "" {
		return false
	}
	meta := &v.Shards[0]
	voters, answered := 0, 0
	for _, r := range meta.Replicas {
		if r.Nonvoter {
			continue
		}
		voters++
		if r.Role != stateUnreachable {
			answered++
		}
	}
	for _, n := range v.Nodes {
		if n.Node == meta.Leader {
			return 2*answered > voters && n.Epoch <= m.Epoch
		}
	}
	return false
}

func (p *program) changeNodes(ctx context.Context, w *waiting, ch *change) (err error) {
	if err := w.check(); err != nil {
		return err
	}
	c, err := p.dial(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if ch.agreed != nil {
		m, err := c.Nodes(ctx)
		if err != nil {
			return err
		}
		if err := ch.agreed(ctx, m); err != nil {
			return err
		}
	}
	if err := ch.do(ctx, c); err != nil {
		err = fmt.Errorf("%s: %w", ch.what, err)
		if errors.Is(err, kv.ErrUnknown) {
			return hinted{err, "'manykv node list' shows whether it was done"}
		}
		return err
	}
	if !w.wait {
		return nil
	}
	if err := p.awaitChange(ctx, w.within, c, ch); err != nil {
		return hinted{fmt.Errorf("%s: %w", ch.what, err), "the cluster goes on with it; 'manykv status --watch' shows how far it is"}
	}
	p.stderr.printf("%s: done\n", ch.what)
	if ch.remark != "" {
		p.stderr.printf("%s\n", ch.remark)
	}
	return nil
}

// awaitChange asks until a change is done and nothing moves any more. A question
// that is not answered is asked again.
func (p *program) awaitChange(ctx context.Context, within time.Duration, c statuser, ch *change) error {
	if within > 0 {
		var done context.CancelFunc
		ctx, done = context.WithTimeoutCause(ctx, within, fmt.Errorf("not done after %v", within))
		defer done()
	}
	news := newNews("waiting for the cluster's answer")
	start := time.Now()
	shown := startProgress(p.stderr, p.terminal, func() string {
		return fmt.Sprintf("%s: %s, %.0f s", ch.what, news.get(), time.Since(start).Seconds())
	})
	defer shown.Close()
	for {
		left, err := stillMissing(ctx, c, ch)
		if err == nil && left == "" {
			return nil
		}
		if err != nil {
			left = err.Error()
		}
		news.set(left)
		select {
		case <-time.After(pollEvery):
		case <-ctx.Done():
			return fmt.Errorf("%w: %s", context.Cause(ctx), left)
		}
	}
}

// stillMissing says what a change still waits for; "" if for nothing.
func stillMissing(ctx context.Context, c statuser, ch *change) (string, error) {
	statuses, err := c.Status(ctx)
	if err != nil {
		return "", err
	}
	m, err := c.Nodes(ctx)
	if err != nil {
		return "", err
	}
	v := newView(statuses, m)
	if g := m.Moving(); g != nil {
		return sharding.Move{Shard: g.Shard, Adding: g.Adding, Removing: g.Removing}.String() + " is under way", nil
	}
	if mv, ok := m.NextMove(); ok {
		return mv.String() + " is next", nil
	}
	if !ch.done(m, &v) {
		return "it is being completed", nil
	}
	return "", nil
}

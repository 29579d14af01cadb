package coordinator

import (
	"context"
	"errors"
	"fmt"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
	"github.com/manykv/manykv/transport"
)

// metaCall is a request to the leader of the meta group, whoever that is.
type metaCall struct {
	method  byte
	request []byte
	lost    error // the class of a request that may have been run without an answer
	once    bool  // such a request cannot be sent again, so that a node is waited for to the end
	// take decodes an answer: how the node took the request, who leads, and the
	// error of one that it refused.
	take func(b []byte) (status Status, leader sharding.NodeID, refusal error, err error)
}

// askMeta asks the leader of the meta group until it answers.
func (c *Coordinator) askMeta(ctx context.Context, m *metaCall) error {
	pace := pace{pause: firstBackoff}
	var last error
	for round := 1; ; round++ {
		redirected, err := c.askMetaOnce(ctx, m)
		if err == nil {
			return nil
		}
		if !errors.Is(err, kv.ErrUnavailable) && !errors.Is(err, kv.ErrBusy) || errors.Is(err, transport.ErrClosed) {
			return err
		}
		if last == nil || ctx.Err() == nil { // an attempt that the end cut off tells no reason
			last = err
		}
		if round%refreshRounds == 0 {
			c.Refresh(ctx)
		}
		if !pace.next(ctx, redirected) {
			return fmt.Errorf("%w: the meta group: %w; last: %w", kv.ErrUnavailable, context.Cause(ctx), last)
		}
	}
}

// askMetaOnce asks once. An error that wraps kv.ErrUnavailable may be tried again:
// nothing was done.
func (c *Coordinator) askMetaOnce(ctx context.Context, m *metaCall) (redirected bool, err error) {
	t, err := c.table(ctx)
	if err != nil {
		return false, err
	}
	node := t.leader(sharding.Meta)
	attempt := ctx
	if !m.once {
		var done context.CancelFunc
		attempt, done = context.WithTimeout(ctx, c.cfg.AttemptTimeout)
		defer done()
	}
	b, err := c.send(attempt, node, m.method, m.request)
	var status Status
	var leader sharding.NodeID
	var refusal error
	if err == nil {
		status, leader, refusal, err = m.take(b)
	}
	if err != nil {
		t.suspect(sharding.Meta, node)
		return false, noAnswer(fmt.Errorf("node %s: %w", node, err), m.lost)
	}
	switch status {
	case StatusServed:
		t.setLeader(sharding.Meta, node)
		return false, nil
	case StatusNotLeader:
		redirected = t.follow(sharding.Meta, node, leader)
		return redirected, fmt.Errorf("%w: %w", kv.ErrUnavailable, notLeading("the meta group", node, leader))
	default:
		return false, refusal
	}
}

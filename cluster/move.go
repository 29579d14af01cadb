package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/manykv/manykv/fsm"
	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

// Moving shards. Who leads the meta group drives: it looks at the map, has the
// leaders of the shards take steps (reconfigure.go), and writes what has become of
// them into the map. One move at a time, and nothing is remembered but the map and
// the raft groups' own configurations, so that another driver goes on wherever this
// one stopped. Each step begins with a confirmed read of the catalogue.

const (
	// driveTick is how often the driver looks when nothing told it to.
	driveTick = 500 * time.Millisecond
	// carryTick is how often it does while a move waits for a replica to catch up.
	carryTick = 100 * time.Millisecond
	// driveTimeout bounds one step of it: some calls to leaders that may be away.
	driveTimeout = 10 * electionTimeout
	// lookEvery is how often all groups are compared with a map that has not
	// changed: only what went wrong between two drivers would be found.
	lookEvery = 30 * time.Second
	// abandonAfter is how long a move waits for a node that went away in the middle:
	// longer than a node takes to start again.
	abandonAfter = 3 * time.Minute
)

// driver is what the driving goroutine keeps between two steps: only what saves
// work.
type driver struct {
	n      *Node
	moving bool
	idle   uint64    // epoch of the map at which there was nothing to do
	sound  uint64    // epoch at which all groups were as the map wants
	when   time.Time // when that was found
	gone   time.Time // since when the node that gets a replica is not there; zero: it is
	said   string
}

// drive moves shards while this node leads the meta group.
func (n *Node) drive() {
	d := &driver{n: n}
	for {
		pause := driveTick
		if d.moving {
			pause = carryTick
		}
		select {
		case <-time.After(pause):
		case <-n.work:
		case <-n.ctx.Done():
			return
		}
		for d.step() {
		}
	}
}

// step does the next thing there is to do; false if that was nothing, or has to
// wait.
func (d *driver) step() bool {
	n := d.n
	if meta := n.replica(sharding.Meta); meta == nil || !meta.leads() || n.stopping.Load() {
		*d = driver{n: n}
		return false
	}
	if m := n.catalog.Map(); m == nil || m.Epoch == d.idle && time.Since(d.when) < lookEvery {
		return false
	}
	ctx, done := context.WithTimeout(n.ctx, driveTimeout)
	defer done()
	m, err := n.leaderMap(ctx)
	if err != nil {
		return false // no leader, or soon another one
	}
	d.moving = m.Moving() != nil
	did, err := d.next(ctx, m)
	switch {
	case err != nil && ctx.Err() == nil && err.Error() != d.said:
		d.said = err.Error()
		n.cfg.Logger.Info("the placement of shards waits", "because", err)
	case err == nil && did == "":
		d.idle, d.said = m.Epoch, ""
	case err == nil:
		n.cfg.Logger.Info("placement of shards", "step", did)
	}
	return err == nil && did != ""
}

// next does one thing and says what; "" when there is nothing to do.
func (d *driver) next(ctx context.Context, m *sharding.Map) (did string, err error) {
	if g := m.Moving(); g != nil {
		return d.carry(ctx, m, g)
	}
	d.gone = time.Time{}
	if d.sound != m.Epoch || time.Since(d.when) > lookEvery {
		if did, err := d.inspect(ctx, m); did != "" || err != nil {
			return did, err
		}
		d.sound, d.when = m.Epoch, time.Now()
	}
	// Every group is as the map wants it: no configuration names a server that the
	// map does not place there.
	for _, node := range m.Nodes {
		if node.Leaving && !holdsAny(m, node.ID) {
			return "forgetting node " + string(node.ID), d.decide(ctx, fsm.AppendForgetNode(nil, node.ID))
		}
	}
	mv, ok := m.NextMove()
	if !ok {
		return "", nil
	}
	if to, ok := m.Node(mv.Adding); ok && !d.n.isHere(m, serverOf(to)) {
		return "", fmt.Errorf("%w for node %s to be there: %s", errWaiting, to.ID, mv)
	}
	return "moving " + mv.String(), d.decide(ctx, fsm.AppendMove(nil, m.Epoch, mv))
}

// holdsAny says whether a node has, or gets, a replica of any shard.
func holdsAny(m *sharding.Map, id sharding.NodeID) bool {
	for s := range sharding.Shard(len(m.Groups) + 1) {
		if slices.Contains(m.Group(s).Nodes(), id) {
			return true
		}
	}
	return false
}

// carry takes the next step of a move that has begun.
func (d *driver) carry(ctx context.Context, m *sharding.Map, g *sharding.Group) (did string, err error) {
	did, done, err := d.reconfigure(ctx, m, g.Shard)
	if done {
		return fmt.Sprintf("shard %d has moved", g.Shard), d.decide(ctx, fsm.AppendMoved(nil, m.Epoch, g.Shard))
	}
	if did != "" || !d.abandons(m, g, time.Now()) {
		return did, err
	}
	return fmt.Sprintf("giving up the move of shard %d: node %s has been away for %v", g.Shard, g.Adding, abandonAfter),
		d.decide(ctx, fsm.AppendAbort(nil, m.Epoch, g.Shard))
}

// abandons says whether a move that makes no progress is to be given up: the node
// that gets the replica has been away for long.
func (d *driver) abandons(m *sharding.Map, g *sharding.Group, now time.Time) bool {
	to, ok := m.Node(g.Adding)
	switch {
	case !ok || d.n.isHere(m, serverOf(to)):
		d.gone = time.Time{}
	case d.gone.IsZero():
		d.gone = now
	}
	return !d.gone.IsZero() && now.Sub(d.gone) > abandonAfter
}

// inspect compares all groups with the map and takes the first step that is
// missing. A group without a leader does not keep the others waiting, but as long
// as there is one nothing new is begun.
func (d *driver) inspect(ctx context.Context, m *sharding.Map) (did string, err error) {
	var waits error
	for s := range sharding.Shard(len(m.Groups) + 1) {
		did, done, err := d.reconfigure(ctx, m, s)
		switch {
		case did != "":
			return did, nil
		case !done && waits == nil:
			waits = err
		}
	}
	return "", waits
}

// reconfigure has a shard's leader take a step. done: there is none left.
func (d *driver) reconfigure(ctx context.Context, m *sharding.Map, s sharding.Shard) (did string, done bool, err error) {
	v, err := d.n.toLeader(ctx, s, methodReconfigure, appendOrder(nil, s, m.Epoch))
	switch {
	case err != nil:
		return "", false, err
	case v.what == verdictDone:
		return "", true, nil
	case v.what == verdictStep:
		return fmt.Sprintf("shard %d: %s", s, v.text), false, nil
	}
	return "", false, fmt.Errorf("shard %d: %s", s, v.text)
}

// decide writes into the catalogue. Another map than the one it was decided on is
// no error: the next step begins with that.
func (d *driver) decide(ctx context.Context, command []byte) error {
	_, err := d.n.decide(ctx, command)
	if errors.Is(err, kv.ErrConflict) {
		return nil
	}
	return err
}

package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/hashicorp/raft"

	"github.com/manykv/manykv/coordinator"
	"github.com/manykv/manykv/fsm"
	"github.com/manykv/manykv/sharding"
	"github.com/manykv/manykv/transport/raftnet"
)

const (
	// formTick is how often a node without a cluster looks for one.
	formTick = 200 * time.Millisecond
	// controlTick is how often a node checks its leaders, its address and its
	// groups; nothing a user waits for hangs on it.
	controlTick = 500 * time.Millisecond
	// refreshEvery is how often a node without a meta replica asks for a newer
	// map when nothing told it of one.
	refreshEvery = 2 * time.Second
)

// run is the control goroutine: it forms or rejoins the cluster, opens replicas
// as the map says, and keeps leaders where they belong.
func (n *Node) run() {
	err := n.form(n.ctx)
	if err == nil {
		err = n.openMeta()
	}
	if err != nil {
		if n.ctx.Err() == nil {
			n.fail(err)
		}
		return
	}
	tick := time.NewTicker(controlTick)
	defer tick.Stop()
	refreshed := time.Now()
	for {
		select {
		case <-n.ctx.Done():
			return
		case <-n.newMap:
			err = n.openReplicas()
		case <-n.behind:
			n.refreshMap()
			refreshed = time.Now()
		case <-tick.C:
			if time.Since(refreshed) > refreshEvery && n.replica(sharding.Meta) == nil {
				kick(n.behind)
			}
			err = n.keep()
		}
		if err != nil {
			n.fail(err)
			return
		}
	}
}

// openMeta opens the meta group's replica, if this node has one. Who founds it
// follows from the founding alone, so that every node knows it without a map.
func (n *Node) openMeta() error {
	f := n.founded.Load()
	first, err := f.firstMap()
	if err != nil {
		return err
	}
	n.useMap(n.catalog.Map())
	if n.current.Load() == nil {
		kick(n.behind)
	}
	if !first.Meta.Holds(n.name) {
		return nil
	}
	r := n.newReplica(&first.Meta, first.Nodes, n.catalog)
	r.applied = func() { n.useMap(n.catalog.Map()) }
	return n.addReplica(r)
}

// openReplicas opens the replicas the map places here.
func (n *Node) openReplicas() error {
	m := n.current.Load()
	for i := range m.Groups {
		g := &m.Groups[i]
		if !g.Holds(n.name) || n.replica(g.Shard) != nil {
			continue
		}
		data, err := n.store.Data(g.Shard)
		if err != nil {
			return err
		}
		r := n.newReplica(g, m.Nodes, data)
		r.data = data
		if err := n.addReplica(r); err != nil {
			return err
		}
	}
	n.gossip.announce()
	return nil
}

func (n *Node) newReplica(g *sharding.Group, nodes []sharding.Node, m machine) *replica {
	r := &replica{
		shard: g.Shard, group: *g, self: n.self, machine: m, net: n.net, proposed: &n.proposed,
		logs:   n.logs.Shard(uint32(g.Shard), g.Generation),
		votes:  n.votes.Shard(uint32(g.Shard), g.Generation),
		logger: n.cfg.Logger.With("shard", g.Shard), started: time.Now(),
	}
	for _, node := range nodes {
		if g.Holds(node.ID) {
			addr := raftnet.Address(string(node.ID), node.Storage)
			r.servers.Servers = append(r.servers.Servers, raft.Server{ID: raft.ServerID(addr), Address: addr})
		}
	}
	return r
}

// addReplica opens a replica and puts it into the set.
func (n *Node) addReplica(r *replica) error {
	if err := r.open(); err != nil {
		return err
	}
	next := maps.Clone(n.replicaSet())
	next[r.shard] = r
	n.replicas.Store(&next)
	return nil
}

// refreshMap asks the others for a newer map. That they cannot be reached is
// nothing to report: the next tick asks again.
func (n *Node) refreshMap() {
	var epoch uint64
	if m := n.current.Load(); m != nil {
		epoch = m.Epoch
	}
	ctx, done := context.WithTimeout(n.ctx, refreshEvery)
	defer done()
	if m, err := n.fetchMap(ctx, epoch); err == nil {
		n.useMap(m)
	}
}

// keep is what the control goroutine does every tick.
func (n *Node) keep() error {
	n.foundCatalogue()
	n.reportAddr()
	for _, r := range n.replicaSet() {
		if r.stuck(n.ctx) {
			n.cfg.Logger.Warn("a leadership transfer is stuck; the group is restarted", "shard", r.shard)
			if err := errors.Join(r.close(), r.open()); err != nil {
				return fmt.Errorf("restart shard %d: %w", r.shard, err)
			}
		}
	}
	n.spread()
	return nil
}

// foundCatalogue proposes the first map, if this node leads a meta group that
// has none.
func (n *Node) foundCatalogue() {
	meta := n.replica(sharding.Meta)
	if meta == nil || !meta.leads() || n.catalog.Map() != nil {
		return
	}
	m, err := n.founded.Load().firstMap()
	if err != nil {
		n.fail(err) // it was checked when it was promised
		return
	}
	n.proposeMeta(n.ctx, fsm.AppendInit(nil, m))
}

// proposeMeta proposes one command to the meta group and waits for it.
func (n *Node) proposeMeta(ctx context.Context, command []byte) []coordinator.Result {
	ctx, done := context.WithTimeout(ctx, 2*electionTimeout)
	defer done()
	meta := n.replica(sharding.Meta)
	if meta == nil {
		return nil
	}
	p, err := meta.propose(ctx, [][]byte{command})
	if err != nil {
		return nil
	}
	return p.wait(ctx)
}

// reportAddr tells the meta group where this node is, if the map says
// otherwise.
func (n *Node) reportAddr() {
	m := n.current.Load()
	if m == nil {
		return
	}
	if known, ok := m.Node(n.name); !ok || known.Addr == n.addr {
		return
	}
	for _, id := range m.Meta.Replicas { // one of them leads
		if n.reportTo(id) == nil {
			return
		}
	}
}

// reportTo tells one node of the meta group where this node is.
func (n *Node) reportTo(id sharding.NodeID) error {
	ctx, done := context.WithTimeout(n.ctx, confirmTimeout)
	defer done()
	if id == n.name {
		return n.recordAddr(ctx, n.me())
	}
	_, err := n.call(ctx, id, methodNodeAddr, appendNodeAddr(n.me()))
	return err
}

// metaLeader returns who leads the meta group, as far as this node knows, or a
// node that may know better.
func (n *Node) metaLeader() sharding.NodeID {
	if meta := n.replica(sharding.Meta); meta != nil {
		if leader := meta.leader(); leader != "" {
			return leader
		}
	}
	return n.coord.Leader(sharding.Meta)
}

package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/manykv/manykv/fsm"
	"github.com/manykv/manykv/sharding"
)

const (
	// formTick is how often a node without a cluster looks for one.
	formTick = 200 * time.Millisecond
	// controlTick is how often a node checks its leaders, its address and its
	// groups; nothing a user waits for hangs on it.
	controlTick = 500 * time.Millisecond
	// refreshEvery is how often a node that is not told of newer maps asks for one.
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
	n.control.Go(n.drive)
	n.control.Go(n.dropBuckets)
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
			if time.Since(refreshed) > refreshEvery && !n.hearsOfMaps() {
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

// hearsOfMaps says whether newer maps come by themselves: through a replica of the
// meta group that follows its leader.
func (n *Node) hearsOfMaps() bool {
	meta := n.replica(sharding.Meta)
	return meta != nil && !meta.newcomer.Load() && meta.leader() != ""
}

// openMeta opens the meta group's replica of a founder that has no map yet: it
// follows from the founding alone who has one. With a map that says it.
func (n *Node) openMeta() error {
	n.useMap(n.catalog.Map())
	if n.current.Load() != nil {
		return nil
	}
	kick(n.behind)
	first, err := n.founded.Load().firstMap()
	if err != nil || !n.placed(first, &first.Meta) {
		return err
	}
	t, err := readTenure(n.votes.Shard(uint32(sharding.Meta)))
	if err != nil || t != tenureFull {
		return err // it was a founder, and has left since
	}
	return n.openReplica(&first.Meta)
}

// placed says whether a map places a shard on this server.
func (n *Node) placed(m *sharding.Map, g *sharding.Group) bool {
	me, ok := m.Node(n.name)
	return ok && me.Storage == n.storage && slices.Contains(g.Nodes(), n.name)
}

// openReplicas opens the replicas the map places here. What it does not place here
// any more goes later: see shed.
func (n *Node) openReplicas() error {
	m := n.current.Load()
	for s := range sharding.Shard(len(m.Groups) + 1) {
		g := m.Group(s)
		if !n.placed(m, g) || n.replica(s) != nil {
			continue
		}
		if err := n.openReplica(g); err != nil {
			return err
		}
	}
	n.surplus = true
	n.gossip.announce()
	return nil
}

// openReplica opens this node's replica of a group.
func (n *Node) openReplica(g *sharding.Group) error {
	t, err := readTenure(n.votes.Shard(uint32(g.Shard)))
	if err == nil && t == tenureLeaving { // a crash came in between
		err = n.drop(g.Shard)
	}
	if err != nil {
		return err
	}
	if g.Shard == sharding.Meta {
		r := n.newReplica(g, n.catalog)
		r.applied = func() { n.useMap(n.catalog.Map()) }
		return n.addReplica(r)
	}
	data, err := n.store.Data(g.Shard)
	if err != nil {
		return err
	}
	r := n.newReplica(g, data)
	r.data = data
	return n.addReplica(r)
}

func (n *Node) newReplica(g *sharding.Group, m machine) *replica {
	r := &replica{
		shard: g.Shard, group: *g, servers: n.firstServers(g.Shard), self: n.self, machine: m, net: n.net, store: n.store,
		readIndex: n.leaderIndex, proposed: &n.proposed,
		logs:   n.logs.Shard(uint32(g.Shard)),
		votes:  n.votes.Shard(uint32(g.Shard)),
		logger: n.cfg.Logger.With("shard", g.Shard), started: time.Now(),
	}
	r.snapshots = &snapshots{shard: g.Shard, store: n.store, machine: m, votes: r.votes, logs: r.logs, fatal: n.failDisk}
	return r
}

// firstServers returns the servers with which a group was founded, if this one is
// of them. An empty log that nobody ever wrote to gets them, at any time: it is
// that of a founder who was away until now.
func (n *Node) firstServers(s sharding.Shard) raft.Configuration {
	first, err := n.founded.Load().firstMap()
	if err != nil || first.Group(s) == nil || !n.placed(first, first.Group(s)) {
		return raft.Configuration{}
	}
	var servers []raft.Server
	for _, node := range first.Nodes { // sorted: the same on every replica
		if first.Group(s).Holds(node.ID) {
			servers = append(servers, raft.Server{ID: serverOf(node), Address: raft.ServerAddress(serverOf(node))})
		}
	}
	return raft.Configuration{Servers: servers}
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

// closeReplica takes a replica out of the set and closes it; nothing if there is
// none.
func (n *Node) closeReplica(s sharding.Shard) error {
	r := n.replica(s)
	if r == nil {
		return nil
	}
	next := maps.Clone(n.replicaSet())
	delete(next, s)
	n.replicas.Store(&next)
	return r.close()
}

// shed drops the replicas that the map does not place here any more. A map may be
// old, and one that is must never make a node throw data away: so the leader of the
// meta group is asked for its map, as it is now. Until it answers, what is there
// stays.
func (n *Node) shed() error {
	here, err := n.held()
	if err != nil {
		return err
	}
	m := n.current.Load()
	if !slices.ContainsFunc(here, func(s sharding.Shard) bool { return !n.belongs(m, s) }) && n.named(m) == "" {
		n.surplus = false
		n.wait("")
		return nil
	}
	m, err = n.askMap()
	if err != nil {
		n.cfg.Logger.Debug("no confirmed map", "error", err)
		return nil
	}
	n.wait(n.named(m))
	for _, s := range here {
		if n.keeps(m, s) {
			continue
		}
		if done, err := n.shedShard(s); !done {
			return err
		}
	}
	n.surplus = false
	return nil
}

// held returns the shards of which anything is here, sorted: what a crash left
// behind, too, which may be only a log, or only a state.
func (n *Node) held() ([]sharding.Shard, error) {
	here, err := n.store.Shards()
	if err != nil {
		return nil, err
	}
	for _, s := range n.logs.Shards() {
		here = append(here, sharding.Shard(s))
	}
	here = slices.AppendSeq(here, maps.Keys(n.replicaSet()))
	slices.Sort(here)
	return slices.Compact(here), nil
}

// askMap returns the map as it is now, and takes it.
func (n *Node) askMap() (*sharding.Map, error) {
	ctx, done := context.WithTimeout(n.ctx, refreshEvery)
	defer done()
	m, err := n.confirmedMap(ctx)
	if err == nil {
		n.useMap(m)
	}
	return m, err
}

// shedShard drops a replica, unless a map that is confirmed after it was closed
// places it here: while it was open it might have been given its vote again, and
// have acknowledged what would be erased. One that stays opens again. done is false
// if nobody confirmed a map.
func (n *Node) shedShard(s sharding.Shard) (done bool, err error) {
	open := n.replica(s) != nil
	if err := n.closeReplica(s); err != nil {
		return false, err
	}
	m, unconfirmed := n.askMap()
	if unconfirmed == nil && !n.keeps(m, s) {
		err := n.drop(s)
		return err == nil, err
	}
	if open {
		if err := n.openReplica(n.current.Load().Group(s)); err != nil {
			return false, err
		}
	}
	if unconfirmed != nil {
		n.cfg.Logger.Debug("no confirmed map", "error", unconfirmed)
	}
	return unconfirmed == nil, nil
}

// keeps says whether a confirmed map leaves a shard here. When another directory
// has this node's place everything stays: an operator may want this one's data yet.
func (n *Node) keeps(m *sharding.Map, s sharding.Shard) bool {
	me, ok := m.Node(n.name)
	return ok && me.Storage != n.storage || n.belongs(m, s)
}

// belongs says whether what is here of a shard is to stay. A shard that the map
// does not know at all is not for this version to judge.
func (n *Node) belongs(m *sharding.Map, s sharding.Shard) bool {
	g := m.Group(s)
	return g == nil || n.placed(m, g)
}

// named says why a map does not know this server; "" if it does.
func (n *Node) named(m *sharding.Map) string {
	switch me, ok := m.Node(n.name); {
	case !ok:
		return fmt.Sprintf("node %s was removed from the cluster; `manykv node add %s` takes it back", n.name, n.addr)
	case me.Storage != n.storage:
		return fmt.Sprintf("node %s has another data directory in the cluster now (storage %016x, this one is %016x)", n.name, me.Storage, n.storage)
	}
	return ""
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
	if n.surplus && n.current.Load() != nil {
		return n.shed()
	}
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
	ctx, done := context.WithTimeout(n.ctx, decideTimeout)
	defer done()
	if _, err := n.decide(ctx, fsm.AppendInit(nil, m)); err != nil {
		n.cfg.Logger.Debug("the first map is not written yet", "error", err)
	}
}

// decideTimeout bounds a change of the catalogue that nobody waits for.
const decideTimeout = 2 * electionTimeout

// decide proposes a command to the meta group, if this node leads it, waits until
// it is applied, and returns what it gives back. An error says that it was not
// applied, unless it is kv.ErrUnknown.
func (n *Node) decide(ctx context.Context, command []byte) (value uint64, err error) {
	meta := n.replica(sharding.Meta)
	if meta == nil {
		return 0, errNotLeader
	}
	p, err := meta.propose(ctx, [][]byte{command})
	if err != nil {
		return 0, err
	}
	results := p.wait(ctx)
	if len(results) == 0 {
		return 0, errNotLeader
	}
	return results[0].Value, results[0].Code.Err(results[0].Detail)
}

// reportAddr tells the meta group where this node is, if the map says
// otherwise.
func (n *Node) reportAddr() {
	m := n.current.Load()
	if m == nil {
		return
	}
	if known, ok := m.Node(n.name); !ok || known.Storage != n.storage || known.Addr == n.addr {
		return
	}
	for _, id := range m.Meta.Nodes() { // one of them leads
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

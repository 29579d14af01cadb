package cluster

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/manykv/manykv/coordinator"
	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

// gossip tells who is there, where, and who has the newest map. All of it is
// hints: nothing waits for it, and what it says is believed only as far as a
// certificate confirms it.
type gossip struct {
	n    *Node
	list *memberlist.Memberlist
	net  *gossipNet
	stop chan struct{}
	all  sync.WaitGroup

	mu    sync.Mutex // guards known
	known map[sharding.NodeID]coordinator.MemberStatus
}

const (
	// gossipPacket is the largest packet memberlist may make: the transport adds
	// its prefix and checksum, encryption and label their own, and all must fit
	// a datagram that quic-go does not cut (1,452 bytes).
	gossipPacket = 1350
	// reclaimAfter lets a node that died come back under its name with another
	// address: pods do.
	reclaimAfter = 5 * time.Second
	// rejoinEvery is how often a node looks for members it has lost.
	rejoinEvery = 2 * time.Second
	// streamTimeout bounds a gossip stream; a peer that is there answers at once.
	streamTimeout = 2 * time.Second
	// leaveTimeout bounds the farewell.
	leaveTimeout = 500 * time.Millisecond
)

// openGossip starts gossiping on the node's transport.
func openGossip(n *Node, key []byte) (*gossip, error) {
	host, port, err := net.SplitHostPort(n.addr)
	if err != nil {
		return nil, err
	}
	g := &gossip{n: n, stop: make(chan struct{}), known: make(map[sharding.NodeID]coordinator.MemberStatus)}
	g.net = newGossipNet(n.trans, host, port, n.cfg.Logger)
	cfg := memberlist.DefaultLANConfig()
	cfg.Name = string(n.name)
	cfg.Transport = g.net
	cfg.SecretKey = key
	cfg.Label = n.trans.Self().Cluster
	cfg.EnableCompression = false
	cfg.UDPBufferSize = gossipPacket
	cfg.TCPTimeout = streamTimeout
	cfg.DeadNodeReclaimTime = reclaimAfter
	cfg.Delegate = g
	cfg.Events = g
	cfg.Logger = log.New(lineLogger{n.cfg.Logger}, "", 0)
	if g.list, err = memberlist.Create(cfg); err != nil {
		return nil, errors.Join(fmt.Errorf("gossip: %w", err), g.net.Shutdown())
	}
	g.all.Go(g.rejoin)
	return g, nil
}

// close says farewell and stops.
func (g *gossip) close() error {
	close(g.stop)
	g.net.endDials()
	g.all.Wait()
	if err := g.list.Leave(leaveTimeout); err != nil {
		g.n.cfg.Logger.Debug("gossip: left without farewell", "error", err)
	}
	return g.list.Shutdown() // shuts the transport down too
}

// rejoin keeps looking for the nodes there should be.
func (g *gossip) rejoin() {
	tick := time.NewTicker(rejoinEvery)
	defer tick.Stop()
	for {
		if addrs := g.net.lookUp(g.missing(), rejoinEvery); len(addrs) > 0 {
			if _, err := g.list.Join(addrs); err != nil {
				g.n.cfg.Logger.Debug("gossip: join", "error", err)
			}
		}
		select {
		case <-tick.C:
		case <-g.stop:
			return
		}
	}
}

// missing returns addresses to join: those configured while nobody is known,
// and those of the map's nodes that are not alive.
func (g *gossip) missing() []string {
	var addrs []string
	if g.list.NumMembers() < 2 {
		addrs = append(addrs, g.n.cfg.Join...)
	}
	if m := g.n.current.Load(); m != nil {
		for _, node := range m.Nodes {
			if node.ID != g.n.name && !g.alive(node.ID) {
				addrs = append(addrs, node.Addr)
			}
		}
	}
	return addrs
}

// announce makes this node's news known.
func (g *gossip) announce() {
	g.all.Go(func() {
		if err := g.list.UpdateNode(leaveTimeout); err != nil {
			g.n.cfg.Logger.Debug("gossip: update", "error", err)
		}
	})
}

// alive says whether a node is thought to be there.
func (g *gossip) alive(id sharding.NodeID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.known[id].Alive
}

// addr returns where a node that is alive said it is.
func (g *gossip) addr(id sharding.NodeID) (string, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	m := g.known[id]
	return m.Addr, m.Alive
}

func (g *gossip) members() []coordinator.MemberStatus {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := make([]coordinator.MemberStatus, 0, len(g.known))
	for _, m := range g.known {
		out = append(out, m)
	}
	return out
}

// NodeMeta is what this node says of itself (memberlist.Delegate):
//
//	version u8 · epoch u64 · address string
func (g *gossip) NodeMeta(limit int) []byte {
	var epoch uint64
	if m := g.n.current.Load(); m != nil {
		epoch = m.Epoch
	}
	b := binary.BigEndian.AppendUint64([]byte{wireVersion}, epoch)
	if b = kv.AppendString(b, g.n.addr); len(b) > limit {
		return nil
	}
	return b
}

// note takes what a member says of itself.
func (g *gossip) note(m *memberlist.Node, alive bool) {
	d := versioned(m.Meta)
	epoch, addr := d.U64(), d.String()
	if d.Finish() != nil {
		addr = m.Address()
	}
	id := sharding.NodeID(m.Name)
	g.mu.Lock()
	before := g.known[id]
	g.known[id] = coordinator.MemberStatus{Node: id, Addr: addr, Alive: alive}
	g.mu.Unlock()
	switch {
	case id == g.n.name:
	case alive && (!before.Alive || before.Addr != addr):
		g.n.cfg.Logger.Info("node is here", "peer", id, "addr", addr)
	case !alive && before.Alive:
		g.n.cfg.Logger.Warn("node is gone", "peer", id, "addr", addr)
	}
	if mine := g.n.current.Load(); alive && epoch > 0 && (mine == nil || mine.Epoch < epoch) {
		kick(g.n.behind)
	}
}

// NotifyJoin, NotifyUpdate and NotifyLeave are memberlist.EventDelegate.
func (g *gossip) NotifyJoin(m *memberlist.Node)   { g.note(m, true) }
func (g *gossip) NotifyUpdate(m *memberlist.Node) { g.note(m, true) }
func (g *gossip) NotifyLeave(m *memberlist.Node)  { g.note(m, false) }

// NotifyMsg, GetBroadcasts, LocalState and MergeRemoteState complete
// memberlist.Delegate; nothing else is gossiped.
func (g *gossip) NotifyMsg([]byte)                {}
func (g *gossip) GetBroadcasts(int, int) [][]byte { return nil }
func (g *gossip) LocalState(bool) []byte          { return nil }
func (g *gossip) MergeRemoteState([]byte, bool)   {}

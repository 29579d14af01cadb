package cluster

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/manykv/manykv/coordinator"
	"github.com/manykv/manykv/sharding"
)

// resolve says where a node is: what gossip heard last, the map's address, or
// the one it had when the cluster was founded.
func (n *Node) resolve(node string) (string, bool) {
	id := sharding.NodeID(node)
	if g := n.gossip; g != nil {
		if addr, ok := g.addr(id); ok {
			return addr, true
		}
	}
	if m := n.current.Load(); m != nil {
		if known, ok := m.Node(id); ok {
			return known.Addr, true
		}
	}
	if f := n.founded.Load(); f != nil {
		if known, ok := f.node(id); ok {
			return known.Addr, true
		}
	}
	return "", false
}

func (n *Node) call(ctx context.Context, to sharding.NodeID, method byte, request []byte) ([]byte, error) {
	return n.trans.Call(ctx, string(to), method, request)
}

// useMap takes a map if it is newer than the one there is.
func (n *Node) useMap(m *sharding.Map) {
	for {
		old := n.current.Load()
		if m == nil || old != nil && old.Epoch >= m.Epoch {
			return
		}
		if n.current.CompareAndSwap(old, m) {
			break
		}
	}
	n.coord.UseMap(m)
	kick(n.newMap)
}

// kick puts a token into a channel of one slot.
func kick(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// fetchMap asks the other nodes, one after the other, for a map newer than
// epoch.
func (n *Node) fetchMap(ctx context.Context, epoch uint64) (*sharding.Map, error) {
	if m := n.current.Load(); m != nil && m.Epoch > epoch {
		return m, nil
	}
	var last error
	for _, id := range n.knownNodes() {
		if id == n.name {
			continue
		}
		attempt, done := context.WithTimeout(ctx, mapTimeout)
		b, err := n.call(attempt, id, coordinator.MethodMap, binary.BigEndian.AppendUint64(nil, epoch))
		done()
		if err == nil && len(b) > 0 {
			return sharding.DecodeMap(b)
		}
		if err != nil {
			last = err
		}
	}
	return nil, last
}

// mapTimeout is how long one node may take to hand out its map.
const mapTimeout = 500 * time.Millisecond

// knownNodes returns the nodes of the cluster as far as known.
func (n *Node) knownNodes() []sharding.NodeID {
	var nodes []sharding.Node
	if m := n.current.Load(); m != nil {
		nodes = m.Nodes
	} else if f := n.founded.Load(); f != nil {
		nodes = f.Nodes
	}
	ids := make([]sharding.NodeID, len(nodes))
	for i := range nodes {
		ids[i] = nodes[i].ID
	}
	return ids
}

// leaderMap returns the map as it is now, if this node leads the meta group: a
// confirmed read of the catalogue.
func (n *Node) leaderMap(ctx context.Context) (*sharding.Map, error) {
	meta := n.replica(sharding.Meta)
	if meta == nil || !meta.leads() {
		return nil, errNotLeader
	}
	index, err := n.confirm.begin(meta).wait(ctx)
	if err == nil {
		err = meta.machine.Wait(ctx, index)
	}
	if err != nil {
		return nil, err
	}
	if m := n.catalog.Map(); m != nil {
		return m, nil
	}
	return nil, errNotReady
}

// confirmedMap asks the leader of the meta group for the map as it is now.
func (n *Node) confirmedMap(ctx context.Context) (*sharding.Map, error) {
	v, err := n.toLeader(ctx, sharding.Meta, methodConfirmedMap, []byte{wireVersion})
	if err != nil {
		return nil, err
	}
	if v.what != verdictDone {
		return nil, fmt.Errorf("the meta group: %s", v.text)
	}
	return sharding.DecodeMap([]byte(v.text))
}

// serveConfirmedMap answers it:
//
//	request: version u8
func (n *Node) serveConfirmedMap(ctx context.Context, request []byte) (verdict, error) {
	if err := versioned(request).Finish(); err != nil {
		return verdict{}, err
	}
	m, err := n.leaderMap(ctx)
	switch {
	case errors.Is(err, errNotLeader):
		return n.elsewhere(sharding.Meta), nil
	case err != nil:
		return verdict{what: verdictWait, text: err.Error()}, nil
	}
	return verdict{what: verdictDone, text: string(m.Append(nil))}, nil
}

package cluster

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/manykv/manykv/coordinator"
	"github.com/manykv/manykv/sharding"
	"github.com/manykv/manykv/transport"
)

// Joining a cluster that was founded without this node. The map decides who is of
// a cluster, by name and data directory, and only an operator's command changes
// that. So a node that meets a cluster whose map does not name it waits, says which
// command is missing, and asks again.

const (
	// joinTick is how often a waiting node looks at the map.
	joinTick = time.Second
	// remindEvery is how often it says again what it waits for.
	remindEvery = time.Minute
)

// join looks whether the cluster of a node that was met knows this one. why says
// what is missing.
func (n *Node) join(ctx context.Context, h hello) (done bool, why string, err error) {
	m, err := n.mapFrom(ctx, h)
	if err != nil {
		return false, fmt.Sprintf("no map from node %s: %v", h.Node.ID, err), nil
	}
	if m == nil {
		return false, fmt.Sprintf("cluster %s is being founded without this node", clusterName(h.Founded.Cluster)), nil
	}
	switch known, ok := m.Node(n.name); {
	case !ok:
		return false, fmt.Sprintf("cluster %s does not know node %s; `manykv node add %s` lets it join",
			clusterName(m.Cluster), n.name, n.addr), nil
	case known.Storage != n.storage:
		return false, fmt.Sprintf("refused: node %s is of cluster %s with another data directory (storage %016x, this one is %016x), and "+
			"a directory that lost its contents must not come back under the old name; `manykv node replace %s %s` puts this one in its place",
			n.name, clusterName(m.Cluster), known.Storage, n.storage, n.name, n.addr), nil
	}
	if why, err := n.adopt(h.Founded); why != "" || err != nil {
		return false, why, err
	}
	n.useMap(m)
	return true, "", nil
}

// mapFrom asks a node that was met for its map; nil if it has none yet.
func (n *Node) mapFrom(ctx context.Context, h hello) (*sharding.Map, error) {
	ctx, done := context.WithTimeout(ctx, helloTimeout)
	defer done()
	b, from, err := n.trans.CallAddr(ctx, h.Node.Addr, coordinator.MethodMap, binary.BigEndian.AppendUint64(nil, 0))
	if err != nil || len(b) == 0 {
		return nil, err
	}
	if from.Role != transport.RoleNode || from.Name != string(h.Node.ID) {
		return nil, fmt.Errorf("%s answered at %s", from, h.Node.Addr)
	}
	m, err := sharding.DecodeMap(b)
	if err == nil && m.Cluster != h.Founded.Cluster {
		err = fmt.Errorf("the map is of cluster %s, the node of cluster %s", clusterName(m.Cluster), clusterName(h.Founded.Cluster))
	}
	return m, err
}

// adopt makes this node one of a cluster that was founded without it. A promise to
// found another one stands: that may have happened without its knowing.
func (n *Node) adopt(f *founding) (why string, err error) {
	n.promising.Lock()
	defer n.promising.Unlock()
	if own := n.promise.Load(); own != nil && own.Cluster != f.Cluster {
		return n.promisedElsewhere(own).Error(), nil
	}
	if err := n.foundLocked(f); err != nil {
		return "", err
	}
	n.cfg.Logger.Info("joined", "cluster", clusterName(f.Cluster))
	return "", nil
}

// wait notes, for the status, why this node takes no part in a cluster; "" when it
// does.
func (n *Node) wait(why string) {
	if why == "" {
		n.waiting.Store(nil)
		return
	}
	n.waiting.Store(&why)
}

package sharding

import (
	"errors"
	"fmt"
	"slices"
	"sort"
)

// Shard numbers a shard. Shard 0 is the meta group, which holds the catalogue
// and owns no slots.
type Shard uint32

// Meta is the shard that holds the catalogue.
const Meta Shard = 0

// NodeID is a node's name: 1-63 characters of a-z, 0-9 and '-', the name its
// certificate carries.
type NodeID string

// Node is one node of the cluster as the catalogue records it.
type Node struct {
	ID      NodeID
	Storage uint64 // identity of its data directory; a wiped node gets another
	Addr    string // "host:port" it advertised last
}

// Group is one shard: the slots it owns and the nodes that hold its replicas.
type Group struct {
	Shard      Shard
	Generation uint64 // distinguishes this placement of the shard from an earlier one on the same node
	Range      Range
	Replicas   []NodeID // distinct; the first should lead
}

// Holds says whether a node has a replica of the shard.
func (g *Group) Holds(id NodeID) bool { return slices.Contains(g.Replicas, id) }

// Map is the versioned table slots → shard → nodes.
type Map struct {
	Cluster uint64  // the cluster's random id
	Epoch   uint64  // grows with every change; 0 is no map yet
	Nodes   []Node  // sorted by ID
	Meta    Group   // shard 0; its Range is unused
	Groups  []Group // sorted by Shard = 1, 2, …; their ranges cover all slots in order
}

// errInvalidMap is wrapped by Validate's errors.
var errInvalidMap = errors.New("invalid map")

// GroupOf returns the shard that owns slot, which is less than Slots.
func (m *Map) GroupOf(slot uint16) *Group {
	i := sort.Search(len(m.Groups), func(i int) bool { return m.Groups[i].Range.Last >= slot })
	return &m.Groups[i]
}

// ShardOfKey returns the shard that owns a key of a bucket.
func (m *Map) ShardOfKey(bucket uint64, key string) Shard {
	return m.GroupOf(SlotOf(HashString(bucket, key))).Shard
}

// Group returns a shard's group; nil if there is no such shard.
func (m *Map) Group(s Shard) *Group {
	switch {
	case s == Meta:
		return &m.Meta
	case uint64(s) <= uint64(len(m.Groups)):
		return &m.Groups[s-1]
	default:
		return nil
	}
}

// Node returns a node's record; ok is false if the node is not of the cluster.
func (m *Map) Node(id NodeID) (n Node, ok bool) {
	i, ok := slices.BinarySearchFunc(m.Nodes, id, func(n Node, id NodeID) int {
		switch {
		case n.ID < id:
			return -1
		case n.ID > id:
			return 1
		}
		return 0
	})
	if !ok {
		return Node{}, false
	}
	return m.Nodes[i], true
}

// WithAddr returns a copy of the map, one epoch later, in which a node has
// another address.
func (m *Map) WithAddr(id NodeID, addr string) *Map {
	next := *m
	next.Epoch++
	next.Nodes = slices.Clone(m.Nodes)
	for i := range next.Nodes {
		if next.Nodes[i].ID == id {
			next.Nodes[i].Addr = addr
		}
	}
	return &next
}

// Validate says what is wrong with a map: every slot must have exactly one
// shard, every shard distinct replicas on known nodes.
func (m *Map) Validate() error {
	if m.Epoch == 0 || len(m.Nodes) == 0 || len(m.Groups) == 0 {
		return fmt.Errorf("%w: epoch %d with %d nodes and %d shards, want at least one of each", errInvalidMap, m.Epoch, len(m.Nodes), len(m.Groups))
	}
	for i := 1; i < len(m.Nodes); i++ {
		if m.Nodes[i-1].ID >= m.Nodes[i].ID {
			return fmt.Errorf("%w: node %q after %q, want them sorted and distinct", errInvalidMap, m.Nodes[i].ID, m.Nodes[i-1].ID)
		}
	}
	if m.Meta.Shard != Meta {
		return fmt.Errorf("%w: the meta group is shard %d, want %d", errInvalidMap, m.Meta.Shard, Meta)
	}
	if err := m.checkReplicas(&m.Meta); err != nil {
		return err
	}
	next := 0
	for i := range m.Groups {
		g := &m.Groups[i]
		if g.Shard != Shard(i+1) {
			return fmt.Errorf("%w: shard %d in place %d, want %d", errInvalidMap, g.Shard, i, i+1)
		}
		if int(g.Range.First) != next || g.Range.Last < g.Range.First {
			return fmt.Errorf("%w: shard %d owns slots %d to %d, want them to begin at %d", errInvalidMap, g.Shard, g.Range.First, g.Range.Last, next)
		}
		next = int(g.Range.Last) + 1
		if err := m.checkReplicas(g); err != nil {
			return err
		}
	}
	if next != Slots {
		return fmt.Errorf("%w: slots end at %d, want %d", errInvalidMap, next, Slots)
	}
	return nil
}

func (m *Map) checkReplicas(g *Group) error {
	if len(g.Replicas) == 0 {
		return fmt.Errorf("%w: shard %d has no replicas", errInvalidMap, g.Shard)
	}
	for i, id := range g.Replicas {
		if _, ok := m.Node(id); !ok {
			return fmt.Errorf("%w: shard %d has a replica on %q, which is no node of the map", errInvalidMap, g.Shard, id)
		}
		if slices.Contains(g.Replicas[:i], id) {
			return fmt.Errorf("%w: shard %d has two replicas on %q", errInvalidMap, g.Shard, id)
		}
	}
	return nil
}

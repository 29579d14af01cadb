package sharding

import (
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
)

// Shard numbers a shard. Shard 0 is the meta group, which holds the catalogue
// and owns no slots.
type Shard uint32

// Meta is the shard that holds the catalogue.
const Meta Shard = 0

// NodeID is a node's name: 1-63 characters of a-z, 0-9 and '-', the name its
// certificate carries.
type NodeID string

// maxNodeID bounds a node's name in bytes: it is a label of DNS.
const maxNodeID = 63

// valid says whether a node may have this name.
func (id NodeID) valid() bool {
	for _, c := range []byte(id) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return id != "" && len(id) <= maxNodeID
}

// Node is one node of the cluster as the catalogue records it.
type Node struct {
	ID      NodeID
	Storage uint64 // identity of its data directory; a wiped node gets another
	Addr    string // "host:port" it advertised last
	Leaving bool   `json:",omitempty"` // it shall lose its replicas and be forgotten
	Heir    NodeID `json:",omitempty"` // of a leaving node: who gets its replicas first; "" = any node
}

// Group is one shard: the slots it owns and the nodes that hold its replicas.
type Group struct {
	Shard      Shard
	Generation uint64 // 1 as founded, one more with each change of its replicas: a shard that left a node and came back has another
	Range      Range
	Replicas   []NodeID // distinct; the first should lead
	Adding     NodeID   // none of Replicas yet: joins them when it has caught up; "" = nobody
	Removing   NodeID   // one of Replicas: leaves them when Adding, if there is one, has joined; "" = nobody
}

// Moving says whether the group's replicas are changing.
func (g *Group) Moving() bool { return g.Adding != "" || g.Removing != "" }

// Nodes returns the nodes that have the shard or are getting it: Replicas, then
// Adding. The caller must not edit the slice.
func (g *Group) Nodes() []NodeID {
	if g.Adding == "" {
		return g.Replicas
	}
	return append(slices.Clip(g.Replicas), g.Adding)
}

// Holds says whether a node has a replica of the shard.
func (g *Group) Holds(id NodeID) bool { return slices.Contains(g.Replicas, id) }

// Map is the versioned table slots → shard → nodes.
type Map struct {
	Cluster  uint64  // the cluster's random id
	Epoch    uint64  // grows with every change; 0 is no map yet
	Replicas int     // wanted copies of each data shard; fewer while there are fewer nodes
	Nodes    []Node  // sorted by ID
	Meta     Group   // shard 0; its Range is unused
	Groups   []Group // sorted by Shard = 1, 2, …; their ranges cover all slots in order
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
	i, ok := m.index(id)
	if !ok {
		return Node{}, false
	}
	return m.Nodes[i], true
}

// index returns the place of a node in Nodes, or the one it would have.
func (m *Map) index(id NodeID) (i int, ok bool) {
	return slices.BinarySearchFunc(m.Nodes, id, func(n Node, id NodeID) int {
		return strings.Compare(string(n.ID), string(id))
	})
}

// Active returns the nodes that stay, sorted: all that are not leaving.
func (m *Map) Active() []NodeID {
	var active []NodeID
	for i := range m.Nodes {
		if !m.Nodes[i].Leaving {
			active = append(active, m.Nodes[i].ID)
		}
	}
	return active
}

// Moving returns the group whose replicas are changing; nil if there is none.
// There is never more than one.
func (m *Map) Moving() *Group {
	for s := range Shard(len(m.Groups) + 1) {
		if g := m.Group(s); g.Moving() {
			return g
		}
	}
	return nil
}

// Validate says what is wrong with a map: every slot must have exactly one
// shard, every shard distinct replicas on known nodes, and at most one shard may
// be moving.
func (m *Map) Validate() error {
	if m.Epoch == 0 || len(m.Nodes) == 0 || len(m.Groups) == 0 {
		return fmt.Errorf("%w: epoch %d with %d nodes and %d shards, want at least one of each", errInvalidMap, m.Epoch, len(m.Nodes), len(m.Groups))
	}
	if m.Replicas < 1 || m.Replicas > MaxNodes {
		return fmt.Errorf("%w: %d replicas of each shard, want 1 to %d", errInvalidMap, m.Replicas, MaxNodes)
	}
	if err := m.checkNodes(); err != nil {
		return err
	}
	if m.Meta.Shard != Meta {
		return fmt.Errorf("%w: the meta group is shard %d, want %d", errInvalidMap, m.Meta.Shard, Meta)
	}
	if err := m.checkGroup(&m.Meta); err != nil {
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
		if err := m.checkGroup(g); err != nil {
			return err
		}
		if first := m.Moving(); g.Moving() && first != g {
			return fmt.Errorf("%w: shards %d and %d are moving, want at most one", errInvalidMap, first.Shard, g.Shard)
		}
	}
	if next != Slots {
		return fmt.Errorf("%w: slots end at %d, want %d", errInvalidMap, next, Slots)
	}
	return nil
}

func (m *Map) checkNodes() error {
	for i := 1; i < len(m.Nodes); i++ {
		if m.Nodes[i-1].ID >= m.Nodes[i].ID {
			return fmt.Errorf("%w: node %q after %q, want them sorted and distinct", errInvalidMap, m.Nodes[i].ID, m.Nodes[i-1].ID)
		}
	}
	for i := range m.Nodes {
		n := &m.Nodes[i]
		if !n.ID.valid() {
			return fmt.Errorf("%w: a node is named %q, want 1 to %d characters of a-z, 0-9 and '-'", errInvalidMap, n.ID, maxNodeID)
		}
		if n.Heir == "" {
			continue
		}
		if _, ok := m.Node(n.Heir); !ok || n.Heir == n.ID || !n.Leaving {
			return fmt.Errorf("%w: node %q (leaving: %v) has the heir %q, want another node's name, and only if it is leaving", errInvalidMap, n.ID, n.Leaving, n.Heir)
		}
	}
	if len(m.Active()) == 0 {
		return fmt.Errorf("%w: all %d nodes are leaving, want one that stays", errInvalidMap, len(m.Nodes))
	}
	return nil
}

func (m *Map) checkGroup(g *Group) error {
	if g.Generation == 0 {
		return fmt.Errorf("%w: shard %d has generation 0, want at least 1", errInvalidMap, g.Shard)
	}
	if len(g.Replicas) == 0 {
		return fmt.Errorf("%w: shard %d has no replicas", errInvalidMap, g.Shard)
	}
	nodes := g.Nodes()
	for i, id := range nodes {
		if _, ok := m.Node(id); !ok {
			return fmt.Errorf("%w: shard %d has a replica on %q, which is no node of the map", errInvalidMap, g.Shard, id)
		}
		if slices.Contains(nodes[:i], id) {
			return fmt.Errorf("%w: shard %d has two replicas on %q", errInvalidMap, g.Shard, id)
		}
	}
	if g.Removing == "" {
		return nil
	}
	if !g.Holds(g.Removing) {
		return fmt.Errorf("%w: shard %d shall lose its replica on %q, which holds none", errInvalidMap, g.Shard, g.Removing)
	}
	if len(nodes) == 1 {
		return fmt.Errorf("%w: shard %d shall lose its only replica, on %q", errInvalidMap, g.Shard, g.Removing)
	}
	return nil
}

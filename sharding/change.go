package sharding

import (
	"fmt"
	"slices"
)

// Move is one change of a shard's replicas: one joins, one leaves, or one takes
// another's place.
type Move struct {
	Shard    Shard
	Adding   NodeID // "" = nobody
	Removing NodeID // "" = nobody
}

func (mv Move) String() string {
	switch {
	case mv.Removing == "":
		return fmt.Sprintf("shard %d to %s", mv.Shard, mv.Adding)
	case mv.Adding == "":
		return fmt.Sprintf("shard %d off %s", mv.Shard, mv.Removing)
	}
	return fmt.Sprintf("shard %d from %s to %s", mv.Shard, mv.Removing, mv.Adding)
}

// Every function here returns a map one epoch later and leaves its own alone.

// later returns a copy of the map, one epoch later. Its nodes and groups may be
// edited; the replicas of a group are shared and may only be replaced.
func (m *Map) later() *Map {
	next := *m
	next.Epoch++
	next.Nodes = slices.Clone(m.Nodes)
	next.Groups = slices.Clone(m.Groups)
	return &next
}

// checked returns the map if it is valid. What the checks before a change do not
// see is an epoch or a generation that overflows: a first map may hold any.
func (m *Map) checked() (*Map, error) {
	if err := m.Validate(); err != nil {
		return nil, err
	}
	return m, nil
}

// known returns the place of a node, or an error if it is not of the cluster.
func (m *Map) known(id NodeID) (int, error) {
	i, ok := m.index(id)
	if !ok {
		return 0, fmt.Errorf("node %q is not of the cluster", id)
	}
	return i, nil
}

// WithAddr returns a copy of the map, one epoch later, in which a node has
// another address.
func (m *Map) WithAddr(id NodeID, addr string) *Map {
	next := m.later()
	if i, ok := next.index(id); ok {
		next.Nodes[i].Addr = addr
	}
	return next
}

// WithNode adds a node that holds nothing yet.
func (m *Map) WithNode(n Node) (*Map, error) {
	i, ok := m.index(n.ID)
	if ok {
		return nil, fmt.Errorf("node %q is of the cluster already", n.ID)
	}
	if len(m.Nodes) == MaxNodes {
		return nil, fmt.Errorf("node %q would be one of %d, at most %d are allowed", n.ID, len(m.Nodes)+1, MaxNodes)
	}
	next := m.later()
	next.Nodes = slices.Insert(next.Nodes, i, n)
	return next.checked()
}

// WithLeaving marks a node that shall lose its replicas, to heir before others
// unless that is "". It leads nothing any more where another can. A move that is
// giving it a replica goes on, and the next ones take the replica away again.
func (m *Map) WithLeaving(id, heir NodeID) (*Map, error) {
	i, err := m.known(id)
	if err != nil {
		return nil, err
	}
	if heir != "" {
		if h, ok := m.Node(heir); !ok || h.Leaving || heir == id {
			return nil, fmt.Errorf("node %q cannot be the heir of %q, want another node that stays", heir, id)
		}
	}
	if active := m.Active(); len(active) == 1 && active[0] == id {
		return nil, fmt.Errorf("node %q is the last one that stays", id)
	}
	next := m.later()
	next.Nodes[i].Leaving, next.Nodes[i].Heir = true, heir
	next.evenLeaders()
	return next.checked()
}

// WithStorage gives a node another data directory. All its groups get another
// generation, because what it had of them is gone: it must get them again, as a
// new member. It may happen at any time, also in the middle of a move, because a
// disk does not wait to fail; who drives the move has a stale map then and
// begins again.
func (m *Map) WithStorage(id NodeID, storage uint64, addr string) (*Map, error) {
	i, err := m.known(id)
	if err != nil {
		return nil, err
	}
	if m.Nodes[i].Storage == storage {
		return nil, fmt.Errorf("node %q has storage %016x already", id, storage)
	}
	next := m.later()
	next.Nodes[i].Storage, next.Nodes[i].Addr = storage, addr
	for s := range Shard(len(next.Groups) + 1) {
		if g := next.Group(s); slices.Contains(g.Nodes(), id) {
			g.Generation++
		}
	}
	return next.checked()
}

// WithMove begins a move.
func (m *Map) WithMove(mv Move) (*Map, error) {
	if g := m.Moving(); g != nil {
		return nil, fmt.Errorf("shard %d is moving, want one move at a time", g.Shard)
	}
	g := m.Group(mv.Shard)
	if g == nil {
		return nil, fmt.Errorf("shard %d, want 0 to %d", mv.Shard, len(m.Groups))
	}
	if mv.Adding == "" && mv.Removing == "" {
		return nil, fmt.Errorf("a move of shard %d that neither adds nor removes a replica", mv.Shard)
	}
	if mv.Adding != "" {
		i, err := m.known(mv.Adding)
		if err != nil {
			return nil, err
		}
		if m.Nodes[i].Leaving {
			return nil, fmt.Errorf("node %q is leaving, it gets no replica of shard %d", mv.Adding, mv.Shard)
		}
	}
	next := m.later()
	g = next.Group(mv.Shard)
	g.Adding, g.Removing = mv.Adding, mv.Removing
	g.Generation++
	return next.checked()
}

// WithMoved ends a shard's move: Adding is a replica in the place of Removing, or
// behind the others, and the first places are made even again.
func (m *Map) WithMoved(s Shard) (*Map, error) {
	next, g, err := m.ending(s)
	if err != nil {
		return nil, err
	}
	replicas := slices.Clone(g.Nodes())
	if g.Adding != "" && g.Removing != "" {
		replicas = replicas[:len(g.Replicas)]
		replicas[slices.Index(replicas, g.Removing)] = g.Adding
	} else if g.Removing != "" {
		replicas = slices.DeleteFunc(replicas, func(id NodeID) bool { return id == g.Removing })
	}
	g.Replicas, g.Adding, g.Removing = replicas, "", ""
	next.evenLeaders()
	return next.checked()
}

// WithAbort gives a shard's move up: its replicas are what they were before.
func (m *Map) WithAbort(s Shard) (*Map, error) {
	next, g, err := m.ending(s)
	if err != nil {
		return nil, err
	}
	g.Adding, g.Removing = "", ""
	g.Generation++
	return next.checked()
}

// ending returns the next map and its group of a shard that is moving.
func (m *Map) ending(s Shard) (*Map, *Group, error) {
	g := m.Group(s)
	if g == nil || !g.Moving() {
		return nil, nil, fmt.Errorf("shard %d is not moving", s)
	}
	next := m.later()
	return next, next.Group(s), nil
}

// WithoutNode forgets a leaving node that holds nothing any more.
func (m *Map) WithoutNode(id NodeID) (*Map, error) {
	i, err := m.known(id)
	if err != nil {
		return nil, err
	}
	if !m.Nodes[i].Leaving {
		return nil, fmt.Errorf("node %q is not leaving", id)
	}
	for s := range Shard(len(m.Groups) + 1) {
		if slices.Contains(m.Group(s).Nodes(), id) {
			return nil, fmt.Errorf("node %q has a replica of shard %d still", id, s)
		}
	}
	next := m.later()
	next.Nodes = slices.Delete(next.Nodes, i, i+1)
	for i := range next.Nodes {
		if next.Nodes[i].Heir == id {
			next.Nodes[i].Heir = ""
		}
	}
	return next.checked()
}

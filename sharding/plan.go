package sharding

// plan is what the next move is chosen by.
type plan struct {
	m      *Map
	active []NodeID       // nodes that stay, sorted
	held   map[NodeID]int // replicas of data shards; only looked up, never walked
	led    map[NodeID]int // data shards where the node is first; only looked up
}

// NextMove returns the move that brings the map nearer to what it should be, or
// false when one is under way or none is wanted. It depends on the map alone, so
// that whoever asks gets the same answer. In this order:
//
//  1. leaving nodes lose their replicas, to their heirs or to the nodes that hold
//     the fewest, or to nobody if the shard has enough without them;
//  2. shards with too few replicas get one, those with too many lose one: a data
//     shard shall have Map.Replicas, the meta group three, or five from five
//     nodes on, each as many as there are nodes if these are fewer;
//  3. the numbers of data shards' replicas on two nodes shall differ by at most
//     one.
//
// Done one after the other, each with WithMove and WithMoved, the moves come to
// an end: the first kind lowers the number of replicas on leaving nodes and no
// other raises it, the second brings each shard once to its number, and the third
// moves a replica from a node to one that holds at least two fewer.
func (m *Map) NextMove() (Move, bool) {
	if m.Moving() != nil {
		return Move{}, false
	}
	p := &plan{m: m, active: m.Active(), held: make(map[NodeID]int), led: make(map[NodeID]int)}
	for i := range m.Groups {
		g := &m.Groups[i]
		p.led[g.Replicas[0]]++
		for _, id := range g.Replicas {
			p.held[id]++
		}
	}
	for _, next := range []func() (Move, bool){p.leave, p.resize, p.balance} {
		if mv, ok := next(); ok {
			return mv, true
		}
	}
	return Move{}, false
}

// wanted is how many replicas a group shall have.
func (p *plan) wanted(g *Group) int {
	if g.Shard == Meta {
		return metaVoters(len(p.active))
	}
	return min(p.m.Replicas, len(p.active))
}

// leave takes a replica off a leaving node. A group that has enough without it
// only loses it; any other gets one for it, so that it never has fewer copies on
// nodes that stay, nor one copy less on the whole, than before.
func (p *plan) leave() (Move, bool) {
	for s := range Shard(len(p.m.Groups) + 1) {
		g := p.m.Group(s)
		staying := 0
		var leaving Node
		for _, id := range g.Replicas {
			switch n, _ := p.m.Node(id); {
			case !n.Leaving:
				staying++
			case leaving.ID == "":
				leaving = n
			}
		}
		if leaving.ID == "" {
			continue
		}
		mv := Move{Shard: s, Removing: leaving.ID}
		if staying < p.wanted(g) { // then some node that stays does not hold it
			mv.Adding = p.receiver(g, leaving.Heir)
		}
		return mv, true
	}
	return Move{}, false
}

// resize brings a group nearer to the number of replicas it shall have. Too many
// has the meta group when five nodes have become four.
func (p *plan) resize() (Move, bool) {
	for s := range Shard(len(p.m.Groups) + 1) {
		switch g := p.m.Group(s); {
		case len(g.Replicas) < p.wanted(g):
			return Move{Shard: s, Adding: p.receiver(g, "")}, true
		case len(g.Replicas) > p.wanted(g):
			return Move{Shard: s, Removing: g.Replicas[len(g.Replicas)-1]}, true // never the first, who leads
		}
	}
	return Move{}, false
}

// receiver is who gets a replica of a group: the heir if it can, else of the
// nodes that stay and do not hold it the one that holds the fewest.
func (p *plan) receiver(g *Group, heir NodeID) NodeID {
	var least NodeID
	for _, id := range p.active {
		switch {
		case g.Holds(id):
		case id == heir:
			return id
		case least == "" || p.held[id] < p.held[least]:
			least = id
		}
	}
	return least
}

// balance moves a replica from the node that holds most to the one that holds
// fewest. There are at least two groups that only the former holds; one is chosen
// that evens the first places too, to save a transfer of leadership.
func (p *plan) balance() (Move, bool) {
	least, most := p.active[0], p.active[0]
	for _, id := range p.active {
		if p.held[id] < p.held[least] {
			least = id
		}
		if p.held[id] > p.held[most] {
			most = id
		}
	}
	if p.held[most]-p.held[least] < 2 {
		return Move{}, false
	}
	var chosen *Group
	for i := range p.m.Groups {
		g := &p.m.Groups[i]
		if !g.Holds(most) || g.Holds(least) {
			continue
		}
		fits := (g.Replicas[0] == most) == (p.led[most] > p.led[least])
		if chosen == nil || fits {
			chosen = g
		}
		if fits {
			break
		}
	}
	return Move{Shard: chosen.Shard, Adding: least, Removing: most}, true
}

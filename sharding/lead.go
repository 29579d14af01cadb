package sharding

import "slices"

// leavingLeads is added to the shards a leaving node leads: more than any node
// can lead, so that whoever stays takes over whatever it can.
const leavingLeads = MaxShards + 2

// evenLeaders puts replicas of the data shards first so that the shards each
// node should lead are as even as the placement permits, and a leaving node is
// first only where no other holds the shard. It changes as few first places as
// each step needs, because each is a transfer of leadership. Only a group that
// it changes gets another list of replicas.
//
// A node hands a first place on along a chain of groups as long as that ends at
// a node that leads at least two fewer. When there is no such chain left no
// choice of leaders is more even: N. Harvey, R. Ladner, L. Lovász, T. Tamir,
// "Semi-matchings for bipartite graphs and load balancing", 2006, theorem 3.1.
func (m *Map) evenLeaders() {
	l := &leaders{m: m, first: make([]int, len(m.Groups)), leads: make([]int, len(m.Nodes))}
	for i := range m.Nodes {
		if m.Nodes[i].Leaving {
			l.leads[i] = leavingLeads
		}
	}
	for g := range m.Groups {
		l.first[g], _ = m.index(m.Groups[g].Replicas[0]) // known: the map was valid
		l.leads[l.first[g]]++
	}
	for from := 0; from < len(m.Nodes); from++ {
		if l.handOn(from) {
			from = -1 // what could not be handed on before may be now
		}
	}
}

// leaders is who should lead the groups of a map; nodes are named by their places.
type leaders struct {
	m     *Map
	first []int // of each group: the node that should lead it
	leads []int // of each node: the groups it should lead
}

// handOn hands one first place on from a node; false if there is nobody to take
// it.
func (l *leaders) handOn(from int) bool {
	via, to := l.chain(from)
	if to < 0 {
		return false
	}
	l.leads[from]--
	l.leads[to]++
	for to != from {
		g := &l.m.Groups[via[to]]
		before := l.first[via[to]]
		g.Replicas = firstIs(g.Replicas, l.m.Nodes[to].ID)
		l.first[via[to]] = to
		to = before
	}
	return true
}

// chain finds the shortest chain from a node to one that leads at least two
// fewer: from leads a group that the second node holds, which leads one that the
// third holds, and so on. via is, for each node it came to, the group by which;
// to is -1 if there is no such chain.
func (l *leaders) chain(from int) (via []int, to int) {
	const unseen, start = -1, -2
	via = make([]int, len(l.leads))
	for i := range via {
		via[i] = unseen
	}
	via[from] = start
	for queue := []int{from}; len(queue) > 0; queue = queue[1:] {
		for g, first := range l.first {
			if first != queue[0] {
				continue
			}
			for _, id := range l.m.Groups[g].Replicas {
				at, _ := l.m.index(id) // known: the map was valid
				if via[at] != unseen {
					continue
				}
				via[at] = g
				if l.leads[at]+2 <= l.leads[from] {
					return via, at
				}
				queue = append(queue, at)
			}
		}
	}
	return nil, -1
}

// firstIs returns replicas with one of them first and the others in their order.
func firstIs(replicas []NodeID, id NodeID) []NodeID {
	others := slices.DeleteFunc(slices.Clone(replicas), func(other NodeID) bool { return other == id })
	return slices.Insert(others, 0, id)
}

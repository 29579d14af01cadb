package sharding

import (
	"fmt"
	"slices"
)

const (
	// ShardsPerNode is how many shards a new cluster gets for each of its
	// nodes when nobody says otherwise: splitting a batch costs a consensus
	// round per shard, so shards follow the number of leaders one can use.
	ShardsPerNode = 2
	// MaxShards bounds a cluster's shards: each costs memory and idle messages
	// on every node that holds a replica of it. A map with more is not decoded.
	MaxShards = 256
	// MaxNodes bounds a cluster's nodes. A map with more is not decoded.
	MaxNodes = 64
	// ReplicasPerShard is how many nodes hold a shard, when nobody says
	// otherwise, in a cluster that has that many.
	ReplicasPerShard = 3
)

// metaVoters returns how many nodes hold the meta group: three, five from five
// nodes on, all of fewer.
func metaVoters(nodes int) int {
	switch {
	case nodes >= 5:
		return 5
	case nodes >= 3:
		return 3
	default:
		return nodes
	}
}

// Found returns the first map of a cluster: the given nodes (sorted by ID) and
// shards data shards with contiguous ranges of slots even to within one slot.
// Each shard has min(replicas, nodes) replicas on distinct nodes; the replicas
// a node holds, and the shards it should lead, are even to within one. The map
// keeps the number asked for, so that a small cluster's shards get more replicas
// as it grows. shards = 0 means ShardsPerNode for each node, replicas = 0 means
// ReplicasPerShard.
func Found(cluster uint64, nodes []Node, shards, replicas int) (*Map, error) {
	if shards == 0 {
		shards = min(ShardsPerNode*len(nodes), MaxShards)
	}
	if shards < 1 || shards > MaxShards {
		return nil, fmt.Errorf("%d shards, want 1 to %d", shards, MaxShards)
	}
	if len(nodes) < 1 || len(nodes) > MaxNodes {
		return nil, fmt.Errorf("%d nodes, want 1 to %d", len(nodes), MaxNodes)
	}
	if replicas == 0 {
		replicas = ReplicasPerShard
	}
	if replicas < 1 || replicas > MaxNodes {
		return nil, fmt.Errorf("%d replicas of each shard, want 1 to %d", replicas, MaxNodes)
	}
	m := &Map{Cluster: cluster, Epoch: 1, Replicas: replicas, Nodes: slices.Clone(nodes)}
	replicas = min(replicas, len(nodes))
	m.Meta = Group{Shard: Meta, Generation: 1, Replicas: ring(nodes, 0, metaVoters(len(nodes)))}
	// All replicas of all shards are dealt around the ring one by one, so the
	// numbers on two nodes differ by at most one, and the replicas of one shard
	// are neighbours, so distinct. The place where a shard's replicas begin comes
	// back after cycle shards, having visited every step-th node; the leader moves
	// one place up within the replicas on each such round, so every node leads
	// once before any leads again.
	step := gcd(len(nodes), replicas)
	cycle := len(nodes) / step
	for i := range shards {
		dealt := ring(nodes, i*replicas, replicas)
		lead := i / cycle % step
		m.Groups = append(m.Groups, Group{
			Shard:      Shard(i + 1),
			Generation: 1,
			Range:      Range{First: uint16(i * Slots / shards), Last: uint16((i+1)*Slots/shards - 1)},
			Replicas:   slices.Concat(dealt[lead:], dealt[:lead]),
		})
	}
	if err := m.Validate(); err != nil {
		return nil, err
	}
	return m, nil
}

// ring returns n nodes that follow each other from place start on.
func ring(nodes []Node, start, n int) []NodeID {
	ids := make([]NodeID, n)
	for i := range ids {
		ids[i] = nodes[(start+i)%len(nodes)].ID
	}
	return ids
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

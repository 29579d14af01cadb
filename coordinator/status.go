package coordinator

import "github.com/manykv/manykv/sharding"

// NodeStatus is a node's view of itself, the answer to MethodStatus as JSON.
type NodeStatus struct {
	Node    sharding.NodeID `json:"node"`
	Version string          `json:"version"`
	Cluster string          `json:"cluster"` // the cluster's id in hex; empty until formed
	Storage string          `json:"storage"` // identity of the data directory in hex
	Addr    string          `json:"addr"`
	State   string          `json:"state"` // "forming", "serving" or "stopping"
	Epoch   uint64          `json:"epoch"` // of the node's map
	Members []MemberStatus  `json:"members"`
	Shards  []ShardStatus   `json:"shards"` // its replicas, by shard
}

// MemberStatus is a node as gossip sees it.
type MemberStatus struct {
	Node  sharding.NodeID `json:"node"`
	Addr  string          `json:"addr"`
	Alive bool            `json:"alive"`
}

// ShardStatus is one replica.
type ShardStatus struct {
	Shard    sharding.Shard    `json:"shard"`  // 0 is the meta group
	Role     string            `json:"role"`   // "leader", "follower", "candidate" or "stopped"
	Leader   sharding.NodeID   `json:"leader"` // empty if unknown
	Term     uint64            `json:"term"`
	Last     uint64            `json:"last"`    // last log index
	Commit   uint64            `json:"commit"`  // last index known to be committed
	Applied  uint64            `json:"applied"` // last index the state machine has
	Voters   []sharding.NodeID `json:"voters"`
	First    uint16            `json:"first_slot"` // of a data shard
	LastSlot uint16            `json:"last_slot"`
}

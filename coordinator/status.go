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

	Reason       string `json:"reason,omitempty"` // what it waits for, or why it does not serve
	JournalBytes uint64 `json:"journal_bytes"`    // size of the log of all its shards
	JournalLive  uint64 `json:"journal_live"`     // bytes of it that are still needed
	StoreBytes   uint64 `json:"store_bytes"`      // size of the data
	MemoryBytes  uint64 `json:"memory_bytes"`     // taken by the process
	Goroutines   int    `json:"goroutines"`
	OpenFiles    int    `json:"open_files"`
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

	FirstLog  uint64            `json:"first_log"`           // first log index that is kept
	Snapshot  uint64            `json:"snapshot"`            // index of the last snapshot
	Nonvoters []sharding.NodeID `json:"nonvoters,omitempty"` // replicas that are being filled
	Reason    string            `json:"reason,omitempty"`    // why the replica is quarantined
}

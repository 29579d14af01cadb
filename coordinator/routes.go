package coordinator

import (
	"hash/fnv"
	"slices"
	"sync/atomic"

	"github.com/manykv/manykv/sharding"
)

// routes holds the newest map with what was learned about leaders. Readers
// take no lock.
type routes struct{ current atomic.Pointer[table] }

// table is one map and, for each of its shards, which node is thought to lead: an
// index into the group's nodes, because the one that joins may lead already.
type table struct {
	byEpoch *sharding.Map
	layout  uint64         // tells maps apart whose shards own other slots; never 0
	leaders []atomic.Int32 // by shard, 0 = the meta group
}

// layoutOf returns a hash of which slots each shard owns.
func layoutOf(m *sharding.Map) uint64 {
	h := fnv.New64a()
	for i := range m.Groups {
		r := m.Groups[i].Range
		h.Write([]byte{byte(r.First >> 8), byte(r.First), byte(r.Last >> 8), byte(r.Last)})
	}
	return h.Sum64() | 1
}

func (t *table) m() *sharding.Map {
	if t == nil {
		return nil
	}
	return t.byEpoch
}

func (r *routes) load() *table { return r.current.Load() }

// use replaces the table if m is newer and returns the table in force. Leaders
// known for a shard are carried over by name.
func (r *routes) use(m *sharding.Map) *table {
	for {
		old := r.current.Load()
		if old != nil && old.byEpoch.Epoch >= m.Epoch {
			return old
		}
		next := &table{byEpoch: m, layout: layoutOf(m), leaders: make([]atomic.Int32, len(m.Groups)+1)}
		if old != nil {
			for s := range min(len(old.leaders), len(next.leaders)) {
				next.setLeader(sharding.Shard(s), old.leader(sharding.Shard(s)))
			}
		}
		if r.current.CompareAndSwap(old, next) {
			return next
		}
	}
}

// leader returns the node to ask for what only the leader may do.
func (t *table) leader(s sharding.Shard) sharding.NodeID {
	nodes := t.byEpoch.Group(s).Nodes()
	return nodes[int(t.leaders[s].Load())%len(nodes)]
}

// setLeader notes who leads; false if that node has no replica.
func (t *table) setLeader(s sharding.Shard, id sharding.NodeID) bool {
	i := slices.Index(t.byEpoch.Group(s).Nodes(), id)
	if i >= 0 {
		t.leaders[s].Store(int32(i))
	}
	return i >= 0
}

// follow notes who leads after a node said that it does not; false if that was
// no help, and the next replica is to be asked.
func (t *table) follow(s sharding.Shard, asked, leader sharding.NodeID) bool {
	if leader != asked && t.setLeader(s, leader) {
		return true
	}
	t.suspect(s, asked)
	return false
}

// suspect moves on to the next replica, if id is still thought to lead.
func (t *table) suspect(s sharding.Shard, id sharding.NodeID) {
	nodes := t.byEpoch.Group(s).Nodes()
	i := slices.Index(nodes, id)
	if i >= 0 {
		t.leaders[s].CompareAndSwap(int32(i), int32((i+1)%len(nodes)))
	}
}

// holds says whether a node has a replica of a shard.
func (t *table) holds(s sharding.Shard, id sharding.NodeID) bool {
	return t.byEpoch.Group(s).Holds(id)
}

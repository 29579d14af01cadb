package main

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"

	"github.com/manykv/manykv/client"
	"github.com/manykv/manykv/sharding"
)

// view is a cluster put together from what its nodes say.
type view struct {
	Nodes  []nodeView  `json:"nodes"`
	Shards []shardView `json:"shards"`
}

type nodeView struct {
	Node     sharding.NodeID `json:"node"`
	Addr     string          `json:"addr"`
	State    string          `json:"state"` // the node's word, or "unreachable"
	Error    string          `json:"error,omitempty"`
	Version  string          `json:"version,omitempty"`
	Epoch    uint64          `json:"epoch"`
	Replicas int             `json:"replicas"`
	Leads    int             `json:"leads"`
	NoLeader int             `json:"no_leader"` // replicas that know of no leader

	Storage      string `json:"storage,omitempty"` // identity of its data directory
	Leaving      bool   `json:"leaving,omitempty"` // it shall lose its replicas and be forgotten
	Reason       string `json:"reason,omitempty"`  // what it waits for, or why it does not serve
	JournalBytes uint64 `json:"journal_bytes"`
	JournalLive  uint64 `json:"journal_live"` // bytes of the journal that are still needed
	StoreBytes   uint64 `json:"store_bytes"`
	MemoryBytes  uint64 `json:"memory_bytes"`
}

type shardView struct {
	Shard    sharding.Shard  `json:"shard"`
	First    uint16          `json:"first_slot"`
	Last     uint16          `json:"last_slot"`
	Leader   sharding.NodeID `json:"leader"` // empty: none
	Term     uint64          `json:"term"`
	Commit   *uint64         `json:"commit"` // the leader's; null if there is none, or it does not know yet
	Replicas []replicaView   `json:"replicas"`
	// Adding and Removing are of a move under way.
	Adding   sharding.NodeID `json:"adding,omitempty"`
	Removing sharding.NodeID `json:"removing,omitempty"`
}

type replicaView struct {
	Node     sharding.NodeID `json:"node"`
	Role     string          `json:"role"`               // the replica's word, or "unreachable"
	Nonvoter bool            `json:"nonvoter,omitempty"` // it is being filled
	Applied  uint64          `json:"applied"`
	Lag      *uint64         `json:"lag"` // the leader's commit less applied; null if either is not known
	Snapshot uint64          `json:"snapshot"`
	Reason   string          `json:"reason,omitempty"` // why it is quarantined
}

const (
	stateUnreachable = "unreachable"
	stateServing     = "serving"
	roleLeader       = "leader"
)

// replicaWord is what a node says of its replica of a shard.
type replicaWord struct {
	role                            string
	term, commit, applied, snapshot uint64
	voters, nonvoters               []sharding.NodeID
	first, last                     uint16
	reason                          string
}

// newView puts the nodes' answers together, with the map, which may be nil.
func newView(statuses []client.Status, m *sharding.Map) view {
	v := view{Nodes: []nodeView{}, Shards: []shardView{}}
	byShard := make(map[sharding.Shard]map[sharding.NodeID]replicaWord)
	for i := range statuses {
		n := newNodeView(&statuses[i], m)
		if s := statuses[i].Status; s != nil {
			for _, replica := range s.Shards {
				if replica.Leader == "" {
					n.NoLeader++
				}
				if byShard[replica.Shard] == nil {
					byShard[replica.Shard] = make(map[sharding.NodeID]replicaWord)
				}
				byShard[replica.Shard][n.Node] = replicaWord{
					role: replica.Role, term: replica.Term, commit: replica.Commit, applied: replica.Applied, snapshot: replica.Snapshot,
					voters: replica.Voters, nonvoters: replica.Nonvoters,
					first: replica.First, last: replica.LastSlot, reason: replica.Reason,
				}
			}
		}
		v.Nodes = append(v.Nodes, n)
	}
	for _, shard := range slices.Sorted(maps.Keys(byShard)) {
		s := newShardView(shard, byShard[shard])
		if m != nil && m.Group(shard) != nil {
			s.Adding, s.Removing = m.Group(shard).Adding, m.Group(shard).Removing
		}
		v.Shards = append(v.Shards, s)
	}
	for i := range v.Nodes {
		for _, s := range v.Shards {
			if s.Leader == v.Nodes[i].Node {
				v.Nodes[i].Leads++
			}
		}
	}
	return v
}

func newNodeView(s *client.Status, m *sharding.Map) nodeView {
	n := nodeView{Node: s.Node, Addr: s.Addr, State: stateUnreachable}
	if m != nil {
		if known, ok := m.Node(s.Node); ok {
			n.Leaving = known.Leaving
		}
	}
	if s.Err != nil {
		n.Error = s.Err.Error()
	}
	if is := s.Status; is != nil {
		n.State, n.Version, n.Epoch, n.Replicas = is.State, is.Version, is.Epoch, len(is.Shards)
		n.Storage, n.Reason = is.Storage, is.Reason
		n.JournalBytes, n.JournalLive, n.StoreBytes, n.MemoryBytes = is.JournalBytes, is.JournalLive, is.StoreBytes, is.MemoryBytes
	}
	return n
}

// newShardView puts the replicas of one shard together. Of two that call
// themselves leader, the one of the later term is.
func newShardView(shard sharding.Shard, replicas map[sharding.NodeID]replicaWord) shardView {
	v := shardView{Shard: shard}
	for node, r := range replicas {
		if r.role == roleLeader && (v.Leader == "" || r.term > v.Term) {
			v.Leader, v.Term, v.Commit = node, r.term, nil
			if r.commit > 0 { // raft's for a leader that does not know yet
				v.Commit = &r.commit
			}
			v.First, v.Last = r.first, r.last
		}
	}
	members := make(map[sharding.NodeID]bool) // true: a non-voter
	for node, r := range replicas {
		if v.Leader == "" {
			v.Term, v.First, v.Last = max(v.Term, r.term), r.first, r.last
		}
		if _, known := members[node]; !known {
			members[node] = false // also one that its leader does not know of
		}
		if v.Leader == "" || v.Leader == node {
			for _, voter := range r.voters {
				members[voter] = false
			}
			for _, nonvoter := range r.nonvoters {
				members[nonvoter] = true
			}
		}
	}
	for _, node := range slices.Sorted(maps.Keys(members)) {
		r, ok := replicas[node]
		if !ok {
			v.Replicas = append(v.Replicas, replicaView{Node: node, Role: stateUnreachable, Nonvoter: members[node]})
			continue
		}
		rv := replicaView{Node: node, Role: r.role, Nonvoter: members[node], Applied: r.applied, Snapshot: r.snapshot, Reason: r.reason}
		if v.Commit != nil && r.reason == "" {
			// The answers are not of one moment: a replica may be ahead of what
			// its leader said a little earlier.
			rv.Lag = new(*v.Commit - min(*v.Commit, r.applied))
		}
		v.Replicas = append(v.Replicas, rv)
	}
	return v
}

// trouble says what keeps callers from their data: nodes that do not answer,
// shards without a leader. Nodes that are known to be dead are not named.
func (v *view) trouble(dead map[sharding.NodeID]bool) []string {
	var out []string
	for _, n := range v.Nodes {
		if n.State == stateUnreachable && !dead[n.Node] {
			out = append(out, fmt.Sprintf("node %s is %s: %s", n.Node, n.State, n.Error))
		}
	}
	if len(v.Shards) < 2 { // the meta group and one shard at least
		out = append(out, "no node knows of a shard")
	}
	for _, s := range v.Shards {
		if s.Leader == "" {
			out = append(out, fmt.Sprintf("shard %d has no leader", s.Shard))
		}
	}
	return out
}

// missing says what keeps the cluster from being whole: besides what is
// trouble, every node serves, every replica has applied what is committed and
// none is on its way to another node.
// Nodes that are known to be dead, and their replicas, are not waited for.
//
// Under a load every replica is always some entries behind, as the answers are not of
// one moment. So one has caught up that has applied what was committed in before, an
// earlier view, or an empty one.
func (v *view) missing(dead map[sharding.NodeID]bool, before *view) []string {
	out := v.trouble(dead)
	for _, n := range v.Nodes {
		if n.State != stateServing && n.State != stateUnreachable && !dead[n.Node] {
			out = append(out, fmt.Sprintf("node %s is %s", n.Node, n.State))
		}
	}
	for _, s := range v.Shards {
		if s.moving() {
			out = append(out, s.move()+" is under way")
		}
		for _, r := range s.Replicas {
			switch {
			case dead[r.Node] || s.Leader == "":
			case r.Reason != "":
				out = append(out, fmt.Sprintf("shard %d: the replica on %s is %s: %s", s.Shard, r.Node, r.Role, r.Reason))
			case r.Lag == nil:
				out = append(out, fmt.Sprintf("shard %d: the replica on %s is %s", s.Shard, r.Node, r.Role))
			case *r.Lag > 0 && r.Applied < before.committed(&s):
				out = append(out, fmt.Sprintf("shard %d: the replica on %s is %s behind", s.Shard, r.Node, count(*r.Lag, "entry", "entries")))
			}
		}
	}
	return out
}

// committed is what was committed of a shard as is now, as far as is known; if it is
// not, the largest number: in an empty view, or under another leader.
func (v *view) committed(now *shardView) uint64 {
	i := slices.IndexFunc(v.Shards, func(s shardView) bool { return s.Shard == now.Shard })
	if i < 0 || v.Shards[i].Term != now.Term || v.Shards[i].Commit == nil {
		return math.MaxUint64
	}
	most := *v.Shards[i].Commit
	for _, r := range v.Shards[i].Replicas {
		most = max(most, r.Applied)
	}
	return most
}

func (s *shardView) moving() bool { return s.Adding != "" || s.Removing != "" }

func (s *shardView) move() string {
	return "the move of " + sharding.Move{Shard: s.Shard, Adding: s.Adding, Removing: s.Removing}.String()
}

// print writes the tables.
func (v *view) print(w *printer) {
	rows := [][]string{{"NODE", "ADDRESS", "STATE", "EPOCH", "REPLICAS", "LEADS", "JOURNAL", "STORE", "MEMORY"}}
	for _, n := range v.Nodes {
		row := []string{string(n.Node), n.Addr, n.describe(), "-", "-", "-", "-", "-", "-"}
		if n.State != stateUnreachable {
			row = append(row[:3], strconv.FormatUint(n.Epoch, 10), strconv.Itoa(n.Replicas), strconv.Itoa(n.Leads),
				size(n.JournalBytes), size(n.StoreBytes), size(n.MemoryBytes))
		}
		rows = append(rows, row)
	}
	w.table(false, rows)
	rows = [][]string{{"SHARD", "SLOTS", "LEADER", "TERM", "COMMIT", "SNAPSHOT", "LAG"}}
	for _, s := range v.Shards {
		slots, leader, commit, snapshot := fmt.Sprintf("%d-%d", s.First, s.Last), string(s.Leader), "-", "-"
		if s.Shard == sharding.Meta {
			slots = "meta"
		}
		if leader == "" {
			leader = "none"
		}
		if s.Commit != nil {
			commit = strconv.FormatUint(*s.Commit, 10)
		}
		for _, r := range s.Replicas {
			if r.Node == s.Leader {
				snapshot = strconv.FormatUint(r.Snapshot, 10)
			}
		}
		rows = append(rows, []string{fmt.Sprint(s.Shard), slots, leader,
			strconv.FormatUint(s.Term, 10), commit, snapshot, s.lags()})
	}
	w.printf("\n")
	w.table(false, rows)
	for _, line := range v.remarks() {
		w.printf("\n%s\n", line)
	}
}

// remarks are what does not fit into the tables.
func (v *view) remarks() (lines []string) {
	for _, s := range v.Shards {
		if s.moving() {
			lines = append(lines, s.move()+" is under way")
		}
		for _, r := range s.Replicas {
			if r.Reason != "" {
				lines = append(lines, fmt.Sprintf("shard %d on %s is %s: %s", s.Shard, r.Node, r.Role, r.Reason))
			}
		}
	}
	for _, n := range v.Nodes {
		if n.Error != "" {
			lines = append(lines, fmt.Sprintf("%s: %s", n.Node, n.Error))
		}
		if n.Reason != "" {
			lines = append(lines, fmt.Sprintf("%s: %s", n.Node, n.Reason))
		}
	}
	return lines
}

// size is a number of bytes for people.
func size(bytes uint64) string {
	if bytes < 10e6 {
		return fmt.Sprintf("%.1f MB", float64(bytes)/1e6)
	}
	return fmt.Sprintf("%.0f MB", float64(bytes)/1e6)
}

// describe is the node's state, in a width that leaves the table 80 columns.
func (n *nodeView) describe() string {
	state := n.State
	if n.Leaving {
		state += ", leaving"
	}
	if n.NoLeader > 0 {
		state += fmt.Sprintf(", no leader for %d/%d shards", n.NoLeader, n.Replicas)
	}
	return state
}

// lags is one word for each replica: n1=0 n2=3 n3=?, and +n4=7 for one that is
// being filled and does not vote yet.
func (s *shardView) lags() string {
	if s.Commit == nil {
		return "-"
	}
	out := ""
	for i, r := range s.Replicas {
		if i > 0 {
			out += " "
		}
		if r.Nonvoter {
			out += "+"
		}
		if r.Lag == nil {
			out += fmt.Sprintf("%s=?", r.Node)
		} else {
			out += fmt.Sprintf("%s=%d", r.Node, *r.Lag)
		}
	}
	return out
}

package main

import (
	"fmt"
	"maps"
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
}

type shardView struct {
	Shard    sharding.Shard  `json:"shard"`
	First    uint16          `json:"first_slot"`
	Last     uint16          `json:"last_slot"`
	Leader   sharding.NodeID `json:"leader"` // empty: none
	Term     uint64          `json:"term"`
	Commit   *uint64         `json:"commit"` // the leader's; null if there is none
	Replicas []replicaView   `json:"replicas"`
}

type replicaView struct {
	Node    sharding.NodeID `json:"node"`
	Role    string          `json:"role"` // the replica's word, or "unreachable"
	Applied uint64          `json:"applied"`
	Lag     *uint64         `json:"lag"` // the leader's commit less applied; null if either is not known
}

const (
	stateUnreachable = "unreachable"
	stateServing     = "serving"
	roleLeader       = "leader"
)

// replicaWord is what a node says of its replica of a shard.
type replicaWord struct {
	role                  string
	term, commit, applied uint64
	voters                []sharding.NodeID
	first, last           uint16
}

// newView puts the nodes' answers together.
func newView(statuses []client.Status) view {
	v := view{Nodes: []nodeView{}, Shards: []shardView{}}
	byShard := make(map[sharding.Shard]map[sharding.NodeID]replicaWord)
	for _, s := range statuses {
		n := nodeView{Node: s.Node, Addr: s.Addr, State: stateUnreachable}
		if s.Err != nil {
			n.Error = s.Err.Error()
		}
		if s.Status != nil {
			n.State, n.Version, n.Epoch, n.Replicas = s.Status.State, s.Status.Version, s.Status.Epoch, len(s.Status.Shards)
			for _, replica := range s.Status.Shards {
				if replica.Leader == "" {
					n.NoLeader++
				}
				if byShard[replica.Shard] == nil {
					byShard[replica.Shard] = make(map[sharding.NodeID]replicaWord)
				}
				byShard[replica.Shard][s.Node] = replicaWord{
					role: replica.Role, term: replica.Term, commit: replica.Commit, applied: replica.Applied,
					voters: replica.Voters, first: replica.First, last: replica.LastSlot,
				}
			}
		}
		v.Nodes = append(v.Nodes, n)
	}
	for _, shard := range slices.Sorted(maps.Keys(byShard)) {
		v.Shards = append(v.Shards, newShardView(shard, byShard[shard]))
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

// newShardView puts the replicas of one shard together. Of two that call
// themselves leader, the one of the later term is.
func newShardView(shard sharding.Shard, replicas map[sharding.NodeID]replicaWord) shardView {
	v := shardView{Shard: shard}
	voters := make(map[sharding.NodeID]bool)
	for node, r := range replicas {
		if r.role == roleLeader && (v.Leader == "" || r.term > v.Term) {
			v.Leader, v.Term, v.Commit = node, r.term, &r.commit
			v.First, v.Last = r.first, r.last
		}
	}
	for node, r := range replicas {
		if v.Leader == "" {
			v.Term, v.First, v.Last = max(v.Term, r.term), r.first, r.last
		}
		voters[node] = true
		if v.Leader == "" || v.Leader == node {
			for _, voter := range r.voters {
				voters[voter] = true
			}
		}
	}
	for _, node := range slices.Sorted(maps.Keys(voters)) {
		r, ok := replicas[node]
		if !ok {
			v.Replicas = append(v.Replicas, replicaView{Node: node, Role: stateUnreachable})
			continue
		}
		rv := replicaView{Node: node, Role: r.role, Applied: r.applied}
		if v.Commit != nil {
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
// trouble, every node serves and every replica has applied what is committed.
// Nodes that are known to be dead, and their replicas, are not waited for.
func (v *view) missing(dead map[sharding.NodeID]bool) []string {
	out := v.trouble(dead)
	for _, n := range v.Nodes {
		if n.State != stateServing && n.State != stateUnreachable && !dead[n.Node] {
			out = append(out, fmt.Sprintf("node %s is %s", n.Node, n.State))
		}
	}
	for _, s := range v.Shards {
		for _, r := range s.Replicas {
			switch {
			case dead[r.Node] || s.Leader == "":
			case r.Lag == nil:
				out = append(out, fmt.Sprintf("shard %d: the replica on %s is %s", s.Shard, r.Node, r.Role))
			case *r.Lag > 0:
				out = append(out, fmt.Sprintf("shard %d: the replica on %s is %s behind", s.Shard, r.Node, count(*r.Lag, "entry", "entries")))
			}
		}
	}
	return out
}

// print writes the tables.
func (v *view) print(w *printer) {
	rows := [][]string{{"NODE", "ADDRESS", "STATE", "EPOCH", "REPLICAS", "LEADS"}}
	for _, n := range v.Nodes {
		row := []string{string(n.Node), n.Addr, n.describe(), "-", "-", "-"}
		if n.State != stateUnreachable {
			row = append(row[:3], strconv.FormatUint(n.Epoch, 10), strconv.Itoa(n.Replicas), strconv.Itoa(n.Leads))
		}
		rows = append(rows, row)
	}
	w.table(false, rows)
	rows = [][]string{{"SHARD", "SLOTS", "LEADER", "TERM", "COMMIT", "LAG"}}
	for _, s := range v.Shards {
		slots, leader, commit := fmt.Sprintf("%d-%d", s.First, s.Last), string(s.Leader), "-"
		if s.Shard == sharding.Meta {
			slots = "meta"
		}
		if leader == "" {
			leader = "none"
		}
		if s.Commit != nil {
			commit = strconv.FormatUint(*s.Commit, 10)
		}
		rows = append(rows, []string{fmt.Sprint(s.Shard), slots, leader,
			strconv.FormatUint(s.Term, 10), commit, s.lags()})
	}
	w.printf("\n")
	w.table(false, rows)
	for _, n := range v.Nodes {
		if n.Error != "" {
			w.printf("\n%s: %s\n", n.Node, n.Error)
		}
	}
}

// describe is the node's state, in a width that leaves the table 80 columns.
func (n *nodeView) describe() string {
	if n.NoLeader == 0 {
		return n.State
	}
	return fmt.Sprintf("%s, no leader for %d/%d shards", n.State, n.NoLeader, n.Replicas)
}

// lags is one word for each replica: n1=0 n2=3 n3=?
func (s *shardView) lags() string {
	if s.Commit == nil {
		return "-"
	}
	out := ""
	for i, r := range s.Replicas {
		if i > 0 {
			out += " "
		}
		if r.Lag == nil {
			out += fmt.Sprintf("%s=?", r.Node)
		} else {
			out += fmt.Sprintf("%s=%d", r.Node, *r.Lag)
		}
	}
	return out
}

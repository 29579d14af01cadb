package cluster

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/manykv/manykv/sharding"
)

// serversFrom makes servers of "a b (c)": those in parentheses have no vote.
func serversFrom(text string) (servers []raft.Server) {
	for _, word := range strings.Fields(text) {
		id := strings.Trim(word, "()")
		s := raft.Server{ID: raft.ServerID(id), Address: raft.ServerAddress(id)}
		if id != word {
			s.Suffrage = raft.Nonvoter
		}
		servers = append(servers, s)
	}
	return servers
}

// apply makes a change as raft does.
func apply(servers []raft.Server, c change) []raft.Server {
	servers = slices.DeleteFunc(slices.Clone(servers), func(s raft.Server) bool { return s.ID == c.server })
	switch c.op {
	case raft.AddNonvoter:
		servers = append(servers, raft.Server{ID: c.server, Suffrage: raft.Nonvoter})
	case raft.AddVoter:
		servers = append(servers, raft.Server{ID: c.server})
	}
	return servers
}

func TestStepsOfAReconfiguration(t *testing.T) {
	for _, c := range []struct {
		name, have, want, leader string
		steps                    string
	}{
		{"nothing to do", "a b c", "a b c", "a", ""},
		{"one joins", "a b", "a b c", "a", "adding c, giving c its vote"},
		{"one takes another's place", "a b c", "a b d", "a", "adding d, giving d its vote, removing c"},
		{"one takes the leader's place", "a b c", "b c d", "a", "adding d, giving d its vote, removing a"},
		{"one leaves", "a b c", "a b", "a", "removing c"},
		{"the only one is replaced", "a", "b", "a", "adding b, giving b its vote, removing a"},
		{"two leave, the leader last", "a b c d", "c d", "a", "removing b, removing a"},
		{"all are replaced, one by one", "a b c", "d e f", "b",
			"adding d, adding e, adding f, giving d its vote, removing a, giving e its vote, removing c, giving f its vote, removing b"},
		{"a move that was given up", "a b c (d)", "a b c", "a", "removing d"},
		{"one given up after it got its vote", "a b c d", "a b c", "d", "removing d"},
		{"a step that was taken already", "a b c (d)", "a b d", "a", "giving d its vote, removing c"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var want []raft.ServerID
			for _, s := range serversFrom(c.want) {
				want = append(want, s.ID)
			}
			have := serversFrom(c.have)
			var steps []string
			for len(steps) < 20 {
				change, ok := nextChange(have, want, raft.ServerID(c.leader))
				if !ok {
					break
				}
				steps = append(steps, change.String())
				have = apply(have, change)
				voters := 0
				for _, s := range have {
					if s.Suffrage == raft.Voter {
						voters++
					}
				}
				if most := max(len(want), len(strings.Fields(c.have))) + 1; voters > most {
					t.Errorf("%d voters after %s, want at most %d", voters, change, most)
				}
			}
			if got := strings.Join(steps, ", "); got != c.steps {
				t.Errorf("steps\n got %s\nwant %s", got, c.steps)
			}
		})
	}
}

// running returns the leader of a shard and the other nodes, once all of their
// replicas run.
func (c *testCluster) running(s sharding.Shard) (leader *Node, others []*Node) {
	c.t.Helper()
	eventually(c.t, 10*time.Second, func() string {
		leader, others = nil, nil
		for _, n := range c.nodes {
			switch r := n.replica(s); {
			case r == nil || r.leader() == "":
				return fmt.Sprintf("%s has no replica of shard %d that follows", n.name, s)
			case r.leads():
				leader = n
			default:
				others = append(others, n)
			}
		}
		if leader == nil {
			return "no leader"
		}
		return ""
	})
	return leader, others
}

// A group must not be left with voters of which no majority can commit: that a
// node is alive does not mean that its replica runs.
func TestChangesThatMustWait(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3)
	const shard = sharding.Shard(1)
	n, others := c.running(shard)
	out, up := others[0], others[1]
	must(t, out.replica(shard).close()) // as a quarantined one: there, and not running
	r := n.replica(shard)
	old := serverOf(sharding.Node{ID: up.name, Storage: 1}) // before its directory was replaced
	for _, s := range []struct {
		have []raft.ServerID
		c    change
		ok   bool
	}{
		{[]raft.ServerID{n.self, out.self, up.self}, change{raft.RemoveServer, out.self}, true},
		{[]raft.ServerID{n.self, out.self, up.self}, change{raft.RemoveServer, up.self}, false},
		{[]raft.ServerID{n.self}, change{raft.AddVoter, up.self}, true},
		{[]raft.ServerID{n.self}, change{raft.AddVoter, out.self}, false},
		{[]raft.ServerID{n.self, out.self}, change{raft.AddVoter, up.self}, true},
		{[]raft.ServerID{n.self, old}, change{raft.AddNonvoter, up.self}, false},
		{[]raft.ServerID{n.self, old}, change{raft.AddVoter, up.self}, true},
	} {
		var have []raft.Server
		for _, id := range s.have {
			have = append(have, raft.Server{ID: id})
		}
		if s.c.op != raft.RemoveServer {
			have = append(have, raft.Server{ID: s.c.server, Suffrage: raft.Nonvoter})
		}
		if err := n.affords(t.Context(), r, have, s.c); (err == nil) != s.ok {
			t.Errorf("%v, %s: %v, want it to be possible: %v", s.have, s.c, err, s.ok)
		}
	}
	up.replica(shard).newcomer.Store(true)
	have := []raft.Server{{ID: n.self}, {ID: out.self}, {ID: up.self}}
	if err := n.affords(t.Context(), r, have, change{raft.RemoveServer, out.self}); !errors.Is(err, errWaiting) {
		t.Errorf("a group was left with a newcomer: %v", err)
	}
}

// What was proven of a configuration does not hold for the same servers after a
// change.
func TestAChangeUnprovesTheConfiguration(t *testing.T) {
	t.Parallel()
	_, r := alone(t, 77)
	must(t, r.open())
	group := r.raft.Load()
	eventually(t, 10*time.Second, func() string {
		if !r.leads() || !r.announced(group) {
			return "no leader"
		}
		return ""
	})
	r.changing.Lock()
	must(t, r.prove(t.Context(), group, r.configuration()))
	if r.proven == nil {
		t.Error("nothing is proven")
	}
	must(t, r.change(t.Context(), group, change{raft.RemoveServer, "nobody"}))
	if r.proven != nil {
		t.Errorf("proven after a change: %v", r.proven.servers)
	}
	r.changing.Unlock()
	must(t, r.close())
}

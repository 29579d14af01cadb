package cluster

import (
	"testing"
	"time"

	"github.com/manykv/manykv/coordinator"
	"github.com/manykv/manykv/sharding"
)

// A move is given up when the node that gets the replica stays away, and not before.
func TestMoveIsAbandoned(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, func(_ int, cfg *Config) { cfg.Join = nil })
	c.start(0)
	n := c.nodes[0]
	m := &sharding.Map{Nodes: []sharding.Node{n.me(), {ID: "n2", Storage: 2}}}
	g := &sharding.Group{Shard: 1, Replicas: []sharding.NodeID{"n1"}, Adding: "n2"}
	here := func(alive bool) {
		n.gossip.mu.Lock()
		defer n.gossip.mu.Unlock()
		n.gossip.known["n2"] = coordinator.MemberStatus{Node: "n2", Alive: alive}
	}
	d := &driver{n: n}
	start := time.Now()
	for i, s := range []struct {
		after time.Duration
		alive bool
		want  bool
	}{
		{0, true, false},
		{time.Second, false, false},
		{abandonAfter, false, false},
		{abandonAfter + time.Second/2, true, false}, // it comes back, and goes again
		{abandonAfter + time.Second, false, false},
		{2 * abandonAfter, false, false},
		{2*abandonAfter + 2*time.Second, false, true},
	} {
		here(s.alive)
		if got := d.abandons(m, g, start.Add(s.after)); got != s.want {
			t.Errorf("step %d, after %v: given up: %v, want %v", i, s.after, got, s.want)
		}
	}
	g.Adding, g.Removing = "", "n1"
	if d.abandons(m, g, start.Add(10*abandonAfter)) {
		t.Error("a move that adds nobody waits for nobody")
	}
}

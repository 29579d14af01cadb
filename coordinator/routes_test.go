package coordinator

import (
	"slices"
	"sync"
	"testing"

	"github.com/manykv/manykv/sharding"
)

// mapOf makes a map of an epoch with one shard per list of replicas.
func mapOf(epoch uint64, replicas ...[]sharding.NodeID) *sharding.Map {
	m := foundMap(epoch, 4, len(replicas), 1)
	for i := range replicas {
		m.Groups[i].Replicas = replicas[i]
	}
	return m
}

func TestLeadersAreKept(t *testing.T) {
	var r routes
	if r.load().m() != nil {
		t.Fatalf("there is a map before any came")
	}
	first := r.use(mapOf(3, []sharding.NodeID{"n1", "n2", "n3"}, []sharding.NodeID{"n2", "n3", "n1"}))
	if first.leader(1) != "n1" || first.leader(2) != "n2" {
		t.Errorf("%s and %s lead, want the first replicas", first.leader(1), first.leader(2))
	}
	if !first.setLeader(1, "n3") || first.setLeader(2, "n4") {
		t.Errorf("a replica can lead and another node cannot")
	}
	for _, old := range []uint64{1, 3} {
		if got := r.use(mapOf(old, []sharding.NodeID{"n4"})); got != first {
			t.Errorf("a map of epoch %d replaced one of epoch 3", old)
		}
	}

	// By name, not by place; a shard that lost its leader begins with its first
	// replica, and so does a new one.
	next := r.use(mapOf(4, []sharding.NodeID{"n4", "n2", "n3"}, []sharding.NodeID{"n4", "n1"}, []sharding.NodeID{"n3"}))
	if next != r.load() || next.leader(1) != "n3" || next.leader(2) != "n4" || next.leader(3) != "n3" {
		t.Errorf("%s, %s and %s lead, want n3, n4 and n3", next.leader(1), next.leader(2), next.leader(3))
	}
	if fewer := r.use(mapOf(5, []sharding.NodeID{"n1", "n3"})); fewer.leader(1) != "n3" {
		t.Errorf("%s leads, want n3", fewer.leader(1))
	}
}

func TestSuspicionMovesOn(t *testing.T) {
	var r routes
	table := r.use(mapOf(1, []sharding.NodeID{"n1", "n2", "n3"}))
	for _, step := range []struct {
		suspect, leader sharding.NodeID
	}{
		{"n1", "n2"},
		{"n1", "n2"}, // somebody else has found out already
		{"n4", "n2"}, // no replica
		{"n2", "n3"},
		{"n1", "n3"}, // long ago
		{"n3", "n1"}, // and around
	} {
		if table.suspect(1, step.suspect); table.leader(1) != step.leader {
			t.Fatalf("after suspecting %s %s leads, want %s", step.suspect, table.leader(1), step.leader)
		}
	}
	for _, step := range []struct {
		asked, hint sharding.NodeID
		help        bool
		leader      sharding.NodeID
	}{
		{"n1", "n3", true, "n3"},
		{"n3", "", false, "n1"},
		{"n1", "n1", false, "n2"},
		{"n2", "n4", false, "n3"},
	} {
		if got := table.follow(1, step.asked, step.hint); got != step.help || table.leader(1) != step.leader {
			t.Fatalf("%s points at %q: %v, now %s leads; want %v, %s", step.asked, step.hint, got, table.leader(1), step.help, step.leader)
		}
	}
	if !table.holds(1, "n2") || table.holds(1, "n4") {
		t.Errorf("n2 has a replica, n4 has none")
	}
}

// A node that is getting a shard may lead it before it is one of its replicas.
func TestTheNodeThatJoinsMayLead(t *testing.T) {
	var r routes
	m := mapOf(1, []sharding.NodeID{"n1", "n2"})
	m.Groups[0].Adding, m.Groups[0].Removing = "n3", "n1"
	table := r.use(m)
	if !table.follow(1, "n1", "n3") || table.leader(1) != "n3" {
		t.Fatalf("%s leads, want n3", table.leader(1))
	}
	if table.suspect(1, "n3"); table.leader(1) != "n1" {
		t.Errorf("after suspecting n3 %s leads, want n1", table.leader(1))
	}
	if table.holds(1, "n3") {
		t.Error("n3 is asked for reads of what it may not have yet")
	}
	table.setLeader(1, "n3")
	if next := r.use(mapOf(2, []sharding.NodeID{"n3", "n2"})); next.leader(1) != "n3" {
		t.Errorf("after the move %s leads, want n3", next.leader(1))
	}
}

// Everything about routes may happen at once; the newest map wins.
func TestRoutesAreSafeForConcurrentUse(t *testing.T) {
	const epochs = 200
	var r routes
	r.use(foundMap(1, 4, 6, 3))
	var all sync.WaitGroup
	for worker := range 4 {
		all.Go(func() {
			var seen uint64
			for i := range epochs {
				table := r.use(foundMap(uint64(i+worker), 4, 1+(i+worker)%6, 3))
				if table.byEpoch.Epoch < seen || table.byEpoch.Epoch < uint64(i+worker) {
					t.Errorf("the map of epoch %d after that of %d", table.byEpoch.Epoch, seen)
				}
				seen = table.byEpoch.Epoch
				for s := range sharding.Shard(len(table.byEpoch.Groups)) {
					leader := table.leader(s)
					if !slices.Contains(table.byEpoch.Group(s).Replicas, leader) {
						t.Errorf("shard %d is led by %q, no replica of it", s, leader)
					}
					table.suspect(s, leader)
					table.setLeader(s, "n1")
				}
			}
		})
	}
	all.Wait()
	if got := r.load().byEpoch.Epoch; got != epochs+2 {
		t.Errorf("the last map is of epoch %d, want %d", got, epochs+2)
	}
}

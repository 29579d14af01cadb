package sharding_test

import (
	"math"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/manykv/manykv/sharding"
)

func TestGroupOfIsTheOneThatHoldsTheSlot(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		shards := rapid.IntRange(1, sharding.MaxShards).Draw(t, "shards")
		m, err := sharding.Found(42, someNodes(3), shards, 3)
		if err != nil {
			t.Fatal(err)
		}
		at := 0 // the group a scan along the slots is in
		for slot := range uint16(sharding.Slots) {
			for !m.Groups[at].Range.Contains(slot) {
				at++
			}
			if got := m.GroupOf(slot); got != &m.Groups[at] {
				t.Fatalf("slot %d is of shard %d, want %d", slot, got.Shard, m.Groups[at].Shard)
			}
		}
	})
}

func TestKeysGoToTheShardOfTheirSlot(t *testing.T) {
	m := found(t, 3, 6, 3)
	for _, h := range hashes {
		got := m.ShardOfKey(h.bucket, h.key)
		if g := m.Group(got); g == nil || !g.Range.Contains(h.slot) {
			t.Errorf("key %q of slot %d goes to shard %d, group %+v", h.key, h.slot, got, g)
		}
	}
}

func TestGroupsAndNodesAreFoundByName(t *testing.T) {
	m := found(t, 3, 6, 3)
	if got := m.Group(sharding.Meta); got != &m.Meta {
		t.Errorf("shard 0 is %+v, want the meta group", got)
	}
	for i := range m.Groups {
		if got := m.Group(sharding.Shard(i + 1)); got != &m.Groups[i] {
			t.Errorf("shard %d is %+v, want %+v", i+1, got, m.Groups[i])
		}
	}
	for _, s := range []sharding.Shard{7, 1 << 31, math.MaxUint32} {
		if got := m.Group(s); got != nil {
			t.Errorf("shard %d is %+v, want none", s, got)
		}
	}
	for _, want := range m.Nodes {
		if got, ok := m.Node(want.ID); !ok || got != want {
			t.Errorf("node %s is %+v, %v, want %+v", want.ID, got, ok, want)
		}
	}
	for _, id := range []sharding.NodeID{"", "n", "n005", "n99", "z"} {
		if got, ok := m.Node(id); ok || got != (sharding.Node{}) {
			t.Errorf("node %q is %+v, %v, want none", id, got, ok)
		}
	}
}

// rename gives a node another name wherever it stands.
func rename(m *sharding.Map, from, to sharding.NodeID) {
	for i := range m.Nodes {
		if m.Nodes[i].ID == from {
			m.Nodes[i].ID = to
		}
	}
	for s := range sharding.Shard(len(m.Groups) + 1) {
		if i := slices.Index(m.Group(s).Replicas, from); i >= 0 {
			m.Group(s).Replicas[i] = to
		}
	}
}

func TestValidate(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(m *sharding.Map)
		want  string // "" for a valid map
	}{
		{"as founded", func(*sharding.Map) {}, ""},
		{"another epoch", func(m *sharding.Map) { m.Epoch = 1<<64 - 1 }, ""},
		{"one replica", func(m *sharding.Map) { m.Groups[1].Replicas = m.Groups[1].Replicas[:1] }, ""},
		{"uneven ranges", func(m *sharding.Map) { m.Groups[0].Range.Last--; m.Groups[1].Range.First-- }, ""},
		{"epoch 0", func(m *sharding.Map) { m.Epoch = 0 }, "epoch 0 with 3 nodes and 2 shards, want at least one of each"},
		{"no nodes", func(m *sharding.Map) { m.Nodes = nil }, "epoch 1 with 0 nodes and 2 shards, want at least one of each"},
		{"no shards", func(m *sharding.Map) { m.Groups = nil }, "epoch 1 with 3 nodes and 0 shards, want at least one of each"},
		{"nodes not sorted", func(m *sharding.Map) { slices.Reverse(m.Nodes) }, `node "n01" after "n02", want them sorted and distinct`},
		{"a node twice", func(m *sharding.Map) { m.Nodes[1] = m.Nodes[0] }, `node "n00" after "n00", want them sorted and distinct`},
		{"meta not shard 0", func(m *sharding.Map) { m.Meta.Shard = 1 }, "the meta group is shard 1, want 0"},
		{"meta without replicas", func(m *sharding.Map) { m.Meta.Replicas = nil }, "shard 0 has no replicas"},
		{"shards swapped", func(m *sharding.Map) { slices.Reverse(m.Groups) }, "shard 2 in place 0, want 1"},
		{"a shard missing", func(m *sharding.Map) { m.Groups = m.Groups[:1] }, "slots end at 8192, want 16384"},
		{"slots begin late", func(m *sharding.Map) { m.Groups[0].Range.First = 1 }, "shard 1 owns slots 1 to 8191, want them to begin at 0"},
		{"slots without owner", func(m *sharding.Map) { m.Groups[1].Range.First++ }, "shard 2 owns slots 8193 to 16383, want them to begin at 8192"},
		{"slots with two owners", func(m *sharding.Map) { m.Groups[1].Range.First-- }, "shard 2 owns slots 8191 to 16383, want them to begin at 8192"},
		{"an empty range", func(m *sharding.Map) { m.Groups[1].Range.Last = 8191 }, "shard 2 owns slots 8192 to 8191, want them to begin at 8192"},
		{"one slot too few", func(m *sharding.Map) { m.Groups[1].Range.Last-- }, "slots end at 16383, want 16384"},
		{"one slot too many", func(m *sharding.Map) { m.Groups[1].Range.Last++ }, "slots end at 16385, want 16384"},
		{"the last slot a u16 holds", func(m *sharding.Map) { m.Groups[1].Range.Last = 65535 }, "slots end at 65536, want 16384"},
		{"no replicas", func(m *sharding.Map) { m.Groups[1].Replicas = nil }, "shard 2 has no replicas"},
		{"a replica on no node", func(m *sharding.Map) { m.Groups[1].Replicas[2] = "n03" }, `shard 2 has a replica on "n03", which is no node of the map`},
		{"no replicas wanted", func(m *sharding.Map) { m.Replicas = 0 }, "0 replicas of each shard, want 1 to 64"},
		{"most replicas wanted", func(m *sharding.Map) { m.Replicas = 64 }, ""},
		{"65 replicas wanted", func(m *sharding.Map) { m.Replicas = 65 }, "65 replicas of each shard, want 1 to 64"},
		{"the longest name", func(m *sharding.Map) { rename(m, "n02", sharding.NodeID(strings.Repeat("z", 63))) }, ""},
		{"a name too long", func(m *sharding.Map) { rename(m, "n02", sharding.NodeID(strings.Repeat("z", 64))) }, `a node is named "` + strings.Repeat("z", 64) + `", want 1 to 63 characters of a-z, 0-9 and '-'`},
		{"a name in capitals", func(m *sharding.Map) { rename(m, "n00", "N00") }, `a node is named "N00", want 1 to 63 characters of a-z, 0-9 and '-'`},
		{"no name", func(m *sharding.Map) { rename(m, "n00", "") }, `a node is named "", want 1 to 63 characters of a-z, 0-9 and '-'`},
		{"a node leaves", func(m *sharding.Map) { m.Nodes[0].Leaving = true }, ""},
		{"a node leaves to another", func(m *sharding.Map) { m.Nodes[0].Leaving, m.Nodes[0].Heir = true, "n02" }, ""},
		{"two leave to each other", func(m *sharding.Map) {
			m.Nodes[0].Leaving, m.Nodes[0].Heir = true, "n02"
			m.Nodes[2].Leaving, m.Nodes[2].Heir = true, "n00"
		}, ""},
		{"all nodes leave", func(m *sharding.Map) { m.Nodes[0].Leaving, m.Nodes[1].Leaving, m.Nodes[2].Leaving = true, true, true }, "all 3 nodes are leaving, want one that stays"},
		{"an heir of a node that stays", func(m *sharding.Map) { m.Nodes[0].Heir = "n02" }, `node "n00" (leaving: false) has the heir "n02", want another node's name, and only if it is leaving`},
		{"an heir that is no node", func(m *sharding.Map) { m.Nodes[0].Leaving, m.Nodes[0].Heir = true, "n03" }, `node "n00" (leaving: true) has the heir "n03", want another node's name, and only if it is leaving`},
		{"its own heir", func(m *sharding.Map) { m.Nodes[0].Leaving, m.Nodes[0].Heir = true, "n00" }, `node "n00" (leaving: true) has the heir "n00", want another node's name, and only if it is leaving`},
		{"generation 0", func(m *sharding.Map) { m.Groups[1].Generation = 0 }, "shard 2 has generation 0, want at least 1"},
		{"the last generation", func(m *sharding.Map) { m.Meta.Generation = math.MaxUint64 }, ""},
		{"moves", func(m *sharding.Map) {
			g := &m.Groups[1]
			g.Adding, g.Removing, g.Replicas = g.Replicas[2], g.Replicas[0], g.Replicas[:2]
		}, ""},
		{"loses a replica", func(m *sharding.Map) { m.Groups[1].Removing = "n02" }, ""},
		{"gets one it has", func(m *sharding.Map) { m.Meta.Adding = "n02" }, `shard 0 has two replicas on "n02"`},
		{"gets one on no node", func(m *sharding.Map) { m.Meta.Adding = "n03" }, `shard 0 has a replica on "n03", which is no node of the map`},
		{"loses one it has not", func(m *sharding.Map) { m.Meta.Replicas, m.Meta.Removing = m.Meta.Replicas[:2], "n02" }, `shard 0 shall lose its replica on "n02", which holds none`},
		{"loses its only replica", func(m *sharding.Map) { m.Meta.Replicas, m.Meta.Removing = m.Meta.Replicas[:1], "n00" }, `shard 0 shall lose its only replica, on "n00"`},
		{"two move", func(m *sharding.Map) { m.Meta.Removing, m.Groups[1].Removing = "n02", "n02" }, "shards 0 and 2 are moving, want at most one"},
		{"two replicas on a node", func(m *sharding.Map) { m.Groups[1].Replicas[2] = m.Groups[1].Replicas[0] }, `shard 2 has two replicas on "n01"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := found(t, 3, 2, 3)
			c.spoil(m)
			err := m.Validate()
			if c.want == "" && err != nil {
				t.Errorf("%v, want no error", err)
			}
			if c.want != "" && (err == nil || err.Error() != "invalid map: "+c.want) {
				t.Errorf("got  %v\nwant invalid map: %s", err, c.want)
			}
		})
	}
}

func TestAGroupsNodesAreItsReplicasAndTheNewOne(t *testing.T) {
	replicas := []sharding.NodeID{"c", "a", "spare"}[:2]
	for _, c := range []struct {
		adding, removing sharding.NodeID
		want             []sharding.NodeID
		moving           bool
	}{
		{"", "", []sharding.NodeID{"c", "a"}, false},
		{"b", "", []sharding.NodeID{"c", "a", "b"}, true},
		{"", "a", []sharding.NodeID{"c", "a"}, true},
		{"b", "a", []sharding.NodeID{"c", "a", "b"}, true},
	} {
		g := sharding.Group{Replicas: replicas, Adding: c.adding, Removing: c.removing}
		if got := g.Nodes(); !slices.Equal(got, c.want) || g.Moving() != c.moving {
			t.Errorf("adding %q, removing %q: nodes %v, moving %v, want %v, %v", c.adding, c.removing, got, g.Moving(), c.want, c.moving)
		}
		if replicas[:3][2] != "spare" {
			t.Fatalf("the nodes were written behind the replicas: %v", replicas[:3])
		}
	}
}

package sharding_test

import (
	"math"
	"reflect"
	"slices"
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

func TestWithAddrLeavesTheOldMapUntouched(t *testing.T) {
	old, untouched := found(t, 3, 6, 3), found(t, 3, 6, 3)
	next := old.WithAddr("n01", "elsewhere:1")
	if !reflect.DeepEqual(old, untouched) {
		t.Errorf("the old map became %+v, want %+v", old, untouched)
	}
	want := found(t, 3, 6, 3)
	want.Epoch = 2
	want.Nodes[1].Addr = "elsewhere:1"
	if !reflect.DeepEqual(next, want) {
		t.Errorf("the new map is %+v, want %+v", next, want)
	}
	if err := next.Validate(); err != nil {
		t.Errorf("the new map: %v", err)
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

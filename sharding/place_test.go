package sharding_test

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/manykv/manykv/sharding"
)

// someNodes returns n nodes named n00, n01, …
func someNodes(n int) []sharding.Node {
	nodes := make([]sharding.Node, n)
	for i := range nodes {
		nodes[i] = sharding.Node{
			ID:      sharding.NodeID(fmt.Sprintf("n%02d", i)),
			Storage: 0x1000 + uint64(i),
			Addr:    fmt.Sprintf("10.0.0.%d:7400", i),
		}
	}
	return nodes
}

func found(t testing.TB, nodes, shards, replicas int) *sharding.Map {
	t.Helper()
	m, err := sharding.Found(42, someNodes(nodes), shards, replicas)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// placement prints a map's replicas, leaders first: "012 120" for n00 n01 n02
// of shard 1, n01 n02 n00 of shard 2.
func placement(m *sharding.Map) string {
	var shards []string
	for i := range m.Groups {
		var ids strings.Builder
		for _, id := range m.Groups[i].Replicas {
			ids.WriteString(string(id[len(id)-1:]))
		}
		shards = append(shards, ids.String())
	}
	return strings.Join(shards, " ")
}

func TestPlacementsAreGolden(t *testing.T) {
	for _, c := range []struct {
		nodes, shards, replicas int
		want                    string
	}{
		{1, 2, 3, "0 0"},
		{2, 4, 3, "01 10 01 10"},
		{3, 1, 3, "012"},
		{3, 6, 3, "012 120 201 012 120 201"},
		{4, 4, 3, "012 301 230 123"},
		{5, 5, 3, "012 340 123 401 234"},
		{6, 6, 3, "012 345 120 453 201 534"},
		{6, 4, 4, "0123 4501 2345 1230"},
		{3, 4, 1, "0 1 2 0"},
	} {
		if got := placement(found(t, c.nodes, c.shards, c.replicas)); got != c.want {
			t.Errorf("%d shards of %d replicas on %d nodes: %s, want %s", c.shards, c.replicas, c.nodes, got, c.want)
		}
	}
}

// check says in which way a founded map breaks Found's promise.
func check(m *sharding.Map, nodes, shards, replicas int) error {
	if err := m.Validate(); err != nil {
		return err
	}
	if len(m.Nodes) != nodes || len(m.Groups) != shards || m.Epoch != 1 || m.Cluster != 42 {
		return fmt.Errorf("%d nodes, %d shards, epoch %d, cluster %d", len(m.Nodes), len(m.Groups), m.Epoch, m.Cluster)
	}
	held, led, slots := make(map[sharding.NodeID]int), make(map[sharding.NodeID]int), 0
	for i := range m.Groups {
		g := &m.Groups[i]
		if len(g.Replicas) != min(replicas, nodes) {
			return fmt.Errorf("shard %d has %d replicas", g.Shard, len(g.Replicas))
		}
		led[g.Replicas[0]]++
		for j, id := range g.Replicas {
			held[id]++
			if slices.Contains(g.Replicas[:j], id) {
				return fmt.Errorf("shard %d is on %s twice", g.Shard, id)
			}
		}
		if int(g.Range.First) != slots {
			return fmt.Errorf("shard %d begins at slot %d, want %d", g.Shard, g.Range.First, slots)
		}
		owned := int(g.Range.Last) - int(g.Range.First) + 1
		if owned != sharding.Slots/shards && owned != (sharding.Slots+shards-1)/shards {
			return fmt.Errorf("shard %d owns %d slots", g.Shard, owned)
		}
		slots += owned
	}
	if slots != sharding.Slots {
		return fmt.Errorf("%d slots are owned", slots)
	}
	for what, load := range map[string]map[sharding.NodeID]int{"replicas": held, "leaders": led} {
		least, most := math.MaxInt, 0
		for _, n := range m.Nodes {
			least, most = min(least, load[n.ID]), max(most, load[n.ID])
		}
		if most-least > 1 {
			return fmt.Errorf("one node has %d %s, another %d", most, what, least)
		}
	}
	return nil
}

func TestFoundIsEven(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := rapid.IntRange(1, sharding.MaxNodes).Draw(t, "nodes")
		shards := rapid.IntRange(1, sharding.MaxShards).Draw(t, "shards")
		replicas := rapid.IntRange(1, 5).Draw(t, "replicas")
		m, err := sharding.Found(42, someNodes(nodes), shards, replicas)
		if err != nil {
			t.Fatal(err)
		}
		if err := check(m, nodes, shards, replicas); err != nil {
			t.Fatal(err)
		}
		again, err := sharding.Found(42, someNodes(nodes), shards, replicas)
		if err != nil || !reflect.DeepEqual(m, again) {
			t.Fatalf("founded again: %+v, %v, want %+v", again, err, m)
		}
	})
}

// Small clusters, the common ones, are all tried, also with more replicas than
// nodes.
func TestEverySmallClusterIsEven(t *testing.T) {
	for nodes := 1; nodes <= 10; nodes++ {
		for shards := 1; shards <= 3*nodes+1; shards++ {
			for replicas := 1; replicas <= nodes+1; replicas++ {
				if err := check(found(t, nodes, shards, replicas), nodes, shards, replicas); err != nil {
					t.Errorf("%d shards of %d replicas on %d nodes: %v", shards, replicas, nodes, err)
				}
			}
		}
	}
}

func TestMetaGroupHasAnOddMajorityWhereItCan(t *testing.T) {
	for nodes, want := range map[int]int{1: 1, 2: 2, 3: 3, 4: 3, 5: 5, 6: 5, 64: 5} {
		m := found(t, nodes, 1, 3)
		if got := len(m.Meta.Replicas); got != want {
			t.Errorf("%d nodes: the meta group has %d voters, want %d", nodes, got, want)
		}
		if m.Meta.Shard != sharding.Meta {
			t.Errorf("the meta group is shard %d", m.Meta.Shard)
		}
	}
}

func TestShardsByDefaultFollowTheNodes(t *testing.T) {
	for nodes, want := range map[int]int{1: 2, 2: 4, 3: 6, 64: 128} {
		if got := len(found(t, nodes, 0, 3).Groups); got != want {
			t.Errorf("%d nodes get %d shards, want %d", nodes, got, want)
		}
	}
}

// A small cluster remembers how many replicas it was to have.
func TestFoundKeepsTheReplicasAskedFor(t *testing.T) {
	for _, c := range []struct{ asked, kept, has int }{{0, 3, 2}, {1, 1, 1}, {2, 2, 2}, {3, 3, 2}, {64, 64, 2}} {
		m := found(t, 2, 4, c.asked)
		if m.Replicas != c.kept || len(m.Groups[0].Replicas) != c.has {
			t.Errorf("%d asked for: %d kept, shard 1 has %d, want %d and %d", c.asked, m.Replicas, len(m.Groups[0].Replicas), c.kept, c.has)
		}
	}
}

func TestFoundRefuses(t *testing.T) {
	swapped := someNodes(2)
	swapped[0], swapped[1] = swapped[1], swapped[0]
	for _, c := range []struct {
		name             string
		nodes            []sharding.Node
		shards, replicas int
		want             string
	}{
		{"no nodes", nil, 1, 3, "0 nodes, want 1 to 64"},
		{"no nodes and shards by default", nil, 0, 3, "0 shards, want 1 to 256"},
		{"65 nodes", someNodes(65), 1, 3, "65 nodes, want 1 to 64"},
		{"-1 shards", someNodes(3), -1, 3, "-1 shards, want 1 to 256"},
		{"257 shards", someNodes(3), 257, 3, "257 shards, want 1 to 256"},
		{"-1 replicas", someNodes(3), 6, -1, "-1 replicas of each shard, want 1 to 64"},
		{"65 replicas", someNodes(3), 6, 65, "65 replicas of each shard, want 1 to 64"},
		{"nodes not sorted", swapped, 1, 3, `invalid map: node "n00" after "n01", want them sorted and distinct`},
	} {
		m, err := sharding.Found(42, c.nodes, c.shards, c.replicas)
		if m != nil || err == nil || err.Error() != c.want {
			t.Errorf("%s: map %v, error %v, want no map and %q", c.name, m, err, c.want)
		}
	}
}

func TestFoundKeepsItsOwnNodes(t *testing.T) {
	nodes := someNodes(3)
	m, err := sharding.Found(42, nodes, 0, 3)
	if err != nil {
		t.Fatal(err)
	}
	nodes[1].Addr = "elsewhere:1"
	if m.Nodes[1].Addr != "10.0.0.1:7400" {
		t.Errorf("the caller's slice changed the map: node 1 is at %s", m.Nodes[1].Addr)
	}
}

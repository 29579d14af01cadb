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

// wanted is how many replicas a group shall have.
func wanted(m *sharding.Map, g *sharding.Group) int {
	active := len(m.Active())
	if g.Shard != sharding.Meta {
		return min(m.Replicas, active)
	}
	return map[bool]int{true: 5, false: min(3, active)}[active >= 5]
}

// copies returns how many replicas a group has on nodes that stay.
func copies(m *sharding.Map, g *sharding.Group) (n int) {
	for _, id := range g.Replicas {
		if node, _ := m.Node(id); !node.Leaving {
			n++
		}
	}
	return n
}

// step makes the next move of the plan, from begin to end, and checks what holds
// for each: the maps are valid, one epoch apart, and no group has fewer copies on
// nodes that stay, if these are not too many. ok is false at the plan's end.
func step(t fataler, m *sharding.Map) (next *sharding.Map, mv sharding.Move, ok bool) {
	t.Helper()
	mv, ok = m.NextMove()
	if again, okAgain := m.NextMove(); again != mv || okAgain != ok {
		t.Fatalf("the next move is %v, then %v", mv, again)
	}
	if !ok {
		return m, mv, false
	}
	before := clone(m)
	begun := must(t)(m.WithMove(mv))
	if other, ok := begun.NextMove(); ok {
		t.Fatalf("a move %v while %v is under way", other, mv)
	}
	next = must(t)(begun.WithMoved(mv.Shard))
	if !reflect.DeepEqual(m, before) {
		t.Fatalf("the move %v edited the map it was planned on", mv)
	}
	for _, m := range []*sharding.Map{begun, next} {
		if err := m.Validate(); err != nil {
			t.Fatalf("%v: %v", mv, err)
		}
	}
	if next.Epoch != m.Epoch+2 {
		t.Fatalf("%v: epoch %d after %d, want two more", mv, next.Epoch, m.Epoch)
	}
	g, was := next.Group(mv.Shard), m.Group(mv.Shard)
	if now, least := copies(next, g), min(copies(m, was), wanted(m, was)); now < least || len(g.Replicas) < min(len(was.Replicas), wanted(m, was)) {
		t.Fatalf("%v: %d copies on nodes that stay, %d in all, of %d and %d before", mv, now, len(g.Replicas), copies(m, was), len(was.Replicas))
	}
	return next, mv, true
}

// followThePlan ends the move under way and makes the plan's to its end.
func followThePlan(t fataler, m *sharding.Map) *sharding.Map {
	t.Helper()
	m = clone(m)
	m.Epoch, m.Meta.Generation = 1, 1 // far from overflowing
	most := 0                         // each replica moves, comes or goes a few times
	for i := range m.Groups {
		m.Groups[i].Generation = 1
		most += 3 * (len(m.Groups[i].Nodes()) + m.Replicas)
	}
	most += 3 * (len(m.Meta.Nodes()) + 5)
	if g := m.Moving(); g != nil {
		m = must(t)(m.WithMoved(g.Shard))
	}
	for moves := 0; ; moves++ {
		next, _, ok := step(t, m)
		if !ok {
			return m
		}
		if moves > most {
			t.Fatalf("more than %d moves", most)
		}
		m = next
	}
}

// spreadOf returns how far two nodes that stay are apart in replicas of data
// shards and in first places of them.
func spreadOf(m *sharding.Map) (held, led int) {
	holds, leads := make(map[sharding.NodeID]int), make(map[sharding.NodeID]int)
	for i := range m.Groups {
		leads[m.Groups[i].Replicas[0]]++
		for _, id := range m.Groups[i].Replicas {
			holds[id]++
		}
	}
	between := func(load map[sharding.NodeID]int) int {
		least, most := math.MaxInt, 0
		for _, id := range m.Active() {
			least, most = min(least, load[id]), max(most, load[id])
		}
		return most - least
	}
	return between(holds), between(leads)
}

// settled says what the plan has left undone at its end.
func settled(t fataler, m *sharding.Map) {
	t.Helper()
	for s := range sharding.Shard(len(m.Groups) + 1) {
		g := m.Group(s)
		if len(g.Replicas) != wanted(m, g) || copies(m, g) != len(g.Replicas) {
			t.Fatalf("shard %d has %d replicas, %d of them on nodes that stay, want %d: %s", s, len(g.Replicas), copies(m, g), wanted(m, g), describe(m))
		}
	}
	if held, _ := spreadOf(m); held > 1 {
		t.Fatalf("one node has %d replicas more than another: %s", held, describe(m))
	}
}

// TestThePlanSettlesEveryCluster lets nodes come, leave, be replaced and be
// forgotten while shards move, some of them in vain, and then follows the plan.
func TestThePlanSettlesEveryCluster(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m, err := sharding.Found(42, someNodes(rapid.IntRange(1, 6).Draw(t, "nodes")),
			rapid.IntRange(1, 24).Draw(t, "shards"), rapid.IntRange(1, 5).Draw(t, "replicas"))
		if err != nil {
			t.Fatal(err)
		}
		named := len(m.Nodes)
		node := func(t *rapid.T) sharding.NodeID { return rapid.SampledFrom(m.Nodes).Draw(t, "node").ID }
		try := func(t *rapid.T, next *sharding.Map, err error) {
			if err != nil {
				t.Skip(err) // what is refused is TestChanges'
			}
			m = next
		}
		t.Repeat(map[string]func(*rapid.T){
			"comes": func(t *rapid.T) {
				if len(m.Nodes) == 9 {
					t.Skip("enough nodes")
				}
				m = must(t)(m.WithNode(sharding.Node{ID: sharding.NodeID(fmt.Sprintf("n%02d", named))}))
				named++
			},
			"leaves": func(t *rapid.T) {
				heir := rapid.SampledFrom([]sharding.NodeID{"", "", m.Nodes[len(m.Nodes)-1].ID}).Draw(t, "heir")
				next, err := m.WithLeaving(node(t), heir)
				try(t, next, err)
			},
			"is replaced": func(t *rapid.T) {
				next, err := m.WithStorage(node(t), rapid.Uint64().Draw(t, "storage"), "h:1")
				try(t, next, err)
			},
			"is forgotten": func(t *rapid.T) {
				next, err := m.WithoutNode(node(t))
				try(t, next, err)
			},
			"a move begins": func(t *rapid.T) {
				if mv, ok := m.NextMove(); ok {
					m = must(t)(m.WithMove(mv))
				}
			},
			"a move ends": func(t *rapid.T) {
				g := m.Moving()
				if g == nil {
					t.Skip("no move")
				}
				next, err := m.WithMoved(g.Shard)
				if rapid.Bool().Draw(t, "in vain") {
					next, err = m.WithAbort(g.Shard)
				}
				m = must(t)(next, err)
			},
			"some moves": func(t *rapid.T) {
				if m.Moving() != nil {
					t.Skip("a move")
				}
				for range rapid.IntRange(1, 20).Draw(t, "moves") {
					m, _, _ = step(t, m)
				}
			},
			"": func(t *rapid.T) {
				if err := m.Validate(); err != nil {
					t.Fatal(err)
				}
			},
		})
		m = followThePlan(t, m)
		settled(t, m)
		for _, n := range m.Nodes {
			if n.Leaving {
				m = must(t)(m.WithoutNode(n.ID))
			}
		}
		if mv, ok := m.NextMove(); ok {
			t.Fatalf("forgetting who left makes a move %v", mv)
		}
		if _, led := spreadOf(m); led > 1 {
			t.Fatalf("one node leads %d shards more than another: %s", led, describe(m))
		}
	})
}

func TestPlansAreGolden(t *testing.T) {
	with := func(m *sharding.Map, ids ...sharding.NodeID) *sharding.Map {
		for _, id := range ids {
			m = must(t)(m.WithNode(sharding.Node{ID: id}))
		}
		return m
	}
	without := func(m *sharding.Map, id, heir sharding.NodeID) *sharding.Map { return must(t)(m.WithLeaving(id, heir)) }
	for _, c := range []struct {
		name  string
		m     *sharding.Map
		moves string
		want  string // the replicas at the end, meta group first
	}{
		{"nothing to do", found(t, 3, 6, 3), "", "012 012 120 201 012 120 201"},
		{
			"two become three", with(found(t, 2, 4, 3), "n02"),
			"0 to n02, 1 to n02, 2 to n02, 3 to n02, 4 to n02",
			"012 201 102 012 102",
		},
		{
			"three become four", with(found(t, 3, 6, 3), "n03"),
			"1 from n00 to n03, 2 from n01 to n03, 4 from n02 to n03, 3 from n00 to n03",
			"012 312 320 231 013 120 201",
		},
		{
			"four become five", with(found(t, 4, 2, 1), "n04"),
			"0 to n03, 0 to n04",
			"01234 0 1",
		},
		{
			"three become two", without(found(t, 3, 3, 3), "n01", ""),
			"0 off n01, 1 off n01, 2 off n01, 3 off n01",
			"02 02 20 20",
		},
		{
			"five become four", without(found(t, 5, 2, 1), "n04", ""),
			"0 off n04, 0 off n03",
			"012 0 1",
		},
		{
			"a node's place is taken", without(with(found(t, 3, 3, 3), "n03"), "n01", "n03"),
			"0 from n01 to n03, 1 from n01 to n03, 2 from n01 to n03, 3 from n01 to n03",
			"032 302 023 203",
		},
		{
			"all nodes but a new one leave", without(without(with(found(t, 2, 1, 2), "n02"), "n00", ""), "n01", ""),
			"0 from n00 to n02, 0 off n01, 1 from n01 to n02, 1 off n00",
			"2 2",
		},
	} {
		var moves []string
		m := c.m
		for {
			next, mv, ok := step(t, m)
			if !ok {
				break
			}
			m = next
			moves = append(moves, strings.TrimPrefix(mv.String(), "shard "))
		}
		if got := strings.Join(moves, ", "); got != c.moves {
			t.Errorf("%s: moves %s\nwant %s", c.name, got, c.moves)
		}
		groups := *m
		groups.Groups = slices.Insert(slices.Clone(m.Groups), 0, m.Meta)
		if got := placement(&groups); got != c.want {
			t.Errorf("%s: replicas %s, want %s", c.name, got, c.want)
		}
		settled(t, m)
	}
}

// An heir that cannot take a replica, because it has one or leaves too, does not
// stop the plan.
func TestHeirsThatCannotInherit(t *testing.T) {
	m := must(t)(found(t, 4, 2, 2).WithLeaving("n00", "n01")) // shard 1 is on n00 and n01
	if mv, ok := m.NextMove(); !ok || mv != (sharding.Move{Shard: 0, Adding: "n03", Removing: "n00"}) {
		t.Errorf("the heir holds the meta group, and the next move is %v, %v", mv, ok)
	}
	m = must(t)(m.WithLeaving("n01", ""))
	m = followThePlan(t, m)
	settled(t, m)
}

// n00 leads three shards and n03 none, but no shard is on both: first places are
// handed on along the others.
func TestLeadersAreEvenAlongChains(t *testing.T) {
	m := found(t, 4, 6, 2)
	for i, pair := range []string{"01", "01", "01", "12", "12", "23"} {
		m.Groups[i].Replicas = []sharding.NodeID{sharding.NodeID("n0" + pair[:1]), sharding.NodeID("n0" + pair[1:])}
	}
	m = must(t)(m.WithMove(sharding.Move{Shard: 6, Adding: "n01", Removing: "n03"}))
	m = must(t)(m.WithAbort(6))
	if got, want := placement(m), "01 01 01 12 12 23"; got != want {
		t.Errorf("after a move in vain replicas %s, want %s", got, want)
	}
	m = must(t)(m.WithMove(sharding.Move{Adding: "n03"})) // of the meta group: that a move ends is enough
	m = must(t)(m.WithMoved(sharding.Meta))
	if got, want := placement(m), "10 10 01 21 21 32"; got != want {
		t.Errorf("replicas %s, want %s", got, want)
	}
}

package sharding_test

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/manykv/manykv/sharding"
)

// fataler is what tests, fuzz targets and rapid's checks have in common.
type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

// must returns a map that has to be there.
func must(t fataler) func(*sharding.Map, error) *sharding.Map {
	t.Helper()
	return func(m *sharding.Map, err error) *sharding.Map {
		t.Helper()
		if err != nil {
			t.Fatalf("%v", err)
		}
		return m
	}
}

// clone returns a copy that shares nothing with the map.
func clone(m *sharding.Map) *sharding.Map {
	c := *m
	c.Nodes = slices.Clone(m.Nodes)
	c.Meta.Replicas = slices.Clone(m.Meta.Replicas)
	c.Groups = slices.Clone(m.Groups)
	for i := range c.Groups {
		c.Groups[i].Replicas = slices.Clone(c.Groups[i].Replicas)
	}
	return &c
}

// describe prints what changes: "epoch 2: n00 n01 leaving n02 leaving to n00;
// 012/1 120/2+3-1" for its nodes and, meta group first, replicas, generation and
// motion of its groups, with the last digit of the nodes' names.
func describe(m *sharding.Map) string {
	var b strings.Builder
	fmt.Fprintf(&b, "epoch %d:", m.Epoch)
	for _, n := range m.Nodes {
		fmt.Fprintf(&b, " %s", n.ID)
		if n.Leaving {
			b.WriteString(" leaving")
		}
		if n.Heir != "" {
			fmt.Fprintf(&b, " to %s", n.Heir)
		}
	}
	b.WriteString(";")
	digit := func(id sharding.NodeID) string { return string(id[max(0, len(id)-1):]) }
	for s := range sharding.Shard(len(m.Groups) + 1) {
		g := m.Group(s)
		b.WriteString(" ")
		for _, id := range g.Replicas {
			b.WriteString(digit(id))
		}
		fmt.Fprintf(&b, "/%d", g.Generation)
		if g.Adding != "" {
			b.WriteString("+" + digit(g.Adding))
		}
		if g.Removing != "" {
			b.WriteString("-" + digit(g.Removing))
		}
	}
	return b.String()
}

// Every change is told from the map of four nodes and four shards below: n03
// leaves to n02, and shard 1 moves from n00 to n03.
func TestChanges(t *testing.T) {
	still := found(t, 4, 4, 3)
	leaving := must(t)(still.WithLeaving("n03", "n02"))
	moving := must(t)(still.WithMove(sharding.Move{Shard: 1, Adding: "n03", Removing: "n00"}))
	if got, want := describe(still), "epoch 1: n00 n01 n02 n03; 012/1 012/1 301/1 230/1 123/1"; got != want {
		t.Fatalf("the changes begin at\n%s, want\n%s", got, want)
	}
	for _, c := range []struct {
		name string
		from *sharding.Map
		to   func(m *sharding.Map) (*sharding.Map, error)
		want string // the new map, or the error
	}{
		{
			"a node comes", still, func(m *sharding.Map) (*sharding.Map, error) { return m.WithNode(sharding.Node{ID: "n015"}) },
			"epoch 2: n00 n01 n015 n02 n03; 012/1 012/1 301/1 230/1 123/1",
		},
		{
			"a node comes in the middle of a move", moving, func(m *sharding.Map) (*sharding.Map, error) { return m.WithNode(sharding.Node{ID: "a"}) },
			"epoch 3: a n00 n01 n02 n03; 012/1 012/2+3-0 301/1 230/1 123/1",
		},
		{
			"a known node comes", still, func(m *sharding.Map) (*sharding.Map, error) { return m.WithNode(m.Nodes[1]) },
			`node "n01" is of the cluster already`,
		},
		{
			"a node without a name comes", still, func(m *sharding.Map) (*sharding.Map, error) { return m.WithNode(sharding.Node{}) },
			`invalid map: a node is named "", want 1 to 63 characters of a-z, 0-9 and '-'`,
		},
		{
			"a 65th node comes", found(t, 64, 1, 1), func(m *sharding.Map) (*sharding.Map, error) { return m.WithNode(sharding.Node{ID: "n64"}) },
			`node "n64" would be one of 65, at most 64 are allowed`,
		},
		{
			"the last node that may comes", found(t, 63, 1, 1), func(m *sharding.Map) (*sharding.Map, error) {
				m, err := m.WithNode(sharding.Node{ID: "n63"})
				if err != nil || len(m.Nodes) != 64 {
					return nil, fmt.Errorf("%d nodes: %w", len(m.Nodes), err)
				}
				return still, nil
			},
			describe(still),
		},

		{
			"a node leaves, and leads nothing", still, func(m *sharding.Map) (*sharding.Map, error) { return m.WithLeaving("n00", "") },
			"epoch 2: n00 leaving n01 n02 n03; 012/1 102/1 301/1 230/1 123/1",
		},
		{
			"a node leaves to another", still, func(m *sharding.Map) (*sharding.Map, error) { return m.WithLeaving("n03", "n02") },
			"epoch 2: n00 n01 n02 n03 leaving to n02; 012/1 012/1 031/1 230/1 123/1",
		},
		{
			"a leaving node gets another heir", leaving, func(m *sharding.Map) (*sharding.Map, error) { return m.WithLeaving("n03", "") },
			"epoch 3: n00 n01 n02 n03 leaving; 012/1 012/1 031/1 230/1 123/1",
		},
		{
			"a node leaves in the middle of a move", moving, func(m *sharding.Map) (*sharding.Map, error) { return m.WithLeaving("n03", "") },
			"epoch 3: n00 n01 n02 n03 leaving; 012/1 012/2+3-0 031/1 230/1 123/1",
		},
		{
			"a stranger leaves", still, func(m *sharding.Map) (*sharding.Map, error) { return m.WithLeaving("n04", "") },
			`node "n04" is not of the cluster`,
		},
		{
			"a node leaves to a stranger", still, func(m *sharding.Map) (*sharding.Map, error) { return m.WithLeaving("n03", "n04") },
			`node "n04" cannot be the heir of "n03", want another node that stays`,
		},
		{
			"a node leaves to itself", still, func(m *sharding.Map) (*sharding.Map, error) { return m.WithLeaving("n03", "n03") },
			`node "n03" cannot be the heir of "n03", want another node that stays`,
		},
		{
			"a node leaves to one that leaves", leaving, func(m *sharding.Map) (*sharding.Map, error) { return m.WithLeaving("n02", "n03") },
			`node "n03" cannot be the heir of "n02", want another node that stays`,
		},
		{
			"the last node leaves", found(t, 1, 1, 1), func(m *sharding.Map) (*sharding.Map, error) { return m.WithLeaving("n00", "") },
			`node "n00" is the last one that stays`,
		},

		{
			"a node is replaced", still, func(m *sharding.Map) (*sharding.Map, error) { return m.WithStorage("n03", 9, "h:1") },
			"epoch 2: n00 n01 n02 n03; 012/1 012/1 301/2 230/2 123/2",
		},
		{
			"a node is replaced that is getting a shard", moving, func(m *sharding.Map) (*sharding.Map, error) { return m.WithStorage("n03", 9, "h:1") },
			"epoch 3: n00 n01 n02 n03; 012/1 012/3+3-0 301/2 230/2 123/2",
		},
		{
			"a node is replaced that is losing a shard", moving, func(m *sharding.Map) (*sharding.Map, error) { return m.WithStorage("n00", 9, "h:1") },
			"epoch 3: n00 n01 n02 n03; 012/2 012/3+3-0 301/2 230/2 123/1",
		},
		{
			"a leaving node is replaced", leaving, func(m *sharding.Map) (*sharding.Map, error) { return m.WithStorage("n03", 9, "h:1") },
			"epoch 3: n00 n01 n02 n03 leaving to n02; 012/1 012/1 031/2 230/2 123/2",
		},
		{
			"a node is replaced by itself", still, func(m *sharding.Map) (*sharding.Map, error) { return m.WithStorage("n03", 0x1003, "h:1") },
			`node "n03" has storage 0000000000001003 already`,
		},
		{
			"a stranger is replaced", still, func(m *sharding.Map) (*sharding.Map, error) { return m.WithStorage("n04", 9, "h:1") },
			`node "n04" is not of the cluster`,
		},

		{
			"a shard begins to move", still, func(m *sharding.Map) (*sharding.Map, error) {
				return m.WithMove(sharding.Move{Shard: 1, Adding: "n03", Removing: "n00"})
			},
			"epoch 2: n00 n01 n02 n03; 012/1 012/2+3-0 301/1 230/1 123/1",
		},
		{
			"the meta group gets a replica", still, func(m *sharding.Map) (*sharding.Map, error) { return m.WithMove(sharding.Move{Adding: "n03"}) },
			"epoch 2: n00 n01 n02 n03; 012/2+3 012/1 301/1 230/1 123/1",
		},
		{
			"a shard loses a replica", still, func(m *sharding.Map) (*sharding.Map, error) {
				return m.WithMove(sharding.Move{Shard: 4, Removing: "n02"})
			},
			"epoch 2: n00 n01 n02 n03; 012/1 012/1 301/1 230/1 123/2-2",
		},
		{
			"a second shard begins to move", moving, func(m *sharding.Map) (*sharding.Map, error) {
				return m.WithMove(sharding.Move{Shard: 2, Adding: "n02", Removing: "n00"})
			},
			"shard 1 is moving, want one move at a time",
		},
		{
			"a shard moves twice", moving, func(m *sharding.Map) (*sharding.Map, error) {
				return m.WithMove(sharding.Move{Shard: 1, Adding: "n03", Removing: "n00"})
			},
			"shard 1 is moving, want one move at a time",
		},
		{
			"no shard moves", still, func(m *sharding.Map) (*sharding.Map, error) {
				return m.WithMove(sharding.Move{Shard: 5, Adding: "n03"})
			},
			"shard 5, want 0 to 4",
		},
		{
			"nothing moves", still, func(m *sharding.Map) (*sharding.Map, error) { return m.WithMove(sharding.Move{Shard: 1}) },
			"a move of shard 1 that neither adds nor removes a replica",
		},
		{
			"a shard moves to a stranger", still, func(m *sharding.Map) (*sharding.Map, error) {
				return m.WithMove(sharding.Move{Shard: 1, Adding: "n04"})
			},
			`node "n04" is not of the cluster`,
		},
		{
			"a shard moves to a leaving node", leaving, func(m *sharding.Map) (*sharding.Map, error) {
				return m.WithMove(sharding.Move{Shard: 1, Adding: "n03", Removing: "n00"})
			},
			`node "n03" is leaving, it gets no replica of shard 1`,
		},
		{
			"a shard moves to where it is", still, func(m *sharding.Map) (*sharding.Map, error) {
				return m.WithMove(sharding.Move{Shard: 1, Adding: "n00", Removing: "n00"})
			},
			`invalid map: shard 1 has two replicas on "n00"`,
		},
		{
			"a shard moves from where it is not", still, func(m *sharding.Map) (*sharding.Map, error) {
				return m.WithMove(sharding.Move{Shard: 1, Removing: "n03"})
			},
			`invalid map: shard 1 shall lose its replica on "n03", which holds none`,
		},
		{
			"a shard loses all it has", found(t, 2, 1, 1), func(m *sharding.Map) (*sharding.Map, error) {
				return m.WithMove(sharding.Move{Shard: 1, Removing: "n00"})
			},
			`invalid map: shard 1 shall lose its only replica, on "n00"`,
		},

		{
			"a shard has moved", moving, func(m *sharding.Map) (*sharding.Map, error) { return m.WithMoved(1) },
			"epoch 3: n00 n01 n02 n03; 012/1 312/2 031/1 230/1 123/1",
		},
		{
			"a shard that did not move has moved", moving, func(m *sharding.Map) (*sharding.Map, error) { return m.WithMoved(2) },
			"shard 2 is not moving",
		},
		{
			"no shard has moved", moving, func(m *sharding.Map) (*sharding.Map, error) { return m.WithMoved(math.MaxUint32) },
			"shard 4294967295 is not moving",
		},
		{
			"a move is given up", moving, func(m *sharding.Map) (*sharding.Map, error) { return m.WithAbort(1) },
			"epoch 3: n00 n01 n02 n03; 012/1 012/3 301/1 230/1 123/1",
		},
		{
			"no move is given up", still, func(m *sharding.Map) (*sharding.Map, error) { return m.WithAbort(1) },
			"shard 1 is not moving",
		},

		{
			"a node that holds shards is forgotten", leaving, func(m *sharding.Map) (*sharding.Map, error) { return m.WithoutNode("n03") },
			`node "n03" has a replica of shard 2 still`,
		},
		{
			"a node that stays is forgotten", must(t)(still.WithNode(sharding.Node{ID: "n04"})),
			func(m *sharding.Map) (*sharding.Map, error) { return m.WithoutNode("n04") },
			`node "n04" is not leaving`,
		},
		{
			"a stranger is forgotten", still, func(m *sharding.Map) (*sharding.Map, error) { return m.WithoutNode("n04") },
			`node "n04" is not of the cluster`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := clone(c.from)
			got, err := c.to(c.from)
			if !reflect.DeepEqual(c.from, before) {
				t.Fatalf("the old map became\n%+v, was\n%+v", c.from, before)
			}
			if err != nil {
				if got != nil || err.Error() != c.want {
					t.Errorf("map %v, error %v, want %s", got, err, c.want)
				}
				return
			}
			if describe(got) != c.want {
				t.Errorf("got\n%s, want\n%s", describe(got), c.want)
			}
			if err := got.Validate(); err != nil {
				t.Errorf("the new map: %v", err)
			}
		})
	}
}

func TestANodesRecordChanges(t *testing.T) {
	m := found(t, 3, 6, 3)
	want := clone(m)
	want.Epoch, want.Nodes[1].Addr = 2, "elsewhere:1"
	before := clone(m)
	got := m.WithAddr("n01", "elsewhere:1")
	if !reflect.DeepEqual(got, want) || !reflect.DeepEqual(m, before) {
		t.Errorf("another address makes %+v of %+v, want %+v", got, m, want)
	}
	m = must(t)(m.WithStorage("n01", 9, "elsewhere:1"))
	if n, _ := m.Node("n01"); n != (sharding.Node{ID: "n01", Storage: 9, Addr: "elsewhere:1"}) {
		t.Errorf("replaced, the node is %+v", n)
	}
	added := sharding.Node{ID: "new", Storage: 8, Addr: "new:1"}
	if n, _ := must(t)(m.WithNode(added)).Node("new"); n != added {
		t.Errorf("the new node is %+v, want %+v", n, added)
	}
}

func TestAForgottenNodeIsNobodysHeir(t *testing.T) {
	m := found(t, 3, 2, 1)
	for _, id := range []sharding.NodeID{"n03", "n04"} {
		m = must(t)(m.WithNode(sharding.Node{ID: id}))
	}
	m = must(t)(m.WithLeaving("n00", "n03"))
	m = must(t)(m.WithLeaving("n01", "n04"))
	m = must(t)(m.WithLeaving("n03", ""))
	m = must(t)(m.WithoutNode("n03"))
	if got, want := describe(m), "epoch 7: n00 leaving n01 leaving to n04 n02 n04; 012/1 0/1 1/1"; got != want {
		t.Errorf("got\n%s, want\n%s", got, want)
	}
	if mv, ok := m.NextMove(); !ok || mv.Removing != "n00" {
		t.Errorf("the next move is %v, %v, want one off n00", mv, ok)
	}
}

// A first map may hold any epoch and generation; what would overflow is refused.
func TestNumbersDoNotOverflow(t *testing.T) {
	m := found(t, 3, 2, 2)
	m.Epoch = math.MaxUint64
	if got, err := m.WithNode(sharding.Node{ID: "n03"}); got != nil || err == nil {
		t.Errorf("after the last epoch comes %v, %v", got, err)
	}
	if err := m.WithAddr("n00", "h:1").Validate(); err == nil {
		t.Error("an address after the last epoch is valid")
	}
	m = found(t, 3, 2, 2)
	m.Groups[0].Generation = math.MaxUint64
	if got, err := m.WithMove(sharding.Move{Shard: 1, Removing: "n00"}); got != nil || err == nil {
		t.Errorf("after the last generation comes %v, %v", got, err)
	}
	if got, err := m.WithStorage("n01", 1, "h:1"); got != nil || err == nil {
		t.Errorf("after the last generation comes %v, %v", got, err)
	}
}

func TestMovesAreToldInWords(t *testing.T) {
	for want, mv := range map[string]sharding.Move{
		"shard 3 to b":        {Shard: 3, Adding: "b"},
		"shard 0 off a":       {Removing: "a"},
		"shard 9 from a to b": {Shard: 9, Adding: "b", Removing: "a"},
	} {
		if got := mv.String(); got != want {
			t.Errorf("%+v is %q, want %q", mv, got, want)
		}
	}
}

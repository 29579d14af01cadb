package fsm

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

func TestNodeAddr(t *testing.T) {
	const addr = "10.9.9.9:7000"
	for _, c := range []struct {
		name    string
		command []byte
		want    error
		epoch   uint64
		addr    string
	}{
		{"moves", AppendNodeAddr(nil, "n2", 12, addr), nil, 2, addr},
		{"stays", AppendNodeAddr(nil, "n2", 12, "10.0.0.2:7000"), nil, 1, "10.0.0.2:7000"},
		{"another directory", AppendNodeAddr(nil, "n2", 13, addr), kv.ErrAccessDenied, 1, "10.0.0.2:7000"},
		{"unknown node", AppendNodeAddr(nil, "n3", 12, addr), kv.ErrInvalid, 1, "10.0.0.2:7000"},
		{"no address", AppendNodeAddr(nil, "n2", 12, ""), kv.ErrInvalid, 1, "10.0.0.2:7000"},
		{"endless address", AppendNodeAddr(nil, "n2", 12, strings.Repeat("a", maxAddrBytes+1)), kv.ErrInvalid, 1, "10.0.0.2:7000"},
	} {
		t.Run(c.name, func(t *testing.T) {
			fs := vfs.NewMem()
			s := openOn(t, fs)
			cat := catalogueOf(t, s)
			if err := run(cat, 1, c.command)[0].Err; !errors.Is(err, kv.ErrInvalid) {
				t.Errorf("before the cluster was founded: %v, want %v", err, kv.ErrInvalid)
			}
			before := testMap(t)
			results := run(cat, 2, AppendInit(nil, before), c.command)
			if !errors.Is(results[1].Err, c.want) {
				t.Errorf("got %v, want %v", results[1].Err, c.want)
			}
			for range 2 {
				m := cat.Map()
				if n, _ := m.Node("n2"); m.Epoch != c.epoch || n.Addr != c.addr {
					t.Errorf("epoch %d, address %q, want %d, %q", m.Epoch, n.Addr, c.epoch, c.addr)
				}
				closeStore(t, s)
				s = openOn(t, fs)
				cat = catalogueOf(t, s)
			}
			closeStore(t, s)
		})
	}
}

// TestMapsAreNotEdited holds a map while a node moves.
func TestMapsAreNotEdited(t *testing.T) {
	c := catalogueOf(t, openMem(t))
	run(c, 1, AppendInit(nil, testMap(t)))
	old := c.Map()
	run(c, 2, AppendNodeAddr(nil, "n1", 11, "elsewhere:1"))
	if !reflect.DeepEqual(old, testMap(t)) {
		t.Errorf("a map in use became %+v", old)
	}
	if c.Map().Epoch != old.Epoch+1 {
		t.Errorf("epoch %d after %d, want one more", c.Map().Epoch, old.Epoch)
	}
}

// TestEpochDoesNotOverflow: a map of epoch 0 could not be read back.
func TestEpochDoesNotOverflow(t *testing.T) {
	c := catalogueOf(t, openMem(t))
	m := testMap(t)
	m.Epoch = math.MaxUint64
	results := run(c, 1, AppendInit(nil, m), AppendNodeAddr(nil, "n1", 11, "elsewhere:1"))
	if results[0].Err != nil || !errors.Is(results[1].Err, kv.ErrInvalid) {
		t.Errorf("got %+v, want applied and invalid", results)
	}
}

// mapText prints what the commands about nodes and moves change: "3: n1/11@a:1
// n2/12@a:2>n1 | n1,n2/1 n2,n1/1 n1,n2/2+n3-n1" is epoch 3, the nodes with storage
// and address, a leaving one with ">" and its heir, and the groups with their
// generation, meta group first.
func mapText(m *sharding.Map) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d:", m.Epoch)
	for _, n := range m.Nodes {
		fmt.Fprintf(&b, " %s/%d@%s", n.ID, n.Storage, strings.TrimPrefix(n.Addr, "10.0.0."))
		if n.Leaving {
			fmt.Fprintf(&b, ">%s", n.Heir)
		}
	}
	b.WriteString(" |")
	for s := range sharding.Shard(len(m.Groups) + 1) {
		g := m.Group(s)
		fmt.Fprintf(&b, " %s/%d", strings.Join(strings.Fields(strings.Trim(fmt.Sprint(g.Replicas), "[]")), ","), g.Generation)
		if g.Adding != "" {
			fmt.Fprintf(&b, "+%s", g.Adding)
		}
		if g.Removing != "" {
			fmt.Fprintf(&b, "-%s", g.Removing)
		}
	}
	return b.String()
}

// A node comes, takes over a shard, another is replaced and then leaves: each
// command in turn, with what it makes of the map.
func TestNodesComeAndGo(t *testing.T) {
	n3 := sharding.Node{ID: "n3", Storage: 13, Addr: "c:3"}
	moved := n3
	moved.Addr = "c:4"
	other := n3
	other.Storage = 99
	fs := vfs.NewMem()
	last := "" // the map before a step
	for i, step := range []struct {
		name    string
		command []byte
		err     error
		value   uint64
		want    string // the map after it; "" = as before
	}{
		{"found", AppendInit(nil, testMap(t)), nil, 0, "1: n1/11@1:7000 n2/12@2:7000 | n1,n2/1 n1,n2/1 n2,n1/1"},
		{"remove a stranger", AppendRemoveNode(nil, "n3", ""), kv.ErrInvalid, 0, ""},
		{"replace a stranger", AppendReplaceNode(nil, "n3", 13, "c:3"), kv.ErrInvalid, 0, ""},
		{"forget a stranger", AppendForgetNode(nil, "n3"), nil, 0, ""},
		{"add", AppendAddNode(nil, n3), nil, 0, "2: n1/11@1:7000 n2/12@2:7000 n3/13@c:3 | n1,n2/1 n1,n2/1 n2,n1/1"},
		{"add again", AppendAddNode(nil, n3), nil, 0, ""},
		{"add it elsewhere", AppendAddNode(nil, moved), nil, 0, "3: n1/11@1:7000 n2/12@2:7000 n3/13@c:4 | n1,n2/1 n1,n2/1 n2,n1/1"},
		{"add another of the name", AppendAddNode(nil, other), kv.ErrExists, 0, ""},
		{"add one without an address", AppendAddNode(nil, sharding.Node{ID: "n4"}), kv.ErrInvalid, 0, ""},
		{"add one of a bad name", AppendAddNode(nil, sharding.Node{ID: "N4", Addr: "h:1"}), kv.ErrInvalid, 0, ""},

		{"move by an old map", AppendMove(nil, 2, sharding.Move{Shard: 2, Adding: "n3", Removing: "n2"}), kv.ErrConflict, 3, ""},
		{"move by a later map", AppendMove(nil, 4, sharding.Move{Shard: 2, Adding: "n3", Removing: "n2"}), kv.ErrConflict, 3, ""},
		{"move no shard", AppendMove(nil, 3, sharding.Move{Shard: 3, Adding: "n3", Removing: "n2"}), kv.ErrInvalid, 0, ""},
		{"move", AppendMove(nil, 3, sharding.Move{Shard: 2, Adding: "n3", Removing: "n2"}), nil, 0, "4: n1/11@1:7000 n2/12@2:7000 n3/13@c:4 | n1,n2/1 n1,n2/1 n2,n1/2+n3-n2"},
		{"move again", AppendMove(nil, 3, sharding.Move{Shard: 2, Adding: "n3", Removing: "n2"}), kv.ErrConflict, 4, ""},
		{"move another", AppendMove(nil, 4, sharding.Move{Shard: 1, Adding: "n3", Removing: "n1"}), kv.ErrInvalid, 0, ""},
		{"give up by an old map", AppendAbort(nil, 3, 2), kv.ErrConflict, 4, ""},
		{"give up another", AppendAbort(nil, 4, 1), kv.ErrInvalid, 0, ""},
		{"give up", AppendAbort(nil, 4, 2), nil, 0, "5: n1/11@1:7000 n2/12@2:7000 n3/13@c:4 | n1,n2/1 n1,n2/1 n2,n1/3"},
		{"move once more", AppendMove(nil, 5, sharding.Move{Shard: 2, Adding: "n3", Removing: "n2"}), nil, 0, "6: n1/11@1:7000 n2/12@2:7000 n3/13@c:4 | n1,n2/1 n1,n2/1 n2,n1/4+n3-n2"},
		{"end by an old map", AppendMoved(nil, 5, 2), kv.ErrConflict, 6, ""},
		{"end another", AppendMoved(nil, 6, 1), kv.ErrInvalid, 0, ""},
		{"end", AppendMoved(nil, 6, 2), nil, 0, "7: n1/11@1:7000 n2/12@2:7000 n3/13@c:4 | n1,n2/1 n1,n2/1 n3,n1/4"},
		{"end again", AppendMoved(nil, 6, 2), kv.ErrConflict, 7, ""},

		{"replace by itself", AppendReplaceNode(nil, "n3", 13, "c:4"), nil, 0, ""},
		{"replace", AppendReplaceNode(nil, "n3", 23, "c:5"), nil, 0, "8: n1/11@1:7000 n2/12@2:7000 n3/23@c:5 | n1,n2/1 n1,n2/1 n3,n1/5"},
		{"replace again", AppendReplaceNode(nil, "n3", 23, "c:5"), nil, 0, ""},
		{"the replaced directory comes back", AppendNodeAddr(nil, "n3", 13, "c:4"), kv.ErrAccessDenied, 0, ""},
		{"replace by one without an address", AppendReplaceNode(nil, "n3", 33, ""), kv.ErrInvalid, 0, ""},

		{"forget one that stays", AppendForgetNode(nil, "n1"), kv.ErrInvalid, 0, ""},
		{"remove to a stranger", AppendRemoveNode(nil, "n1", "n4"), kv.ErrInvalid, 0, ""},
		{"remove", AppendRemoveNode(nil, "n1", "n3"), nil, 0, "9: n1/11@1:7000>n3 n2/12@2:7000 n3/23@c:5 | n1,n2/1 n2,n1/1 n3,n1/5"},
		{"remove again", AppendRemoveNode(nil, "n1", "n3"), nil, 0, ""},
		{"add the leaving one", AppendAddNode(nil, sharding.Node{ID: "n1", Storage: 11, Addr: "10.0.0.1:7000"}), nil, 0, ""},
		{"remove to anybody", AppendRemoveNode(nil, "n1", ""), nil, 0, "10: n1/11@1:7000> n2/12@2:7000 n3/23@c:5 | n1,n2/1 n2,n1/1 n3,n1/5"},
		{"remove a second", AppendRemoveNode(nil, "n2", ""), nil, 0, "11: n1/11@1:7000> n2/12@2:7000> n3/23@c:5 | n1,n2/1 n2,n1/1 n3,n1/5"},
		{"remove the last", AppendRemoveNode(nil, "n3", ""), kv.ErrInvalid, 0, ""},
		{"forget one that holds shards", AppendForgetNode(nil, "n1"), kv.ErrInvalid, 0, ""},
	} {
		s := openOn(t, fs)
		c := catalogueOf(t, s)
		if c.Map() != nil && mapText(c.Map()) != last {
			t.Errorf("%s: after a restart the map is\n%s, want\n%s", step.name, mapText(c.Map()), last)
		}
		r := run(c, uint64(1+i), step.command)[0]
		if !errors.Is(r.Err, step.err) || (r.Err == nil) != (step.err == nil) || r.Value != step.value {
			t.Errorf("%s: %+v, want %v and value %d", step.name, r, step.err, step.value)
		}
		if step.want != "" {
			last = step.want
		}
		if got := mapText(c.Map()); got != last {
			t.Fatalf("%s: the map is\n%s, want\n%s", step.name, got, last)
		}
		closeStore(t, s)
	}
}

// Whoever leads the meta group drives the plan with commands alone, all of a
// step in one batch; at its end the nodes that left are forgotten.
func TestThePlanIsDrivenByCommands(t *testing.T) {
	c := catalogueOf(t, openMem(t))
	apply(t, c, Entry{Index: 1, Term: 1, Command: AppendInit(nil, testMap(t))})
	next := func(commands ...[]byte) {
		t.Helper()
		for i, r := range run(c, c.Position().Index+1, commands...) {
			if r.Err != nil {
				t.Fatalf("command %x: %v", commands[i], r.Err)
			}
		}
	}
	next(
		AppendAddNode(nil, sharding.Node{ID: "n3", Storage: 13, Addr: "h:3"}),
		AppendAddNode(nil, sharding.Node{ID: "n4", Storage: 14, Addr: "h:4"}),
		AppendRemoveNode(nil, "n1", "n4"),
		AppendRemoveNode(nil, "n2", ""))
	for {
		mv, ok := c.Map().NextMove()
		if !ok {
			break
		}
		epoch := c.Map().Epoch
		next(AppendMove(nil, epoch, mv), AppendMoved(nil, epoch+1, mv.Shard))
	}
	next(AppendForgetNode(nil, "n1"), AppendForgetNode(nil, "n2"))
	if got, want := mapText(c.Map()), "19: n3/13@h:3 n4/14@h:4 | n4,n3/3 n4,n3/3 n3,n4/3"; got != want {
		t.Errorf("the map is\n%s, want\n%s", got, want)
	}
}

func TestChangesOfTheMapNeedOne(t *testing.T) {
	s := openMem(t)
	c := catalogueOf(t, s)
	for i, r := range run(c, 1,
		AppendNodeAddr(nil, "n1", 11, "h:1"), AppendAddNode(nil, sharding.Node{ID: "n1", Addr: "h:1"}),
		AppendRemoveNode(nil, "n1", ""), AppendReplaceNode(nil, "n1", 12, "h:1"), AppendForgetNode(nil, "n1"),
		AppendMove(nil, 0, sharding.Move{Shard: 1, Adding: "n1"}), AppendMoved(nil, 0, 1), AppendAbort(nil, 0, 1)) {
		if !errors.Is(r.Err, kv.ErrInvalid) {
			t.Errorf("command %d before the cluster was founded: %v, want %v", i, r.Err, kv.ErrInvalid)
		}
	}
	if rows := dump(t, s); len(rows) != 1 {
		t.Errorf("the store holds %q, want the record alone", rows)
	}
}

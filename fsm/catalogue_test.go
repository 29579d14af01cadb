package fsm

import (
	"errors"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

func testMap(t tb) *sharding.Map {
	t.Helper()
	m, err := sharding.Found(0xC1, []sharding.Node{
		{ID: "n1", Storage: 11, Addr: "10.0.0.1:7000"},
		{ID: "n2", Storage: 12, Addr: "10.0.0.2:7000"},
	}, 2, 2)
	if err != nil {
		t.Fatalf("map: %v", err)
	}
	return m
}

func catalogueOf(t tb, s *Store) *Catalogue {
	t.Helper()
	c, err := s.Catalogue()
	if err != nil {
		t.Fatalf("catalogue: %v", err)
	}
	return c
}

// run applies commands one after the other, from index on, and returns their
// results.
func run(c *Catalogue, index uint64, commands ...[]byte) []Result {
	entries := make([]Entry, len(commands))
	for i, command := range commands {
		entries[i] = Entry{Index: index + uint64(i), Term: 2, Command: command}
	}
	return c.Apply(entries)
}

func TestFirstInitWins(t *testing.T) {
	fs := vfs.NewMem()
	s := openOn(t, fs)
	c := catalogueOf(t, s)
	if c.Map() != nil {
		t.Error("there is a map before there is a cluster")
	}
	first, second := testMap(t), testMap(t)
	second.Cluster++
	for i, r := range run(c, 1, AppendInit(nil, first), AppendInit(nil, second)) {
		if r.Err != nil {
			t.Errorf("init %d: %v", i, r.Err)
		}
	}
	if !reflect.DeepEqual(c.Map(), first) {
		t.Errorf("the map is %+v, want the first, %+v", c.Map(), first)
	}
	closeStore(t, s)
	s = openOn(t, fs)
	defer closeStore(t, s)
	if got := catalogueOf(t, s).Map(); !reflect.DeepEqual(got, first) {
		t.Errorf("the map is %+v after a restart, want %+v", got, first)
	}
}

func TestBuckets(t *testing.T) {
	fs := vfs.NewMem()
	s := openOn(t, fs)
	c := catalogueOf(t, s)
	results := run(c, 1,
		AppendCreateBucket(nil, "users"),
		AppendCreateBucket(nil, "bad:name"),
		AppendCreateBucket(nil, "users"), // exists in the same batch
		AppendCreateBucket(nil, "größe"),
		append(AppendCreateBucket(nil, "x"), 0))
	for i, want := range []Result{{Bucket: 1}, {Err: kv.ErrInvalid}, {Err: kv.ErrExists}, {Bucket: 2}, {Err: kv.ErrInvalid}} {
		if r := results[i]; r.Bucket != want.Bucket || !errors.Is(r.Err, want.Err) {
			t.Errorf("create %d: %+v, want %+v", i, r, want)
		}
	}
	closeStore(t, s)

	s = openOn(t, fs)
	defer closeStore(t, s)
	c = catalogueOf(t, s)
	results = run(c, 6, AppendCreateBucket(nil, "users"), AppendCreateBucket(nil, "a"))
	if !errors.Is(results[0].Err, kv.ErrExists) || results[1].Bucket != 3 {
		t.Errorf("after a restart %+v, want exists and id 3", results)
	}
	names, err := c.Buckets()
	if want := []string{"a", "größe", "users"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("buckets %q (%v), want %q", names, err, want)
	}
	if id, ok, err := c.Bucket("größe"); id != 2 || !ok || err != nil {
		t.Errorf("größe is %d %v %v, want 2", id, ok, err)
	}
	for _, name := range []string{"bad:name", ""} {
		if id, ok, err := c.Bucket(name); ok || err != nil {
			t.Errorf("bucket %q is %d %v %v, want none", name, id, ok, err)
		}
	}
}

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

func TestCatalogueRefusesAndLeads(t *testing.T) {
	s := openMem(t)
	c := catalogueOf(t, s)
	results := run(c, 1,
		kv.AppendLead(nil, 0, 0),
		kv.AppendHeader(nil, kv.KindLead),
		kv.AppendSet(nil, 1, []kv.Pair{{Key: "a"}}),
		AppendInit(nil, testMap(t))[:20],
		kv.AppendHeader(nil, kv.KindInit),
		AppendNodeAddr(nil, "n1", 11, "x")[:5],
		[]byte{9})
	for i, r := range results {
		if want := error(kv.ErrInvalid); i > 0 && !errors.Is(r.Err, want) || i == 0 && r.Err != nil {
			t.Errorf("command %d: %v", i, r.Err)
		}
	}
	if got, want := c.Position(), (Position{Index: 7, Term: 2, LeadTerm: 2}); got != want {
		t.Errorf("position %+v, want %+v", got, want)
	}
	if rows := dump(t, s); len(rows) != 1 {
		t.Errorf("the store holds %q, want the record alone", rows)
	}
}

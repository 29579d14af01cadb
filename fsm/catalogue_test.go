package fsm

import (
	"encoding/hex"
	"errors"
	"fmt"
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

// catalogueCommands are the golden bytes of the commands: what is in the log must
// be read by all later versions.
var catalogueCommands = []struct {
	name, bytes string
	made        []byte
}{
	{"create-bucket", "02 11 05 7573657273", AppendCreateBucket(nil, "users")},
	{"node-addr", "02 12 02 6e31 000000000000000b 03 683a31", AppendNodeAddr(nil, "n1", 11, "h:1")},
	{"add-node", "02 13 02 6e33 000000000000000d 03 683a33", AppendAddNode(nil, sharding.Node{ID: "n3", Storage: 13, Addr: "h:3"})},
	{"remove-node", "02 14 02 6e31 02 6e32", AppendRemoveNode(nil, "n1", "n2")},
	{"replace-node", "02 15 02 6e31 000000000000000e 03 683a31", AppendReplaceNode(nil, "n1", 14, "h:1")},
	{"move", "02 16 0000000000000102 00000003 02 6e33 02 6e31", AppendMove(nil, 0x102, sharding.Move{Shard: 3, Adding: "n3", Removing: "n1"})},
	{"moved", "02 17 0000000000000102 00000003", AppendMoved(nil, 0x102, 3)},
	{"forget-node", "02 18 02 6e31", AppendForgetNode(nil, "n1")},
	{"delete-bucket", "02 19 05 7573657273 0000000000000102", AppendDeleteBucket(nil, "users", 0x102)},
	{"dropped", "02 1a 0000000000000102 00000003", AppendDropped(nil, 0x102, 3)},
	{"new-client", "02 1b", AppendNewClient(nil)},
	{"abort", "02 1c 0000000000000102 00000003", AppendAbort(nil, 0x102, 3)},
}

func TestCatalogueCommandsHaveGoldenBytes(t *testing.T) {
	for _, c := range catalogueCommands {
		if want := unhex(t, c.bytes); !slices.Equal(c.made, want) {
			t.Errorf("%s is %x, want %x", c.name, c.made, want)
		}
	}
	m := testMap(t)
	if got, want := AppendInit(nil, m), append([]byte{2, 0x10}, m.Append(nil)...); !slices.Equal(got, want) {
		t.Errorf("init is %x, want %x", got, want)
	}
}

// unhex turns hex with blanks into bytes.
func unhex(t tb, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
	if err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return b
}

// A command cut anywhere, or with a byte too many, changes nothing but the
// position.
func TestCutCatalogueCommandsAreRefused(t *testing.T) {
	s := openMem(t)
	c := catalogueOf(t, s)
	apply(t, c, Entry{Index: 1, Term: 2, Command: AppendInit(nil, testMap(t))}, Entry{Index: 2, Term: 2, Command: AppendCreateBucket(nil, "users")})
	before := dump(t, s)
	index := uint64(3)
	refused := func(name string, command []byte) {
		t.Helper()
		if r := run(c, index, command)[0]; !errors.Is(r.Err, kv.ErrInvalid) || r.Value != 0 {
			t.Errorf("%s as %x: %+v, want %v", name, command, r, kv.ErrInvalid)
		}
		index++
	}
	for _, command := range catalogueCommands {
		for n := 1; n < len(command.made); n++ { // of 0 bytes is an entry without a command
			refused(command.name, command.made[:n])
		}
		refused(command.name, append(slices.Clone(command.made), 0))
	}
	if after := dump(t, s); !slices.Equal(after[1:], before[1:]) {
		t.Errorf("the rows became\n%s, were\n%s", strings.Join(after, "\n"), strings.Join(before, "\n"))
	}
	if r := run(c, index, AppendNewClient(nil))[0]; r.Err != nil || r.Value != 1 {
		t.Errorf("the first client after them: %+v, want id 1", r)
	}
}

// FuzzCatalogue gives two arbitrary commands to a catalogue in the middle of its
// life, in one call and one by one. It may not panic, keeps a valid map of which
// the epoch never goes back, and reads back after a restart what it showed before.
func FuzzCatalogue(f *testing.F) {
	for i, c := range catalogueCommands {
		f.Add(c.made, catalogueCommands[(i+1)%len(catalogueCommands)].made)
	}
	f.Add(AppendMoved(nil, 3, 1), AppendRemoveNode(nil, "n2", "n1"))
	f.Add(AppendAbort(nil, 3, 1), AppendForgetNode(nil, "n2"))
	f.Add(AppendReplaceNode(nil, "n3", 1, "h:1"), AppendDropped(nil, 1, 2))
	life := [][]byte{
		AppendInit(nil, testMap(f)),
		AppendAddNode(nil, sharding.Node{ID: "n3", Storage: 13, Addr: "h:3"}),
		AppendMove(nil, 2, sharding.Move{Shard: 1, Adding: "n3", Removing: "n1"}),
		AppendCreateBucket(nil, "gone"),
		AppendDeleteBucket(nil, "gone", 0),
		AppendCreateBucket(nil, "users"),
	}
	f.Fuzz(func(t *testing.T, one, two []byte) {
		fs := vfs.NewMem()
		whole, single := openOn(t, fs), openOn(t, vfs.NewMem())
		defer closeStore(t, single)
		a, b := catalogueOf(t, whole), catalogueOf(t, single)
		run(a, 1, life...)
		run(b, 1, life...)
		before := a.Map()
		results := fmt.Sprint(run(a, 7, one, two))
		if got := fmt.Sprint(append(run(b, 7, one), run(b, 8, two)...)); got != results {
			t.Errorf("one by one %s, in one call %s", got, results)
		}
		if x, y := dump(t, whole), dump(t, single); !slices.Equal(x, y) {
			t.Errorf("rows differ:\n%q\n%q", x, y)
		}
		after := a.Map()
		if err := after.Validate(); err != nil || after.Epoch < before.Epoch || after.Epoch == before.Epoch && after != before {
			t.Errorf("after epoch %d the map is %+v, %v", before.Epoch, after, err)
		}
		dropping, err := a.Dropping()
		closeStore(t, whole)
		whole = openOn(t, fs)
		defer closeStore(t, whole)
		a = catalogueOf(t, whole)
		again, errAgain := a.Dropping()
		if err != nil || errAgain != nil || !reflect.DeepEqual(again, dropping) || !reflect.DeepEqual(a.Map(), after) {
			t.Errorf("after a restart the map is %+v, dropping %v (%v), want %+v, %v (%v)", a.Map(), again, errAgain, after, dropping, err)
		}
	})
}

func TestClientIDsAreNeverGivenTwice(t *testing.T) {
	fs := vfs.NewMem()
	for round := range uint64(3) {
		s := openOn(t, fs)
		c := catalogueOf(t, s)
		for i, r := range run(c, 2*round+1, AppendNewClient(nil), AppendNewClient(nil)) {
			if want := 2*round + 1 + uint64(i); r.Err != nil || r.Value != want {
				t.Errorf("client %+v, want id %d", r, want)
			}
		}
		closeStore(t, s)
	}
}

func TestCatalogueRefusesAndLeads(t *testing.T) {
	s := openMem(t)
	c := catalogueOf(t, s)
	results := run(c, 1,
		kv.AppendLead(nil, 0, 0),
		kv.AppendHeader(nil, kv.KindLead),
		kv.AppendSet(nil, kv.Origin{}, 1, []kv.Pair{{Key: "a"}}),
		AppendInit(nil, testMap(t))[:20],
		kv.AppendHeader(nil, kv.KindInit),
		AppendNodeAddr(nil, "n1", 11, "x")[:5],
		kv.AppendHeader(nil, 99),
		kv.AppendDrop(nil, 1),
		[]byte{9})
	for i, r := range results {
		if want := error(kv.ErrInvalid); i > 0 && !errors.Is(r.Err, want) || i == 0 && r.Err != nil {
			t.Errorf("command %d: %v", i, r.Err)
		}
	}
	if got, want := c.Position(), (Position{Index: 9, Term: 2, LeadTerm: 2}); got != want {
		t.Errorf("position %+v, want %+v", got, want)
	}
	if rows := dump(t, s); len(rows) != 1 {
		t.Errorf("the store holds %q, want the record alone", rows)
	}
}

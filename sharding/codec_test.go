package sharding_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

// goldenMap is the map of three nodes and two shards below, in bytes.
const goldenMap = `
	02  0102030405060708  0000000000000003  03
	03  01 61 000000000000000a 03 613a31  02 6262 000000000000000b 00  01 63 000000000000000c 00
	00 01 02
	00000000 0000000000000001 0000 0000 02 00 01  00 00
	02
	00000001 0000000000000001 0000 1fff 02 00 01  00 00
	00000002 0000000000000005 2000 3fff 01 01     03 02`

// goldenMapValue is what goldenMap says: bb leaves, and c, which began to leave
// when shard 2 was already moving to it, leaves to a.
func goldenMapValue() *sharding.Map {
	return &sharding.Map{
		Cluster:  0x0102030405060708,
		Epoch:    3,
		Replicas: 3,
		Nodes: []sharding.Node{
			{ID: "a", Storage: 10, Addr: "a:1"},
			{ID: "bb", Storage: 11, Leaving: true},
			{ID: "c", Storage: 12, Leaving: true, Heir: "a"},
		},
		Meta: sharding.Group{Generation: 1, Replicas: []sharding.NodeID{"a", "bb"}},
		Groups: []sharding.Group{
			{Shard: 1, Generation: 1, Range: sharding.Range{Last: 8191}, Replicas: []sharding.NodeID{"a", "bb"}},
			{
				Shard: 2, Generation: 5, Range: sharding.Range{First: 8192, Last: 16383},
				Replicas: []sharding.NodeID{"bb"}, Adding: "c", Removing: "bb",
			},
		},
	}
}

// golden turns hex with blanks into bytes.
func golden(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(text), ""))
	if err != nil {
		t.Fatalf("golden bytes %q: %v", text, err)
	}
	return b
}

func TestMapHasGoldenBytes(t *testing.T) {
	want, m := golden(t, goldenMap), goldenMapValue()
	if got := m.Append([]byte("before")); !bytes.Equal(got, append([]byte("before"), want...)) {
		t.Errorf("appended %x after \"before\", want %x", got, want)
	}
	got, err := sharding.DecodeMap(want)
	if err != nil || !reflect.DeepEqual(got, m) {
		t.Errorf("decoded %+v, %v, want %+v", got, err, m)
	}
}

func TestMapsComeBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m, err := sharding.Found(
			rapid.Uint64().Draw(t, "cluster"),
			someNodes(rapid.IntRange(1, sharding.MaxNodes).Draw(t, "nodes")),
			rapid.IntRange(1, sharding.MaxShards).Draw(t, "shards"),
			rapid.IntRange(1, sharding.MaxNodes).Draw(t, "replicas"))
		if err != nil {
			t.Fatal(err)
		}
		m = m.WithAddr("n00", rapid.String().Draw(t, "addr"))
		if heir := rapid.SampledFrom([]sharding.NodeID{"", "n01"}).Draw(t, "heir"); len(m.Nodes) > 1 {
			m = must(t)(m.WithLeaving("n00", heir))
		}
		if mv, ok := m.NextMove(); ok {
			m = must(t)(m.WithMove(mv))
		}
		got, err := sharding.DecodeMap(m.Append(nil))
		if err != nil || !reflect.DeepEqual(got, m) {
			t.Fatalf("came back as %+v, %v, want %+v", got, err, m)
		}
	})
}

func TestCutMapsAreMalformed(t *testing.T) {
	whole := golden(t, goldenMap)
	for n := range whole {
		if m, err := sharding.DecodeMap(whole[:n]); m != nil || !errors.Is(err, kv.ErrMalformed) {
			t.Errorf("cut to %d of %d bytes: map %+v, error %v, want no map and %v", n, len(whole), m, err, kv.ErrMalformed)
		}
	}
}

func TestMapsAreRefused(t *testing.T) {
	const metaReplicas = "02 00 01  00 00\n\t02" // and the number of shards
	spoilt := func(old, by string) []byte {
		if strings.Count(goldenMap, old) != 1 {
			t.Fatalf("%q is not once in the golden map", old)
		}
		return golden(t, strings.Replace(goldenMap, old, by, 1))
	}
	crowd := append(golden(t, "02 0102030405060708 0000000000000001 03 41"), make([]byte, 65*10)...)
	shards := found(t, 1, sharding.MaxShards, 1)
	shards.Groups = append(shards.Groups, shards.Groups[0])
	for _, c := range []struct {
		name  string
		bytes []byte
		want  string
	}{
		{"another version", spoilt("02  0102", "01  0102"), "malformed at byte 1 of 122: map version 1, want 2"},
		{"epoch 0", spoilt("0000000000000003", "0000000000000000"), "invalid map: epoch 0 with 3 nodes and 2 shards, want at least one of each"},
		{"no replicas wanted", spoilt("0003  03", "0003  00"), "invalid map: 0 replicas of each shard, want 1 to 64"},
		{"65 replicas wanted", spoilt("0003  03", "0003  41"), "invalid map: 65 replicas of each shard, want 1 to 64"},
		{"2^64-1 replicas wanted", spoilt("0003  03", "0003  ffffffffffffffffff01"), "invalid map: 65 replicas of each shard, want 1 to 64"},
		{"65 nodes", crowd, "malformed at byte 19 of 669: 65 nodes, at most 64 are allowed"},
		{"an heir that is no node", spoilt("00 01 02", "00 01 05"), "malformed at byte 59 of 122: node 3 of 3"},
		{"a leaving node's own heir", spoilt("00 01 02", "00 01 04"), `invalid map: node "c" (leaving: true) has the heir "c", want another node's name, and only if it is leaving`},
		{"a replica on no node", spoilt(metaReplicas, "02 00 03  00 00 02"), "malformed at byte 78 of 122: a replica on node 3 of 3"},
		{"more replicas than nodes", spoilt(metaReplicas, "04 00 01  00 00 02"), "malformed at byte 76 of 122: 4 replicas, at most 3 are allowed"},
		{"a node's two replicas", spoilt(metaReplicas, "02 00 00  00 00 02"), `invalid map: shard 0 has two replicas on "a"`},
		{"a replica comes to no node", spoilt("03 02", "04 02"), "malformed at byte 121 of 122: node 3 of 3"},
		{"a replica goes from no node", spoilt("03 02", "03 04"), "malformed at byte 122 of 122: node 3 of 3"},
		{"two shards move", spoilt(metaReplicas, "02 00 01  00 01 02"), "invalid map: shards 0 and 2 are moving, want at most one"},
		{"257 shards", shards.Append(nil), "257 shards, at most 256 are allowed"},
		{"bytes left over", golden(t, goldenMap+"00"), "malformed at byte 122 of 123: 1 bytes are left over"},
	} {
		m, err := sharding.DecodeMap(c.bytes)
		if m != nil || err == nil || !strings.HasSuffix(err.Error(), c.want) {
			t.Errorf("%s: map %+v, error %v, want no map and %q", c.name, m, err, c.want)
		}
	}
}

// A few bytes that announce huge lists must not cost memory.
func TestHostileCountsAllocateNothingLarge(t *testing.T) {
	const most = 16 << 10 // an error's text and the test's own noise
	head := golden(t, "02 0102030405060708 0000000000000001 03")
	node := golden(t, "01 01 61 000000000000000a 00")
	stays := []byte{0}
	group := golden(t, "00000000 0000000000000001 0000 3fff")
	for _, count := range []uint64{1 << 10, 1 << 31, 1<<31 - 1, 1 << 32, 1 << 62, 1<<64 - 1} {
		huge := binary.AppendUvarint(nil, count)
		for name, input := range map[string][]byte{
			"nodes":    bytes.Join([][]byte{head, huge, node}, nil),
			"replicas": bytes.Join([][]byte{head, node, stays, group, huge, {0}}, nil),
			"shards":   bytes.Join([][]byte{head, node, stays, group, {1, 0, 0, 0}, huge, group}, nil),
		} {
			var err error
			if got := allocated(func() { _, err = sharding.DecodeMap(input) }); got > most {
				t.Errorf("%d %s in %d bytes allocated %d bytes, want at most %d", count, name, len(input), got, most)
			}
			if !errors.Is(err, kv.ErrMalformed) {
				t.Errorf("%d %s: %v, want %v", count, name, err, kv.ErrMalformed)
			}
		}
	}
}

// allocated returns how many bytes f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// FuzzMap feeds any bytes to DecodeMap: no panic, and a map that comes out is
// valid and within its limits, is the same after another trip, and has a plan
// that ends where it should.
func FuzzMap(f *testing.F) {
	f.Add(golden(f, goldenMap))
	f.Add(found(f, 3, 6, 3).Append(nil))
	f.Add(found(f, 5, 3, 2).Append(nil))
	f.Add([]byte{2})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := sharding.DecodeMap(b)
		if err != nil {
			if m != nil {
				t.Fatalf("a map came with error %v", err)
			}
			return
		}
		if err := m.Validate(); err != nil || len(m.Nodes) > sharding.MaxNodes || len(m.Groups) > sharding.MaxShards {
			t.Fatalf("%d nodes and %d shards came out: %v", len(m.Nodes), len(m.Groups), err)
		}
		again := m.Append(nil)
		if len(again) > len(b) || len(again) == len(b) && !bytes.Equal(again, b) {
			t.Fatalf("appended again: %x, was %x", again, b)
		}
		second, err := sharding.DecodeMap(again)
		if err != nil || !reflect.DeepEqual(second, m) {
			t.Fatalf("came back as %+v, %v, want %+v", second, err, m)
		}
		if m = followThePlan(t, m); m != nil {
			settled(t, m)
		}
	})
}

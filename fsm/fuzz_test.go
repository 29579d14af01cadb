package fsm

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"slices"
	"testing"

	"github.com/cespare/xxhash/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

// FuzzApply gives two arbitrary commands, the second at an arbitrary time, and
// the first again, to both machines of two stores: to one in one call, to the
// other one by one. Neither may panic; results, rows and
// what a restart reads back must agree.
func FuzzApply(f *testing.F) {
	m := testMap(f)
	set := kv.AppendSet(nil, kv.Origin{}, 1, []kv.Pair{{Key: "a", Value: []byte("1")}, {Key: "", Value: nil}})
	for _, seed := range [][]byte{
		nil,
		{0},
		{kv.CommandVersion},
		{kv.CommandVersion, 200},
		set,
		set[:len(set)-1],
		append(slices.Clone(set), 0),
		kv.AppendSet(nil, kv.Origin{}, 0, []kv.Pair{{Key: "a"}}),
		kv.AppendDelete(nil, kv.Origin{}, 1, []string{"a", "b"}),
		kv.AppendLead(nil, 3, 4),
		kv.AppendLead(nil, 4, 3),
		AppendInit(nil, m),
		AppendInit(nil, m)[:30],
		AppendCreateBucket(nil, "users"),
		AppendCreateBucket(nil, "a:b"),
		AppendNodeAddr(nil, "n1", 11, "elsewhere:7000"),
		AppendNodeAddr(nil, "n1", 99, "elsewhere:7000"),
		AppendNodeAddr(nil, "n9", 11, ""),
		kv.AppendSet(nil, by(1, 1, 0), 1, []kv.Pair{{Key: "a"}}),
		kv.AppendDelete(nil, by(1, 2, 1), 1, []string{"a"}),
		kv.AppendIncrement(nil, by(1, 1, 0), 1, "a", -3),
		kv.AppendIncrement(nil, kv.Origin{}, 1, "a", 3),
		kv.AppendSwap(nil, by(1, 1, 0), 1, 2, kv.Pair{Key: "a", Value: []byte("2")}),
		piece(by(1, 1, 0), 0, "ab"),
		last(by(1, 1, 1), 2, "c"),
		lastSwap(by(1, 1, 1), 2, "c", 0),
		kv.AppendBundle(nil, [][]byte{setBy(by(1, 1, 0), "a", "1"), setBy(by(1, 2, 0), "a", "2"), kv.AppendDelete(nil, by(1, 3, 1), 1, []string{"a"})}),
		kv.AppendDrop(nil, 1),
		kv.AppendDrop(nil, 0),
		AppendDeleteBucket(nil, "users", 0),
		AppendDropped(nil, 1, 1),
		AppendNewClient(nil),
		AppendAddNode(nil, sharding.Node{ID: "n3", Storage: 13, Addr: "h:3"}),
		AppendAddNode(nil, sharding.Node{ID: "n1", Storage: 13, Addr: "h:3"}),
		AppendRemoveNode(nil, "n1", "n2"),
		AppendReplaceNode(nil, "n1", 14, "h:1"),
		AppendForgetNode(nil, "n1"),
		AppendMove(nil, 1, sharding.Move{Shard: 1, Removing: "n1"}),
		AppendMoved(nil, 1, 1),
		AppendAbort(nil, 1, 1),
		append(kv.AppendHeader(nil, kv.KindDelete), 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1),
	} {
		f.Add(seed, set, uint64(0))
		f.Add(AppendInit(nil, m), seed, uint64(5))
		f.Add(piece(by(1, 1, 0), 0, "ab"), seed, sessionTTL)
	}
	f.Fuzz(func(t *testing.T, one, two []byte, time uint64) {
		entries := []Entry{
			{Index: 1, Term: 1, Command: kv.AppendLead(nil, 0, sharding.Slots-1)},
			{Index: 2, Term: 2, Command: one},
			{Index: 3, Term: 3, Time: time, Command: two},
			{Index: 4, Term: 3, Command: one},
		}
		fs := vfs.NewMem()
		whole, single := openOn(t, fs), openOn(t, vfs.NewMem())
		defer closeStore(t, single)
		for _, pair := range [][2]applier{
			{dataOf(t, whole, 1), dataOf(t, single, 1)},
			{catalogueOf(t, whole), catalogueOf(t, single)},
		} {
			results := fmt.Sprint(pair[0].Apply(entries))
			var ones []Result
			for i := range entries {
				ones = append(ones, pair[1].Apply(entries[i:i+1])...)
			}
			if got := fmt.Sprint(ones); got != results {
				t.Errorf("%T: one by one %s, in one call %s", pair[0], got, results)
			}
		}
		if a, b := dump(t, whole), dump(t, single); !slices.Equal(a, b) {
			t.Errorf("rows differ:\n%q\n%q", a, b)
		}
		checkSessions(t, dataOf(t, whole, 1))
		closeStore(t, whole)
		whole = openOn(t, fs)
		defer closeStore(t, whole)
		if a, b := catalogueOf(t, whole).Map(), catalogueOf(t, single).Map(); !reflect.DeepEqual(a, b) {
			t.Errorf("after a restart the map is %+v, want %+v", a, b)
		}
		if a, b := dataOf(t, whole, 1).Position(), dataOf(t, single, 1).Position(); a != b {
			t.Errorf("after a restart the position is %+v, want %+v", a, b)
		}
	})
}

// FuzzStage writes arbitrary bytes, in two cuts, as the stream of a shard, or,
// sealed, as the rows of one with right checksums, where the fuzzer would not
// get otherwise. What is accepted must come out again as it went in; what is not
// must leave nothing, and need no more memory than its length explains.
func FuzzStage(f *testing.F) {
	golden, err := hex.DecodeString(goldenStream)
	if err != nil {
		f.Fatal(err)
	}
	end := len(golden) - frameHead - endBytes - crcBytes
	for _, seed := range [][]byte{
		nil,
		golden,
		golden[:headerBytes],
		golden[:end],
		append(slices.Clone(golden), 0),
		append(slices.Clone(golden[:headerBytes]), frameBlock, 0xff, 0xff, 0xff, 0xff),
		append(slices.Clone(golden[:headerBytes]), frameBlock, 0, 0xff, 0xff, 0xff, 1),
		slices.Concat(golden[:headerBytes], golden[headerBytes:end], golden[headerBytes:end], golden[end:]),
	} {
		f.Add(seed, uint16(len(seed)/2), false)
	}
	pair := golden[headerBytes+frameHead+49 : end-crcBytes]
	for _, seed := range [][]byte{nil, pair, slices.Concat(pair, pair), pair[:20], []byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")} {
		f.Add(seed, uint16(len(seed)), true)
	}
	f.Fuzz(func(t *testing.T, stream []byte, cut uint16, sealed bool) {
		if sealed {
			stream = sealRows(golden, stream)
		}
		checkParserMemory(t, stream)
		s := openOn(t, vfs.NewMem())
		defer closeStore(t, s)
		st, err := s.Stage(5)
		if err != nil {
			t.Fatal(err)
		}
		at := min(int(cut), len(stream))
		_, err = st.Write(stream[:at])
		if err == nil {
			_, err = st.Write(stream[at:])
		}
		if finishErr := st.Finish(); err == nil {
			err = finishErr
		} else if finishErr == nil {
			t.Errorf("Finish accepted what Write did not: %v", err)
		}
		if _, ok, stagedErr := s.Staged(5); stagedErr != nil || ok != (err == nil) {
			t.Errorf("staged is %v, %v after %v", ok, stagedErr, err)
		}
		if err != nil {
			if names := listStage(t, s); len(names) != 0 || !errors.Is(err, errStream) {
				t.Errorf("%v, and %q is left", err, names)
			}
			return
		}
		if err := s.Restore(5); err != nil {
			t.Fatal(err)
		}
		if got := streamed(t, dataOf(t, s, 5)); !bytes.Equal(got, stream) && !sameRows(t, got, stream) {
			t.Errorf("went in as\n%x, came out as\n%x", stream, got)
		}
	})
}

// sealRows makes a stream of the record of the golden one and of rows.
func sealRows(golden, rows []byte) []byte {
	record := golden[headerBytes+frameHead:][:49]
	stream := append(slices.Clone(golden[:headerBytes]), reseal(frameBlock, slices.Concat(record, rows))...)
	count := uint64(1)
	for d := kv.NewDecoder(rows); d.Left() > 0 && d.Err() == nil; count++ {
		d.Bytes()
		d.Bytes()
	}
	end := binary.BigEndian.AppendUint64(nil, count)
	end = binary.BigEndian.AppendUint64(end, xxhash.Sum64(stream))
	return append(stream, reseal(frameEnd, end)...)
}

// checkParserMemory parses a stream and compares what that allocated with what
// arrived.
func checkParserMemory(t *testing.T, stream []byte) {
	const slack = 256 << 10 // the parser itself, errors, other goroutines
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	p := newParser(5, func(key, value []byte) error { return nil })
	err := p.write(stream)
	if err == nil {
		err = p.finish()
	}
	runtime.ReadMemStats(&after)
	if got, want := after.TotalAlloc-before.TotalAlloc, uint64(8*len(stream)+slack); got > want {
		t.Errorf("%d bytes of input (%v) took %d bytes of memory, want at most %d", len(stream), err, got, want)
	}
}

// sameRows says whether two streams, which may be cut into other blocks, hold
// the same rows.
func sameRows(t *testing.T, a, b []byte) bool {
	t.Helper()
	var rows [2][]string
	for i, stream := range [][]byte{a, b} {
		p := newParser(5, func(key, value []byte) error {
			rows[i] = append(rows[i], fmt.Sprintf("%x = %x", key, value))
			return nil
		})
		if err := p.write(stream); err != nil {
			t.Fatal(err)
		}
	}
	return slices.Equal(rows[0], rows[1])
}

// goldenManifest is that of a staging of shard 5 with two tables.
const goldenManifest = "6d6b7367" + "01" + "00000005" + "0000000000000007" + "0000000000000003" + "0000000000000002" +
	"00000002" + "0000000004000000" + "0000000000000011" + "8b0786d9"

// FuzzManifest: bytes that are accepted are those that would have been written.
func FuzzManifest(f *testing.F) {
	golden, err := hex.DecodeString(goldenManifest)
	if err != nil {
		f.Fatal(err)
	}
	m := manifest{shard: 5, position: Position{7, 3, 2}, sizes: []uint64{tableBytes, 17}}
	if got := m.append(nil); !bytes.Equal(got, golden) {
		f.Errorf("the manifest is %x, want %x", got, golden)
	}
	if got, err := decodeManifest(golden); err != nil || !reflect.DeepEqual(*got, m) {
		f.Errorf("decoded %+v, %v, want %+v", got, err, m)
	}
	f.Add([]byte(nil))
	f.Add(golden[:len(golden)-crcBytes])
	f.Add([]byte("\x6d\x6b\x73\x67\x01\x00\x00\x00\x05"))
	f.Fuzz(func(t *testing.T, b []byte) {
		b = appendCRC(b[:len(b):len(b)], b) // or the checksum would keep the fuzzer out
		m, err := decodeManifest(b)
		if err != nil {
			return
		}
		if got := m.append(nil); !bytes.Equal(got, b) {
			t.Errorf("%x is accepted, but written it is %x", b, got)
		}
	})
}

package coordinator

import (
	"bytes"
	"encoding/binary"
	"errors"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

// message is anything that travels: what encodes it and what reads it.
type message struct {
	name   string
	bytes  string
	value  any
	encode func() []byte
	decode func(b []byte) (any, error)
}

func decodeRequest(b []byte) (any, error)       { return DecodeRequest(b) }
func decodeAnswer(b []byte) (any, error)        { return DecodeAnswer(b) }
func decodeBucketRequest(b []byte) (any, error) { return DecodeBucketRequest(b) }
func decodeBucketAnswer(b []byte) (any, error)  { return DecodeBucketAnswer(b) }
func decodeBatchRequest(b []byte) (any, error)  { return DecodeBatchRequest(b) }
func decodeNodeRequest(b []byte) (any, error)   { return DecodeNodeRequest(b) }
func decodeNodeAnswer(b []byte) (any, error)    { return DecodeNodeAnswer(b) }
func decodeHashRequest(b []byte) (any, error)   { return DecodeHashRequest(b) }
func decodeHashAnswer(b []byte) (any, error)    { return DecodeHashAnswer(b) }

// goldenMap is a map of one node and one shard, in bytes (package sharding).
const goldenMap = `
	02 0000000000000001 0000000000000002 01
	01  02 6e31 0000000000000000 06 686f73743a31  00
	00000000 0000000000000001 0000 0000 01 00 00 00
	01
	00000001 0000000000000001 0000 3fff 01 00 00 00`

// messages are the golden bytes of the protocol. They must never change.
func messages(t testing.TB) []message {
	read := &Request{Epoch: 9, Op: OpGet, AnyReplica: true, Bucket: 7, Parts: []Part{
		{Shard: 1, Keys: []string{"a", ""}}, {Shard: 258, Keys: []string{"ä"}},
	}}
	list := &Request{Epoch: 9, Op: OpList, Bucket: 7, Parts: []Part{{Shard: 1, Cursor: 258, Max: 300}}}
	write := &Request{Epoch: 9, Op: OpSet, Bucket: 7, Parts: []Part{{Shard: 3, Commands: [][]byte{{1, 2}, {}}}}}
	answer := &Answer{Map: foundMap(2, 1, 1, 1), Parts: []PartAnswer{
		{Shard: 1, Leader: "n1", Items: golden(t, "00000002 00 01 0000000000000005 02 7676")},
		{Shard: 2, Status: StatusNotLeader, Leader: "n2", Items: []byte{}},
		{Shard: 3, Status: StatusRefused, Code: kv.CodeBusy, Detail: "full", Items: []byte{}, Results: []Result{
			{Outcome: kv.OutcomeApplied, Value: 258}, {Outcome: kv.OutcomeNotApplied, Code: kv.CodeTooLarge, Detail: "no"},
			{Code: kv.CodeUnknown}, {Forgotten: true, Code: kv.CodeUnknown},
		}},
	}}
	open := BucketRequest{Op: BucketOpen, Name: "files"}
	remove := BucketRequest{Op: BucketDelete, Name: "files", ID: 258}
	buckets := BucketAnswer{Status: StatusRefused, Leader: "n1", Code: kv.CodeExists, Detail: "it", ID: 258, Names: []string{"a", "bc"}}
	origin := kv.Origin{Client: 3, Seq: 258, Acked: 255}
	batch := func(name, bytes string, r *BatchRequest) message {
		return message{name, bytes, r, func() []byte { return r.Append(nil) }, decodeBatchRequest}
	}
	from := " 0000000000000003 0000000000000102 00000000000000ff 00040000 0000000000000005"
	replace := NodeRequest{Op: NodeReplace, Node: "n1", Addr: "h:1", Heir: "n2"}
	nodes := NodeAnswer{Status: StatusRefused, Leader: "n1", Code: kv.CodeInvalid, Detail: "it"}
	hash := HashAnswer{Index: 1, Term: 2, Hash: 3, Rows: 4}
	return []message{
		{
			"request that reads",
			"01 0000000000000009 01 01 0000000000000007 02  00000001 02 01 61 00  00000102 01 02 c3a4",
			read, func() []byte { return read.Append(nil) }, decodeRequest,
		},
		{
			"request that lists", "01 0000000000000009 07 00 0000000000000007 01  00000001 0000000000000102 ac02",
			list, func() []byte { return list.Append(nil) }, decodeRequest,
		},
		{
			"request that writes", "01 0000000000000009 03 00 0000000000000007 01  00000003 02 02 0102 00",
			write, func() []byte { return write.Append(nil) }, decodeRequest,
		},
		{
			"answer", "01 4f" + goldenMap + ` 03
				00000001 00 02 6e31 00 00 00 00000011 00000002 00 01 0000000000000005 02 7676
				00000002 01 02 6e32 00 00 00 00000000
				00000003 03 00 06 04 66756c6c 04
					02 00 00 0000000000000102 00
					01 00 05 0000000000000000 02 6e6f
					00 00 08 0000000000000000 00
					00 01 08 0000000000000000 00  00000000`,
			answer, func() []byte { return writeAnswer(answer) }, decodeAnswer,
		},
		{
			"bucket request", "01 01 05 66696c6573 0000000000000000",
			open, func() []byte { return open.Append(nil) }, decodeBucketRequest,
		},
		{
			"bucket request to delete", "01 04 05 66696c6573 0000000000000102",
			remove, func() []byte { return remove.Append(nil) }, decodeBucketRequest,
		},
		{
			"bucket answer", "01 03 02 6e31 02 02 6974 0000000000000102 02 01 61 02 6263",
			buckets, func() []byte { return buckets.Append(nil) }, decodeBucketAnswer,
		},
		batch("batch that reads", "01 01 0000000000000007 02 01 61 00", &BatchRequest{Op: OpGet, Bucket: 7, Keys: []string{"a", ""}}),
		batch("batch that lists", "01 07 0000000000000007 0000000000000102", &BatchRequest{Op: OpList, Bucket: 7, Cursor: 258}),
		batch(
			"batch that deletes", "01 04 0000000000000007"+from+" 02 01 61 00 00",
			&BatchRequest{Op: OpDelete, Bucket: 7, Origin: origin, EntryBytes: 1 << 18, Layout: 5, Keys: []string{"a", ""}},
		),
		batch(
			"batch that sets", "01 03 0000000000000007"+from+" 02 01 61 02 7676 00 00 02 0100",
			&BatchRequest{Op: OpSet, Bucket: 7, Origin: origin, EntryBytes: 1 << 18, Layout: 5, Pairs: []kv.Pair{{Key: "a", Value: []byte("vv")}, {Key: "", Value: []byte{}}}, Known: []byte{1, 0}},
		),
		batch(
			"batch that increments", "01 05 0000000000000007"+from+" fffffffffffffffe 01 61 00",
			&BatchRequest{Op: OpIncrement, Bucket: 7, Origin: origin, EntryBytes: 1 << 18, Layout: 5, Keys: []string{"a"}, Delta: -2},
		),
		batch(
			"batch that swaps", "01 06 0000000000000007"+from+" 0000000000000005 01 61 02 7676 00",
			&BatchRequest{Op: OpSwap, Bucket: 7, Origin: origin, EntryBytes: 1 << 18, Layout: 5, Pairs: []kv.Pair{{Key: "a", Value: []byte("vv")}}, Version: 5},
		),
		{
			"node request", "01 03 02 6e31 03 683a31 02 6e32",
			replace, func() []byte { return replace.Append(nil) }, decodeNodeRequest,
		},
		{
			"node answer", "01 03 02 6e31 04 02 6974",
			nodes, func() []byte { return nodes.Append(nil) }, decodeNodeAnswer,
		},
		{
			"hash request", "01 00000102",
			sharding.Shard(258), func() []byte { return AppendHashRequest(nil, 258) }, decodeHashRequest,
		},
		{
			"hash answer", "01 0000000000000001 0000000000000002 0000000000000003 0000000000000004",
			hash, func() []byte { return hash.Append(nil) }, decodeHashAnswer,
		},
	}
}

// writeAnswer builds an answer as a node does.
func writeAnswer(a *Answer) []byte {
	w := NewAnswer(nil, a.Map, len(a.Parts))
	for i := range a.Parts {
		p := &a.Parts[i]
		w.OpenPart(p)
		items := ReadItems(p)
		for range items.Count() {
			if value, version, found := items.Next(); found {
				w.Found(version, value)
			} else {
				w.Missing()
			}
		}
		w.ClosePart()
	}
	return w.Bytes()
}

func TestMessagesHaveGoldenBytes(t *testing.T) {
	for _, m := range messages(t) {
		t.Run(m.name, func(t *testing.T) {
			want := golden(t, m.bytes)
			if got := m.encode(); !bytes.Equal(got, want) {
				t.Errorf("encoded\n%x, want\n%x", got, want)
			}
			got, err := m.decode(want)
			if err != nil || !reflect.DeepEqual(got, m.value) {
				t.Errorf("decoded\n%+v, %v, want\n%+v", got, err, m.value)
			}
			for n := range want {
				if got, err := m.decode(want[:n]); !errors.Is(err, kv.ErrMalformed) {
					t.Errorf("%d of %d bytes are read as %+v, %v", n, len(want), got, err)
				}
			}
			if _, err := m.decode(append(want, 0)); !errors.Is(err, kv.ErrMalformed) {
				t.Errorf("a byte too many: %v", err)
			}
			want[0]++
			if _, err := m.decode(want); !errors.Is(err, kv.ErrMalformed) {
				t.Errorf("of a later version: %v", err)
			}
		})
	}
}

// The requests a coordinator builds by hand are those Append makes.
func TestRequestsSentAreGolden(t *testing.T) {
	f := newFake(1, 1, 1)
	c := f.node("n1", kv.Limits{})
	if _, err := c.GetMany(t.Context(), testBucket, []string{"a", ""}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.List(t.Context(), testBucket, 258); err != nil {
		t.Fatal(err)
	}
	s := c.NewSession()
	must(t, s.SetMany(t.Context(), testBucket, pairsOf([]string{"a"}, "v")))
	must(t, s.DeleteMany(t.Context(), testBucket, []string{"a"}))
	_, err := s.Increment(t.Context(), testBucket, "a", -1)
	must(t, err)
	_, err = s.CompareAndSwap(t.Context(), testBucket, 3, kv.Pair{Key: "a", Value: []byte("v")})
	must(t, err)
	write := func(op Op, command string) *Request {
		return &Request{Epoch: 1, Op: op, Bucket: testBucket, Parts: []Part{{Shard: 1, Commands: [][]byte{golden(t, command)}}}}
	}
	for i, want := range []*Request{
		{Epoch: 1, Op: OpGet, AnyReplica: true, Bucket: testBucket, Parts: []Part{{Shard: 1, Keys: []string{"a", ""}}}},
		{Epoch: 1, Op: OpList, AnyReplica: true, Bucket: testBucket, Parts: []Part{{Shard: 1, Cursor: 258, Max: 1000}}},
		write(OpSet, "02 01 0000000000000001 0000000000000001 0000000000000000 00000000 0000000000000007 01 01 61 01 76"),
		write(OpDelete, "02 02 0000000000000001 0000000000000002 0000000000000001 00000000 0000000000000007 01 01 61"),
		write(OpIncrement, "02 04 0000000000000001 0000000000000003 0000000000000002 00000000 0000000000000007 ffffffffffffffff 01 61"),
		write(OpSwap, "02 05 0000000000000001 0000000000000004 0000000000000003 00000000 0000000000000007 0000000000000003 01 61 01 76"),
	} {
		if got := f.seenBy("n1")[i].q; !reflect.DeepEqual(got, want) {
			t.Errorf("sent %+v, want %+v", got, want)
		}
	}
}

// The answers to whole batches, in bytes.
func TestBatchAnswersHaveGoldenBytes(t *testing.T) {
	f := newFake(1, 1, 1)
	f.data["a"], f.versions["a"] = "vv", 5
	c := f.coordinator(kv.Limits{BatchKeys: 3})
	from := func(seq string) string {
		return " 0000000000000009 00000000000000" + seq + " 0000000000000000 00040000 4cc9077f9d7ef8ab "
	}
	for _, b := range []struct{ name, request, answer string }{
		{"get-many", "01 01 0000000000000007 03 01 61 01 62 01 61", "01 00 00  01 0000000000000005 02 7676  00  01 0000000000000005 02 7676"},
		{"exists", "01 02 0000000000000007 02 01 61 01 62", "01 00 00  01 00"},
		{"list-keys", "01 07 0000000000000007 0000000000000000", "01 00 00  01 01 61 0000000000000000"},
		{"set-many", "01 03 0000000000000007" + from("01") + "01 01 61 00 00", "01 00 00 00 0000000000000000"},
		{"delete-many", "01 04 0000000000000007" + from("02") + "01 01 61 00", "01 00 00 00 0000000000000000"},
		{"increment", "01 05 0000000000000007" + from("03") + "0000000000000102 01 61 00", "01 00 00 00 0000000000000102"},
		{
			"swap of another version", "01 06 0000000000000007" + from("04") + "0000000000000009 01 61 00 00",
			// conflict: the key has version 3, expected was 9
			"01 09 2f 636f6e666c6963743a20746865206b6579206861732076657273696f6e20332c20657870656374656420776173 2039 01 03 0000000000000000",
		},
		{
			"too many keys", "01 04 0000000000000007" + from("05") + "04 00 00 00 00 00",
			// too large: a batch of 4 keys, at most 3 are allowed
			"01 05 33 746f6f206c617267653a2061206261746368206f662034206b6579732c206174206d6f737420332061726520616c6c6f776564 00 0000000000000000",
		},
	} {
		got, err := c.ServeBatch(t.Context(), golden(t, b.request))
		if err != nil || !bytes.Equal(got, golden(t, b.answer)) {
			t.Errorf("%s: answered %x, %v, want %x", b.name, got, err, golden(t, b.answer))
		}
	}
}

// What must not be guessed at is refused.
func TestStrangeMessagesAreMalformed(t *testing.T) {
	const one = " 0000000000000001 0000000000000001 0000000000000000 00000001 0000000000000001 "
	for _, c := range []struct {
		name, bytes string
		decode      func([]byte) (any, error)
	}{
		{"operation 0", "01 0000000000000009 00 00 0000000000000007 00", decodeRequest},
		{"operation 8", "01 0000000000000009 08 00 0000000000000007 00", decodeRequest},
		{"a list of no keys", "01 0000000000000009 07 00 0000000000000007 01 00000001 0000000000000000 00", decodeRequest},
		{"a list of 2 million keys", "01 0000000000000009 07 00 0000000000000007 01 00000001 0000000000000000 808080 01", decodeRequest},
		{"flag 2", "01 0000000000000009 01 02 0000000000000007 00", decodeRequest},
		{"status 4", "01 00 01 00000001 04 00 00 00 00 00000000", decodeAnswer},
		{"refused with no code", "01 00 01 00000001 03 00 00 00 00 00000000", decodeAnswer},
		{"outcome 3", "01 00 01 00000001 00 00 00 00 01 03 00 00 0000000000000000 00 00000000", decodeAnswer},
		{"forgotten 2", "01 00 01 00000001 00 00 00 00 01 00 02 00 0000000000000000 00 00000000", decodeAnswer},
		{"applied and forgotten", "01 00 01 00000001 00 00 00 00 01 02 01 00 0000000000000000 00 00000000", decodeAnswer},
		{"items cut off", "01 00 01 00000001 00 00 00 00 00 00000002 00", decodeAnswer},
		{"bucket operation 0", "01 00 00 0000000000000000", decodeBucketRequest},
		{"bucket operation 6", "01 06 00 0000000000000000", decodeBucketRequest},
		{"bucket status 2", "01 02 00 01 00 0000000000000000 00", decodeBucketAnswer},
		{"bucket status 4", "01 04 00 01 00 0000000000000000 00", decodeBucketAnswer},
		{"bucket refused with no code", "01 03 00 00 00 0000000000000000 00", decodeBucketAnswer},
		{"batch operation 0", "01 00 0000000000000007 00", decodeBatchRequest},
		{"batch operation 8", "01 08 0000000000000007" + one + "00", decodeBatchRequest},
		{"a write without a session", "01 04 0000000000000007 0000000000000000 0000000000000001 0000000000000000 00000001 0000000000000001 00", decodeBatchRequest},
		{"call 0", "01 04 0000000000000007 0000000000000001 0000000000000000 0000000000000000 00000001 0000000000000001 00", decodeBatchRequest},
		{"a call that is acknowledged", "01 04 0000000000000007 0000000000000001 0000000000000002 0000000000000002 00000001 0000000000000001 00", decodeBatchRequest},
		{"a call too far ahead", "01 04 0000000000000007 0000000000000001 0000000000000401 0000000000000000 00000001 0000000000000001 00", decodeBatchRequest},
		{"layout 0", "01 04 0000000000000007 0000000000000001 0000000000000001 0000000000000000 00000001 0000000000000000 00", decodeBatchRequest},
		{"entries of no bytes", "01 04 0000000000000007 0000000000000001 0000000000000001 0000000000000000 00000000 0000000000000001 00", decodeBatchRequest},
		{"entries too large", "01 04 0000000000000007 0000000000000001 0000000000000001 0000000000000000 00040001 0000000000000001 00", decodeBatchRequest},
		{"node operation 0", "01 00 00 00 00", decodeNodeRequest},
		{"node operation 4", "01 04 00 00 00", decodeNodeRequest},
		{"a long address", "01 01 00 8602" + strings.Repeat("61", 262) + "00", decodeNodeRequest},
		{"node status 2", "01 02 00 01 00", decodeNodeAnswer},
		{"nodes refused with no code", "01 03 00 00 00", decodeNodeAnswer},
	} {
		if got, err := c.decode(golden(t, c.bytes)); !errors.Is(err, kv.ErrMalformed) {
			t.Errorf("%s is read as %+v, %v", c.name, got, err)
		}
	}
	if a, err := DecodeAnswer(golden(t, "01 03 010203 00")); err == nil {
		t.Errorf("an answer with a bad map is read as %+v", a)
	}
}

// An answer is written into one buffer: a part that fails half way is taken
// back, and leaves the others as they are.
func TestAnswerWriterTakesBack(t *testing.T) {
	w := NewAnswer(nil, nil, 3)
	w.OpenPart(&PartAnswer{Shard: 1, Leader: "n1"})
	w.Found(5, []byte("value"))
	w.Missing()
	w.ClosePart()
	before := w.Len()
	w.OpenPart(&PartAnswer{Shard: 2})
	w.Found(6, []byte("too large"))
	w.Truncate(before)
	if w.Len() != before || len(w.Bytes()) != before {
		t.Fatalf("%d bytes are left of %d", w.Len(), before)
	}
	w.Part(&PartAnswer{Shard: 2, Status: StatusRefused, Code: kv.CodeTooLarge})
	w.OpenPart(&PartAnswer{Shard: 3})
	w.Found(7, nil)
	w.ClosePart()
	a, err := DecodeAnswer(w.Bytes())
	if err != nil || len(a.Parts) != 3 {
		t.Fatalf("read back %+v, %v", a, err)
	}
	if p := a.Parts[1]; p.Shard != 2 || p.Status != StatusRefused || p.Code != kv.CodeTooLarge || len(p.Items) != 0 {
		t.Errorf("the second part is %+v", p)
	}
	items := ReadItems(&a.Parts[0])
	if value, version, found := items.Next(); string(value) != "value" || version != 5 || !found {
		t.Errorf("the first item is %q of %d, %v", value, version, found)
	}
	if err := items.Finish(); !errors.Is(err, kv.ErrMalformed) {
		t.Errorf("an item is left over: %v", err)
	}
	if value, version, found := items.Next(); value != nil || version != 0 || found {
		t.Errorf("past the end there is %q of %d, %v", value, version, found)
	}
	last := ReadItems(&a.Parts[2])
	if value, version, found := last.Next(); len(value) != 0 || version != 7 || !found || last.Finish() != nil {
		t.Errorf("the last item is %q of %d, %v, %v", value, version, found, last.Finish())
	}
}

// Items are bounded by the bytes there are, and a page of keys by its own.
func TestStrangeItemsAreMalformed(t *testing.T) {
	for _, b := range []string{"000000", "00000002 00", "ffffffff 00", "00000001 00 00"} {
		items := ReadItems(&PartAnswer{Items: golden(t, b)})
		for range items.Count() {
			items.Next()
		}
		if err := items.Finish(); !errors.Is(err, kv.ErrMalformed) {
			t.Errorf("items %q are read: %v", b, err)
		}
	}
	for _, b := range []string{"", "00", "01 61 0000000000000001", "01 01 61 0000000000000001 00", "ffffff7f 01 61"} {
		if keys, next, err := ReadKeys(&PartAnswer{Items: golden(t, b)}); !errors.Is(err, kv.ErrMalformed) {
			t.Errorf("keys %q are read: %q, %d, %v", b, keys, next, err)
		}
	}
	w := NewAnswer(nil, nil, 1)
	w.OpenPart(&PartAnswer{Shard: 1})
	w.Keys([]string{"a", ""}, 258)
	w.ClosePart()
	if want := golden(t, "01 00 01 00000001 00 00 00 00 00 0000000c 02 01 61 00 0000000000000102"); !bytes.Equal(w.Bytes(), want) {
		t.Errorf("a list is %x, want %x", w.Bytes(), want)
	}
	a, err := DecodeAnswer(w.Bytes())
	must(t, err)
	if keys, next, err := ReadKeys(&a.Parts[0]); err != nil || next != 258 || len(keys) != 2 || keys[0] != "a" {
		t.Errorf("keys %q, next %d, %v", keys, next, err)
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

// A few bytes that announce many items must not cost memory, and a message of
// very many tiny items must not cost many times its own.
func TestHostileCountsAllocateLittle(t *testing.T) {
	many := func(n int, item string) []byte {
		return append(binary.AppendUvarint(nil, uint64(n)), bytes.Repeat(golden(t, item), n)...)
	}
	heads := []struct {
		name, bytes, item string
		decode            func([]byte) (any, error)
	}{
		{"parts of a request", "01 0000000000000009 01 00 0000000000000007", "00000001 00", decodeRequest},
		{"keys of a part", "01 0000000000000009 01 00 0000000000000007 01 00000001", "00", decodeRequest},
		{"commands of a part", "01 0000000000000009 03 00 0000000000000007 01 00000001", "00", decodeRequest},
		{"parts of an answer", "01 00", "00000001 00 00 00 00 00 00000000", decodeAnswer},
		{"results of a part", "01 00 01 00000001 00 00 00 00", "02 00 00 0000000000000000 00", decodeAnswer},
		{"keys of a batch", "01 01 0000000000000007", "00", decodeBatchRequest},
		{"pairs of a batch", "01 03 0000000000000007 0000000000000001 0000000000000001 0000000000000000 00000001 0000000000000001", "00 00", decodeBatchRequest},
	}
	for _, h := range heads {
		const little = 32 << 10 // an error's text and the test's own noise
		for _, count := range []uint64{1 << 20, 1 << 31, 1 << 62, 1<<64 - 1} {
			message := append(binary.AppendUvarint(golden(t, h.bytes), count), "few"...)
			if n := allocated(func() { _, _ = h.decode(message) }); n > little {
				t.Errorf("%d announced %s allocate %d bytes", count, h.name, n)
			}
		}
		full := append(golden(t, h.bytes), many(maxItems+1, h.item)...)
		var err error
		if n := allocated(func() { _, err = h.decode(full) }); n > little || !errors.Is(err, kv.ErrMalformed) {
			t.Errorf("%d %s allocate %d bytes: %v", maxItems+1, h.name, n, err)
		}
	}
	// The bound is of the whole message, not of each part.
	request := append(golden(t, "01 0000000000000009 01 00 0000000000000007 02 00000001"), many(maxItems, "00")...)
	request = append(append(request, golden(t, "00000002")...), many(1, "00")...)
	if _, err := DecodeRequest(request); !errors.Is(err, kv.ErrMalformed) {
		t.Errorf("%d keys in two parts: %v", maxItems+1, err)
	}
	if _, err := DecodeBatchRequest(append(golden(t, "01 01 0000000000000007"), many(maxItems, "00")...)); err != nil {
		t.Errorf("%d keys in a batch: %v", maxItems, err)
	}
}

func TestMessagesComeBack(t *testing.T) {
	text, small := rapid.String(), rapid.SliceOfN(rapid.Byte(), 0, 20)
	rapid.Check(t, func(t *rapid.T) {
		q := &Request{
			Epoch: rapid.Uint64().Draw(t, "epoch"), Op: Op(rapid.IntRange(1, 7).Draw(t, "op")),
			AnyReplica: rapid.Bool().Draw(t, "any replica"), Bucket: rapid.Uint64().Draw(t, "bucket"), Parts: []Part{},
		}
		for range rapid.IntRange(0, 3).Draw(t, "parts") {
			p := Part{Shard: sharding.Shard(rapid.Uint32().Draw(t, "shard"))}
			if q.Op == OpList {
				p.Cursor, p.Max = rapid.Uint64().Draw(t, "cursor"), rapid.IntRange(1, maxItems).Draw(t, "max")
			} else if q.Op.Reads() {
				p.Keys = rapid.SliceOfN(text, 1, 4).Draw(t, "keys")
			} else {
				p.Commands = rapid.SliceOfN(small, 0, 4).Draw(t, "commands")
			}
			q.Parts = append(q.Parts, p)
		}
		if got, err := DecodeRequest(q.Append(nil)); err != nil || !reflect.DeepEqual(got, q) {
			t.Fatalf("a request comes back as %+v, %v, want %+v", got, err, q)
		}
		b := BucketAnswer{
			Status: StatusServed, Leader: sharding.NodeID(text.Draw(t, "leader")), Code: kv.Code(rapid.Byte().Draw(t, "code")),
			Detail: text.Draw(t, "detail"), ID: rapid.Uint64().Draw(t, "id"), Names: rapid.SliceOfN(text, 1, 4).Draw(t, "names"),
		}
		if got, err := DecodeBucketAnswer(b.Append(nil)); err != nil || !reflect.DeepEqual(got, b) {
			t.Fatalf("a bucket answer comes back as %+v, %v, want %+v", got, err, b)
		}
	})
}

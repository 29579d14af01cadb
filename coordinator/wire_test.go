package coordinator

import (
	"bytes"
	"encoding/binary"
	"errors"
	"reflect"
	"runtime"
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

// goldenMap is a map of one node and one shard, in bytes (package sharding).
const goldenMap = `
	01 0000000000000001 0000000000000002
	01  02 6e31 0000000000000000 06 686f73743a31
	00000000 0000000000000001 0000 0000 01 00
	01
	00000001 0000000000000001 0000 3fff 01 00`

// messages are the golden bytes of the protocol. They must never change.
func messages(t testing.TB) []message {
	read := &Request{Epoch: 9, Op: OpGet, AnyReplica: true, Bucket: 7, Parts: []Part{
		{Shard: 1, Keys: []string{"a", ""}}, {Shard: 258, Keys: []string{"ä"}},
	}}
	write := &Request{Epoch: 9, Op: OpSet, Bucket: 7, Parts: []Part{{Shard: 3, Commands: [][]byte{{1, 2}, {}}}}}
	answer := &Answer{Map: foundMap(2, 1, 1, 1), Parts: []PartAnswer{
		{Shard: 1, Leader: "n1", Items: golden(t, "00 01 0000000000000005 02 7676")},
		{Shard: 2, Status: StatusNotLeader, Leader: "n2", Items: []byte{}},
		{Shard: 3, Status: StatusRefused, Code: kv.CodeBusy, Detail: "full", Items: []byte{}, Results: []Result{
			{Outcome: kv.OutcomeApplied}, {Outcome: kv.OutcomeNotApplied, Code: kv.CodeTooLarge, Detail: "no"}, {Code: kv.CodeUnknown},
		}},
	}}
	open := BucketRequest{Op: BucketOpen, Name: "files"}
	buckets := BucketAnswer{Status: StatusRefused, Leader: "n1", Code: kv.CodeExists, Detail: "it", ID: 258, Names: []string{"a", "bc"}}
	keys := &BatchRequest{Op: OpDelete, Bucket: 7, Keys: []string{"a", ""}}
	pairs := &BatchRequest{Op: OpSet, Bucket: 7, Pairs: []kv.Pair{{Key: "a", Value: []byte("vv")}, {Key: "", Value: []byte{}}}}
	return []message{
		{
			"request that reads",
			"01 0000000000000009 01 01 0000000000000007 02  00000001 02 01 61 00  00000102 01 02 c3a4",
			read, func() []byte { return read.Append(nil) }, decodeRequest,
		},
		{
			"request that writes", "01 0000000000000009 03 00 0000000000000007 01  00000003 02 02 0102 00",
			write, func() []byte { return write.Append(nil) }, decodeRequest,
		},
		{
			"answer", "01 49" + goldenMap + ` 03
				00000001 00 02 6e31 00 00 00 0000000d 00 01 0000000000000005 02 7676
				00000002 01 02 6e32 00 00 00 00000000
				00000003 03 00 06 04 66756c6c 03 02 00 00  01 05 02 6e6f  00 08 00  00000000`,
			answer, func() []byte { return writeAnswer(answer) }, decodeAnswer,
		},
		{
			"bucket request", "01 01 05 66696c6573",
			open, func() []byte { return open.Append(nil) }, decodeBucketRequest,
		},
		{
			"bucket answer", "01 03 02 6e31 02 02 6974 0000000000000102 02 01 61 02 6263",
			buckets, func() []byte { return buckets.Append(nil) }, decodeBucketAnswer,
		},
		{
			"batch of keys", "01 04 0000000000000007 02 01 61 00",
			keys, func() []byte { return keys.Append(nil) }, decodeBatchRequest,
		},
		{
			"batch of pairs", "01 03 0000000000000007 02 01 61 02 7676 00 00",
			pairs, func() []byte { return pairs.Append(nil) }, decodeBatchRequest,
		},
	}
}

// writeAnswer builds an answer as a node does.
func writeAnswer(a *Answer) []byte {
	w := NewAnswer(a.Map, len(a.Parts))
	for i := range a.Parts {
		p := &a.Parts[i]
		w.OpenPart(p)
		items := ReadItems(p)
		for n := len(p.Items); n > 0; n = items.d.Left() {
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
	must(t, c.SetMany(t.Context(), testBucket, pairsOf([]string{"a"}, "v")))
	must(t, c.DeleteMany(t.Context(), testBucket, []string{"a"}))
	for i, want := range []*Request{
		{Epoch: 1, Op: OpGet, AnyReplica: true, Bucket: testBucket, Parts: []Part{{Shard: 1, Keys: []string{"a", ""}}}},
		{Epoch: 1, Op: OpSet, Bucket: testBucket, Parts: []Part{{Shard: 1, Commands: [][]byte{golden(t, "01 01 0000000000000007 01 01 61 01 76")}}}},
		{Epoch: 1, Op: OpDelete, Bucket: testBucket, Parts: []Part{{Shard: 1, Commands: [][]byte{golden(t, "01 02 0000000000000007 01 01 61")}}}},
	} {
		if got := f.seenBy("n1")[i].q; !reflect.DeepEqual(got, want) {
			t.Errorf("sent %+v, want %+v", got, want)
		}
	}
}

// The answers to whole batches, in bytes.
func TestBatchAnswersHaveGoldenBytes(t *testing.T) {
	f := newFake(1, 1, 1)
	f.data["a"] = "vv"
	c := f.coordinator(kv.Limits{BatchKeys: 3})
	for _, b := range []struct{ name, request, answer string }{
		{"get-many", "01 01 0000000000000007 03 01 61 01 62 01 61", "01 00 00 00  01 02 7676  00  01 02 7676"},
		{"exists", "01 02 0000000000000007 02 01 61 01 62", "01 00 00 00  01 00"},
		{"set-many", "01 03 0000000000000007 01 01 61 00", "01 00 00 00"},
		{"delete-many", "01 04 0000000000000007 01 01 61", "01 00 00 00"},
		{
			"too many keys", "01 04 0000000000000007 04 00 00 00 00",
			// a batch of 4 keys, at most 3 are allowed
			"01 05 33 746f6f206c617267653a2061206261746368206f662034206b6579732c206174206d6f737420332061726520616c6c6f776564 00",
		},
	} {
		got, err := c.ServeBatch(t.Context(), golden(t, b.request))
		if err != nil || !bytes.Equal(got, golden(t, b.answer)) {
			t.Errorf("%s: answered %x, %v, want %x", b.name, got, err, golden(t, b.answer))
		}
	}
	failed := &kv.BatchError{Op: "set-many", Outcomes: []kv.Outcome{2, 1, 0}, Err: kv.ErrUnknown}
	want := golden(t, "01 08 0f 6f7574636f6d6520756e6b6e6f776e 03 02 01 00")
	if got := appendBatchAnswer(failed, nil); !bytes.Equal(got, want) {
		t.Errorf("a write that failed: %x, want %x", got, want)
	}
}

// What must not be guessed at is refused.
func TestStrangeMessagesAreMalformed(t *testing.T) {
	for _, c := range []struct {
		name, bytes string
		decode      func([]byte) (any, error)
	}{
		{"operation 0", "01 0000000000000009 00 00 0000000000000007 00", decodeRequest},
		{"operation 5", "01 0000000000000009 05 00 0000000000000007 00", decodeRequest},
		{"flag 2", "01 0000000000000009 01 02 0000000000000007 00", decodeRequest},
		{"status 4", "01 00 01 00000001 04 00 00 00 00 00000000", decodeAnswer},
		{"refused with no code", "01 00 01 00000001 03 00 00 00 00 00000000", decodeAnswer},
		{"outcome 3", "01 00 01 00000001 00 00 00 00 01 03 00 00 00000000", decodeAnswer},
		{"items cut off", "01 00 01 00000001 00 00 00 00 00 00000002 00", decodeAnswer},
		{"bucket operation 0", "01 00 00", decodeBucketRequest},
		{"bucket operation 4", "01 04 00", decodeBucketRequest},
		{"bucket status 2", "01 02 00 01 00 0000000000000000 00", decodeBucketAnswer},
		{"bucket status 4", "01 04 00 01 00 0000000000000000 00", decodeBucketAnswer},
		{"bucket refused with no code", "01 03 00 00 00 0000000000000000 00", decodeBucketAnswer},
		{"batch operation 0", "01 00 0000000000000007 00", decodeBatchRequest},
		{"batch operation 5", "01 05 0000000000000007 00", decodeBatchRequest},
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
	w := NewAnswer(nil, 3)
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
		{"results of a part", "01 00 01 00000001 00 00 00 00", "02 00 00", decodeAnswer},
		{"keys of a batch", "01 01 0000000000000007", "00", decodeBatchRequest},
		{"pairs of a batch", "01 03 0000000000000007", "00 00", decodeBatchRequest},
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
			Epoch: rapid.Uint64().Draw(t, "epoch"), Op: Op(rapid.IntRange(1, 4).Draw(t, "op")),
			AnyReplica: rapid.Bool().Draw(t, "any replica"), Bucket: rapid.Uint64().Draw(t, "bucket"), Parts: []Part{},
		}
		for range rapid.IntRange(0, 3).Draw(t, "parts") {
			p := Part{Shard: sharding.Shard(rapid.Uint32().Draw(t, "shard"))}
			if q.Op.reads() {
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

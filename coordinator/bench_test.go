package coordinator

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

// canned answers each node's first request as a node would, and later ones with the
// same bytes: what is measured is the coordinator alone.
type canned struct {
	mu      sync.Mutex
	answers map[sharding.NodeID][]byte
	value   []byte
}

func (c *canned) call(_ context.Context, node sharding.NodeID, method byte, request []byte) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if method != MethodParts { // a new session's id
		return BucketAnswer{ID: 1}.Append(nil), nil
	}
	if answer, ok := c.answers[node]; ok {
		return answer, nil
	}
	q, err := DecodeRequest(request)
	if err != nil {
		return nil, err
	}
	w := NewAnswer(nil, nil, len(q.Parts))
	for _, p := range q.Parts {
		a := PartAnswer{Shard: p.Shard, Leader: node}
		for range p.Commands {
			a.Results = append(a.Results, Result{Outcome: kv.OutcomeApplied})
		}
		w.OpenPart(&a)
		for range p.Keys {
			w.Found(1, c.value)
		}
		w.ClosePart()
	}
	c.answers[node] = w.Bytes()
	return c.answers[node], nil
}

// benchCalls are a get-many and a set-many of 100 × 256 B on 6 shards of 3 nodes.
func benchCalls(tb testing.TB) (get, set func() error) {
	const size, bytes = 100, 256
	value := make([]byte, bytes)
	reads, writes := &canned{answers: make(map[sharding.NodeID][]byte), value: value}, &canned{answers: make(map[sharding.NodeID][]byte)}
	m := newFake(3, 6, 3).m
	fetch := func(context.Context, uint64) (*sharding.Map, error) { return m, nil }
	reader, err := New(Config{Call: reads.call, FetchMap: fetch})
	if err != nil {
		tb.Fatal(err)
	}
	writer, err := New(Config{Call: writes.call, FetchMap: fetch})
	if err != nil {
		tb.Fatal(err)
	}
	session := writer.NewSession()
	keys, pairs := make([]string, size), make([]kv.Pair, size)
	for i := range keys {
		keys[i] = fmt.Sprintf("bench/%d", i)
		pairs[i] = kv.Pair{Key: keys[i], Value: value}
	}
	get = func() error {
		got, err := reader.GetMany(tb.Context(), testBucket, keys)
		if err == nil && (len(got) != size || got[size-1] == nil) {
			err = fmt.Errorf("got %d pairs, the last %v", len(got), got[size-1])
		}
		return err
	}
	set = func() error { return session.SetMany(tb.Context(), testBucket, pairs) }
	return get, set
}

// BenchmarkSplitAndMerge is what a call costs its caller besides the network: split,
// encode, decode, merge.
func BenchmarkSplitAndMerge(b *testing.B) {
	get, set := benchCalls(b)
	for _, op := range []struct {
		name string
		do   func() error
	}{{"get-many", get}, {"set-many", set}} {
		b.Run(op.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := op.do(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkDecodeRequest is what a node does first with a third of a get-many of 100.
func BenchmarkDecodeRequest(b *testing.B) {
	q := Request{Epoch: 1, Op: OpGet, Bucket: testBucket}
	for s := range sharding.Shard(2) {
		p := Part{Shard: s + 1}
		for i := range 17 {
			p.Keys = append(p.Keys, fmt.Sprintf("bench/%d", 1000*int(s)+i))
		}
		q.Parts = append(q.Parts, p)
	}
	request := q.Append(nil)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := DecodeRequest(request); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkAnswer is a third of the answer to a get-many of 100 × 256 B.
func BenchmarkAnswer(b *testing.B) {
	value := make([]byte, 256)
	encode := func(room []byte) []byte {
		w := NewAnswer(room, nil, 2)
		for s := range sharding.Shard(2) {
			w.OpenPart(&PartAnswer{Shard: s + 1, Leader: "n1"})
			for range 17 {
				w.Found(1, value)
			}
			w.ClosePart()
		}
		return w.Bytes()
	}
	answer := encode(nil)
	b.Run("encode", func(b *testing.B) {
		b.SetBytes(int64(len(answer)))
		b.ReportAllocs()
		room := make([]byte, 0, len(answer))
		for b.Loop() {
			encode(room)
		}
	})
	b.Run("decode", func(b *testing.B) {
		b.SetBytes(int64(len(answer)))
		b.ReportAllocs()
		for b.Loop() {
			a, err := DecodeAnswer(answer)
			if err != nil || len(a.Parts) != 2 {
				b.Fatal(a, err)
			}
		}
	})
}

package kv

import (
	"fmt"
	"testing"
)

// hundred are 100 pairs of 256 bytes.
func hundred() []Pair {
	pairs := make([]Pair, 100)
	for i := range pairs {
		pairs[i] = Pair{Key: fmt.Sprintf("user:%08d", i), Value: make([]byte, 256)}
	}
	return pairs
}

// walk reads a command as the state machine does, and returns its bytes.
func walk(command []byte) (n int, err error) {
	w, err := DecodeWrite(command)
	if err != nil {
		return 0, err
	}
	for {
		key, value, ok := w.Next()
		if !ok {
			return n, w.Err()
		}
		n += len(key) + len(value)
	}
}

func BenchmarkCommand(b *testing.B) {
	pairs, origin := hundred(), Origin{Client: 1, Seq: 1}
	command := AppendSet(nil, origin, 1, pairs)
	b.Run("encode", func(b *testing.B) {
		b.SetBytes(int64(len(command)))
		b.ReportAllocs()
		room := make([]byte, 0, len(command))
		for b.Loop() {
			AppendSet(room, origin, 1, pairs)
		}
	})
	b.Run("decode", func(b *testing.B) {
		b.SetBytes(int64(len(command)))
		b.ReportAllocs()
		for b.Loop() {
			if n, err := walk(command); err != nil || n != len(pairs)*(13+256) {
				b.Fatal(n, err)
			}
		}
	})
}

// TestCommandAllocations: a command is packed into the room there is, and read where
// it stands, with one allocation for where the reader is.
func TestCommandAllocations(t *testing.T) {
	pairs, origin := hundred(), Origin{Client: 1, Seq: 1}
	command := AppendSet(nil, origin, 1, pairs)
	room := make([]byte, 0, len(command))
	if n := testing.AllocsPerRun(100, func() { AppendSet(room, origin, 1, pairs) }); n != 0 {
		t.Errorf("packing a command of 100 pairs takes %v allocations, want none", n)
	}
	if n := testing.AllocsPerRun(100, func() {
		if _, err := walk(command); err != nil {
			t.Error(err)
		}
	}); n > 1 {
		t.Errorf("reading it takes %v allocations, want at most 1", n)
	}
}

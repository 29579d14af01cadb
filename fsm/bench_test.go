package fsm

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

const (
	benchKeys   = 100_000
	benchBatch  = 100
	benchValue  = 256
	benchRounds = 64 // distinct batches, so that nothing rests in a processor's cache
)

// benchCommands returns set commands of benchBatch keys each, together all
// benchKeys of them, and batches of random keys among those.
func benchCommands() (commands [][]byte, batches [][]string) {
	random := rand.New(rand.NewPCG(1, 2))
	for i := 0; i < benchKeys; i += benchBatch {
		pairs := make([]kv.Pair, benchBatch)
		for j := range pairs {
			value := make([]byte, benchValue) // that cannot be compressed
			for k := range value {
				value[k] = byte(random.Uint32())
			}
			pairs[j] = kv.Pair{Key: fmt.Sprintf("user:%08d", i+j), Value: value}
		}
		commands = append(commands, kv.AppendSet(nil, kv.Origin{}, 1, pairs))
	}
	for range benchRounds {
		keys := make([]string, benchBatch)
		for j := range keys {
			keys[j] = fmt.Sprintf("user:%08d", random.IntN(benchKeys))
		}
		batches = append(batches, keys)
	}
	return commands, batches
}

func benchStore(b *testing.B, cache int64) (*Store, *Data) {
	s, err := Open(Config{Dir: b.TempDir(), ValueCacheBytes: cache})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { closeStore(b, s) })
	d := dataOf(b, s, 1)
	apply(b, d, Entry{Index: 1, Term: 1, Command: kv.AppendLead(nil, 0, sharding.Slots-1)})
	return s, d
}

func BenchmarkApply(b *testing.B) {
	commands, _ := benchCommands()
	_, d := benchStore(b, 0)
	entries := make([]Entry, 1)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		entries[0] = Entry{Index: uint64(i + 2), Term: 1, Command: commands[i%len(commands)]}
		if err := d.Apply(entries)[0].Err; err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)*benchBatch/b.Elapsed().Seconds(), "keys/s")
}

func BenchmarkGet(b *testing.B) {
	commands, batches := benchCommands()
	for where, cache := range map[string]int64{"memory": 1, "tables": 1, "cached": 128 << 20} {
		b.Run(where, func(b *testing.B) {
			s, d := benchStore(b, cache)
			for i, command := range commands {
				apply(b, d, Entry{Index: uint64(i + 2), Term: 1, Command: command})
			}
			if where == "tables" {
				if err := s.Flush(); err != nil {
					b.Fatal(err)
				}
			}
			bytes := 0
			visit := func(_ int, value []byte, _ uint64, _ bool) error {
				bytes += len(value)
				return nil
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if err := d.Get(1, batches[i%benchRounds], visit); err != nil {
					b.Fatal(err)
				}
			}
			if bytes != b.N*benchBatch*benchValue {
				b.Fatalf("read %d bytes, want %d", bytes, b.N*benchBatch*benchValue)
			}
			b.ReportMetric(float64(b.N)*benchBatch/b.Elapsed().Seconds(), "keys/s")
		})
	}
}

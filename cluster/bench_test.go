package cluster

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/manykv/manykv/kv"
)

// BenchmarkBatch measures batches of 100 × 256 B on three nodes in this process,
// over loopback and real disks: the whole path, for profiles. `manykv bench`
// measures separate processes.
func BenchmarkBatch(b *testing.B) {
	c := startCluster(b, 3)
	bucket := bucket(b, c.client(c.clientConfig()), "bench")
	const keys, size, batch = 20_000, 256, 100
	batches := make([][]kv.Pair, keys/batch)
	for i := range batches {
		batches[i] = make([]kv.Pair, batch)
		for j := range batches[i] {
			batches[i][j] = kv.Pair{Key: fmt.Sprintf("key-%d", (i*batch+j)*7919%keys), Value: make([]byte, size)}
		}
		must(b, bucket.SetMany(b.Context(), batches[i]))
	}
	for _, op := range []struct {
		name string
		do   func(pairs []kv.Pair) error
	}{
		{"set", func(pairs []kv.Pair) error { return bucket.SetMany(b.Context(), pairs) }},
		{"get", func(pairs []kv.Pair) error { return second(bucket.GetMany(b.Context(), keysOf(pairs))) }},
	} {
		for _, callers := range []int{1, 16, 64} {
			b.Run(fmt.Sprintf("%s/callers=%d", op.name, callers), func(b *testing.B) {
				var next atomic.Int64
				b.SetParallelism(callers) // × GOMAXPROCS
				b.ReportAllocs()
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						if err := op.do(batches[int(next.Add(1))%len(batches)]); err != nil {
							b.Error(err)
						}
					}
				})
				b.ReportMetric(float64(b.N)*batch/b.Elapsed().Seconds(), "keys/s")
			})
		}
	}
}

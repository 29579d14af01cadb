package raftlog

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// BenchmarkAppend appends one entry per call, one caller per shard.
func BenchmarkAppend(b *testing.B) {
	for _, store := range []string{StoreWAL, StoreBolt} {
		for _, shards := range []int{1, 6, 16} {
			for _, size := range []int{256, 25 << 10} {
				b.Run(fmt.Sprintf("%s/shards=%d/bytes=%d", store, shards, size), func(b *testing.B) {
					benchmarkAppend(b, Config{Store: store}, shards, size)
				})
			}
		}
	}
}

// BenchmarkGather compares waiting for company with hardly waiting.
func BenchmarkGather(b *testing.B) {
	for _, gather := range []time.Duration{1, defaultGather} {
		for _, shards := range []int{1, 6, 16} {
			b.Run(fmt.Sprintf("gather=%v/shards=%d", gather, shards), func(b *testing.B) {
				benchmarkAppend(b, Config{Gather: gather}, shards, 4<<10)
			})
		}
	}
}

func benchmarkAppend(b *testing.B, cfg Config, shards, size int) {
	cfg.Dir, cfg.Fatal = b.TempDir(), noFatal(b)
	l, err := Open(cfg)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(size))
	b.ReportAllocs()
	b.ResetTimer()
	var wg sync.WaitGroup
	for shard := range shards {
		s := l.Shard(uint32(shard))
		calls := (b.N + shard) / shards
		wg.Go(func() {
			data := make([]byte, size)
			for i := range calls {
				if err := s.StoreLog(&raft.Log{Index: uint64(i + 1), Term: 1, Data: data}); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	stats := l.Stats()
	if stats.Commits > 0 {
		b.ReportMetric(float64(stats.Entries)/float64(stats.Commits), "entries/commit")
		b.ReportMetric(float64(stats.SyncTime.Microseconds())/float64(stats.Commits), "sync-µs")
	}
	mustClose(b, l)
}

package transport

import (
	"context"
	"fmt"
	"sync"
	"testing"
)

// BenchmarkCall measures calls with small requests, client and node in one process.
func BenchmarkCall(b *testing.B) {
	for _, size := range []int{256, 25 << 10} {
		for _, callers := range []int{1, 16, 64} {
			b.Run(fmt.Sprintf("answer=%d/callers=%d", size, callers), func(b *testing.B) {
				answer := fill(size)
				w := newTown(b, "a")
				w.node("n1", func(c *Config) {
					c.Handle = func(context.Context, Identity, byte, []byte) ([]byte, error) { return answer, nil }
				})
				client := w.client("c1")
				callMany(b, client, callers, b.N)
				b.SetBytes(int64(size))
			})
		}
	}
}

func callMany(b *testing.B, client *Transport, callers, total int) {
	b.ReportAllocs()
	req := fill(100)
	if _, err := client.Call(context.Background(), "n1", 1, req); err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	var group sync.WaitGroup
	for i := range callers {
		share := total / callers
		if i < total%callers {
			share++
		}
		group.Go(func() {
			for range share {
				if _, err := client.Call(context.Background(), "n1", 1, req); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	b.StopTimer()
}

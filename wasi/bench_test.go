package wasi

import (
	"fmt"
	"testing"

	"github.com/manykv/manykv/kv"
)

// What a call costs a guest, on the store in memory; `make bench-wasm` runs these. A
// loop in the guest makes b.N calls: what is measured is the way there and back.

// instance makes an instance whose bucket holds 100 pairs with values of 100 bytes.
func benchInstance(b *testing.B, bucket Bucket) *Instance {
	b.Helper()
	g := compile(b, openHost(b, Config{}), readConformance(b, "draft2.wasm"))
	in, err := g.Instantiate(b.Context(), Process{Open: granted(bucket)})
	must(b, err)
	b.Cleanup(func() { must(b, in.Close(b.Context())) })
	_, err = in.run(b.Context(), in.module.ExportedFunction("fill"), 100, 100)
	must(b, err)
	return in
}

// loop has the guest make b.N calls.
func loop(b *testing.B, in *Instance, name string, args ...uint64) {
	b.Helper()
	f := in.module.ExportedFunction(name)
	_, err := in.run(b.Context(), f, append([]uint64{1}, args...)...) // warm
	must(b, err)
	b.ReportAllocs()
	b.ResetTimer()
	_, err = in.run(b.Context(), f, append([]uint64{uint64(b.N)}, args...)...)
	must(b, err)
}

func BenchmarkGuest(b *testing.B) {
	for _, c := range []struct {
		name, loop string
		args       []uint64
	}{
		{"get-many 100", "get-many-loop", []uint64{100}},
		{"set-many 100", "set-many-loop", []uint64{100, 100}},
		{"get", "get-loop", nil},
		{"set", "set-loop", nil},
		{"exists", "exists-loop", nil},
	} {
		b.Run(c.name, func(b *testing.B) {
			loop(b, benchInstance(b, NewMemory(kv.Limits{}).Bucket("")), c.loop, c.args...)
		})
	}
}

func BenchmarkInstantiate(b *testing.B) {
	g := compile(b, openHost(b, Config{}), readConformance(b, "draft2.wasm"))
	p := Process{Open: granted(NewMemory(kv.Limits{}).Bucket(""))}
	b.ReportAllocs()
	for b.Loop() {
		in, err := g.Instantiate(b.Context(), p)
		must(b, err)
		must(b, in.Close(b.Context()))
	}
}

// BenchmarkCluster compares a get-many of a guest's with one of the Go client, for
// the same keys of a cluster of three nodes in this process.
func BenchmarkCluster(b *testing.B) {
	bucket := clusterBucket(b, startCluster(b), "bench")
	in := benchInstance(b, bucket)
	keys, _, err := bucket.ListKeys(b.Context(), 0)
	must(b, err)
	if len(keys) != 100 {
		b.Fatalf("%d keys, want 100", len(keys))
	}
	for round := range 3 {
		b.Run(fmt.Sprintf("client get-many 100 #%d", round), func(b *testing.B) {
			for b.Loop() {
				_, err := bucket.GetMany(b.Context(), keys)
				must(b, err)
			}
		})
		b.Run(fmt.Sprintf("guest get-many 100 #%d", round), func(b *testing.B) {
			loop(b, in, "get-many-loop", 100)
		})
	}
}

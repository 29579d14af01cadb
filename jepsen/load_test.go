//go:build linux

package jepsen

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/manykv/manykv/kv"
)

const (
	loadCallers = 16
	loadBatch   = 64
	loadValue   = 16 << 10
	// loadMemory is the most memory that a node may ever have resident.
	loadMemory = 512 << 20
	loadReport = 5 * time.Second
)

// TestLoad writes -load bytes of values and wants each node to stay within its
// memory, then reads a sample back.
func TestLoad(t *testing.T) {
	if *loadBytes == 0 {
		t.Skip("takes long: make load, or -args -load 2147483648")
	}
	h := startNodes(t)
	batches := *loadBytes / (loadBatch * loadValue)
	began := time.Now()
	must(t, h.load(t, batches))
	took := time.Since(began)
	for _, p := range h.nodes {
		peak := peakMemory(t, p)
		t.Logf("node %s: %d MiB resident at most", p.Name, peak>>20)
		if peak > loadMemory {
			t.Errorf("node %s had %d MiB resident, want at most %d", p.Name, peak>>20, loadMemory>>20)
		}
	}
	t.Logf("%d MiB of values in %v: %.0f MiB/s", *loadBytes>>20, took.Round(time.Second), float64(*loadBytes>>20)/took.Seconds())
	h.readSample(t, batches)
}

// loadPairs returns the pairs of one batch, the same each time.
func loadPairs(batch int64) []kv.Pair {
	random := rand.NewChaCha8([32]byte{byte(batch), byte(batch >> 8), byte(batch >> 16)})
	pairs := make([]kv.Pair, loadBatch)
	for i := range pairs {
		value := make([]byte, loadValue)
		_, _ = random.Read(value) // never fails
		pairs[i] = kv.Pair{Key: fmt.Sprintf("load-%d-%d", batch, i), Value: value}
	}
	return pairs
}

// load writes batches. A busy cluster is asked again: that is what busy is for.
func (h *harness) load(t *testing.T, batches int64) error {
	var next, done atomic.Int64
	all, ctx := errgroup.WithContext(t.Context())
	for range loadCallers {
		b := h.routed().Bucket
		all.Go(func() error {
			for n := next.Add(1) - 1; n < batches; n = next.Add(1) - 1 {
				err := b.SetMany(ctx, loadPairs(n))
				for err != nil && explained(err) && ctx.Err() == nil {
					err = b.SetMany(ctx, loadPairs(n)) // sets may be repeated: nobody else writes these keys
				}
				if err != nil {
					return err
				}
				done.Add(1)
			}
			return nil
		})
	}
	reporting, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		tick := time.NewTicker(loadReport)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				t.Logf("%d of %d MiB", done.Load()*loadBatch*loadValue>>20, batches*loadBatch*loadValue>>20)
			case <-reporting.Done():
				return
			}
		}
	}()
	return all.Wait()
}

// readSample reads every 50th batch back.
func (h *harness) readSample(t *testing.T, batches int64) {
	t.Helper()
	const every = 50
	b := h.through(1).Bucket
	for n := int64(0); n < batches; n += every {
		pairs := loadPairs(n)
		keys := make([]string, len(pairs))
		for i := range pairs {
			keys[i] = pairs[i].Key
		}
		got, err := b.GetMany(t.Context(), keys)
		must(t, err)
		for i, p := range got {
			if p == nil || string(p.Value) != string(pairs[i].Value) {
				t.Fatalf("key %s is not what was written", keys[i])
			}
		}
	}
}

// peakMemory returns the most bytes a node has ever had resident.
func peakMemory(t *testing.T, p *Node) int64 {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", p.child.cmd.Process.Pid))
	must(t, err)
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if rest, found := strings.CutPrefix(lines.Text(), "VmHWM:"); found {
			var kib int64
			_, err := fmt.Sscanf(rest, "%d kB", &kib)
			must(t, err)
			return kib << 10
		}
	}
	t.Fatalf("no VmHWM in the status of node %s", p.Name)
	return 0
}

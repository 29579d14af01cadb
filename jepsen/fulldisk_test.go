//go:build linux

package jepsen

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/manykv/manykv/cluster"
	"github.com/manykv/manykv/kv"
)

const (
	smallDisk = 80 << 20 // holds a node's files and some data
	roomyDisk = 1 << 30
	// diskFull bounds how long it takes to fill the small disk.
	diskFull = 90 * time.Second
)

// TestFullDisk gives one node a small disk and writes until it is full: the node
// stops and says why, the others go on, and with room again it comes back with
// nothing lost.
func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount a small file system")
	}
	var dir string
	h := startNodesWith(t, func(cfg *cluster.Config) {
		cfg.JournalBytes = soakJournal
		if cfg.Name == "n3" {
			dir = cfg.DataDir
			mountSmall(t, dir)
		}
	})
	node := h.nodes[2]
	b := h.routed().Bucket
	ctx, done := context.WithTimeout(t.Context(), diskFull)
	defer done()
	node.expectEnd()
	batches := int64(0)
	for running := true; running; batches++ {
		must(t, setUntilTaken(ctx, b.SetMany, loadPairs(batches)))
		select {
		case <-node.child.exited:
			running = false
		case <-ctx.Done():
			t.Fatalf("the node goes on after %d MiB", batches*loadBatch*loadValue>>20)
		default:
		}
	}
	said, err := os.ReadFile(h.files[2])
	must(t, err)
	if text := string(said); !strings.Contains(text, "no space left on device") || !strings.Contains(text, "the node stops") {
		t.Errorf("the node's log does not say that its disk is full; it ends with %q", text[max(0, len(text)-500):])
	}
	t.Logf("n3 stopped after %d MiB", batches*loadBatch*loadValue>>20)

	// The others go on.
	for range 10 {
		must(t, setUntilTaken(ctx, b.SetMany, loadPairs(batches)))
		batches++
	}
	must(t, syscall.Mount("manykv-test", dir, "tmpfs", syscall.MS_REMOUNT, fmt.Sprintf("size=%d", roomyDisk)))
	must(t, node.Start())
	asking := h.client(false)
	h.awaitWholeFor(asking, catchUpTime)
	through := h.through(2).Bucket
	for n := range batches {
		pairs := loadPairs(n)
		got, err := through.GetMany(t.Context(), keysOf(pairs))
		must(t, err)
		for i, p := range got {
			if p == nil || string(p.Value) != string(pairs[i].Value) {
				t.Fatalf("key %s is not what was written", pairs[i].Key)
			}
		}
	}
	h.sameHashes(asking)
}

func mountSmall(t *testing.T, dir string) {
	t.Helper()
	must(t, os.MkdirAll(dir, 0o700))
	must(t, syscall.Mount("manykv-test", dir, "tmpfs", 0, fmt.Sprintf("size=%d", smallDisk)))
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

func keysOf(pairs []kv.Pair) []string {
	keys := make([]string, len(pairs))
	for i := range pairs {
		keys[i] = pairs[i].Key
	}
	return keys
}

// setUntilTaken repeats a write while the cluster elects.
func setUntilTaken(ctx context.Context, set func(context.Context, []kv.Pair) error, pairs []kv.Pair) error {
	err := set(ctx, pairs)
	for err != nil && explained(err) && ctx.Err() == nil {
		err = set(ctx, pairs)
	}
	return err
}

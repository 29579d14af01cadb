package fsm

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

// TestCrashWhileApplying crashes a store again and again while its shards apply
// and somebody flushes. Every second entry of a shard sets the same keys to its
// index, and the next, of the same batch, adds 1 to a number, so a batch that
// reached the disk in part shows; and what was counted is not counted again.
func TestCrashWhileApplying(t *testing.T) { crashWhileApplying(t, Config{}, true) }

// TestCrashWhileMoving does that with another key in the place of the number, so that all
// entries wait in a write buffer, which some fifty of them fill.
func TestCrashWhileMoving(t *testing.T) {
	crashWhileApplying(t, Config{WriteBufferBytes: 3 * 50 * 100}, false)
}

func crashWhileApplying(t *testing.T, sizes Config, counts bool) {
	const shards, crashes = 3, 10
	fs := vfs.NewCrashableMem()
	s := openWith(t, fs, sizes)
	keys := strings.Split("a b c d e", " ")
	var work sync.WaitGroup
	var stop atomic.Bool
	var flushed [shards + 1]atomic.Uint64 // positions that were durable at some time
	for shard := sharding.Shard(1); shard <= shards; shard++ {
		d := leading(t, s, shard)
		work.Go(func() {
			for index := uint64(2); !stop.Load(); index += 2 {
				var kvs []string
				for _, k := range keys {
					kvs = append(kvs, k, fmt.Sprint(index))
				}
				next := set(index+1, 1, fmt.Sprint("row ", index), "")
				if counts {
					next.Command = add(kv.Origin{Client: 1, Seq: index, Acked: index - 2}, 1)
				}
				for _, r := range d.Apply([]Entry{set(index, 1, kvs...), next}) {
					if r.Err != nil {
						t.Errorf("shard %d, entries %d and %d: %v", shard, index, index+1, r.Err)
						return
					}
				}
			}
		})
	}
	work.Go(func() {
		for !stop.Load() {
			var at [shards + 1]uint64
			for shard := sharding.Shard(1); shard <= shards; shard++ {
				at[shard] = dataOf(t, s, shard).Position().Index
			}
			if err := s.Flush(); err != nil {
				t.Errorf("flush: %v", err)
				return
			}
			for shard := 1; shard <= shards; shard++ {
				flushed[shard].Store(at[shard])
			}
		}
	})
	for range crashes {
		var floor [shards + 1]uint64
		for shard := 1; shard <= shards; shard++ {
			before := flushed[shard].Load()
			for flushed[shard].Load() == before && !t.Failed() { // so that no two crashes are alike
				if err := s.Flush(); err != nil {
					t.Fatalf("flush: %v", err)
				}
			}
			floor[shard] = flushed[shard].Load()
		}
		crashed := openOn(t, fs.CrashClone(vfs.CrashCloneCfg{}))
		for shard := sharding.Shard(1); shard <= shards; shard++ {
			d := dataOf(t, crashed, shard)
			at := d.Position().Index
			if at < floor[shard] {
				t.Errorf("shard %d is back at %d, %d was flushed", shard, at, floor[shard])
			}
			if at <= 1 {
				if got, want := look(t, d, 1, keys...), slices.Repeat([]string{"-"}, len(keys)); !slices.Equal(got, want) {
					t.Errorf("shard %d at %d holds %q", shard, at, got)
				}
				continue
			}
			want := slices.Repeat([]string{fmt.Sprintf("%d@%d", at-1, at-1)}, len(keys))
			if got := look(t, d, 1, keys...); !slices.Equal(got, want) {
				t.Errorf("shard %d at %d holds %q", shard, at, got)
			}
			if !counts {
				if got, want := look(t, d, 1, fmt.Sprint("row ", at-1), fmt.Sprint("row ", at+1)), []string{fmt.Sprint("@", at), "-"}; !slices.Equal(got, want) {
					t.Errorf("shard %d at %d holds %q, want %q", shard, at, got, want)
				}
				continue
			}
			again := add(kv.Origin{Client: 1, Seq: at - 1, Acked: at - 3}, 1)
			wantResult(t, "the newest sent again", run1(t, d, again), (at-1)/2, nil)
			if got, want := look(t, d, 1, "n")[0], fmt.Sprintf("%d@%d", (at-1)/2, at); got != want {
				t.Errorf("shard %d at %d has counted to %s, want %s", shard, at, got, want)
			}
		}
		closeStore(t, crashed)
	}
	stop.Store(true)
	work.Wait()
	closeStore(t, s)
}

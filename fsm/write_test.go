package fsm

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/manykv/manykv/kv"
)

func TestIncrement(t *testing.T) {
	for _, c := range []struct {
		value string // "-": there is none
		delta int64
		want  string // "": refused
	}{
		{"-", 5, "5"},
		{"-", -5, "-5"},
		{"-", 0, "0"},
		{"0", 1, "1"},
		{"-1", 1, "0"},
		{"41", 1, "42"},
		{"10", -20, "-10"},
		{"9223372036854775806", 1, "9223372036854775807"},
		{"9223372036854775807", 0, "9223372036854775807"},
		{"9223372036854775807", 1, ""},
		{"-9223372036854775807", -1, "-9223372036854775808"},
		{"-9223372036854775808", -1, ""},
		{"9223372036854775807", math.MinInt64, "-1"},
		{"-1", math.MinInt64, ""},
		{"1", math.MaxInt64, ""},
		{"9223372036854775808", -1, ""},
		{"", 1, ""},
		{"-0", 1, ""},
		{"007", 1, ""},
		{"+7", 1, ""},
		{" 7", 1, ""},
		{"7 ", 1, ""},
		{"7.0", 1, ""},
		{"1_000", 1, ""},
		{"0x10", 1, ""},
		{"--1", 1, ""},
		{"seven", 1, ""},
		{"٧", 1, ""},
		{strings.Repeat("1", 1<<20), 1, ""},
	} {
		t.Run(fmt.Sprintf("%.20s%+d", c.value, c.delta), func(t *testing.T) {
			d := leading(t, openMem(t), 1)
			before := "-"
			if c.value != "-" {
				apply(t, d, set(2, 1, "n", c.value))
				before = c.value + "@2"
			}
			r := run1(t, d, add(kv.Origin{}, c.delta))
			if c.want == "" {
				wantResult(t, "the increment", r, 0, kv.ErrInvalid)
				if got := look(t, d, 1, "n")[0]; got != before {
					t.Errorf("it left %.30s, want %.30s", got, before)
				}
				return
			}
			if r.Err != nil || fmt.Sprint(int64(r.Value)) != c.want {
				t.Errorf("it gave %d (%v), want %s", int64(r.Value), r.Err, c.want)
			}
			if got, want := look(t, d, 1, "n")[0], fmt.Sprintf("%s@%d", c.want, d.Position().Index); got != want {
				t.Errorf("it left %s, want %s", got, want)
			}
		})
	}
}

// TestMinusIsNotANumber: the lone minus is what TestIncrement calls no value at all.
func TestMinusIsNotANumber(t *testing.T) {
	d := leading(t, openMem(t), 1)
	apply(t, d, set(2, 1, "n", "-"))
	wantResult(t, "an increment", run1(t, d, add(kv.Origin{}, 1)), 0, kv.ErrInvalid)
}

func TestSwap(t *testing.T) {
	d := leading(t, openMem(t), 1)
	swap := func(version uint64, value string) []byte {
		return kv.AppendSwap(nil, kv.Origin{}, 1, version, kv.Pair{Key: "k", Value: []byte(value)})
	}
	for _, c := range []struct {
		name    string
		command []byte
		value   uint64
		err     error
		left    string
	}{
		{"expects a key that is missing", swap(7, "a"), 0, kv.ErrConflict, "-"},
		{"expects none", swap(0, "b"), 3, nil, "b@3"},
		{"expects none again", swap(0, "c"), 3, kv.ErrConflict, "b@3"},
		{"expects the version", swap(3, "d"), 5, nil, "d@5"},
		{"expects the one before", swap(3, "e"), 5, kv.ErrConflict, "d@5"},
		{"to nothing", swap(5, ""), 7, nil, "@7"},
		{"delete", kv.AppendDelete(nil, kv.Origin{}, 1, []string{"k"}), 0, nil, "-"},
		{"expects the deleted", swap(7, "f"), 0, kv.ErrConflict, "-"},
		{"expects none after all", swap(0, "g"), 10, nil, "g@10"},
	} {
		wantResult(t, c.name, run1(t, d, c.command), c.value, c.err)
		if got := look(t, d, 1, "k")[0]; got != c.left {
			t.Errorf("%s: it left %s, want %s", c.name, got, c.left)
		}
	}
}

// TestEntriesOfOneBatchSeeEachOther: what an entry reads another of the same
// call of Apply may have written, deleted or dropped.
func TestEntriesOfOneBatchSeeEachOther(t *testing.T) {
	d := leading(t, openMem(t), 1)
	commands := [][]byte{
		add(kv.Origin{}, 1),
		add(kv.Origin{}, 1),
		kv.AppendSet(nil, kv.Origin{}, 1, []kv.Pair{{Key: "n", Value: []byte("40")}}),
		add(kv.Origin{}, 2),
		kv.AppendSwap(nil, kv.Origin{}, 1, 5, kv.Pair{Key: "n", Value: []byte("x")}),
		add(kv.Origin{}, 1),
		kv.AppendDelete(nil, kv.Origin{}, 1, []string{"n"}),
		kv.AppendSwap(nil, kv.Origin{}, 1, 6, kv.Pair{Key: "n"}),
		add(by(1, 1, 0), 9),
		add(by(1, 1, 0), 9),
		kv.AppendDrop(nil, 1),
		add(kv.Origin{}, 1),
	}
	want := []Result{
		{Value: 1}, {Value: 2}, {}, {Value: 42}, {Value: 6}, {Err: kv.ErrInvalid}, {}, {Err: kv.ErrConflict},
		{Value: 9}, {Value: 9}, {}, {Err: kv.ErrNoSuchStore},
	}
	entries := make([]Entry, len(commands))
	for i, command := range commands {
		entries[i] = Entry{Index: uint64(i + 2), Term: 1, Command: command}
	}
	for i, r := range d.Apply(entries) {
		wantResult(t, fmt.Sprintf("entry %d", i+2), r, want[i].Value, want[i].Err)
	}
}

func TestDropBucket(t *testing.T) {
	fs := vfs.NewMem()
	s := openOn(t, fs)
	d := leading(t, s, 1)
	apply(t, d, set(2, 7, "a", "1", "b", "2"), set(3, 6, "a", "3"), set(4, 8, "a", "4"), set(5, math.MaxUint64, "a", "5"))
	other := leading(t, s, 2)
	apply(t, other, set(2, 7, "a", "other"))
	for _, bucket := range []uint64{7, math.MaxUint64, 7} {
		wantResult(t, "a drop", run1(t, d, kv.AppendDrop(nil, bucket)), 0, nil)
	}
	wantResult(t, "bucket 0", run1(t, d, kv.AppendDrop(nil, 0)), 0, kv.ErrInvalid)
	wantResult(t, "a malformed drop", run1(t, d, kv.AppendDrop(nil, 6)[:5]), 0, kv.ErrInvalid)
	for range 2 {
		pair := kv.Pair{Key: "a", Value: []byte("1")}
		for name, command := range map[string][]byte{
			"set":       kv.AppendSet(nil, kv.Origin{}, 7, []kv.Pair{pair}),
			"delete":    kv.AppendDelete(nil, kv.Origin{}, 7, []string{"a"}),
			"increment": kv.AppendIncrement(nil, kv.Origin{}, 7, "a", 1),
			"swap":      kv.AppendSwap(nil, kv.Origin{}, 7, 0, pair),
		} {
			wantResult(t, name, run1(t, d, command), 0, kv.ErrNoSuchStore)
		}
		at := d.Position().Index
		wantResult(t, "a piece", run1(t, d, kv.AppendPiece(nil, by(1, at, 0), 7, 0, pair)), 0, kv.ErrNoSuchStore)
		wantResult(t, "a last", run1(t, d, kv.AppendLast(nil, by(1, at, 1), 7, 0, false, 0, pair)), 0, kv.ErrNoSuchStore)
		for _, bucket := range []uint64{7, math.MaxUint64, 0} {
			err := d.Get(bucket, []string{"a"}, func(int, []byte, uint64, bool) error {
				t.Errorf("a key of bucket %d was visited", bucket)
				return nil
			})
			wantResult(t, "get", Result{Err: err}, 0, kv.ErrNoSuchStore)
			keys, next, err := d.List(bucket, 0, 10, 1<<10)
			wantResult(t, "list", Result{Value: next, Err: err}, 0, kv.ErrNoSuchStore)
			if keys != nil {
				t.Errorf("bucket %d lists %q", bucket, keys)
			}
		}
		for bucket, want := range map[uint64]string{6: "3@3", 8: "4@4"} {
			if got := look(t, d, bucket, "a")[0]; got != want {
				t.Errorf("bucket %d: %s, want %s", bucket, got, want)
			}
		}
		if got := look(t, dataOf(t, s, 2), 7, "a")[0]; got != "other@2" {
			t.Errorf("the other shard: %s, want other@2", got)
		}
		if got := len(rowsOf(t, s, 1, tagDropped)); got != 2 {
			t.Errorf("%d dropped buckets on disk, want 2", got)
		}
		closeStore(t, s)
		s = openOn(t, fs)
		d = dataOf(t, s, 1)
	}
	closeStore(t, s)
}

// TestADropIsSeenAsAWhole reads a bucket while it is dropped: its keys are there
// until there is no such store.
func TestADropIsSeenAsAWhole(t *testing.T) {
	const buckets = 100
	d := leading(t, openMem(t), 1)
	for bucket := uint64(1); bucket <= buckets; bucket++ {
		apply(t, d, set(d.Position().Index+1, bucket, "a", "1"))
		var readers sync.WaitGroup
		begun := make(chan struct{})
		readers.Go(func() {
			var once sync.Once
			for {
				var seen, listed []string
				err := d.Get(bucket, []string{"a"}, func(_ int, value []byte, _ uint64, _ bool) error {
					seen = append(seen, string(value))
					return nil
				})
				if err == nil && !slices.Equal(seen, []string{"1"}) {
					t.Errorf("bucket %d holds %q", bucket, seen)
				}
				if err == nil {
					listed, _, err = d.List(bucket, 0, 10, 10)
				}
				if err == nil && !slices.Equal(listed, []string{"a"}) {
					t.Errorf("bucket %d lists %q", bucket, listed)
				}
				once.Do(func() { close(begun) })
				if err != nil {
					wantResult(t, "the end", Result{Err: err}, 0, kv.ErrNoSuchStore)
					return
				}
			}
		})
		<-begun
		wantResult(t, "a drop", run1(t, d, kv.AppendDrop(nil, bucket)), 0, nil)
		readers.Wait()
	}
}

package fsm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

func TestSetGetDelete(t *testing.T) {
	d := leading(t, openMem(t), 1)
	apply(t, d,
		set(2, 7, "a", "1", "b", "2", "", "empty key", "none", ""),
		set(3, 7, "b", "first", "b", "last"),
		set(4, 8, "a", "another bucket"),
		del(5, 7, "a", "was never there"),
	)
	if got, want := look(t, d, 7, "b", "a", "b", "", "none", "zzz"), []string{"last@3", "-", "last@3", "empty key@2", "@2", "-"}; !slices.Equal(got, want) {
		t.Errorf("bucket 7 holds %q, want %q", got, want)
	}
	if got, want := look(t, d, 8, "a"), []string{"another bucket@4"}; !slices.Equal(got, want) {
		t.Errorf("bucket 8 holds %q, want %q", got, want)
	}
	if got := look(t, d, 7); len(got) != 0 {
		t.Errorf("no keys gave %q", got)
	}
	if got, want := d.Position(), (Position{Index: 5, Term: 1, LeadTerm: 1}); got != want {
		t.Errorf("position %+v, want %+v", got, want)
	}
}

func TestVisitErrorEndsGet(t *testing.T) {
	d := leading(t, openMem(t), 1)
	stop, visits := errors.New("enough"), 0
	err := d.Get(1, []string{"a", "b", "c"}, func(int, []byte, uint64, bool) error {
		visits++
		if visits == 2 {
			return stop
		}
		return nil
	})
	if err != stop || visits != 2 {
		t.Errorf("%d visits ended with %v, want 2 and the visit's own error", visits, err)
	}
}

func TestReplayIsSkipped(t *testing.T) {
	d := leading(t, openMem(t), 1)
	log := []Entry{set(2, 1, "a", "old"), set(5, 1, "a", "new"), {Index: 6, Term: 3}, del(8, 1, "b")}
	apply(t, d, log...)
	apply(t, d, log...)
	apply(t, d, set(4, 1, "a", "late"), set(9, 1, "c", "next"), set(9, 1, "c", "again"))
	if got, want := look(t, d, 1, "a", "c"), []string{"new@5", "next@9"}; !slices.Equal(got, want) {
		t.Errorf("after a replay %q, want %q", got, want)
	}
	if got, want := d.Position(), (Position{Index: 9, Term: 1, LeadTerm: 1}); got != want {
		t.Errorf("position %+v, want %+v", got, want)
	}
}

func TestConfigurationEntryMovesThePosition(t *testing.T) {
	fs := vfs.NewMem()
	s := openOn(t, fs)
	apply(t, dataOf(t, s, 1), Entry{Index: 3, Term: 2}, Entry{Index: 4, Term: 2, Command: []byte{}})
	closeStore(t, s)
	s = openOn(t, fs)
	defer closeStore(t, s)
	if got, want := dataOf(t, s, 1).Position(), (Position{Index: 4, Term: 2}); got != want {
		t.Errorf("position %+v, want %+v", got, want)
	}
}

func TestLeadFixesTheRangeOnce(t *testing.T) {
	fs := vfs.NewMem()
	s := openOn(t, fs)
	d := dataOf(t, s, 3)
	if r, ok := d.Range(); ok {
		t.Errorf("owns %v before its first lead entry", r)
	}
	if err := d.Apply([]Entry{set(1, 1, "a", "1")})[0].Err; !errors.Is(err, ErrNotOwner) {
		t.Errorf("a write before the first lead entry: %v, want %v", err, ErrNotOwner)
	}
	apply(t, d,
		Entry{Index: 2, Term: 4, Command: kv.AppendLead(nil, 10, 20)},
		Entry{Index: 3, Term: 6, Command: kv.AppendLead(nil, 0, 16383)})
	closeStore(t, s)

	s = openOn(t, fs)
	defer closeStore(t, s)
	d = dataOf(t, s, 3)
	if r, ok := d.Range(); !ok || r != (sharding.Range{First: 10, Last: 20}) {
		t.Errorf("owns %v (%v), want 10 to 20", r, ok)
	}
	if got, want := d.Position(), (Position{Index: 3, Term: 6, LeadTerm: 6}); got != want {
		t.Errorf("position %+v, want %+v", got, want)
	}
}

// TestNotOwnerIsIsolated puts commands with foreign keys among good ones: they
// leave nothing behind, the others of the same Apply everything.
func TestNotOwnerIsIsolated(t *testing.T) {
	d := dataOf(t, openMem(t), 1)
	apply(t, d, Entry{Index: 1, Term: 1, Command: kv.AppendLead(nil, 0, sharding.Slots/2-1)})
	var own, foreign []string
	for i := 0; len(own) < 3 || len(foreign) < 2; i++ {
		key := fmt.Sprintf("key-%d", i)
		if sharding.SlotOf(sharding.HashString(1, key)) < sharding.Slots/2 {
			own = append(own, key)
		} else {
			foreign = append(foreign, key)
		}
	}
	results := d.Apply([]Entry{
		set(2, 1, own[0], "good"),
		set(3, 1, own[1], "bad", foreign[0], "bad", own[0], "bad"),
		del(4, 1, own[0], foreign[1]),
		set(5, 1, own[2], "good"),
	})
	for i, want := range []error{nil, ErrNotOwner, ErrNotOwner, nil} {
		if !errors.Is(results[i].Err, want) {
			t.Errorf("entry %d: %v, want %v", i+2, results[i].Err, want)
		}
	}
	if got, want := look(t, d, 1, own[0], own[1], own[2], foreign[0]), []string{"good@2", "-", "good@5", "-"}; !slices.Equal(got, want) {
		t.Errorf("after all %q, want %q", got, want)
	}
	if got := d.Position().Index; got != 5 {
		t.Errorf("position %d, want 5: a refused entry is applied too", got)
	}
}

func TestMalformedCommands(t *testing.T) {
	good := kv.AppendSet(nil, kv.Origin{}, 1, []kv.Pair{{Key: "a", Value: []byte("1")}, {Key: "b", Value: []byte("2")}})
	for _, c := range []struct {
		name    string
		command []byte
	}{
		{"version alone", []byte{kv.CommandVersion}},
		{"another version", append([]byte{kv.CommandVersion + 1}, good[1:]...)},
		{"unknown kind", []byte{kv.CommandVersion, 99}},
		{"a command of the catalogue", AppendCreateBucket(nil, "b")},
		{"cut short", good[:len(good)-1]},
		{"bytes left over", append(slices.Clone(good), 0)},
		{"count too high", append(kv.AppendHeader(nil, kv.KindDelete), 0, 0, 0, 0, 0, 0, 0, 1, 200)},
		{"bucket 0", kv.AppendSet(nil, kv.Origin{}, 0, []kv.Pair{{Key: "a"}})},
		{"range backwards", kv.AppendLead(nil, 5, 4)},
		{"range past the last slot", kv.AppendLead(nil, 0, sharding.Slots)},
		{"half a lead", kv.AppendHeader(nil, kv.KindLead)},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := openMem(t)
			d := leading(t, s, 1)
			rows := len(dump(t, s))
			if err := d.Apply([]Entry{{Index: 2, Term: 9, Command: c.command}})[0].Err; !errors.Is(err, kv.ErrInvalid) {
				t.Errorf("got %v, want %v", err, kv.ErrInvalid)
			}
			if got := dump(t, s); len(got) != rows {
				t.Errorf("it left something behind: %q", got)
			}
			if got, want := d.Position(), (Position{Index: 2, Term: 9, LeadTerm: 1}); got != want {
				t.Errorf("position %+v, want %+v", got, want)
			}
		})
	}
}

// TestOneStateForAllKeys reads ten keys that every entry sets to one value while
// entries are applied and flushed: none, nine or all of them may be cached, or in the
// write buffer. -race watches the rest.
func TestOneStateForAllKeys(t *testing.T) {
	for name, c := range map[string]struct {
		cache, buffer int64
		last          int // bytes of the last key's value
	}{
		"from rows": {1, 1, 1}, "nine cached": {1 << 20, 1, 3 << 10}, "all cached": {1 << 20, 1, 1},
		"buffered": {1, 0, 1}, "buffered and moved": {1, movingBuffer, 1}, "buffered, moved and cached": {1 << 20, movingBuffer, 1},
	} {
		t.Run(name, func(t *testing.T) {
			s := openCached(t, c.cache, c.buffer)
			oneState(t, s, c.last)
			if moves := s.Stats().BufferMoves; (moves > 50) != (c.buffer == movingBuffer) {
				t.Errorf("rows were moved %d times", moves)
			}
		})
	}
}

// movingBuffer is a buffer for one of oneState's entries and not for two.
const movingBuffer = 1200

func oneState(t *testing.T, s *Store, last int) {
	const entries, flushEvery = 400, 100
	d := leading(t, s, 1)
	keys := strings.Split("a b c d e f g h i j", " ")
	values := func(index uint64) []string { // of keys
		all := slices.Repeat([]string{fmt.Sprint(index)}, len(keys))
		all[len(all)-1] = fmt.Sprintf("%*d", last, index)
		return all
	}
	write := func(index uint64) {
		var kvs []string
		for i, value := range values(index) {
			kvs = append(kvs, keys[i], value)
		}
		if err := d.Apply([]Entry{set(index, 1, kvs...)})[0].Err; err != nil {
			t.Errorf("entry %d: %v", index, err)
		}
	}
	write(2)
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for last := uint64(0); last < entries; {
				at := d.Position().Index
				err := d.Get(1, keys, func(i int, value []byte, version uint64, found bool) error {
					switch {
					case !found || version < at || version < last:
						return fmt.Errorf("key %d: version %d (found %v) at position %d, after version %d", i, version, found, at, last)
					case i > 0 && version != last:
						return fmt.Errorf("key %d has version %d, the key before %d", i, version, last)
					case string(value) != values(version)[i]:
						return fmt.Errorf("key %d: value %s of version %d", i, value, version)
					}
					last = version
					return nil
				})
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for index := uint64(3); index <= entries; index++ {
		write(index)
		if index%flushEvery == 0 {
			if err := s.Flush(); err != nil {
				t.Errorf("flush: %v", err)
			}
		}
	}
	readers.Wait()
}

// countingState counts a machine's batches.
type countingState struct {
	*Data
	batches int
}

func (c *countingState) newBatch(entries []Entry) (*pebble.Batch, error) {
	c.batches++
	return c.Data.newBatch(entries)
}

// TestLargeBatch applies one command whose batch does not fit a memtable: Pebble
// queues such a batch as a table of its own. With the write-ahead log off it
// must survive a crash after a flush, and no key may be too long.
func TestLargeBatch(t *testing.T) {
	const pairs = 160_000
	fs := vfs.NewCrashableMem()
	s := openOn(t, fs)
	d := leading(t, s, 1)
	kvs := make([]kv.Pair, pairs)
	for i := range kvs {
		kvs[i].Key = fmt.Sprintf("%d", i)
	}
	long := strings.Repeat("k", 1<<20)
	apply(t, d, Entry{Index: 2, Term: 1, Command: kv.AppendSet(nil, kv.Origin{}, 1, kvs)}, set(3, 1, "7", "newer", long, "long"))
	if m := s.db.Metrics(); m.MemTable.Count+m.Flush.Count < 2 {
		t.Errorf("%d memtables and %d flushes: the batch was not a large one", m.MemTable.Count, m.Flush.Count)
	}
	if err := s.Flush(); err != nil {
		t.Fatalf("flush: %v", err)
	}
	apply(t, d, set(4, 1, "8", "lost"))
	crashed := fs.CrashClone(vfs.CrashCloneCfg{})
	closeStore(t, s)

	s = openOn(t, crashed)
	defer closeStore(t, s)
	d = dataOf(t, s, 1)
	if got, want := look(t, d, 1, "0", "7", "8", "159999", "160000", long), []string{"@2", "newer@3", "@2", "@2", "-", "long@3"}; !slices.Equal(got, want) {
		t.Errorf("after the crash %q, want %q", got, want)
	}
	if got := d.Position().Index; got != 3 {
		t.Errorf("position %d, want 3", got)
	}
}

func TestConcurrentShards(t *testing.T) {
	const shards, entries = 4, 100
	s := openMem(t)
	var appliers sync.WaitGroup
	for shard := sharding.Shard(1); shard <= shards; shard++ {
		d := leading(t, s, shard)
		appliers.Go(func() {
			for i := uint64(2); i <= entries; i++ {
				if err := d.Apply([]Entry{set(i, 1, "k", fmt.Sprint(shard))})[0].Err; err != nil {
					t.Errorf("shard %d: %v", shard, err)
				}
			}
		})
		appliers.Go(func() {
			if err := d.Wait(context.Background(), entries); err != nil {
				t.Errorf("shard %d: %v", shard, err)
			}
			if got, want := look(t, d, 1, "k"), fmt.Sprintf("%d@%d", shard, entries); got[0] != want {
				t.Errorf("shard %d: %s, want %s", shard, got[0], want)
			}
		})
	}
	appliers.Wait()
}

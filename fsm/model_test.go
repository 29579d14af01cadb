package fsm

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

// replica is what a Raft group keeps of a shard (its log) beside the machine
// under test, and what the machine must never fall behind (flushed).
type replica struct {
	shard   sharding.Shard
	owned   sharding.Range
	log     []Entry
	flushed uint64 // position that Flush or Close made durable
	d       *Data
}

// expected is the state a log gives, worked out with Go maps.
type expected struct {
	position Position
	owns     bool
	pairs    map[string]string // "bucket/key" → "value@version"
}

// upTo applies the log's entries up to an index.
func (r *replica) upTo(index uint64) expected {
	e := expected{pairs: make(map[string]string)}
	for _, entry := range r.log {
		if entry.Index <= index {
			e.apply(r.owned, entry)
		}
	}
	return e
}

// apply applies one entry and returns the class of its error.
func (e *expected) apply(owned sharding.Range, entry Entry) error {
	e.position.Index, e.position.Term = entry.Index, entry.Term
	if len(entry.Command) == 0 {
		return nil
	}
	kind, _, err := kv.Header(entry.Command)
	if err != nil {
		return kv.ErrInvalid
	}
	if kind == kv.KindLead {
		e.owns, e.position.LeadTerm = true, entry.Term
		return nil
	}
	w, err := kv.DecodeWrite(entry.Command)
	if err != nil {
		return kv.ErrInvalid
	}
	next := maps.Clone(e.pairs)
	foreign := !e.owns
	for key, value, ok := w.Next(); ok; key, value, ok = w.Next() {
		foreign = foreign || !owned.Contains(sharding.SlotOf(sharding.Hash(w.Bucket, key)))
		name := fmt.Sprintf("%d/%s", w.Bucket, key)
		if w.Kind == kv.KindSet {
			next[name] = fmt.Sprintf("%s@%d", value, entry.Index)
		} else {
			delete(next, name)
		}
	}
	switch {
	case w.Err() != nil:
		return kv.ErrInvalid
	case foreign:
		return ErrNotOwner
	}
	e.pairs = next
	return nil
}

var (
	modelKeys    = []string{"", "a", "b", "c", "d", "e", "f", "g", "h", "i"}
	modelBuckets = []uint64{1, 2}
)

// draw appends an entry to the log.
func (r *replica) draw(t *rapid.T) {
	last := Entry{}
	if len(r.log) > 0 {
		last = r.log[len(r.log)-1]
	}
	e := Entry{
		Index: last.Index + rapid.Uint64Range(1, 3).Draw(t, "gap"), // raft keeps some entries to itself
		Term:  last.Term + rapid.Uint64Range(0, 1).Draw(t, "terms"),
	}
	keys := rapid.SliceOfN(rapid.SampledFrom(modelKeys), 0, 4).Draw(t, "keys")
	bucket := rapid.SampledFrom(modelBuckets).Draw(t, "bucket")
	pairs := make([]kv.Pair, len(keys))
	for i, k := range keys {
		pairs[i] = kv.Pair{Key: k, Value: fmt.Appendf(nil, "v%d", i)}
	}
	switch rapid.SampledFrom([]string{"set", "set", "set", "delete", "lead", "configuration", "cut", "junk"}).Draw(t, "command") {
	case "set":
		e.Command = kv.AppendSet(nil, bucket, pairs)
	case "delete":
		e.Command = kv.AppendDelete(nil, bucket, keys)
	case "lead":
		e.Command = kv.AppendLead(nil, r.owned.First, r.owned.Last)
	case "cut":
		e.Command = append(kv.AppendSet(nil, bucket, pairs), 1)
	case "junk":
		e.Command = rapid.SliceOfN(rapid.Byte(), 1, 12).Draw(t, "junk")
		e.Command[0] = kv.CommandVersion + 1 // junk that happens to be a command is FuzzApply's
	}
	r.log = append(r.log, e)
}

// catchUp gives the machine its log, from some entry at or before the first it
// lacks, as raft does after a restart.
func (r *replica) catchUp(t *rapid.T) {
	at := r.d.Position().Index
	lacking := slices.IndexFunc(r.log, func(e Entry) bool { return e.Index > at })
	if lacking < 0 {
		lacking = len(r.log)
	}
	entries := r.log[rapid.IntRange(0, lacking).Draw(t, "from"):]
	want := r.upTo(at)
	for i, result := range r.d.Apply(entries) {
		var class error
		if entries[i].Index > at {
			class = want.apply(r.owned, entries[i])
		}
		if !errors.Is(result.Err, class) {
			t.Fatalf("shard %d, entry %d: %v, want %v", r.shard, entries[i].Index, result.Err, class)
		}
	}
}

// check compares all the machine shows with the log up to its position.
func (r *replica) check(t *rapid.T) {
	want := r.upTo(r.d.Position().Index)
	if got := r.d.Position(); got != want.position {
		t.Fatalf("shard %d is at %+v, want %+v", r.shard, got, want.position)
	}
	if owned, ok := r.d.Range(); ok != want.owns || ok && owned != r.owned {
		t.Fatalf("shard %d owns %v (%v), want %v (%v)", r.shard, owned, ok, r.owned, want.owns)
	}
	for _, bucket := range modelBuckets {
		got := look(t, r.d, bucket, modelKeys...)
		for i, key := range modelKeys {
			wanted, ok := want.pairs[fmt.Sprintf("%d/%s", bucket, key)]
			if !ok {
				wanted = "-"
			}
			if got[i] != wanted {
				t.Fatalf("shard %d at %d: key %q of bucket %d is %s, want %s", r.shard, want.position.Index, key, bucket, got[i], wanted)
			}
		}
	}
}

// TestModel applies, flushes, restarts and crashes a store of three shards at
// random and compares it with Go maps. After a crash each shard must stand at a
// position of its log, not before what was flushed, with exactly that state.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		fs := vfs.NewCrashableMem()
		s := openOn(t, fs)
		defer func() { closeStore(t, s) }()
		replicas := []*replica{
			{shard: 1, owned: sharding.Range{First: 0, Last: sharding.Slots - 1}},
			{shard: 2, owned: sharding.Range{First: 0, Last: sharding.Slots/2 - 1}},
			{shard: 3, owned: sharding.Range{First: sharding.Slots / 2, Last: sharding.Slots - 1}},
		}
		reopen := func(on *vfs.MemFS) {
			fs, s = on, openOn(t, on)
			for _, r := range replicas {
				r.d = dataOf(t, s, r.shard)
				if got := r.d.Position().Index; got < r.flushed {
					t.Fatalf("shard %d is back at %d, %d was flushed", r.shard, got, r.flushed)
				}
			}
		}
		flushed := func() {
			for _, r := range replicas {
				r.flushed = r.d.Position().Index
			}
		}
		closeStore(t, s)
		reopen(fs)
		t.Repeat(map[string]func(*rapid.T){
			"apply": func(t *rapid.T) {
				r := rapid.SampledFrom(replicas).Draw(t, "replica")
				for range rapid.IntRange(1, 6).Draw(t, "entries") {
					r.draw(t)
				}
				r.catchUp(t)
			},
			"flush": func(t *rapid.T) {
				if err := s.Flush(); err != nil {
					t.Fatalf("flush: %v", err)
				}
				flushed()
			},
			"restart": func(t *rapid.T) {
				next := fs
				if rapid.Bool().Draw(t, "crash") {
					next = fs.CrashClone(vfs.CrashCloneCfg{
						UnsyncedDataPercent: rapid.SampledFrom([]int{0, 50, 100}).Draw(t, "unsynced"),
						RNG:                 rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0)),
					})
				} else {
					flushed() // Close does
				}
				closeStore(t, s)
				reopen(next)
			},
			"": func(t *rapid.T) {
				for _, r := range replicas {
					r.check(t)
				}
			},
		})
	})
}

// TestCutsDoNotMatter gives two stores the same entries in different calls of
// Apply: results and every row must agree.
func TestCutsDoNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := &replica{shard: 1, owned: sharding.Range{First: 0, Last: sharding.Slots/2 - 1}}
		for range rapid.IntRange(1, 20).Draw(t, "entries") {
			r.draw(t)
		}
		var results [2][]string
		var rows [2][]string
		for i := range results {
			s := openOn(t, vfs.NewMem())
			d := dataOf(t, s, 1)
			for rest := r.log; len(rest) > 0; {
				n := rapid.IntRange(1, len(rest)).Draw(t, "cut")
				for _, result := range d.Apply(rest[:n]) {
					results[i] = append(results[i], fmt.Sprint(result))
				}
				rest = rest[n:]
			}
			rows[i] = dump(t, s)
			closeStore(t, s)
		}
		if !slices.Equal(results[0], results[1]) {
			t.Errorf("results differ:\n%q\n%q", results[0], results[1])
		}
		if !slices.Equal(rows[0], rows[1]) {
			t.Errorf("rows differ:\n%q\n%q", rows[0], rows[1])
		}
	})
}

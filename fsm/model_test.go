package fsm

import (
	"bytes"
	"errors"
	"fmt"
	"math"
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

	unlisted bool // whether checks leave out what only rows tell
	d        *Data
}

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
	now := r.upTo(e.Index)
	steps := []uint64{0, 0, 0, 0, 1, sessionTTL / 2, sessionTTL - 1, sessionTTL}
	if rapid.Bool().Draw(t, "tells a time") {
		e.Time = max(now.time, 1) + rapid.SampledFrom(steps).Draw(t, "passed") - 1
	}
	switch how := rapid.IntRange(0, 9).Draw(t, "how"); {
	case how < 2 && len(r.log) > 0:
		e.Command = rapid.SampledFrom(r.log).Draw(t, "sent again").Command
	case how < 5:
		e.Command = r.drawBundle(t, now)
	default:
		e.Command = r.drawCommand(t, now)
	}
	r.log = append(r.log, e)
}

func (r *replica) drawBundle(t *rapid.T, now expected) []byte {
	var commands [][]byte
	for range rapid.IntRange(1, 6).Draw(t, "commands") {
		c := r.drawCommand(t, now)
		if kv.BundlesWith(append(commands, c)[0], c) {
			commands = append(commands, c)
		}
	}
	return kv.AppendBundle(nil, commands)
}

func (r *replica) drawCommand(t *rapid.T, now expected) []byte {
	o := drawOrigin(t, now)
	keys := rapid.SliceOfN(rapid.SampledFrom(modelKeys), 0, 4).Draw(t, "keys")
	bucket := rapid.SampledFrom(modelBuckets).Draw(t, "bucket")
	pairs := make([]kv.Pair, len(keys))
	for i, k := range keys {
		pairs[i] = kv.Pair{Key: k, Value: fmt.Appendf(nil, "%d", 10*i)}
	}
	pair := kv.Pair{
		Key:   rapid.SampledFrom(modelKeys).Draw(t, "key"),
		Value: rapid.SliceOfN(rapid.Byte(), 0, 3).Draw(t, "value"),
	}
	version := now.pairs[pairName(bucket, pair.Key)].version
	if rapid.IntRange(0, 3).Draw(t, "stale") == 0 {
		version++
	}
	offset := rapid.Uint64Range(0, 3).Draw(t, "offset")
	if s := now.sessions[o.Client]; s != nil && s.calls[o.Seq] != nil && rapid.IntRange(0, 5).Draw(t, "misplaced") > 0 {
		c := s.calls[o.Seq]
		offset = uint64(len(c.aside))
		if offset > 0 {
			bucket, pair.Key = c.bucket, c.key
		}
	}
	switch rapid.SampledFrom(modelCommands).Draw(t, "command") {
	case "set":
		return kv.AppendSet(nil, o, bucket, pairs)
	case "delete":
		return kv.AppendDelete(nil, o, bucket, keys)
	case "increment":
		return kv.AppendIncrement(nil, o, bucket, pair.Key, rapid.SampledFrom([]int64{1, 2, -3, math.MaxInt64}).Draw(t, "delta"))
	case "swap":
		return kv.AppendSwap(nil, o, bucket, version, pair)
	case "piece":
		return kv.AppendPiece(nil, o, bucket, offset, pair)
	case "last":
		return kv.AppendLast(nil, o, bucket, offset, rapid.Bool().Draw(t, "swaps"), version, pair)
	case "drop":
		return kv.AppendDrop(nil, rapid.SampledFrom(modelBuckets[1:]).Draw(t, "dropped"))
	case "lead":
		return kv.AppendLead(nil, r.owned.First, r.owned.Last)
	case "configuration":
		return nil
	case "cut":
		return append(kv.AppendSet(nil, o, bucket, pairs), 1)
	default:
		junk := rapid.SliceOfN(rapid.Byte(), 1, 12).Draw(t, "junk")
		junk[0] = kv.CommandVersion + 1 // junk that happens to be a command is FuzzApply's
		return junk
	}
}

// drawOrigin draws mostly entries whose turn it is.
func drawOrigin(t *rapid.T, now expected) kv.Origin {
	client := rapid.SampledFrom([]uint64{0, 1, 1, 2, 3}).Draw(t, "client")
	if client == 0 {
		return kv.Origin{}
	}
	s := now.sessions[client]
	if s == nil {
		s = &refSession{}
	}
	o := kv.Origin{Client: client, Acked: s.acked}
	o.Seq = o.Acked + rapid.SampledFrom([]uint64{1, 1, 1, 2, 2, 3, kv.MaxOpenCalls, kv.MaxOpenCalls + 1}).Draw(t, "call")
	if c := s.calls[o.Seq]; c != nil {
		o.Entry = uint32(len(c.results))
	}
	switch rapid.IntRange(0, 9).Draw(t, "turn") {
	case 0:
		o.Entry++
	case 1:
		o.Entry = 0
	case 2, 3:
		o.Acked = o.Seq - 1
	case 4:
		o.Acked, o.Seq = 0, max(1, s.acked)
	}
	return o
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
		var wanted refResult
		if entries[i].Index > at {
			wanted = want.apply(r.owned, entries[i])
		}
		if !wanted.is(result) {
			t.Fatalf("shard %d, entry %d: %+v, want %+v", r.shard, entries[i].Index, result, wanted)
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
	if got := r.d.Time(); got != want.time {
		t.Fatalf("the time of shard %d is %d, want %d", r.shard, got, want.time)
	}
	for _, bucket := range modelBuckets {
		r.checkBucket(t, want, bucket)
	}
	if !r.unlisted { // reading rows moves what is buffered
		checkSessions(t, r.d)
	}
	if got := len(r.d.sessions.of); got != len(want.sessions) {
		t.Fatalf("shard %d has %d sessions, want %d", r.shard, got, len(want.sessions))
	}
	for client, wanted := range want.sessions {
		wanted.check(t, r.d.sessions.of[client])
	}
}

// checkBucket compares a bucket's pairs, and its keys page by page.
func (r *replica) checkBucket(t *rapid.T, want expected, bucket uint64) {
	if want.dropped[bucket] {
		_, _, err := r.d.List(bucket, 0, 1, 1)
		if getErr := r.d.Get(bucket, modelKeys, nil); !errors.Is(getErr, kv.ErrNoSuchStore) || !errors.Is(err, kv.ErrNoSuchStore) {
			t.Fatalf("shard %d, bucket %d, which was dropped: get %v, list %v", r.shard, bucket, getErr, err)
		}
		return
	}
	var present []string
	got := look(t, r.d, bucket, modelKeys...)
	for i, key := range modelKeys {
		wanted := "-"
		if pair, ok := want.pairs[pairName(bucket, key)]; ok {
			wanted = fmt.Sprintf("%s@%d", pair.value, pair.version)
			present = append(present, key)
		}
		if got[i] != wanted {
			t.Fatalf("shard %d at %d: key %q of bucket %d is %s, want %s", r.shard, want.position.Index, key, bucket, got[i], wanted)
		}
	}
	if r.unlisted { // lists read rows, too
		return
	}
	var listed []string
	for cursor, more := uint64(0), true; more; more = cursor != 0 {
		keys, next, err := r.d.List(bucket, cursor, 3, 100)
		if err != nil {
			t.Fatalf("shard %d, bucket %d from %x: %v", r.shard, bucket, cursor, err)
		}
		listed, cursor = append(listed, keys...), next
	}
	slices.Sort(listed)
	if !slices.Equal(listed, present) { // modelKeys are sorted
		t.Fatalf("shard %d, bucket %d lists %q, want %q", r.shard, bucket, listed, present)
	}
}

// check compares a session.
func (want *refSession) check(t *rapid.T, s *session) {
	switch {
	case s == nil:
		t.Fatalf("a session is missing, want %+v", want)
	case s.last != want.last || s.index != want.index || s.acked != want.acked || len(s.calls) != len(want.calls):
		t.Fatalf("session %+v, want %+v", s, want)
	}
	for _, c := range s.calls {
		wanted := want.calls[c.seq]
		if wanted == nil || c.next != uint64(len(wanted.results)) || c.aside != uint64(len(wanted.aside)) {
			t.Fatalf("call %+v, want %+v", c, wanted)
		}
		for i, r := range wanted.results {
			if got := c.recall(uint64(i)); !r.is(got) {
				t.Fatalf("entry %d of call %d is remembered as %+v, want %+v", i, c.seq, got, r)
			}
		}
	}
}

// restore replaces the shard by the stream of another replica, which has applied
// some of the log, and compares the hashes.
func (r *replica) restore(t *rapid.T, s *Store) {
	leader := openOn(t, vfs.NewMem())
	defer closeStore(t, leader)
	d := dataOf(t, leader, r.shard)
	for rest := r.log[:rapid.IntRange(0, len(r.log)).Draw(t, "applied")]; len(rest) > 0; {
		n := rapid.IntRange(1, len(rest)).Draw(t, "cut of the log")
		d.Apply(rest[:n])
		rest = rest[n:]
	}
	stream := streamed(t, d)
	st, err := s.Stage(r.shard)
	if err != nil {
		t.Fatalf("stage: %v", err)
	}
	for rest := stream; len(rest) > 0; {
		n := rapid.IntRange(1, len(rest)).Draw(t, "cut of the stream")
		if _, err := st.Write(rest[:n]); err != nil {
			t.Fatalf("write: %v", err)
		}
		rest = rest[n:]
	}
	if err := st.Finish(); err != nil {
		t.Fatalf("finish: %v", err)
	}
	if err := s.Restore(r.shard); err != nil {
		t.Fatalf("restore: %v", err)
	}
	r.flushed = d.Position().Index
	if got, want := hashOf(t, r.d), hashOf(t, d); got != want {
		t.Fatalf("shard %d has hash %+v, want %+v", r.shard, got, want)
	}
	if !bytes.Equal(streamed(t, r.d), stream) {
		t.Fatalf("shard %d streams other bytes than it was restored from", r.shard)
	}
}

// TestModel applies, flushes, restores, drops, restarts and crashes a store of
// three shards at random and compares it with Go maps. After a crash each shard must stand at a
// position of its log, not before what was flushed, with exactly that state.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		fs := vfs.NewCrashableMem()
		// A third of it is a shard's: none, a few rows, some entries, all.
		sizes := Config{WriteBufferBytes: rapid.SampledFrom([]int64{1, 1500, 6000, 0}).Draw(t, "write buffer")}
		s := openWith(t, fs, sizes)
		defer func() { closeStore(t, s) }()
		replicas := []*replica{
			{shard: 1, owned: sharding.Range{First: 0, Last: sharding.Slots - 1}},
			{shard: 2, owned: sharding.Range{First: 0, Last: sharding.Slots/2 - 1}},
			{shard: 3, owned: sharding.Range{First: sharding.Slots / 2, Last: sharding.Slots - 1}},
		}
		reopen := func(on *vfs.MemFS) {
			fs, s = on, openWith(t, on, sizes)
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
			"restore": func(t *rapid.T) {
				r := rapid.SampledFrom(replicas).Draw(t, "replica")
				r.restore(t, s)
			},
			"drop": func(t *rapid.T) {
				r := rapid.SampledFrom(replicas).Draw(t, "replica")
				if err := s.Drop(r.shard); err != nil {
					t.Fatalf("drop: %v", err)
				}
				r.flushed, r.d = 0, dataOf(t, s, r.shard)
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
				unlisted := rapid.IntRange(0, 2).Draw(t, "lists") > 0
				for _, r := range replicas {
					r.unlisted = unlisted
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
		for range rapid.IntRange(1, 40).Draw(t, "entries") {
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
			checkSessions(t, d)
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

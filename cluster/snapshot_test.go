package cluster

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/manykv/manykv/client"
	"github.com/manykv/manykv/fsm"
	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

// smallJournal makes a node cut its journal as soon as it may.
func smallJournal(_ int, cfg *Config) { cfg.JournalBytes = MinJournalBytes }

// blocks returns n pairs of 64 KiB, the first of them number from.
func blocks(from, n int, round string) []kv.Pair {
	pairs := make([]kv.Pair, n)
	for i := range pairs {
		head := fmt.Sprintf("%s of %d ", round, from+i)
		pairs[i] = kv.Pair{Key: fmt.Sprintf("block-%05d", from+i), Value: []byte(strings.Repeat(head, 64<<10/len(head)))}
	}
	return pairs
}

// fill writes n blocks in batches of 32.
func fill(t *testing.T, b *client.Bucket, n int, round string) {
	t.Helper()
	const batch = 32
	for from := 0; from < n; from += batch {
		must(t, b.SetMany(t.Context(), blocks(from, min(batch, n-from), round)))
	}
}

// expectBlocks reads n blocks back.
func expectBlocks(t *testing.T, who string, b *client.Bucket, n int, round string) {
	t.Helper()
	const batch = 32
	for from := 0; from < n; from += batch {
		expect(t, who, b, blocks(from, min(batch, n-from), round))
	}
}

// sameHashes waits until all replicas of each shard stand at the same entry, and
// wants them to hold the same state there.
func (c *testCluster) sameHashes() {
	c.t.(*testing.T).Helper()
	eventually(c.t.(*testing.T), 20*time.Second, func() string {
		for shard := range c.anyMap().Groups {
			if missing := c.differ(sharding.Shard(shard + 1)); missing != "" {
				return missing
			}
		}
		return ""
	})
}

func (c *testCluster) anyMap() *sharding.Map {
	for _, n := range c.nodes {
		if n != nil {
			return n.current.Load()
		}
	}
	return nil
}

// differ says how the replicas of a shard differ.
func (c *testCluster) differ(shard sharding.Shard) string {
	var first *fsm.StateHash
	for i, n := range c.nodes {
		if n == nil || n.replica(shard) == nil {
			continue
		}
		h, err := n.replica(shard).data.Hash(c.t.Context())
		must(c.t, err)
		switch {
		case first == nil:
			first = &h
		case first.Index != h.Index:
			return fmt.Sprintf("shard %d: n%d is at entry %d, another at %d", shard, i+1, h.Index, first.Index)
		case *first != h:
			c.t.Fatalf("shard %d at entry %d: n%d has %+v, another %+v", shard, h.Index, i+1, h, *first)
		}
	}
	return ""
}

// A node is away while three times the journal's limit is written. The others cut
// their journals, so it can only be caught up by snapshots.
func TestNodeAwayWhileTheJournalIsCut(t *testing.T) {
	t.Parallel()
	stores := []string{"wal", "boltdb"}
	if raceDetector {
		stores = stores[:1]
	}
	for _, store := range stores {
		t.Run(store, func(t *testing.T) {
			c := newCluster(t, 3, func(i int, cfg *Config) {
				smallJournal(i, cfg)
				cfg.LogStore = store
			})
			for i := range c.nodes {
				c.start(i)
			}
			b := bucket(t, c.client(c.clientConfig()), "files")
			const away = 3 * MinJournalBytes / (64 << 10)
			fill(t, b, 32, "before")
			c.stop(2)
			fill(t, b, away, "while away")
			eventually(t, 20*time.Second, func() string {
				for _, n := range c.nodes[:2] {
					if size := n.logs.Size(); size.Journal > 2*MinJournalBytes {
						return fmt.Sprintf("the journal of %s has %d bytes", n.name, size.Journal)
					}
				}
				return ""
			})
			c.start(2)
			expectBlocks(t, "through the one that was away", c.through(2, "files"), away, "while away")
			c.sameHashes()
			installed := 0
			for _, s := range c.nodes[2].Status().Shards {
				if s.Snapshot > 0 {
					installed++
				}
			}
			if installed == 0 {
				t.Error("n3 has no snapshot: it was caught up by the log, which proves nothing")
			}
			// What was installed is durable, and so is everything that was applied on
			// top of it.
			c.stopAll()
			for i := range c.nodes {
				c.start(i)
			}
			b, err := c.client(c.clientConfig()).Bucket(t.Context(), "files")
			must(t, err)
			expectBlocks(t, "after a restart of all", b, away, "while away")
			c.sameHashes()
		})
	}
}

// The journal stays near its limit however much is written, and idle shards and
// the meta group, which write nothing, do not pin it.
func TestJournalStaysBounded(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, func(i int, cfg *Config) {
		smallJournal(i, cfg)
		cfg.Join, cfg.Shards = nil, 4
	})
	c.start(0)
	b := bucket(t, c.client(c.clientConfig()), "files")
	one := blocks(0, 1, "x")
	for range 40 * MinJournalBytes / (64 << 10) / 4 { // ten times the limit, into one shard
		must(t, b.SetMany(t.Context(), one))
	}
	n := c.nodes[0]
	eventually(t, 20*time.Second, func() string {
		if size := n.logs.Size(); size.Journal > 3*MinJournalBytes/2 {
			return fmt.Sprintf("the journal has %d bytes, its limit is %d", size.Journal, MinJournalBytes)
		}
		return ""
	})
	if disk := dirBytes(t, filepath.Join(c.cfgs[0].DataDir, journalDir)); disk > 4*MinJournalBytes {
		t.Errorf("the journal takes %d bytes of disk, want at most %d", disk, 4*MinJournalBytes)
	}
	c.stop(0)
	c.start(0)
	expect(t, "after a restart", c.through(0, "files"), one)
}

// dirBytes returns what the files of a directory take.
// TestJournalIsCutAfterAStart: the first attempt comes before the node knows what is
// committed, and nothing is written afterwards that would ask for another one.
func TestJournalIsCutAfterAStart(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, func(_ int, cfg *Config) {
		cfg.Join, cfg.Shards = nil, 4
		cfg.JournalBytes = 8 * MinJournalBytes
	})
	c.start(0)
	const most = 3 * MinJournalBytes / (64 << 10)
	fill(t, bucket(t, c.client(c.clientConfig()), "files"), most, "x")
	c.stop(0)
	c.cfgs[0].JournalBytes = MinJournalBytes
	c.start(0)
	eventually(t, time.Minute, func() string {
		if size := c.nodes[0].logs.Size(); size.Journal > MinJournalBytes {
			return fmt.Sprintf("the journal has %d bytes, of which %d are needed; want at most %d", size.Journal, size.Live, MinJournalBytes)
		}
		return ""
	})
	b, err := c.client(c.clientConfig()).Bucket(t.Context(), "files")
	must(t, err)
	expectBlocks(t, "after the cut", b, most, "x")
}

func dirBytes(t *testing.T, dir string) (sum int64) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		info, err := e.Info()
		must(t, err)
		sum += info.Size()
	}
	return sum
}

// alone returns a node of its own and a fresh replica of a shard nobody else uses.
func alone(t *testing.T, shard sharding.Shard) (*Node, *replica) {
	t.Helper()
	c := newCluster(t, 1, func(_ int, cfg *Config) { cfg.Join = nil })
	c.start(0)
	bucket(t, c.client(c.clientConfig()), "files")
	n := c.nodes[0]
	g := sharding.Group{Shard: shard, Generation: 2, Replicas: []sharding.NodeID{"n1"}}
	data, err := n.store.Data(shard)
	must(t, err)
	r := n.lone(&g, data)
	r.data = data
	return n, r
}

// A log that holds something else than the snapshot at the snapshot's index shows
// the snapshot's term there (hashicorp/raft#697), and nothing else is touched.
func TestLogShowsTheSnapshotsTerm(t *testing.T) {
	t.Parallel()
	_, r := alone(t, 77)
	must(t, r.snapshots.open())
	entry := func(index, term uint64) *raft.Log {
		return &raft.Log{Index: index, Term: term, Type: raft.LogCommand, Data: []byte("x")}
	}
	must(t, r.logs.StoreLogs([]*raft.Log{entry(1, 1), entry(2, 1), entry(3, 1)}))
	shown := replicaLog{r.logs, r.snapshots}
	term := func(index uint64) uint64 {
		var e raft.Log
		if err := shown.GetLog(index, &e); err != nil {
			return 0
		}
		return e.Term
	}
	if term(2) != 1 || term(4) != 0 {
		t.Fatalf("terms %d and %d before the snapshot, want 1 and none", term(2), term(4))
	}
	must(t, r.snapshots.take(&snapshotNote{Index: 2, Term: 7, State: 2}))
	if term(1) != 1 || term(2) != 7 || term(3) != 1 {
		t.Errorf("terms %d, %d, %d, want 1, 7 (the snapshot's), 1", term(1), term(2), term(3))
	}
	must(t, r.snapshots.take(&snapshotNote{Index: 9, Term: 8, State: 9}))
	if term(9) != 8 {
		t.Errorf("term %d at a snapshot beyond the log, want 8", term(9))
	}
}

// A replica whose log, state or snapshot lost something takes no part.
func TestReplicasThatLostSomethingAreQuarantined(t *testing.T) {
	t.Parallel()
	_, r := alone(t, 77)
	for _, c := range []struct {
		name  string
		spoil func()
		want  string
	}{
		{"the state is behind the snapshot", func() {
			must(t, r.votes.Set(keySnapshot, (&snapshotNote{Index: 5, Term: 1, State: 5}).append(nil)))
		}, "the store lost its state"},
		{"the log ends before the snapshot that was taken from it", func() {
			r.data.Apply([]fsm.Entry{{Index: 5, Term: 1}})
		}, "the snapshot taken from it at 5"},
		{"a gap between snapshot and log", func() {
			must(t, r.votes.Set(keySnapshot, nil))
			must(t, r.logs.StoreLog(&raft.Log{Index: 7, Term: 1, Type: raft.LogNoop}))
		}, "the log begins at entry 7"},
		{"the log ends before what was applied", func() {
			must(t, r.logs.DeleteRange(7, 7))
		}, "the log ends at entry 0"},
	} {
		c.spoil()
		must(t, r.open())
		s := r.status()
		if s.Role != "quarantined" || !strings.Contains(s.Reason, c.want) || r.raft.Load() != nil {
			t.Errorf("%s: role %s, reason %q, want quarantined and %q", c.name, s.Role, s.Reason, c.want)
		}
	}
}

// Shard time counts on from what the machine was told, with the monotonic clock.
func TestShardTime(t *testing.T) {
	t.Parallel()
	_, r := alone(t, 77)
	if got := readStamp(r.stamp()); got != 0 {
		t.Errorf("a stamp of %d before anything was applied, want 0", got)
	}
	r.data.Apply([]fsm.Entry{{Index: 1, Term: 1, Time: 5000, Command: kv.AppendLead(nil, 0, 10)}})
	if got := readStamp(r.stamp()); got != 5000 {
		t.Errorf("a stamp of %d without a clock, want the machine's 5000", got)
	}
	r.clock.Store(&shardClock{base: 5000, at: time.Now().Add(-3 * time.Second)})
	if got := readStamp(r.stamp()); got < 8000 || got > 8000+uint64(time.Hour.Milliseconds()) {
		t.Errorf("a stamp of %d three seconds after 5000, want 8000 or a little more", got)
	}
	if got := readStamp([]byte("short")); got != 0 {
		t.Errorf("a stamp of %d from garbage, want 0", got)
	}
}

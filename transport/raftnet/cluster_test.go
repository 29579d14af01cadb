package raftnet

import (
	"encoding/gob"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// commitTimeout is raft's, as the cluster sets it.
const commitTimeout = 50 * time.Millisecond

// trailingLogs is what raft keeps behind a snapshot: so few entries that a
// follower that was away needs the snapshot.
const trailingLogs = 4

// cluster is real raft on every shard of every node.
type cluster struct {
	*network
	t        *testing.T
	nodes    []string
	shards   uint32
	replicas map[string][]*replica
	wrap     func(node string, g *Group) raft.Transport // what raft gets; nil: the group itself
	applied  int                                        // commands of every shard, by apply
}

// replica is one raft.Raft and what survives its restart.
type replica struct {
	raft   *raft.Raft
	fsm    *journal
	logs   *raft.InmemStore
	snaps  *shelf
	config *raft.Config
}

// journal is a state machine that keeps its commands, each once: a proposal
// whose leader was lost is made again.
type journal struct {
	mu       sync.Mutex
	commands []string
	seen     map[string]bool
}

func (j *journal) Apply(l *raft.Log) any {
	j.mu.Lock()
	defer j.mu.Unlock()
	if command := string(l.Data); !j.seen[command] {
		j.seen[command] = true
		j.commands = append(j.commands, command)
	}
	return nil
}

func (j *journal) all() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.commands)
}

func (j *journal) Snapshot() (raft.FSMSnapshot, error) { return page(j.all()), nil }

func (j *journal) Restore(r io.ReadCloser) error {
	var commands []string
	if err := gob.NewDecoder(r).Decode(&commands); err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.commands, j.seen = commands, make(map[string]bool)
	for _, command := range commands {
		j.seen[command] = true
	}
	return r.Close()
}

// page is what a journal held when its snapshot was taken.
type page []string

func (p page) Persist(sink raft.SnapshotSink) error {
	if err := gob.NewEncoder(sink).Encode([]string(p)); err != nil {
		return err
	}
	return sink.Close()
}

func (p page) Release() {}

// shelf keeps the last snapshot, and as one that writes a state while it reads
// it does not know how long it is. The next faults times that it is opened, the
// snapshot cannot be read to its end.
type shelf struct {
	*raft.InmemSnapshotStore
	faults atomic.Int32
}

func (s *shelf) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	meta, r, err := s.InmemSnapshotStore.Open(id)
	if err != nil {
		return nil, nil, err
	}
	unmeasured := *meta
	unmeasured.Size = 0
	if s.faults.Add(-1) >= 0 {
		r = io.NopCloser(io.MultiReader(io.LimitReader(r, meta.Size/2), failingReader{io.ErrUnexpectedEOF}))
	}
	return &unmeasured, r, nil
}

// failingReader stands for a snapshot that cannot be read (on).
type failingReader struct{ err error }

func (r failingReader) Read([]byte) (int, error) { return 0, r.err }

// inCluster runs a test on three nodes in virtual time, once every shard has a
// leader. Nodes in late are opened by the test.
func inCluster(t *testing.T, shards uint32, late []string, test func(t *testing.T, c *cluster)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := &cluster{
			network: newNetwork(), t: t, nodes: []string{"n1", "n2", "n3"}, shards: shards,
			replicas: make(map[string][]*replica),
		}
		c.run(late, test)
	})
}

func (c *cluster) run(late []string, test func(t *testing.T, c *cluster)) {
	for _, node := range c.nodes {
		if !slices.Contains(late, node) {
			c.start(node, c.open(c.t, node).Group)
		}
	}
	defer c.stop()
	c.eventually("every shard has a leader", func() bool {
		for shard := range c.shards {
			if c.leader(shard) == nil {
				return false
			}
		}
		return true
	})
	test(c.t, c)
}

// start bootstraps all replicas of a node.
func (c *cluster) start(node string, group func(uint32) *Group) {
	var servers []raft.Server
	for _, n := range c.nodes {
		servers = append(servers, raft.Server{ID: raft.ServerID(server(n)), Address: server(n)})
	}
	for shard := range c.shards {
		r := &replica{
			logs: raft.NewInmemStore(), snaps: &shelf{InmemSnapshotStore: raft.NewInmemSnapshotStore()},
			config: raft.DefaultConfig(),
		}
		r.config.LocalID = raft.ServerID(server(node))
		r.config.HeartbeatTimeout, r.config.ElectionTimeout, r.config.LeaderLeaseTimeout = time.Second, time.Second, time.Second
		r.config.CommitTimeout = commitTimeout
		r.config.TrailingLogs = trailingLogs
		r.config.NoLegacyTelemetry = true
		r.config.LogOutput = io.Discard
		g := group(shard)
		err := raft.BootstrapCluster(r.config, r.logs, r.logs, r.snaps, g, raft.Configuration{Servers: servers})
		if err != nil {
			c.t.Fatal(err)
		}
		c.replicas[node] = append(c.replicas[node], r)
		c.boot(node, r, g)
	}
}

// boot starts the raft of a replica, from what its stores hold.
func (c *cluster) boot(node string, r *replica, g *Group) {
	var trans raft.Transport = g
	if c.wrap != nil {
		trans = c.wrap(node, g)
	}
	r.fsm = &journal{seen: make(map[string]bool)}
	var err error
	if r.raft, err = raft.NewRaft(r.config, r.fsm, r.logs, r.logs, r.snaps, trans); err != nil {
		c.t.Fatal(err)
	}
}

// stop shuts everything down; raft closes the groups.
func (c *cluster) stop() {
	for _, replicas := range c.replicas {
		for _, r := range replicas {
			if err := r.raft.Shutdown().Error(); err != nil {
				c.t.Error(err)
			}
		}
	}
	for node, n := range c.nets {
		n.mu.RLock()
		open := len(n.groups)
		n.mu.RUnlock()
		if open != 0 {
			c.t.Errorf("%s: %d groups are open after shutdown, want none", node, open)
		}
		if err := n.Close(); err != nil {
			c.t.Error(err)
		}
	}
}

// leader is the leader of a shard that has a majority, or nil.
func (c *cluster) leader(shard uint32) *raft.Raft {
	var leader *raft.Raft
	for _, replicas := range c.replicas {
		r := replicas[shard].raft
		if r.State() == raft.Leader && (leader == nil || r.CurrentTerm() > leader.CurrentTerm()) {
			leader = r
		}
	}
	return leader
}

// eventually polls until ok, and returns how long that took.
func (c *cluster) eventually(what string, ok func() bool) time.Duration {
	c.t.Helper()
	start := time.Now()
	for !ok() {
		if time.Since(start) > time.Minute {
			c.t.Fatalf("not within a minute: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return time.Since(start)
}

// apply proposes the next count commands of every shard and waits until they
// are committed.
func (c *cluster) apply(count int) {
	c.t.Helper()
	for shard := range c.shards {
		var commands [][]byte
		for i := range count {
			commands = append(commands, fmt.Appendf(nil, "%d/%d", shard, c.applied+i))
		}
		c.propose(shard, commands)
	}
	c.applied += count
}

// propose makes all proposals at once, and again those that failed.
func (c *cluster) propose(shard uint32, commands [][]byte) {
	c.t.Helper()
	c.eventually("all proposals are committed", func() bool {
		leader := c.leader(shard)
		if leader == nil {
			return false
		}
		var futures []raft.ApplyFuture
		for _, command := range commands {
			futures = append(futures, leader.Apply(command, 0))
		}
		var failed [][]byte
		for i, f := range futures {
			if f.Error() != nil {
				failed = append(failed, commands[i])
			}
		}
		commands = failed
		return len(failed) == 0
	})
}

// settled reports whether all journals of a shard are equal and have want
// commands.
func (c *cluster) settled(shard uint32, want int) bool {
	first := c.replicas["n1"][shard].fsm.all()
	for _, replicas := range c.replicas {
		if !slices.Equal(replicas[shard].fsm.all(), first) {
			return false
		}
	}
	return len(first) == want
}

func (c *cluster) allSettled(want int) bool {
	for shard := range c.shards {
		if !c.settled(shard, want) {
			return false
		}
	}
	return true
}

func TestClusterAppliesInOrder(t *testing.T) {
	inCluster(t, 4, nil, func(t *testing.T, c *cluster) {
		c.apply(500)
		took := c.eventually("all 2,000 commands are everywhere", func() bool { return c.allSettled(500) })
		// A follower that missed triggers of the burst gets MaxAppendEntries at
		// every CommitTimeout, which raft draws from one to two of it.
		if most := (500/64 + 2) * 2 * commitTimeout; took > most {
			t.Errorf("the last follower knew after %v, want at most %v", took, most)
		}
		want := c.replicas["n1"][2].fsm.all()
		for i, got := range want {
			if got != fmt.Sprintf("2/%d", i) {
				t.Fatalf("command %d of shard 2: got %q", i, got)
			}
		}
		for node, n := range c.nets {
			s := n.Stats()
			if dropped := s.DroppedQueueFull + s.DroppedUnsent + s.DroppedForged + s.DroppedMalformed + s.DroppedInboxFull; dropped != 0 {
				t.Errorf("%s dropped messages of a healthy cluster: %+v", node, s)
			}
		}
	})
}

// A node that was away has everything soon after it is back, whether its
// peers knew (cut) or not (lost), in one direction or both.
func TestClusterHeals(t *testing.T) {
	for _, fault := range []struct {
		name   string
		impair func(c *cluster, l link)
		link   link
	}{
		{"cut off", func(c *cluster, l link) { c.isolate("n3", l) }, cut},
		{"lost both ways", func(c *cluster, l link) { c.isolate("n3", l) }, lost},
		{"cannot send", func(c *cluster, l link) { c.set("n3", "n1", l); c.set("n3", "n2", l) }, cut},
		{"cannot be heard", func(c *cluster, l link) { c.set("n3", "n1", l); c.set("n3", "n2", l) }, lost},
		{"cannot hear", func(c *cluster, l link) { c.set("n1", "n3", l); c.set("n2", "n3", l) }, lost},
	} {
		t.Run(fault.name, func(t *testing.T) {
			inCluster(t, 4, nil, func(t *testing.T, c *cluster) {
				c.apply(10)
				fault.impair(c, fault.link)
				c.eventually("the others lead", func() bool {
					for shard := range c.shards {
						if l := c.leader(shard); l == nil || c.replicas["n3"][shard].raft.State() == raft.Leader {
							return false
						}
					}
					return true
				})
				c.apply(490)
				time.Sleep(2 * appendTimeout)
				fault.impair(c, up)
				took := c.eventually("n3 has all commands", func() bool { return c.allSettled(500) })
				t.Logf("all 2,000 commands everywhere %v after the heal", took)
				if most := 3 * time.Second; took > most {
					t.Errorf("healed in %v, want at most %v", took, most)
				}
			})
		})
	}
}

// A group is restarted in its process, as a watchdog does it, while the other
// groups of the node go on.
func TestGroupRestarts(t *testing.T) {
	inCluster(t, 4, nil, func(t *testing.T, c *cluster) {
		c.apply(10)
		for _, node := range c.nodes { // leader and followers
			r := c.replicas[node][2]
			if err := r.raft.Shutdown().Error(); err != nil {
				t.Fatal(err)
			}
			c.eventually("shard 2 has a leader", func() bool { return c.leader(2) != nil })
			c.apply(10)
			c.boot(node, r, c.nets[node].Group(2))
		}
		c.eventually("the restarted groups have all commands", func() bool { return c.allSettled(40) })
	})
}

func TestLeadershipIsTransferred(t *testing.T) {
	inCluster(t, 1, nil, func(t *testing.T, c *cluster) {
		c.apply(10)
		old := c.leader(0)
		if err := old.LeadershipTransfer().Error(); err != nil {
			t.Fatal(err)
		}
		c.eventually("another leads", func() bool { l := c.leader(0); return l != nil && l != old })
		c.apply(10)
		c.eventually("all commands are everywhere", func() bool { return c.allSettled(20) })
	})
}

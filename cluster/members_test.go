package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/manykv/manykv/client"
	"github.com/manykv/manykv/fsm"
	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
	"github.com/manykv/manykv/transport/pki"
)

// join makes one more node, which founds nothing, and starts it.
func (c *testCluster) join(name string) int {
	c.t.Helper()
	certs := filepath.Join(c.dir, "certs")
	must(c.t, pki.IssueNode(certs, name, nil))
	cfg := c.cfgs[0]
	cfg.Name, cfg.DataDir = name, filepath.Join(c.dir, name)
	cfg.Listen = fmt.Sprintf("127.0.0.1:%d", freePorts(c.t, 1)[0])
	cfg.CertFile, cfg.KeyFile = filepath.Join(certs, name+".crt"), filepath.Join(certs, name+".key")
	cfg.BootstrapExpect, cfg.Logger = 0, testLogger(c.t, name)
	c.cfgs, c.nodes = append(c.cfgs, cfg), append(c.nodes, nil)
	c.start(len(c.nodes) - 1)
	return len(c.nodes) - 1
}

// command has the leader of the meta group do something.
func (c *testCluster) command(do func(ctx context.Context, n *Node) error) {
	c.t.Helper()
	last := errNotLeader
	eventually(c.t, 10*time.Second, func() string {
		for _, n := range c.nodes {
			if n == nil || n.replica(sharding.Meta) == nil || !n.replica(sharding.Meta).leads() {
				continue
			}
			ctx, done := context.WithTimeout(c.t.Context(), 5*time.Second)
			defer done()
			if last = do(ctx, n); last == nil {
				return ""
			}
		}
		return last.Error()
	})
}

// placed waits until the placement of the map's shards has come to rest on exactly
// the given nodes, and the raft groups are as the map says.
func (c *testCluster) placed(within time.Duration, names ...sharding.NodeID) {
	c.t.Helper()
	eventually(c.t, within, func() string {
		var m *sharding.Map
		for _, n := range c.nodes {
			if n == nil {
				continue
			}
			if mine := n.current.Load(); mine != nil && (m == nil || mine.Epoch > m.Epoch) {
				m = mine
			}
		}
		if g := m.Moving(); g != nil {
			return fmt.Sprintf("shard %d is moving: %+v", g.Shard, *g)
		}
		if mv, ok := m.NextMove(); ok {
			return "still to do: " + mv.String()
		}
		var ids []sharding.NodeID
		for _, n := range m.Nodes {
			ids = append(ids, n.ID)
		}
		if !slices.Equal(ids, names) {
			return fmt.Sprintf("the nodes are %v, want %v", ids, names)
		}
		for s := range sharding.Shard(len(m.Groups) + 1) {
			if missing := c.asMapped(m, m.Group(s)); missing != "" {
				return missing
			}
		}
		return ""
	})
}

// asMapped says what of a group is not as the map wants it.
func (c *testCluster) asMapped(m *sharding.Map, g *sharding.Group) string {
	want := wantedServers(m, g)
	slices.Sort(want)
	led := false
	for _, n := range c.nodes {
		if n == nil {
			continue
		}
		r := n.replica(g.Shard)
		if slices.Contains(want, n.self) != (r != nil) {
			return fmt.Sprintf("shard %d on %s: a replica: %v, want %v", g.Shard, n.name, r != nil, r == nil)
		}
		if r == nil {
			continue
		}
		if r.newcomer.Load() {
			return fmt.Sprintf("shard %d on %s is a newcomer", g.Shard, n.name)
		}
		if got := r.configuration(); len(got) != len(want) || !slices.Equal(r.voters(), want) {
			return fmt.Sprintf("shard %d on %s: %v, want %v", g.Shard, n.name, got, want)
		}
		led = led || r.leads()
	}
	if !led {
		return fmt.Sprintf("shard %d has no leader", g.Shard)
	}
	return ""
}

// writer sets one pair after the other until it is stopped, and remembers those
// that were acknowledged.
type writer struct {
	stop context.CancelFunc
	all  sync.WaitGroup

	mu    sync.Mutex
	acked []kv.Pair
	err   error
}

// write starts a writer of a bucket.
func write(t *testing.T, b *client.Bucket) *writer {
	ctx, stop := context.WithCancel(t.Context())
	w := &writer{stop: stop}
	w.all.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			pair := kv.Pair{Key: fmt.Sprintf("written-%06d", i), Value: fmt.Appendf(nil, "value %d", i)}
			call, done := context.WithTimeout(context.Background(), 15*time.Second)
			err := b.Set(call, pair.Key, pair.Value)
			done()
			w.mu.Lock()
			if err == nil {
				w.acked = append(w.acked, pair)
			} else if !errors.Is(err, kv.ErrUnknown) { // in flight when a leader went
				w.err = errors.Join(w.err, err)
			}
			w.mu.Unlock()
		}
	})
	return w
}

// end stops the writer and wants everything it was told of to be there.
func (w *writer) end(t *testing.T, b *client.Bucket) {
	t.Helper()
	w.stop()
	w.all.Wait()
	if w.err != nil {
		t.Errorf("writes failed: %v", w.err)
	}
	if len(w.acked) == 0 {
		t.Error("nothing was written")
	}
	for chunk := range slices.Chunk(w.acked, 1000) {
		expect(t, "written meanwhile", b, chunk)
	}
}

func TestNodeJoins(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3)
	cl := c.client(c.clientConfig())
	b := bucket(t, cl, "files")
	before := somePairs(300, "before")
	must(t, b.SetMany(t.Context(), before))
	fourth := c.join("n4")
	waits(t, c.nodes[fourth], "manykv node add "+c.cfgs[fourth].Listen)

	w := write(t, b)
	c.command(func(ctx context.Context, n *Node) error { return n.addNode(ctx, c.cfgs[fourth].Listen) })
	c.placed(60*time.Second, "n1", "n2", "n3", "n4")
	w.end(t, b)
	held := make(map[sharding.NodeID]int)
	for _, g := range c.nodes[0].current.Load().Groups {
		for _, id := range g.Replicas {
			held[id]++
		}
	}
	for id, n := range held {
		if n < 4 || n > 5 { // 6 shards, 3 replicas each, 4 nodes
			t.Errorf("node %s holds %d of %v", id, n, held)
		}
	}
	expect(t, "through n4", c.through(fourth, "files"), before)
	c.sameHashes()

	c.stop(fourth) // it comes back as what it is now
	c.start(fourth)
	expect(t, "through n4 again", c.through(fourth, "files"), before)
}

// A node that leads the meta group and some shards is drained, forgotten, and may
// come back with the directory it has.
func TestNodeLeaves(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 4)
	b := bucket(t, c.client(c.clientConfig()), "files")
	before := somePairs(300, "before")
	must(t, b.SetMany(t.Context(), before))
	w := write(t, b)
	c.command(func(ctx context.Context, n *Node) error { return n.removeNode(ctx, "n1", "") })
	c.placed(60*time.Second, "n2", "n3", "n4")
	w.end(t, b)
	waits(t, c.nodes[0], "was removed", "manykv node add")
	eventually(t, 5*time.Second, func() string {
		if s, left := c.nodes[0].Status(), c.nodes[0].logs.Shards(); len(s.Shards) > 0 || len(left) > 0 {
			return fmt.Sprintf("n1 has %d shards, and in its log %v", len(s.Shards), left)
		}
		return ""
	})
	if m := c.nodes[0].catalog.Map(); m != nil {
		t.Errorf("n1 has a catalogue of epoch %d still", m.Epoch)
	}
	c.sameHashes()

	c.stop(0)
	c.start(0)
	after := somePairs(300, "after")
	must(t, b.SetMany(t.Context(), after))
	c.command(func(ctx context.Context, n *Node) error { return n.addNode(ctx, c.cfgs[0].Listen) })
	c.placed(60*time.Second, "n1", "n2", "n3", "n4")
	if s := c.nodes[0].Status(); s.State != "serving" || s.Reason != "" {
		t.Errorf("n1 is %s: %s", s.State, s.Reason)
	}
	expect(t, "through n1", c.through(0, "files"), after)
	c.sameHashes()
}

// wipe empties a node's directory.
func (c *testCluster) wipe(i int) {
	c.t.Helper()
	must(c.t, os.RemoveAll(c.cfgs[i].DataDir))
}

// A node loses its disk. The others go on; its name comes back with an empty
// directory, is refused until somebody says so, and then gets everything again.
func TestNodeIsReplaced(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3)
	b := bucket(t, c.client(c.clientConfig()), "files")
	must(t, b.SetMany(t.Context(), somePairs(300, "before")))
	w := write(t, b)
	c.stop(2)
	c.wipe(2)
	c.start(2)
	waits(t, c.nodes[2], "refused", "must not come back under the old name", "manykv node replace n3")
	c.command(func(ctx context.Context, n *Node) error {
		switch err := n.addNode(ctx, c.cfgs[2].Listen); {
		case errors.Is(err, errNotLeader):
			return err // another is asked
		case !errors.Is(err, kv.ErrExists):
			t.Errorf("a wiped node was added: %v", err)
		}
		return n.replaceNode(ctx, "n3", c.cfgs[2].Listen)
	})
	c.placed(60*time.Second, "n1", "n2", "n3")
	w.end(t, b)
	c.sameHashes()

	// It votes: with it, and without another, everything goes on.
	c.stop(0)
	pairs := somePairs(300, "without n1")
	must(t, b.SetMany(t.Context(), pairs))
	expect(t, "through n3", c.through(2, "files"), pairs)
}

// A lost node's place is taken by one of another name.
func TestNodeIsReplacedByAnother(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3)
	b := bucket(t, c.client(c.clientConfig()), "files")
	w := write(t, b)
	c.stop(0)
	fourth := c.join("n4")
	c.command(func(ctx context.Context, n *Node) error { return n.replaceNode(ctx, "n1", c.cfgs[fourth].Listen) })
	c.placed(60*time.Second, "n2", "n3", "n4")
	w.end(t, b)
	c.sameHashes()
	for _, n := range c.nodes[1:] {
		if len(n.replicaSet()) != len(c.nodes[1].current.Load().Groups)+1 {
			t.Errorf("%s has %d replicas", n.name, len(n.replicaSet()))
		}
	}
}

// The driver dies in the middle of a move, and comes back: another goes on.
func TestDriverDies(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3)
	b := bucket(t, c.client(c.clientConfig()), "files")
	must(t, b.SetMany(t.Context(), somePairs(300, "before")))
	fourth := c.join("n4")
	w := write(t, b)
	c.command(func(ctx context.Context, n *Node) error { return n.addNode(ctx, c.cfgs[fourth].Listen) })
	killed := -1
	eventually(t, 20*time.Second, func() string {
		for i, n := range c.nodes {
			if m := n.current.Load(); m != nil && m.Moving() != nil && n.replica(sharding.Meta) != nil && n.replica(sharding.Meta).leads() {
				killed = i
				return ""
			}
		}
		return "nothing moves"
	})
	c.stop(killed)
	eventually(t, 10*time.Second, func() string {
		for _, n := range c.nodes {
			if n != nil && n.replica(sharding.Meta) != nil && n.replica(sharding.Meta).leads() {
				return ""
			}
		}
		return "nobody leads the meta group"
	})
	c.start(killed)
	c.placed(60*time.Second, "n1", "n2", "n3", "n4")
	w.end(t, b)
	c.sameHashes()
}

// The leader of the meta group dies right after a bucket was marked as deleted.
func TestBucketIsDeletedByTheNextLeader(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3)
	cl := c.client(c.clientConfig())
	b := bucket(t, cl, "files")
	must(t, b.SetMany(t.Context(), somePairs(300, "before")))
	id, ok, err := c.nodes[0].catalog.Bucket("files")
	eventually(t, 5*time.Second, func() string {
		if id, ok, err = c.nodes[0].catalog.Bucket("files"); err != nil || !ok {
			return fmt.Sprintf("n1 has no bucket: %v", err)
		}
		return ""
	})
	leader := -1
	c.command(func(ctx context.Context, n *Node) error {
		leader = slices.Index(c.nodes, n)
		_, err := n.decide(ctx, fsm.AppendDeleteBucket(nil, "files", id))
		return err
	})
	c.stop(leader)
	eventually(t, 20*time.Second, func() string {
		for _, n := range c.nodes {
			if n == nil {
				continue
			}
			for s := range sharding.Shard(len(n.current.Load().Groups)) {
				err := n.replica(s+1).data.Get(id, []string{"key-00001"}, func(int, []byte, uint64, bool) error { return nil })
				if !errors.Is(err, kv.ErrNoSuchStore) {
					return fmt.Sprintf("shard %d on %s has the bucket still: %v", s+1, n.name, err)
				}
			}
			if dropping, err := n.catalog.Dropping(); err != nil || len(dropping) > 0 {
				return fmt.Sprintf("%s: still %v, %v", n.name, dropping, err)
			}
		}
		return ""
	})
	if err := b.Set(t.Context(), "k", []byte("v")); !errors.Is(err, kv.ErrNoSuchStore) {
		t.Errorf("a write to a deleted bucket: %v", err)
	}
}

// A bucket of the same name is another one, and a deletion that is asked for again
// does not take it.
func TestBucketIsDeleted(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3)
	cl := c.client(c.clientConfig())
	b := bucket(t, cl, "files")
	pairs := somePairs(300, "before")
	must(t, b.SetMany(t.Context(), pairs))
	must(t, cl.DeleteBucket(t.Context(), "files"))
	if _, _, err := b.Get(t.Context(), "key-00001"); !errors.Is(err, kv.ErrNoSuchStore) {
		t.Errorf("a read of a deleted bucket: %v", err)
	}
	if err := cl.DeleteBucket(t.Context(), "files"); !errors.Is(err, kv.ErrNoSuchStore) {
		t.Errorf("deleted twice: %v", err)
	}
	again := bucket(t, cl, "files")
	must(t, again.Set(t.Context(), "k", []byte("v")))
	if _, found, err := again.Get(t.Context(), "key-00001"); err != nil || found {
		t.Errorf("the new bucket has a key of the old one: %v, %v", found, err)
	}
	c.command(func(ctx context.Context, n *Node) error {
		switch err := n.deleteBucket(ctx, n.replica(sharding.Meta), "files", 1); {
		case errors.Is(err, errNotLeader):
			return err // another is asked
		case !errors.Is(err, kv.ErrNoSuchStore):
			t.Errorf("the old bucket was deleted again: %v", err)
		}
		return nil
	})
	if _, found, err := again.Get(t.Context(), "k"); err != nil || !found {
		t.Errorf("the new bucket has lost its key: %v, %v", found, err)
	}
}

// The shards have grown past what the journals keep: who joins gets them as
// snapshots.
func TestNodeJoinsBySnapshot(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, smallJournal)
	for i := range c.nodes {
		c.start(i)
	}
	cl := c.client(c.clientConfig())
	b := bucket(t, cl, "files")
	const many = 3 * MinJournalBytes / (64 << 10)
	fill(t, b, many, "before")
	fourth := c.join("n4")
	must(t, cl.AddNode(t.Context(), c.cfgs[fourth].Listen))
	c.placed(60*time.Second, "n1", "n2", "n3", "n4")
	expectBlocks(t, "through n4", c.through(fourth, "files"), many, "before")
	c.sameHashes()
	if got := c.nodes[fourth].net.Stats().SnapshotsReceived; got == 0 {
		t.Error("no snapshot was received")
	}
}

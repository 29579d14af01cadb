package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/manykv/manykv/coordinator"
	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
	"github.com/manykv/manykv/transport/pki"
)

// behind says which replica of node i is behind its leader.
func (c *testCluster) behind(i int) string {
	for _, mine := range c.nodes[i].Status().Shards {
		for j, other := range c.nodes {
			if other == nil || j == i {
				continue
			}
			for _, theirs := range other.Status().Shards {
				if theirs.Shard == mine.Shard && theirs.Role == "leader" && theirs.Commit > mine.Applied && theirs.Applied > mine.Applied {
					return fmt.Sprintf("shard %d: n%d has applied %d, the leader %d", mine.Shard, i+1, mine.Applied, theirs.Applied)
				}
			}
		}
	}
	return ""
}

func TestNodeAwayAndBack(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3)
	b := bucket(t, c.client(c.clientConfig()), "files")
	before := somePairs(300, "before")
	must(t, b.SetMany(t.Context(), before))
	c.stop(2)
	away := somePairs(400, "while away")
	must(t, b.SetMany(t.Context(), away))
	expect(t, "survivors", b, away)

	// It comes back at another address: a pod does.
	c.cfgs[2].Listen = fmt.Sprintf("127.0.0.1:%d", freePorts(t, 1)[0])
	c.start(2)
	expect(t, "through the one that was away", c.through(2, "files"), away)
	eventually(t, 10*time.Second, func() string { return c.behind(2) })
	eventually(t, 10*time.Second, func() string {
		if n, _ := c.nodes[0].current.Load().Node("n3"); n.Addr != c.cfgs[2].Listen {
			return "the map still says n3 is at " + n.Addr
		}
		return ""
	})
}

func TestWholeClusterRestarts(t *testing.T) {
	t.Parallel()
	for _, store := range []string{"wal", "boltdb"} {
		t.Run(store, func(t *testing.T) {
			c := newCluster(t, 3, func(_ int, cfg *Config) { cfg.LogStore = store })
			for i := range c.nodes {
				c.start(i)
			}
			b := bucket(t, c.client(c.clientConfig()), "files")
			pairs := somePairs(500, "kept")
			must(t, b.SetMany(t.Context(), pairs))
			c.stopAll()
			for i := range c.nodes {
				c.start(i)
			}
			b, err := c.client(c.clientConfig()).Bucket(t.Context(), "files")
			must(t, err)
			expect(t, "after restart", b, pairs)
		})
	}
}

func TestLeadersSpread(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3)
	eventually(t, 30*time.Second, func() string {
		leads := make(map[sharding.NodeID]int)
		for _, n := range c.nodes {
			for _, s := range n.Status().Shards {
				if s.Role == "leader" && s.Shard != sharding.Meta {
					leads[s.Leader]++
				}
			}
		}
		for i := range c.nodes {
			if id := sharding.NodeID(fmt.Sprintf("n%d", i+1)); leads[id] != 2 {
				return fmt.Sprintf("leaders: %v, want 2 each", leads)
			}
		}
		return ""
	})
	// A transfer that succeeded must not look like one that is stuck: proposals
	// refused meanwhile have left their mark on the old leader.
	for _, n := range c.nodes {
		for _, r := range n.replicaSet() {
			if !r.leads() {
				r.transferring.Store(1) // since the replica started: long ago
				if r.stuck(t.Context()) {
					t.Errorf("shard %d on %s: a follower is taken for stuck", r.shard, n.name)
				}
			}
		}
	}
}

func TestOneNode(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, func(_ int, cfg *Config) { cfg.Join = nil })
	c.start(0)
	b := bucket(t, c.client(c.clientConfig()), "files")
	pairs := somePairs(100, "alone")
	must(t, b.SetMany(t.Context(), pairs))
	expect(t, "alone", b, pairs)
}

// A resolver that answers nobody, as that of a container's network for a node that is
// gone, must not hold up a node that ends. Not parallel: the resolver is everybody's.
func TestANodeEndsWhileNamesAreLookedUp(t *testing.T) {
	c := newCluster(t, 1, func(_ int, cfg *Config) { cfg.Join = nil })
	c.start(0)
	c.stop(0)
	asked := make(chan struct{}, 100)
	before := net.DefaultResolver
	t.Cleanup(func() { net.DefaultResolver = before })
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		select {
		case asked <- struct{}{}:
		default:
		}
		silent, other := net.Pipe()
		t.Cleanup(func() { _ = other.Close() })
		return silent, nil
	}}
	c.cfgs[0].Join = []string{"nobody-1:7100", "nobody-2:7100"}
	c.start(0)
	select {
	case <-asked:
	case <-time.After(10 * time.Second):
		t.Fatal("no name was looked up")
	}
	began := time.Now()
	c.stop(0)
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the node took %v to end", took)
	}
}

// With four nodes one has no copy of the catalogue and learns the map from the
// others.
func TestNodeWithoutMetaReplica(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 4)
	b := bucket(t, c.client(c.clientConfig()), "files")
	pairs := somePairs(300, "four nodes")
	must(t, b.SetMany(t.Context(), pairs))
	expect(t, "through n4", c.through(3, "files"), pairs)
	if c.nodes[3].replica(sharding.Meta) != nil {
		t.Error("n4 has a replica of the meta group")
	}
	// It comes back elsewhere while the node that should lead the meta group is
	// away: the address reaches the map all the same.
	c.stop(0)
	c.stop(3)
	c.cfgs[3].Listen = fmt.Sprintf("127.0.0.1:%d", freePorts(t, 1)[0])
	c.start(3)
	expect(t, "through n4 again", c.through(3, "files"), pairs)
	eventually(t, 15*time.Second, func() string {
		if n, _ := c.nodes[1].current.Load().Node("n4"); n.Addr != c.cfgs[3].Listen {
			return "the map still says n4 is at " + n.Addr
		}
		return ""
	})
}

// failure opens a node and returns why it did not open, or why it stopped.
func failure(t *testing.T, cfg Config) string {
	t.Helper()
	n, err := Open(cfg)
	if err != nil {
		return err.Error()
	}
	select {
	case <-n.Done():
		err = n.Err()
	case <-time.After(20 * time.Second):
		t.Error("the node goes on")
	}
	ctx, done := context.WithTimeout(context.Background(), time.Second)
	defer done()
	must(t, n.Close(ctx))
	return fmt.Sprint(err)
}

func wantText(t *testing.T, got string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(got, w) {
			t.Errorf("%q does not say %q", got, w)
		}
	}
}

// waits wants a node to wait, and to say why.
func waits(t *testing.T, n *Node, reason ...string) {
	t.Helper()
	eventually(t, 10*time.Second, func() string {
		if s := n.Status(); s.State != "waiting" {
			return "the node is " + s.State
		}
		return ""
	})
	wantText(t, n.Status().Reason, reason...)
}

func TestNodesThatMayNotJoin(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3)
	bucket(t, c.client(c.clientConfig()), "files")

	t.Run("second process on the directory", func(t *testing.T) {
		cfg := c.cfgs[0]
		cfg.Listen = "127.0.0.1:0"
		wantText(t, failure(t, cfg), "in use by another process", cfg.DataDir)
	})
	t.Run("port in use", func(t *testing.T) {
		cfg := c.cfgs[0]
		cfg.DataDir = t.TempDir()
		wantText(t, failure(t, cfg), cfg.Listen, "in use")
	})
	t.Run("wiped directory under the old name", func(t *testing.T) {
		c.stop(2)
		must(t, os.Rename(c.cfgs[2].DataDir, c.cfgs[2].DataDir+".away"))
		c.start(2)
		waits(t, c.nodes[2], "refused", "must not come back under the old name", "n3")
		if len(c.nodes[2].replicaSet()) > 0 || c.nodes[2].founded.Load() != nil {
			t.Error("it takes part all the same")
		}
		c.stop(2)
		must(t, os.RemoveAll(c.cfgs[2].DataDir))
		must(t, os.Rename(c.cfgs[2].DataDir+".away", c.cfgs[2].DataDir))
	})
	t.Run("damaged directory", func(t *testing.T) {
		votes := filepath.Join(c.cfgs[2].DataDir, votesFile)
		must(t, os.Rename(votes, votes+".away"))
		wantText(t, failure(t, c.cfgs[2]), "has lost votes.db")
		must(t, os.Rename(votes+".away", votes))
		c.start(2)
	})
	t.Run("a node nobody expected", func(t *testing.T) {
		certs := filepath.Join(c.dir, "certs")
		must(t, pki.IssueNode(certs, "n9", nil))
		cfg := c.cfgs[0]
		cfg.Name, cfg.DataDir, cfg.Listen = "n9", t.TempDir(), "127.0.0.1:0"
		cfg.CertFile, cfg.KeyFile = filepath.Join(certs, "n9.crt"), filepath.Join(certs, "n9.key")
		n, err := Open(cfg)
		must(t, err)
		waits(t, n, "does not know node n9", "manykv node add "+n.Addr())
		must(t, n.Close(t.Context()))
	})
	t.Run("a node of another cluster is not added", func(t *testing.T) {
		other := newCluster(t, 1, func(_ int, cfg *Config) {
			cfg.Join = nil
			cfg.CAFile, cfg.GossipKeyFile = c.cfgs[0].CAFile, c.cfgs[0].GossipKeyFile
			cfg.CertFile, cfg.KeyFile, cfg.Name = c.cfgs[2].CertFile, c.cfgs[2].KeyFile, "n3"
		})
		other.start(0)
		bucket(t, other.client(c.clientOf(other.cfgs[0].Listen)), "files")
		c.command(func(ctx context.Context, n *Node) error {
			for what, err := range map[string]error{
				"a node of another cluster was added":            n.addNode(ctx, other.cfgs[0].Listen),
				"a node that is not there was added":             n.addNode(ctx, "127.0.0.1:9"),
				"a node that is not of the cluster was removed":  n.removeNode(ctx, "n9", ""),
				"a node that is not of the cluster was replaced": n.replaceNode(ctx, "n9", c.cfgs[0].Listen),
			} {
				switch {
				case errors.Is(err, errNotLeader):
					return err // another is asked
				case !errors.Is(err, kv.ErrInvalid):
					t.Errorf("%s: %v", what, err)
				}
			}
			return nil
		})
	})
	t.Run("another node's directory", func(t *testing.T) {
		c.stop(2)
		cfg := c.cfgs[2]
		cfg.CertFile, cfg.KeyFile, cfg.Name = c.cfgs[1].CertFile, c.cfgs[1].KeyFile, "n2"
		wantText(t, failure(t, cfg), `belongs to node "n3"`, `this is node "n2"`)
	})
	t.Run("another cluster's directory", func(t *testing.T) {
		other := newCluster(t, 1, func(_ int, cfg *Config) {
			cfg.Join = nil
			cfg.CAFile, cfg.GossipKeyFile = c.cfgs[0].CAFile, c.cfgs[0].GossipKeyFile
			cfg.CertFile, cfg.KeyFile, cfg.Name = c.cfgs[2].CertFile, c.cfgs[2].KeyFile, "n3"
		})
		other.start(0)
		eventually(t, 10*time.Second, func() string {
			if other.nodes[0].founded.Load() == nil {
				return "not founded"
			}
			return ""
		})
		other.stop(0)
		cfg := other.cfgs[0]
		cfg.Join = c.cfgs[0].Join
		wantText(t, failure(t, cfg), "the data directory is of cluster")
	})
}

// A node with another CA's certificate is heard by nobody.
func TestForeignCertificate(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, nil)
	foreign := newCluster(t, 2, nil)
	c.cfgs[1].CAFile, c.cfgs[1].CertFile, c.cfgs[1].KeyFile = foreign.cfgs[1].CAFile, foreign.cfgs[1].CertFile, foreign.cfgs[1].KeyFile
	c.start(0)
	c.start(1)
	ctx, done := context.WithTimeout(t.Context(), 3*time.Second)
	defer done()
	_, _, err := c.nodes[1].trans.CallAddr(ctx, c.cfgs[0].Listen, methodHello, nil)
	if err == nil || ctx.Err() != nil {
		t.Errorf("a hello under another CA: %v; want a refusal at once", err)
	}
	if f := c.nodes[0].founded.Load(); f != nil {
		t.Errorf("a cluster was founded: %v", f)
	}
}

// Nodes stopped between promise and founding go on where they were.
func TestPromiseIsKept(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, nil)
	c.start(0)
	c.start(1)
	promised := founding{Cluster: 7, Replicas: 3}
	for i, n := range c.nodes[:2] {
		promised.Nodes = append(promised.Nodes, sharding.Node{ID: n.name, Storage: n.storage, Addr: c.cfgs[i].Listen})
	}
	promised.Nodes = append(promised.Nodes, sharding.Node{ID: "n3", Storage: 3, Addr: c.cfgs[2].Listen})
	must(t, c.nodes[1].servePromise("n1", promised.append(nil)))
	c.stop(1)
	c.start(1)
	for _, r := range []struct {
		name, from string
		edit       func(f *founding)
		want       string // "" = promised
	}{
		{"the same again", "n1", func(*founding) {}, ""},
		{"from somebody else", "n3", func(*founding) {}, "should"},
		{"without this node", "n1", func(f *founding) { f.Nodes[1].Storage++ }, "does not name node n2"},
		{"another number of nodes", "n1", func(f *founding) { f.Nodes = f.Nodes[:2] }, "bootstrap-expect"},
		{"by a proposer that was wiped", "n1", func(f *founding) { f.Cluster, f.Nodes[0].Storage = 8, 8 }, "has promised"},
		{"a new one of the same proposer", "n1", func(f *founding) { f.Cluster, f.Nodes[2].Storage = 9, 4 }, ""},
	} {
		f := promised
		f.Nodes = append([]sharding.Node(nil), promised.Nodes...)
		r.edit(&f)
		err := c.nodes[1].servePromise(sharding.NodeID(r.from), f.append(nil))
		if (err == nil) != (r.want == "") {
			t.Errorf("%s: %v", r.name, err)
		} else if err != nil {
			wantText(t, err.Error(), r.want)
		}
	}
	if got := c.nodes[1].promise.Load().Cluster; got != 9 {
		t.Errorf("promised to %d, want 9", got)
	}
	// A node that has promised does not propose anything itself: the cluster it
	// promised may have been founded without its knowing.
	others := []sharding.Node{{ID: "n2", Storage: c.nodes[1].storage}, {ID: "n3", Storage: 4}}
	if done, why, err := c.nodes[1].propose(t.Context(), others); done || err != nil || !strings.Contains(why, "has promised") {
		t.Errorf("a node that has promised proposed: %v, %q, %v", done, why, err)
	}
	c.start(2) // now all three are here: n1 proposes anew, and they agree
	bucket(t, c.client(c.clientConfig()), "files")
	ids := make(map[string]bool)
	for _, n := range c.nodes {
		ids[n.Status().Cluster] = true
	}
	if len(ids) != 1 {
		t.Errorf("clusters: %v, want one", ids)
	}
}

// A log that is gone while the votes are there must not be taken for a new one;
// a crash between the two writes of a new one must not stop it for ever.
func TestLogAndVotesBelongTogether(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, func(_ int, cfg *Config) { cfg.Join = nil })
	c.start(0)
	bucket(t, c.client(c.clientConfig()), "files")
	n := c.nodes[0]
	g := sharding.Group{Shard: 77, Generation: 1, Replicas: []sharding.NodeID{"n1"}}
	fresh := func() *replica {
		data, err := n.store.Data(g.Shard)
		must(t, err)
		return n.lone(&g, data)
	}
	r := fresh()
	must(t, r.votes.SetUint64(currentTerm, 3))
	must(t, r.open())
	if bad := r.bad.Load(); bad == nil || !strings.Contains((*bad).Error(), "the log is lost") {
		t.Errorf("votes without a log: %v", bad)
	}
	g.Shard = 78
	r = fresh()
	must(t, errors.Join(r.prepareTenure(), r.prepareLog()))
	r = fresh()
	must(t, r.logs.DeleteRange(1, 1)) // as if the term had been written and not the log
	if err := errors.Join(r.prepareTenure(), r.prepareLog()); !errors.Is(err, errQuarantined) {
		t.Errorf("a log that lost its only entry: %v", err)
	}
	g.Shard = 79
	r = fresh()
	r.servers.Servers = r.servers.Servers[:1]
	must(t, r.logs.StoreLog(&raft.Log{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(r.servers)}))
	must(t, r.open()) // as if the log had been written and not the term
	eventually(t, 10*time.Second, func() string {
		if !r.leads() {
			return "no leader"
		}
		return ""
	})
	must(t, r.close())
}

// Writes that nobody commits must not fill the memory.
func TestBusy(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, func(_ int, cfg *Config) { cfg.Join = nil })
	c.start(0)
	b := bucket(t, c.client(c.clientConfig()), "files")
	all := c.nodes[0].proposed.most
	if !c.nodes[0].proposed.take(all) {
		t.Fatal("the budget is used already")
	}
	ctx, done := context.WithTimeout(t.Context(), 2*time.Second) // it is tried again until then
	defer done()
	err := b.Set(ctx, "k", []byte("v"))
	var batch *kv.BatchError
	if !errors.Is(err, kv.ErrBusy) || !errors.As(err, &batch) || batch.Outcomes[0] != kv.OutcomeNotApplied {
		t.Errorf("over the budget: %v", err)
	}
	c.nodes[0].proposed.give(all)
	must(t, b.Set(t.Context(), "k", []byte("v")))
	eventually(t, 5*time.Second, func() string {
		if left := c.nodes[0].proposed.used.Load(); left != 0 {
			return fmt.Sprintf("%d bytes are never given back", left)
		}
		return ""
	})
}

// Clients may not use what is for nodes.
func TestClientsMayNotCallNodesMethods(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, func(_ int, cfg *Config) { cfg.Join = nil })
	c.start(0)
	for _, method := range []byte{methodHello, methodPromise, methodConfirm, methodReadIndex, methodNodeAddr, methodReconfigure, methodProgress, methodDrop, methodConfirmedMap} {
		id := c.nodes[0].trans.Self()
		id.Role = "client"
		if _, err := c.nodes[0].handle(t.Context(), id, method, nil); err == nil || !strings.Contains(err.Error(), "only nodes") {
			t.Errorf("method %d: %v", method, err)
		}
	}
	id := c.nodes[0].trans.Self()
	for _, method := range []byte{methodPromise, methodConfirm, methodReadIndex, methodNodeAddr, methodReconfigure, methodProgress, methodDrop, methodConfirmedMap, coordinator.MethodNodes, coordinator.MethodMap, coordinator.MethodParts, coordinator.MethodBatch, coordinator.MethodBuckets, coordinator.MethodCatalog, 200} {
		if _, err := c.nodes[0].handle(t.Context(), id, method, []byte{0xff}); err == nil {
			t.Errorf("method %d took garbage", method)
		}
	}
}

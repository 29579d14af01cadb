package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/manykv/manykv/client"
	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
	"github.com/manykv/manykv/transport/pki"
)

// testCluster is n nodes of one cluster in this process, on loopback.
type testCluster struct {
	t     testing.TB
	dir   string
	cfgs  []Config
	nodes []*Node
}

// freePorts returns n UDP ports that were free a moment ago. They are below those
// that the system gives out by itself, one of which a client could take while the
// node is down.
func freePorts(t testing.TB, n int) []int {
	t.Helper()
	const lowest, count = 10_000, 20_000
	var ports []int
	for tries := 0; len(ports) < n; tries++ {
		port := lowest + rand.IntN(count)
		c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
		if err != nil {
			if tries == count {
				t.Fatal(err)
			}
			continue
		}
		defer c.Close()
		ports = append(ports, port)
	}
	return ports
}

// newCluster makes certificates and configurations for n nodes and starts none.
func newCluster(t testing.TB, n int, edit func(i int, cfg *Config)) *testCluster {
	t.Helper()
	c := &testCluster{t: t, dir: t.TempDir(), nodes: make([]*Node, n)}
	certs := filepath.Join(c.dir, "certs")
	must(t, pki.NewCA(certs, "test"))
	must(t, pki.IssueClient(certs, "client"))
	var join []string
	for _, port := range freePorts(t, n) {
		join = append(join, fmt.Sprintf("127.0.0.1:%d", port))
	}
	for i := range n {
		name := fmt.Sprintf("n%d", i+1)
		must(t, pki.IssueNode(certs, name, nil))
		cfg := Config{
			Name: name, DataDir: filepath.Join(c.dir, name), Listen: join[i],
			CAFile: filepath.Join(certs, "ca.crt"), GossipKeyFile: filepath.Join(certs, "gossip.key"),
			CertFile: filepath.Join(certs, name+".crt"), KeyFile: filepath.Join(certs, name+".key"),
			Join: join, BootstrapExpect: n, Logger: testLogger(t, name),
		}
		if edit != nil {
			edit(i, &cfg)
		}
		c.cfgs = append(c.cfgs, cfg)
	}
	t.Cleanup(c.stopAll)
	return c
}

// testLogger logs to standard error when MANYKV_TEST_LOG is set.
func testLogger(t testing.TB, name string) *slog.Logger {
	if os.Getenv("MANYKV_TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("node", name)
}

func startCluster(t testing.TB, n int) *testCluster {
	t.Helper()
	c := newCluster(t, n, nil)
	for i := range n {
		c.start(i)
	}
	return c
}

func (c *testCluster) start(i int) {
	c.t.Helper()
	node, err := Open(c.cfgs[i])
	if err != nil {
		c.t.Fatal(err)
	}
	c.nodes[i] = node
}

func (c *testCluster) stop(i int) {
	c.t.Helper()
	if c.nodes[i] == nil {
		return
	}
	ctx, done := context.WithTimeout(context.Background(), 5*time.Second)
	defer done()
	if err := c.nodes[i].Close(ctx); err != nil {
		c.t.Errorf("close n%d: %v", i+1, err)
	}
	c.nodes[i] = nil
}

func (c *testCluster) stopAll() {
	for i := range c.nodes {
		c.stop(i)
	}
}

// clientConfig reaches the given nodes, all of them if none is given.
func (c *testCluster) clientConfig(nodes ...int) client.Config {
	certs := filepath.Join(c.dir, "certs")
	cfg := client.Config{
		CAFile: filepath.Join(certs, "ca.crt"), CertFile: filepath.Join(certs, "client.crt"), KeyFile: filepath.Join(certs, "client.key"),
		Timeout: time.Minute, // for tens of MiB with the race detector on a slow machine
	}
	for i := range c.cfgs {
		if len(nodes) == 0 || i == nodes[0] {
			cfg.Addrs = append(cfg.Addrs, c.cfgs[i].Listen)
		}
	}
	return cfg
}

// clientOf reaches a node at an address with this cluster's certificates.
func (c *testCluster) clientOf(addr string) client.Config {
	cfg := c.clientConfig()
	cfg.Addrs = []string{addr}
	return cfg
}

func (c *testCluster) client(cfg client.Config) *client.Client {
	c.t.Helper()
	cl, err := client.Open(c.t.Context(), cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { cl.Close() })
	return cl
}

// bucket makes a bucket and opens it.
func bucket(t testing.TB, cl *client.Client, name string) *client.Bucket {
	t.Helper()
	must(t, cl.CreateBucket(t.Context(), name))
	b, err := cl.Bucket(t.Context(), name)
	must(t, err)
	return b
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// somePairs returns n pairs with values that name their key and round.
func somePairs(n int, round string) []kv.Pair {
	pairs := make([]kv.Pair, n)
	for i := range pairs {
		pairs[i] = kv.Pair{Key: fmt.Sprintf("key-%05d", i), Value: fmt.Appendf(nil, "%s of %d", round, i)}
	}
	return pairs
}

func keysOf(pairs []kv.Pair) []string {
	keys := make([]string, len(pairs))
	for i := range pairs {
		keys[i] = pairs[i].Key
	}
	return keys
}

// through opens a bucket through one node, which coordinates.
func (c *testCluster) through(i int, name string) *client.Bucket {
	c.t.Helper()
	cfg := c.clientConfig(i)
	cfg.Through = true
	b, err := c.client(cfg).Bucket(c.t.Context(), name)
	must(c.t, err)
	return b
}

// expect reads the keys of pairs and wants exactly their values.
func expect(t *testing.T, who string, b *client.Bucket, pairs []kv.Pair) {
	t.Helper()
	got, err := b.GetMany(t.Context(), keysOf(pairs))
	must(t, err)
	for i, p := range got {
		if p == nil || p.Key != pairs[i].Key || string(p.Value) != string(pairs[i].Value) {
			t.Fatalf("%s: position %d is %v, want %s = %q", who, i, p, pairs[i].Key, pairs[i].Value)
		}
	}
}

// eventually waits until ok, which says what is missing otherwise.
func eventually(t testing.TB, within time.Duration, ok func() string) {
	t.Helper()
	deadline := time.NewTimer(within)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		missing := ok()
		if missing == "" {
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("after %v: %s", within, missing)
		}
	}
}

// lone makes the replica of a group of its own, besides those of the map, that this
// node founded alone.
func (n *Node) lone(g *sharding.Group, m machine) *replica {
	r := n.newReplica(g, m)
	r.servers.Servers = []raft.Server{{ID: n.self, Address: raft.ServerAddress(n.self)}}
	return r
}

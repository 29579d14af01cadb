//go:build unix

package jepsen

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/manykv/manykv/client"
	"github.com/manykv/manykv/cluster"
	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/transport/pki"
)

const (
	nodeCount  = 3
	bucketName = "jepsen"
	// formTime is how long a new cluster may take until every shard takes writes.
	formTime = 20 * time.Second
	// catchUpTime is how long a node may take to be given what it missed: raft waits
	// up to 10 s before it turns to a follower again that was away, and the machine
	// may be busy.
	catchUpTime = time.Minute
	// healTime is how long it may take again once all nodes run.
	healTime = 10 * time.Second
)

// harness is a cluster of processes on loopback, and its clients.
type harness struct {
	t     *testing.T
	dir   string
	addrs []string
	nodes []*Process
	files []string // to keep: logs, evidence
}

// startNodes starts a new cluster and waits until every shard takes writes.
func startNodes(t *testing.T) *harness {
	t.Helper()
	return startNodesWith(t, func(*cluster.Config) {})
}

// startNodesWith is startNodes with nodes whose configuration is edited.
func startNodesWith(t *testing.T, edit func(cfg *cluster.Config)) *harness {
	t.Helper()
	h := &harness{t: t, dir: t.TempDir(), addrs: freeAddrs(t, nodeCount)}
	certs := filepath.Join(h.dir, "certs")
	must(t, pki.NewCA(certs, "jepsen"))
	must(t, pki.IssueClient(certs, "client"))
	for i := range nodeCount {
		name := fmt.Sprintf("n%d", i+1)
		must(t, pki.IssueNode(certs, name, nil))
		cfg := cluster.Config{
			Name: name, DataDir: filepath.Join(h.dir, name), Listen: h.addrs[i],
			CAFile: filepath.Join(certs, "ca.crt"), GossipKeyFile: filepath.Join(certs, "gossip.key"),
			CertFile: filepath.Join(certs, name+".crt"), KeyFile: filepath.Join(certs, name+".key"),
			Join: h.addrs, BootstrapExpect: nodeCount,
		}
		edit(&cfg)
		h.addNode(cfg)
	}
	t.Cleanup(h.end)
	for _, p := range h.nodes {
		must(t, p.Start())
	}
	ctx, done := context.WithTimeout(t.Context(), formTime)
	defer done()
	h.createBucket(ctx)
	must(t, h.prober(NewHistory()).Await(ctx))
	return h
}

// freeAddrs returns UDP addresses that were free a moment ago. They are below the
// ports that the system gives out by itself, one of which a client could take
// while the node is down.
func freeAddrs(t *testing.T, n int) []string {
	t.Helper()
	const lowest, ports = 10_000, 20_000
	var addrs []string
	for tries := 0; len(addrs) < n; tries++ {
		addr := fmt.Sprintf("127.0.0.1:%d", lowest+rand.IntN(ports))
		c, err := net.ListenPacket("udp4", addr)
		if err != nil {
			if tries == ports {
				t.Fatal(err)
			}
			continue
		}
		defer c.Close()
		addrs = append(addrs, addr)
	}
	return addrs
}

// addNode adds a node that is this test's own program: see TestMain.
func (h *harness) addNode(cfg cluster.Config) {
	h.t.Helper()
	spec, err := json.Marshal(cfg)
	must(h.t, err)
	path := filepath.Join(h.dir, cfg.Name+".log")
	log, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	must(h.t, err)
	h.t.Cleanup(func() { log.Close() })
	h.files = append(h.files, path)
	h.nodes = append(h.nodes, &Process{Name: cfg.Name, Command: func() *exec.Cmd {
		cmd := exec.Command(os.Args[0])
		// A data race ends the node, which fails the test.
		cmd.Env = append(os.Environ(), nodeEnv+"="+string(spec), "GORACE=halt_on_error=1")
		cmd.Stdout, cmd.Stderr = log, log
		return cmd
	}})
}

// end stops the nodes. If the test failed, logs and evidence are kept.
func (h *harness) end() {
	for _, p := range h.nodes {
		if err := errors.Join(p.Stop(2*closeTime), p.Deaths()); err != nil {
			h.t.Error(err)
		}
	}
	if h.t.Failed() || *keep {
		h.keep()
	}
}

// keep copies logs and evidence to a folder that outlives the test.
func (h *harness) keep() {
	dir, err := os.MkdirTemp("", "manykv-jepsen-")
	must(h.t, err)
	for _, path := range h.files {
		if err := copyFile(filepath.Join(dir, filepath.Base(path)), path); err != nil {
			h.t.Error(err)
		}
	}
	h.t.Logf("kept in %s: %d files", dir, len(h.files))
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// client opens a client of some nodes, of all if none is given.
func (h *harness) client(through bool, addrs ...string) *client.Client {
	h.t.Helper()
	if len(addrs) == 0 {
		addrs = h.addrs
	}
	certs := filepath.Join(h.dir, "certs")
	c, err := client.Open(h.t.Context(), client.Config{
		Addrs: addrs, Through: through, Timeout: formTime,
		CAFile: filepath.Join(certs, "ca.crt"), CertFile: filepath.Join(certs, "client.crt"), KeyFile: filepath.Join(certs, "client.key"),
	})
	must(h.t, err)
	h.t.Cleanup(func() {
		if err := c.Close(); err != nil {
			h.t.Error(err)
		}
	})
	return c
}

// createBucket makes the bucket. A first try may have made it without an
// answer.
func (h *harness) createBucket(ctx context.Context) {
	h.t.Helper()
	c := h.client(false)
	err := c.CreateBucket(ctx, bucketName)
	for errors.Is(err, kv.ErrUnknown) && ctx.Err() == nil {
		err = c.CreateBucket(ctx, bucketName)
	}
	if !errors.Is(err, kv.ErrExists) {
		must(h.t, err)
	}
}

func (h *harness) open(c *client.Client) *client.Bucket {
	h.t.Helper()
	b, err := c.Bucket(h.t.Context(), bucketName)
	must(h.t, err)
	return b
}

// routed returns a route to the shards' leaders, of a client of its own.
func (h *harness) routed() Route {
	h.t.Helper()
	return Route{Name: "leaders", Bucket: h.open(h.client(false))}
}

// through returns a route through one node, of a client of its own.
func (h *harness) through(i int) Route {
	h.t.Helper()
	return Route{Name: h.nodes[i].Name, Bucket: h.open(h.client(true, h.addrs[i]))}
}

// throughEach returns a route through each node.
func (h *harness) throughEach() []Route {
	h.t.Helper()
	var routes []Route
	for i := range h.nodes {
		routes = append(routes, h.through(i))
	}
	return routes
}

func (h *harness) prober(history *History) *Prober {
	h.t.Helper()
	return &Prober{Bucket: h.routed().Bucket, Now: history.Now}
}

// leaders asks the nodes which shards they lead.
func leaders(ctx context.Context, c *client.Client) map[uint32]string {
	nodes, err := c.Status(ctx)
	if err != nil {
		return nil
	}
	out, terms := make(map[uint32]string), make(map[uint32]uint64)
	for _, n := range nodes {
		if n.Status == nil {
			continue
		}
		for _, s := range n.Status.Shards {
			if shard := uint32(s.Shard); s.Role == "leader" && s.Term >= terms[shard] {
				out[shard], terms[shard] = string(n.Node), s.Term
			}
		}
	}
	return out
}

// awaitWhole waits until every node answers and has applied what the others
// know to be committed: until one more node may be lost.
func (h *harness) awaitWhole(c *client.Client) {
	h.t.Helper()
	h.awaitWholeFor(c, healTime)
}

func (h *harness) awaitWholeFor(c *client.Client, within time.Duration) {
	h.t.Helper()
	const poll = 20 * time.Millisecond
	ctx, done := context.WithTimeout(h.t.Context(), within)
	defer done()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	var last error
	for {
		nodes, err := c.Status(ctx)
		if err == nil {
			err = whole(nodes)
		}
		if err == nil {
			return
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			h.t.Fatalf("the cluster is not whole after %v: %v", within, last)
		}
	}
}

// whole says what a cluster lacks.
func whole(nodes []client.Status) error {
	committed := make(map[uint32]uint64)
	for _, n := range nodes {
		if n.Err != nil {
			return fmt.Errorf("node %s: %w", n.Node, n.Err)
		}
		for _, s := range n.Status.Shards {
			committed[uint32(s.Shard)] = max(committed[uint32(s.Shard)], s.Commit)
		}
	}
	for _, n := range nodes {
		if len(n.Status.Shards) != len(committed) {
			return fmt.Errorf("node %s has %d replicas, want %d", n.Node, len(n.Status.Shards), len(committed))
		}
		for _, s := range n.Status.Shards {
			if want := committed[uint32(s.Shard)]; s.Leader == "" || s.Applied < want {
				return fmt.Errorf("node %s: shard %d has applied %d under leader %q, want %d under one", n.Node, s.Shard, s.Applied, s.Leader, want)
			}
		}
	}
	return nil
}

// sameHashes wants the replicas of each shard to hold the same state at the same
// entry.
func (h *harness) sameHashes(c *client.Client) {
	h.t.Helper()
	nodes, err := c.Status(h.t.Context())
	must(h.t, err)
	type state struct{ index, hash uint64 }
	for _, s := range nodes[0].Status.Shards {
		var first state
		for i, n := range nodes {
			index, _, hash, _, err := c.Hash(h.t.Context(), n.Node, s.Shard)
			must(h.t, err)
			switch here := (state{index, hash}); {
			case i == 0:
				first = here
			case here != first:
				h.t.Errorf("shard %d: %s is at entry %d with hash %016x, another node at %d with %016x", s.Shard, n.Node, index, hash, first.index, first.hash)
			}
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

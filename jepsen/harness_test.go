//go:build unix

package jepsen

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/manykv/manykv/client"
	"github.com/manykv/manykv/cluster"
	"github.com/manykv/manykv/transport/pki"
)

const (
	nodeCount  = 3
	bucketName = "jepsen"
)

// harness is a cluster of processes on loopback, and its clients.
type harness struct {
	t     *testing.T
	dir   string
	addrs []string
	nodes []*Node
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
	addrs, err := FreeAddrs(nodeCount)
	must(t, err)
	h := &harness{t: t, dir: t.TempDir(), addrs: addrs}
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
	must(t, createBucket(ctx, h.client(false), bucketName))
	must(t, h.prober(NewHistory()).Await(ctx))
	return h
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
	h.nodes = append(h.nodes, &Node{Addr: cfg.Listen, Dir: cfg.DataDir, Process: &Process{Name: cfg.Name, Command: func() *exec.Cmd {
		cmd := exec.Command(os.Args[0])
		// A data race ends the node, which fails the test.
		cmd.Env = append(os.Environ(), nodeEnv+"="+string(spec), "GORACE=halt_on_error=1")
		cmd.Stdout, cmd.Stderr = log, log
		return cmd
	}}})
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
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, text, 0o644)
}

// client opens a client of some nodes, of all if none is given.
func (h *harness) client(through bool, addrs ...string) *client.Client {
	h.t.Helper()
	if len(addrs) == 0 {
		addrs = h.addrs
	}
	c, err := dial(h.t.Context(), h.dir, through, addrs...)
	must(h.t, err)
	h.t.Cleanup(func() {
		if err := c.Close(); err != nil {
			h.t.Error(err)
		}
	})
	return c
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

// awaitWhole waits until every node answers and has applied what the others
// know to be committed: until one more node may be lost.
func (h *harness) awaitWhole(c *client.Client) {
	h.t.Helper()
	h.awaitWholeFor(c, healTime)
}

func (h *harness) awaitWholeFor(c *client.Client, within time.Duration) {
	h.t.Helper()
	ctx, done := context.WithTimeout(h.t.Context(), within)
	defer done()
	if err := Whole(ctx, c); err != nil {
		h.t.Fatalf("after %v: %v", within, err)
	}
}

// sameHashes wants the replicas of each shard to hold the same state at the same
// entry.
func (h *harness) sameHashes(c *client.Client) {
	h.t.Helper()
	ctx, done := context.WithTimeout(h.t.Context(), healTime)
	defer done()
	if err := SameHashes(ctx, c); err != nil {
		h.t.Error(err)
	}
}

// dial opens a client as a task wants it: of all nodes, or through one.
func (h *harness) dial(ctx context.Context, node int) (*client.Client, error) {
	at := max(node, 0)
	return dial(ctx, h.dir, node >= 0, slices.Concat(h.addrs[at:], h.addrs[:at])...)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

//go:build unix

package jepsen

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/manykv/manykv/client"
	"github.com/manykv/manykv/jepsen/disk"
	"github.com/manykv/manykv/jepsen/vnet"
	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

const (
	// formTime is how long a new cluster may take until every shard takes writes. It
	// bounds calls without a deadline of their own, too.
	formTime = 20 * time.Second
	// healTime is how long it may take again once all is well.
	healTime = 10 * time.Second
	// catchUpTime is how long a node may take to be given what it missed: raft waits
	// up to 10 s before it turns to a follower again that was away, and the machine
	// may be busy.
	catchUpTime = time.Minute
	// replaceAttempt is how long one request for that is waited for, as manykv does.
	replaceAttempt = 10 * time.Second
	// replaceTime is how long a node may take that lost everything.
	replaceTime = 2 * time.Minute
	nodePort    = 7400
)

// Setup says what a cluster under test is made of.
type Setup struct {
	// Binary is the program manykv.
	Binary string
	// Dir is a folder for everything: certificates, data, logs.
	Dir   string
	Nodes int
	Seed  uint64
	// Network has every node live in a network of its own, on which faults can be done;
	// Disks lets it keep its data on a disk on which they can.
	Network, Disks bool
	// Clock says that Binary looks for its wall clock in a file.
	Clock bool
	// JournalBytes is the nodes' setting; 0: their default.
	JournalBytes int64
	// Env are more variables of the nodes' environment.
	Env []string
}

// Cluster is the nodes of a run.
type Cluster struct {
	Nodes []*Node
	setup Setup
	net   *vnet.Network
	disks []*disk.Disk
	logs  []*os.File
}

// Form makes a cluster of new nodes and waits until they have founded it.
func Form(ctx context.Context, s Setup) (_ *Cluster, err error) {
	c := &Cluster{setup: s}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	var names []string
	for i := range s.Nodes {
		names = append(names, nodeName(i))
	}
	if err := c.certificates(ctx, names); err != nil {
		return nil, err
	}
	if s.Network {
		if c.net, err = vnet.Open(vnet.Config{Here: Clients, Nodes: names, Seed: s.Seed}); err != nil {
			return nil, err
		}
	}
	addrs, err := c.addrs(names)
	if err != nil {
		return nil, err
	}
	for i, name := range names {
		if err := c.add(name, addrs, i); err != nil {
			return nil, err
		}
	}
	if err := startTogether(c.Nodes...); err != nil {
		return nil, err
	}
	ctx, done := context.WithTimeout(ctx, formTime)
	defer done()
	return c, c.founded(ctx)
}

// certificates has the program make them, as an operator does.
func (c *Cluster) certificates(ctx context.Context, names []string) error {
	dir := filepath.Join(c.setup.Dir, "certs")
	commands := [][]string{
		{"ca", "--dir", dir, "--cluster", "jepsen"},
		{"client", "--dir", dir, "client", "--addr", "127.0.0.1:1"}, // the address is not used
	}
	for _, name := range names {
		commands = append(commands, []string{"node", "--dir", dir, name})
	}
	for _, args := range commands {
		cmd := exec.CommandContext(ctx, c.setup.Binary, append([]string{"cert"}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%v: %w: %s", cmd.Args, err, out)
		}
	}
	return nil
}

// addrs returns the addresses of nodes.
func (c *Cluster) addrs(names []string) ([]string, error) {
	if c.net == nil {
		return FreeAddrs(len(names))
	}
	var addrs []string
	for _, name := range names {
		addrs = append(addrs, fmt.Sprintf("%s:%d", c.net.Addr(name), nodePort))
	}
	return addrs, nil
}

// FreeAddrs returns UDP addresses on loopback that were free a moment ago. They are
// below the ports that the system gives out by itself, one of which a client could take
// while the node is down.
func FreeAddrs(n int) ([]string, error) {
	const lowest, ports = 10_000, 20_000
	var addrs []string
	for tries := 0; len(addrs) < n; tries++ {
		addr := fmt.Sprintf("127.0.0.1:%d", lowest+rand.IntN(ports))
		c, err := net.ListenPacket("udp4", addr)
		if err != nil {
			if tries == ports {
				return nil, err
			}
			continue
		}
		defer func() { _ = c.Close() }() // it was open to be sure of the port
		addrs = append(addrs, addr)
	}
	return addrs, nil
}

// add prepares a node.
func (c *Cluster) add(name string, addrs []string, i int) error {
	s := c.setup
	node := &Node{Addr: addrs[i], Dir: filepath.Join(s.Dir, name), ClockFile: filepath.Join(s.Dir, name+".clock")}
	log, err := os.OpenFile(filepath.Join(s.Dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	c.logs = append(c.logs, log)
	if err := os.MkdirAll(node.Dir, 0o700); err != nil {
		return err
	}
	if s.Disks {
		d, err := disk.Open(disk.Config{Mount: node.Dir, Store: filepath.Join(s.Dir, name+".disk"), Seed: s.Seed + uint64(i)})
		if err != nil {
			return err
		}
		c.disks = append(c.disks, d)
		node.Disk = d
	}
	certs := filepath.Join(s.Dir, "certs")
	args := []string{
		"server", "--data-dir", node.Dir, "--listen", node.Addr, "--join", strings.Join(addrs, ","),
		"--bootstrap-expect", fmt.Sprint(s.Nodes), "--ca-file", filepath.Join(certs, "ca.crt"), "--gossip-key-file", filepath.Join(certs, "gossip.key"),
		"--cert-file", filepath.Join(certs, name+".crt"), "--key-file", filepath.Join(certs, name+".key"),
		"--journal-bytes", fmt.Sprint(s.JournalBytes),
	}
	node.Process = &Process{Name: name, Command: func() *exec.Cmd {
		cmd := exec.Command(s.Binary, args...)
		cmd.Env = append(os.Environ(), s.Env...)
		if s.Clock {
			cmd.Env = append(cmd.Env, "MANYKV_CLOCK_FILE="+node.ClockFile)
		}
		cmd.Stdout, cmd.Stderr = log, log
		return cmd
	}}
	if c.net != nil {
		node.Thread = func(f func() error) error { return c.net.Do(name, f) }
	}
	c.Nodes = append(c.Nodes, node)
	return nil
}

// founded waits until every shard takes writes.
func (c *Cluster) founded(ctx context.Context) (err error) {
	one, err := c.Dial(ctx, anyNode)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, one.Close()) }()
	if err := createBucket(ctx, one, probeBucket); err != nil {
		return err
	}
	bucket, err := one.Bucket(ctx, probeBucket)
	if err != nil {
		return err
	}
	return (&Prober{Bucket: bucket, Now: NewHistory().Now}).Await(ctx)
}

// probeBucket is where probers write.
const probeBucket = "probes"

// createBucket makes a bucket. A first try may have made it without an answer.
func createBucket(ctx context.Context, one *client.Client, name string) error {
	err := one.CreateBucket(ctx, name)
	for errors.Is(err, kv.ErrUnknown) && ctx.Err() == nil {
		err = one.CreateBucket(ctx, name)
	}
	if errors.Is(err, kv.ErrExists) {
		return nil
	}
	return err
}

// Dial opens a client of all nodes, or, if node is 0 or more, one that has that node
// coordinate. The others are asked if it does not answer.
func (c *Cluster) Dial(ctx context.Context, node int) (*client.Client, error) {
	var addrs []string
	for i := range c.Nodes {
		addrs = append(addrs, c.Nodes[(i+max(node, 0))%len(c.Nodes)].Addr)
	}
	return dial(ctx, c.setup.Dir, node >= 0, addrs...)
}

// dial opens a client with the certificates in a folder's certs.
func dial(ctx context.Context, dir string, through bool, addrs ...string) (*client.Client, error) {
	certs := filepath.Join(dir, "certs")
	return client.Open(ctx, client.Config{
		Addrs: addrs, Through: through, Timeout: formTime,
		CAFile: filepath.Join(certs, "ca.crt"), CertFile: filepath.Join(certs, "client.crt"), KeyFile: filepath.Join(certs, "client.key"),
	})
}

// Replace has a node whose directory was emptied take its own place.
func (c *Cluster) Replace(ctx context.Context, node *Node) (err error) {
	ctx, done := context.WithTimeout(ctx, replaceTime)
	defer done()
	one, err := c.Dial(ctx, anyNode)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, one.Close()) }()
	m, err := one.Nodes(ctx)
	if err != nil {
		return err
	}
	before, _ := m.Node(sharding.NodeID(node.Name))
	if err := until(ctx, ask, func() error { return replaceOnce(ctx, one, node, before.Storage) }); err != nil {
		return fmt.Errorf("replace node %s: %w", node.Name, err)
	}
	return caughtUp(ctx, one, node.Name)
}

// replaceOnce asks for it as an operator does, who gives up after a while and looks
// what became of it: the leader of the meta group may be paused, and is waited for.
func replaceOnce(ctx context.Context, c *client.Client, node *Node, before uint64) error {
	attempt, done := context.WithTimeout(ctx, replaceAttempt)
	defer done()
	err := c.ReplaceNode(attempt, node.Name, node.Addr)
	if err == nil {
		return nil
	}
	m, failed := c.Nodes(ctx)
	if failed != nil {
		return errors.Join(err, failed)
	}
	if now, _ := m.Node(sharding.NodeID(node.Name)); now.Storage != before {
		return nil
	}
	return err
}

// caughtUp waits until a node has its replica of every shard that the map gives it,
// with all that was committed when this was called, and a vote in each.
func caughtUp(ctx context.Context, c *client.Client, name string) error {
	var target map[uint32]uint64
	err := until(ctx, ask, func() error {
		m, nodes, err := look(ctx, c)
		if err != nil {
			return err
		}
		if target == nil {
			target = committed(nodes)
		}
		return lacks(m, nodes, name, target)
	})
	if err != nil {
		return fmt.Errorf("node %s does not catch up: %w", name, err)
	}
	return nil
}

// until calls check, with pauses, until it holds. When ctx ends it returns what did
// not hold when there was time to ask for it: a check that ctx cuts short says nothing.
func until(ctx context.Context, pause time.Duration, check func() error) error {
	var last error
	for {
		err := check()
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil {
			last = err
		}
		if !wait(ctx, pause) {
			return last
		}
	}
}

// look asks for the map and for every node's status.
func look(ctx context.Context, c *client.Client) (*sharding.Map, []client.Status, error) {
	m, err := c.Nodes(ctx)
	if err != nil {
		return nil, nil, err
	}
	nodes, err := c.Status(ctx)
	return m, nodes, err
}

// placed are the shards of which a node has replicas, once no replica is to be moved
// any more.
func placed(m *sharding.Map, name sharding.NodeID) (map[uint32]bool, error) {
	if g := m.Moving(); g != nil {
		return nil, fmt.Errorf("shard %d is moved", g.Shard)
	}
	if move, wanted := m.NextMove(); wanted {
		return nil, fmt.Errorf("shard %d is to be moved", move.Shard)
	}
	shards := make(map[uint32]bool)
	for _, g := range append([]sharding.Group{m.Meta}, m.Groups...) {
		if g.Holds(name) {
			shards[uint32(g.Shard)] = true
		}
	}
	return shards, nil
}

// lacks says what a node lacks of a target.
func lacks(m *sharding.Map, nodes []client.Status, name string, target map[uint32]uint64) error {
	want, err := placed(m, sharding.NodeID(name))
	if err != nil {
		return err
	}
	votes := votesOf(nodes, name)
	for _, n := range nodes {
		if string(n.Node) != name {
			continue
		}
		if n.Err != nil {
			return n.Err
		}
		if len(n.Status.Shards) < len(want) {
			return fmt.Errorf("it has %d replicas, want %d", len(n.Status.Shards), len(want))
		}
		for _, s := range n.Status.Shards {
			if want := target[uint32(s.Shard)]; s.Applied < want || !votes[uint32(s.Shard)] {
				return fmt.Errorf("its replica of shard %d has applied %d, want %d and a vote", s.Shard, s.Applied, want)
			}
		}
		return nil
	}
	return errors.New("it is no node of the cluster")
}

// votesOf are the shards whose leaders count on a node's vote, and on no other of its
// data directories: a node that is being replaced is named once for the one that is
// gone, until its leader has removed that, and once for the one that it has now.
func votesOf(nodes []client.Status, name string) map[uint32]bool {
	votes := make(map[uint32]bool)
	for _, n := range nodes {
		if n.Status == nil {
			continue
		}
		for _, s := range n.Status.Shards {
			voters, others := count(s.Voters, name), count(s.Nonvoters, name)
			if s.Role == "leader" && voters == 1 && others == 0 {
				votes[uint32(s.Shard)] = true
			}
		}
	}
	return votes
}

func count(nodes []sharding.NodeID, name string) (n int) {
	for _, node := range nodes {
		if string(node) == name {
			n++
		}
	}
	return n
}

// committed is how far each shard is known to be.
func committed(nodes []client.Status) map[uint32]uint64 {
	out := make(map[uint32]uint64)
	for _, n := range nodes {
		if n.Status == nil {
			continue
		}
		for _, s := range n.Status.Shards {
			out[uint32(s.Shard)] = max(out[uint32(s.Shard)], s.Commit)
		}
	}
	return out
}

// Whole waits until every node answers and has applied what the others know to be
// committed: until one more node may be lost.
func Whole(ctx context.Context, c *client.Client) error {
	err := until(ctx, ask/10, func() error {
		m, nodes, err := look(ctx, c)
		if err != nil {
			return err
		}
		return whole(m, nodes)
	})
	if err != nil {
		return fmt.Errorf("the cluster is not whole: %w", err)
	}
	return nil
}

// whole says what a cluster lacks.
func whole(m *sharding.Map, nodes []client.Status) error {
	target := committed(nodes)
	for _, n := range nodes {
		if n.Err != nil {
			return fmt.Errorf("node %s: %w", n.Node, n.Err)
		}
		want, err := placed(m, n.Node)
		if err != nil {
			return err
		}
		if len(n.Status.Shards) != len(want) {
			return fmt.Errorf("node %s has %d replicas, want %d", n.Node, len(n.Status.Shards), len(want))
		}
		for _, s := range n.Status.Shards {
			if want := target[uint32(s.Shard)]; s.Leader == "" || s.Applied < want {
				return fmt.Errorf("node %s: shard %d has applied %d under leader %q, want %d under one", n.Node, s.Shard, s.Applied, s.Leader, want)
			}
		}
	}
	return nil
}

// SameHashes wants the replicas of each shard to hold the same state at the same
// entry. Clients may not be writing; a leadership that moves adds entries of its own,
// so replicas at different entries are asked again until ctx ends.
func SameHashes(ctx context.Context, c *client.Client) error {
	for {
		err := sameHashes(ctx, c)
		if !errors.Is(err, errApart) || !wait(ctx, ask) {
			return err
		}
	}
}

// errApart: two replicas are at different entries.
var errApart = errors.New("at different entries")

func sameHashes(ctx context.Context, c *client.Client) error {
	nodes, err := c.Status(ctx)
	if err != nil {
		return err
	}
	type state struct{ index, hash uint64 }
	first := make(map[uint32]state)
	for _, n := range nodes {
		if n.Err != nil {
			return fmt.Errorf("node %s: %w", n.Node, n.Err)
		}
		for _, s := range n.Status.Shards {
			index, _, hash, _, err := c.Hash(ctx, n.Node, s.Shard)
			if err != nil {
				return fmt.Errorf("hash of shard %d on node %s: %w", s.Shard, n.Node, err)
			}
			other, known := first[uint32(s.Shard)]
			switch {
			case known && other.index != index:
				return fmt.Errorf("shard %d: node %s has applied %d, another %d: %w", s.Shard, n.Node, index, other.index, errApart)
			case known && other.hash != hash:
				return fmt.Errorf("shard %d: at entry %d node %s has hash %016x, another %016x", s.Shard, index, n.Node, hash, other.hash)
			}
			first[uint32(s.Shard)] = state{index, hash}
		}
	}
	return nil
}

// leadersBy returns a function for Nemesis.Leaders.
func leadersBy(c *client.Client) func(ctx context.Context) map[uint32]string {
	return func(ctx context.Context) map[uint32]string {
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
}

// Stop stops all nodes as an operator does.
func (c *Cluster) Stop() error {
	var errs []error
	for _, node := range c.Nodes {
		errs = append(errs, node.Stop(stopTime), node.Deaths())
	}
	return errors.Join(errs...)
}

// keep copies the nodes' data from their disks, which end with the run, into folders
// beside them. Another process reads them: see package disk.
func (c *Cluster) keep(ctx context.Context) error {
	if !c.setup.Disks {
		return nil
	}
	var errs []error
	for _, node := range c.Nodes {
		if out, err := exec.CommandContext(ctx, "cp", "-r", node.Dir, node.Dir+".data").CombinedOutput(); err != nil {
			errs = append(errs, fmt.Errorf("%w: %s", err, out))
		}
	}
	return errors.Join(errs...)
}

// Close ends nodes that run, the network and the disks.
func (c *Cluster) Close() error {
	var errs []error
	for _, node := range c.Nodes {
		if node.child != nil {
			errs = append(errs, Kill(node.Process))
		}
	}
	for _, d := range c.disks {
		errs = append(errs, d.Close())
	}
	if c.net != nil {
		errs = append(errs, c.net.Close())
	}
	for _, l := range c.logs {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}

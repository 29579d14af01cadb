package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/manykv/manykv/client"
	"github.com/manykv/manykv/crash"
	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

// nodeEnv holds the configuration of the node that a child process shall be.
const nodeEnv = "MANYKV_CLUSTER_NODE"

// TestMain runs the tests or, in a child process, a node.
func TestMain(m *testing.M) {
	if spec := os.Getenv(nodeEnv); spec != "" {
		if err := runNode(spec); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	// memberlist's Shutdown does not wait for a probe that is under way; it ends with
	// its timeout.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/hashicorp/memberlist.(*Memberlist).probeNode"))
}

// runNode is a node until its standard input ends (who started it is gone), or
// until it stops by itself.
func runNode(spec string) error {
	var cfg Config
	if err := json.Unmarshal([]byte(spec), &cfg); err != nil {
		return fmt.Errorf("%s: %w", nodeEnv, err)
	}
	cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	n, err := Open(cfg)
	if err != nil {
		return err
	}
	orphaned := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // however it ends
		close(orphaned)
	}()
	select {
	case <-orphaned:
	case <-n.Done():
	}
	closing, done := context.WithTimeout(context.Background(), 5*time.Second)
	defer done()
	return errors.Join(n.Err(), n.Close(closing))
}

// child is a node in a process of its own.
type child struct {
	cmd    *exec.Cmd
	exited chan error
}

// startChild starts node i as a process, which dies at a crash point if one is
// named.
func (c *testCluster) startChild(i int, point string) *child {
	c.t.Helper()
	cfg := c.cfgs[i]
	cfg.Logger = nil
	spec, err := json.Marshal(cfg)
	must(c.t, err)
	log, err := os.OpenFile(filepath.Join(c.dir, cfg.Name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	must(c.t, err)
	defer log.Close() // the child has its own
	p := &child{cmd: exec.Command(os.Args[0]), exited: make(chan error, 1)}
	p.cmd.Env = append(os.Environ(), nodeEnv+"="+string(spec), "MANYKV_CRASH="+point)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	_, err = p.cmd.StdinPipe() // open as long as this process is
	must(c.t, err)
	must(c.t, p.cmd.Start())
	go func() { p.exited <- p.cmd.Wait() }()
	return p
}

// showLog prints the end of a child's log if the test failed.
func (c *testCluster) showLog(name string) {
	const most = 16 << 10
	if !c.t.Failed() {
		return
	}
	if text, err := os.ReadFile(filepath.Join(c.dir, name)); err == nil {
		c.t.Logf("%s ends with:\n%s", name, text[max(0, len(text)-most):])
	}
}

func (p *child) kill() {
	_ = p.cmd.Process.Kill() // it may be gone already
	<-p.exited
	p.exited <- nil
}

// onlineDiffer says how the replicas of the nodes differ, asked over the network.
func onlineDiffer(t *testing.T, cl *client.Client, nodes []sharding.NodeID, shards int) string {
	for s := range shards {
		type state struct{ index, hash uint64 }
		var first state
		for i, id := range nodes {
			index, _, hash, _, err := cl.Hash(t.Context(), id, sharding.Shard(s+1))
			if err != nil {
				return fmt.Sprintf("%s: %v", id, err)
			}
			here := state{index, hash}
			if i == 0 {
				first = here
			}
			if here.index != first.index {
				return fmt.Sprintf("shard %d: %s is at entry %d, another at %d", s+1, id, here.index, first.index)
			}
			if here != first {
				t.Fatalf("shard %d at entry %d: %s has hash %016x, another %016x", s+1, here.index, id, here.hash, first.hash)
			}
		}
	}
	return ""
}

// TestCrashPoints kills a node at every step of taking and installing snapshots
// and cutting the journal, and wants it whole after a restart.
func TestCrashPoints(t *testing.T) {
	if !crash.Enabled {
		t.Skip("needs a build with crash points: make test-crash")
	}
	c := newCluster(t, 3, func(i int, cfg *Config) {
		smallJournal(i, cfg)
		cfg.Shards = 2
	})
	c.start(0)
	c.start(1)
	p := c.startChild(2, "")
	t.Cleanup(func() { c.showLog("n3.log") })
	defer func() { p.kill() }()
	cl := c.client(c.clientConfig())
	b := bucket(t, cl, "files")
	behind := c.through(2, "files")
	for round, point := range []string{
		"cluster.snapshot.flushed", "cluster.snapshot.noted",
		"cluster.install.announced", "cluster.install.restored", "cluster.install.trimmed",
		"fsm.stage.finished", "fsm.ingest.after", "fsm.flush.after", "fsm.drain.before", "fsm.drain.after",
		"raftlog.reclaim.carried", "raftlog.head.written", "raftlog.delete.write", "raftlog.delete.written",
	} {
		t.Run(point, func(t *testing.T) {
			p.kill()
			fill(t, b, 64, fmt.Sprintf("away %d", round))
			c.forget()
			p = c.startChild(2, point)
			last := writeUntilDead(t, b, behind, p, round)
			p = c.startChild(2, "")
			expectBlocks(t, "after the restart", c.through(2, "files"), 32, last)
			eventually(t, 30*time.Second, func() string {
				return onlineDiffer(t, cl, []sharding.NodeID{"n1", "n2", "n3"}, 2)
			})
		})
	}
}

// forget makes the nodes of this process forget all but the last entry of every
// log: who lacks others needs a snapshot.
func (c *testCluster) forget() {
	c.t.Helper()
	eventually(c.t, 20*time.Second, func() string {
		for _, n := range c.nodes {
			if n == nil {
				continue
			}
			for _, r := range n.replicaSet() {
				if err := r.snapshot(c.t.Context(), 0); err != nil {
					return fmt.Sprintf("shard %d on %s: %v", r.shard, n.name, err)
				}
			}
		}
		return ""
	})
}

// writeUntilDead writes until the child has died at its point, and returns what
// it wrote last. It waits for the child after every batch, by a read through it:
// one that is always behind gets snapshots only, and has no journal to cut.
func writeUntilDead(t *testing.T, b, behind *client.Bucket, p *child, round int) (last string) {
	t.Helper()
	dead := false
	for n, end := 0, time.Now().Add(2*time.Minute); !dead; n++ {
		if time.Now().After(end) {
			t.Fatalf("the node never came by its point, in %d batches", n)
		}
		last = fmt.Sprintf("dying %d %d", round, n)
		settle(t, func() error { return b.Set(t.Context(), "small", []byte(last)) }) // it waits in a write buffer, blocks do not
		settle(t, func() error { return b.SetMany(t.Context(), blocks(0, 32, last)) })
		eventually(t, time.Minute, func() string {
			if dead = p.ended(t); dead {
				return ""
			}
			call, done := context.WithTimeout(t.Context(), time.Second)
			defer done()
			if _, _, err := behind.Get(call, "block-00000"); err != nil {
				return err.Error()
			}
			return ""
		})
	}
	settle(t, func() error { return b.SetMany(t.Context(), blocks(0, 32, last)) })
	return last
}

// ended says whether the child has died, at its point.
func (p *child) ended(t *testing.T) bool {
	t.Helper()
	select {
	case err := <-p.exited:
		p.exited <- err
		status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
		if !ok || status.Signal() != syscall.SIGKILL {
			t.Fatalf("the node ended with %v, want to be killed at its point", p.cmd.ProcessState)
		}
		return true
	default:
		return false
	}
}

// settle does what may be done again until it is known to be done.
func settle(t *testing.T, do func() error) {
	t.Helper()
	eventually(t, 20*time.Second, func() string {
		err := do()
		switch {
		case err == nil:
			return ""
		case !errors.Is(err, kv.ErrUnknown) && !errors.Is(err, kv.ErrUnavailable) && !errors.Is(err, kv.ErrBusy):
			t.Fatal(err)
		}
		return err.Error()
	})
}

// TestDropCrashPoints removes a node that dies at every step of dropping a replica,
// and takes it back: it has forgotten nothing it promised, and gets everything again.
func TestDropCrashPoints(t *testing.T) {
	if !crash.Enabled {
		t.Skip("needs a build with crash points: make test-crash")
	}
	c := newCluster(t, 3, func(_ int, cfg *Config) { cfg.Shards = 2 })
	c.start(0)
	c.start(1)
	p := c.startChild(2, "")
	t.Cleanup(func() { c.showLog("n3.log") })
	defer func() { p.kill() }()
	cl := c.client(c.clientConfig())
	b := bucket(t, cl, "files")
	all := []sharding.NodeID{"n1", "n2", "n3"}
	nodes := func() int { return len(c.nodes[0].current.Load().Nodes) }
	for round, point := range []string{"cluster.drop.recorded", "cluster.drop.store", "cluster.drop.log"} {
		t.Run(point, func(t *testing.T) {
			pairs := somePairs(200, fmt.Sprintf("round %d", round))
			must(t, b.SetMany(t.Context(), pairs))
			p.kill()
			p = c.startChild(2, point)
			settle(t, func() error { return cl.RemoveNode(t.Context(), "n3") })
			select {
			case err := <-p.exited:
				p.exited <- err
			case <-time.After(30 * time.Second):
				t.Fatal("the node never came by its point")
			}
			p = c.startChild(2, "")
			eventually(t, 30*time.Second, func() string {
				if n := nodes(); n != 2 {
					return fmt.Sprintf("%d nodes in the map, want 2", n)
				}
				return ""
			})
			settle(t, func() error { return cl.AddNode(t.Context(), c.cfgs[2].Listen) })
			eventually(t, 30*time.Second, func() string { return onlineDiffer(t, cl, all, 2) })
			expect(t, "after the return", c.through(2, "files"), pairs)
		})
	}
}

package raftlog

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// recorder is a state machine that keeps the commands it was given. One that
// was sent again, as its first fate was unknown, comes right after itself.
type recorder struct {
	mu       sync.Mutex // guards commands
	commands []string
	applied  chan struct{} // 1 slot: commands grew
}

func (r *recorder) Apply(e *raft.Log) any {
	r.mu.Lock()
	if n := len(r.commands); n == 0 || r.commands[n-1] != string(e.Data) {
		r.commands = append(r.commands, string(e.Data))
	}
	r.mu.Unlock()
	r.grew()
	return nil
}

func (r *recorder) grew() {
	select {
	case r.applied <- struct{}{}:
	default:
	}
}

func (r *recorder) Snapshot() (raft.FSMSnapshot, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return recording(slices.Clone(r.commands)), nil
}

func (r *recorder) Restore(from io.ReadCloser) error {
	r.mu.Lock()
	defer r.grew()
	defer r.mu.Unlock()
	r.commands = nil
	return errors.Join(json.NewDecoder(from).Decode(&r.commands), from.Close())
}

// recording is a snapshot of a recorder.
type recording []string

func (r recording) Persist(sink raft.SnapshotSink) error {
	return errors.Join(json.NewEncoder(sink).Encode(r), sink.Close())
}

func (r recording) Release() {}

// wait returns once the machine applied exactly these commands.
func (r *recorder) wait(t *testing.T, who string, commands []string) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		r.mu.Lock()
		got := fmt.Sprint(r.commands)
		n := len(r.commands)
		r.mu.Unlock()
		if n >= len(commands) {
			if got != fmt.Sprint(commands) {
				t.Fatalf("%s: got %s, want %v", who, got, commands)
			}
			return
		}
		select {
		case <-r.applied:
		case <-deadline:
			t.Fatalf("%s: got %d commands, want %d", who, n, len(commands))
		}
	}
}

const (
	raftNodes  = 3
	raftShards = 3
)

// group is one Raft group over all nodes.
type group struct {
	shard     uint32
	rafts     [raftNodes]*raft.Raft
	machines  [raftNodes]*recorder
	snapshots [raftNodes]*raft.InmemSnapshotStore
	trans     [raftNodes]*raft.InmemTransport
	leaders   chan raft.Observation
	sent      []string
}

// node is one node: a log and votes for all shards.
type node struct {
	dir   string
	log   *Log
	votes *Votes
}

func (n *node) open(t *testing.T) {
	t.Helper()
	n.log = openTiny(t, Config{Dir: n.dir, Fatal: noFatal(t)})
	n.log.mu.Lock()
	n.log.limit = 1 // a Reclaim leaves little that is not live
	n.log.mu.Unlock()
	v, err := OpenVotes(VotesConfig{Path: filepath.Join(n.dir, "votes.db"), Fatal: noFatal(t)})
	if err != nil {
		t.Fatal(err)
	}
	n.votes = v
}

func (n *node) close(t *testing.T) {
	t.Helper()
	mustClose(t, n.votes)
	mustClose(t, n.log)
}

// start starts the replica of g on node i, which has an empty state machine.
func (g *group) start(t *testing.T, i int, n *node, bootstrap bool) {
	t.Helper()
	cfg := raft.DefaultConfig()
	cfg.LocalID = raft.ServerID(fmt.Sprint("node-", i))
	cfg.HeartbeatTimeout, cfg.ElectionTimeout, cfg.LeaderLeaseTimeout = 200*time.Millisecond, 200*time.Millisecond, 200*time.Millisecond
	cfg.CommitTimeout = 10 * time.Millisecond
	cfg.Logger = hclog.NewNullLogger()
	cfg.TrailingLogs = 5
	logs, votes, snapshots := n.log.Shard(g.shard), n.votes.Shard(g.shard), g.snapshots[i]
	if bootstrap {
		var c raft.Configuration
		for j := range raftNodes {
			c.Servers = append(c.Servers, raft.Server{ID: raft.ServerID(fmt.Sprint("node-", j)), Address: raft.ServerAddress(fmt.Sprint("node-", j))})
		}
		if err := raft.BootstrapCluster(cfg, logs, votes, snapshots, g.trans[i], c); err != nil {
			t.Fatal(err)
		}
	}
	g.machines[i] = &recorder{applied: make(chan struct{}, 1)}
	r, err := raft.NewRaft(cfg, g.machines[i], logs, votes, snapshots, g.trans[i])
	if err != nil {
		t.Fatal(err)
	}
	r.RegisterObserver(raft.NewObserver(g.leaders, false, func(o *raft.Observation) bool {
		l, ok := o.Data.(raft.LeaderObservation)
		return ok && l.LeaderID != ""
	}))
	g.rafts[i] = r
}

// stop stops the replica on node i and cuts its network.
func (g *group) stop(t *testing.T, i int) {
	t.Helper()
	if err := g.rafts[i].Shutdown().Error(); err != nil {
		t.Fatal(err)
	}
	g.trans[i].DisconnectAll()
	g.rafts[i] = nil
	for j := range raftNodes {
		if j != i {
			g.trans[j].Disconnect(g.trans[i].LocalAddr())
		}
	}
}

// connect joins the transport of node i to the others, which a shut down raft closed.
func (g *group) connect(i int) {
	_, g.trans[i] = raft.NewInmemTransport(raft.ServerAddress(fmt.Sprint("node-", i)))
	for j := range raftNodes {
		if j != i && g.trans[j] != nil {
			g.trans[i].Connect(g.trans[j].LocalAddr(), g.trans[j])
			g.trans[j].Connect(g.trans[i].LocalAddr(), g.trans[i])
		}
	}
}

// apply commits n commands through whoever leads.
func (g *group) apply(t *testing.T, n int) {
	t.Helper()
	deadline := make(chan struct{})
	defer time.AfterFunc(15*time.Second, func() { close(deadline) }).Stop()
	for n > 0 {
		select {
		case <-deadline:
			t.Errorf("shard %d: %d commands to go after 15 s", g.shard, n)
			return
		default:
		}
		var leader *raft.Raft
		for _, r := range g.rafts {
			if r != nil && r.State() == raft.Leader {
				leader = r
			}
		}
		if leader == nil {
			select {
			case <-g.leaders:
				continue
			case <-deadline:
				t.Errorf("shard %d: no leader after 15 s", g.shard)
				return
			}
		}
		command := fmt.Sprintf("%d/%d", g.shard, len(g.sent))
		if err := leader.Apply([]byte(command), 0).Error(); err != nil {
			t.Logf("shard %d: %v, sending %s again", g.shard, err, command)
			continue
		}
		g.sent = append(g.sent, command)
		n--
	}
}

// reclaim takes snapshots of all groups on node i, but not of the first, which
// frees nothing, and gives back what raft freed.
func (n *node) reclaim(t *testing.T, i int, groups []*group) {
	t.Helper()
	for _, g := range groups[1:] {
		if err := g.rafts[i].Snapshot().Error(); err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) {
			t.Fatalf("shard %d node %d: snapshot: %v", g.shard, i, err)
		}
	}
	if freed, err := n.log.Reclaim(); err != nil || freed <= 0 {
		t.Fatalf("node %d: reclaim: freed %d, %v, want some", i, freed, err)
	}
}

// Three nodes with three groups on one log each: entries commit with all nodes
// and without one, and the one that was away finds its own entries and catches
// up, with a snapshot if the others have given back the entries it needs.
func TestRaftRunsOnIt(t *testing.T) {
	t.Parallel()
	var nodes [raftNodes]*node
	for i := range nodes {
		nodes[i] = &node{dir: t.TempDir()}
		nodes[i].open(t)
	}
	var groups []*group
	for shard := range uint32(raftShards) {
		g := &group{shard: shard + 1, leaders: make(chan raft.Observation, 64)}
		groups = append(groups, g)
		for i := range nodes {
			g.connect(i)
			g.snapshots[i] = raft.NewInmemSnapshotStore()
		}
		for i, n := range nodes {
			g.start(t, i, n, true)
		}
	}
	applyAll := func(n int) {
		var wg sync.WaitGroup
		for _, g := range groups {
			wg.Go(func() { g.apply(t, n) })
		}
		wg.Wait()
	}
	waitAll := func() {
		for _, g := range groups {
			for i, m := range g.machines {
				if g.rafts[i] != nil {
					m.wait(t, fmt.Sprintf("shard %d node %d", g.shard, i), g.sent)
				}
			}
		}
	}
	applyAll(20)
	waitAll()
	for away := range raftNodes {
		for _, g := range groups {
			g.stop(t, away)
		}
		nodes[away].close(t)
		applyAll(40)
		waitAll()
		for i, n := range nodes {
			if i != away {
				n.reclaim(t, i, groups)
			}
		}
		nodes[away].open(t)
		for _, g := range groups {
			if last, err := nodes[away].log.Shard(g.shard).LastIndex(); err != nil || last < 20 {
				t.Fatalf("shard %d node %d: reopened with last index %d, %v, want 20 or more", g.shard, away, last, err)
			}
			g.connect(away)
			g.start(t, away, nodes[away], false)
		}
		waitAll()
	}
	for _, g := range groups {
		for _, r := range g.rafts {
			if err := r.Shutdown().Error(); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, n := range nodes {
		n.close(t)
	}
}

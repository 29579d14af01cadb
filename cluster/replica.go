package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/manykv/manykv/coordinator"
	"github.com/manykv/manykv/fsm"
	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/raftlog"
	"github.com/manykv/manykv/sharding"
	"github.com/manykv/manykv/transport/raftnet"
)

const (
	// electionTimeout is raft's election and heartbeat time-out. Heartbeats
	// queue behind a follower's fsync (they take no fast path), so it must be
	// long against a slow one.
	electionTimeout = time.Second
	// leaderLease is how long a leader goes on without hearing a majority: as
	// long as raft allows, because answers queue behind followers' fsyncs.
	// Nothing but liveness hangs on it.
	leaderLease = electionTimeout
	// commitTimeout is how soon an idle follower hears of commits, which reads
	// through it wait for.
	commitTimeout = 50 * time.Millisecond
	// maxAppendEntries bounds a message in entries; package raftnet bounds it in
	// bytes.
	maxAppendEntries = 64
	// announceRetry separates attempts to announce a term: many fit an election
	// time-out, and a machine that fails does not fill the log with them.
	announceRetry = 20 * time.Millisecond
	// transferStuck is how long raft may refuse proposals for a transfer before
	// the group is restarted: a transfer ends within one election time-out, or
	// it is wedged (hashicorp/raft#696).
	transferStuck = 2 * electionTimeout
	// drainTimeout bounds the wait for proposals under way before raft is shut
	// down: a leader cut off gives up after its lease.
	drainTimeout = 3 * electionTimeout
)

// replica is this node's copy of one shard.
type replica struct {
	shard   sharding.Shard
	group   sharding.Group // immutable
	servers raft.Configuration
	self    raft.ServerID
	machine machine
	data    *fsm.Data // the machine of a data shard; nil for the meta group
	logs    *raftlog.Shard
	votes   *raftlog.ShardVotes
	net     *raftnet.Net
	applied func()
	logger  *slog.Logger

	raft    atomic.Pointer[raft.Raft] // replaced by restart
	started time.Time

	proposed     *atomic.Int64 // bytes given to raft and not answered, over all replicas of the node
	pending      atomic.Int64  // proposals under way
	transferring atomic.Int64  // since when raft refuses for a transfer: nanoseconds after started, 0 = it does not

	mu      sync.Mutex // guards the lifetime: open, restart, close
	stop    context.CancelFunc
	leading sync.WaitGroup // the lead goroutine of the current raft
}

// open starts raft on the replica's log. A log without state is bootstrapped
// with the group's founding configuration, the same on every replica.
func (r *replica) open() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	cfg := raft.DefaultConfig()
	cfg.LocalID = r.self
	cfg.HeartbeatTimeout = electionTimeout
	cfg.ElectionTimeout = electionTimeout
	cfg.LeaderLeaseTimeout = leaderLease
	cfg.CommitTimeout = commitTimeout
	cfg.MaxAppendEntries = maxAppendEntries
	cfg.BatchApplyCh = true // the commands of one part reach the log in one write
	cfg.SnapshotThreshold = math.MaxUint64
	cfg.SnapshotInterval = 24 * time.Hour
	cfg.NoLegacyTelemetry = true
	cfg.Logger = raftLogger(r.logger)

	if err := r.prepareLog(); err != nil {
		return fmt.Errorf("shard %d: %w", r.shard, err)
	}
	snapshots, trans := noSnapshots{}, r.net.Group(uint32(r.shard))
	group, err := raft.NewRaft(cfg, applier{r.machine, r.applied}, r.logs, r.votes, snapshots, trans)
	if err != nil {
		return errors.Join(fmt.Errorf("shard %d: %w", r.shard, err), trans.Close())
	}
	r.transferring.Store(0)
	r.raft.Store(group)
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	r.leading.Go(func() { r.lead(ctx, group) })
	return nil
}

// currentTerm is raft's key of the term in its stable store.
var currentTerm = []byte("CurrentTerm")

// prepareLog gives an empty log the group's founding configuration and refuses
// one that lost entries: a voter without them could let others be overwritten.
//
// raft.BootstrapCluster writes the term before the configuration, and a crash in
// between leaves a replica that never elects anybody. Here the configuration
// comes first, so that a term without a log can only mean that the log is gone.
func (r *replica) prepareLog() error {
	last, err := r.logs.LastIndex()
	if err != nil {
		return err
	}
	term, err := r.votes.GetUint64(currentTerm)
	if err != nil && err.Error() != "not found" { // the text by which raft tells, too
		return err
	}
	switch applied := r.machine.Position().Index; {
	case last < applied:
		return fmt.Errorf("the log ends at entry %d, but the store has applied %d: the log lost entries; this node must not go on with it", last, applied)
	case last == 0 && term > 0:
		return fmt.Errorf("the log is empty, but this replica has voted in term %d: the log is lost; this node must not go on without it", term)
	case last == 0:
		founding := &raft.Log{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(r.servers)}
		if err := r.logs.StoreLog(founding); err != nil {
			return err
		}
	}
	if term == 0 {
		return r.votes.SetUint64(currentTerm, 1)
	}
	return nil
}

// close waits for proposals under way and shuts raft down.
func (r *replica) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	group := r.raft.Load()
	if group == nil {
		return nil
	}
	r.raft.Store(nil) // no proposal begins any more
	r.drain()
	r.stop()
	r.leading.Wait()
	if err := group.Shutdown().Error(); err != nil {
		return fmt.Errorf("shard %d: shut down: %w", r.shard, err)
	}
	return nil
}

// drain waits until no proposal is under way: raft does not answer those that
// sit in its queue when it is shut down (hashicorp/raft#498).
func (r *replica) drain() {
	const poll = 5 * time.Millisecond
	for end := time.Now().Add(drainTimeout); r.pending.Load() > 0 && time.Now().Before(end); {
		time.Sleep(poll)
	}
}

// lead announces each term this replica leads with an entry of its own: raft's
// own no-op never reaches the state machine, and reads must know when an entry
// of the term has been applied.
func (r *replica) lead(ctx context.Context, group *raft.Raft) {
	for {
		select {
		case leading := <-group.LeaderCh():
			if !leading {
				continue
			}
		case <-ctx.Done():
			return
		}
		r.logger.Info("leading", "term", group.CurrentTerm())
		for group.State() == raft.Leader && !r.announced(group) {
			if r.announce(ctx, group) == nil {
				continue
			}
			select {
			case <-time.After(announceRetry):
			case <-ctx.Done():
				return
			}
		}
	}
}

// announce proposes the entry of a term and waits for its end. The error is
// raft's, the state machine's (one that failed applies nothing any more) or the
// end of ctx.
func (r *replica) announce(ctx context.Context, group *raft.Raft) error {
	command := kv.AppendLead(nil, r.group.Range.First, r.group.Range.Last)
	r.pending.Add(1)
	future := group.Apply(command, enqueueTimeout)
	done := make(chan error, 1)
	go func() {
		defer r.pending.Add(-1)
		err := future.Error() // may take as long as the group has no majority
		r.noteTransfer(err)
		if result, ok := future.Response().(fsm.Result); err == nil && ok {
			err = result.Err
		}
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// announced says whether an entry of the current term has been applied.
func (r *replica) announced(group *raft.Raft) bool {
	return r.machine.Position().LeadTerm == group.CurrentTerm()
}

// leads says whether this replica leads as far as it knows.
func (r *replica) leads() bool {
	group := r.raft.Load()
	return group != nil && group.State() == raft.Leader
}

func (r *replica) number() sharding.Shard { return r.shard }

// standing reads raft's getters so that they belong together: a term never goes
// back, so leading in the same term before and after means leading in between.
func (r *replica) standing() standing {
	group := r.raft.Load()
	if group == nil {
		return standing{}
	}
	s := standing{term: group.CurrentTerm(), leadTerm: r.machine.Position().LeadTerm}
	before := group.State() == raft.Leader
	s.commit = group.CommitIndex()
	s.leading = before && group.State() == raft.Leader && group.CurrentTerm() == s.term
	return s
}

// leader returns the node that leads as far as this replica knows, or "".
func (r *replica) leader() sharding.NodeID {
	group := r.raft.Load()
	if group == nil {
		return ""
	}
	_, id := group.LeaderWithID()
	node, _ := raftnet.Node(raft.ServerAddress(id))
	return sharding.NodeID(node)
}

// voters returns the nodes that vote now.
func (r *replica) voters() []sharding.NodeID {
	group := r.raft.Load()
	if group == nil {
		return nil
	}
	future := group.GetConfiguration() // answers at once, from memory
	if future.Error() != nil {
		return nil
	}
	var nodes []sharding.NodeID
	for _, s := range future.Configuration().Servers {
		if node, ok := raftnet.Node(s.Address); ok && s.Suffrage == raft.Voter {
			nodes = append(nodes, sharding.NodeID(node))
		}
	}
	slices.Sort(nodes)
	return nodes
}

// noteTransfer keeps the time since which raft refuses proposals for a
// leadership transfer.
func (r *replica) noteTransfer(err error) {
	if !errors.Is(err, raft.ErrLeadershipTransferInProgress) {
		if r.transferring.Load() != 0 {
			r.transferring.Store(0)
		}
		return
	}
	r.transferring.CompareAndSwap(0, max(1, int64(time.Since(r.started))))
}

// stuck says whether a leadership transfer has wedged the group. The mark alone
// does not: a transfer that ended leaves it behind until the next proposal, so
// one is made.
func (r *replica) stuck(ctx context.Context) bool {
	since := r.transferring.Load()
	if since == 0 || time.Since(r.started)-time.Duration(since) < transferStuck {
		return false
	}
	group := r.raft.Load()
	if group == nil || group.State() != raft.Leader {
		r.transferring.Store(0)
		return false
	}
	ctx, done := context.WithTimeout(ctx, electionTimeout)
	defer done()
	return errors.Is(r.announce(ctx, group), raft.ErrLeadershipTransferInProgress)
}

// handOver transfers leadership to a node, or to any if it is empty, and waits
// for the end of it or of ctx.
func (r *replica) handOver(ctx context.Context, to raft.ServerID) error {
	group := r.raft.Load()
	if group == nil || group.State() != raft.Leader {
		return nil
	}
	var future raft.Future
	if to == "" {
		future = group.LeadershipTransfer()
	} else {
		future = group.LeadershipTransferToServer(to, raft.ServerAddress(to))
	}
	done := make(chan error, 1)
	go func() { done <- future.Error() }() // may block for ever: hashicorp/raft#696
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// status describes the replica.
func (r *replica) status() coordinator.ShardStatus {
	s := coordinator.ShardStatus{
		Shard: r.shard, Role: "stopped",
		First: r.group.Range.First, LastSlot: r.group.Range.Last,
		Applied: r.machine.Position().Index,
	}
	group := r.raft.Load()
	if group == nil {
		return s
	}
	switch group.State() {
	case raft.Leader:
		s.Role = "leader"
	case raft.Follower:
		s.Role = "follower"
	case raft.Candidate:
		s.Role = "candidate"
	}
	s.Leader, s.Term, s.Voters = r.leader(), group.CurrentTerm(), r.voters()
	s.Last, s.Commit = group.LastIndex(), group.CommitIndex()
	return s
}

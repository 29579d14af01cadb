package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/manykv/manykv/coordinator"
	"github.com/manykv/manykv/crash"
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
	// commitTimeout is how soon an idle follower hears of commits, or twice that. Reads
	// through it are the leader's until then. A shorter one has every idle group send
	// more messages than heartbeats: at 50 ms they took a fifth of a node's idle time.
	commitTimeout = 250 * time.Millisecond
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
	group   sharding.Group     // immutable
	servers raft.Configuration // the group's first, if this server is of it; else empty
	// founding says that an empty log gets the first configuration. Otherwise it
	// waits for the leader to send one.
	founding bool
	self     raft.ServerID
	machine  machine
	data     *fsm.Data // the machine of a data shard; nil for the meta group
	logs     *raftlog.Shard
	votes    *raftlog.ShardVotes
	net      *raftnet.Net
	store    *fsm.Store
	applied  func()
	logger   *slog.Logger

	snapshots    *snapshots
	snapshotting atomic.Bool // raft has been asked for one and has not answered
	readIndex    func(ctx context.Context, leader sharding.NodeID, s sharding.Shard) (uint64, error)
	newcomer     atomic.Bool                // see tenure.go
	raft         atomic.Pointer[raft.Raft]  // replaced by restart; nil while closed or quarantined
	clock        atomic.Pointer[shardClock] // of the last term led
	bad          atomic.Pointer[error]      // why the replica is quarantined; nil if it is not
	started      time.Time

	proposed     *budget      // bytes given to raft and not answered, over all replicas of the node
	pending      atomic.Int64 // proposals under way
	transferring atomic.Int64 // since when raft refuses for a transfer: nanoseconds after started, 0 = it does not

	changing sync.Mutex     // one change of the configuration at a time; guards proven
	proven   *provenServers // what is known to be committed; nil if nothing is

	reloading sync.Mutex // raft's reloadable configuration is read and written as one
	trailing  uint64     // guarded by reloading: entries to keep behind a snapshot

	mu      sync.Mutex     // guards the lifetime: open, restart, close
	trans   *raftnet.Group // of the current raft
	stop    context.CancelFunc
	leading sync.WaitGroup // the goroutines of the current raft: lead, qualify
}

// open starts raft on the replica's log. A replica that lost something is
// quarantined instead: it is there, says why, and takes no part in its group.
func (r *replica) open() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	err := r.start()
	if errors.Is(err, errQuarantined) {
		r.bad.Store(&err)
		r.logger.Error("the replica takes no part in its group", "error", err)
		return nil
	}
	return err
}

// start opens raft; the caller holds mu.
func (r *replica) start() error {
	cfg := raft.DefaultConfig()
	cfg.LocalID = r.self
	cfg.LeaderLeaseTimeout = leaderLease
	cfg.CommitTimeout = commitTimeout
	cfg.MaxAppendEntries = maxAppendEntries
	cfg.BatchApplyCh = true                // the commands of one part reach the log in one write
	cfg.SnapshotThreshold = math.MaxUint64 // see compact.go
	cfg.SnapshotInterval = snapshotInterval
	cfg.NoSnapshotRestoreOnStart = true // the state is in the store: prepareLog checks
	cfg.ShutdownOnRemove = false        // the map decides what runs here
	cfg.NoLegacyTelemetry = true
	cfg.Logger = raftLogger(r.logger)

	if err := r.prepareTenure(); err != nil {
		return fmt.Errorf("shard %d: %w", r.shard, err)
	}
	cfg.HeartbeatTimeout, cfg.ElectionTimeout = r.patience(), r.patience()
	if err := r.prepareLog(); err != nil {
		return fmt.Errorf("shard %d: %w", r.shard, err)
	}
	trans := r.attach()
	machine := applier{machine: r.machine, store: r.store, snapshots: r.snapshots, applied: r.applied}
	group, err := raft.NewRaft(cfg, machine, replicaLog{r.logs, r.snapshots}, r.votes, r.snapshots, trans)
	if err != nil {
		return errors.Join(fmt.Errorf("shard %d: %w", r.shard, err), trans.Close())
	}
	r.transferring.Store(0)
	r.trans = trans
	r.raft.Store(group)
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	r.leading.Go(func() { r.lead(ctx, group) })
	if r.newcomer.Load() {
		r.leading.Go(func() { r.qualify(ctx, group, trans) })
	}
	return nil
}

// currentTerm is raft's key of the term in its stable store.
var currentTerm = []byte("CurrentTerm")

// isNotFound says whether a stable store has no such key: by the text, as raft
// tells.
func isNotFound(err error) bool { return err != nil && err.Error() == "not found" }

// errQuarantined: the replica's log or state lost something that it must have. It
// takes no part in its group: a voter without it could let others be overwritten.
var errQuarantined = errors.New("quarantined")

// prepareLog gives the empty log of a founding replica the group's first
// configuration and refuses a log or state that lost something.
//
// raft.BootstrapCluster writes the term before the configuration, and a crash in
// between leaves a replica that never elects anybody. Here the configuration
// comes first, so that a term without a log can only mean that the log is gone.
func (r *replica) prepareLog() error {
	if err := r.snapshots.open(); err != nil {
		return err
	}
	first, last, err := r.logBounds()
	if err != nil {
		return err
	}
	term, err := r.votes.GetUint64(currentTerm)
	if err != nil && !isNotFound(err) {
		return err
	}
	covered, state := r.snapshots.covered()
	switch applied := r.machine.Position().Index; {
	case applied < covered:
		return fmt.Errorf("%w: the snapshot is at entry %d, but the store has applied %d: the store lost its state", errQuarantined, covered, applied)
	case max(last, state) < applied:
		return fmt.Errorf("%w: the log ends at entry %d, but the store has applied %d: the log lost entries", errQuarantined, last, applied)
	case last < covered && !r.snapshots.installed():
		return fmt.Errorf("%w: the log ends at entry %d, the snapshot taken from it at %d: the log lost entries", errQuarantined, last, covered)
	case last > covered && first > covered+1:
		return fmt.Errorf("%w: the log begins at entry %d, but the snapshot ends at %d: the log lost entries", errQuarantined, first, covered)
	case last == 0 && covered == 0 && term > 0 && r.founding:
		return fmt.Errorf("%w: the log is empty, but this replica has voted in term %d: the log is lost", errQuarantined, term)
	case last == 0 && covered == 0 && r.founding:
		founding := &raft.Log{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(r.servers)}
		if err := r.logs.StoreLog(founding); err != nil {
			return err
		}
	}
	if term == 0 && r.founding {
		return r.votes.SetUint64(currentTerm, 1)
	}
	return nil
}

func (r *replica) logBounds() (first, last uint64, err error) {
	if first, err = r.logs.FirstIndex(); err != nil {
		return 0, 0, err
	}
	last, err = r.logs.LastIndex()
	return first, last, err
}

// close waits for proposals under way and shuts raft down.
func (r *replica) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	group := r.raft.Load()
	if group == nil {
		return nil
	}
	r.raft.Store(nil) // no proposal begins any more, and none of the leader's own
	r.stop()
	r.leading.Wait()
	r.drain()
	// First the calls under way end: raft waits for them, and for a snapshot that is
	// being sent or received as long as that takes.
	err := r.trans.Close()
	if err := errors.Join(err, group.Shutdown().Error()); err != nil {
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
		crash.Point("cluster.lead.elected")
		for group.State() == raft.Leader && !r.announced(group) {
			if r.announce(ctx, group) == nil {
				crash.Point("cluster.lead.announced")
				r.startClock()
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
	future := group.ApplyLog(raft.Log{Data: command, Extensions: r.stamp()}, enqueueTimeout)
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
	return nodeOf(id)
}

// voters returns the servers that vote now.
func (r *replica) voters() []raft.ServerID { return r.serversThat(raft.Voter) }

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
	s.Snapshot, _ = r.snapshots.covered()
	if bad := r.bad.Load(); bad != nil {
		s.Role, s.Reason = "quarantined", (*bad).Error()
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
	s.Leader, s.Term, s.Voters = r.leader(), group.CurrentTerm(), nodesOf(r.voters())
	s.Nonvoters = nodesOf(r.serversThat(raft.Nonvoter))
	s.Last, s.Commit = group.LastIndex(), group.CommitIndex()
	return s
}

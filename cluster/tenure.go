package cluster

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/manykv/manykv/crash"
	"github.com/manykv/manykv/raftlog"
	"github.com/manykv/manykv/sharding"
	"github.com/manykv/manykv/transport/raftnet"
)

// A replica that comes to a node later than its group's founding begins with an
// empty log, and raft takes that for the log of a new server. It may be one that
// comes back: it has voted, and acknowledged entries, before its data was dropped,
// and a server that was cut off since then still counts on it. With an empty log
// it would vote for any such server, and acknowledged writes would be lost. So
//
//   - dropping a replica keeps its term and vote: it never votes twice in a term,
//     and never follows a leader older than the ones it has seen;
//   - a replica that begins with an empty log is a newcomer: it neither votes nor
//     stands for election until it has applied all that was committed when it
//     asked, by a confirmed read of its leader. From then on it is as good as one
//     that never lost anything.

// tenure is how a replica stands to its shard, durable beside its votes. The
// values are on disk.
type tenure uint64

const (
	tenureFull     tenure = 0 // it takes part in elections; founders have no record of it
	tenureNewcomer tenure = 1
	tenureLeaving  tenure = 2 // its data is being dropped
)

var keyTenure = []byte("Tenure")

// readTenure returns what is recorded; tenureFull if nothing is.
func readTenure(votes *raftlog.ShardVotes) (tenure, error) {
	t, err := votes.GetUint64(keyTenure)
	if isNotFound(err) {
		return tenureFull, nil
	}
	return tenure(t), err
}

func (t tenure) record(votes *raftlog.ShardVotes) error {
	return votes.SetUint64(keyTenure, uint64(t))
}

// prepareTenure finds out whether the replica is a newcomer. One without log,
// term or first configuration becomes it, before anything else is written.
func (r *replica) prepareTenure() error {
	t, err := readTenure(r.votes)
	if err != nil {
		return err
	}
	if t == tenureFull && len(r.servers.Servers) == 0 {
		fresh, err := r.fresh()
		if err != nil {
			return err
		}
		if fresh {
			t = tenureNewcomer
			if err := t.record(r.votes); err != nil {
				return err
			}
		}
	}
	r.newcomer.Store(t == tenureNewcomer)
	r.founding = t != tenureNewcomer
	return nil
}

// fresh says whether this replica has never written anything.
func (r *replica) fresh() (bool, error) {
	_, last, err := r.logBounds()
	if err != nil || last > 0 || r.machine.Position().Index > 0 {
		return false, err
	}
	_, err = r.votes.GetUint64(currentTerm)
	if isNotFound(err) {
		return true, nil
	}
	return false, err
}

const (
	// neverStands is an election time-out that does not pass: a newcomer waits for
	// its leader, however long that is away.
	neverStands = 10 * 365 * 24 * time.Hour
	// qualifyTick is how often a newcomer asks whether it has all: a move of a
	// shard waits for it, and it is one small message.
	qualifyTick = 100 * time.Millisecond
)

// patience is the election time-out of the replica.
func (r *replica) patience() time.Duration {
	if r.newcomer.Load() {
		return neverStands
	}
	return electionTimeout
}

// attach connects the replica to its peers.
func (r *replica) attach() *raftnet.Group {
	if r.newcomer.Load() {
		return r.net.Newcomer(uint32(r.shard))
	}
	return r.net.Group(uint32(r.shard))
}

// qualify waits until a newcomer has caught up, then lets it take part.
func (r *replica) qualify(ctx context.Context, group *raft.Raft, trans *raftnet.Group) {
	tick := time.NewTicker(qualifyTick)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if r.qualifies(ctx, group) {
			break
		}
	}
	if err := tenureFull.record(r.votes); err != nil {
		return // fail-stop: the node is stopping
	}
	r.newcomer.Store(false)
	trans.MayVote()
	if err := r.reload(group); err != nil {
		r.logger.Error("a replica that has caught up cannot stand for election", "error", err)
		return
	}
	r.logger.Info("caught up", "applied", r.machine.Position().Index)
}

// qualifies says whether the replica has all that was committed when this was
// called. Its log must have it: the state alone, which came with a snapshot, may be
// ahead of that.
func (r *replica) qualifies(ctx context.Context, group *raft.Raft) bool {
	leader := r.leader()
	if leader == "" {
		return false
	}
	ctx, done := context.WithTimeout(ctx, electionTimeout)
	defer done()
	index, err := r.readIndex(ctx, leader, r.shard)
	return err == nil && group.CommitIndex() >= index
}

// reload gives raft the replica's election time-outs.
func (r *replica) reload(group *raft.Raft) error {
	r.reloading.Lock()
	defer r.reloading.Unlock()
	return group.ReloadConfig(reloadable(r.trailing, r.patience()))
}

// reloadTrailing tells raft how many entries to keep behind a snapshot.
func (r *replica) reloadTrailing(group *raft.Raft, entries uint64) error {
	r.reloading.Lock()
	defer r.reloading.Unlock()
	r.trailing = entries
	return group.ReloadConfig(reloadable(r.trailing, r.patience()))
}

// drop closes this node's replica of a shard, if there is one, and removes its
// data. A crash in between is made good when the node starts again, or when the
// shard comes back.
func (n *Node) drop(s sharding.Shard) error {
	if err := n.closeReplica(s); err != nil {
		return err
	}
	votes := n.votes.Shard(uint32(s))
	if err := tenureLeaving.record(votes); err != nil {
		return err
	}
	crash.Point("cluster.drop.recorded")
	if err := n.store.Drop(s); err != nil {
		return err
	}
	crash.Point("cluster.drop.store")
	if err := n.logs.Shard(uint32(s)).Drop(); err != nil {
		return err
	}
	crash.Point("cluster.drop.log")
	if err := forgetSnapshots(votes); err != nil {
		return err
	}
	if err := tenureNewcomer.record(votes); err != nil {
		return fmt.Errorf("shard %d: %w", s, err)
	}
	n.cfg.Logger.Info("replica dropped", "shard", s)
	return nil
}

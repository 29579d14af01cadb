package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

const (
	// maxTrailing is how many bytes of entries a shard keeps behind its snapshot,
	// so that a follower that was away for a moment needs no snapshot.
	maxTrailing = 32 << 20
	// trailingShare: all shards together keep at most this part of the journal's
	// limit, so that a small journal can be cut at all.
	trailingShare = 4
	// catchUpRoom is how many times the journal's limit the log may take while a
	// follower is being sent a snapshot. It has to hold what is written until then:
	// a follower that needs another snapshot after each one never catches up.
	catchUpRoom = 3
	// snapshotTimeout is how long the cut waits for the shards' snapshots: a flush
	// of the store. A shard that is being sent a snapshot itself may take far longer;
	// what it has in the log is carried forward.
	snapshotTimeout = 10 * time.Second
	// compactPause separates two attempts when the first freed nothing. As long as the
	// journal is over its limit another one follows, after twice the time, up to
	// longestCompactPause: what held it may be over without anything being written. A
	// node that has just started, say, has nothing to take a snapshot of until it
	// knows what is committed; one that was started again and again would have a
	// journal without bounds.
	compactPause        = time.Second
	longestCompactPause = 30 * time.Second
	// snapshotInterval is how often raft would look whether a snapshot is due; it
	// never is.
	snapshotInterval = 24 * time.Hour
)

// compact cuts the journal whenever it has grown past its limit: all shards take
// a snapshot, which costs one flush of the store, raft forgets what they cover,
// and the journal gives back its oldest part, carrying forward what is still
// needed of it.
func (n *Node) compact() {
	var again <-chan time.Time
	for pause := compactPause; ; {
		select {
		case <-n.logs.Full():
		case <-again:
		case <-n.ctx.Done():
			return
		}
		began := time.Now()
		if err := n.snapshotAll(n.ctx); err != nil {
			n.cfg.Logger.Warn("not every shard took a snapshot", "error", err)
		}
		freed, err := n.logs.Reclaim()
		if err != nil {
			return // fail-stop: the node is stopping
		}
		size := n.logs.Size()
		n.cfg.Logger.Info("journal cut", "freed", freed, "bytes", size.Journal, "live", size.Live, "took", time.Since(began).Round(time.Millisecond))
		if size.Journal <= n.cfg.JournalBytes {
			pause, again = compactPause, nil
			continue
		}
		again = time.After(pause)
		pause = min(2*pause, longestCompactPause)
		if freed > 0 {
			continue
		}
		select {
		case <-time.After(compactPause):
		case <-n.ctx.Done():
			return
		}
	}
}

// snapshotAll takes a snapshot of every replica, all at once: they share a flush.
func (n *Node) snapshotAll(ctx context.Context) error {
	set := n.replicaSet()
	keep := min(maxTrailing, n.cfg.JournalBytes/int64(trailingShare*max(1, len(set))))
	roomy := n.logs.Size().Live < catchUpRoom*n.cfg.JournalBytes
	var (
		all  sync.WaitGroup
		mu   sync.Mutex
		errs []error
	)
	for _, r := range set {
		if roomy && r.snapshots.streaming() {
			continue // a follower is about to need what is in the log
		}
		all.Go(func() {
			if err := r.snapshot(ctx, keep); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, fmt.Errorf("shard %d: %w", r.shard, err))
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// snapshot takes a snapshot and lets raft forget all but the last keep bytes of
// entries.
func (r *replica) snapshot(ctx context.Context, keep int64) error {
	group := r.raft.Load()
	if group == nil {
		return nil
	}
	if err := r.reloadTrailing(group, max(1, r.logs.TrailingFit(keep))); err != nil {
		return err
	}
	ctx, done := context.WithTimeout(ctx, snapshotTimeout)
	defer done()
	if !r.snapshotting.CompareAndSwap(false, true) {
		return errors.New("the snapshot before is not done")
	}
	taken := make(chan error, 1)
	go func() { // both may block: while a snapshot is installed, until raft is shut down
		defer r.snapshotting.Store(false)
		taken <- group.Snapshot().Error()
	}()
	select {
	case err := <-taken:
		if errors.Is(err, raft.ErrNothingNewToSnapshot) {
			return nil
		}
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

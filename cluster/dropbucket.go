package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/manykv/manykv/fsm"
	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

// Deleting a bucket: the catalogue takes its name away and notes that every shard
// has its data still. Who leads the meta group gives each shard the command to drop
// it, through the shard's own log, and then crosses that shard off. All of it may be
// done twice, so whoever leads next goes on.

const (
	// dropTick is how often the leader of the meta group looks for data to drop
	// when nothing told it to.
	dropTick = time.Second
	// dropsAtOnce bounds the shards that drop at the same time: each scans and
	// deletes a range of its store.
	dropsAtOnce = 8
	// dropTimeout bounds one shard's drop; the next tick tries again.
	dropTimeout = 10 * time.Second
	// dropPoll is how often a deletion that is waited for looks whether it is done.
	dropPoll = 20 * time.Millisecond
)

// dropBuckets has shards drop deleted buckets while this node leads the meta group.
func (n *Node) dropBuckets() {
	tick := time.NewTicker(dropTick)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-n.deleted:
		case <-n.ctx.Done():
			return
		}
		if meta := n.replica(sharding.Meta); meta == nil || !meta.leads() {
			continue
		}
		dropping, err := n.catalog.Dropping()
		if err != nil {
			n.cfg.Logger.Warn("deleted buckets", "error", err)
			continue
		}
		n.dropAll(dropping)
	}
}

// dropAll drops what can be dropped now.
func (n *Node) dropAll(dropping []fsm.Dropping) {
	var all sync.WaitGroup
	slots := make(chan struct{}, dropsAtOnce)
	for _, b := range dropping {
		for _, s := range b.Shards {
			slots <- struct{}{}
			all.Go(func() {
				defer func() { <-slots }()
				if err := n.dropFrom(n.ctx, b.Bucket, s); err != nil {
					n.cfg.Logger.Debug("a deleted bucket is not dropped yet", "bucket", b.Name, "shard", s, "because", err)
				}
			})
		}
	}
	all.Wait()
}

// dropFrom drops a bucket from one shard and crosses the shard off.
func (n *Node) dropFrom(ctx context.Context, bucket uint64, s sharding.Shard) error {
	ctx, done := context.WithTimeout(ctx, dropTimeout)
	defer done()
	v, err := n.toLeader(ctx, s, methodDrop, appendOrder(nil, s, bucket))
	switch {
	case err != nil:
		return err
	case v.what != verdictDone:
		return fmt.Errorf("shard %d: %s", s, v.text)
	}
	_, err = n.decide(ctx, fsm.AppendDropped(nil, bucket, s))
	return err
}

// serveDrop drops a bucket from a shard that this node leads.
func (n *Node) serveDrop(ctx context.Context, request []byte) (verdict, error) {
	s, bucket, err := decodeOrder(request)
	if err != nil {
		return verdict{}, err
	}
	r := n.replica(s)
	if r == nil || r.data == nil || !r.leads() {
		return n.elsewhere(s), nil
	}
	p, err := r.propose(ctx, [][]byte{kv.AppendDrop(nil, bucket)})
	if err != nil {
		return verdict{what: verdictWait, text: err.Error()}, nil
	}
	results := p.wait(ctx)
	switch {
	case len(results) == 0:
		return n.elsewhere(s), nil
	case results[0].Outcome != kv.OutcomeApplied:
		return verdict{what: verdictWait, text: results[0].Detail}, nil
	}
	return verdict{what: verdictDone}, nil
}

// deleteBucket takes the name of a bucket away, if it has this id, and waits until
// its data is gone, too. Asked again, it waits for what it began.
func (n *Node) deleteBucket(ctx context.Context, meta *replica, name string, id uint64) error {
	if id == 0 {
		return fmt.Errorf("%w: bucket %q has no id 0", kv.ErrInvalid, name)
	}
	_, err := n.decide(ctx, fsm.AppendDeleteBucket(nil, name, id))
	if errors.Is(err, kv.ErrNoSuchStore) {
		if left, held := n.stillHolding(id); held == nil && left > 0 {
			err = nil
		}
	}
	if err != nil {
		return err
	}
	kick(n.deleted)
	return n.awaitDropped(ctx, meta, name, id)
}

// awaitDropped waits until no shard holds a deleted bucket. At the end of ctx the
// error is kv.ErrUnknown, so that the caller asks again: the bucket is gone for
// whoever opens it, but not yet for whoever has it open.
func (n *Node) awaitDropped(ctx context.Context, meta *replica, name string, id uint64) error {
	tick := time.NewTicker(dropPoll)
	defer tick.Stop()
	for {
		left, err := n.stillHolding(id)
		if err != nil || left == 0 {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
		if ctx.Err() != nil || !meta.leads() {
			return fmt.Errorf("%w: bucket %q is deleted; %d shards hold its data still, which goes on", kv.ErrUnknown, name, left)
		}
	}
}

// stillHolding returns how many shards have not dropped a deleted bucket.
func (n *Node) stillHolding(bucket uint64) (int, error) {
	dropping, err := n.catalog.Dropping()
	for _, b := range dropping {
		if b.Bucket == bucket {
			return len(b.Shards), err
		}
	}
	return 0, err
}

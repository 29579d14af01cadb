package cluster

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/manykv/manykv/coordinator"
	"github.com/manykv/manykv/crash"
	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/mutant"
)

const (
	// enqueueTimeout is how long a proposal waits for raft's queue before it is
	// refused as not applied.
	enqueueTimeout = time.Second
)

// proposal is a list of commands given to raft.
type proposal struct {
	r       *replica
	given   int
	results chan coordinator.Result // one for each command given, in order
}

// errBusy: too much is under way; nothing was proposed.
var errBusy = fmt.Errorf("%w: too many bytes of writes are under way on this node", kv.ErrBusy)

// propose gives commands to raft in order, without waiting for any. It stops at
// the end of ctx, or when raft's queue has been full for too long; commands after
// one that raft refused are not given to it.
func (r *replica) propose(ctx context.Context, commands [][]byte) (proposal, error) {
	p := proposal{r: r}
	size := int64(0)
	for _, c := range commands {
		size += int64(len(c))
	}
	if !r.proposed.take(size) {
		return p, errBusy
	}
	r.pending.Add(1) // before the group is loaded: close waits for it
	var futures []raft.ApplyFuture
	group := r.raft.Load()
	for start := time.Now(); group != nil && len(futures) < len(commands); {
		left := enqueueTimeout - time.Since(start)
		if left <= 0 || ctx.Err() != nil || group.State() != raft.Leader {
			break
		}
		crash.Point("cluster.propose.before")
		futures = append(futures, group.ApplyLog(raft.Log{Data: commands[len(futures)], Extensions: r.stamp()}, left))
	}
	crash.Point("cluster.propose.given")
	p.given = len(futures)
	p.results = make(chan coordinator.Result, p.given)
	go func() {
		defer r.pending.Add(-1)
		defer r.proposed.give(size)
		for _, f := range futures {
			if mutant.On(mutant.AckBeforeQuorum) && tooLong(f) {
				p.results <- coordinator.Result{Outcome: kv.OutcomeApplied}
				continue
			}
			err := f.Error()
			r.noteTransfer(err)
			var response any
			if err == nil {
				response = f.Response()
			}
			crash.Point("cluster.propose.answered")
			p.results <- outcomeOf(err, response)
		}
	}()
	return p, nil
}

// tooLong is for mutant.AckBeforeQuorum: whether a future has no answer after 20 ms.
func tooLong(f raft.ApplyFuture) bool {
	answered := make(chan struct{})
	go func() {
		_ = f.Error()
		close(answered)
	}()
	select {
	case <-answered:
		return false
	case <-time.After(20 * time.Millisecond):
		return true
	}
}

// wait returns one result for each command that was given to raft. When ctx ends
// first, those without an answer are unknown, and none of them is waited for again: a
// result that comes later is not the next command's. A future may block for ever
// (hashicorp/raft#498).
func (p proposal) wait(ctx context.Context) []coordinator.Result {
	results := make([]coordinator.Result, 0, p.given)
	for range p.given {
		select {
		case result := <-p.results: // preferred to the end of ctx
			results = append(results, result)
			continue
		default:
		}
		select {
		case result := <-p.results:
			results = append(results, result)
		case <-ctx.Done():
			unknown := outcomeOf(context.Cause(ctx), nil)
			return append(results, slices.Repeat([]coordinator.Result{unknown}, p.given-len(results))...)
		}
	}
	return results
}

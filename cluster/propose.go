package cluster

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/manykv/manykv/coordinator"
	"github.com/manykv/manykv/crash"
	"github.com/manykv/manykv/fsm"
	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/mutant"
)

// enqueueTimeout is how long a proposal waits for raft's queue before it is
// refused as not applied.
const enqueueTimeout = time.Second

// proposal is a list of commands given to raft.
type proposal struct {
	r       *replica
	given   int
	results chan coordinator.Result // one for each command given, in order
}

// entry is what raft is given: a command, or a bundle of several.
type entry struct {
	data     []byte
	commands int
	future   raft.ApplyFuture
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
	entries := bundled(commands)
	given := 0
	group := r.raft.Load()
	for start := time.Now(); group != nil && given < len(entries); given++ {
		left := enqueueTimeout - time.Since(start)
		if left <= 0 || ctx.Err() != nil || group.State() != raft.Leader {
			break
		}
		crash.Point("cluster.propose.before")
		e := &entries[given]
		e.future = group.ApplyLog(raft.Log{Data: e.data, Extensions: r.stamp()}, left)
		p.given += e.commands
	}
	crash.Point("cluster.propose.given")
	p.results = make(chan coordinator.Result, p.given)
	go func() {
		defer r.pending.Add(-1)
		defer r.proposed.give(size)
		for i := range entries[:given] {
			entries[i].await(r, p.results)
		}
	}()
	return p, nil
}

// bundled makes entries of commands: those that follow one another and may stand in a
// bundle share one. What an entry costs on its way, in raft's channels, records and
// messages, is far more than what a small command costs.
func bundled(commands [][]byte) []entry {
	entries := make([]entry, 0, 1)
	for len(commands) > 0 {
		first, n, size := commands[0], 1, len(commands[0])
		for n < len(commands) && kv.BundlesWith(first, commands[n]) && kv.BundleBytes(n+1, size+len(commands[n])) <= kv.MaxCommandBytes {
			size += len(commands[n])
			n++
		}
		e := entry{data: first, commands: n}
		if n > 1 {
			e.data = kv.AppendBundle(make([]byte, 0, kv.BundleBytes(n, size)), commands[:n])
		}
		entries = append(entries, e)
		commands = commands[n:]
	}
	return entries
}

// await tells the results of an entry's commands.
func (e *entry) await(r *replica, results chan<- coordinator.Result) {
	if mutant.On(mutant.AckBeforeQuorum) && tooLong(e.future) {
		for range e.commands {
			results <- coordinator.Result{Outcome: kv.OutcomeApplied}
		}
		return
	}
	err := e.future.Error()
	r.noteTransfer(err)
	var response any
	if err == nil {
		response = e.future.Response()
	}
	crash.Point("cluster.propose.answered")
	for i := range e.commands {
		results <- outcomeOf(err, responseOf(response, i, e.commands))
	}
}

// responseOf is the state machine's answer to the i-th of an entry's commands; nil if it
// gave none.
func responseOf(response any, i, commands int) any {
	result, ok := response.(fsm.Result)
	switch {
	case !ok || commands == 1 || result.Err != nil:
		return response // to the one there is, or to all of them
	case len(result.Each) == commands:
		return result.Each[i]
	default:
		return nil
	}
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

package cluster

import (
	"errors"

	"github.com/hashicorp/raft"

	"github.com/manykv/manykv/coordinator"
	"github.com/manykv/manykv/fsm"
	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/mutant"
)

// notOwner is how an applied command says that its shard does not own its
// keys: the caller's map is stale.
const notOwner = "the shard does not own the slot of a key"

// outcomeOf says what became of a proposal, by the error of its future and the
// state machine's answer. It is the one place where raft's errors get a
// meaning, and what it does not know is unknown.
func outcomeOf(err error, response any) coordinator.Result {
	switch {
	case err == nil:
		return appliedResult(response)
	case errors.Is(err, raft.ErrNotLeader),
		errors.Is(err, raft.ErrLeadershipTransferInProgress),
		errors.Is(err, raft.ErrEnqueueTimeout):
		// Said only before the entry is given to the log.
		return coordinator.Result{Outcome: kv.OutcomeNotApplied, Code: kv.CodeUnavailable, Detail: err.Error()}
	case mutant.On(mutant.UnknownAsNotApplied):
		return coordinator.Result{Outcome: kv.OutcomeNotApplied, Code: kv.CodeUnavailable, Detail: err.Error()}
	default:
		// ErrLeadershipLost: a later leader may commit it. A log store's error:
		// it may be on this disk and win later. ErrRaftShutdown: it may be
		// committed and not applied here. Anything new: nobody knows.
		return coordinator.Result{Outcome: kv.OutcomeUnknown, Code: kv.CodeUnknown, Detail: err.Error()}
	}
}

// appliedResult reads the state machine's answer to a committed entry.
func appliedResult(response any) coordinator.Result {
	result, ok := response.(fsm.Result)
	switch {
	case !ok:
		return coordinator.Result{Outcome: kv.OutcomeUnknown, Code: kv.CodeUnknown, Detail: "the state machine gave no result"}
	case result.Err == nil:
		return coordinator.Result{Outcome: kv.OutcomeApplied, Value: result.Value}
	case errors.Is(result.Err, fsm.ErrForgotten):
		// It was answered before, and nobody knows any more how.
		return coordinator.Result{Outcome: kv.OutcomeUnknown, Forgotten: true, Code: kv.CodeUnknown, Detail: result.Err.Error()}
	case errors.Is(result.Err, fsm.ErrOutOfOrder):
		return coordinator.Result{Outcome: kv.OutcomeNotApplied, Code: kv.CodeUnavailable, Detail: result.Err.Error()}
	case errors.Is(result.Err, fsm.ErrNotOwner):
		return coordinator.Result{Outcome: kv.OutcomeNotApplied, Code: kv.CodeUnavailable, Detail: notOwner}
	case kv.CodeOf(result.Err) == kv.CodeUnknown:
		// Not the machine's verdict but its failure (it is closed, its disk
		// failed): the entry is committed, and the other replicas apply it.
		return coordinator.Result{Outcome: kv.OutcomeUnknown, Code: kv.CodeUnknown, Detail: result.Err.Error()}
	default:
		return coordinator.Result{Outcome: kv.OutcomeNotApplied, Code: kv.CodeOf(result.Err), Detail: result.Err.Error(), Value: result.Value}
	}
}

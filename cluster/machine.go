package cluster

import (
	"context"
	"errors"
	"io"

	"github.com/hashicorp/raft"

	"github.com/manykv/manykv/fsm"
)

// machine is what a replica needs of a state machine: *fsm.Data or
// *fsm.Catalogue.
type machine interface {
	Apply(entries []fsm.Entry) []fsm.Result
	Position() fsm.Position
	Time() uint64
	Wait(ctx context.Context, index uint64) error
	Stream() (*fsm.Stream, error)
	Hash(ctx context.Context) (fsm.StateHash, error)
}

// applier is a machine as raft wants it. It implements raft.BatchingFSM, not
// only raft.FSM, because raft then shows configuration entries too, so that the
// machine's position follows the commit index.
type applier struct {
	machine
	store     *fsm.Store
	snapshots *snapshots
	applied   func() // after each batch and restore; may be nil
}

// Apply is never called: raft prefers ApplyBatch.
func (a applier) Apply(l *raft.Log) any { return a.ApplyBatch([]*raft.Log{l})[0] }

// ApplyBatch applies committed entries and returns one result for each.
func (a applier) ApplyBatch(logs []*raft.Log) []any {
	entries := make([]fsm.Entry, len(logs))
	for i, l := range logs {
		entries[i] = fsm.Entry{Index: l.Index, Term: l.Term, Time: readStamp(l.Extensions)}
		if l.Type == raft.LogCommand {
			entries[i].Command = l.Data
		}
	}
	results := a.machine.Apply(entries)
	responses := make([]any, len(results))
	for i := range results {
		responses[i] = results[i]
	}
	if a.applied != nil {
		a.applied()
	}
	return responses
}

// Snapshot says what stands for the state as it is now.
func (a applier) Snapshot() (raft.FSMSnapshot, error) { return flushed{a.store}, nil }

// Restore replaces the state by the one that was staged. An error is fatal to
// the node: raft would go on with a machine of which nobody knows what it holds.
func (a applier) Restore(staged io.ReadCloser) error {
	err := a.snapshots.restore()
	if a.applied != nil {
		a.applied()
	}
	return errors.Join(err, staged.Close())
}

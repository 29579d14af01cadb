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
	Wait(ctx context.Context, index uint64) error
}

// applier is a machine as raft wants it. It implements raft.BatchingFSM, not
// only raft.FSM, because raft then shows configuration entries too, so that the
// machine's position follows the commit index.
type applier struct {
	machine
	applied func() // after each batch; may be nil
}

// Apply is never called: raft prefers ApplyBatch.
func (a applier) Apply(l *raft.Log) any { return a.ApplyBatch([]*raft.Log{l})[0] }

// ApplyBatch applies committed entries and returns one result for each.
func (a applier) ApplyBatch(logs []*raft.Log) []any {
	entries := make([]fsm.Entry, len(logs))
	for i, l := range logs {
		entries[i] = fsm.Entry{Index: l.Index, Term: l.Term}
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

// errNoSnapshots is why raft never sees a snapshot: logs are kept whole.
var errNoSnapshots = errors.New("logs are kept whole: no snapshots are taken")

// Snapshot refuses; raft's thresholds are set so that it never asks.
func (a applier) Snapshot() (raft.FSMSnapshot, error) { return nil, errNoSnapshots }

// Restore refuses: there is no snapshot to restore from.
func (a applier) Restore(snapshot io.ReadCloser) error {
	return errors.Join(errNoSnapshots, snapshot.Close())
}

// noSnapshots is the snapshot store of logs that are kept whole.
type noSnapshots struct{}

func (noSnapshots) Create(raft.SnapshotVersion, uint64, uint64, raft.Configuration, uint64, raft.Transport) (raft.SnapshotSink, error) {
	return nil, errNoSnapshots
}

func (noSnapshots) List() ([]*raft.SnapshotMeta, error) { return nil, nil }

func (noSnapshots) Open(string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	return nil, nil, errNoSnapshots
}

package cluster

import (
	"testing"

	"github.com/hashicorp/raft"

	"github.com/manykv/manykv/fsm"
)

// logged appends entries of term 1 to a replica's log.
func logged(t *testing.T, r *replica, from, to uint64) {
	t.Helper()
	for i := from; i <= to; i++ {
		must(t, r.logs.StoreLog(&raft.Log{Index: i, Term: 1, Type: raft.LogNoop}))
	}
}

// local begins a snapshot of the replica's own, as raft does.
func local(t *testing.T, r *replica, index uint64) raft.SnapshotSink {
	t.Helper()
	s, err := r.snapshots.Create(1, index, 1, raft.Configuration{}, 1, nil)
	must(t, err)
	must(t, flushed{r.store}.Persist(s))
	return s
}

// brought stands for the state and the note that an installation leaves.
func brought(t *testing.T, r *replica, index, state uint64) {
	t.Helper()
	r.data.Apply([]fsm.Entry{{Index: state, Term: 1}})
	must(t, r.snapshots.adopt(&snapshotNote{Index: index, Term: 1, State: state, Installed: true}))
}

// sound wants the replica to open, as after a restart.
func sound(t *testing.T, r *replica) {
	t.Helper()
	must(t, r.open())
	if s := r.status(); s.Role == "quarantined" {
		t.Errorf("quarantined: %s", s.Reason)
	}
	must(t, r.close())
}

// A snapshot that was installed may bring a state ahead of the log. The replica's
// own next one must not forget that.
func TestOwnSnapshotBehindTheStateThatWasInstalled(t *testing.T) {
	t.Parallel()
	_, r := alone(t, 77)
	must(t, r.snapshots.open())
	brought(t, r, 50, 70)
	logged(t, r, 51, 60)
	must(t, local(t, r, 60).Close())
	if index, state := r.snapshots.covered(); index != 60 || state != 70 {
		t.Errorf("the snapshot stands for entry %d and state %d, want 60 and 70", index, state)
	}
	sound(t, r)
}

// raft takes a snapshot on one goroutine and installs one on another: of two the
// newer one stays.
func TestSnapshotsThatOverlap(t *testing.T) {
	t.Parallel()
	_, r := alone(t, 77)
	must(t, r.snapshots.open())
	logged(t, r, 1, 10)
	r.data.Apply([]fsm.Entry{{Index: 10, Term: 1}})
	own := local(t, r, 10)
	brought(t, r, 50, 70)
	if own.Close() == nil {
		t.Error("an older snapshot replaced the one that was installed")
	}
	must(t, local(t, r, 50).Close()) // the same again: it stays what it is
	if !r.snapshots.installed() {
		t.Error("the snapshot that was installed is taken for the replica's own")
	}
	logged(t, r, 51, 80)
	must(t, local(t, r, 60).Close())
	r.snapshots.staged = &snapshotNote{Index: 55, Term: 1, State: 55}
	if r.snapshots.restore() == nil {
		t.Error("a snapshot was installed over a newer one")
	}
	sound(t, r)
}

// An announcement that was left behind counts no more once the replica is further.
func TestAnnouncementLeftBehind(t *testing.T) {
	t.Parallel()
	_, r := alone(t, 77)
	must(t, r.snapshots.open())
	must(t, r.votes.Set(keyInstalling, (&snapshotNote{Index: 50, Term: 1, State: 70, Installed: true}).append(nil)))
	logged(t, r, 1, 90)
	r.data.Apply([]fsm.Entry{{Index: 90, Term: 1}})
	must(t, local(t, r, 80).Close())
	must(t, r.logs.DeleteRange(1, 79))
	sound(t, r)
	if index, _ := r.snapshots.covered(); index != 80 {
		t.Errorf("the snapshot is at entry %d, want 80", index)
	}
}

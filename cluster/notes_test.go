package cluster

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/manykv/manykv/fsm"
	"github.com/manykv/manykv/sharding"
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

// announced installs nothing, but leaves behind what an installation has when the
// machine has its state and the log is not trimmed yet.
func announced(t *testing.T, r *replica, note snapshotNote) {
	t.Helper()
	must(t, r.votes.Set(keyInstalling, note.append(nil)))
	r.data.Apply([]fsm.Entry{{Index: note.State, Term: 1}})
}

// The leader has not heard that its snapshot was installed and sends it again, with
// a state that has become newer; the node dies before that is noted.
func TestTheSameSnapshotAgainIsInterrupted(t *testing.T) {
	t.Parallel()
	_, r := alone(t, 77)
	must(t, r.snapshots.open())
	brought(t, r, 50, 60)
	announced(t, r, snapshotNote{Index: 50, Term: 1, State: 90, Installed: true})
	sound(t, r)
	if index, state := r.snapshots.covered(); index != 50 || state != 90 {
		t.Errorf("the snapshot stands for entry %d and state %d, want 50 and 90", index, state)
	}
}

// Another leader sends a snapshot that is newer, of a state that is older than the
// one a snapshot brought before.
func TestSnapshotOfAnOlderState(t *testing.T) {
	t.Parallel()
	_, r := alone(t, 77)
	must(t, r.snapshots.open())
	brought(t, r, 50, 90)
	r.snapshots.staged = &snapshotNote{Index: 60, Term: 1, State: 70, Installed: true}
	must(t, r.snapshots.restore())
	if index, state := r.snapshots.covered(); index != 60 || state != 90 {
		t.Errorf("the snapshot stands for entry %d and state %d, want 60 and 90", index, state)
	}
	sound(t, r)
}

// A snapshot that brings nothing new trims the log: the machine's state must be
// durable before.
func TestSnapshotOfWhatIsAppliedAlready(t *testing.T) {
	t.Parallel()
	n, r := alone(t, 77)
	must(t, r.snapshots.open())
	logged(t, r, 1, 90)
	r.data.Apply([]fsm.Entry{{Index: 90, Term: 1}})
	if at := durable(t, n, 77); at.Index == 90 {
		t.Fatal("entry 90 is durable before anything made it so: the test proves nothing")
	}
	r.snapshots.staged = &snapshotNote{Index: 80, Term: 1, State: 85, Installed: true}
	must(t, r.snapshots.restore())
	if at := durable(t, n, 77); at.Index != 90 {
		t.Errorf("the log is trimmed, and of the state entry %d is durable, want 90", at.Index)
	}
	sound(t, r)
}

// durable returns how far a shard's state is on a node's disk: what a start after
// kill -9 would find. The node must be at rest.
func durable(t *testing.T, n *Node, shard sharding.Shard) fsm.Position {
	t.Helper()
	dir := t.TempDir()
	must(t, os.CopyFS(filepath.Join(dir, storeDir), os.DirFS(n.dir.sub(storeDir))))
	store, err := fsm.Open(fsm.Config{Dir: filepath.Join(dir, storeDir), ReadOnly: true, Fatal: func(err error) { t.Error(err) }})
	must(t, err)
	defer func() { must(t, store.Close()) }()
	data, err := store.Data(shard)
	must(t, err)
	return data.Position()
}

// A leader that does not know how far a replica is sends it a snapshot of what it
// has. Refused, it would send it again until it takes another.
func TestSnapshotOfWhatTheReplicaHolds(t *testing.T) {
	t.Parallel()
	_, r := alone(t, 77)
	must(t, r.snapshots.open())
	brought(t, r, 50, 55)
	logged(t, r, 51, 60)
	for _, c := range []struct {
		index, term uint64
		want        bool
	}{{40, 1, true}, {50, 1, true}, {55, 1, true}, {60, 1, true}, {60, 2, false}, {61, 1, false}} {
		if got := r.holds(c.index, c.term); got != c.want {
			t.Errorf("entry %d of term %d: %v, want %v", c.index, c.term, got, c.want)
		}
	}
}

package cluster

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/manykv/manykv/crash"
	"github.com/manykv/manykv/fsm"
	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/mutant"
	"github.com/manykv/manykv/raftlog"
	"github.com/manykv/manykv/sharding"
)

// A Raft snapshot here is a note, not a copy: the state machine's store is
// flushed, and index, term and configuration are written beside the votes. Only
// when a follower needs it is the state streamed, from a consistent view of the
// store at that moment; it may be newer than the note says, which is safe because
// a machine skips the entries it has.
//
// Installing one on a follower takes five durable steps, and a crash after any of
// them ends in the old state or the new one:
//
//	stage     the stream is written aside, checked and synced (fsm.Stage)
//	announce  a note says what is being installed
//	restore   the machine's state is replaced (fsm.Store.Restore)
//	trim      the log forgets what the snapshot covers: below it there may be
//	          entries that were never committed
//	adopt     the note becomes the snapshot
//
// A start that finds the announcement goes on with trim if the machine has the
// state, else forgets the installation; the leader sends another.

// Keys beside the votes.
var (
	keySnapshot   = []byte("Snapshot")
	keyInstalling = []byte("Installing")
)

// snapshotNote is what is remembered of a snapshot:
//
//	version u8 · index u64 · term u64 · state u64 · installed u8 · configuration index u64 · configuration bytes
type snapshotNote struct {
	Index, Term uint64
	State       uint64 // what the machine had applied at least, then: the state of a stream may be newer than Index
	Installed   bool   // the log before it was dropped; a local one leaves an entry at Index, or after it
	ConfigIndex uint64
	Config      raft.Configuration
}

func (s *snapshotNote) append(dst []byte) []byte {
	dst = append(dst, wireVersion)
	dst = binary.BigEndian.AppendUint64(dst, s.Index)
	dst = binary.BigEndian.AppendUint64(dst, s.Term)
	dst = binary.BigEndian.AppendUint64(dst, s.State)
	dst = kv.AppendBool(dst, s.Installed)
	dst = binary.BigEndian.AppendUint64(dst, s.ConfigIndex)
	return kv.AppendBytes(dst, raft.EncodeConfiguration(s.Config))
}

// decodeSnapshotNote reads a note that package raftlog has verified; raft panics
// on a configuration it cannot decode.
func decodeSnapshotNote(b []byte) (note *snapshotNote, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("note of a snapshot: its configuration: %v", p)
		}
	}()
	d := versioned(b)
	note = &snapshotNote{Index: d.U64(), Term: d.U64(), State: d.U64(), Installed: d.Bool(), ConfigIndex: d.U64()}
	config := d.Bytes()
	if err := d.Finish(); err != nil {
		return nil, fmt.Errorf("note of a snapshot: %w", err)
	}
	note.Config = raft.DecodeConfiguration(config)
	return note, nil
}

// meta is the note as raft wants it. Its size is not known before it is streamed.
func (s *snapshotNote) meta(id string) *raft.SnapshotMeta {
	return &raft.SnapshotMeta{
		Version: raft.SnapshotVersionMax, ID: id, Index: s.Index, Term: s.Term,
		Configuration: s.Config, ConfigurationIndex: s.ConfigIndex,
	}
}

// The ids raft hands back to Open.
const (
	idTaken  = "taken"  // the snapshot there is
	idStaged = "staged" // the one being installed
)

// snapshots is the raft.SnapshotStore of one replica.
type snapshots struct {
	shard   sharding.Shard
	store   *fsm.Store
	machine machine
	votes   *raftlog.ShardVotes
	logs    *raftlog.Shard

	fatal func(error) // ends the node

	taken  atomic.Pointer[snapshotNote] // the newest; nil if there is none
	staged *snapshotNote                // only raft's main goroutine and, while that waits, its FSM goroutine

	// noting is held while a note is written and what belongs to it is done: a
	// local snapshot waits in raft while another one is being installed.
	noting sync.Mutex

	streams  atomic.Int64 // of the state, open
	streamed atomic.Int64 // when the last one ended, in Unix milliseconds
}

// open reads the note and finishes, or forgets, an installation that a crash
// interrupted.
func (s *snapshots) open() error {
	taken, err := s.read(keySnapshot)
	if err != nil {
		return err
	}
	s.taken.Store(taken)
	installing, err := s.read(keyInstalling)
	if err != nil || installing == nil {
		return errors.Join(err, s.store.DiscardStaged(s.shard))
	}
	// The snapshot there is may have come again, with a newer state: sink.wanted.
	index, _ := s.covered()
	if installing.Index >= index && s.machine.Position().Index >= installing.State {
		if err := s.adopt(installing); err != nil {
			return err
		}
	} else if err := s.votes.Set(keyInstalling, nil); err != nil {
		return err
	}
	return s.store.DiscardStaged(s.shard)
}

// read returns a note; nil if there is none.
func (s *snapshots) read(key []byte) (*snapshotNote, error) {
	b, err := s.votes.Get(key)
	if isNotFound(err) || err == nil && len(b) == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return decodeSnapshotNote(b)
}

// forgetSnapshots removes the notes of a replica that leaves this node.
func forgetSnapshots(votes *raftlog.ShardVotes) error {
	return errors.Join(votes.Set(keyInstalling, nil), votes.Set(keySnapshot, nil))
}

// covered returns the last index that the snapshot stands for, and the last whose
// effect was in the state it brought; 0 without a snapshot.
func (s *snapshots) covered() (index, state uint64) {
	if note := s.taken.Load(); note != nil {
		return note.Index, note.State
	}
	return 0, 0
}

// installed says whether the snapshot came from another node: then the log may be
// empty.
func (s *snapshots) installed() bool {
	note := s.taken.Load()
	return note != nil && note.Installed
}

// Create begins a snapshot: a local one, to which nothing is written, or one that
// is being installed.
func (s *snapshots) Create(_ raft.SnapshotVersion, index, term uint64, config raft.Configuration, configIndex uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	return &sink{s: s, note: snapshotNote{Index: index, Term: term, ConfigIndex: configIndex, Config: config}}, nil
}

// List returns the newest snapshot. One that is being installed is none yet.
func (s *snapshots) List() ([]*raft.SnapshotMeta, error) {
	if note := s.taken.Load(); note != nil {
		return []*raft.SnapshotMeta{note.meta(idTaken)}, nil
	}
	return nil, nil
}

// Open returns the state of the machine as a stream, or, for the snapshot being
// installed, nothing to read: Restore finds it in the staging area.
func (s *snapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	if id == idStaged {
		return s.staged.meta(idStaged), io.NopCloser(eof{}), nil
	}
	note := s.taken.Load()
	if id != idTaken || note == nil {
		return nil, nil, fmt.Errorf("shard %d: no snapshot %q", s.shard, id)
	}
	return note.meta(idTaken), &lateStream{s: s, least: note.Index}, nil
}

// lateStream begins to stream the state when it is first read: raft opens it
// before it knows whether the follower can be reached.
type lateStream struct {
	s      *snapshots
	least  uint64 // the state must have this
	stream *fsm.Stream
}

func (l *lateStream) Read(p []byte) (int, error) {
	if l.stream == nil {
		stream, err := l.s.machine.Stream()
		if err != nil {
			return 0, err
		}
		l.s.streams.Add(1)
		l.stream = stream
		if at := stream.Position().Index; at < l.least {
			return 0, fmt.Errorf("shard %d: the state is at entry %d, its snapshot at %d: it lost what was flushed", l.s.shard, at, l.least)
		}
	}
	return l.stream.Read(p)
}

func (l *lateStream) Close() error {
	if l.stream == nil {
		return nil
	}
	l.s.streamed.Store(time.Now().UnixMilli())
	l.s.streams.Add(-1)
	err := l.stream.Close()
	l.stream = nil
	return err
}

// streaming says whether a follower is being sent the state, or is about to ask
// for the entries after it: the log must keep them, or it needs another snapshot.
func (s *snapshots) streaming() bool {
	const asksWithin = 15 * time.Second // raft's longest pause between two attempts, and some
	return s.streams.Load() > 0 || time.Since(time.UnixMilli(s.streamed.Load())) < asksWithin
}

type eof struct{}

func (eof) Read([]byte) (int, error) { return 0, io.EOF }

// takeLocal makes a note of this node's own the snapshot.
func (s *snapshots) takeLocal(note *snapshotNote) error {
	s.noting.Lock()
	defer s.noting.Unlock()
	if newest := s.taken.Load(); newest != nil {
		switch {
		case newest.Index > note.Index:
			return fmt.Errorf("shard %d: a snapshot at entry %d, one at %d came in between", s.shard, note.Index, newest.Index)
		case newest.Index == note.Index:
			return nil
		}
		note.State = newest.State
	}
	note.State = max(note.State, note.Index)
	crash.Point("cluster.snapshot.flushed")
	return s.take(note)
}

// take makes a note the snapshot; the caller holds noting, or nobody else knows s.
func (s *snapshots) take(note *snapshotNote) error {
	if err := s.votes.Set(keySnapshot, note.append(nil)); err != nil {
		return err
	}
	crash.Point("cluster.snapshot.noted")
	s.taken.Store(note)
	return nil
}

// restore replaces the machine's state by the staged one. If the machine is
// further already, it keeps what it has: both are states of the same log.
func (s *snapshots) restore() error {
	note := s.staged
	if note == nil {
		return fmt.Errorf("shard %d: nothing is staged to restore", s.shard)
	}
	s.staged = nil
	s.noting.Lock()
	defer s.noting.Unlock()
	if index, _ := s.covered(); index > note.Index {
		err := fmt.Errorf("shard %d: a snapshot at entry %d, there is one at %d", s.shard, note.Index, index)
		return errors.Join(err, s.store.DiscardStaged(s.shard))
	}
	if err := s.install(note); err != nil {
		// raft would go on with a machine of which nobody knows what it holds.
		s.fatal(fmt.Errorf("shard %d: install a snapshot: %w", s.shard, err))
		return err
	}
	return nil
}

func (s *snapshots) install(note *snapshotNote) error {
	// The machine may have more than this stream brings, and no log of it.
	_, state := s.covered()
	note.State = max(note.State, state)
	if err := s.votes.Set(keyInstalling, note.append(nil)); err != nil {
		return err
	}
	crash.Point("cluster.install.announced")
	if s.machine.Position().Index < note.State {
		if err := s.store.Restore(s.shard); err != nil {
			return err
		}
	} else if err := errors.Join(s.store.DiscardStaged(s.shard), s.store.Flush()); err != nil {
		return err // what the machine has must be durable before the log forgets it
	}
	crash.Point("cluster.install.restored")
	return s.adopt(note)
}

// adopt makes what was installed the snapshot.
func (s *snapshots) adopt(note *snapshotNote) error {
	if err := s.logs.DeleteRange(0, note.Index); err != nil {
		return err
	}
	crash.Point("cluster.install.trimmed")
	if err := s.take(note); err != nil {
		return err
	}
	return s.votes.Set(keyInstalling, nil)
}

// sink takes one snapshot in.
type sink struct {
	s     *snapshots
	note  snapshotNote
	local bool       // set by Persist: nothing is written
	stage *fsm.Stage // of one to install, from its first byte on
}

// ID names the snapshot for Open.
func (k *sink) ID() string {
	if k.local {
		return idTaken
	}
	return idStaged
}

// Write takes the next bytes of a stream.
func (k *sink) Write(p []byte) (n int, err error) {
	if k.stage == nil {
		if err := k.wanted(); err != nil {
			return 0, err
		}
		if k.stage, err = k.s.store.Stage(k.s.shard); err != nil {
			return 0, err
		}
	}
	return k.stage.Write(p)
}

// covered and holds answer raftnet for a replica here.
func (n *Node) covered(shard uint32) (index, term uint64) {
	r := n.replica(sharding.Shard(shard))
	if r == nil {
		return 0, 0
	}
	if note := r.snapshots.taken.Load(); note != nil {
		return note.Index, note.Term
	}
	return 0, 0
}

func (n *Node) holds(shard uint32, leaderTerm, index, term uint64) bool {
	r := n.replica(sharding.Shard(shard))
	if r == nil {
		return false
	}
	group := r.raft.Load()
	return group != nil && leaderTerm >= group.CurrentTerm() && r.holds(index, term)
}

// holds says that the replica has everything up to a committed entry: in its
// snapshot, or in its log, which agrees up to any entry of that index and term. A
// leader that sends a snapshot all the same has not heard how far the replica is.
func (r *replica) holds(index, term uint64) bool {
	if covered, _ := r.snapshots.covered(); index <= covered {
		return true
	}
	var e raft.Log
	err := r.logs.GetLog(index, &e)
	return err == nil && e.Term == term
}

// wanted says why a snapshot must not be installed. raft would go back to it, take
// the configuration from it, and forget one that stands in the log after it. The one
// there is may come again, if it was not there yet when holds was asked.
func (k *sink) wanted() error {
	var e raft.Log
	if k.s.logs.GetLog(k.note.Index, &e) == nil && e.Term == k.note.Term {
		return fmt.Errorf("shard %d: a snapshot at entry %d, which the log has", k.s.shard, k.note.Index)
	}
	index, _ := k.s.covered()
	last, err := k.s.logs.LastIndex()
	if err == nil && (k.note.Index < index || k.note.Index == index && last > index) {
		err = fmt.Errorf("shard %d: a snapshot at entry %d, there is one at %d and a log to %d", k.s.shard, k.note.Index, index, last)
	}
	return err
}

// Close makes the snapshot durable: a local one takes effect, one to install is
// complete in the staging area.
func (k *sink) Close() error {
	switch {
	case k.local:
		return k.s.takeLocal(&k.note)
	case k.stage == nil:
		return fmt.Errorf("shard %d: a snapshot without a byte", k.s.shard)
	}
	if err := k.stage.Finish(); err != nil {
		return errors.Join(err, k.stage.Discard())
	}
	at, complete, err := k.s.store.Staged(k.s.shard)
	if err == nil && (!complete || at.Index < k.note.Index) {
		err = fmt.Errorf("shard %d: the state sent is at entry %d, the snapshot at %d", k.s.shard, at.Index, k.note.Index)
	}
	if err != nil {
		return errors.Join(err, k.s.store.DiscardStaged(k.s.shard))
	}
	k.note.State, k.note.Installed = at.Index, true
	k.s.staged = &k.note
	return nil
}

// Cancel gives the snapshot up.
func (k *sink) Cancel() error {
	if k.stage == nil {
		return nil
	}
	return k.stage.Discard()
}

// flushed is a raft.FSMSnapshot: what has been applied by now is what it stands
// for, and making that durable is all it takes.
type flushed struct{ store *fsm.Store }

// Persist flushes the store. Nothing is written to the sink.
func (f flushed) Persist(s raft.SnapshotSink) error {
	s.(*sink).local = true // raft hands back what Create gave it
	if mutant.On(mutant.SnapshotNotFlushed) {
		return nil
	}
	return f.store.Flush()
}

// Release has nothing to release.
func (flushed) Release() {}

// replicaLog is a replica's log as raft sees it: at the index of the snapshot
// there is always an entry of its term. Without it a follower whose log held
// another entry there, or none, would refuse what follows the snapshot and be
// sent the same one for ever (hashicorp/raft#697).
type replicaLog struct {
	*raftlog.Shard
	snapshots *snapshots
}

// GetLog returns the entry at an index.
func (l replicaLog) GetLog(index uint64, e *raft.Log) error {
	err := l.Shard.GetLog(index, e)
	note := l.snapshots.taken.Load()
	if note == nil || note.Index != index {
		return err
	}
	if errors.Is(err, raft.ErrLogNotFound) || err == nil && e.Term != note.Term {
		*e = raft.Log{Index: index, Term: note.Term, Type: raft.LogNoop}
		return nil
	}
	return err
}

// reloadable is what of raft's configuration changes while it runs. raft's own
// counters never ask for a snapshot: the size of the journal decides (compact.go).
func reloadable(trailing uint64, patience time.Duration) raft.ReloadableConfig {
	return raft.ReloadableConfig{
		TrailingLogs: trailing, SnapshotInterval: snapshotInterval, SnapshotThreshold: math.MaxUint64,
		HeartbeatTimeout: patience, ElectionTimeout: patience,
	}
}

package fsm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/manykv/manykv/crash"
	"github.com/manykv/manykv/mutant"
	"github.com/manykv/manykv/sharding"
)

// ErrDropped: the shard was dropped, and this machine with it.
var ErrDropped = errors.New("the shard was dropped from the store")

// Restore replaces the whole state of a shard by its complete staging and
// removes the staging. Whatever happens, the shard has its old state or the new
// one, as a whole; once Restore has returned nil, the new one is durable.
//
// A crash may leave the staging in place, with either state: call Restore again,
// or DiscardStaged, before anything is applied.
//
// The shard's machine must not be applying; reading it is allowed and sees the
// old state or the new one. Positions may go back: it is raft that decides.
func (s *Store) Restore(shard sharding.Shard) error {
	if err := s.acquire(); err != nil {
		return err
	}
	defer s.release()
	if err := s.restore(shard); err != nil {
		return fmt.Errorf("fsm: restoring shard %d: %w", shard, err)
	}
	return nil
}

func (s *Store) restore(shard sharding.Shard) error {
	m, err := s.staged(shard)
	if err != nil {
		return err
	}
	if m == nil {
		return errors.New("nothing is staged, want a complete staging")
	}
	if err := s.drainShard(shard); err != nil {
		return err
	}
	before, err := readRecord(s.db, shard)
	if err != nil {
		return err
	}
	if m.position.Index < before.Index {
		s.cfg.Logger.Warn("a restore takes a shard back", "shard", shard, "from", before.Index, "to", m.position.Index)
	}
	links, err := s.linkStaged(m)
	if err != nil {
		return err
	}
	crash.Point("fsm.ingest.before")
	if err := s.replace(shard, links); err != nil {
		return err
	}
	if err := s.reload(shard); err != nil {
		return err
	}
	if err := s.removeStaged(shard); err != nil {
		return err
	}
	crash.Point("fsm.restore.done")
	return nil
}

// linkStaged gives the tables of a staging second names for Pebble, which
// removes the names it was given before the new state is durable.
func (s *Store) linkStaged(m *manifest) ([]string, error) {
	links := make([]string, len(m.sizes))
	for i := range links {
		table := s.stageOf(m.shard, tableName(i))
		links[i] = table + ".link"
		if err := s.fs.Remove(links[i]); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if err := vfs.LinkOrCopy(s.fs, table, links[i]); err != nil {
			return nil, err
		}
	}
	return links, nil
}

// replace puts tables, or nothing, in the place of all rows of a shard, durably.
//
// The flush is not for good measure. Where a memtable holds rows of the shard,
// which is nearly always, Pebble only queues the tables behind it; without a
// write-ahead log a crash then brings the old state back. They become part of
// Pebble's manifest, all at once, when their turn to be flushed has come.
func (s *Store) replace(shard sharding.Shard, tables []string) error {
	if d := s.opened(shard); d != nil {
		d.replacing.Store(true)
		d.changing()
	}
	_, err := s.db.IngestAndExcise(context.Background(), tables, nil, nil, shardSpan(shard))
	if err == nil {
		err = context.Cause(s.failed) // Pebble may have reported it only there: see pebbleLog
	}
	if err != nil {
		return err
	}
	crash.Point("fsm.ingest.after")
	if mutant.On(mutant.InstallNotFlushed) {
		return nil
	}
	if err := s.sharedFlush(); err != nil {
		return err
	}
	crash.Point("fsm.flush.after")
	return nil
}

// reload makes the shard's machine, if there is one, read its rows again. A
// machine that cannot be read is fatal, for it would go on with the old state.
func (s *Store) reload(shard sharding.Shard) error {
	st := s.machineOf(shard)
	if st == nil {
		return nil
	}
	if err := st.load(); err != nil {
		s.fatal(err)
		return context.Cause(s.failed)
	}
	return nil
}

// machineOf returns the machine of a shard, nil if nobody asked for it yet.
func (s *Store) machineOf(shard sharding.Shard) state {
	s.mu.Lock()
	defer s.mu.Unlock()
	if shard == sharding.Meta {
		if s.catalogue != nil {
			return s.catalogue
		}
		return nil
	}
	if d := s.data[shard]; d != nil {
		return d
	}
	return nil
}

// opened is machineOf for a data shard.
func (s *Store) opened(shard sharding.Shard) *Data {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.data[shard]
}

// Drop removes all rows of a shard, durably, and its staging. A crash before it
// returns leaves all of the rows or none.
//
// The machine of a data shard is forgotten: what is applied to it, or read from it,
// from now on gets ErrDropped, and Data gives a fresh one. The catalogue, which others hold,
// becomes empty in place. The machine must not be applying.
func (s *Store) Drop(shard sharding.Shard) error {
	if err := s.acquire(); err != nil {
		return err
	}
	defer s.release()
	if err := s.drop(shard); err != nil {
		return fmt.Errorf("fsm: dropping shard %d: %w", shard, err)
	}
	return nil
}

func (s *Store) drop(shard sharding.Shard) error {
	s.mu.Lock()
	d, st := s.data[shard], s.stages[shard]
	s.mu.Unlock()
	if d != nil {
		d.dropped.Store(true)
	}
	if st != nil {
		if err := st.abandon(ErrDropped); err != nil {
			return err
		}
	}
	if err := s.removeStaged(shard); err != nil {
		return err
	}
	if err := s.drainShard(shard); err != nil { // before a Flush of another would, after the rows are gone
		return err
	}
	crash.Point("fsm.drop.before")
	if err := s.replace(shard, nil); err != nil {
		return err
	}
	if err := s.reload(shard); err != nil {
		return err
	}
	s.mu.Lock()
	delete(s.data, shard)
	s.machines.Store(int64(len(s.data)))
	s.mu.Unlock()
	crash.Point("fsm.drop.after")
	return nil
}

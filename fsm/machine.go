package fsm

import (
	"context"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

// ErrNotOwner: the shard does not own the slot of a key of the command, and
// nothing of the command was applied.
var ErrNotOwner = errors.New("the shard does not own the slot")

// Entry is one committed log entry. An empty Command only moves the position
// (a configuration entry).
type Entry struct {
	Index, Term uint64
	Command     []byte
}

// Result is what became of one entry: Err nil means it was applied, or skipped
// because it had been before.
//
// ErrNotOwner, kv.ErrInvalid, kv.ErrExists and kv.ErrAccessDenied are the same
// on every replica and mean that nothing of the command was applied. Any other
// error is this store's: it is closed or has failed, and the entry will have to
// be applied again.
type Result struct {
	Err    error
	Bucket uint64 // of a create-bucket command: the new id
}

// commitBytes is how large a batch may be before Apply commits it and goes on
// with another. Batches from there on would take Pebble's path for large ones,
// which costs a flush each, and at 4 GiB Pebble panics: reachable, because a
// command of tiny pairs grows twentyfold on disk. Cutting is safe between any
// two entries, as every batch carries its position.
const commitBytes = 8 << 20

// machine is what Data and Catalogue have in common.
type machine struct {
	store *Store
	shard sharding.Shard
	progress

	rec record // only the apply goroutine: ahead of progress while it fills a batch
}

// state is the part of a machine that differs.
type state interface {
	newBatch() *pebble.Batch
	// command applies one command to b. An error besides the Result's is the
	// store's and stops the machine.
	command(b *pebble.Batch, e *Entry) (Result, error)
	// publish shows readers what the batches committed so far have changed.
	publish()
}

// open reads the machine's record back.
func (m *machine) open(s *Store, shard sharding.Shard) error {
	m.store, m.shard = s, shard
	b, err := row(s.db, rowKey(shard, tagRecord, ""))
	if err != nil {
		return err
	}
	if b != nil {
		if m.rec, err = decodeRecord(b); err != nil {
			return fmt.Errorf("fsm: the record of shard %d: %w", shard, err)
		}
	}
	m.advance(m.rec.Position)
	return nil
}

// apply applies entries: one Pebble batch, unless it grows past commitBytes.
func (m *machine) apply(st state, entries []Entry) []Result {
	results := make([]Result, len(entries))
	if err := m.store.acquire(); err != nil {
		fillError(results, err)
		return results
	}
	defer m.store.release()
	for done := 0; done < len(entries); {
		n, err := m.applyBatch(st, entries[done:], results[done:])
		if err != nil {
			fillError(results[done:], err)
			return results
		}
		done += n
	}
	return results
}

func fillError(results []Result, err error) {
	for i := range results {
		results[i] = Result{Err: err}
	}
}

// applyBatch applies the first of entries, as many as make a batch, and
// returns their number. After an error the store has failed.
func (m *machine) applyBatch(st state, entries []Entry, results []Result) (n int, err error) {
	b := st.newBatch()
	before := m.rec.Index
	for ; n < len(entries) && b.Len() < commitBytes; n++ {
		e := &entries[n]
		if e.Index <= m.rec.Index {
			continue // the log gives again what the store did not lose
		}
		m.rec.Index, m.rec.Term = e.Index, e.Term
		if len(e.Command) == 0 {
			continue
		}
		if results[n], err = st.command(b, e); err != nil {
			break
		}
	}
	if m.rec.Index == before {
		return n, b.Close()
	}
	if err == nil {
		err = m.commit(b)
	}
	if err != nil {
		m.store.fatal(fmt.Errorf("applying to shard %d: %w", m.shard, err))
		return n, context.Cause(m.store.failed)
	}
	st.publish()
	m.advance(m.rec.Position)
	return n, nil
}

// commit writes the batch with the machine's record.
func (m *machine) commit(b *pebble.Batch) error {
	if err := b.Set(rowKey(m.shard, tagRecord, ""), m.rec.append(nil), nil); err != nil {
		return err
	}
	// With the write-ahead log off Pebble refuses Sync.
	if err := b.Commit(pebble.NoSync); err != nil {
		return err
	}
	if err := context.Cause(m.store.failed); err != nil {
		return err // the commit may have failed without an error: see pebbleLog
	}
	return b.Close()
}

// invalid gives an error of the codec the class that callers look at.
func invalid(err error) error { return fmt.Errorf("%w: %w", kv.ErrInvalid, err) }

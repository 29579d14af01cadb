package fsm

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"

	"github.com/manykv/manykv/crash"
	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

var (
	// ErrNotOwner: the shard does not own the slot of a key of the command, and
	// nothing of the command was applied. The client's session knows nothing of it.
	ErrNotOwner = errors.New("the shard does not own the slot")
	// ErrForgotten: the client has acknowledged the entry's call before. Nothing was
	// applied now; whether it was then is forgotten, so the outcome is unknown.
	ErrForgotten = errors.New("the call was acknowledged and is forgotten")
	// ErrOutOfOrder: an entry of the same call that comes before this one was not
	// applied yet. Nothing was applied and nothing is remembered: send the call's
	// entries again from the first whose outcome is not known.
	ErrOutOfOrder = errors.New("an earlier entry of the call is missing")
)

// Entry is one committed log entry. An empty Command only moves the position
// (a configuration entry).
type Entry struct {
	Index, Term uint64
	// Time is the leader's shard time when it proposed the entry, in
	// milliseconds; 0: it said none. A shard's time is the largest it was told,
	// so it never goes back, and no wall clock has a part in it.
	Time    uint64
	Command []byte
}

// Result is what became of one entry: Err nil means it was applied, or skipped
// because it had been before.
//
// ErrNotOwner, ErrForgotten, ErrOutOfOrder and the errors kv.ErrInvalid,
// ErrExists, ErrAccessDenied, ErrNoSuchStore, ErrTooLarge, ErrConflict and
// ErrBusy are the same on every replica and mean that nothing of the command was
// applied, now. Any other error is this store's: it is closed or has failed, and
// the entry will have to be applied again.
type Result struct {
	Err error
	// Value is what the command gives back: the new id of a create-bucket or
	// new-client, the deleted id of a delete-bucket, the sum of an increment (two's
	// complement), the new version of a swap or, with kv.ErrConflict, the one the
	// key has.
	Value uint64
	// Each, of a bundle that was applied now and has no Err, is what became of each of its
	// commands, in order.
	Each []Result
}

// commitBytes is how large a batch may be before Apply commits it and goes on
// with another, unless one command alone is larger. From half a memtable on a
// batch takes Pebble's path for large ones, which costs a flush each, and at
// 4 GiB Pebble panics: reachable, because a command of tiny pairs grows
// twentyfold on disk. This leaves room for the growth of ordinary commands.
// Cutting is safe between any two entries, as every batch carries its position.
const commitBytes = memTableBytes / 4

// machine is what Data and Catalogue have in common.
type machine struct {
	store *Store
	shard sharding.Shard
	progress
	time atomic.Uint64 // what Time returns

	rec     record      // only the apply goroutine: ahead of progress while it fills a batch
	dropped atomic.Bool // the shard's rows are gone, and it may have another machine
}

// state is the part of a machine that differs.
type state interface {
	// newBatch returns a batch for some of the first of entries.
	newBatch(entries []Entry) (*pebble.Batch, error)
	// command applies one command to b. An error besides the Result's is the
	// store's and stops the machine.
	command(b *pebble.Batch, e *Entry) (Result, error)
	// finish adds the rows that are written once for each batch.
	finish(b *pebble.Batch) error
	// put writes a batch to where readers look. It is not synced: with its
	// write-ahead log off Pebble refuses that.
	put(b *pebble.Batch) error
	// publish shows readers what the batches committed so far have changed.
	publish()
	// load builds all that the machine keeps in memory from its rows: when it
	// is opened, and when Restore or Drop has replaced them.
	load() error
}

// readRecord reads a machine's record; the zero record if it has applied
// nothing.
func readRecord(from pebble.Reader, shard sharding.Shard) (record, error) {
	b, err := row(from, rowKey(shard, tagRecord, ""))
	if err != nil || b == nil {
		return record{}, err
	}
	rec, err := decodeRecord(b)
	if err != nil {
		return record{}, fmt.Errorf("fsm: the record of shard %d: %w", shard, err)
	}
	return rec, nil
}

// show publishes the record's time and position, last of all that a batch has
// changed: who has seen the position sees the rest.
func (m *machine) show() {
	m.time.Store(m.rec.time)
	m.advance(m.rec.Position)
}

// Time returns the shard's time: the largest that an applied entry told, in
// milliseconds.
func (m *machine) Time() uint64 { return m.time.Load() }

// apply applies entries: one Pebble batch, unless it grows past commitBytes.
func (m *machine) apply(st state, entries []Entry) []Result {
	results := make([]Result, len(entries))
	if err := m.store.acquire(); err != nil {
		fillError(results, err)
		return results
	}
	defer m.store.release()
	if m.dropped.Load() {
		fillError(results, fmt.Errorf("shard %d: %w", m.shard, ErrDropped))
		return results
	}
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
	b, err := st.newBatch(entries)
	if err != nil {
		return 0, m.broken(err)
	}
	before := m.rec.Index
	for ; n < len(entries); n++ {
		e := &entries[n]
		if e.Index <= m.rec.Index {
			continue // the log gives again what the store did not lose
		}
		if m.rec.Index != before && b.Len()+len(e.Command) > commitBytes {
			break
		}
		m.rec.Index, m.rec.Term, m.rec.time = e.Index, e.Term, max(m.rec.time, e.Time)
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
		err = st.finish(b)
	}
	if err == nil {
		err = m.commit(st, b)
	}
	if err != nil {
		return n, m.broken(err)
	}
	st.publish()
	m.show()
	return n, nil
}

// broken stops the store, for the machine cannot go on, and says why it has.
func (m *machine) broken(err error) error {
	m.store.fatal(fmt.Errorf("applying to shard %d: %w", m.shard, err))
	return context.Cause(m.store.failed)
}

// commit writes the batch with the machine's record.
func (m *machine) commit(st state, b *pebble.Batch) error {
	if err := b.Set(rowKey(m.shard, tagRecord, ""), m.rec.append(nil), nil); err != nil {
		return err
	}
	crash.Point("fsm.apply.before")
	if err := st.put(b); err != nil {
		return err
	}
	crash.Point("fsm.apply.after")
	if err := context.Cause(m.store.failed); err != nil {
		return err // the commit may have failed without an error: see pebbleLog
	}
	return b.Close()
}

// invalid gives an error of the codec the class that callers look at.
func invalid(err error) error { return fmt.Errorf("%w: %w", kv.ErrInvalid, err) }

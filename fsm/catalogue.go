package fsm

import (
	"fmt"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

// Catalogue is the state machine of shard 0: the cluster's map, its buckets and
// the ids of its clients.
type Catalogue struct {
	machine
	table atomic.Pointer[sharding.Map] // what readers see

	next *sharding.Map // only the apply goroutine: ahead of table while it fills a batch
}

func openCatalogue(s *Store) (*Catalogue, error) {
	c := &Catalogue{machine: machine{store: s, shard: sharding.Meta}}
	if err := c.load(); err != nil {
		return nil, err
	}
	return c, nil
}

// load reads back all that the catalogue keeps in memory, and shows it to
// readers.
func (c *Catalogue) load() (err error) {
	if c.rec, err = readRecord(c.store.db, c.shard); err != nil {
		return err
	}
	b, err := row(c.store.db, rowKey(sharding.Meta, tagMap, ""))
	if err != nil {
		return err
	}
	c.next = nil
	if b != nil {
		if c.next, err = sharding.DecodeMap(b); err != nil {
			return fmt.Errorf("fsm: the map of the catalogue: %w", err)
		}
	}
	c.publish()
	c.show()
	return nil
}

// Apply applies committed entries as Data.Apply does.
func (c *Catalogue) Apply(entries []Entry) []Result { return c.apply(c, entries) }

// Map returns the cluster's map; nil before it was founded.
func (c *Catalogue) Map() *sharding.Map { return c.table.Load() }

// newBatch is indexed: whether a bucket exists may depend on an entry of the
// same batch.
func (c *Catalogue) newBatch([]Entry) (*pebble.Batch, error) {
	return c.store.db.NewIndexedBatch(), nil
}

func (c *Catalogue) put(b *pebble.Batch) error { return b.Commit(pebble.NoSync) }

func (c *Catalogue) finish(*pebble.Batch) error { return nil } // every command writes its own rows

func (c *Catalogue) publish() { c.table.Store(c.next) }

func (c *Catalogue) command(b *pebble.Batch, e *Entry) (Result, error) {
	kind, body, err := kv.Header(e.Command)
	if err != nil {
		return Result{Err: invalid(err)}, nil
	}
	switch kind {
	case kv.KindLead:
		return Result{Err: c.lead(body, e.Term)}, nil
	case kv.KindInit:
		return c.found(b, body)
	case kv.KindCreateBucket:
		return c.createBucket(b, body)
	case kv.KindDeleteBucket:
		return c.deleteBucket(b, body)
	case kv.KindDropped:
		return c.dropped(b, body)
	case kv.KindNewClient:
		return c.newClient(body), nil
	}
	change := changeOf(kind)
	switch {
	case change == nil:
		return Result{Err: fmt.Errorf("%w: command kind %d for the catalogue", kv.ErrInvalid, kind)}, nil
	case c.next == nil:
		return Result{Err: fmt.Errorf("%w: command kind %d before the cluster was founded", kv.ErrInvalid, kind)}, nil
	}
	return c.changeMap(b, body, change)
}

// lead starts a leader's term. Its slots mean nothing here.
func (c *Catalogue) lead(body *kv.Decoder, term uint64) error {
	body.U16()
	body.U16()
	if err := body.Finish(); err != nil {
		return invalid(err)
	}
	c.rec.LeadTerm = term
	return nil
}

// AppendInit appends the command that founds the cluster with its first map.
// The first one wins; later ones do nothing.
//
//	init  map (sharding.Map)
func AppendInit(dst []byte, m *sharding.Map) []byte {
	return m.Append(kv.AppendHeader(dst, kv.KindInit))
}

func (c *Catalogue) found(b *pebble.Batch, body *kv.Decoder) (Result, error) {
	m, err := sharding.DecodeMap(body.Rest())
	if err != nil {
		return Result{Err: invalid(err)}, nil
	}
	if c.next != nil {
		return Result{}, nil
	}
	return Result{}, c.setMap(b, m)
}

func (c *Catalogue) setMap(b *pebble.Batch, m *sharding.Map) error {
	c.next = m
	return b.Set(rowKey(sharding.Meta, tagMap, ""), m.Append(nil), nil)
}

// AppendNewClient appends the command that gives out a client id, which is in
// the Result; ids count from 1 and are never given twice.
//
//	new-client  (nothing)
func AppendNewClient(dst []byte) []byte { return kv.AppendHeader(dst, kv.KindNewClient) }

func (c *Catalogue) newClient(body *kv.Decoder) Result {
	if err := body.Finish(); err != nil {
		return Result{Err: invalid(err)}
	}
	c.rec.lastClient++
	return Result{Value: c.rec.lastClient}
}

package fsm

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

// Catalogue is the state machine of shard 0: the cluster's map and its buckets.
type Catalogue struct {
	machine
	table atomic.Pointer[sharding.Map] // what readers see

	next *sharding.Map // only the apply goroutine: ahead of table while it fills a batch
}

func openCatalogue(s *Store) (*Catalogue, error) {
	c := &Catalogue{}
	if err := c.open(s, sharding.Meta); err != nil {
		return nil, err
	}
	b, err := row(s.db, rowKey(sharding.Meta, tagMap, ""))
	if err != nil {
		return nil, err
	}
	if b != nil {
		if c.next, err = sharding.DecodeMap(b); err != nil {
			return nil, fmt.Errorf("fsm: the map of the catalogue: %w", err)
		}
	}
	c.publish()
	return c, nil
}

// Apply applies committed entries as Data.Apply does.
func (c *Catalogue) Apply(entries []Entry) []Result { return c.apply(c, entries) }

// Map returns the cluster's map; nil before it was founded.
func (c *Catalogue) Map() *sharding.Map { return c.table.Load() }

// Bucket returns the id of a bucket; ok is false if there is none of the name.
func (c *Catalogue) Bucket(name string) (id uint64, ok bool, err error) {
	if err := c.store.acquire(); err != nil {
		return 0, false, err
	}
	defer c.store.release()
	return bucketID(c.store.db, name)
}

func bucketID(from pebble.Reader, name string) (id uint64, ok bool, err error) {
	b, err := row(from, rowKey(sharding.Meta, tagBucket, name))
	if err != nil || b == nil {
		return 0, false, err
	}
	if len(b) != 8 {
		return 0, false, fmt.Errorf("fsm: the row of bucket %q has %d bytes, want 8", name, len(b))
	}
	return binary.BigEndian.Uint64(b), true, nil
}

// Buckets returns the names of all buckets, sorted.
func (c *Catalogue) Buckets() (names []string, err error) {
	if err := c.store.acquire(); err != nil {
		return nil, err
	}
	defer c.store.release()
	it, err := c.store.db.NewIter(&pebble.IterOptions{
		LowerBound: rowKey(sharding.Meta, tagBucket, ""),
		UpperBound: rowKey(sharding.Meta, tagBucket+1, ""),
	})
	if err != nil {
		return nil, fmt.Errorf("fsm: listing buckets: %w", err)
	}
	for it.First(); it.Valid(); it.Next() {
		names = append(names, string(it.Key()[bucketBytes+1:]))
	}
	if err := it.Close(); err != nil { // with the iterator's own error
		return nil, fmt.Errorf("fsm: listing buckets: %w", err)
	}
	return names, nil
}

// newBatch is indexed: whether a bucket exists may depend on an entry of the
// same batch.
func (c *Catalogue) newBatch() *pebble.Batch { return c.store.db.NewIndexedBatch() }

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
	case kv.KindNodeAddr:
		return c.moveNode(b, body)
	default:
		return Result{Err: fmt.Errorf("%w: command kind %d for the catalogue", kv.ErrInvalid, kind)}, nil
	}
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

// AppendCreateBucket appends the command that names a new bucket. Its id is in
// the Result; ids count from 1 and are never given twice. kv.ErrExists if there
// is a bucket of that name, kv.ErrInvalid if the name may not be used.
//
//	create-bucket  name string
func AppendCreateBucket(dst []byte, name string) []byte {
	return kv.AppendString(kv.AppendHeader(dst, kv.KindCreateBucket), name)
}

func (c *Catalogue) createBucket(b *pebble.Batch, body *kv.Decoder) (Result, error) {
	name := body.String()
	if err := body.Finish(); err != nil {
		return Result{Err: invalid(err)}, nil
	}
	if err := kv.CheckBucketName(name); err != nil {
		return Result{Err: err}, nil
	}
	id, ok, err := bucketID(b, name)
	if err != nil {
		return Result{}, err
	}
	if ok {
		return Result{Err: fmt.Errorf("%w: bucket %q has id %d", kv.ErrExists, name, id)}, nil
	}
	c.rec.lastBucket++
	id = c.rec.lastBucket
	return Result{Bucket: id}, b.Set(rowKey(sharding.Meta, tagBucket, name), binary.BigEndian.AppendUint64(nil, id), nil)
}

// maxAddrBytes bounds a node's address: a host name has at most 253 bytes, a
// port five.
const maxAddrBytes = 253 + 1 + 5

// AppendNodeAddr appends the command that records a node's address.
// kv.ErrInvalid if there is no such node, kv.ErrAccessDenied if storage is not
// the node's recorded one (a wiped directory must not come back under the old
// identity).
//
//	node-addr  id string · storage u64 · addr string
func AppendNodeAddr(dst []byte, id sharding.NodeID, storage uint64, addr string) []byte {
	dst = kv.AppendString(kv.AppendHeader(dst, kv.KindNodeAddr), string(id))
	dst = binary.BigEndian.AppendUint64(dst, storage)
	return kv.AppendString(dst, addr)
}

func (c *Catalogue) moveNode(b *pebble.Batch, body *kv.Decoder) (Result, error) {
	id, storage, addr := body.String(), body.U64(), body.String()
	if err := body.Finish(); err != nil {
		return Result{Err: invalid(err)}, nil
	}
	if addr == "" || len(addr) > maxAddrBytes {
		return Result{Err: fmt.Errorf("%w: an address of %d bytes, want 1 to %d", kv.ErrInvalid, len(addr), maxAddrBytes)}, nil
	}
	if c.next == nil {
		return Result{Err: fmt.Errorf("%w: node %q before the cluster was founded", kv.ErrInvalid, id)}, nil
	}
	n, ok := c.next.Node(sharding.NodeID(id))
	switch {
	case !ok:
		return Result{Err: fmt.Errorf("%w: node %q is not of the cluster", kv.ErrInvalid, id)}, nil
	case n.Storage != storage:
		return Result{Err: fmt.Errorf("%w: node %q with storage %x, want %x", kv.ErrAccessDenied, id, storage, n.Storage)}, nil
	case n.Addr == addr:
		return Result{}, nil
	}
	m := c.next.WithAddr(n.ID, addr)
	if err := m.Validate(); err != nil { // the epoch can overflow: an init command may hold any
		return Result{Err: invalid(err)}, nil
	}
	return Result{}, c.setMap(b, m)
}

package fsm

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

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
	err = c.walk(tagBucket, func(name string, _ []byte) error {
		names = append(names, name)
		return nil
	})
	return names, err
}

// Dropping is a deleted bucket whose data is not gone everywhere yet.
type Dropping struct {
	Bucket uint64           // its id
	Name   string           // the name it had, which another bucket may have by now
	Shards []sharding.Shard // sorted: those that have not dropped it
}

// Dropping returns the deleted buckets that some shard has not dropped yet, in
// the order of their ids.
func (c *Catalogue) Dropping() (all []Dropping, err error) {
	err = c.walk(tagDropping, func(id string, value []byte) error {
		d, err := decodeDropping(id, value)
		all = append(all, d)
		return err
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

// walk visits the rows of a tag in the order of their names.
func (c *Catalogue) walk(tag byte, visit func(name string, value []byte) error) error {
	if err := c.store.acquire(); err != nil {
		return err
	}
	defer c.store.release()
	it, err := c.store.db.NewIter(&pebble.IterOptions{
		LowerBound: rowKey(sharding.Meta, tag, ""),
		UpperBound: rowKey(sharding.Meta, tag+1, ""),
	})
	if err != nil {
		return fmt.Errorf("fsm: listing rows of tag %d: %w", tag, err)
	}
	for it.First(); it.Valid() && err == nil; it.Next() {
		var value []byte
		if value, err = it.ValueAndErr(); err == nil {
			err = visit(string(it.Key()[bucketBytes+1:]), value)
		}
	}
	if closeErr := it.Close(); err == nil { // with the iterator's own error
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("fsm: listing rows of tag %d: %w", tag, err)
	}
	return nil
}

// The row of a bucket that is dropped is named by its id (u64) and holds
//
//	name string · count varint · count × shard u32
func droppingKey(id uint64) []byte {
	return rowKey(sharding.Meta, tagDropping, string(binary.BigEndian.AppendUint64(nil, id)))
}

func (d *Dropping) append(dst []byte) []byte {
	dst = kv.AppendString(dst, d.Name)
	dst = binary.AppendUvarint(dst, uint64(len(d.Shards)))
	for _, s := range d.Shards {
		dst = binary.BigEndian.AppendUint32(dst, uint32(s))
	}
	return dst
}

func decodeDropping(id string, row []byte) (Dropping, error) {
	if len(id) != 8 {
		return Dropping{}, fmt.Errorf("the row of a dropped bucket is named by %d bytes, want 8", len(id))
	}
	body := kv.NewDecoder(row)
	d := Dropping{Bucket: binary.BigEndian.Uint64([]byte(id)), Name: body.String()}
	d.Shards = make([]sharding.Shard, body.Count(4))
	for i := range d.Shards {
		d.Shards[i] = sharding.Shard(body.U32())
	}
	if err := body.Finish(); err != nil {
		return Dropping{}, fmt.Errorf("the row of dropped bucket %d: %w", d.Bucket, err)
	}
	return d, nil
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
	if err := checkName(body, name); err != nil {
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
	return Result{Value: id}, b.Set(rowKey(sharding.Meta, tagBucket, name), binary.BigEndian.AppendUint64(nil, id), nil)
}

// checkName says whether a command that has been read is whole and names what a
// bucket may be called.
func checkName(body *kv.Decoder, name string) error {
	if err := body.Finish(); err != nil {
		return invalid(err)
	}
	return kv.CheckBucketName(name)
}

// AppendDeleteBucket appends the command that takes a bucket's name, which may
// be given to a new bucket at once, and has its data dropped: the id, which is in
// the Result, is in Dropping until every data shard of the map has dropped it.
// kv.ErrNoSuchStore if there is no bucket of that name, or if it has not the id,
// unless that is 0: the name may have been given to a new one.
//
//	delete-bucket  name string · id u64
func AppendDeleteBucket(dst []byte, name string, id uint64) []byte {
	dst = kv.AppendString(kv.AppendHeader(dst, kv.KindDeleteBucket), name)
	return binary.BigEndian.AppendUint64(dst, id)
}

func (c *Catalogue) deleteBucket(b *pebble.Batch, body *kv.Decoder) (Result, error) {
	name, want := body.String(), body.U64()
	if err := checkName(body, name); err != nil {
		return Result{Err: err}, nil
	}
	id, ok, err := bucketID(b, name)
	if err != nil {
		return Result{}, err
	}
	if !ok || want != 0 && want != id {
		return Result{Err: fmt.Errorf("%w: no bucket %q with id %d", kv.ErrNoSuchStore, name, want)}, nil
	}
	if err := b.Delete(rowKey(sharding.Meta, tagBucket, name), nil); err != nil {
		return Result{}, err
	}
	if c.next == nil { // nobody can have written to it
		return Result{Value: id}, nil
	}
	d := Dropping{Bucket: id, Name: name}
	for i := range c.next.Groups {
		d.Shards = append(d.Shards, c.next.Groups[i].Shard)
	}
	return Result{Value: id}, b.Set(droppingKey(id), d.append(nil), nil)
}

// AppendDropped appends the command that says that a shard has dropped a deleted
// bucket. What is known already, or was never to be dropped, changes nothing.
//
//	dropped  bucket u64 · shard u32
func AppendDropped(dst []byte, bucket uint64, shard sharding.Shard) []byte {
	dst = binary.BigEndian.AppendUint64(kv.AppendHeader(dst, kv.KindDropped), bucket)
	return binary.BigEndian.AppendUint32(dst, uint32(shard))
}

func (c *Catalogue) dropped(b *pebble.Batch, body *kv.Decoder) (Result, error) {
	bucket, shard := body.U64(), sharding.Shard(body.U32())
	if err := body.Finish(); err != nil {
		return Result{Err: invalid(err)}, nil
	}
	key := droppingKey(bucket)
	value, err := row(b, key)
	if err != nil || value == nil {
		return Result{}, err
	}
	d, err := decodeDropping(string(key[bucketBytes+1:]), value)
	if err != nil {
		return Result{}, err
	}
	d.Shards = slices.DeleteFunc(d.Shards, func(s sharding.Shard) bool { return s == shard })
	if len(d.Shards) == 0 {
		return Result{}, b.Delete(key, nil)
	}
	return Result{}, b.Set(key, d.append(nil), nil)
}

package fsm

import (
	"encoding/binary"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/mutant"
)

// List returns keys of a bucket whose hash is at least cursor, in the order of
// hash, then key, and the cursor to go on with: 0 if the shard has no further
// key. kv.ErrNoSuchStore means that the bucket was dropped.
//
// A page never ends between two keys of one hash, so that a cursor, a hash, can
// say where it ended: a key that is there all the time is listed once, whatever
// is written meanwhile. A page has at most maxKeys keys of at most maxBytes
// bytes, except that the keys of one hash may be more than maxKeys; they can be
// crafted, so if they have more than maxBytes it is kv.ErrTooLarge.
//
// A page is read from one state of the shard, at or after the position it had
// when List was called; two pages may be of different ones.
func (d *Data) List(bucket, cursor uint64, maxKeys, maxBytes int) (keys []string, next uint64, err error) {
	if err := d.store.acquire(); err != nil {
		return nil, 0, err
	}
	defer d.store.release()
	if err := d.drain(); err != nil {
		return nil, 0, err
	}
	prefix := appendBucketPrefix(nil, d.shard, bucket)
	it, err := d.iterator(bucket, &pebble.IterOptions{
		LowerBound: binary.BigEndian.AppendUint64(prefix, cursor),
		UpperBound: successor(prefix),
	})
	if err != nil {
		return nil, 0, err
	}
	defer func() {
		if closeErr := it.Close(); err == nil && closeErr != nil { // with the iterator's own error
			err = fmt.Errorf("fsm: listing shard %d: %w", d.shard, closeErr)
		}
	}()
	p := page{maxKeys: maxKeys, maxBytes: maxBytes}
	for it.First(); it.Valid(); it.Next() {
		key := it.Key()
		if len(key) < pairBytes {
			return nil, 0, fmt.Errorf("fsm: listing shard %d: a pair's key of %d bytes on disk, want at least %d", d.shard, len(key), pairBytes)
		}
		full, err := p.add(binary.BigEndian.Uint64(key[bucketBytes:]), key[pairBytes:])
		if err != nil {
			return nil, 0, err
		}
		if full {
			if mutant.On(mutant.CursorSkips) {
				return p.keys, p.hash + 1<<50, nil
			}
			return p.keys, p.hash + 1, nil // there is a greater hash, so this does not overflow
		}
	}
	return p.keys, 0, nil
}

// page collects keys.
type page struct {
	maxKeys, maxBytes int

	keys  []string
	bytes int
	hash  uint64 // of the last of keys

	whole     int    // how many of keys are of smaller hashes than that
	wholeHash uint64 // and the greatest of those
}

// add adds a key, in the order of their hashes. It returns true if the page ended
// before it; then keys and hash are the page's.
func (p *page) add(hash uint64, key []byte) (full bool, err error) {
	if len(p.keys) > 0 && hash != p.hash {
		p.whole, p.wholeHash = len(p.keys), p.hash
		if p.whole >= p.maxKeys {
			return true, nil
		}
	}
	p.keys, p.hash = append(p.keys, string(key)), hash
	p.bytes += len(key)
	switch over := p.bytes > p.maxBytes; {
	case p.whole > 0 && (over || len(p.keys) > p.maxKeys):
		p.keys, p.hash = p.keys[:p.whole], p.wholeHash
		return true, nil
	case over:
		return false, fmt.Errorf("%w: the %d keys of hash %x, which one page has to hold, have more than %d bytes",
			kv.ErrTooLarge, len(p.keys), hash, p.maxBytes)
	default:
		return false, nil
	}
}

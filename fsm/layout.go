package fsm

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

const (
	shardBytes   = 4
	bucketBytes  = shardBytes + 8  // shard and bucket, before a pair's hash or a row's tag
	rowBytes     = bucketBytes + 1 // everything before a row's name
	pairBytes    = bucketBytes + 8 // everything before a pair's key
	versionBytes = 8               // before a pair's value
)

// Tags of a machine's own rows, in its bucket 0.
const (
	tagRecord byte = 0
	tagMap    byte = 1
	tagBucket byte = 2

	// More of the catalogue's.
	tagDropping byte = 16
)

// Tags of a data shard's rows besides the record.
const (
	tagSession byte = 8
	tagPiece   byte = 9
	tagDropped byte = 10
)

// appendPairKey appends the disk key of a pair.
func appendPairKey(dst []byte, shard sharding.Shard, bucket, hash uint64, key string) []byte {
	dst = appendBucketPrefix(dst, shard, bucket)
	dst = binary.BigEndian.AppendUint64(dst, hash)
	return append(dst, key...)
}

// putPairKey is appendPairKey into a buffer of exactly the right length.
func putPairKey(dst []byte, shard sharding.Shard, bucket, hash uint64, key []byte) {
	binary.BigEndian.PutUint32(dst, uint32(shard))
	binary.BigEndian.PutUint64(dst[4:], bucket)
	binary.BigEndian.PutUint64(dst[bucketBytes:], hash)
	copy(dst[pairBytes:], key)
}

// rowKey returns the disk key of a machine's own row.
func rowKey(shard sharding.Shard, tag byte, name string) []byte {
	key := make([]byte, 0, rowBytes+len(name))
	key = appendBucketPrefix(key, shard, 0)
	key = append(key, tag)
	return append(key, name...)
}

// numberedKey returns the disk key of a machine's own row that is named by
// numbers, or of their prefix the start of such keys.
func numberedKey(shard sharding.Shard, tag byte, numbers ...uint64) []byte {
	key := make([]byte, 0, rowBytes+8*len(numbers))
	key = appendBucketPrefix(key, shard, 0)
	key = append(key, tag)
	for _, n := range numbers {
		key = binary.BigEndian.AppendUint64(key, n)
	}
	return key
}

// appendBucketPrefix appends what the disk keys of a bucket's pairs begin with.
func appendBucketPrefix(dst []byte, shard sharding.Shard, bucket uint64) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(shard))
	return binary.BigEndian.AppendUint64(dst, bucket)
}

// successor returns the least key after all that begin with prefix. A prefix of
// nothing but 0xff has none, and a shard of that number does not exist.
func successor(prefix []byte) []byte {
	next := slices.Clone(prefix)
	for i := len(next) - 1; i >= 0; i-- {
		if next[i]++; next[i] != 0 {
			return next[:i+1]
		}
	}
	return nil
}

// span returns the bounds of all keys that begin with prefix.
func span(prefix []byte) *pebble.IterOptions {
	return &pebble.IterOptions{LowerBound: prefix, UpperBound: successor(prefix)}
}

// splitPair takes a pair's disk value apart.
func splitPair(row []byte) (version uint64, value []byte, err error) {
	if len(row) < versionBytes {
		return 0, nil, fmt.Errorf("a pair of %d bytes on disk, want at least %d", len(row), versionBytes)
	}
	return binary.BigEndian.Uint64(row), row[versionBytes:len(row):len(row)], nil
}

// recordFormat is the version of the record's format.
const recordFormat = 1

// record is what a machine knows besides its rows. It is written with every
// batch:
//
//	format u8 = 1 · index u64 · term u64 · lead term u64 · time u64 · owns u8 · first u16 · last u16 ·
//	last bucket id u64 · last client id u64
type record struct {
	Position
	time       uint64         // the shard's, in ms: the largest of the entries' times
	owns       bool           // a lead entry has fixed owned (data shards)
	owned      sharding.Range // slots of the shard
	lastBucket uint64         // newest bucket id given out (catalogue)
	lastClient uint64         // newest client id given out (catalogue)
}

func (r *record) append(dst []byte) []byte {
	dst = append(dst, recordFormat)
	dst = binary.BigEndian.AppendUint64(dst, r.Index)
	dst = binary.BigEndian.AppendUint64(dst, r.Term)
	dst = binary.BigEndian.AppendUint64(dst, r.LeadTerm)
	dst = binary.BigEndian.AppendUint64(dst, r.time)
	dst = kv.AppendBool(dst, r.owns)
	dst = binary.BigEndian.AppendUint16(dst, r.owned.First)
	dst = binary.BigEndian.AppendUint16(dst, r.owned.Last)
	dst = binary.BigEndian.AppendUint64(dst, r.lastBucket)
	return binary.BigEndian.AppendUint64(dst, r.lastClient)
}

func decodeRecord(b []byte) (record, error) {
	d := kv.NewDecoder(b)
	if format := d.U8(); format != recordFormat {
		d.Fail("record format %d, want %d", format, recordFormat)
	}
	r := record{
		Position:   Position{Index: d.U64(), Term: d.U64(), LeadTerm: d.U64()},
		time:       d.U64(),
		owns:       d.Bool(),
		owned:      sharding.Range{First: d.U16(), Last: d.U16()},
		lastBucket: d.U64(),
		lastClient: d.U64(),
	}
	return r, d.Finish()
}

// checkRow says whether a row may stand in a shard: key without the shard, with
// room for what every key and value of its kind begins with.
func checkRow(key, value []byte) error {
	const least = bucketBytes + 1 - shardBytes // a bucket and a tag
	if len(key) < least {
		return fmt.Errorf("key %x has %d bytes, want at least %d", key, len(key), least)
	}
	if binary.BigEndian.Uint64(key) == 0 {
		return nil
	}
	if least := pairBytes - shardBytes; len(key) < least {
		return fmt.Errorf("key %.32x of a pair has %d bytes, want at least %d", key, len(key), least)
	}
	_, _, err := splitPair(value)
	return err
}

package fsm

import (
	"encoding/binary"
	"fmt"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

const (
	bucketBytes  = 4 + 8           // shard and bucket, before a pair's hash or a row's tag
	pairBytes    = bucketBytes + 8 // everything before a pair's key
	versionBytes = 8               // before a pair's value
)

// Tags of a machine's own rows, in its bucket 0.
const (
	tagRecord byte = 0
	tagMap    byte = 1
	tagBucket byte = 2
)

// appendPairKey appends the disk key of a pair.
func appendPairKey(dst []byte, shard sharding.Shard, bucket, hash uint64, key string) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(shard))
	dst = binary.BigEndian.AppendUint64(dst, bucket)
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
	key := make([]byte, 0, bucketBytes+1+len(name))
	key = binary.BigEndian.AppendUint32(key, uint32(shard))
	key = binary.BigEndian.AppendUint64(key, 0)
	key = append(key, tag)
	return append(key, name...)
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
//	format u8 = 1 · index u64 · term u64 · lead term u64 · owns u8 · first u16 · last u16 · last bucket id u64
type record struct {
	Position
	owns       bool           // a lead entry has fixed owned (data shards)
	owned      sharding.Range // slots of the shard
	lastBucket uint64         // newest bucket id given out (catalogue)
}

func (r *record) append(dst []byte) []byte {
	dst = append(dst, recordFormat)
	dst = binary.BigEndian.AppendUint64(dst, r.Index)
	dst = binary.BigEndian.AppendUint64(dst, r.Term)
	dst = binary.BigEndian.AppendUint64(dst, r.LeadTerm)
	dst = kv.AppendBool(dst, r.owns)
	dst = binary.BigEndian.AppendUint16(dst, r.owned.First)
	dst = binary.BigEndian.AppendUint16(dst, r.owned.Last)
	return binary.BigEndian.AppendUint64(dst, r.lastBucket)
}

func decodeRecord(b []byte) (record, error) {
	d := kv.NewDecoder(b)
	if format := d.U8(); format != recordFormat {
		d.Fail("record format %d, want %d", format, recordFormat)
	}
	r := record{
		Position:   Position{Index: d.U64(), Term: d.U64(), LeadTerm: d.U64()},
		owns:       d.Bool(),
		owned:      sharding.Range{First: d.U16(), Last: d.U16()},
		lastBucket: d.U64(),
	}
	return r, d.Finish()
}

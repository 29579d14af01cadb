package raftnet

import (
	"encoding/binary"
	"fmt"

	"github.com/hashicorp/raft"
)

// A frame is one message of the transport: it names the server that speaks
// and the server that is spoken to, then carries records of any groups.
//
//	frame:  version(1) len(1) source len(1) destination record*
//	record: kind(1) flags(1) shard(4) sequence(8) length(4) body
//
// Numbers are big endian.
const frameVersion = 1

// recordHead is what a record costs beside its body.
const recordHead = 1 + 1 + 4 + 8 + 4

// flagLazy marks a request nobody waits for: its answer may wait too.
const flagLazy byte = 1 << 0

// record is one message of a group. seq is chosen by the caller and repeated
// in the answer. body is set on records that were read.
type record struct {
	kind  kind
	lazy  bool
	shard uint32
	seq   uint64
	body  []byte
}

func appendFrameHeader(dst []byte, source, destination raft.ServerAddress) []byte {
	dst = append(dst, frameVersion, byte(len(source)))
	dst = append(dst, source...)
	dst = append(dst, byte(len(destination)))
	return append(dst, destination...)
}

// readFrameHeader returns the two addresses and a reader of the records.
func readFrameHeader(frame []byte) (source, destination []byte, records *reader, err error) {
	r := &reader{b: frame}
	if v := r.byte(); r.err == nil && v != frameVersion {
		r.fail("unknown frame version: got %d, want %d", v, frameVersion)
	}
	for _, addr := range []*[]byte{&source, &destination} {
		n := uint64(r.byte())
		if n > maxAddress {
			r.fail("address too long: got %d bytes, want at most %d", n, maxAddress)
		}
		*addr = r.take(n)
	}
	if r.err != nil {
		return nil, nil, nil, fmt.Errorf("frame header: %w", r.err)
	}
	return source, destination, r, nil
}

// appendRecord appends rec with msg encoded as its body. The length has a
// fixed size so that a message of a MiB is encoded where it will lie.
func appendRecord(dst []byte, rec record, msg any) []byte {
	dst = append(dst, byte(rec.kind))
	dst = appendFlag(dst, rec.lazy, flagLazy)
	dst = binary.BigEndian.AppendUint32(dst, rec.shard)
	dst = binary.BigEndian.AppendUint64(dst, rec.seq)
	dst = append(dst, 0, 0, 0, 0)
	start := len(dst)
	dst = appendMessage(dst, msg)
	binary.BigEndian.PutUint32(dst[start-4:], uint32(len(dst)-start))
	return dst
}

// readRecord reads the next record; the caller stops at an empty reader.
func readRecord(r *reader) (record, error) {
	rec := record{kind: kind(r.byte()), lazy: r.flags(flagLazy) != 0, shard: r.uint32(), seq: r.uint64()}
	rec.body = r.take(uint64(r.uint32()))
	if r.err != nil {
		return record{}, fmt.Errorf("record: %w", r.err)
	}
	return rec, nil
}

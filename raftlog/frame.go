package raftlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"time"

	"github.com/hashicorp/raft"
)

// A record of the journal is one or more frames, back to back. A frame is, big
// endian:
//
//	 0  4  length of what follows the checksum
//	 4  4  CRC-32C of what follows
//	 8  1  kind
//	 9  4  shard (0 in head)
//	13  8  generation (0 in head)
//	21  8  index (0 in drop)
//	29  8  term (0 in cut, trim, drop and head, which end here)
//	37  1  raft log type
//	38  8  appended at, Unix nanoseconds, or the smallest int64 for no time
//	46  4  length of the extensions
//	50     extensions, then data up to the frame's end
//
// Kinds are never reused, so that an older program refuses what it does not know.
const (
	kindEntry byte = 1 // one raft entry; everything above index is deleted
	kindCut   byte = 2 // everything at or above index is deleted
	kindTrim  byte = 3 // everything below index is deleted
	kindCarry byte = 4 // an entry of the log again, from a record that is to go
	kindDrop  byte = 5 // the generation ends, with all its entries
	kindHead  byte = 6 // the records up to number index are no longer needed
)

const (
	prefixBytes     = 8
	markBytes       = 37 // a whole cut, trim, drop or head
	entryFixedBytes = 50
	maxFrameBytes   = entryFixedBytes + maxEntryBytes

	// noTime is an AppendedAt that was not set. Unix time 0 is a time.
	noTime = math.MinInt64
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// replica names one stay of a shard on this node: a shard that left and came
// back has a higher generation and must not meet its old entries.
type replica struct {
	shard      uint32
	generation uint64
}

// frame is a decoded frame. Its byte slices alias the record.
type frame struct {
	bytes      []byte // all of it
	kind       byte
	replica    replica
	index      uint64
	term       uint64
	logType    raft.LogType
	appended   int64
	extensions []byte
	data       []byte
}

func entryBytes(e *raft.Log) int {
	return entryFixedBytes + len(e.Extensions) + len(e.Data)
}

// appendEntry appends the frame of e, which it copies.
func appendEntry(b []byte, r replica, e *raft.Log) []byte {
	start := len(b)
	b = appendHead(b, kindEntry, r, e.Index, e.Term)
	appended := int64(noTime)
	if !e.AppendedAt.IsZero() {
		// A time outside 1678-2262 wraps: raft reads it for a metric only.
		appended = e.AppendedAt.UnixNano()
	}
	b = append(b, byte(e.Type))
	b = binary.BigEndian.AppendUint64(b, uint64(appended))
	b = binary.BigEndian.AppendUint32(b, uint32(len(e.Extensions)))
	b = append(b, e.Extensions...)
	b = append(b, e.Data...)
	return seal(b, start)
}

// appendCarry appends what is in frame, an entry, as one that is carried forward.
func appendCarry(b, frame []byte) []byte {
	start := len(b)
	b = append(b, frame...)
	b[start+prefixBytes] = kindCarry
	return seal(b, start)
}

// appendMark appends a cut, a trim, a drop or a head.
func appendMark(b []byte, kind byte, r replica, index uint64) []byte {
	start := len(b)
	return seal(appendHead(b, kind, r, index, 0), start)
}

func appendHead(b []byte, kind byte, r replica, index, term uint64) []byte {
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0, kind)
	b = binary.BigEndian.AppendUint32(b, r.shard)
	b = binary.BigEndian.AppendUint64(b, r.generation)
	b = binary.BigEndian.AppendUint64(b, index)
	return binary.BigEndian.AppendUint64(b, term)
}

// seal fills in length and checksum of the frame that starts at start.
func seal(b []byte, start int) []byte {
	body := b[start+prefixBytes:]
	binary.BigEndian.PutUint32(b[start:], uint32(len(body)))
	binary.BigEndian.PutUint32(b[start+4:], crc32.Checksum(body, castagnoli))
	return b
}

// frameBytes returns the length of the frame at the start of b.
func frameBytes(b []byte) (int, error) {
	if len(b) < markBytes {
		return 0, fmt.Errorf("frame cut short: got %d bytes, want %d or more", len(b), markBytes)
	}
	n := prefixBytes + uint64(binary.BigEndian.Uint32(b))
	if most := uint64(min(len(b), maxFrameBytes)); n < markBytes || n > most {
		return 0, fmt.Errorf("frame of shard %d: got length %d, want %d to %d",
			binary.BigEndian.Uint32(b[9:]), n, markBytes, most)
	}
	return int(n), nil
}

// checkFrame verifies the checksum of the frame at the start of b.
func checkFrame(b []byte) error {
	n, err := frameBytes(b)
	if err != nil {
		return err
	}
	got, want := crc32.Checksum(b[prefixBytes:n], castagnoli), binary.BigEndian.Uint32(b[4:])
	if got != want {
		return fmt.Errorf("frame of shard %d: got checksum %08x, want %08x",
			binary.BigEndian.Uint32(b[9:]), got, want)
	}
	return nil
}

// parseFrame decodes the frame at the start of b. It does not verify the
// checksum: that is done once, when a record is read.
func parseFrame(b []byte) (frame, error) {
	n, err := frameBytes(b)
	if err != nil {
		return frame{}, err
	}
	f := frame{
		bytes: b[:n:n],
		kind:  b[8],
		replica: replica{
			shard:      binary.BigEndian.Uint32(b[9:]),
			generation: binary.BigEndian.Uint64(b[13:]),
		},
		index: binary.BigEndian.Uint64(b[21:]),
		term:  binary.BigEndian.Uint64(b[29:]),
	}
	if (f.index == 0) != (f.kind == kindDrop) {
		return frame{}, fmt.Errorf("frame of shard %d, kind %d: got index %d, want 0 in a drop, 1 or more in all others",
			f.replica.shard, f.kind, f.index)
	}
	switch f.kind {
	case kindCut, kindTrim, kindDrop, kindHead:
		return parseMark(f)
	case kindEntry, kindCarry:
		return parseEntry(f)
	}
	return frame{}, fmt.Errorf("frame of shard %d: got kind %d, want %d to %d",
		f.replica.shard, f.kind, kindEntry, kindHead)
}

func parseMark(f frame) (frame, error) {
	n := len(f.bytes)
	if n != markBytes || f.term != 0 {
		return frame{}, fmt.Errorf("frame of shard %d, kind %d: got length %d and term %d, want %d and 0",
			f.replica.shard, f.kind, n, f.term, markBytes)
	}
	if f.kind == kindHead && f.replica != (replica{}) {
		return frame{}, fmt.Errorf("head: got shard %d generation %d, want 0 and 0", f.replica.shard, f.replica.generation)
	}
	return f, nil
}

func parseEntry(f frame) (frame, error) {
	b, n := f.bytes, len(f.bytes)
	if n < entryFixedBytes {
		return frame{}, fmt.Errorf("entry of shard %d: got length %d, want %d or more",
			f.replica.shard, n, entryFixedBytes)
	}
	extensions := uint64(binary.BigEndian.Uint32(b[46:]))
	if extensions > uint64(n-entryFixedBytes) {
		return frame{}, fmt.Errorf("entry of shard %d: got %d bytes of extensions, want at most %d",
			f.replica.shard, extensions, n-entryFixedBytes)
	}
	f.logType = raft.LogType(b[37])
	f.appended = int64(binary.BigEndian.Uint64(b[38:]))
	split := entryFixedBytes + int(extensions)
	f.extensions = b[entryFixedBytes:split:split]
	f.data = b[split:]
	return f, nil
}

// entry returns the raft entry of f, sharing its bytes.
func (f *frame) entry() raft.Log {
	e := raft.Log{Index: f.index, Term: f.term, Type: f.logType}
	if len(f.data) > 0 {
		e.Data = f.data
	}
	if len(f.extensions) > 0 {
		e.Extensions = f.extensions
	}
	if f.appended != noTime {
		e.AppendedAt = time.Unix(0, f.appended)
	}
	return e
}

// walk verifies the frames of a record and shows each to visit.
func walk(record []byte, visit func(offset int, f frame) error) error {
	if len(record) == 0 {
		return errors.New("got an empty record, want a frame")
	}
	for offset := 0; offset < len(record); {
		if err := checkFrame(record[offset:]); err != nil {
			return fmt.Errorf("offset %d: %w", offset, err)
		}
		f, err := parseFrame(record[offset:])
		if err != nil {
			return fmt.Errorf("offset %d: %w", offset, err)
		}
		if err := visit(offset, f); err != nil {
			return fmt.Errorf("offset %d: shard %d generation %d: %w", offset, f.replica.shard, f.replica.generation, err)
		}
		offset += len(f.bytes)
	}
	return nil
}

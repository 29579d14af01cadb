package fsm

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"sync"

	"github.com/cespare/xxhash/v2"
	"github.com/cockroachdb/pebble/v2"

	"github.com/manykv/manykv/mutant"
	"github.com/manykv/manykv/sharding"
)

// A stream carries all rows of a shard in key order:
//
//	header  magic u32 · version u8 · shard u32 · position · crc u32
//	frame   kind u8 · length u32 · body of that length · crc u32
//	block   kind 1: rows, each  length uvarint · key · length uvarint · value
//	end     kind 2: number of rows u64 · xxhash64 u64
//
// A position is index u64 · term u64 · lead term u64; a key stands without its
// shard, so that a stream cannot reach outside of the shard it is written to.
// crc is CRC-32C of the header or frame before it, the end's hash that of all
// bytes before the end's frame: it shows a frame that is missing or doubled.
const (
	streamMagic   = 0x6d6b7673 // "mkvs"
	streamVersion = 1

	positionBytes = 3 * 8
	crcBytes      = 4
	headerBytes   = 4 + 1 + 4 + positionBytes + crcBytes
	frameHead     = 1 + 4
	endBytes      = 8 + 8

	frameBlock byte = 1
	frameEnd   byte = 2
)

const (
	// blockBytes is how large a block may be, unless one row alone is larger:
	// what sender and receiver hold in memory of a stream, a frame of the
	// transport, and large enough to make the overhead of a frame nothing.
	blockBytes = 256 << 10

	// maxRowBytes bounds a row, and with it a block: twice the largest value,
	// so that there is room for its key and for whatever a machine adds.
	maxRowBytes = 16 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func appendCRC(dst []byte, of []byte) []byte {
	return binary.BigEndian.AppendUint32(dst, crc32.Checksum(of, castagnoli))
}

func appendPosition(dst []byte, p Position) []byte {
	dst = binary.BigEndian.AppendUint64(dst, p.Index)
	dst = binary.BigEndian.AppendUint64(dst, p.Term)
	return binary.BigEndian.AppendUint64(dst, p.LeadTerm)
}

// shardPrefix is what all keys of a shard begin with.
func shardPrefix(shard sharding.Shard) []byte {
	return binary.BigEndian.AppendUint32(make([]byte, 0, shardBytes), uint32(shard))
}

// shardSpan holds all rows of a shard and no others. A cluster has far fewer
// shards than would make the number after the last one wrap.
func shardSpan(shard sharding.Shard) pebble.KeyRange {
	return pebble.KeyRange{Start: shardPrefix(shard), End: shardPrefix(shard + 1)}
}

// rows is a scan of all rows of a shard, from one state of it.
//
// It is an iterator and not a Pebble snapshot, because an excise, which is what
// Restore and Drop are, takes the rows away from snapshots but not from
// iterators.
type rows struct {
	it       *pebble.Iterator
	position Position // of that state
}

// scan begins a scan. The caller has acquired the store.
func (m *machine) scan() (*rows, error) {
	if err := m.store.drainShard(m.shard); err != nil {
		return nil, err
	}
	span := shardSpan(m.shard)
	it, err := m.store.db.NewIter(&pebble.IterOptions{LowerBound: span.Start, UpperBound: span.End})
	if err != nil {
		return nil, fmt.Errorf("fsm: reading shard %d: %w", m.shard, err)
	}
	r := &rows{it: it}
	if err := r.begin(); err != nil {
		_ = it.Close() // its error is the one we have
		return nil, fmt.Errorf("fsm: reading shard %d: %w", m.shard, err)
	}
	return r, nil
}

// begin goes to the first row, which is the record, and takes the position from
// it; a machine that has applied nothing has no rows.
func (r *rows) begin() error {
	if !r.it.First() {
		return r.it.Error()
	}
	value, err := r.value()
	if err != nil {
		return err
	}
	r.position, err = firstPosition(r.key(), value)
	return err
}

// firstPosition reads the position from the first row of a state.
func firstPosition(key, value []byte) (Position, error) {
	if string(key) != recordKey {
		return Position{}, fmt.Errorf("the first row is %.32x, want the record", key)
	}
	rec, err := decodeRecord(value)
	if err != nil {
		return Position{}, fmt.Errorf("the record: %w", err)
	}
	return rec.Position, nil
}

// recordKey is the record's key without its shard: the least of all keys.
var recordKey = string(rowKey(sharding.Meta, tagRecord, "")[shardBytes:])

// key is the row's key without the shard, until the scan goes on.
func (r *rows) key() []byte { return r.it.Key()[shardBytes:] }

func (r *rows) value() ([]byte, error) { return r.it.ValueAndErr() }

// Stream is a machine's whole state as it was at one moment, to be read by
// another node's Stage. While it is open Pebble keeps that state's files and
// a memtable, so it should not be left open.
//
// Read and Close may be called from different goroutines. A closed store ends
// the streams that are open: their Read returns ErrClosed.
type Stream struct {
	store    *Store
	shard    sharding.Shard
	position Position

	mu     sync.Mutex // guards the fields below; taken inside store.gate
	rows   *rows      // nil once closed
	left   []byte     // what is ready to be read, a part of frame
	frame  []byte
	sum    xxhash.Digest
	count  uint64
	ended  bool // the end is in left, or was
	failed error
}

// Stream begins a stream of the machine's state. It flushes first, which makes
// the stream hold on to tables instead of memory.
func (m *machine) Stream() (*Stream, error) {
	if err := m.store.acquire(); err != nil {
		return nil, err
	}
	defer m.store.release()
	if err := m.store.sharedFlush(); err != nil {
		return nil, err
	}
	r, err := m.scan()
	if err != nil {
		return nil, err
	}
	s := &Stream{store: m.store, shard: m.shard, position: r.position, rows: r}
	s.sum.Reset()
	s.header()
	m.store.mu.Lock()
	m.store.streams[s] = struct{}{}
	m.store.mu.Unlock()
	return s, nil
}

// Position is that of the state in the stream.
func (s *Stream) Position() Position { return s.position }

// Read reads the next bytes of the stream; io.EOF after its end.
func (s *Stream) Read(p []byte) (int, error) {
	if err := s.store.acquire(); err != nil {
		return 0, err
	}
	defer s.store.release()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(p) == 0 {
		return 0, nil
	}
	if len(s.left) == 0 && s.failed == nil {
		s.failed = s.fill()
	}
	if len(s.left) == 0 {
		return 0, s.failed
	}
	n := copy(p, s.left)
	s.left = s.left[n:]
	return n, nil
}

// fill makes the next frame ready.
func (s *Stream) fill() error {
	if s.ended {
		return io.EOF
	}
	return s.block()
}

func (s *Stream) header() {
	s.frame = binary.BigEndian.AppendUint32(s.frame[:0], streamMagic)
	s.frame = append(s.frame, streamVersion)
	s.frame = binary.BigEndian.AppendUint32(s.frame, uint32(s.shard))
	s.frame = appendPosition(s.frame, s.position)
	s.frame = appendCRC(s.frame, s.frame)
	s.sum.Write(s.frame)
	s.left = s.frame
}

// block makes a frame of the rows that fit, or the end if there are none left.
func (s *Stream) block() error {
	it := s.rows.it
	if !it.Valid() {
		if err := it.Error(); err != nil {
			return fmt.Errorf("fsm: streaming shard %d: %w", s.shard, err)
		}
		s.end()
		return nil
	}
	s.frame = append(s.frame[:0], frameBlock, 0, 0, 0, 0)
	for ; it.Valid(); it.Next() {
		key := s.rows.key()
		value, err := s.rows.value()
		if err != nil {
			return fmt.Errorf("fsm: streaming shard %d: %w", s.shard, err)
		}
		if mutant.On(mutant.SnapshotNoSessions) && isSession(key) {
			continue
		}
		size := len(key) + len(value) + 2*binary.MaxVarintLen32
		switch full := len(s.frame) > frameHead && len(s.frame)-frameHead+size > blockBytes; {
		case full:
			s.seal()
			return nil
		case size > maxRowBytes:
			return fmt.Errorf("fsm: streaming shard %d: row %.32x has %d bytes, want at most %d", s.shard, key, size, maxRowBytes)
		}
		s.frame = appendRow(s.frame, key, value)
		s.count++
	}
	s.seal() // should the scan have failed, the next block says so
	return nil
}

// isSession is for mutant.SnapshotNoSessions: whether a key without its shard is a
// session's.
func isSession(key []byte) bool {
	return bytes.HasPrefix(key, rowKey(sharding.Meta, tagSession, "")[shardBytes:])
}

func appendRow(dst, key, value []byte) []byte {
	dst = append(binary.AppendUvarint(dst, uint64(len(key))), key...)
	return append(binary.AppendUvarint(dst, uint64(len(value))), value...)
}

func (s *Stream) end() {
	s.frame = append(s.frame[:0], frameEnd, 0, 0, 0, 0)
	s.frame = binary.BigEndian.AppendUint64(s.frame, s.count)
	s.frame = binary.BigEndian.AppendUint64(s.frame, s.sum.Sum64())
	s.seal()
	s.ended = true
}

// seal completes a frame with its length and checksum.
func (s *Stream) seal() {
	binary.BigEndian.PutUint32(s.frame[1:], uint32(len(s.frame)-frameHead))
	s.frame = appendCRC(s.frame, s.frame)
	s.sum.Write(s.frame)
	s.left = s.frame
}

// Close lets go of the state; only the first call does anything.
func (s *Stream) Close() error {
	s.store.gate.RLock() // even of a failed store: Close of the store needs it to be gone
	defer s.store.gate.RUnlock()
	s.store.mu.Lock()
	delete(s.store.streams, s)
	s.store.mu.Unlock()
	return s.drop()
}

// drop closes the scan. The caller holds the gate.
func (s *Stream) drop() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rows == nil {
		return nil
	}
	err := s.rows.it.Close()
	s.rows, s.left, s.frame = nil, nil, nil
	s.failed = fs.ErrClosed
	if err != nil {
		return fmt.Errorf("fsm: streaming shard %d: %w", s.shard, err)
	}
	return nil
}

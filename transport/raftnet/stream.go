package raftnet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/hashicorp/raft"
)

// A bulk stream carries one snapshot one way and the answer to it the other:
//
//	snapshot: envelope chunk* end
//	answer:   envelope
//	envelope: length(4) frame checksum(4)          a frame with one record
//	chunk:    length(4) data checksum(4)           length is not 0
//	end:      0(4) total(8) checksum(4)            total is the length of all data
//
// Numbers are big endian. A checksum is the CRC-32C of everything that was
// sent this way before it, other checksums left out. So a chunk that is
// damaged, doubled, missing or out of its place is seen before raft gets a
// byte of it, and a stream that is cut off has no end.
const (
	lengthBytes   = 4
	totalBytes    = 8
	checksumBytes = 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errBadStream is a stream that no writer of ours has written, or that was
// damaged on its way; an error of the connection is not one.
var errBadStream = errors.New("bad stream")

func badStream(format string, args ...any) error {
	return fmt.Errorf("%w: %w", errBadStream, fmt.Errorf(format, args...))
}

// streamWriter writes one way of a bulk stream.
type streamWriter struct {
	w     io.Writer
	sum   uint32 // of what was written, without checksums
	total uint64 // bytes of data in it
}

// piece writes b, of which the last checksumBytes are still to be filled in.
func (s *streamWriter) piece(b []byte) error {
	content, checksum := b[:len(b)-checksumBytes], b[len(b)-checksumBytes:]
	s.sum = crc32.Update(s.sum, castagnoli, content)
	binary.BigEndian.PutUint32(checksum, s.sum)
	_, err := s.w.Write(b)
	return err
}

func (s *streamWriter) envelope(frame []byte) error {
	if len(frame) > maxEnvelopeBytes {
		return fmt.Errorf("message of %d bytes at the head of a stream, want at most %d", len(frame), maxEnvelopeBytes)
	}
	b := make([]byte, 0, lengthBytes+len(frame)+checksumBytes)
	b = binary.BigEndian.AppendUint32(b, uint32(len(frame)))
	b = append(b, frame...)
	return s.piece(b[:cap(b)])
}

// chunk writes the n bytes of data that lie in b behind the space for their
// length, with space for the checksum behind them.
func (s *streamWriter) chunk(b []byte, n int) error {
	binary.BigEndian.PutUint32(b, uint32(n))
	s.total += uint64(n)
	return s.piece(b[:lengthBytes+n+checksumBytes])
}

func (s *streamWriter) end() error {
	b := make([]byte, lengthBytes+totalBytes+checksumBytes)
	binary.BigEndian.PutUint64(b[lengthBytes:], s.total)
	return s.piece(b)
}

// errSource is a snapshot that could not be read where it is sent from.
var errSource = errors.New("reading the snapshot")

// copy writes all of data and the end. Without the end, because of an error,
// the other side takes the stream for cut off.
func (s *streamWriter) copy(data io.Reader) error {
	b := make([]byte, lengthBytes+maxChunkBytes+checksumBytes)
	for {
		n, readErr := gather(data, b[lengthBytes:lengthBytes+maxChunkBytes])
		if n > 0 {
			if err := s.chunk(b, n); err != nil {
				return err
			}
		}
		if readErr == io.EOF { //nolint:errorlint // a wrapped one is an error of the source, not its end
			return s.end()
		}
		if readErr != nil {
			return fmt.Errorf("%w: %w", errSource, readErr)
		}
	}
}

// gather reads until b is full or data fails. It is not io.ReadFull, whose
// io.ErrUnexpectedEOF may as well be the error of a snapshot that was cut off.
func gather(data io.Reader, b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		var m int
		m, err = data.Read(b[n:])
		n += m
	}
	return n, err
}

// streamReader reads one way of a bulk stream.
type streamReader struct {
	r     io.Reader
	sum   uint32
	total uint64
	word  [totalBytes + checksumBytes]byte
}

// read reads b and adds it to the sum. A stream ends early wherever it ends:
// io.EOF would be taken for the end of the snapshot.
func (s *streamReader) read(b []byte) error {
	if err := s.readFull(b); err != nil {
		return err
	}
	s.sum = crc32.Update(s.sum, castagnoli, b)
	return nil
}

func (s *streamReader) readFull(b []byte) error {
	if _, err := io.ReadFull(s.r, b); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("stream cut off: %w", err)
	}
	return nil
}

func (s *streamReader) length(limit uint32, of string) (uint32, error) {
	if err := s.read(s.word[:lengthBytes]); err != nil {
		return 0, err
	}
	n := binary.BigEndian.Uint32(s.word[:])
	if n > limit {
		return 0, badStream("%s of %d bytes, want at most %d", of, n, limit)
	}
	return n, nil
}

func (s *streamReader) checksum(of string) error {
	want := s.sum
	if err := s.readFull(s.word[:checksumBytes]); err != nil {
		return err
	}
	if got := binary.BigEndian.Uint32(s.word[:]); got != want {
		return badStream("checksum after %s: got %08x, want %08x", of, got, want)
	}
	return nil
}

// envelope reads the message at the head of the stream.
func (s *streamReader) envelope() (source, destination []byte, rec record, err error) {
	n, err := s.length(maxEnvelopeBytes, "message")
	if err != nil {
		return nil, nil, record{}, err
	}
	frame := make([]byte, n)
	if err := s.read(frame); err != nil {
		return nil, nil, record{}, err
	}
	if err := s.checksum("message"); err != nil {
		return nil, nil, record{}, err
	}
	source, destination, records, err := readFrameHeader(frame)
	if err == nil {
		rec, err = readRecord(records)
	}
	if err == nil {
		err = records.end()
	}
	if err != nil {
		return nil, nil, record{}, badStream("%w", err)
	}
	return source, destination, rec, nil
}

// chunk reads the next chunk into b, which has maxChunkBytes. It returns io.EOF
// at the proper end of the stream and nowhere else.
func (s *streamReader) chunk(b []byte) ([]byte, error) {
	n, err := s.length(maxChunkBytes, "chunk")
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, s.end()
	}
	b = b[:n]
	if err := s.read(b); err != nil {
		return nil, err
	}
	if err := s.checksum("chunk"); err != nil {
		return nil, err
	}
	s.total += uint64(n)
	return b, nil
}

func (s *streamReader) end() error {
	if err := s.read(s.word[:totalBytes]); err != nil {
		return err
	}
	total := binary.BigEndian.Uint64(s.word[:])
	if err := s.checksum("end"); err != nil {
		return err
	}
	if total != s.total {
		return badStream("end after %d bytes of data, want %d", s.total, total)
	}
	return io.EOF
}

// snapshotReader is what raft reads a snapshot from. At the proper end it puts
// the length into the request, where raft looks for it after it has read
// everything (installSnapshot in raft.go, v1.7.3): the sender does not know it
// beforehand, for the state is written as it is read.
type snapshotReader struct {
	in   *streamReader
	req  *raft.InstallSnapshotRequest
	got  func(bytes int) // counts
	buf  []byte
	rest []byte // of buf: checked, and not yet read by raft
	err  error  // that there is no next chunk
}

func newSnapshotReader(in *streamReader, req *raft.InstallSnapshotRequest, got func(int)) *snapshotReader {
	return &snapshotReader{in: in, req: req, got: got, buf: make([]byte, maxChunkBytes)}
}

// Read returns io.EOF only when all of the snapshot has been read and checked.
func (s *snapshotReader) Read(p []byte) (int, error) {
	if len(s.rest) == 0 && s.err == nil {
		s.rest, s.err = s.in.chunk(s.buf)
		s.got(len(s.rest))
		if errors.Is(s.err, io.EOF) {
			s.req.Size = int64(s.in.total)
		}
	}
	if len(s.rest) == 0 {
		return 0, s.err
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

package fsm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/cespare/xxhash/v2"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

// errStream is wrapped by every error about the bytes of a stream.
var errStream = errors.New("not a stream of a shard")

// parser checks a stream that arrives in arbitrary cuts and gives its rows to
// row. It keeps the piece (header, head of a frame, frame) that has not arrived
// completely, and allocates for what did arrive, not for what is announced.
type parser struct {
	shard sharding.Shard
	row   func(key, value []byte) error // key stands without its shard; both only until it returns

	piece []byte
	want  int // bytes that piece has when it is complete
	next  func() error

	sum      xxhash.Digest // of the header and the blocks
	position Position
	rows     uint64
	last     []byte // the key before
	ended    bool
}

func newParser(shard sharding.Shard, row func(key, value []byte) error) *parser {
	p := &parser{shard: shard, row: row}
	p.sum.Reset()
	p.expect(headerBytes, p.header)
	return p
}

// expect says how long the piece under way is and who reads it.
func (p *parser) expect(bytes int, next func() error) { p.want, p.next = bytes, next }

// write takes the next bytes. After an error the parser must not be used.
func (p *parser) write(b []byte) error {
	for len(b) > 0 {
		if p.ended {
			return fmt.Errorf("%w: %d bytes after its end", errStream, len(b))
		}
		n := min(len(b), p.want-len(p.piece))
		p.piece = append(p.piece, b[:n]...)
		b = b[n:]
		if len(p.piece) < p.want {
			return nil
		}
		if err := p.next(); err != nil {
			return err
		}
	}
	return nil
}

// finish says whether the stream was complete.
func (p *parser) finish() error {
	if !p.ended {
		return fmt.Errorf("%w: it stops after %d rows, %d bytes into a piece of %d", errStream, p.rows, len(p.piece), p.want)
	}
	return nil
}

func (p *parser) checkCRC() error {
	body := p.piece[:len(p.piece)-crcBytes]
	got, want := crc32.Checksum(body, castagnoli), binary.BigEndian.Uint32(p.piece[len(body):])
	if got != want {
		return fmt.Errorf("%w: a piece of %d bytes after %d rows has checksum %08x, want %08x", errStream, len(p.piece), p.rows, got, want)
	}
	return nil
}

func (p *parser) header() error {
	d := kv.NewDecoder(p.piece)
	magic, version, shard := d.U32(), d.U8(), sharding.Shard(d.U32())
	position := Position{Index: d.U64(), Term: d.U64(), LeadTerm: d.U64()}
	switch {
	case magic != streamMagic:
		return fmt.Errorf("%w: it begins with %08x, want %08x", errStream, magic, streamMagic)
	case version != streamVersion:
		return fmt.Errorf("%w: version %d, want %d", errStream, version, streamVersion)
	}
	if err := p.checkCRC(); err != nil {
		return err
	}
	if shard != p.shard {
		return fmt.Errorf("%w: it is of shard %d, want %d", errStream, shard, p.shard)
	}
	p.position = position
	p.sum.Write(p.piece)
	p.begin()
	return nil
}

// begin goes on to the next frame.
func (p *parser) begin() {
	p.piece = p.piece[:0]
	p.expect(frameHead, p.head)
}

// head reads the first bytes of a frame, which say how long it is.
func (p *parser) head() error {
	kind, length := p.piece[0], binary.BigEndian.Uint32(p.piece[1:])
	switch {
	case kind == frameBlock && 0 < length && length <= maxRowBytes:
		p.expect(frameHead+int(length)+crcBytes, p.block)
	case kind == frameEnd && length == endBytes:
		p.expect(frameHead+endBytes+crcBytes, p.end)
	default:
		return fmt.Errorf("%w: a frame of kind %d with %d bytes after %d rows", errStream, kind, length, p.rows)
	}
	return nil
}

func (p *parser) block() error {
	if err := p.checkCRC(); err != nil {
		return err
	}
	body := p.piece[frameHead : len(p.piece)-crcBytes]
	before := p.rows
	for d := kv.NewDecoder(body); d.Left() > 0; {
		key, value := d.Bytes(), d.Bytes()
		if err := d.Err(); err != nil {
			return fmt.Errorf("%w: row %d: %w", errStream, p.rows, err)
		}
		if err := p.check(key, value); err != nil {
			return fmt.Errorf("%w: row %d: %w", errStream, p.rows, err)
		}
		if err := p.row(key, value); err != nil {
			return err
		}
		p.last = append(p.last[:0], key...)
		p.rows++
	}
	if len(body) > blockBytes && p.rows-before > 1 {
		return fmt.Errorf("%w: a block of %d bytes with %d rows, want at most %d or one row", errStream, len(body), p.rows-before, blockBytes)
	}
	p.sum.Write(p.piece)
	p.begin()
	return nil
}

// check says what is wrong with a row, after those before it.
func (p *parser) check(key, value []byte) error {
	if p.rows == 0 {
		position, err := firstPosition(key, value)
		if err == nil && position != p.position {
			err = fmt.Errorf("the record is at %+v, the header says %+v", position, p.position)
		}
		return err
	}
	if err := checkRow(key, value); err != nil {
		return err
	}
	if string(key) <= string(p.last) {
		return fmt.Errorf("key %.32x after %.32x, want them in order", key, p.last)
	}
	return nil
}

func (p *parser) end() error {
	if err := p.checkCRC(); err != nil {
		return err
	}
	d := kv.NewDecoder(p.piece[frameHead:])
	rows, sum := d.U64(), d.U64()
	switch {
	case rows != p.rows:
		return fmt.Errorf("%w: %d rows arrived, the end says %d", errStream, p.rows, rows)
	case sum != p.sum.Sum64():
		return fmt.Errorf("%w: its hash is %016x, the end says %016x", errStream, p.sum.Sum64(), sum)
	case rows == 0 && p.position != Position{}:
		return fmt.Errorf("%w: no rows, though it is at %+v", errStream, p.position)
	}
	p.ended, p.piece = true, nil
	return nil
}

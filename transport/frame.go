package transport

import (
	"encoding/binary"
	"fmt"
)

// A stream begins with a hello of the opener: 'm' 'k', the version of the frames, the kind of the stream.
const (
	helloBytes   = 4
	frameVersion = 1
)

type streamKind byte

const (
	streamControl streamKind = 1 // one-way messages, LaneControl
	streamData    streamKind = 2 // one-way messages, LaneData
	streamCall    streamKind = 3 // requests one way, answers the other
	streamGossip  streamKind = 4 // raw bytes after the hello
	streamBulk    streamKind = 5 // raw bytes after the hello and its echo
)

func (k streamKind) hello() [helloBytes]byte {
	return [helloBytes]byte{'m', 'k', frameVersion, byte(k)}
}

func parseHello(b [helloBytes]byte) (streamKind, error) {
	kind := streamKind(b[3])
	if kind < streamControl || kind > streamBulk || b != kind.hello() {
		return 0, fmt.Errorf("stream begins with % x, want \"mk\", version %d and a known kind", b, frameVersion)
	}
	return kind, nil
}

type frameKind byte

const (
	frameRequest  frameKind = 1
	frameResponse frameKind = 2
	frameError    frameKind = 3
	frameOneWay   frameKind = 4
	frameMore     frameKind = 5 // the next bytes of a message that did not fit its first frame
	frameCancel   frameKind = 6 // nothing more follows for this id, and its answer is not wanted
)

// first tells whether a frame of this kind begins a message, and so carries total and deadline.
func (k frameKind) first() bool { return k >= frameRequest && k <= frameOneWay }

const (
	// maxFrameBytes bounds the payload of one frame: what a reader allocates before the bytes are there, and how long
	// one message may hold a stream.
	maxFrameBytes   = 256 << 10
	shortHeader     = 16 // length 4, kind 1, method 1, zero 2, id 8
	firstHeader     = 24 // and total 4, deadline 4
	maxDeadlineMS   = 1<<32 - 1
	maxMessageLimit = 1<<32 - 1 // total has 4 bytes
)

// header is the fixed part of a frame, big endian on the wire.
type header struct {
	kind     frameKind
	method   byte   // of a request; the code of an error
	length   uint32 // payload bytes of this frame
	id       uint64 // of the message, unique on its stream; an answer has its request's
	total    uint32 // payload bytes of the whole message; first frames only
	deadline uint32 // milliseconds the caller will wait, 0: for ever; requests only
}

func (h header) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, h.length)
	b = append(b, byte(h.kind), h.method, 0, 0)
	b = binary.BigEndian.AppendUint64(b, h.id)
	if h.kind.first() {
		b = binary.BigEndian.AppendUint32(b, h.total)
		b = binary.BigEndian.AppendUint32(b, h.deadline)
	}
	return b
}

// parseShort reads the first shortHeader bytes; parseFirst the rest, where kind.first(). check judges the whole.
func parseShort(b *[firstHeader]byte) header {
	return header{
		length: binary.BigEndian.Uint32(b[0:]),
		kind:   frameKind(b[4]),
		method: b[5],
		id:     binary.BigEndian.Uint64(b[8:]),
	}
}

func (h *header) parseFirst(b *[firstHeader]byte) {
	h.total = binary.BigEndian.Uint32(b[16:])
	h.deadline = binary.BigEndian.Uint32(b[20:])
}

// check refuses what no writer of ours produces, before anybody allocates for it.
func (h header) check() error {
	switch {
	case h.kind < frameRequest || h.kind > frameCancel:
		return fmt.Errorf("frame kind %d, want %d to %d", h.kind, frameRequest, frameCancel)
	case h.length > maxFrameBytes:
		return fmt.Errorf("frame of %d bytes, want at most %d", h.length, maxFrameBytes)
	case h.method != 0 && h.kind != frameRequest && h.kind != frameError:
		return fmt.Errorf("frame of kind %d has method %d, want none", h.kind, h.method)
	case h.deadline != 0 && h.kind != frameRequest:
		return fmt.Errorf("frame of kind %d has a deadline, want none", h.kind)
	case h.kind == frameCancel && h.length != 0:
		return fmt.Errorf("cancel frame of %d bytes, want 0", h.length)
	case h.kind == frameMore && h.length == 0:
		return fmt.Errorf("empty continuation of message %d", h.id)
	case h.kind.first() && h.length > h.total:
		return fmt.Errorf("frame of %d bytes begins a message of %d", h.length, h.total)
	case h.kind.first() && h.length == 0 && h.total != 0:
		return fmt.Errorf("empty frame begins a message of %d bytes", h.total)
	}
	return nil
}

package transport

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"
)

const (
	// readBuffer holds some ten packets, so that a header does not cost a read of the stream each; larger payloads
	// bypass it.
	readBuffer = 16 << 10
	// frameWait is how long the next bytes of an unfinished message may take: what it holds of the budget is wanted by
	// others. It outlives every pause of a living peer, which the idle timeout of the connection bounds.
	frameWait = 10 * time.Second
	// messageWait bounds a whole message, so that a peer cannot hold budget for ever by sending a byte now and then.
	messageWait = 2 * time.Minute
)

// errBadFrame is a peer that does not speak our protocol: its connection ends.
var errBadFrame = errors.New("bad frame")

func badFrame(format string, args ...any) error {
	return fmt.Errorf("%w: %w", errBadFrame, fmt.Errorf(format, args...))
}

// inbox puts the frames of one stream together to messages. It belongs to the goroutine that reads the stream.
type inbox struct {
	r     *bufio.Reader
	kinds []frameKind // what may begin a message on this stream
	// admit judges the first frame of a message before anything is allocated for it. Refused messages are skipped.
	admit func(header) (bool, error)
	// oneAtATime: messages of this stream do not interleave.
	oneAtATime bool
	stream     readDeadliner // nil in tests that read from memory
	armed      bool          // stream has a read deadline
	stats      *counters

	open    map[uint64]*partial
	scratch [firstHeader]byte
}

type readDeadliner interface{ SetReadDeadline(time.Time) error }

type partial struct {
	header header
	body   []byte // grows with what arrived
	since  time.Time
}

func newInbox(r io.Reader, stats *counters, admit func(header) (bool, error), kinds ...frameKind) *inbox {
	in := &inbox{
		r:     bufio.NewReaderSize(r, readBuffer),
		kinds: kinds,
		admit: admit,
		stats: stats,
		open:  make(map[uint64]*partial),
	}
	if stream, ok := r.(readDeadliner); ok {
		in.stream = stream
	}
	return in
}

// next returns the next whole message, or a cancel frame for an id, known or not. The body belongs to the caller.
func (in *inbox) next() (header, []byte, error) {
	for {
		h, err := in.readHeader()
		if err != nil {
			return header{}, nil, in.explain(err)
		}
		if h.kind == frameCancel {
			delete(in.open, h.id)
			return h, nil, nil
		}
		p, err := in.place(h)
		if err != nil {
			return header{}, nil, err
		}
		if p == nil {
			if _, err := in.r.Discard(int(h.length)); err != nil {
				return header{}, nil, in.explain(err)
			}
			continue
		}
		if err := in.readInto(p, int(h.length)); err != nil {
			return header{}, nil, in.explain(err)
		}
		if len(p.body) == int(p.header.total) {
			delete(in.open, h.id)
			return p.header, p.body, nil
		}
	}
}

func (in *inbox) readHeader() (header, error) {
	in.arm(len(in.open) > 0)
	if _, err := io.ReadFull(in.r, in.scratch[:shortHeader]); err != nil {
		return header{}, err
	}
	h := parseShort(&in.scratch)
	if in.scratch[6] != 0 || in.scratch[7] != 0 {
		return header{}, badFrame("reserved bytes % x, want 0", in.scratch[6:8])
	}
	n := shortHeader
	if h.kind.first() {
		n = firstHeader
		if _, err := io.ReadFull(in.r, in.scratch[shortHeader:firstHeader]); err != nil {
			return header{}, noEOF(err)
		}
		h.parseFirst(&in.scratch)
	}
	in.stats.framesIn.Add(1)
	in.stats.bytesIn.Add(uint64(n) + uint64(h.length))
	if err := h.check(); err != nil {
		return header{}, badFrame("%w", err)
	}
	return h, nil
}

// place finds the message that a frame belongs to; nil when its bytes are to be skipped.
func (in *inbox) place(h header) (*partial, error) {
	p := in.open[h.id]
	if h.kind == frameMore {
		// An unknown id was refused or cancelled on this side while the sender was still writing.
		if p == nil {
			return nil, nil
		}
		if len(p.body)+int(h.length) > int(p.header.total) {
			return nil, badFrame("message %d grew to %d bytes, announced %d",
				h.id, len(p.body)+int(h.length), p.header.total)
		}
		if took := time.Since(p.since); took > messageWait {
			return nil, badFrame("message %d takes %s, want at most %s", h.id, took, messageWait)
		}
		return p, nil
	}
	if !slices.Contains(in.kinds, h.kind) {
		return nil, badFrame("kind %d on a stream for %v", h.kind, in.kinds)
	}
	if p != nil {
		return nil, badFrame("message %d begins twice", h.id)
	}
	if in.oneAtATime && len(in.open) > 0 {
		return nil, badFrame("message %d begins inside another", h.id)
	}
	ok, err := in.admit(h)
	if err != nil {
		return nil, badFrame("%w", err)
	}
	if !ok {
		return nil, nil
	}
	p = &partial{header: h}
	if h.length < h.total {
		p.since = time.Now()
		in.open[h.id] = p
	}
	return p, nil
}

// readInto reads n more bytes of p. Room is made for a frame, or for as much again as has arrived: never for what was
// only announced.
func (in *inbox) readInto(p *partial, n int) error {
	have := len(p.body)
	if need := have + n; need > cap(p.body) {
		room := min(int(p.header.total), max(need, 2*have))
		p.body = slices.Grow(p.body, room-have)
	}
	p.body = p.body[:have+n]
	if in.r.Buffered() < n {
		in.arm(true)
	}
	_, err := io.ReadFull(in.r, p.body[have:])
	return noEOF(err)
}

// arm bounds the wait for the rest of a message, and lifts the bound where silence is normal.
func (in *inbox) arm(on bool) {
	if in.stream == nil || (!on && !in.armed) {
		return
	}
	in.armed = on
	var at time.Time
	if on {
		at = time.Now().Add(frameWait)
	}
	// It fails only on a stream that has ended, which the read that follows reports.
	_ = in.stream.SetReadDeadline(at)
}

func (in *inbox) explain(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return badFrame("the rest of a message did not come within %s", frameWait)
	}
	return err
}

// noEOF: io.EOF means the end between two frames, which is in order.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

package raftnet

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// window is what a writer may run ahead of its reader.
const window = 1 << 20

// stream is one end of a bulk stream in memory. As on the real one, a small
// write does not wait for the reader, what was written before Close arrives,
// and Close fails what the other side still writes.
type stream struct {
	net.Conn // nil: what is not needed
	in, out  *half
}

func newStream() (near, far net.Conn) {
	there, back := newHalf(), newHalf()
	return &stream{in: back, out: there}, &stream{in: there, out: back}
}

func (s *stream) Read(b []byte) (int, error)         { return s.in.read(b) }
func (s *stream) Write(b []byte) (int, error)        { return s.out.write(b) }
func (s *stream) SetReadDeadline(at time.Time) error { return s.in.until(at) }
func (s *stream) Close() error                       { s.in.stop(); s.out.finish(); return nil }

// half is one way of a stream.
type half struct {
	mu       sync.Mutex
	changed  sync.Cond
	buf      []byte
	finished bool // by the writer
	stopped  bool // by the reader
	deadline time.Time
	timer    *time.Timer
}

func newHalf() *half {
	h := &half{}
	h.changed.L = &h.mu
	return h
}

func (h *half) read(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.stopped:
			return 0, net.ErrClosed
		case !h.deadline.IsZero() && !time.Now().Before(h.deadline):
			return 0, os.ErrDeadlineExceeded
		case len(h.buf) > 0:
			n := copy(b, h.buf)
			h.buf = h.buf[n:]
			h.changed.Broadcast()
			return n, nil
		case h.finished:
			return 0, io.EOF
		}
		h.changed.Wait()
	}
}

var errStopped = errors.New("the other side does not read any more")

func (h *half) write(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.finished:
			return 0, net.ErrClosed
		case h.stopped:
			return 0, errStopped
		case len(h.buf) < window:
			h.buf = append(h.buf, b...)
			h.changed.Broadcast()
			return len(b), nil
		}
		h.changed.Wait()
	}
}

func (h *half) until(at time.Time) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.deadline = at
	h.timer = time.AfterFunc(time.Until(at), h.changed.Broadcast)
	return nil
}

func (h *half) stop() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stopped = true
	if h.timer != nil {
		h.timer.Stop()
	}
	h.changed.Broadcast()
}

func (h *half) finish() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.finished = true
	h.changed.Broadcast()
}

// tape is a stream that plays what was recorded, and records what is written.
type tape struct {
	net.Conn
	plays    io.Reader
	recorded []byte
}

func (t *tape) Read(b []byte) (int, error) { return t.plays.Read(b) }
func (t *tape) Write(b []byte) (int, error) {
	t.recorded = append(t.recorded, b...)
	return len(b), nil
}
func (t *tape) SetReadDeadline(time.Time) error { return nil }
func (t *tape) Close() error                    { return nil }

// mangled is the sender's end of a stream that does not carry what was written.
type mangled struct {
	net.Conn
	mangle func(piece int, b []byte) (now []byte, broken bool)
	pieces int
}

func (m *mangled) Write(b []byte) (int, error) {
	now, broken := m.mangle(m.pieces, b)
	m.pieces++
	if _, err := m.Conn.Write(now); err != nil {
		return 0, err
	}
	if broken {
		_ = m.Close()
		return 0, net.ErrClosed
	}
	return len(b), nil
}

package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
)

// errUnsent: the connection ended before any of the request left; another one may be tried.
var errUnsent = errors.New("connection ended before the request was sent")

// Call sends a request to a node and returns its answer. It waits for a connection until ctx ends, unless the node's
// address is unknown or its identity is refused; a request that may have been sent is never sent again. req must not
// change until Call returns, whereupon it is the caller's again.
func (t *Transport) Call(ctx context.Context, to string, method byte, req []byte) ([]byte, error) {
	answer, _, err := t.callVia(ctx, "node "+to, func() (*link, error) { return t.linkTo(to) }, method, req)
	return answer, err
}

// CallAddr is Call to whatever node of our cluster is at addr, "host:port", and tells which one answered.
func (t *Transport) CallAddr(ctx context.Context, addr string, method byte, req []byte) ([]byte, Identity, error) {
	return t.callVia(ctx, "node at "+addr, func() (*link, error) { return t.linkAt(addr) }, method, req)
}

func (t *Transport) callVia(
	ctx context.Context, peer string, find func() (*link, error), method byte, req []byte,
) ([]byte, Identity, error) {
	if len(req) > t.cfg.MaxMessageBytes {
		return nil, Identity{}, notSent(peer, fmt.Errorf("request of %d bytes, want at most %d",
			len(req), t.cfg.MaxMessageBytes))
	}
	t.stats.calls.Add(1)
	for {
		l, err := find()
		if err != nil {
			return nil, Identity{}, notSent(peer, err)
		}
		conn, err := t.connection(ctx, l)
		if errors.Is(err, errLinkClosed) {
			continue // find has another one, or says that we are closed
		}
		if err != nil {
			return nil, Identity{}, notSent(peer, err)
		}
		answer, err := conn.callOn().call(ctx, method, req)
		if errors.Is(err, errUnsent) && ctx.Err() == nil {
			continue // get waits for the next connection, and keeps the pause between attempts
		}
		if err != nil {
			return nil, conn.peer, err
		}
		return answer, conn.peer, nil
	}
}

// errConnectWait is not context.DeadlineExceeded: the caller's own deadline has not passed.
var errConnectWait = errors.New("no connection in time")

// connection bounds the wait for a connection by ConnectWait. A call that need not wait pays for no timer.
func (t *Transport) connection(ctx context.Context, l *link) (*dialled, error) {
	if t.cfg.ConnectWait == 0 {
		return l.get(ctx)
	}
	if conn := l.up(); conn != nil {
		return conn, nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, t.cfg.ConnectWait, errConnectWait)
	defer cancel()
	return l.get(ctx)
}

// callStream carries requests one way and answers the other.
type callStream struct {
	conn    *dialled
	stream  *quic.Stream
	out     *outbox
	greeted bool // the welcome was read already

	mu      sync.Mutex
	lastID  uint64
	pending map[uint64]chan<- outcome
	ended   bool // the reader has stopped: no answer will come any more
}

// outcome is what became of a call: an answer, a RemoteError, or the end of the stream.
type outcome struct {
	answer []byte
	err    error
	ended  error // why no answer will come
}

func newCallStream(d *dialled, s *quic.Stream, greeted bool) *callStream {
	return &callStream{
		conn:    d,
		stream:  s,
		out:     newOutbox(callQueueBytes, callShareBytes, false, nil, &d.t.stats),
		greeted: greeted,
		pending: make(map[uint64]chan<- outcome),
	}
}

func (s *callStream) call(ctx context.Context, method byte, req []byte) ([]byte, error) {
	peer := s.conn.peer.String()
	deadline, err := deadlineMS(ctx)
	if err != nil {
		return nil, notSent(peer, err)
	}
	done := make(chan outcome, 1)
	id, ok := s.register(done)
	if !ok {
		return nil, errUnsent
	}
	m := &outMessage{body: req, header: header{
		kind: frameRequest, method: method, id: id, total: uint32(len(req)), deadline: deadline,
	}}
	if err := s.out.push(ctx, m); err != nil {
		s.forget(id)
		if ctx.Err() != nil {
			return nil, notSent(peer, err)
		}
		return nil, errUnsent
	}
	select {
	case o := <-done:
		return s.conclude(m, o)
	case <-ctx.Done():
	}
	if !s.forget(id) {
		return s.conclude(m, <-done) // decided while ctx ended
	}
	if s.out.abandon(m) {
		return nil, lost(peer, context.Cause(ctx))
	}
	return nil, notSent(peer, context.Cause(ctx))
}

// conclude turns an outcome into what the caller gets.
func (s *callStream) conclude(m *outMessage, o outcome) ([]byte, error) {
	switch {
	case o.ended == nil:
		return o.answer, o.err
	case s.out.hasStarted(m):
		return nil, lost(s.conn.peer.String(), o.ended)
	default:
		return nil, errUnsent
	}
}

// deadlineMS is what is left of ctx for the wire, at least 1: 0 means no deadline.
func deadlineMS(ctx context.Context) (uint32, error) {
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	at, ok := ctx.Deadline()
	if !ok {
		return 0, nil
	}
	left := time.Until(at).Milliseconds() + 1
	return uint32(min(max(left, 1), int64(math.MaxUint32))), nil
}

func (s *callStream) register(done chan<- outcome) (id uint64, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return 0, false
	}
	s.lastID++
	s.pending[s.lastID] = done
	return s.lastID, true
}

// forget tells whether the call was still waiting; if not, its outcome is in its channel.
func (s *callStream) forget(id uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.pending[id]
	delete(s.pending, id)
	return ok
}

// settle hands a call its outcome, unless its caller has left.
func (s *callStream) settle(id uint64, o outcome) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if done, ok := s.pending[id]; ok {
		delete(s.pending, id)
		done <- o
	}
}

// admit lets an answer in that somebody waits for.
func (s *callStream) admit(h header) (bool, error) {
	s.mu.Lock()
	_, ok := s.pending[h.id]
	s.mu.Unlock()
	if ok && int64(h.total) > int64(s.conn.t.cfg.MaxMessageBytes) {
		s.settle(h.id, outcome{err: &RemoteError{Code: CodeFailed, Message: fmt.Sprintf(
			"answer of %d bytes, want at most %d", h.total, s.conn.t.cfg.MaxMessageBytes)}})
		return false, nil
	}
	return ok, nil
}

// read delivers answers until the stream ends.
func (s *callStream) read() {
	err := s.readAnswers()
	// First nothing more may leave, then the calls learn whether theirs did.
	s.out.close(err)
	s.mu.Lock()
	s.ended = true
	pending := s.pending
	s.pending = nil
	s.mu.Unlock()
	s.conn.streamEnded(err)
	reason := s.conn.reason(err)
	for _, done := range pending {
		done <- outcome{ended: reason}
	}
}

func (s *callStream) readAnswers() error {
	if !s.greeted {
		var welcome [helloBytes]byte
		if _, err := io.ReadFull(s.stream, welcome[:]); err != nil {
			return err
		}
		if welcome != streamCall.hello() {
			return badFrame("server welcomes with % x", welcome)
		}
	}
	in := newInbox(s.stream, &s.conn.t.stats, s.admit, frameResponse, frameError)
	for {
		h, body, err := in.next()
		if err != nil {
			return err
		}
		switch h.kind {
		case frameResponse:
			s.settle(h.id, outcome{answer: body})
		case frameError:
			s.settle(h.id, outcome{err: &RemoteError{Code: Code(h.method), Message: string(body)}})
		case frameCancel:
			// The rest of an answer that we gave up: the inbox has dropped what there was of it.
		}
	}
}

// reason prefers why the connection ended to what that looked like on one stream.
func (d *dialled) reason(err error) error {
	if d.qc.Context().Err() != nil {
		return context.Cause(d.qc.Context())
	}
	if errors.Is(err, io.EOF) {
		return errors.New("the other side shuts down")
	}
	return err
}

// Send queues a one-way message to a node and never waits. ErrNotSent: there is no connection yet, and one is being
// dialled, or the lane is full. nil does not mean that it will arrive. msg must not change any more.
func (t *Transport) Send(to string, lane Lane, msg []byte) error {
	err := t.send(to, lane, msg)
	if err != nil {
		t.stats.refusedSends.Add(1)
		return notSent("node "+to, err)
	}
	return nil
}

func (t *Transport) send(to string, lane Lane, msg []byte) error {
	if !t.cfg.Accept {
		return errors.New("only nodes that accept connections send one-way messages")
	}
	if lane >= laneCount {
		return fmt.Errorf("lane %d, want less than %d", lane, laneCount)
	}
	if len(msg) > t.cfg.MaxMessageBytes {
		return fmt.Errorf("message of %d bytes, want at most %d", len(msg), t.cfg.MaxMessageBytes)
	}
	l, err := t.linkTo(to)
	if err != nil {
		return err
	}
	conn := l.peek()
	if conn == nil {
		return errors.New("not connected yet")
	}
	m := &outMessage{header: header{kind: frameOneWay, total: uint32(len(msg))}, body: msg}
	return conn.lanes[lane].tryPush(m)
}

package transport

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
)

var (
	errCallerGone = errors.New("the caller gave up")
)

// callServer answers the calls of one stream.
type callServer struct {
	conn *accepted
	out  *outbox

	mu    sync.Mutex
	calls map[uint64]*served
}

// served is a call from its first frame until its answer is queued.
type served struct {
	reserved int64                   // of the gate, for the request
	deadline time.Time               // zero: none
	cancel   context.CancelCauseFunc // nil while the request is being received
}

func (a *accepted) serveCalls(stream *quic.Stream) error {
	s := &callServer{
		conn:  a,
		out:   newOutbox(callQueueBytes, callShareBytes, false, a.t.gate, &a.t.stats),
		calls: make(map[uint64]*served),
	}
	draining, ok := a.claim(streamCall, maxCallStreams, s.out)
	if !ok {
		return badFrame("more than %d call streams", maxCallStreams)
	}
	if draining {
		s.out.finish() // drain has passed already
	}
	welcome := streamCall.hello()
	if _, err := stream.Write(welcome[:]); err != nil {
		return err
	}
	a.t.group.Go(func() {
		if err := s.out.run(stream); err != nil {
			a.end(stallCode(err))
		}
	})
	err := s.read(stream)
	s.stop()
	return err
}

func (s *callServer) read(stream *quic.Stream) error {
	in := newInbox(stream, &s.conn.t.stats, s.admit, frameRequest)
	for {
		h, req, err := in.next()
		if err != nil {
			return err
		}
		if h.kind == frameCancel {
			s.cancel(h.id)
			continue
		}
		s.dispatch(h, req)
	}
}

// admit decides on a request before any of it is kept. A refusal is answered at once; waiting for room for that answer
// holds up this stream only, whose caller does not read.
func (s *callServer) admit(h header) (bool, error) {
	t := s.conn.t
	s.mu.Lock()
	_, twice := s.calls[h.id]
	s.mu.Unlock()
	if twice {
		return false, fmt.Errorf("request %d while the first of that id is not answered", h.id)
	}
	var refusal *RemoteError
	switch {
	case t.cfg.Handle == nil:
		refusal = &RemoteError{Code: CodeDenied, Message: "this node serves no calls"}
	case int64(h.total) > int64(t.cfg.MaxMessageBytes):
		refusal = &RemoteError{Code: CodeDenied, Message: fmt.Sprintf(
			"request of %d bytes, want at most %d", h.total, t.cfg.MaxMessageBytes)}
	case s.conn.calls.Add(1) > s.conn.maxCalls:
		s.conn.calls.Add(-1)
		refusal = &RemoteError{Code: CodeRefused, Message: fmt.Sprintf(
			"%d calls at work on this connection, which is the most", s.conn.maxCalls)}
	case !t.gate.reserve(int64(h.total)):
		s.conn.calls.Add(-1)
		refusal = t.overBudget()
	}
	if refusal != nil {
		s.refuse(h.id, refusal)
		return false, nil
	}
	call := &served{reserved: int64(h.total)}
	if h.deadline > 0 {
		call.deadline = time.Now().Add(time.Duration(h.deadline) * time.Millisecond)
	}
	s.mu.Lock()
	s.calls[h.id] = call
	s.mu.Unlock()
	return true, nil
}

func (t *Transport) overBudget() *RemoteError {
	if t.gate.closed() {
		return &RemoteError{Code: CodeRefused, Message: "shutting down"}
	}
	return &RemoteError{Code: CodeRefused, Message: fmt.Sprintf(
		"%d bytes of requests at work, want at most %d", t.gate.inUse(), t.cfg.InflightBytes)}
}

// dispatch starts the handler of a request that has arrived whole.
func (s *callServer) dispatch(h header, req []byte) {
	t := s.conn.t
	if !t.gate.start() {
		s.settle(h.id)
		s.refuse(h.id, &RemoteError{Code: CodeRefused, Message: "shutting down"})
		return
	}
	ctx, cancel := context.WithCancelCause(s.conn.qc.Context())
	s.mu.Lock()
	call := s.calls[h.id] // there: admit put it, and only cancel and this goroutine, the reader's, take it away
	call.cancel = cancel
	s.mu.Unlock()
	t.stats.served.Add(1)
	t.group.Go(func() {
		defer t.gate.finish()
		defer cancel(nil)
		s.handle(ctx, h, call.deadline, req)
	})
}

func (s *callServer) handle(ctx context.Context, h header, deadline time.Time, req []byte) {
	t := s.conn.t
	handling, cancel := ctx, context.CancelFunc(func() {})
	if !deadline.IsZero() {
		handling, cancel = context.WithDeadline(ctx, deadline)
	}
	answer, err := t.cfg.Handle(handling, s.conn.peer, h.method, req)
	cancel()
	unwanted := errors.Is(context.Cause(ctx), errCallerGone)
	// The answer counts before the request stops to, and until it is written.
	m := answerMessage(h.id, answer, err, t.cfg.MaxMessageBytes)
	if m.header.kind == frameResponse && t.cfg.Release != nil {
		m.release = func() { t.cfg.Release(h.method, answer) }
	}
	m.held = int64(len(m.body))
	t.gate.charge(m.held)
	s.forget(h.id)
	if unwanted {
		t.gate.release(m.held)
	} else if err := s.out.push(s.conn.qc.Context(), m); err != nil {
		// The connection has ended, which the caller knows; push has let go of the message.
		t.cfg.Logger.Debug("answer not sent", "peer", s.conn.peer.String(), "reason", err)
	}
	s.conn.calls.Add(-1)
}

func answerMessage(id uint64, answer []byte, err error, limit int) *outMessage {
	if err == nil && len(answer) > limit {
		err = &RemoteError{Code: CodeFailed, Message: fmt.Sprintf("answer of %d bytes, want at most %d", len(answer), limit)}
	}
	if err != nil {
		return errorMessage(id, toRemote(err))
	}
	return &outMessage{header: header{kind: frameResponse, id: id, total: uint32(len(answer))}, body: answer}
}

func errorMessage(id uint64, e *RemoteError) *outMessage {
	text := []byte(e.Message)
	return &outMessage{
		header: header{kind: frameError, method: byte(e.Code), id: id, total: uint32(len(text))},
		body:   text,
	}
}

func (s *callServer) refuse(id uint64, e *RemoteError) {
	s.conn.t.stats.refusedCalls.Add(1)
	// It fails when the connection has ended: then the reader, whose goroutine this is, is about to learn it too.
	_ = s.out.push(s.conn.qc.Context(), errorMessage(id, e))
}

// forget ends the call's hold on the budget for its request; false when it was gone already.
func (s *callServer) forget(id uint64) bool {
	s.mu.Lock()
	call, ok := s.calls[id]
	delete(s.calls, id)
	s.mu.Unlock()
	if ok {
		s.conn.t.gate.release(call.reserved)
	}
	return ok
}

// settle is forget for a call whose handler does not run.
func (s *callServer) settle(id uint64) {
	if s.forget(id) {
		s.conn.calls.Add(-1)
	}
}

// cancel ends a call wherever it is: half received, being handled, or half answered.
func (s *callServer) cancel(id uint64) {
	s.mu.Lock()
	call := s.calls[id]
	s.mu.Unlock()
	switch {
	case call == nil:
		s.out.dropAnswer(id)
	case call.cancel == nil:
		s.settle(id)
	default:
		call.cancel(errCallerGone)
	}
}

// stop lets go of requests that will never be whole. Handlers end by themselves, with the connection.
func (s *callServer) stop() {
	s.mu.Lock()
	var arriving []uint64
	for id, call := range s.calls {
		if call.cancel == nil {
			arriving = append(arriving, id)
		}
	}
	s.mu.Unlock()
	for _, id := range arriving {
		s.settle(id)
	}
}

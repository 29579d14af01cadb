package transport

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
)

// accepted is a connection that somebody else opened. It lives as long as its accept loop runs.
type accepted struct {
	t        *Transport
	qc       *quic.Conn
	peer     Identity
	node     bool // speaks the peer protocol
	maxCalls int64
	calls    atomic.Int64 // being received, handled or waiting for room to be answered

	mu       sync.Mutex
	opened   [streamBulk + 1]int // long-lived streams so far, bulk streams now, by kind
	outs     []*outbox
	draining bool
}

var errTooMany = errors.New("too many connections")

// watchHandshake counts connections, handshakes included, and logs those that end because of a certificate: the
// listener hands out only what succeeded.
func (t *Transport) watchHandshake(ctx context.Context, info *quic.ClientInfo) (context.Context, error) {
	if t.stats.accepted.Add(1) > maxAccepted {
		t.stats.accepted.Add(-1)
		return nil, errTooMany
	}
	// Called by the server's goroutine, which Close has ended before it waits for the group.
	t.group.Add(1)
	context.AfterFunc(ctx, func() {
		defer t.group.Done()
		t.stats.accepted.Add(-1)
		t.noteHandshake(info, context.Cause(ctx))
	})
	return ctx, nil
}

func (t *Transport) noteHandshake(info *quic.ClientInfo, reason error) {
	failure, ok := errors.AsType[*quic.TransportError](reason)
	if !ok || !failure.ErrorCode.IsCryptoError() {
		return
	}
	t.stats.refusedPeers.Add(1)
	what := "refused a connection"
	if failure.Remote {
		what = "a connection was refused by its other side"
	}
	if skipped, ok := t.refusals.allow(); ok {
		t.cfg.Logger.Warn(what, "from", info.RemoteAddr.String(), "reason", reason, "skipped", skipped)
	}
}

func (t *Transport) acceptConns(listener *quic.Listener) {
	for {
		qc, err := listener.Accept(t.ctx)
		if err != nil {
			return // Close; nothing else ends a listener
		}
		t.group.Go(func() { t.serveConn(qc) })
	}
}

func (t *Transport) serveConn(qc *quic.Conn) {
	state := qc.ConnectionState().TLS
	a := &accepted{t: t, qc: qc, node: state.NegotiatedProtocol == protoPeer, maxCalls: maxClientCalls}
	if a.node {
		a.maxCalls = maxNodeCalls
	}
	var err error
	if a.peer, err = t.creds.verifyCaller(state); err != nil {
		a.end(codeBadFrame, err.Error()) // the handshake checked the same, so this is a certificate expired since
		return
	}
	if !t.keep(a) {
		a.end(codeClosed, "closed")
		return
	}
	for {
		// The connection's context ends it, and with it every stream.
		s, err := qc.AcceptStream(qc.Context())
		if err != nil {
			break
		}
		t.group.Go(func() { a.serve(s) })
	}
	<-qc.Context().Done()
	t.mu.Lock()
	delete(t.accepted, a)
	t.mu.Unlock()
	for _, out := range a.outboxes() {
		out.close(context.Cause(qc.Context()))
	}
}

func (t *Transport) keep(a *accepted) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	t.accepted[a] = struct{}{}
	return true
}

// serve reads one stream until it ends. What ends it in disorder ends the connection.
func (a *accepted) serve(s *quic.Stream) {
	err := a.serveKind(s)
	if !errors.Is(err, errBadFrame) {
		return
	}
	a.t.stats.badStreams.Add(1)
	if skipped, ok := a.t.refusals.allow(); ok {
		a.t.cfg.Logger.Warn("ended connection", "peer", a.peer.String(), "reason", err, "skipped", skipped)
	}
	a.end(codeBadFrame, err.Error())
}

func (a *accepted) serveKind(s *quic.Stream) error {
	kind, err := readHello(s)
	if err != nil {
		return err
	}
	if kind != streamCall && !a.node {
		return badFrame("%s %q opens a stream that only nodes may", a.peer.Role, a.peer.Name)
	}
	switch kind {
	case streamCall:
		return a.serveCalls(s)
	case streamControl, streamData:
		if _, ok := a.claim(kind, 1, nil); !ok {
			return badFrame("second stream of kind %d", kind)
		}
		return a.serveLane(s)
	case streamBulk:
		a.serveBulk(s)
		return nil
	default:
		return a.offerGossip(s)
	}
}

func readHello(s *quic.Stream) (streamKind, error) {
	if err := s.SetReadDeadline(time.Now().Add(helloWait)); err != nil {
		return 0, err
	}
	var hello [helloBytes]byte
	if _, err := io.ReadFull(s, hello[:]); err != nil {
		return 0, badFrame("no hello: %w", err)
	}
	kind, err := parseHello(hello)
	if err != nil {
		return 0, badFrame("%w", err)
	}
	return kind, s.SetReadDeadline(time.Time{})
}

// claim counts a stream and keeps its outbox, for draining.
func (a *accepted) claim(kind streamKind, most int, out *outbox) (draining, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.opened[kind] >= most {
		return a.draining, false
	}
	a.opened[kind]++
	if out != nil {
		a.outs = append(a.outs, out)
	}
	return a.draining, true
}

func (a *accepted) outboxes() []*outbox {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.outs
}

// serveLane hands one-way messages on, in their order.
func (a *accepted) serveLane(s *quic.Stream) error {
	if err := s.Close(); err != nil { // nothing is answered here
		return err
	}
	limit := a.t.cfg.MaxMessageBytes
	in := newInbox(s, &a.t.stats, func(h header) (bool, error) {
		if int64(h.total) > int64(limit) {
			return false, badFrame("one-way message of %d bytes, want at most %d", h.total, limit)
		}
		return a.t.cfg.Receive != nil, nil
	}, frameOneWay)
	in.oneAtATime = true
	for {
		h, msg, err := in.next()
		if err != nil {
			return err
		}
		if h.kind == frameOneWay {
			a.t.cfg.Receive(a.peer, msg)
		}
	}
}

// drain ends the streams after what is queued and waits until the caller has read that, which it says by ending the
// connection, or until ctx ends.
func (a *accepted) drain(ctx context.Context) {
	a.mu.Lock()
	a.draining = true
	a.mu.Unlock()
	outs := a.outboxes()
	for _, out := range outs {
		out.finish()
	}
	if len(outs) > 0 { // nothing is to be read from a connection that only carries bulk streams
		select {
		case <-a.qc.Context().Done():
		case <-ctx.Done():
		}
	}
	a.end(codeClosed, "closed")
}

func (a *accepted) end(code quic.ApplicationErrorCode, reason string) {
	// CloseWithError of this version of quic-go returns no error.
	_ = a.qc.CloseWithError(code, reason)
}

package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/quic-go/quic-go"
)

const (
	// maxBulkStreams bounds what one node has under way to us on one connection: a snapshot or two, and one that has
	// not heard yet that its predecessor ended.
	maxBulkStreams = 4
	// bulkIdle to twice that is how long a connection without bulk streams is kept: what follows at once, as a second
	// snapshot for a node that was away does, is spared a handshake, and nobody pays for keep-alives afterwards.
	bulkIdle = 3 * time.Second
)

// Why a bulk stream was reset, as the other side sees it.
const (
	streamUnwanted quic.StreamErrorCode = 1 // this node takes no bulk streams, or shuts down
	streamTooMany  quic.StreamErrorCode = 2 // there are maxBulkStreams
)

// DialBulk opens a bulk stream to a node, on a connection that no call and no lane uses: megabytes under way fill neither
// the windows nor the queues that small messages need. The other node's Config.Bulk has the other end. It waits for a
// connection until ctx ends, unless the node's address is unknown, its identity is refused or it refuses the stream;
// every error is ErrNotSent.
//
// What is written is kept under Config.BulkBytesPerSecond. A Read or Write without progress for 20 s fails, unless its
// deadline was set, which then counts instead. Close ends both directions; what was written before still arrives.
func (t *Transport) DialBulk(ctx context.Context, node string) (net.Conn, error) {
	conn, err := t.dialBulk(ctx, node)
	if err != nil {
		return nil, notSent("bulk stream to node "+node, err)
	}
	return conn, nil
}

func (t *Transport) dialBulk(ctx context.Context, node string) (net.Conn, error) {
	if !t.cfg.Accept {
		return nil, errors.New("only nodes that accept connections open bulk streams")
	}
	for {
		l, err := t.bulkLinkTo(node)
		if err != nil {
			return nil, err
		}
		conn, err := l.get(ctx)
		if errors.Is(err, errLinkClosed) {
			continue // bulkLinkTo has another one, or says that we are closed
		}
		if err != nil {
			return nil, err
		}
		if !conn.enter() {
			continue // retired since, and get no longer returns it
		}
		stream, err := conn.openBulk(ctx)
		if err == nil {
			return newBulkConn(conn.qc.Context(), t, stream, conn.leave), nil
		}
		conn.leave()
		if final := conn.refusal(ctx, err); final != nil {
			return nil, final
		}
	}
}

// openBulk opens a stream and waits for its welcome.
func (d *dialled) openBulk(ctx context.Context) (*streamConn, error) {
	s, err := d.openStream(ctx, streamBulk)
	if err != nil {
		return nil, err
	}
	if err := awaitWelcome(ctx, s, streamBulk); err != nil {
		reset(s, streamUnwanted)
		return nil, err
	}
	return &streamConn{Stream: s, qc: d.qc}, nil
}

// refusal says why no further attempt is to be made after err; nil when another connection may do better.
func (d *dialled) refusal(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if stream, ok := errors.AsType[*quic.StreamError](err); ok {
		switch stream.ErrorCode {
		case streamTooMany:
			return fmt.Errorf("refused: %d bulk streams of ours are open, which is the most: %w", maxBulkStreams, err)
		case streamUnwanted:
			return fmt.Errorf("refused: the node takes no bulk streams, or shuts down: %w", err)
		default:
			return err
		}
	}
	if refused := identityError(err, d.t.creds.self); refused != nil {
		d.t.stats.refusedPeers.Add(1)
		return refused
	}
	if errors.Is(err, errBadFrame) {
		d.end(codeBadFrame, err.Error())
		return err
	}
	d.end(codeClosed, err.Error()) // it has ended or is about to: get must not return it again
	return nil
}

// enter counts a bulk stream to be opened; false when the connection is retired. leave must follow.
func (d *dialled) enter() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.leaving.Load() {
		return false
	}
	d.open++
	d.used = true
	return true
}

func (d *dialled) leave() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.open--
	d.used = true
}

// retire gives the connection up if it has no bulk stream and had none since the last call.
func (d *dialled) retire() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.open > 0 || d.used {
		d.used = false
		return false
	}
	d.leaving.Store(true)
	return true
}

func (d *dialled) retireUnused() {
	tick := time.NewTicker(bulkIdle)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if d.retire() {
				d.end(codeClosed, "not used any more")
				return
			}
		case <-d.qc.Context().Done():
			return
		}
	}
}

// serveBulk welcomes a bulk stream and lets the handler have it, or resets it.
func (a *accepted) serveBulk(s *quic.Stream) {
	draining, ok := a.claim(streamBulk, maxBulkStreams, nil)
	if ok {
		defer a.unclaim(streamBulk)
	}
	code := streamUnwanted
	if !ok {
		code = streamTooMany
	}
	if !ok || draining || a.t.cfg.Bulk == nil {
		a.t.stats.refusedBulk.Add(1)
		reset(s, code)
		return
	}
	welcome := streamBulk.hello()
	if _, err := s.Write(welcome[:]); err != nil {
		reset(s, streamUnwanted) // the other side has ended it already
		return
	}
	conn := newBulkConn(a.qc.Context(), a.t, &streamConn{Stream: s, qc: a.qc}, func() {})
	a.t.cfg.Bulk(a.peer, conn)
	_ = conn.Close() // of a bulk stream never fails
}

// unclaim gives back what claim has counted.
func (a *accepted) unclaim(kind streamKind) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.opened[kind]--
}

func reset(s *quic.Stream, code quic.StreamErrorCode) {
	s.CancelWrite(code)
	s.CancelRead(code)
}

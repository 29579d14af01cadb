package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
)

// dialled is a connection that we opened, with its long-lived streams, or the one for bulk streams, which has none.
type dialled struct {
	t     *Transport
	link  *link
	qc    *quic.Conn
	peer  Identity
	since time.Time

	calls   []*callStream      // callStreams of them; none on a bulk link
	lanes   [laneCount]*outbox // nil unless we are a node; none on a bulk link
	turn    atomic.Uint32      // whose turn among calls
	live    atomic.Int32       // call streams whose reader runs
	leaving atomic.Bool        // the other side takes no new calls, or retire has given the connection up

	mu   sync.Mutex
	open int  // bulk streams
	used bool // a bulk stream was opened or closed since retire looked
}

// dial makes one attempt. The connection is returned once the other side has let us in: with TLS 1.3 our handshake is
// complete before the server has looked at our certificate.
func (t *Transport) dial(ctx context.Context, l *link, attempt int) (*dialled, error) {
	ctx, cancel := context.WithTimeout(ctx, dialWait)
	defer cancel()
	conn, err := t.connect(ctx, l, attempt)
	if err != nil {
		if refused := identityError(err, t.creds.self); refused != nil {
			t.stats.refusedPeers.Add(1)
			err = refused
		}
		return nil, fmt.Errorf("dial %s: %w", l, err)
	}
	return conn, nil
}

func (t *Transport) connect(ctx context.Context, l *link, attempt int) (*dialled, error) {
	addr, err := t.lookup(ctx, l.addr, attempt)
	if err != nil {
		return nil, err
	}
	proto := protoClient
	if t.cfg.Accept {
		proto = protoPeer
	}
	qc, err := t.quic.Dial(ctx, addr, t.creds.client(proto, l.name), dialConfig())
	if err != nil {
		return nil, err
	}
	d := &dialled{t: t, link: l, qc: qc, since: time.Now()}
	if d.peer, err = t.creds.verifyNode(qc.ConnectionState().TLS, l.name); err == nil {
		err = d.openStreams(ctx, proto == protoPeer)
	}
	if err != nil {
		d.end(codeClosed, "not used")
		return nil, err
	}
	t.stats.dialled.Add(1)
	t.group.Go(d.watch)
	return d, nil
}

// openStreams opens the long-lived streams and starts their goroutines. A bulk link has none: whether the other side has
// let us in is heard on each of its streams.
func (d *dialled) openStreams(ctx context.Context, lanes bool) error {
	if d.link.bulk {
		d.t.group.Go(d.retireUnused)
		return nil
	}
	streams := make([]*quic.Stream, 0, callStreams+int(laneCount))
	for range callStreams {
		s, err := d.openStream(ctx, streamCall)
		if err != nil {
			return err
		}
		streams = append(streams, s)
	}
	if lanes {
		for _, kind := range []streamKind{streamControl, streamData} {
			s, err := d.openStream(ctx, kind)
			if err != nil {
				return err
			}
			streams = append(streams, s)
		}
	}
	if err := awaitWelcome(ctx, streams[0], streamCall); err != nil {
		return err
	}
	d.live.Store(callStreams)
	for i, s := range streams[:callStreams] {
		d.calls = append(d.calls, newCallStream(d, s, i == 0))
	}
	for _, c := range d.calls {
		d.write(c.out, c.stream)
		d.t.group.Go(c.read)
	}
	if lanes {
		d.openLanes(streams[callStreams:])
	}
	return nil
}

func (d *dialled) openLanes(streams []*quic.Stream) {
	stats := &d.t.stats
	d.lanes[LaneControl] = newOutbox(controlQueueBytes, controlQueueBytes, true, nil, stats)
	d.lanes[LaneData] = newOutbox(dataQueueBytes, dataQueueBytes, true, nil, stats)
	for lane, out := range d.lanes {
		d.write(out, streams[lane])
	}
	// Packets are filled with this stream's bytes first, so that heartbeats pass what the other streams have queued.
	streams[LaneControl].SetPriority(0, true)
}

func (d *dialled) openStream(ctx context.Context, kind streamKind) (*quic.Stream, error) {
	s, err := d.qc.OpenStreamSync(ctx)
	if err != nil {
		return nil, err
	}
	hello := kind.hello()
	if _, err := s.Write(hello[:]); err != nil {
		return nil, err
	}
	return s, nil
}

// awaitWelcome waits until the other side has accepted a stream, which it says by sending its hello back.
func awaitWelcome(ctx context.Context, s *quic.Stream, kind streamKind) error {
	stop := context.AfterFunc(ctx, func() { s.CancelRead(0) })
	defer stop()
	var welcome [helloBytes]byte
	if _, err := io.ReadFull(s, welcome[:]); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return err
	}
	if welcome != kind.hello() {
		return badFrame("server welcomes with % x, want % x", welcome, kind.hello())
	}
	return nil
}

// write runs the writer of one stream. A write that fails ends the connection: half of a frame may have left.
func (d *dialled) write(out *outbox, s *quic.Stream) {
	d.t.group.Go(func() {
		if err := out.run(s); err != nil {
			d.end(stallCode(err))
		}
	})
}

// stallCode says why a connection ends whose stream could not be written.
func stallCode(err error) (quic.ApplicationErrorCode, string) {
	if netErr, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err); ok && netErr.Timeout() {
		return codeStalled, fmt.Sprintf("you did not read for %s", writeWait)
	}
	return codeClosed, err.Error()
}

// watch ends what waits for this connection once it has ended.
func (d *dialled) watch() {
	<-d.qc.Context().Done()
	err := context.Cause(d.qc.Context())
	for _, c := range d.calls {
		c.out.close(err)
	}
	for _, out := range d.lanes {
		if out != nil {
			out.close(err)
		}
	}
	d.t.stats.dialled.Add(-1)
	d.link.lost(d)
}

func (d *dialled) alive() bool {
	return !d.leaving.Load() && d.qc.Context().Err() == nil
}

// end tells the other side why and waits until the connection has ended. Only the first reason counts.
func (d *dialled) end(code quic.ApplicationErrorCode, reason string) {
	// CloseWithError of this version of quic-go returns no error.
	_ = d.qc.CloseWithError(code, reason)
}

// streamEnded is called by each call stream's reader when it stops.
func (d *dialled) streamEnded(err error) {
	last := d.live.Add(-1) == 0
	switch {
	case errors.Is(err, io.EOF):
		// The other side shuts down: it has answered what it will. With the last stream all answers are here.
		d.leaving.Store(true)
		if last {
			d.end(codeClosed, "drained")
		}
	case errors.Is(err, errBadFrame):
		d.t.stats.badStreams.Add(1)
		d.t.cfg.Logger.Warn("ended connection", "peer", d.peer.String(), "reason", err)
		d.end(codeBadFrame, err.Error())
	default:
		d.end(codeClosed, err.Error())
	}
}

// callOn picks a stream in turn.
func (d *dialled) callOn() *callStream {
	return d.calls[d.turn.Add(1)%callStreams]
}

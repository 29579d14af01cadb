package transport

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// bulkPiece is what is written at once: the rate is asked and the deadline renewed for each.
	bulkPiece = 64 << 10
	// bulkBurst is how far a stream may run ahead of the rate: 4 ms at the default, so that a timer that is late by a
	// millisecond costs no throughput.
	bulkBurst = 4 * bulkPiece
	// bulkWait is the longest a piece may take. It outlives every pause of a living peer's disk; that a peer is gone
	// is noticed by the connection, in three seconds.
	bulkWait = 20 * time.Second
)

// bulkConn is one end of a bulk stream: what is written is kept under the rate, and nothing waits for ever.
type bulkConn struct {
	net.Conn // the stream
	pace     *rate.Limiter
	stats    *counters
	ctx      context.Context // ends with Close and with the connection
	cancel   context.CancelFunc
	left     func() // called by Close, once

	writing sync.Mutex // one Write at a time, all its pieces

	mu      sync.Mutex
	closed  bool
	readBy  time.Time // deadlines that the owner set; zero: none
	writeBy time.Time
}

// newBulkConn makes one end of a stream whose connection lives as long as ctx.
func newBulkConn(ctx context.Context, t *Transport, stream net.Conn, left func()) *bulkConn {
	c := &bulkConn{Conn: stream, pace: t.pace, stats: &t.stats, left: left}
	c.ctx, c.cancel = context.WithCancel(ctx)
	return c
}

// Read fails when nothing comes for bulkWait.
func (c *bulkConn) Read(b []byte) (int, error) {
	if err := c.renew(&c.readBy, c.Conn.SetReadDeadline); err != nil {
		return 0, err
	}
	n, err := c.Conn.Read(b)
	c.stats.bulkIn.Add(uint64(n))
	return n, err
}

// Write waits for the rate and for the other side to read.
func (c *bulkConn) Write(b []byte) (written int, err error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	for len(b) > 0 && err == nil {
		piece := b[:min(len(b), bulkPiece)]
		if err := c.pace.WaitN(c.ctx, len(piece)); err != nil {
			return written, c.ended(err)
		}
		if err := c.renew(&c.writeBy, c.Conn.SetWriteDeadline); err != nil {
			return written, err
		}
		var n int
		n, err = c.Conn.Write(piece)
		c.stats.bulkOut.Add(uint64(n))
		written += n
		b = b[n:]
	}
	return written, err
}

// ended prefers why there is no connection any more to what that did to a wait.
func (c *bulkConn) ended(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return net.ErrClosed
	case c.ctx.Err() != nil:
		return context.Cause(c.ctx)
	default:
		return err
	}
}

// renew gives the next piece bulkWait, unless the owner has said how long to wait.
func (c *bulkConn) renew(owners *time.Time, set func(time.Time) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	if !owners.IsZero() {
		return nil
	}
	return set(time.Now().Add(bulkWait))
}

// SetReadDeadline replaces the bound on a Read without progress; zero brings it back.
func (c *bulkConn) SetReadDeadline(at time.Time) error {
	return c.replace(&c.readBy, at, c.Conn.SetReadDeadline)
}

// SetWriteDeadline replaces the bound on a Write without progress; zero brings it back. Waiting for the rate is not cut
// short.
func (c *bulkConn) SetWriteDeadline(at time.Time) error {
	return c.replace(&c.writeBy, at, c.Conn.SetWriteDeadline)
}

// SetDeadline is both.
func (c *bulkConn) SetDeadline(at time.Time) error {
	return errors.Join(c.SetReadDeadline(at), c.SetWriteDeadline(at))
}

func (c *bulkConn) replace(owners *time.Time, at time.Time, set func(time.Time) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	*owners = at
	if at.IsZero() {
		at = time.Now().Add(bulkWait)
	}
	return set(at)
}

// Close ends both directions. Reads and writes under way fail.
func (c *bulkConn) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true // from here on no deadline is moved away from the one that Close of the stream sets
	c.mu.Unlock()
	c.cancel()
	err := c.Conn.Close()
	c.left()
	return err
}

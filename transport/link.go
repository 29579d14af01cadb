package transport

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
)

// errLinkClosed: the peer has another address now, ask for its link again.
var errLinkClosed = errors.New("link closed")

// link is how we reach one peer: at most one connection, and at most one goroutine that dials it, however many callers
// want it. It dials only while somebody does.
type link struct {
	t    *Transport
	addr string
	name string // "": whoever is at addr
	bulk bool   // its connection carries bulk streams and nothing else

	ctx    context.Context // ends with close
	cancel context.CancelFunc

	mu      sync.Mutex
	conn    *dialled      // nil: not connected
	dialing bool          // the dialling goroutine runs
	waiting int           // callers in get
	wanted  bool          // a Send wanted it since the last attempt
	changed chan struct{} // closed and replaced at every change that callers wait for
	refusal error         // an identity error; answers callers until next
	failure error         // of the last attempt
	backoff time.Duration
	next    time.Time // no attempt before
	tries   int       // which of several addresses of a host name to take
}

func (t *Transport) newLink(addr, name string, bulk bool) *link {
	l := &link{t: t, addr: addr, name: name, bulk: bulk, changed: make(chan struct{})}
	l.ctx, l.cancel = context.WithCancel(t.ctx)
	return l
}

// linkTo returns the link for calls and lanes to a node where it is now, bulkLinkTo the one for bulk streams. A link to
// where it was is closed.
func (t *Transport) linkTo(name string) (*link, error) { return t.linkIn(t.byName, name, false) }

func (t *Transport) bulkLinkTo(name string) (*link, error) { return t.linkIn(t.bulk, name, true) }

func (t *Transport) linkIn(links map[string]*link, name string, bulk bool) (*link, error) {
	if t.cfg.Resolve == nil {
		return nil, errors.New("no Resolve configured")
	}
	addr, ok := t.cfg.Resolve(name)
	if !ok {
		return nil, errors.New("address unknown")
	}
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return nil, ErrClosed
	}
	old := links[name]
	if old != nil && old.addr == addr {
		t.mu.Unlock()
		return old, nil
	}
	l := t.newLink(addr, name, bulk)
	links[name] = l
	t.mu.Unlock()
	if old != nil {
		old.close(codeForgotten, "address changed")
	}
	return l, nil
}

func (t *Transport) linkAt(addr string) (*link, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, ErrClosed
	}
	l := t.byAddr[addr]
	if l == nil {
		l = t.newLink(addr, "", false)
		t.byAddr[addr] = l
	}
	return l, nil
}

// Forget drops the connections to a node, because its address changed. Calls on them end with ErrLost, bulk streams
// fail.
func (t *Transport) Forget(node string) {
	t.mu.Lock()
	links := []*link{t.byName[node], t.bulk[node]}
	delete(t.byName, node)
	delete(t.bulk, node)
	t.mu.Unlock()
	for _, l := range links {
		if l != nil {
			l.close(codeForgotten, "address changed")
		}
	}
}

func (l *link) String() string {
	if l.name == "" {
		return "node at " + l.addr
	}
	return fmt.Sprintf("node %s at %s", l.name, l.addr)
}

// get returns the connection, waiting for it until ctx ends. A refused identity ends the wait at once.
func (l *link) get(ctx context.Context) (*dialled, error) {
	l.mu.Lock()
	l.waiting++
	defer func() { l.waiting--; l.mu.Unlock() }()
	for {
		if l.ctx.Err() != nil {
			return nil, errLinkClosed
		}
		if l.conn != nil && l.conn.alive() {
			return l.conn, nil
		}
		if l.refusal != nil && time.Now().Before(l.next) {
			return nil, l.refusal
		}
		l.dial()
		changed := l.changed
		l.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
		case <-l.ctx.Done():
		}
		l.mu.Lock()
		if ctx.Err() != nil {
			return nil, l.timedOut(ctx)
		}
	}
}

// timedOut says why there is no connection yet, besides that ctx ended. Caller holds mu.
func (l *link) timedOut(ctx context.Context) error {
	if l.failure == nil {
		return context.Cause(ctx)
	}
	return fmt.Errorf("%w; last attempt: %s", context.Cause(ctx), l.failure.Error()) // text only: it may be a time-out of its own
}

// up returns the connection if there is one.
func (l *link) up() *dialled {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn != nil && l.conn.alive() {
		return l.conn
	}
	return nil
}

// peek returns the connection if there is one, and otherwise sees to it that there will be.
func (l *link) peek() *dialled {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn != nil && l.conn.alive() {
		return l.conn
	}
	l.wanted = true
	l.dial()
	return nil
}

// dial starts the dialling goroutine unless it runs. Caller holds mu.
func (l *link) dial() {
	if l.dialing || l.ctx.Err() != nil {
		return
	}
	l.dialing = l.t.goUnlessClosed(l.run)
}

// run dials until there is a connection, nobody wants one any more, or the peer's identity is refused.
func (l *link) run() {
	timer := time.NewTimer(l.untilNext())
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-l.ctx.Done():
		}
		if !l.begin() {
			return
		}
		l.t.stats.dials.Add(1)
		conn, err := l.t.dial(l.ctx, l, l.tries)
		if l.settle(conn, err) {
			return
		}
		timer.Reset(l.untilNext())
	}
}

func (l *link) untilNext() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Until(l.next)
}

// begin tells whether another attempt is wanted.
func (l *link) begin() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ctx.Err() != nil || (l.waiting == 0 && !l.wanted) {
		l.dialing = false
		return false
	}
	l.wanted = false
	l.refusal = nil
	l.tries++
	return true
}

// settle notes how an attempt ended and tells whether dialling ends with it.
func (l *link) settle(conn *dialled, err error) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.backoff = min(max(2*l.backoff, firstBackoff), lastBackoff)
	l.next = time.Now().Add(l.backoff)
	if err == nil {
		// The pause stands until the connection has lasted (see lost): one that ends at once is a failure too.
		l.conn, l.failure, l.dialing = conn, nil, false
		if l.ctx.Err() != nil { // closed meanwhile, and close did not see this connection
			conn.end(codeForgotten, "address changed")
		}
		l.wake()
		return true
	}
	l.t.stats.dialFailures.Add(1)
	l.failure = err
	if !errors.Is(err, ErrIdentity) {
		return false
	}
	// New callers get the same answer for a moment, lest each costs both sides a handshake.
	l.refusal = err
	l.next = time.Now().Add(lastBackoff)
	l.dialing = false
	l.wake()
	return true
}

// wake lets callers in get look again. Caller holds mu.
func (l *link) wake() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// lost notes that a connection ended. One that lasted is dialled again at once, when wanted.
func (l *link) lost(conn *dialled) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn != conn {
		return
	}
	l.conn = nil
	if time.Since(conn.since) >= lastBackoff {
		l.backoff, l.next = 0, time.Time{}
	}
}

// close ends the connection and sends callers away.
func (l *link) close(code quic.ApplicationErrorCode, reason string) {
	l.cancel()
	l.mu.Lock()
	conn := l.conn
	l.mu.Unlock()
	if conn != nil {
		conn.end(code, reason)
	}
}

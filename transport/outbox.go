package transport

import (
	"context"
	"errors"
	"io"
	"runtime"
	"sync"
	"time"
)

const (
	// batchBytes is what one write of a stream takes: some 45 packets, so that small messages of many callers share
	// them, and little enough to be the longest a new message waits for its turn.
	batchBytes = 64 << 10
	// cutBytes is the payload of one frame of a large message: two share a batch. Well under maxFrameBytes, which is
	// what others may send us.
	cutBytes = 32 << 10
	// minCutBytes: with less room left in a batch a large message waits for the next one rather than be cut to crumbs.
	minCutBytes = 4 << 10

	// callQueueBytes bounds what waits on one call stream. Its owners wait too, so this bounds delay, not memory.
	callQueueBytes = 64 << 20
	// callShareBytes is the most that one message counts: its owner holds it in memory anyhow, and messages interleave,
	// so a large one must not keep small ones out of the queue.
	callShareBytes = callQueueBytes / 4
	// controlQueueBytes and dataQueueBytes bound what Send leaves behind, which nobody else holds. Past them the peer
	// is so slow that the sender had better know. Control: seconds of heartbeats and votes of hundreds of groups.
	// Data: a few messages of the largest size Raft groups send (1 MiB) per group.
	controlQueueBytes = 4 << 20
	dataQueueBytes    = 32 << 20

	// writeWait is the longest a batch may wait for a peer to read. A living peer's readers never wait for anything
	// but their own memory; one that does not read holds answers that count against everybody's budget.
	writeWait = 10 * time.Second
)

var (
	errOutboxClosed = errors.New("connection ended")
	errOutboxFull   = errors.New("queue full")
)

var batches = sync.Pool{New: func() any { b := make([]byte, 0, batchBytes); return &b }}

// outMessage is a message on its way out. Its outbox's mutex guards what changes.
type outMessage struct {
	header header // of the first frame, without length
	body   []byte
	held   int64 // bytes of the gate to release when it has gone
	// release is called then; nil: nobody wants the body back.
	release func()

	weight  int
	sent    int // bytes of body handed to the network
	started bool
	gone    bool // written whole, or dropped
}

// outbox is what waits to be written to one stream. Messages take turns, a frame each; with fifo each is finished
// before the next begins.
type outbox struct {
	limit int // bytes
	share int // the most one message counts
	fifo  bool
	gate  *gate // nil when no message holds any of it
	stats *counters

	mu      sync.Mutex
	work    sync.Cond // the writer waits for queue, ending or err
	queue   []*outMessage
	used    int // weight of queue
	waiting []*admission
	ending  bool  // the writer ends the stream after what is queued
	err     error // closed
}

// admission is a message that waits for room.
type admission struct {
	message *outMessage
	decided chan error // buffered; nil: queued
}

func newOutbox(limit, share int, fifo bool, g *gate, stats *counters) *outbox {
	o := &outbox{limit: limit, share: share, fifo: fifo, gate: g, stats: stats}
	o.work.L = &o.mu
	return o
}

// push queues m, waiting for room until ctx ends. On error m was not queued and nothing of it will be sent.
func (o *outbox) push(ctx context.Context, m *outMessage) error {
	o.mu.Lock()
	if o.admit(m) {
		o.mu.Unlock()
		return nil
	}
	if err := o.closedFor(m); err != nil {
		o.mu.Unlock()
		return err
	}
	a := &admission{message: m, decided: make(chan error, 1)}
	o.waiting = append(o.waiting, a)
	o.mu.Unlock()

	select {
	case err := <-a.decided:
		return err
	case <-ctx.Done():
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for i, other := range o.waiting {
		if other == a {
			o.waiting = append(o.waiting[:i], o.waiting[i+1:]...)
			o.let() // a smaller one behind may fit
			o.end(m)
			return context.Cause(ctx)
		}
	}
	return <-a.decided // decided while ctx ended
}

// tryPush queues m or says at once why not.
func (o *outbox) tryPush(m *outMessage) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.admit(m) {
		return nil
	}
	if err := o.closedFor(m); err != nil {
		return err
	}
	return errOutboxFull
}

// admit queues m if there is room and nobody waits before it. Caller holds mu.
func (o *outbox) admit(m *outMessage) bool {
	m.weight = min(len(m.body)+firstHeader, o.share)
	if o.err != nil || o.ending || len(o.waiting) > 0 || o.used+m.weight > o.limit {
		return false
	}
	o.enqueue(m)
	return true
}

// closedFor ends m when the outbox takes nothing any more. Caller holds mu.
func (o *outbox) closedFor(m *outMessage) error {
	err := o.err
	if err == nil && o.ending {
		err = errOutboxClosed
	}
	if err != nil {
		o.end(m)
	}
	return err
}

func (o *outbox) enqueue(m *outMessage) {
	o.used += m.weight
	o.queue = append(o.queue, m)
	o.work.Signal()
}

// let queues those who wait, in their order, as far as there is room. Caller holds mu.
func (o *outbox) let() {
	for len(o.waiting) > 0 {
		a := o.waiting[0]
		if o.used+a.message.weight > o.limit {
			return
		}
		o.waiting[0] = nil
		o.waiting = o.waiting[1:]
		o.enqueue(a.message)
		a.decided <- nil
	}
}

// end lets go of all that m holds. Caller holds mu.
func (o *outbox) end(m *outMessage) {
	if m.gone {
		return
	}
	m.gone = true
	m.body = nil
	if m.held > 0 {
		o.gate.release(m.held)
	}
	if m.release != nil {
		m.release()
	}
}

// abandon takes back a queued message whose answer nobody waits for any more. When any of it may have left, it tells
// the peer so and returns true.
func (o *outbox) abandon(m *outMessage) (started bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.drop(m)
	if m.started {
		o.cancel(m.header.id)
	}
	return m.started
}

// dropAnswer takes back an answer that its caller no longer wants. A part that has left is followed by a cancel frame,
// for the reader keeps that part until it hears of its end.
func (o *outbox) dropAnswer(id uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, m := range o.queue {
		if m.header.id == id && m.header.kind != frameCancel && !m.gone {
			o.drop(m)
			if m.started {
				o.cancel(id)
			}
			return
		}
	}
}

// drop leaves m in the queue for the writer to pass over. Caller holds mu.
func (o *outbox) drop(m *outMessage) {
	if m.gone {
		return
	}
	o.end(m)
	o.used -= m.weight
	o.let()
}

// cancel passes the limit: there are no more cancel frames than messages that were admitted. Caller holds mu.
func (o *outbox) cancel(id uint64) {
	if o.err == nil && !o.ending {
		o.enqueue(&outMessage{header: header{kind: frameCancel, id: id}})
	}
}

// hasStarted tells whether any of m may have left.
func (o *outbox) hasStarted(m *outMessage) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return m.started
}

// close drops everything; what waits to be queued fails with err.
func (o *outbox) close(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return
	}
	o.err = err
	for _, m := range o.queue {
		o.end(m)
	}
	for _, a := range o.waiting {
		o.end(a.message)
		a.decided <- err
	}
	o.queue, o.waiting = nil, nil
	o.work.Signal()
}

// finish lets the writer write what is queued and then end the stream.
func (o *outbox) finish() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ending = true
	for _, a := range o.waiting {
		o.end(a.message)
		a.decided <- errOutboxClosed
	}
	o.waiting = nil
	o.work.Signal()
}

// sendStream is what the writer needs of a QUIC stream.
type sendStream interface {
	io.WriteCloser
	SetWriteDeadline(time.Time) error
}

// run writes until the outbox is closed (nil), finished (nil, and the stream is ended) or a write fails.
func (o *outbox) run(s sendStream) error {
	for o.await() {
		runtime.Gosched() // who is about to queue something shares the write
		buf := batches.Get().(*[]byte)
		batch, frames := o.fill((*buf)[:0])
		err := o.write(s, batch, frames)
		*buf = batch
		batches.Put(buf)
		if err != nil {
			return err
		}
	}
	o.mu.Lock()
	closed := o.err != nil
	o.mu.Unlock()
	if closed {
		return nil
	}
	return s.Close()
}

func (o *outbox) write(s sendStream, batch []byte, frames int) error {
	if len(batch) == 0 {
		return nil // all that was queued had been dropped
	}
	if err := s.SetWriteDeadline(time.Now().Add(writeWait)); err != nil {
		return err
	}
	if _, err := s.Write(batch); err != nil {
		return err
	}
	o.stats.writesOut.Add(1)
	o.stats.framesOut.Add(uint64(frames))
	o.stats.bytesOut.Add(uint64(len(batch)))
	return nil
}

// await returns true when there is something to write, false at the end.
func (o *outbox) await() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for len(o.queue) == 0 && !o.ending && o.err == nil {
		o.work.Wait()
	}
	return len(o.queue) > 0
}

// fill packs what is queued into one batch. Bodies are copied under the mutex, so that a caller who gave up may use its
// request's memory again at once.
func (o *outbox) fill(batch []byte) (_ []byte, frames int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for len(o.queue) > 0 {
		m := o.queue[0]
		if m.gone {
			o.pop()
			continue
		}
		left := len(m.body) - m.sent
		room := batchBytes - len(batch) - firstHeader
		if room < min(left, minCutBytes) {
			break
		}
		n := min(left, room, cutBytes)
		batch = m.nextHeader(n).append(batch)
		batch = append(batch, m.body[m.sent:m.sent+n]...)
		frames++
		m.started = true
		m.sent += n
		switch {
		case m.sent == len(m.body):
			o.pop()
			o.used -= m.weight
			o.end(m)
		case !o.fifo:
			o.pop()
			o.queue = append(o.queue, m)
		}
	}
	o.let()
	return batch, frames
}

func (o *outbox) pop() {
	o.queue[0] = nil
	o.queue = o.queue[1:]
}

func (m *outMessage) nextHeader(n int) header {
	h := m.header
	if m.started {
		h = header{kind: frameMore, id: m.header.id}
	}
	h.length = uint32(n)
	return h
}

package raftnet

import (
	"errors"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"github.com/manykv/manykv/transport"
)

// lane is the queue and the goroutine of one transport lane to one node. One
// per lane and not per node, so that a data lane that cannot send does not
// hold up heartbeats.
type lane struct {
	net   *Net
	node  string
	id    transport.Lane
	limit int           // bytes the queue may hold
	wake  chan struct{} // capacity 1: the goroutine has something new to look at

	mu     sync.Mutex
	queue  []outgoing // appended by anybody, removed only by the lane's goroutine
	bytes  int
	urgent bool      // something queued must not wait
	due    time.Time // when what is queued has waited long enough; of the oldest
}

// outgoing is one queued message. frame is a complete frame, so that a message
// alone in its frame, as the large ones are, is not copied again.
type outgoing struct {
	destination raft.ServerAddress
	frame       []byte
	head        int // length of the frame header
	lazy        bool
	expires     time.Time
}

func newLane(n *Net, node string, id transport.Lane, limit int) *lane {
	return &lane{net: n, node: node, id: id, limit: limit, wake: make(chan struct{}, 1)}
}

// push queues m, or drops it when the queue is full. It never blocks. A
// message larger than the whole bound still goes when it is alone: raft would
// otherwise send it for ever.
func (l *lane) push(m outgoing) {
	l.mu.Lock()
	if len(l.queue) >= laneMessages || (len(l.queue) > 0 && l.bytes+len(m.frame) > l.limit) {
		l.mu.Unlock()
		l.net.count.queueFull.Add(1)
		return
	}
	wake := false
	if len(l.queue) == 0 {
		l.due = nextBeat(time.Now())
		wake = true
	}
	if !m.lazy && !l.urgent {
		l.urgent = true
		wake = true
	}
	l.queue = append(l.queue, m)
	l.bytes += len(m.frame)
	l.mu.Unlock()
	if wake {
		select {
		case l.wake <- struct{}{}:
		default: // it is already about to look
		}
	}
}

// nextBeat is when lazy messages that are queued now are sent: at the next multiple of
// lazyDelay of the wall clock. Then the lanes to a node send at once, and share packets,
// and so do all lanes of a node and, if their clocks agree, all nodes: what an idle node
// costs is how often it wakes. A clock that jumps changes one wait, within lazyDelay.
func nextBeat(now time.Time) time.Time {
	return now.Add(lazyDelay - now.Sub(now.Truncate(lazyDelay)))
}

// run sends until stop is closed. What can be sent at once still goes then:
// the queue is bounded and its groups are closed.
func (l *lane) run(stop <-chan struct{}) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		d, queued := l.delay()
		if queued && d <= 0 {
			runtime.Gosched() // who is about to queue something shares the frame
			if l.send() {
				continue
			}
			d = retryDelay
		}
		var wait <-chan time.Time
		if queued {
			timer.Reset(d)
			wait = timer.C
		}
		select {
		case <-wait:
		case <-l.wake:
		case <-stop:
			return
		}
	}
}

// delay is how long what is queued may still wait.
func (l *lane) delay() (d time.Duration, queued bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) == 0 {
		return 0, false
	}
	if l.urgent {
		return 0, true
	}
	return time.Until(l.due), true
}

// send sends the oldest messages as one frame. It returns false when the
// transport cannot take it now: the messages stay queued until they expire,
// because a call that fails at once would start raft's back-off.
func (l *lane) send() bool {
	frame, n := l.pack(time.Now())
	if n == 0 {
		return true
	}
	err := l.net.sender.Send(l.node, l.id, frame)
	if errors.Is(err, transport.ErrNotSent) {
		l.net.count.retries.Add(1)
		return false
	}
	l.remove(n)
	if err != nil {
		l.net.count.unsent.Add(uint64(n))
		l.net.log.Warn("cannot send raft messages", slog.String("node", l.node), slog.Int("messages", n),
			slog.Int("bytes", len(frame)), slog.Any("error", err))
		return true
	}
	l.net.count.framesSent.Add(1)
	l.net.count.bytesSent.Add(uint64(len(frame)))
	l.net.count.messagesSent.Add(uint64(n))
	l.net.count.coalesced.Add(uint64(n - 1))
	return true
}

// pack drops what has expired and returns the frame of the first n messages:
// those to one server, up to maxFrameBytes.
func (l *lane) pack(now time.Time) (frame []byte, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	before := len(l.queue)
	l.queue = slices.DeleteFunc(l.queue, func(m outgoing) bool {
		expired := !now.Before(m.expires)
		if expired {
			l.bytes -= len(m.frame)
		}
		return expired
	})
	l.net.count.expired.Add(uint64(before - len(l.queue)))
	if len(l.queue) == 0 {
		l.urgent = false
		return nil, 0
	}
	first := l.queue[0]
	size := len(first.frame)
	for n = 1; n < len(l.queue); n++ {
		m := l.queue[n]
		if m.destination != first.destination || size+len(m.frame)-m.head > maxFrameBytes {
			break
		}
		size += len(m.frame) - m.head
	}
	if n == 1 {
		return first.frame, 1
	}
	frame = append(make([]byte, 0, size), first.frame...)
	for _, m := range l.queue[1:n] {
		frame = append(frame, m.frame[m.head:]...)
	}
	return frame, n
}

// remove takes the first n messages off the queue. What is left, of a larger
// load than one frame, goes at once: it has waited.
func (l *lane) remove(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range l.queue[:n] {
		l.bytes -= len(m.frame)
	}
	l.queue = slices.Delete(l.queue, 0, n)
	if len(l.queue) == 0 {
		l.urgent = false
	}
}

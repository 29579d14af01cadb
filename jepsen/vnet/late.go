//go:build linux

package vnet

import (
	"container/heap"
	"sync"
	"time"
)

// lateQueue holds packets until their time has come.
type lateQueue struct {
	mu      sync.Mutex // guards the fields below
	packets lateHeap
	added   uint64

	wake chan struct{} // something is due sooner than what was waited for
	stop chan struct{}
	done chan struct{}
}

type latePacket struct {
	at     time.Time
	number uint64 // of those that are due at once the first comes first
	link   *link
	packet []byte
}

type lateHeap []latePacket

func (h lateHeap) Len() int { return len(h) }
func (h lateHeap) Less(i, j int) bool {
	return h[i].at.Before(h[j].at) || h[i].at.Equal(h[j].at) && h[i].number < h[j].number
}
func (h lateHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *lateHeap) Push(p any)   { *h = append(*h, p.(latePacket)) }
func (h *lateHeap) Pop() any {
	last := len(*h) - 1
	p := (*h)[last]
	(*h)[last] = latePacket{}
	*h = (*h)[:last]
	return p
}

func newLateQueue() *lateQueue {
	q := &lateQueue{wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{})}
	go q.run()
	return q
}

func (q *lateQueue) add(at time.Time, l *link, packet []byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.added++
	heap.Push(&q.packets, latePacket{at, q.added, l, packet})
	if q.packets[0].number == q.added {
		select {
		case q.wake <- struct{}{}:
		default:
		}
	}
}

// next returns a packet that is due, or how long to wait for the next.
func (q *lateQueue) next(now time.Time) (p latePacket, due bool, after time.Duration) {
	const nothing = time.Hour
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.packets) == 0 {
		return p, false, nothing
	}
	if after = q.packets[0].at.Sub(now); after > 0 {
		return p, false, after
	}
	return heap.Pop(&q.packets).(latePacket), true, 0
}

func (q *lateQueue) run() {
	defer close(q.done)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		p, due, after := q.next(time.Now())
		if due {
			p.link.delayed.Add(-1)
			p.link.deliver(p.packet)
			continue
		}
		timer.Reset(after)
		select {
		case <-timer.C:
		case <-q.wake:
		case <-q.stop:
			return
		}
	}
}

func (q *lateQueue) close() {
	close(q.stop)
	<-q.done
}

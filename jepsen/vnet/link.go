//go:build linux

package vnet

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// Link is how good a link is in one direction. Its zero value is a good one.
type Link struct {
	// Cut lets nothing pass.
	Cut bool
	// Latency is added to each packet's time, and a random part of Jitter: packets
	// overtake each other if that is large.
	Latency, Jitter time.Duration
	// Loss, Duplicate, Reorder and Corrupt are the shares of packets, 0 to 1, that are
	// lost, come twice, come late by up to 20 ms, or have a bit flipped.
	Loss, Duplicate, Reorder, Corrupt float64
	// BytesPerSecond is how much passes; 0: all. What would wait for more than half
	// a second is lost.
	BytesPerSecond int64
}

const (
	// mostLate is by how much a packet is late that others shall overtake.
	mostLate = 20 * time.Millisecond
	// longestQueue is how long a packet waits for a slow link.
	longestQueue = 500 * time.Millisecond
	// mostDelayed bounds the packets of a link that wait, and so the memory they take.
	mostDelayed = 10_000
)

// LinkStats counts a link's packets.
type LinkStats struct {
	Delivered, Cut, Lost, Overflowed, Duplicated, Reordered, Corrupted uint64
}

// link is one direction between two ends.
type link struct {
	to  *end
	now atomic.Pointer[Link]

	mu    sync.Mutex // guards the fields below
	rand  *rand.Rand
	free  time.Time // when a slow link has sent what it was given
	count LinkStats

	delayed   atomic.Int64 // packets that wait
	delivered atomic.Uint64
}

// passage is when a copy of a packet is to be delivered; zero: at once.
type passage struct {
	at      time.Time
	corrupt int // the bit that is flipped, plus one
}

// pass decides what becomes of a packet of a size, on a link that is not good.
func (l *link) pass(s *Link, size int, now time.Time) (copies []passage) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case s.Cut:
		l.count.Cut++
		return nil
	case l.chance(s.Loss):
		l.count.Lost++
		return nil
	}
	p := passage{at: now.Add(s.Latency)}
	if s.Jitter > 0 {
		p.at = p.at.Add(time.Duration(l.rand.Int64N(int64(s.Jitter))))
	}
	if s.BytesPerSecond > 0 {
		if l.free.Before(now) {
			l.free = now
		}
		if l.free.Sub(now) > longestQueue {
			l.count.Overflowed++
			return nil
		}
		l.free = l.free.Add(time.Duration(float64(size) / float64(s.BytesPerSecond) * float64(time.Second)))
		p.at = p.at.Add(l.free.Sub(now))
	}
	if l.chance(s.Reorder) {
		l.count.Reordered++
		p.at = p.at.Add(time.Duration(l.rand.Int64N(int64(mostLate))))
	}
	if l.chance(s.Corrupt) && size > headerBytes {
		l.count.Corrupted++
		p.corrupt = 1 + 8*headerBytes + l.rand.IntN(8*(size-headerBytes))
	}
	copies = append(copies, p)
	if l.chance(s.Duplicate) {
		l.count.Duplicated++
		copies = append(copies, p)
	}
	return copies
}

func (l *link) chance(share float64) bool { return share > 0 && l.rand.Float64() < share }

func (l *link) overflowed() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count.Overflowed++
}

func (l *link) stats() LinkStats {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.count
	s.Delivered = l.delivered.Load()
	return s
}

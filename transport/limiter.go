package transport

import (
	"sync"
	"time"
)

// meter tells when more than limit things happened within one second.
type meter struct {
	limit int

	mu    sync.Mutex
	since time.Time
	count int
}

func (m *meter) exceeded() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if now := time.Now(); now.Sub(m.since) >= time.Second {
		m.since, m.count = now, 0
	}
	m.count++
	return m.count > m.limit
}

// logEvery is how often a line about a refused stranger is logged: whoever can reach the port can cause one.
const logEvery = time.Second

// logLimiter lets one line through per logEvery and counts the others, so that the log says how many there were.
type logLimiter struct {
	mu      sync.Mutex
	last    time.Time
	skipped int
}

func (l *logLimiter) allow() (skipped int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if now.Sub(l.last) < logEvery {
		l.skipped++
		return 0, false
	}
	l.last = now
	skipped, l.skipped = l.skipped, 0
	return skipped, true
}

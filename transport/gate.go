package transport

import "sync"

// gate counts the requests at work on all connections: their bytes, against a budget, and their handlers, so that Close
// can wait for them.
type gate struct {
	budget int64

	mu      sync.Mutex
	bytes   int64         // requests being received or handled, answers not yet written
	running int           // handlers
	shut    bool          // no handler starts any more
	idle    chan struct{} // closed once shut and running is 0
}

func newGate(budget int64) *gate {
	return &gate{budget: budget, idle: make(chan struct{})}
}

// reserve takes n bytes of the budget for a request, before it is received. A request larger than the whole budget is
// let in when nothing else is there: it was checked against the message limit already.
func (g *gate) reserve(n int64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut || (g.bytes > 0 && g.bytes+n > g.budget) {
		return false
	}
	g.bytes += n
	return true
}

// charge counts an answer, which exists already and cannot be refused: it makes room by keeping new requests out.
func (g *gate) charge(n int64) {
	g.mu.Lock()
	g.bytes += n
	g.mu.Unlock()
}

func (g *gate) release(n int64) {
	g.mu.Lock()
	g.bytes -= n
	g.mu.Unlock()
}

func (g *gate) inUse() int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.bytes
}

// start lets a handler run; finish must follow.
func (g *gate) start() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut {
		return false
	}
	g.running++
	return true
}

func (g *gate) finish() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.running--
	if g.shut && g.running == 0 {
		close(g.idle)
	}
}

// close lets nobody in any more and returns a channel that closes with the last handler.
func (g *gate) close() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = true
	if g.running == 0 {
		close(g.idle)
	}
	return g.idle
}

func (g *gate) closed() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.shut
}

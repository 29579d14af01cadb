package fsm

import (
	"container/list"
	"context"
	"fmt"
	"sync"
	"sync/atomic"
)

// Position is how far a machine has come.
type Position struct {
	Index, Term uint64 // of the newest entry applied
	LeadTerm    uint64 // term of the newest lead entry applied
}

// progress is a machine's published position and who waits for it.
type progress struct {
	position atomic.Pointer[Position]

	mu      sync.Mutex // guards waiting
	waiting list.List  // of *waiter, in no order: few, and each is looked at once for each batch
}

type waiter struct {
	index   uint64
	reached chan struct{}
}

// Position returns how far the machine has come: everything up to there is
// visible to readers. It takes no lock.
func (p *progress) Position() Position { return *p.position.Load() }

// advance publishes a position and wakes those it was enough for.
func (p *progress) advance(to Position) {
	p.position.Store(&to)
	p.mu.Lock()
	defer p.mu.Unlock()
	for el := p.waiting.Front(); el != nil; {
		next := el.Next()
		if w := el.Value.(*waiter); w.index <= to.Index {
			p.waiting.Remove(el)
			close(w.reached)
		}
		el = next
	}
}

// Wait returns when the machine has applied index, at once if it already has.
// It fails when ctx ends first, or the store.
func (m *machine) Wait(ctx context.Context, index uint64) error {
	if m.Position().Index >= index {
		return nil
	}
	w := &waiter{index: index, reached: make(chan struct{})}
	m.mu.Lock()
	if m.Position().Index >= index { // advance publishes before it looks for waiters
		m.mu.Unlock()
		return nil
	}
	el := m.waiting.PushBack(w)
	m.mu.Unlock()

	var err error
	select {
	case <-w.reached:
		return nil
	case <-ctx.Done():
		err = ctx.Err()
	case <-m.store.done.Done():
		err = context.Cause(m.store.done)
	}
	m.mu.Lock()
	m.waiting.Remove(el) // nothing, if advance came first
	m.mu.Unlock()
	return fmt.Errorf("shard %d is at index %d, want %d: %w", m.shard, m.Position().Index, index, err)
}

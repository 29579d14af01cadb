package jepsen

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/manykv/manykv/client"
	"github.com/manykv/manykv/kv"
)

const (
	// probeKeys is how many keys a probe writes, so that every shard has some:
	// with six shards one is left out with a probability of 6·(5/6)^128 < 1e-9.
	probeKeys = 128
	// probeTime is how long one probe may take. A write that was sent to a dead or
	// paused leader ends with its time, and a long one would hide that another
	// node has taken over meanwhile.
	probeTime = 500 * time.Millisecond
	// probePause lies between two probes.
	probePause = 25 * time.Millisecond
)

// Prober writes to all shards in one call, over and over, and remembers when
// that succeeded.
type Prober struct {
	Bucket *client.Bucket
	Now    func() int64

	mu        sync.Mutex // guards succeeded
	succeeded []int64
}

// Run probes until ctx ends.
func (p *Prober) Run(ctx context.Context) {
	tick := time.NewTicker(probePause)
	defer tick.Stop()
	for ctx.Err() == nil {
		if p.probe(ctx) == nil {
			p.mu.Lock()
			p.succeeded = append(p.succeeded, p.Now())
			p.mu.Unlock()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// Succeeded returns when probes succeeded, sorted.
func (p *Prober) Succeeded() []int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.succeeded)
}

// Await returns when a write that began after the call reached all shards, or
// with the last failure when ctx ends.
func (p *Prober) Await(ctx context.Context) error {
	tick := time.NewTicker(probePause)
	defer tick.Stop()
	for {
		err := p.probe(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("not every shard takes writes: %w", err)
		}
	}
}

func (p *Prober) probe(ctx context.Context) error {
	ctx, done := context.WithTimeout(ctx, probeTime)
	defer done()
	pairs := make([]kv.Pair, probeKeys)
	for i := range pairs {
		pairs[i] = kv.Pair{Key: fmt.Sprintf("probe-%d", i), Value: []byte("x")}
	}
	return p.Bucket.SetMany(ctx, pairs)
}

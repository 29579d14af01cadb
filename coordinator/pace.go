package coordinator

import (
	"context"
	"math/rand/v2"
	"time"
)

const (
	// firstBackoff and lastBackoff bound the pause between two rounds: short
	// against an election (1 s), long against a round trip.
	firstBackoff = 5 * time.Millisecond
	lastBackoff  = 200 * time.Millisecond
	// maxHops is how many redirects are followed without a pause: a stale map
	// and a moved leader. More mean an election is going on.
	maxHops = 2
)

// pace is what separates the rounds of one call: nothing after the first few
// redirects, else a pause that grows.
type pace struct {
	pause time.Duration
	hops  int // redirects followed at once
}

// next waits until the next round may begin; false if ctx ended first.
func (p *pace) next(ctx context.Context, redirected bool) bool {
	if redirected && p.hops < maxHops {
		p.hops++
		return true
	}
	pause := p.pause
	p.pause = min(2*pause, lastBackoff)
	return sleep(ctx, pause+rand.N(pause))
}

// sleep waits for d; false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

//go:build unix

package jepsen

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/manykv/manykv/client"
	"github.com/manykv/manykv/kv"
)

const (
	// counters is how many keys the callers count in: some shards each.
	counters = 4
	// counterCallers is how many count at a time; every other one through single
	// nodes.
	counterCallers = 8
	// counterCall is how long one increment may take before its caller hears of an
	// unknown outcome and sends it again: shorter than an election, so that many do.
	counterCall = 700 * time.Millisecond
	// settleTime bounds how long one increment is sent again: any outage here is
	// over before.
	settleTime = 30 * time.Second
)

// counter is one caller at work.
type counter struct {
	client *client.Client
	bucket *client.Bucket
	left   *atomic.Int64 // increments that nobody has begun, over all callers
	again  *atomic.Int64 // increments whose outcome was unknown and that were sent again
}

// run counts until nothing is left. After an unknown outcome it sends the same
// increment again until it knows.
func (c *counter) run(ctx context.Context) error {
	for {
		n := c.left.Add(-1)
		if n < 0 {
			return nil
		}
		key := fmt.Sprintf("counter-%d", n%counters)
		if err := c.increment(ctx, key); err != nil {
			return fmt.Errorf("increment of %s: %w", key, err)
		}
	}
}

func (c *counter) increment(ctx context.Context, key string) error {
	settling, done := context.WithTimeout(ctx, settleTime)
	defer done()
	for settling.Err() == nil {
		err := c.try(settling, func(ctx context.Context) error {
			_, err := c.bucket.Increment(ctx, key, 1)
			return err
		})
		for errors.Is(err, kv.ErrUnknown) && settling.Err() == nil {
			c.again.Add(1)
			failed := err
			err = c.try(settling, func(ctx context.Context) error {
				_, err := c.client.Retry(ctx, failed)
				return err
			})
		}
		switch {
		case err == nil:
			return nil
		case errors.Is(err, kv.ErrUnavailable) || errors.Is(err, kv.ErrBusy): // not applied
		default:
			return err
		}
	}
	return context.Cause(settling)
}

func (c *counter) try(ctx context.Context, call func(context.Context) error) error {
	ctx, done := context.WithTimeout(ctx, counterCall)
	defer done()
	return call(ctx)
}

// TestExactlyOnce counts from many callers while nodes are killed and paused.
// Every increment whose outcome was unknown is sent again: the sum is exact.
func TestExactlyOnce(t *testing.T) {
	s := *seed
	if s == 0 {
		s = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d: -args -increments %d -seed %d", s, *increments, s)
	h := startNodes(t)
	asking := h.client(false)
	nemesis := &Nemesis{
		Nodes: h.nodes, History: NewHistory(), Rand: rand.New(rand.NewPCG(s, 0)), KilledAll: make(chan struct{}),
		Leaders: func(ctx context.Context) map[uint32]string { return leaders(ctx, asking) },
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var (
		background sync.WaitGroup
		faults     []Fault
		nemesisErr error
		left       atomic.Int64
		again      atomic.Int64
		callers    errgroup.Group
	)
	left.Store(int64(*increments))
	background.Go(func() { faults, nemesisErr = nemesis.Run(ctx) })
	began := time.Now()
	for i := range counterCallers {
		through := i%2 == 1
		addrs := h.addrs
		if through {
			addrs = slices.Concat(h.addrs[i/2%nodeCount:], h.addrs[:i/2%nodeCount])
		}
		c := h.client(through, addrs...)
		counter := &counter{client: c, bucket: h.open(c), left: &left, again: &again}
		callers.Go(func() error { return counter.run(ctx) })
	}
	err := callers.Wait()
	took := time.Since(began)
	stop()
	background.Wait()
	must(t, errors.Join(err, nemesisErr))

	healing, done := context.WithTimeout(t.Context(), healTime)
	defer done()
	must(t, h.prober(NewHistory()).Await(healing))
	sum := int64(0)
	for i := range counters {
		value, err := h.routed().Bucket.Increment(healing, fmt.Sprintf("counter-%d", i), 0)
		must(t, err)
		sum += value
	}
	t.Logf("%d increments in %v, %d of unknown outcome sent again, %d faults", *increments, took.Round(time.Millisecond), again.Load(), len(faults))
	if sum != int64(*increments) {
		t.Errorf("the counters add up to %d, want %d", sum, *increments)
	}
	if len(faults) == 0 || again.Load() == 0 {
		t.Error("no fault, or no increment of unknown outcome: nothing is proved")
	}
}

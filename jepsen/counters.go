package jepsen

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/manykv/manykv/client"
	"github.com/manykv/manykv/kv"
)

const (
	// counters is how many keys the callers count in: some shards each.
	counters = 4
	// counterCall is how long one increment may take before its caller hears of an
	// unknown outcome and sends it again: shorter than an election, so that many do.
	counterCall = 700 * time.Millisecond
	// settleTime bounds how long one increment is sent again. Any outage here is over
	// before, and a client remembers a write for 5 minutes.
	settleTime = 4 * time.Minute
)

// Counters is callers that count. An increment of unknown outcome is sent again until
// it is known, so that the sum is exact.
type Counters struct {
	Dial    Dial
	Nodes   int
	Bucket  string
	Callers int
	// Increments is how many are made at least.
	Increments int
	// Pace is the time between two increments of a caller; 0: none.
	Pace time.Duration

	begun, made, again atomic.Int64
}

func counterKey(i int) string { return fmt.Sprintf("counter-%d", i) }

// Run counts until until is closed and there were enough.
func (c *Counters) Run(ctx context.Context, until <-chan struct{}) error {
	all, ctx := errgroup.WithContext(ctx)
	for i := range c.Callers {
		all.Go(func() (err error) {
			node := anyNode
			if i%2 == 1 { // every other one through a node
				node = i / 2 % c.Nodes
			}
			one, route, err := c.Dial.route(ctx, node, c.Bucket)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, one.Close()) }()
			return c.count(ctx, until, one, route.Bucket)
		})
	}
	return all.Wait()
}

func (c *Counters) count(ctx context.Context, until <-chan struct{}, one *client.Client, bucket *client.Bucket) error {
	for {
		n := c.begun.Add(1)
		switch {
		case n > int64(c.Increments) && ended(until):
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		}
		key := counterKey(int(n) % counters)
		if err := c.increment(ctx, one, bucket, key); err != nil {
			return fmt.Errorf("increment of %s: %w", key, err)
		}
		c.made.Add(1)
		if c.Pace > 0 {
			rest(until, c.Pace)
		}
	}
}

// increment adds 1, and knows it.
func (c *Counters) increment(ctx context.Context, one *client.Client, bucket *client.Bucket, key string) error {
	settling, done := context.WithTimeout(ctx, settleTime)
	defer done()
	for settling.Err() == nil {
		err := within(settling, counterCall, func(ctx context.Context) error {
			_, err := bucket.Increment(ctx, key, 1)
			return err
		})
		for errors.Is(err, kv.ErrUnknown) && settling.Err() == nil {
			c.again.Add(1)
			failed := err
			err = within(settling, counterCall, func(ctx context.Context) error {
				_, err := one.Retry(ctx, failed)
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

func within(ctx context.Context, d time.Duration, call func(context.Context) error) error {
	ctx, done := context.WithTimeout(ctx, d)
	defer done()
	return call(ctx)
}

// Judge adds the counters up.
func (c *Counters) Judge(ctx context.Context, routes []Route) error {
	for _, route := range routes {
		sum := int64(0)
		for i := range counters {
			value, err := route.Bucket.Increment(ctx, counterKey(i), 0)
			if err != nil {
				return fmt.Errorf("counters via %s: %w", route.Name, err)
			}
			sum += value
		}
		if sum != c.made.Load() {
			return fmt.Errorf("counters via %s: the sum is %d, want %d: each increment once", route.Name, sum, c.made.Load())
		}
	}
	return nil
}

// Done is how many increments were made.
func (c *Counters) Done() int { return int(c.made.Load()) }

// Again is how many increments of unknown outcome were sent again.
func (c *Counters) Again() int { return int(c.again.Load()) }

func (c *Counters) String() string {
	return fmt.Sprintf("counters: %d increments, unknown outcomes sent again %d times, each counted once", c.made.Load(), c.again.Load())
}

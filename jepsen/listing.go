package jepsen

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/manykv/manykv/client"
	"github.com/manykv/manykv/kv"
)

// Listing lists a bucket again and again while other keys in it come and go: each key
// that is there all the while is listed once, and nothing that nobody wrote is.
type Listing struct {
	Dial   Dial
	Nodes  int
	Bucket string
	Seed   uint64

	scans, pages, churned atomic.Int64
}

const (
	// stableKeys are there before the first listing: some pages of each shard.
	stableKeys = 10_000
	// churnKeys come and go, churnBatch at a time.
	churnKeys  = 5_000
	churnBatch = 100
	// churnPace and listPace are how often some come or go, and a page is asked for.
	churnPace, listPace = 200 * time.Millisecond, 100 * time.Millisecond
)

func stableKey(i int) string { return fmt.Sprintf("stable-%05d", i) }
func churnKey(i int) string  { return fmt.Sprintf("churn-%05d", i) }

// Run fills the bucket, then lists it and changes it until until is closed.
func (l *Listing) Run(ctx context.Context, until <-chan struct{}) error {
	random := func(i uint64) *rand.Rand { return rand.New(rand.NewPCG(l.Seed, i)) }
	all, ctx := errgroup.WithContext(ctx)
	lister := &caller{dial: l.Dial, nodes: l.Nodes, bucket: l.Bucket, rand: random(0)}
	churner := &caller{dial: l.Dial, nodes: l.Nodes, bucket: l.Bucket, rand: random(1)}
	all.Go(func() (err error) {
		defer func() { err = errors.Join(err, lister.close()) }()
		if err := l.fill(ctx, until, lister); err != nil {
			return err
		}
		return l.list(ctx, until, lister)
	})
	all.Go(func() (err error) {
		defer func() { err = errors.Join(err, churner.close()) }()
		return l.churn(ctx, until, churner)
	})
	return all.Wait()
}

// fill sets the keys that stay. A set is repeated until it is acknowledged.
func (l *Listing) fill(ctx context.Context, until <-chan struct{}, c *caller) error {
	const batch = 1000
	for from := 0; from < stableKeys; {
		pairs := make([]kv.Pair, batch)
		for i := range pairs {
			pairs[i] = kv.Pair{Key: stableKey(from + i), Value: []byte("stays")}
		}
		err := l.call(ctx, c, func(ctx context.Context, b *client.Bucket) error { return b.SetMany(ctx, pairs) })
		switch {
		case err == nil:
			from += batch
		case !tolerated(err):
			return fmt.Errorf("listing: %w", err)
		case ended(until):
			return nil
		}
	}
	return nil
}

func (l *Listing) call(ctx context.Context, c *caller, f func(context.Context, *client.Bucket) error) error {
	ctx, done := context.WithTimeout(ctx, longestCall)
	defer done()
	b, err := c.get(ctx, false)
	if err != nil {
		return err
	}
	if err = f(ctx, b); err != nil {
		return errors.Join(err, c.close()) // the next call goes another way
	}
	return nil
}

// churn sets and deletes keys.
func (l *Listing) churn(ctx context.Context, until <-chan struct{}, c *caller) error {
	for ; !ended(until) && ctx.Err() == nil; rest(until, churnPace) {
		pairs, keys := make([]kv.Pair, churnBatch), make([]string, churnBatch)
		for i := range pairs {
			keys[i] = churnKey(c.rand.IntN(churnKeys))
			pairs[i] = kv.Pair{Key: keys[i], Value: []byte("goes")}
		}
		err := l.call(ctx, c, func(ctx context.Context, b *client.Bucket) error {
			if c.rand.IntN(2) == 0 {
				return b.SetMany(ctx, pairs)
			}
			return b.DeleteMany(ctx, keys)
		})
		if err == nil {
			l.churned.Add(churnBatch)
		} else if !tolerated(err) {
			return fmt.Errorf("listing: %w", err)
		}
	}
	return nil
}

// list lists the bucket over and over.
func (l *Listing) list(ctx context.Context, until <-chan struct{}, c *caller) error {
	for !ended(until) && ctx.Err() == nil {
		err := l.scan(func(cursor uint64) (keys []string, next uint64, err error) {
			for {
				rest(until, listPace)
				err = l.call(ctx, c, func(ctx context.Context, b *client.Bucket) error {
					keys, next, err = b.ListKeys(ctx, cursor)
					return err
				})
				if err == nil || !tolerated(err) || ctx.Err() != nil || ended(until) {
					return keys, next, err
				}
			}
		})
		if err != nil && (!tolerated(err) || errors.Is(err, errListed)) {
			return err
		}
	}
	return nil
}

var errListed = errors.New("a listing is wrong")

// scan lists the bucket once, page by page, and judges what it saw.
func (l *Listing) scan(page func(cursor uint64) ([]string, uint64, error)) error {
	seen := make(map[string]bool, stableKeys+churnKeys)
	stable := 0
	for cursor := uint64(0); ; {
		keys, next, err := page(cursor)
		if err != nil {
			return err
		}
		for _, key := range keys {
			switch {
			case seen[key]:
				return fmt.Errorf("%w: key %s is listed twice, again on the page of cursor %d", errListed, key, cursor)
			case strings.HasPrefix(key, "stable-"):
				stable++
			case !strings.HasPrefix(key, "churn-"):
				return fmt.Errorf("%w: key %q, which nobody wrote", errListed, key)
			}
			seen[key] = true
		}
		l.pages.Add(1)
		if cursor = next; cursor == 0 {
			break
		}
	}
	if stable == stableKeys {
		l.scans.Add(1)
		return nil
	}
	for i := range stableKeys {
		if key := stableKey(i); !seen[key] {
			return fmt.Errorf("%w: %d of %d keys that were there all the while, not %s for one", errListed, stable, stableKeys, key)
		}
	}
	return fmt.Errorf("%w: %d keys that stay, there are %d", errListed, stable, stableKeys)
}

// Judge lists the bucket through each route.
func (l *Listing) Judge(ctx context.Context, routes []Route) error {
	for _, route := range routes {
		err := l.scan(func(cursor uint64) ([]string, uint64, error) { return route.Bucket.ListKeys(ctx, cursor) })
		if err != nil {
			return fmt.Errorf("listing via %s: %w", route.Name, err)
		}
	}
	return nil
}

// Done is how many pages were listed, and keys set and deleted.
func (l *Listing) Done() int { return int(l.pages.Load() + l.churned.Load()) }

func (l *Listing) String() string {
	return fmt.Sprintf("listing: %d complete listings of %d keys while %d others came or went", l.scans.Load(), stableKeys, l.churned.Load())
}

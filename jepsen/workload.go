package jepsen

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/manykv/manykv/client"
)

const (
	// pace is how many calls all workers make a second. They could make several
	// times as many, but a run's faults must fit between its first call and its
	// last.
	pace = 1000
	// paceTick is how often calls are let through.
	paceTick = 10 * time.Millisecond
	// saved is how many calls the workers may catch up with, at full speed, after
	// a time in which none was answered: the seconds after a fault are when wrong
	// answers are most likely.
	saved = 1000
)

// Route is a way to the store.
type Route struct {
	Name   string // "leaders", or the node that is asked to coordinate
	Bucket *client.Bucket
}

// Workload is workers that read and write the same few keys.
type Workload struct {
	History *History
	Tally   *Tally
	Seed    uint64
	// Calls is how many calls are made at least.
	Calls int
	// Until must be closed before the workload ends, however many calls it made.
	Until <-chan struct{}
	// Workers has the routes of each worker, which uses one at a time.
	Workers [][]Route

	keys *hotKeys
}

// Run makes the calls. It fails when a call fails in a way that no fault
// explains.
func (w *Workload) Run(ctx context.Context) error {
	w.keys = newHotKeys()
	turns := make(chan struct{}, saved)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(turns)
		return w.pace(ctx, turns)
	})
	for i, routes := range w.Workers {
		one := &worker{
			history: w.History, tally: w.Tally, keys: w.keys, routes: routes,
			id: i, process: w.History.NewProcess(),
			rand: rand.New(rand.NewPCG(w.Seed, uint64(i)+1)),
		}
		g.Go(func() error { return one.run(ctx, turns) })
	}
	return g.Wait()
}

// pace hands out turns until there were enough.
func (w *Workload) pace(ctx context.Context, turns chan<- struct{}) error {
	tick := time.NewTicker(paceTick)
	defer tick.Stop()
	handed, done := 0, false
	for !done || handed < w.Calls {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-w.Until:
			done = true
		default:
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
		for range pace * int(paceTick) / int(time.Second) {
			select {
			case turns <- struct{}{}:
				handed++
			default: // the workers are that far behind
			}
		}
	}
	return nil
}

// ReadAll reads every key there has been through a route, as a process of its
// own, and adds what it found to the history. ctx bounds it: with healthy nodes
// a read must not fail.
func (w *Workload) ReadAll(ctx context.Context, route Route) error {
	keys := w.keys.all()
	one := &worker{history: w.History, tally: w.Tally, keys: w.keys, process: w.History.NewProcess()}
	if err := one.getMany(ctx, route, keys); err != nil {
		return fmt.Errorf("final read of %d keys via %s: %w", len(keys), route.Name, err)
	}
	return nil
}

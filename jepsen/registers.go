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
	// defaultPace is how many calls all workers make a second. They could make several
	// times as many, but a run's faults must fit between its first call and its
	// last.
	defaultPace = 1000
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

// Registers is workers that read and write the same few keys, alone and in batches,
// compare and swap, and count. What they see goes to a history, which Check judges.
type Registers struct {
	History *History
	Tally   *Tally
	Seed    uint64
	// Calls is how many calls are made at least.
	Calls int
	// Pace is how many calls are made a second, at most; default 1,000.
	Pace int
	// Workers has the routes of each worker, which uses one at a time.
	Workers [][]Route

	keys, counters *hotKeys
}

// Run makes calls until there were enough and until is closed. It fails when a call
// fails in a way that no fault explains.
func (w *Registers) Run(ctx context.Context, until <-chan struct{}) error {
	w.keys, w.counters = newHotKeys("k", hotCount), newHotKeys("c", counterCount)
	turns := make(chan struct{}, saved)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(turns)
		return w.pace(ctx, until, turns)
	})
	for i, routes := range w.Workers {
		one := &worker{
			history: w.History, tally: w.Tally, keys: w.keys, counters: w.counters, routes: routes,
			id: i, process: w.History.NewProcess(),
			rand: rand.New(rand.NewPCG(w.Seed, uint64(i)+1)),
		}
		g.Go(func() error { return one.run(ctx, turns) })
	}
	return g.Wait()
}

// pace hands out turns until there were enough.
func (w *Registers) pace(ctx context.Context, until <-chan struct{}, turns chan<- struct{}) error {
	pace := w.Pace
	if pace == 0 {
		pace = defaultPace
	}
	tick := time.NewTicker(paceTick)
	defer tick.Stop()
	handed, done, due := 0, false, 0
	for !done || handed < w.Calls {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-until:
			done = true
		default:
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
		for due += pace; due >= int(time.Second/paceTick); due -= int(time.Second / paceTick) {
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
func (w *Registers) ReadAll(ctx context.Context, route Route) error {
	const page = 5000
	keys := append(w.keys.all(), w.counters.all()...)
	one := &worker{history: w.History, tally: w.Tally, keys: w.keys, counters: w.counters, process: w.History.NewProcess()}
	for from := 0; from < len(keys); from += page {
		if err := one.getMany(ctx, route, keys[from:min(len(keys), from+page)]); err != nil {
			return fmt.Errorf("final read of %d keys via %s: %w", len(keys), route.Name, err)
		}
	}
	return nil
}

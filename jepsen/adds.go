package jepsen

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
)

// Adds is callers that write batches of keys of their own, each key some times, and
// nothing that was acknowledged may be missing in the end.
type Adds struct {
	Dial    Dial
	Nodes   int
	Bucket  string
	Callers int
	// Crowd is how many more callers share one client, so that their writes share
	// requests and entries of the log; they write half as often.
	Crowd int
	// Pace is the time between two batches of a caller. All begin theirs at once.
	Pace time.Duration

	ledger *Ledger
}

// Run writes until until is closed.
func (a *Adds) Run(ctx context.Context, until <-chan struct{}) (err error) {
	a.ledger = NewLedger()
	shared, crowd, err := a.Dial.route(ctx, anyNode, a.Bucket)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, shared.Close()) }()
	all, ctx := errgroup.WithContext(ctx)
	for i := range a.Crowd {
		all.Go(func() error { return a.ledger.Write(ctx, until, crowd.Bucket, fmt.Sprintf("c%d", i), 2*a.Pace) })
	}
	for i := range a.Callers {
		all.Go(func() (err error) {
			one, route, err := a.Dial.route(ctx, i%(a.Nodes+1)-1, a.Bucket)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, one.Close()) }()
			return a.ledger.Write(ctx, until, route.Bucket, fmt.Sprintf("a%d", i), a.Pace)
		})
	}
	return all.Wait()
}

// Judge reads every key through each route.
func (a *Adds) Judge(ctx context.Context, routes []Route) error {
	for _, route := range routes {
		if _, err := a.ledger.Audit(ctx, route.Bucket); err != nil {
			return fmt.Errorf("acknowledged writes via %s: %w", route.Name, err)
		}
	}
	return nil
}

// Done is how many writes of keys were acknowledged.
func (a *Adds) Done() int { return a.ledger.Acknowledged() }

func (a *Adds) String() string {
	return fmt.Sprintf("adds: %d writes of keys acknowledged, every key read back in the end", a.ledger.Acknowledged())
}

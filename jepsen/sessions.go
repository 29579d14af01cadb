package jepsen

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/manykv/manykv/kv"
)

// Sessions is callers each of which writes numbers to a key that is its own, and reads
// it through other nodes and new connections: it reads its own writes, and never an
// older one after a newer.
type Sessions struct {
	Dial    Dial
	Nodes   int
	Bucket  string
	Callers int
	Seed    uint64

	done      atomic.Int64
	keys      atomic.Int64
	reconnect atomic.Int64
}

// sessionPace is how often a caller writes and reads.
const sessionPace = 30 * time.Millisecond

// session is one caller with its key of the moment.
type session struct {
	s         *Sessions
	caller    caller
	id, epoch int
	key       string
	tried     int // the newest number that was written, perhaps
	least     int // the least that may be read: acknowledged, or read before
}

// Run writes and reads until until is closed.
func (s *Sessions) Run(ctx context.Context, until <-chan struct{}) error {
	all, ctx := errgroup.WithContext(ctx)
	for i := range s.Callers {
		one := &session{s: s, id: i, caller: caller{
			dial: s.Dial, nodes: s.Nodes, bucket: s.Bucket, rand: rand.New(rand.NewPCG(s.Seed, uint64(i))),
		}}
		one.fresh()
		all.Go(func() (err error) {
			defer func() { err = errors.Join(err, one.caller.close()) }()
			return one.run(ctx, until)
		})
	}
	return all.Wait()
}

// fresh takes a key that was never written: after a write of unknown outcome, which
// may come late, numbers may go back.
func (o *session) fresh() {
	o.epoch++
	o.s.keys.Add(1)
	o.key, o.tried, o.least = fmt.Sprintf("s%d-%d", o.id, o.epoch), 0, 0
}

func (o *session) run(ctx context.Context, until <-chan struct{}) error {
	failed := false
	for !ended(until) && ctx.Err() == nil {
		rest(until, sessionPace)
		err := o.once(ctx, failed)
		if failed = err != nil; failed && !tolerated(err) {
			return fmt.Errorf("session %d via %s: %w", o.id, o.caller.route.Name, err)
		}
	}
	return nil
}

// once writes a number, or reads it.
func (o *session) once(ctx context.Context, again bool) error {
	ctx, done := context.WithTimeout(ctx, longestCall)
	defer done()
	switched := again || o.caller.rand.IntN(4) == 0
	if switched {
		o.s.reconnect.Add(1)
	}
	bucket, err := o.caller.get(ctx, switched)
	if err != nil {
		return err
	}
	if o.caller.rand.IntN(3) == 0 {
		o.tried++
		err := bucket.Set(ctx, o.key, []byte(strconv.Itoa(o.tried)))
		switch {
		case err == nil:
			o.least = o.tried
			o.s.done.Add(1)
		case Outcomes(err, 1)[0] != kv.OutcomeNotApplied:
			o.fresh()
		}
		return err
	}
	value, found, err := bucket.Get(ctx, o.key)
	if err != nil {
		return err
	}
	o.s.done.Add(1)
	return o.saw(string(value), found)
}

// saw compares what was read with what may be there.
func (o *session) saw(value string, found bool) error {
	n := 0
	if found {
		var err error
		if n, err = strconv.Atoi(value); err != nil {
			return fmt.Errorf("key %s has value %q, which nobody wrote", o.key, value)
		}
	}
	if n < o.least || n > o.tried {
		return fmt.Errorf("%w: key %s has %d, want %d (acknowledged, or read before) to %d (written)", errStale, o.key, n, o.least, o.tried)
	}
	o.least = n
	return nil
}

var errStale = errors.New("a session does not see what it saw or wrote")

// Judge has nothing to look at: every read was judged when it was made.
func (s *Sessions) Judge(context.Context, []Route) error { return nil }

// Done is how many reads were judged and writes were made.
func (s *Sessions) Done() int { return int(s.done.Load()) }

func (s *Sessions) String() string {
	return fmt.Sprintf("sessions: %d reads and writes of %d keys, %d connections, each reading its own writes through any node", s.done.Load(), s.keys.Load(), s.reconnect.Load())
}

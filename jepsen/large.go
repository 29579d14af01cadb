package jepsen

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/manykv/manykv/client"
	"github.com/manykv/manykv/kv"
)

// Large is callers that write values of up to some MiB, which go through the log in
// pieces and make the nodes cut their journals, and read them back whole.
type Large struct {
	Dial    Dial
	Nodes   int
	Bucket  string
	Callers int
	Seed    uint64

	written, read, bytes atomic.Int64
	last                 []*largeKey // of each caller
}

const (
	smallestLarge, largestLarge = 64 << 10, 3 << 20
	// largePace is how often a caller writes or reads.
	largePace = 400 * time.Millisecond
	// largeTime is how long a call may take.
	largeTime = 10 * time.Second
)

// largeKey is a key that one caller writes.
type largeKey struct {
	name         string
	tried, least uint64 // as a session's
}

// value returns the value number n of a key: the number, then bytes that follow from
// both.
func (k *largeKey) value(n uint64) []byte {
	random := rand.NewChaCha8([32]byte(binary.BigEndian.AppendUint64(append([]byte(k.name), make([]byte, 24-len(k.name))...), n)))
	size := smallestLarge + int(random.Uint64()%(largestLarge-smallestLarge))
	v := binary.BigEndian.AppendUint64(make([]byte, 0, size), n)
	v = v[:size]
	_, _ = random.Read(v[8:]) // never fails
	return v
}

// is says what is wrong with a value that was read.
func (k *largeKey) is(value []byte, found bool) error {
	n := uint64(0)
	if found {
		if len(value) < smallestLarge {
			return fmt.Errorf("key %s has %d bytes, want %d or more", k.name, len(value), smallestLarge)
		}
		n = binary.BigEndian.Uint64(value)
	}
	if n < k.least || n > k.tried {
		return fmt.Errorf("key %s has value %d, want %d (acknowledged, or read before) to %d (written)", k.name, n, k.least, k.tried)
	}
	if found && !bytes.Equal(value, k.value(n)) {
		return fmt.Errorf("key %s has another value than the one that was written as number %d", k.name, n)
	}
	k.least = n
	return nil
}

// Run writes and reads until until is closed.
func (l *Large) Run(ctx context.Context, until <-chan struct{}) error {
	all, ctx := errgroup.WithContext(ctx)
	l.last = make([]*largeKey, l.Callers)
	for i := range l.Callers {
		c := &caller{dial: l.Dial, nodes: l.Nodes, bucket: l.Bucket, rand: rand.New(rand.NewPCG(l.Seed, uint64(i)))}
		all.Go(func() (err error) {
			defer func() { err = errors.Join(err, c.close()) }()
			return l.run(ctx, until, c, i)
		})
	}
	return all.Wait()
}

func (l *Large) run(ctx context.Context, until <-chan struct{}, c *caller, id int) error {
	key, epoch, failed := (*largeKey)(nil), 0, false
	for !ended(until) && ctx.Err() == nil {
		if key == nil { // the first, or one of the last write's outcome was unknown
			epoch++
			key = &largeKey{name: fmt.Sprintf("large-%d-%d", id, epoch)}
			l.last[id] = key
		}
		rest(until, largePace)
		unknown, err := l.once(ctx, c, key, failed)
		if failed = err != nil; failed && !tolerated(err) {
			return fmt.Errorf("large values via %s: %w", c.route.Name, err)
		}
		if unknown {
			key = nil
			l.last[id] = nil
		}
	}
	return nil
}

// once writes or reads. It says whether a write's outcome is unknown.
func (l *Large) once(ctx context.Context, c *caller, key *largeKey, again bool) (unknown bool, err error) {
	ctx, done := context.WithTimeout(ctx, largeTime)
	defer done()
	bucket, err := c.get(ctx, again)
	if err != nil {
		return false, err
	}
	if c.rand.IntN(2) == 0 {
		return l.set(ctx, bucket, key)
	}
	value, found, err := bucket.Get(ctx, key.name)
	if err != nil {
		return false, err
	}
	l.read.Add(1)
	return false, key.is(value, found)
}

func (l *Large) set(ctx context.Context, bucket *client.Bucket, key *largeKey) (unknown bool, err error) {
	key.tried++
	value := key.value(key.tried)
	if err = bucket.Set(ctx, key.name, value); err != nil {
		return Outcomes(err, 1)[0] != kv.OutcomeNotApplied, err
	}
	key.least = key.tried
	l.written.Add(1)
	l.bytes.Add(int64(len(value)))
	return false, nil
}

// Judge reads the last keys through each route.
func (l *Large) Judge(ctx context.Context, routes []Route) error {
	for _, route := range routes {
		for _, key := range l.last {
			if key == nil {
				continue
			}
			value, found, err := route.Bucket.Get(ctx, key.name)
			if err == nil {
				err = key.is(value, found)
			}
			if err != nil {
				return fmt.Errorf("large values via %s: %w", route.Name, err)
			}
		}
	}
	return nil
}

// Done is how many values were written and read.
func (l *Large) Done() int { return int(l.written.Load() + l.read.Load()) }

func (l *Large) String() string {
	return fmt.Sprintf("large values: %d written (%d MiB), %d read back", l.written.Load(), l.bytes.Load()>>20, l.read.Load())
}

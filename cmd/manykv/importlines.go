package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/manykv/manykv/client"
	"github.com/manykv/manykv/kv"
)

// importLines imports the pairs of a file, one record a line.
func (p *program) importLines(ctx context.Context, bucket, name string, o *importOptions) (err error) {
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("file to import: %w", err)
	}
	defer func() { _ = f.Close() }() // it was only read from
	return p.withBucket(ctx, bucket, o.create, func(c *client.Client, b *client.Bucket) error {
		mark, err := openBookmark(o.resume, bucket, bucketID(b), name)
		if err != nil {
			return err
		}
		from, err := p.findPlace(f, mark)
		if err != nil {
			return err
		}
		sum, err := p.sendLines(ctx, f, from, sender{b, c, p.conn.timeout}, mark)
		if err != nil {
			return mark.stopped(err)
		}
		if err := mark.finished(); err != nil {
			return err
		}
		if o.json {
			return p.stdout.json(importSummary{Lines: sum})
		}
		p.stdout.printf("imported %s\n", sum)
		return nil
	})
}

// bucketID is the bucket's identity as a state file has it.
func bucketID(b *client.Bucket) string {
	cluster, bucket := b.ID()
	return fmt.Sprintf("%x-%x", cluster, bucket)
}

// findPlace goes to where an earlier import stopped, if there was one.
func (p *program) findPlace(f *os.File, mark *bookmark) (place, error) {
	info, err := f.Stat()
	if err != nil {
		return place{}, err
	}
	if !mark.begun() {
		mark.state.Size, mark.state.Modified = info.Size(), info.ModTime()
		return place{}, nil
	}
	if err := mark.checkSame(f.Name(), info); err != nil {
		return place{}, err
	}
	from := mark.state.place
	p.stderr.printf("going on after line %d: %s imported before\n", from.Line, count(mark.state.Keys, "key was", "keys were"))
	_, err = f.Seek(from.Offset, io.SeekStart)
	return from, err
}

// sendLines sends the pairs in batches, one after the other so that the last
// occurrence of a key wins.
func (p *program) sendLines(ctx context.Context, r io.Reader, from place, to setter, mark *bookmark) (*pairFigures, error) {
	var keys, bytes, offset atomic.Int64
	start := time.Now()
	offset.Store(from.Offset)
	size := mark.state.Size // before batches are noted in the state
	shown := startProgress(p.stderr, p.terminal, func() string {
		line := "import: " + newPairFigures(keys.Load(), bytes.Load(), time.Since(start)).String()
		if p.terminal {
			line = bar(offset.Load(), size) + " " + line
		}
		return line
	})
	defer shown.Close()
	n := 0
	for batch, err := range batches(readInput(r, from), func(in input) int64 { return pairSize(in.Pair) }) {
		if err != nil {
			return nil, err
		}
		pairs := make([]kv.Pair, len(batch))
		sent := int64(0)
		for i, in := range batch {
			pairs[i] = in.Pair
			sent += pairSize(in.Pair)
		}
		last := batch[len(batch)-1].place
		if err := to.SetMany(ctx, pairs); err != nil {
			if ctx.Err() != nil {
				err = errors.Join(context.Cause(ctx), err)
			}
			return nil, fmt.Errorf("import: lines %d to %d: %w", batch[0].Line, last.Line, err)
		}
		keys.Add(int64(len(pairs)))
		bytes.Add(sent)
		offset.Store(last.Offset)
		err := mark.reached(n, func(s *importState) {
			s.place = last
			s.Keys += int64(len(pairs))
		})
		if err != nil {
			return nil, err
		}
		n++
	}
	return newPairFigures(keys.Load(), bytes.Load(), time.Since(start)), nil
}

// retrier sends a failed write again, as the same write: it is not applied twice.
type retrier interface {
	Retry(ctx context.Context, failed error) (int64, error)
}

// sender writes to a bucket, and again if that may help.
type sender struct {
	to      setter
	again   retrier
	timeout time.Duration
}

// SetMany sets pairs. A batch whose outcome is unknown is sent again as the same
// one. Where that is too late it is sent anew: the same pairs twice are harmless.
func (s sender) SetMany(ctx context.Context, pairs []kv.Pair) error {
	var failed error
	return insist(ctx, s.timeout, func(ctx context.Context) error {
		if batch, ok := errors.AsType[*kv.BatchError](failed); ok && batch.Call != 0 {
			if _, failed = s.again.Retry(ctx, failed); !errors.Is(failed, kv.ErrInvalid) {
				return failed
			}
		}
		failed = s.to.SetMany(ctx, pairs)
		return failed
	})
}

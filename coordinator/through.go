package coordinator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/transport"
)

// leastAttempt is the least time a node has to answer a write before another is
// asked, which applies it no second time: what a leader has to answer a node.
const leastAttempt = 4 * time.Second

// Through is a batch interface over nodes that coordinate. It has the
// Coordinator's methods and keeps its promises.
type Through struct {
	// Call sends a request to a node, each time perhaps to another.
	Call func(ctx context.Context, method byte, request []byte) ([]byte, error)
	// Maps has the cluster's map: all nodes must cut a write by the same shards.
	Maps *Coordinator
	// Limits bound each call; zero values are their defaults.
	Limits kv.Limits
	// Tracer starts a span for each request; nil: none is.
	Tracer trace.Tracer
}

func (t *Through) limits() kv.Limits { return t.Limits.WithDefaults() }

// GetMany is Coordinator.GetMany.
func (t *Through) GetMany(ctx context.Context, bucket uint64, keys []string) ([]*kv.Pair, error) {
	if err := t.limits().CheckKeys(keys); err != nil {
		return nil, err
	}
	pairs := make([]kv.Pair, len(keys))
	out := make([]*kv.Pair, len(keys))
	err := t.get(ctx, OpGet, bucket, keys, func(i int, d *kv.Decoder) {
		d.U64() // the version
		pairs[i] = kv.Pair{Key: keys[i], Value: d.Bytes()}
		out[i] = &pairs[i]
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// GetVersion is Coordinator.GetVersion.
func (t *Through) GetVersion(ctx context.Context, bucket uint64, key string) (value []byte, version uint64, found bool, err error) {
	keys := []string{key}
	if err := t.limits().CheckKeys(keys); err != nil {
		return nil, 0, false, err
	}
	err = t.get(ctx, OpGet, bucket, keys, func(_ int, d *kv.Decoder) { version, value, found = d.U64(), d.Bytes(), true })
	if err != nil {
		return nil, 0, false, err
	}
	return value, version, found, nil
}

// Exists is Coordinator.Exists.
func (t *Through) Exists(ctx context.Context, bucket uint64, keys []string) ([]bool, error) {
	if err := t.limits().CheckKeys(keys); err != nil {
		return nil, err
	}
	out := make([]bool, len(keys))
	if err := t.get(ctx, OpExists, bucket, keys, func(i int, _ *kv.Decoder) { out[i] = true }); err != nil {
		return nil, err
	}
	return out, nil
}

// List is Coordinator.List.
func (t *Through) List(ctx context.Context, bucket, cursor uint64) (keys []string, next uint64, err error) {
	err = t.read(ctx, &BatchRequest{Op: OpList, Bucket: bucket, Cursor: cursor}, func(d *kv.Decoder) {
		most := maxItems
		if keys, next = decodeKeys(d, &most), d.U64(); next != 0 && next <= cursor {
			d.Fail("cursor %#x after %#x", next, cursor)
		}
	})
	if err != nil {
		return nil, 0, err
	}
	return keys, next, nil
}

// get reads keys.
func (t *Through) get(ctx context.Context, op Op, bucket uint64, keys []string, found func(i int, d *kv.Decoder)) error {
	return t.read(ctx, &BatchRequest{Op: op, Bucket: bucket, Keys: keys}, func(d *kv.Decoder) {
		for i := range keys {
			if d.Bool() {
				found(i, d)
			}
		}
	})
}

func (t *Through) read(ctx context.Context, r *BatchRequest, take func(d *kv.Decoder)) error {
	ctx, span := begin(ctx, t.Tracer, r.Op.String())
	r.Trace = span.place()
	answer, err := t.Call(ctx, MethodBatch, r.Append(nil))
	span.end(err)
	if err != nil {
		return noAnswer(err, kv.ErrUnavailable)
	}
	d := versioned(answer)
	code, detail := readFailure(d)
	if d.Err() == nil && code != kv.CodeOK {
		return readError(code, detail)
	}
	take(d)
	if err := d.Finish(); err != nil {
		return fmt.Errorf("%w: the answer: %w", kv.ErrUnavailable, err)
	}
	return nil
}

// carry sends a call to one node after the other until one knows what became of
// each key, or nothing was begun and nothing will be.
func (t *Through) carry(ctx context.Context, w *call) error {
	pace := pace{pause: firstBackoff}
	var refused error // nothing more shall be begun
	if w.settling {
		refused = errNotBegun
	}
	for round, busy := 1, 0; ; round++ {
		if w.late() {
			return errLate
		}
		w.settling = refused != nil
		err := t.write(ctx, w)
		if !slices.ContainsFunc(w.known, func(s state) bool { return !s.settled() }) {
			return err
		}
		switch {
		case errors.Is(err, kv.ErrAccessDenied), errors.Is(err, transport.ErrClosed):
			return err
		case errors.Is(err, kv.ErrBusy):
			if busy++; busy > busyRetries {
				refused = err
			}
		case !errors.Is(err, kv.ErrUnavailable) && !errors.Is(err, kv.ErrUnknown):
			refused = err
		}
		if refused != nil && !slices.Contains(w.known, maybe) {
			return refused
		}
		if round%refreshRounds == 0 {
			t.Maps.Refresh(ctx)
		}
		if !pace.next(ctx, false) {
			if refused != nil && !errors.Is(refused, errNotBegun) {
				err = refused
			}
			return t.timeUp(ctx, w, err)
		}
	}
}

// encode makes the request of a call. It is made anew only while no node can have
// seen it.
func (t *Through) encode(ctx context.Context, w *call) error {
	by, err := t.Maps.table(ctx)
	if err != nil || w.layout == by.layout || !w.untouched() {
		return err
	}
	w.layout = by.layout
	r := BatchRequest{
		Op: w.op, Bucket: w.bucket, Origin: w.origin, EntryBytes: w.entry, Layout: w.layout,
		Keys: w.keys, Pairs: w.pairs, Delta: w.delta, Version: w.version,
	}
	w.request = r.Append(nil)
	w.bytes = len(w.request)
	return nil
}

// write sends a call to a node.
func (t *Through) write(ctx context.Context, w *call) error {
	if err := t.encode(ctx, w); err != nil {
		return err
	}
	request := w.request
	if w.settling {
		request = withKnown(request, w.known)
	}
	attempt, done := oneAttempt(ctx)
	defer done()
	attempt, span := begin(attempt, t.Tracer, w.op.String(), attribute.Int("manykv.keys", w.size))
	answer, err := t.Call(attempt, MethodBatch, appendTrace(slices.Clip(request), span.place()))
	span.end(err)
	if err == nil {
		return w.takeAnswer(answer)
	}
	if sentOutcome(err) != kv.OutcomeNotApplied {
		w.learnAll(maybe)
	}
	return noAnswer(err, kv.ErrUnknown)
}

// oneAttempt has half the time that is left: the other half is for another node,
// should the first one hang.
func oneAttempt(ctx context.Context) (context.Context, context.CancelFunc) {
	most := leastAttempt
	if at, ok := ctx.Deadline(); ok {
		most = max(most, time.Until(at)/2)
	}
	return context.WithTimeout(ctx, most)
}

// timeUp is the error of a write whose time ran out.
func (t *Through) timeUp(ctx context.Context, w *call, last error) error {
	class := kv.ErrUnavailable
	if slices.Contains(w.known, maybe) {
		class = kv.ErrUnknown
	}
	return fmt.Errorf("%w: %w; last: %w", class, context.Cause(ctx), last)
}

// newClient is Coordinator.newClient.
func (t *Through) newClient(ctx context.Context) (uint64, error) {
	for pace := (pace{pause: firstBackoff}); ; {
		attempt, done := oneAttempt(ctx)
		id, err := newClient(attempt, t.buckets)
		done()
		again := errors.Is(err, kv.ErrUnavailable) || errors.Is(err, kv.ErrBusy)
		if !again || errors.Is(err, transport.ErrClosed) || !pace.next(ctx, false) {
			return id, err
		}
	}
}

// OpenBucket is Coordinator.OpenBucket.
func (t *Through) OpenBucket(ctx context.Context, name string) (uint64, error) {
	a, err := t.buckets(ctx, BucketRequest{Op: BucketOpen, Name: name})
	return a.ID, err
}

// CreateBucket is Coordinator.CreateBucket.
func (t *Through) CreateBucket(ctx context.Context, name string) error {
	_, err := t.buckets(ctx, BucketRequest{Op: BucketCreate, Name: name})
	return err
}

// ListBuckets is Coordinator.ListBuckets.
func (t *Through) ListBuckets(ctx context.Context) ([]string, error) {
	a, err := t.buckets(ctx, BucketRequest{Op: BucketList})
	return a.Names, err
}

// DeleteBucket is Coordinator.DeleteBucket.
func (t *Through) DeleteBucket(ctx context.Context, name string) error {
	id, err := t.OpenBucket(ctx, name)
	if err != nil {
		return err
	}
	return deleteBucket(ctx, BucketRequest{Op: BucketDelete, Name: name, ID: id}, t.buckets)
}

// buckets asks a node.
func (t *Through) buckets(ctx context.Context, r BucketRequest) (BucketAnswer, error) {
	b, err := t.Call(ctx, MethodCatalog, r.Append(nil))
	if err != nil {
		return BucketAnswer{}, noAnswer(err, r.lost())
	}
	a, err := DecodeBucketAnswer(b)
	if err != nil {
		return BucketAnswer{}, fmt.Errorf("%w: the answer: %w", r.lost(), err)
	}
	switch a.Status {
	case StatusServed:
		return a, nil
	case StatusRefused:
		return BucketAnswer{}, r.refusal(&a)
	default:
		return BucketAnswer{}, fmt.Errorf("%w: the answer: status %d, want served or refused", r.lost(), a.Status)
	}
}

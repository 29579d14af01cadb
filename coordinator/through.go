package coordinator

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/manykv/manykv/kv"
)

// A BatchRequest is a whole batch that a node shall coordinate, for callers
// that reach only one node:
//
//	version u8 · op u8 · bucket u64 · keys, or for set: pairs
//	pairs: count varint · count × (key string · value string)
type BatchRequest struct {
	Op     Op
	Bucket uint64
	Keys   []string
	Pairs  []kv.Pair
}

// DecodeBatchRequest reads a batch request; values alias b.
func DecodeBatchRequest(b []byte) (*BatchRequest, error) {
	d := versioned(b)
	r := &BatchRequest{Op: Op(d.U8()), Bucket: d.U64()}
	most := maxItems
	switch r.Op {
	case OpGet, OpExists, OpDelete:
		r.Keys = decodeKeys(d, &most)
	case OpSet:
		r.Pairs = make([]kv.Pair, countUpTo(d, &most, 2, "pairs"))
		for i := range r.Pairs {
			r.Pairs[i] = kv.Pair{Key: d.String(), Value: d.Bytes()}
		}
	default:
		d.Fail("operation %d", r.Op)
	}
	return r, d.Finish()
}

// Append appends the request's encoding.
func (r *BatchRequest) Append(dst []byte) []byte {
	dst = append(dst, wireVersion, byte(r.Op))
	dst = binary.BigEndian.AppendUint64(dst, r.Bucket)
	if r.Op != OpSet {
		return kv.AppendKeys(dst, r.Keys)
	}
	dst = binary.AppendUvarint(dst, uint64(len(r.Pairs)))
	for i := range r.Pairs {
		dst = kv.AppendString(dst, r.Pairs[i].Key)
		dst = kv.AppendBytes(dst, r.Pairs[i].Value)
	}
	return dst
}

// A batch answer is
//
//	version u8 · code u8 · detail string · outcomes string (one byte per key of a write that failed) · items
//	items: one per key: get: 0, or 1 · value string; exists: 0 or 1

// ServeBatch coordinates a batch for somebody else. Its error says that the
// request was malformed; what became of the batch is in the answer.
func (c *Coordinator) ServeBatch(ctx context.Context, request []byte) ([]byte, error) {
	r, err := DecodeBatchRequest(request)
	if err != nil {
		return nil, err
	}
	var items []byte
	switch r.Op {
	case OpGet:
		var pairs []*kv.Pair
		pairs, err = c.GetMany(ctx, r.Bucket, r.Keys)
		for _, p := range pairs {
			items = kv.AppendBool(items, p != nil)
			if p != nil {
				items = kv.AppendBytes(items, p.Value)
			}
		}
	case OpExists:
		var there []bool
		there, err = c.Exists(ctx, r.Bucket, r.Keys)
		for _, t := range there {
			items = kv.AppendBool(items, t)
		}
	case OpSet:
		err = c.SetMany(ctx, r.Bucket, r.Pairs)
	default:
		err = c.DeleteMany(ctx, r.Bucket, r.Keys)
	}
	return appendBatchAnswer(err, items), nil
}

func appendBatchAnswer(err error, items []byte) []byte {
	answer := append(make([]byte, 0, len(items)+16), wireVersion, byte(kv.CodeOf(err)))
	detail := ""
	if err != nil {
		detail = cause(err).Error()
	}
	answer = kv.AppendString(answer, detail)
	answer = binary.AppendUvarint(answer, uint64(len(outcomes(err))))
	for _, o := range outcomes(err) {
		answer = append(answer, byte(o))
	}
	return append(answer, items...)
}

// Through is a batch interface over one node that coordinates. It has the
// Coordinator's methods and keeps its promises.
type Through struct {
	// Call sends a request to the node.
	Call func(ctx context.Context, method byte, request []byte) ([]byte, error)
	// Limits bound each call; zero values are their defaults.
	Limits kv.Limits
}

// GetMany is Coordinator.GetMany.
func (t *Through) GetMany(ctx context.Context, bucket uint64, keys []string) ([]*kv.Pair, error) {
	if err := t.Limits.WithDefaults().CheckKeys(keys); err != nil {
		return nil, err
	}
	pairs := make([]kv.Pair, len(keys))
	out := make([]*kv.Pair, len(keys))
	err := t.read(ctx, OpGet, bucket, keys, func(i int, d *kv.Decoder) {
		pairs[i] = kv.Pair{Key: keys[i], Value: d.Bytes()}
		out[i] = &pairs[i]
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Exists is Coordinator.Exists.
func (t *Through) Exists(ctx context.Context, bucket uint64, keys []string) ([]bool, error) {
	if err := t.Limits.WithDefaults().CheckKeys(keys); err != nil {
		return nil, err
	}
	out := make([]bool, len(keys))
	if err := t.read(ctx, OpExists, bucket, keys, func(i int, _ *kv.Decoder) { out[i] = true }); err != nil {
		return nil, err
	}
	return out, nil
}

func (t *Through) read(ctx context.Context, op Op, bucket uint64, keys []string, found func(i int, d *kv.Decoder)) error {
	request := BatchRequest{Op: op, Bucket: bucket, Keys: keys}
	answer, err := t.Call(ctx, MethodBatch, request.Append(nil))
	if err != nil {
		return noAnswer(err, kv.ErrUnavailable)
	}
	d := versioned(answer)
	if err := decodeFailure(d, op, len(keys)); err != nil {
		return err
	}
	for i := range keys {
		if d.Bool() {
			found(i, d)
		}
	}
	if err := d.Finish(); err != nil {
		return fmt.Errorf("%w: the answer: %w", kv.ErrUnavailable, err)
	}
	return nil
}

// SetMany is Coordinator.SetMany.
func (t *Through) SetMany(ctx context.Context, bucket uint64, pairs []kv.Pair) error {
	if err := t.Limits.WithDefaults().CheckPairs(pairs); err != nil {
		return err
	}
	return t.write(ctx, &BatchRequest{Op: OpSet, Bucket: bucket, Pairs: pairs}, len(pairs))
}

// DeleteMany is Coordinator.DeleteMany.
func (t *Through) DeleteMany(ctx context.Context, bucket uint64, keys []string) error {
	if err := t.Limits.WithDefaults().CheckKeys(keys); err != nil {
		return err
	}
	return t.write(ctx, &BatchRequest{Op: OpDelete, Bucket: bucket, Keys: keys}, len(keys))
}

func (t *Through) write(ctx context.Context, r *BatchRequest, size int) error {
	answer, err := t.Call(ctx, MethodBatch, r.Append(nil))
	if err != nil {
		return &kv.BatchError{Op: r.Op.String(), Outcomes: allOutcomes(size, sentOutcome(err)), Err: noAnswer(err, kv.ErrUnknown)}
	}
	d := versioned(answer)
	if err := decodeFailure(d, r.Op, size); err != nil {
		return err
	}
	if err := d.Finish(); err != nil {
		return &kv.BatchError{Op: r.Op.String(), Outcomes: allOutcomes(size, kv.OutcomeUnknown), Err: fmt.Errorf("%w: the answer: %w", kv.ErrUnknown, err)}
	}
	return nil
}

// decodeFailure reads code, detail and outcomes of a batch answer and returns
// the error they make; nil when the batch succeeded.
func decodeFailure(d *kv.Decoder, op Op, size int) error {
	code, detail, each := kv.Code(d.U8()), d.String(), d.Bytes()
	if err := d.Err(); err != nil {
		code, detail, each = kv.CodeUnknown, "the answer: "+err.Error(), nil
	}
	if code == kv.CodeOK {
		return nil
	}
	if op.reads() {
		return readError(code, detail)
	}
	err := code.Err(detail)
	if len(each) == 0 && !errors.Is(err, kv.ErrUnknown) {
		return err // refused before anything was sent
	}
	out := allOutcomes(size, kv.OutcomeUnknown)
	if len(each) == size {
		for i, o := range each {
			if o <= byte(kv.OutcomeApplied) {
				out[i] = kv.Outcome(o)
			}
		}
	}
	if slices.Contains(out, kv.OutcomeUnknown) && !errors.Is(err, kv.ErrUnknown) {
		err = fmt.Errorf("%w: %w", kv.ErrUnknown, err)
	}
	return &kv.BatchError{Op: op.String(), Outcomes: out, Err: err}
}

// ServeBuckets does a bucket operation for somebody else. Its error says that
// the request was malformed.
func (c *Coordinator) ServeBuckets(ctx context.Context, request []byte) ([]byte, error) {
	r, err := DecodeBucketRequest(request)
	if err != nil {
		return nil, err
	}
	if r.Op != BucketList {
		err = kv.CheckBucketName(r.Name)
	}
	var a BucketAnswer
	if err == nil {
		a, err = c.buckets(ctx, r)
	}
	if err != nil {
		a = BucketAnswer{Status: StatusRefused, Code: kv.CodeOf(err), Detail: err.Error()}
	}
	return a.Append(nil), nil
}

// OpenBucket is Coordinator.OpenBucket.
func (t *Through) OpenBucket(ctx context.Context, name string) (uint64, error) {
	a, err := t.buckets(ctx, BucketRequest{Op: BucketOpen, Name: name}, kv.ErrUnavailable)
	return a.ID, err
}

// CreateBucket is Coordinator.CreateBucket.
func (t *Through) CreateBucket(ctx context.Context, name string) error {
	_, err := t.buckets(ctx, BucketRequest{Op: BucketCreate, Name: name}, kv.ErrUnknown)
	return err
}

// ListBuckets is Coordinator.ListBuckets.
func (t *Through) ListBuckets(ctx context.Context) ([]string, error) {
	a, err := t.buckets(ctx, BucketRequest{Op: BucketList}, kv.ErrUnavailable)
	return a.Names, err
}

// buckets asks the node; lost is the class of a request that may have been run
// without an answer.
func (t *Through) buckets(ctx context.Context, r BucketRequest, lost error) (BucketAnswer, error) {
	b, err := t.Call(ctx, MethodCatalog, r.Append(nil))
	if err != nil {
		return BucketAnswer{}, noAnswer(err, lost)
	}
	a, err := DecodeBucketAnswer(b)
	if err != nil {
		return BucketAnswer{}, fmt.Errorf("%w: the answer: %w", lost, err)
	}
	switch a.Status {
	case StatusServed:
		return a, nil
	case StatusRefused:
		return BucketAnswer{}, r.refusal(&a)
	default:
		return BucketAnswer{}, fmt.Errorf("%w: the answer: status %d, want served or refused", lost, a.Status)
	}
}

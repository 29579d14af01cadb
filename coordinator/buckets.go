package coordinator

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
	"github.com/manykv/manykv/transport"
)

// BucketOp says what a bucket request does.
type BucketOp uint8

// The bucket operations. The numbers are part of the protocol.
const (
	BucketOpen   BucketOp = 1 // the id of a bucket
	BucketCreate BucketOp = 2
	BucketList   BucketOp = 3
)

// A BucketRequest goes to the leader of the meta group:
//
//	version u8 · op u8 · name string
type BucketRequest struct {
	Op   BucketOp
	Name string // empty for list
}

// DecodeBucketRequest reads a bucket request.
func DecodeBucketRequest(b []byte) (BucketRequest, error) {
	d := versioned(b)
	r := BucketRequest{Op: BucketOp(d.U8()), Name: d.String()}
	if r.Op < BucketOpen || r.Op > BucketList {
		d.Fail("bucket operation %d", r.Op)
	}
	return r, d.Finish()
}

// Append appends the request's encoding.
func (r BucketRequest) Append(dst []byte) []byte {
	return kv.AppendString(append(dst, wireVersion, byte(r.Op)), r.Name)
}

// A BucketAnswer is
//
//	version u8 · status u8 · leader string · code u8 · detail string · id u64 · names
type BucketAnswer struct {
	Status Status // served, not leader or refused
	Leader sharding.NodeID
	Code   kv.Code // of StatusRefused
	Detail string
	ID     uint64   // of open
	Names  []string // of list, sorted
}

// refusal is the error of a request that was refused.
func (r BucketRequest) refusal(a *BucketAnswer) error {
	if r.Op == BucketCreate {
		return a.Code.Err(a.Detail)
	}
	return readError(a.Code, a.Detail)
}

// DecodeBucketAnswer reads a bucket answer.
func DecodeBucketAnswer(b []byte) (BucketAnswer, error) {
	d := versioned(b)
	a := BucketAnswer{
		Status: Status(d.U8()), Leader: sharding.NodeID(d.String()),
		Code: kv.Code(d.U8()), Detail: d.String(), ID: d.U64(), Names: d.Keys(),
	}
	if a.Status == StatusStaleMap {
		d.Fail("status %d of a bucket operation", a.Status)
	}
	checkStatus(d, a.Status, a.Code)
	return a, d.Finish()
}

// Append appends the answer's encoding.
func (a BucketAnswer) Append(dst []byte) []byte {
	dst = append(dst, wireVersion, byte(a.Status))
	dst = kv.AppendString(dst, string(a.Leader))
	dst = append(dst, byte(a.Code))
	dst = kv.AppendString(dst, a.Detail)
	dst = binary.BigEndian.AppendUint64(dst, a.ID)
	return kv.AppendKeys(dst, a.Names)
}

// OpenBucket returns the id of a bucket; kv.ErrNoSuchStore after a confirmed
// read of the catalogue if there is none.
func (c *Coordinator) OpenBucket(ctx context.Context, name string) (uint64, error) {
	if err := kv.CheckBucketName(name); err != nil {
		return 0, err
	}
	a, err := c.buckets(ctx, BucketRequest{Op: BucketOpen, Name: name})
	return a.ID, err
}

// CreateBucket makes a bucket; kv.ErrExists if there is one of that name,
// kv.ErrUnknown if it may have been made.
func (c *Coordinator) CreateBucket(ctx context.Context, name string) error {
	if err := kv.CheckBucketName(name); err != nil {
		return err
	}
	_, err := c.buckets(ctx, BucketRequest{Op: BucketCreate, Name: name})
	return err
}

// ListBuckets returns the names of all buckets, sorted.
func (c *Coordinator) ListBuckets(ctx context.Context) ([]string, error) {
	a, err := c.buckets(ctx, BucketRequest{Op: BucketList})
	return a.Names, err
}

// buckets asks the leader of the meta group, whoever that is now.
func (c *Coordinator) buckets(ctx context.Context, r BucketRequest) (BucketAnswer, error) {
	request := r.Append(nil)
	pace := pace{pause: firstBackoff}
	for round := 1; ; round++ {
		a, redirected, err := c.askMeta(ctx, r, request)
		if err == nil {
			return a, nil
		}
		if !errors.Is(err, kv.ErrUnavailable) && !errors.Is(err, kv.ErrBusy) || errors.Is(err, transport.ErrClosed) {
			return BucketAnswer{}, err
		}
		if round%refreshRounds == 0 {
			c.Refresh(ctx)
		}
		if !pace.next(ctx, redirected) {
			return BucketAnswer{}, fmt.Errorf("%w: the meta group: %w; last: %w", kv.ErrUnavailable, context.Cause(ctx), err)
		}
	}
}

// askMeta asks once. An error that wraps kv.ErrUnavailable may be tried again:
// nothing was done.
func (c *Coordinator) askMeta(ctx context.Context, r BucketRequest, request []byte) (a BucketAnswer, redirected bool, err error) {
	t, err := c.table(ctx)
	if err != nil {
		return a, false, err
	}
	node := t.leader(sharding.Meta)
	var b []byte
	if r.Op == BucketCreate { // a create is sent once and waited for: see batch.exchange
		b, err = c.send(ctx, node, MethodBuckets, request)
	} else {
		attempt, done := context.WithTimeout(ctx, c.cfg.AttemptTimeout)
		defer done()
		b, err = c.send(attempt, node, MethodBuckets, request)
	}
	if err == nil {
		a, err = DecodeBucketAnswer(b)
	}
	if err != nil {
		t.suspect(sharding.Meta, node)
		lost := kv.ErrUnavailable
		if r.Op == BucketCreate {
			lost = kv.ErrUnknown
		}
		return a, false, noAnswer(fmt.Errorf("node %s: %w", node, err), lost)
	}
	switch a.Status {
	case StatusServed:
		t.setLeader(sharding.Meta, node)
		return a, false, nil
	case StatusNotLeader:
		redirected = t.follow(sharding.Meta, node, a.Leader)
		return a, redirected, fmt.Errorf("%w: %w", kv.ErrUnavailable, notLeading("the meta group", node, a.Leader))
	default:
		return a, false, r.refusal(&a)
	}
}

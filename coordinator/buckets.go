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
	BucketDelete BucketOp = 4 // the bucket of this name, if it has this id: no-such-store if not
	ClientNew    BucketOp = 5 // an id that no client has had
)

// A BucketRequest goes to the leader of the meta group:
//
//	version u8 · op u8 · name string · id u64
type BucketRequest struct {
	Op   BucketOp
	Name string // empty for list and a new client
	ID   uint64 // of delete: a name may be another bucket's by now
}

// DecodeBucketRequest reads a bucket request.
func DecodeBucketRequest(b []byte) (BucketRequest, error) {
	d := versioned(b)
	r := BucketRequest{Op: BucketOp(d.U8()), Name: d.String(), ID: d.U64()}
	if r.Op < BucketOpen || r.Op > ClientNew {
		d.Fail("bucket operation %d", r.Op)
	}
	return r, d.Finish()
}

// Append appends the request's encoding.
func (r BucketRequest) Append(dst []byte) []byte {
	return binary.BigEndian.AppendUint64(kv.AppendString(append(dst, wireVersion, byte(r.Op)), r.Name), r.ID)
}

// A BucketAnswer is
//
//	version u8 · status u8 · leader string · code u8 · detail string · id u64 · names
type BucketAnswer struct {
	Status Status // served, not leader or refused
	Leader sharding.NodeID
	Code   kv.Code // of StatusRefused
	Detail string
	ID     uint64   // of open: the bucket's; of a new client: its own
	Names  []string // of list, sorted
}

// lost is the class of a request that may have been run without an answer.
func (r BucketRequest) lost() error {
	if r.Op == BucketCreate || r.Op == BucketDelete {
		return kv.ErrUnknown
	}
	return kv.ErrUnavailable
}

// named says whether a request is about a bucket.
func (r BucketRequest) named() bool { return r.Op != BucketList && r.Op != ClientNew }

// refusal is the error of a request that was refused.
func (r BucketRequest) refusal(a *BucketAnswer) error {
	if errors.Is(r.lost(), kv.ErrUnknown) {
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
	checkMetaStatus(d, a.Status, a.Code)
	return a, d.Finish()
}

// checkMetaStatus refuses what the leader of the meta group does not answer.
func checkMetaStatus(d *kv.Decoder, s Status, code kv.Code) {
	if s == StatusStaleMap {
		d.Fail("status %d of the meta group", s)
	}
	checkStatus(d, s, code)
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

// DeleteBucket deletes a bucket and all its keys, which are gone for every caller
// at once or soon after; kv.ErrNoSuchStore if there is none of that name. What is
// deleted is the bucket that had the name when the call began, never one that was
// given the name since: a lost answer is asked for again by its id, and that it is
// not there then is a success. kv.ErrUnknown if none came in time.
func (c *Coordinator) DeleteBucket(ctx context.Context, name string) error {
	id, err := c.OpenBucket(ctx, name)
	if err != nil {
		return err
	}
	return deleteBucket(ctx, BucketRequest{Op: BucketDelete, Name: name, ID: id}, c.buckets)
}

// deleteBucket asks until it is known that the bucket is gone.
func deleteBucket(ctx context.Context, r BucketRequest, ask func(context.Context, BucketRequest) (BucketAnswer, error)) error {
	var lost error
	for pace := (pace{pause: firstBackoff}); ; {
		_, err := ask(ctx, r)
		switch {
		case lost != nil && errors.Is(err, kv.ErrNoSuchStore):
			return nil
		case err == nil, lost == nil && !errors.Is(err, kv.ErrUnknown):
			return err
		case !errors.Is(err, kv.ErrUnknown) || errors.Is(err, transport.ErrClosed):
			return asUnknown(err)
		}
		lost = err
		if !pace.next(ctx, false) {
			return lost
		}
	}
}

// newClient returns an id that no client has had.
func (c *Coordinator) newClient(ctx context.Context) (uint64, error) {
	return newClient(ctx, c.buckets)
}

func newClient(ctx context.Context, ask func(context.Context, BucketRequest) (BucketAnswer, error)) (uint64, error) {
	a, err := ask(ctx, BucketRequest{Op: ClientNew})
	if err == nil && a.ID == 0 {
		err = fmt.Errorf("%w: the meta group gave 0 for a client id", kv.ErrUnavailable)
	}
	return a.ID, err
}

// buckets asks the leader of the meta group.
func (c *Coordinator) buckets(ctx context.Context, r BucketRequest) (a BucketAnswer, err error) {
	err = c.askMeta(ctx, &metaCall{
		method: MethodBuckets, request: r.Append(nil), lost: r.lost(), once: r.Op == BucketCreate,
		take: func(b []byte) (Status, sharding.NodeID, error, error) {
			var err error
			a, err = DecodeBucketAnswer(b)
			return a.Status, a.Leader, r.refusal(&a), err
		},
	})
	if err != nil {
		return BucketAnswer{}, err
	}
	return a, nil
}

// ServeBuckets does a bucket operation for somebody else. Its error says that
// the request was malformed.
func (c *Coordinator) ServeBuckets(ctx context.Context, request []byte) ([]byte, error) {
	r, err := DecodeBucketRequest(request)
	if err != nil {
		return nil, err
	}
	if r.named() {
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

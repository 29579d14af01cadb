package coordinator

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"go.opentelemetry.io/otel/trace"

	"github.com/manykv/manykv/kv"
)

// A BatchRequest is a whole batch that a node shall coordinate, for callers
// that reach only one node:
//
//	version u8 · op u8 · bucket u64 · body
//
//	get, exists  keys
//	list         cursor u64
//	delete       origin · keys · known
//	set          origin · count varint · count × (key string · value string) · known
//	increment    origin · delta u64 (two's complement) · key string · known
//	swap         origin · version u64 · key string · value string · known
//	origin       client u64 · seq u64 · acked u64 · entry bytes u32 · layout u64
//	known        a string: empty, or the state of each key; then only what may have been applied is sent
//
// The origin is that of kv.Origin. With the entry bytes (kv.Limits) and the layout
// (layoutOf) every node cuts a write into the same commands, so that a copy of the
// request that was sent to another node is applied once all the same.
type BatchRequest struct {
	Op         Op
	Bucket     uint64
	Origin     kv.Origin // of a write, without Entry
	EntryBytes int       // of a write
	Layout     uint64    // of a write
	Keys       []string  // of get, exists, delete and increment
	Pairs      []kv.Pair // of set and swap
	Cursor     uint64    // of list
	Delta      int64     // of increment
	Version    uint64    // of swap
	Known      []byte    // of a write: nil, or one state for each key
	Trace      trace.SpanContext
}

// DecodeBatchRequest reads a batch request; values alias b.
func DecodeBatchRequest(b []byte) (*BatchRequest, error) {
	d := versioned(b)
	r := &BatchRequest{Op: Op(d.U8()), Bucket: d.U64()}
	if !r.Op.Reads() {
		r.decodeOrigin(d)
	}
	most := maxItems
	switch r.Op {
	case OpGet, OpExists, OpDelete:
		r.Keys = decodeKeys(d, &most)
	case OpList:
		r.Cursor = d.U64()
	case OpSet:
		r.Pairs = make([]kv.Pair, countUpTo(d, &most, 2, "pairs"))
		for i := range r.Pairs {
			r.Pairs[i] = kv.Pair{Key: d.String(), Value: d.Bytes()}
		}
	case OpIncrement:
		r.Delta, r.Keys = int64(d.U64()), []string{d.String()}
	case OpSwap:
		r.Version, r.Pairs = d.U64(), []kv.Pair{{Key: d.String(), Value: d.Bytes()}}
	default:
		d.Fail("operation %d", r.Op)
	}
	if !r.Op.Reads() {
		r.decodeKnown(d)
	}
	r.Trace = decodeTrace(d)
	return r, d.Finish()
}

func (r *BatchRequest) decodeKnown(d *kv.Decoder) {
	known := d.Bytes()
	if len(known) == 0 {
		return
	}
	if n := max(len(r.Keys), len(r.Pairs)); len(known) != n {
		d.Fail("states of %d keys, want %d", len(known), n)
	}
	for _, s := range known {
		if s > byte(forgotten) {
			d.Fail("state %d", s)
		}
	}
	r.Known = known
}

// withKnown returns a write's request, which was made without states, with them.
func withKnown(request []byte, known []state) []byte {
	body := request[:len(request)-1] // the last byte is the length of no states
	with := append(make([]byte, 0, len(request)+len(known)+binary.MaxVarintLen32), body...)
	with = binary.AppendUvarint(with, uint64(len(known)))
	for _, s := range known {
		with = append(with, byte(s))
	}
	return with
}

func (r *BatchRequest) decodeOrigin(d *kv.Decoder) {
	o := kv.Origin{Client: d.U64(), Seq: d.U64(), Acked: d.U64()}
	entry, layout := d.U32(), d.U64()
	switch {
	case o.Client == 0:
		d.Fail("a write without a session")
	case o.Seq <= o.Acked || o.Seq-o.Acked > kv.MaxOpenCalls:
		d.Fail("call %d of a session that has acknowledged %d", o.Seq, o.Acked)
	case layout == 0:
		d.Fail("layout 0")
	case entry == 0 || entry > kv.MaxCommandBytes:
		d.Fail("entries of %d bytes, want 1 to %d", entry, kv.MaxCommandBytes)
	}
	r.Origin, r.EntryBytes, r.Layout = o, int(entry), layout
}

// Append appends the request's encoding.
func (r *BatchRequest) Append(dst []byte) []byte {
	dst = append(dst, wireVersion, byte(r.Op))
	dst = binary.BigEndian.AppendUint64(dst, r.Bucket)
	if !r.Op.Reads() {
		dst = binary.BigEndian.AppendUint64(dst, r.Origin.Client)
		dst = binary.BigEndian.AppendUint64(dst, r.Origin.Seq)
		dst = binary.BigEndian.AppendUint64(dst, r.Origin.Acked)
		dst = binary.BigEndian.AppendUint32(dst, uint32(r.EntryBytes))
		dst = binary.BigEndian.AppendUint64(dst, r.Layout)
	}
	switch r.Op {
	case OpList:
		dst = binary.BigEndian.AppendUint64(dst, r.Cursor)
	case OpIncrement:
		dst = kv.AppendString(binary.BigEndian.AppendUint64(dst, uint64(r.Delta)), r.Keys[0])
	case OpSwap:
		dst = appendPair(binary.BigEndian.AppendUint64(dst, r.Version), &r.Pairs[0])
	case OpSet:
		dst = binary.AppendUvarint(dst, uint64(len(r.Pairs)))
		for i := range r.Pairs {
			dst = appendPair(dst, &r.Pairs[i])
		}
	default:
		dst = kv.AppendKeys(dst, r.Keys)
	}
	if !r.Op.Reads() {
		dst = kv.AppendBytes(dst, r.Known)
	}
	return appendTrace(dst, r.Trace)
}

func appendPair(dst []byte, p *kv.Pair) []byte {
	return kv.AppendBytes(kv.AppendString(dst, p.Key), p.Value)
}

// A batch answer is
//
//	version u8 · code u8 · detail string · body
//
//	body of a write: states string (one byte per key of a write that failed) · value u64
//	body of a read that succeeded, per key: get: 0, or 1 · version u64 · value string; exists: 0 or 1
//	body of a list that succeeded: keys · next u64
//
// A write that failed without states was refused before anything was sent.

// ServeBatch coordinates a batch for somebody else. Its error says that the
// request was malformed; what became of the batch is in the answer.
func (c *Coordinator) ServeBatch(ctx context.Context, request []byte) ([]byte, error) {
	r, err := DecodeBatchRequest(request)
	if err != nil {
		return nil, err
	}
	ctx = Under(ctx, r.Trace)
	if !r.Op.Reads() {
		return c.serveWrite(ctx, r), nil
	}
	var items []byte
	if r.Op == OpList {
		var keys []string
		var next uint64
		keys, next, err = c.List(ctx, r.Bucket, r.Cursor)
		items = binary.BigEndian.AppendUint64(kv.AppendKeys(nil, keys), next)
	} else {
		items, err = c.serveGet(ctx, r)
	}
	if err != nil {
		items = nil
	}
	return append(appendFailure(make([]byte, 0, len(items)+16), err), items...), nil
}

// Glance says of a batch that ServeBatch answered what it was and what became of it, to
// count it by; false if the request was malformed.
func Glance(request, answer []byte) (op Op, code kv.Code, ok bool) {
	const opAt, codeAt = 1, 1 // behind the version
	if len(request) <= opAt || len(answer) <= codeAt {
		return 0, 0, false
	}
	op = Op(request[opAt])
	return op, kv.Code(answer[codeAt]), op >= OpGet && op < OpCount
}

// serveGet reads keys and encodes what it found.
func (c *Coordinator) serveGet(ctx context.Context, r *BatchRequest) ([]byte, error) {
	if err := c.cfg.Limits.CheckKeys(r.Keys); err != nil {
		return nil, err
	}
	type item struct {
		value   []byte
		version uint64
		found   bool
	}
	each := make([]item, len(r.Keys))
	size, held, fits := 0, int64(0), true
	defer func() { c.cfg.Release(held) }()
	err := c.get(ctx, r.Op, r.Bucket, r.Keys, func(i int, value []byte, version uint64) {
		need := 2 * int64(len(value)) // as it came, and in the answer
		if fits = fits && c.cfg.Reserve(need); !fits {
			return
		}
		held += need
		each[i] = item{value, version, true}
		size += len(value)
	})
	switch {
	case err != nil:
		return nil, err
	case !fits:
		return nil, fmt.Errorf("%w: too many bytes of answers are being made on this node", kv.ErrBusy)
	}
	const overhead = 1 + 8 + binary.MaxVarintLen32
	items := make([]byte, 0, size+overhead*len(each))
	for i := range each {
		items = kv.AppendBool(items, each[i].found)
		if each[i].found && r.Op == OpGet {
			items = binary.BigEndian.AppendUint64(items, each[i].version)
			items = kv.AppendBytes(items, each[i].value)
		}
	}
	return items, nil
}

// serveWrite carries a write of somebody else's session.
func (c *Coordinator) serveWrite(ctx context.Context, r *BatchRequest) []byte {
	w := &call{
		op: r.Op, bucket: r.Bucket, size: max(len(r.Keys), len(r.Pairs)), keys: r.Keys, pairs: r.Pairs,
		delta: r.Delta, version: r.Version, origin: r.Origin, entry: r.EntryBytes,
		layout: r.Layout, pinned: true,
	}
	err := errors.Join(c.cfg.Limits.CheckKeys(r.Keys), c.cfg.Limits.CheckPairs(r.Pairs))
	if err == nil && w.size > 0 {
		w.known, w.settling = make([]state, w.size), len(r.Known) > 0
		for i, s := range r.Known {
			w.known[i] = state(s)
		}
		ctx, done := context.WithTimeout(ctx, retryWindow)
		defer done()
		err = w.result(c.carry(ctx, w))
	}
	answer := appendFailure(make([]byte, 0, len(w.known)+32), err)
	if err == nil {
		w.known = nil
	}
	answer = binary.AppendUvarint(answer, uint64(len(w.known)))
	for _, s := range w.known {
		answer = append(answer, byte(s))
	}
	return binary.BigEndian.AppendUint64(answer, w.value)
}

// appendFailure begins a batch answer.
func appendFailure(dst []byte, err error) []byte {
	dst = append(dst, wireVersion, byte(kv.CodeOf(err)))
	detail := ""
	if err != nil {
		detail = cause(err).Error()
	}
	return kv.AppendString(dst, detail)
}

// readFailure reads the beginning of a batch answer.
func readFailure(d *kv.Decoder) (code kv.Code, detail string) {
	return kv.Code(d.U8()), d.String()
}

// takeAnswer takes in the answer to a write and returns the error that the node
// made of it; nil if all was applied.
func (w *call) takeAnswer(b []byte) error {
	d := versioned(b)
	code, detail := readFailure(d)
	states, value := d.Bytes(), d.U64()
	err := d.Finish()
	if n := len(states); err == nil && n != 0 && n != w.size {
		err = fmt.Errorf("%d states of %d keys", n, w.size)
	}
	if err != nil {
		w.learnAll(maybe)
		return fmt.Errorf("%w: the answer: %w", kv.ErrUnknown, err)
	}
	if code == kv.CodeOK {
		w.learnAll(applied)
		w.value = value
		return nil
	}
	err = code.Err(detail)
	if len(states) == 0 && errors.Is(err, kv.ErrUnknown) {
		w.learnAll(maybe)
	}
	for i, said := range states {
		if said > byte(forgotten) { // of a later version: nothing is known about it
			said = byte(maybe)
		}
		w.known[i] = w.known[i].after(state(said))
		if w.known[i] == refused && w.refusal == nil {
			w.refusal = err
		}
	}
	return err
}

package coordinator

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/mutant"
	"github.com/manykv/manykv/sharding"
)

// state is what is known of a command, or of one key of a write. The numbers are
// part of the protocol.
type state uint8

const (
	// unsent: no copy was applied, and none can be.
	unsent state = iota
	// maybe: a copy was applied, or may be yet; asking again will tell.
	maybe
	// applied, and no copy is applied a second time.
	applied
	// refused by the state machine, which refuses every copy.
	refused
	// forgotten: no copy will be applied, and nobody knows whether one was.
	forgotten
)

// settled says that nothing will change any more.
func (s state) settled() bool { return s >= applied }

func (s state) outcome() kv.Outcome {
	switch s {
	case unsent, refused:
		return kv.OutcomeNotApplied
	case applied:
		return kv.OutcomeApplied
	default:
		return kv.OutcomeUnknown
	}
}

// after is the state after an answer said s of a copy: what is settled stays, and
// a copy that was not applied says nothing of another.
func (s state) after(said state) state {
	if s.settled() || said == unsent {
		return s
	}
	return said
}

// call is one write, from its first attempt until nobody can ask for it again. It
// belongs to the goroutine that carries it; between two of them, to its session.
type call struct {
	op      Op
	bucket  uint64
	size    int
	keys    []string  // of a delete and an increment; the caller's, and never read after the first carry
	pairs   []kv.Pair // of a set and a swap; as keys
	delta   int64     // of an increment
	version uint64    // of a swap: what the key must have
	origin  kv.Origin // without Entry
	entry   int       // kv.Limits.EntryBytes that the commands are cut by
	layout  uint64    // of the map that the parts are cut by
	pinned  bool      // somebody else chose the layout, and may have sent a copy

	parts   []*part // by a coordinator: cut once, so that copies of a command are equal
	request []byte  // by a Through: encoded once
	bytes   int     // of both

	known   []state // by position
	value   uint64  // of an applied increment or swap
	refusal error   // of the first command that the state machine refused

	began    time.Time
	held     bool // by its session
	settling bool // nothing of it is begun any more: it is only found out what became of what may have been applied
}

// errNotBegun is the cause of a call that was sent again of which something was
// not applied, and is not begun: its caller was told so, and may have written
// something else since.
var errNotBegun = fmt.Errorf("%w: what was not applied at first is not begun again", kv.ErrUnavailable)

// late says that a call may not be sent any more. A machine that slept has passed
// time only by its wall clock, so whichever clock says more counts.
func (w *call) late() bool {
	now := time.Now()
	return now.Sub(w.began) >= retryWindow || now.Round(0).Sub(w.began.Round(0)) >= retryWindow
}

// errLate is the cause of a call that was not settled in time.
var errLate = fmt.Errorf("%w: the call began more than %v ago", kv.ErrUnavailable, retryWindow)

// command is what a shard applies as a unit: an entry of its log, or with others in one.
type command struct {
	bytes     []byte
	positions []int // what becomes visible with it: nothing with a piece of a value
	state     state
}

func (w *call) key(i int) string {
	if w.pairs != nil {
		return w.pairs[i].Key
	}
	return w.keys[i]
}

// learn notes what an answer said of a command.
func (w *call) learn(c *command, said state) {
	c.state = c.state.after(said)
	for _, i := range c.positions {
		w.known[i] = c.state
	}
}

// learnAll notes the same of every key.
func (w *call) learnAll(said state) {
	for i := range w.known {
		w.known[i] = w.known[i].after(said)
	}
}

// untouched says that no shard can have seen anything of the call.
func (w *call) untouched() bool {
	for _, p := range w.parts {
		for _, c := range p.commands {
			if c.state != unsent {
				return false
			}
		}
	}
	return !slices.ContainsFunc(w.known, func(s state) bool { return s != unsent })
}

// result is what the caller hears of the call: nil if all was applied, else a
// *kv.BatchError of which cause is the cause.
func (w *call) result(cause error) error {
	outcomes := make([]kv.Outcome, w.size)
	for i, s := range w.known {
		outcomes[i] = s.outcome()
	}
	unknown := slices.Contains(outcomes, kv.OutcomeUnknown)
	switch {
	case !unknown && !slices.Contains(outcomes, kv.OutcomeNotApplied):
		return nil
	case cause == nil && w.refusal != nil:
		cause = w.refusal
	case cause == nil:
		cause = fmt.Errorf("%w: the call is forgotten", kv.ErrUnknown)
	}
	switch {
	case unknown:
		cause = asUnknown(cause)
	case errors.Is(cause, kv.ErrUnknown): // of a copy; by now more is known, or a code is of a later version
		cause = fmt.Errorf("%w: %s", kv.ErrUnavailable, cause.Error())
	}
	return &kv.BatchError{Op: w.op.String(), Outcomes: outcomes, Err: cause}
}

// cut makes the parts of a call by a map, and each part's commands.
func (w *call) cut(m *sharding.Map, limits kv.Limits) {
	limits.EntryBytes = w.entry
	byShard := make([]*part, len(m.Groups)+1)
	w.parts, w.bytes = nil, 0
	for i := range w.size {
		s := m.ShardOfKey(w.bucket, w.key(i))
		p := byShard[s]
		if p == nil {
			p = &part{shard: s, positions: make([]int, 0, 2*w.size/len(m.Groups)+1)}
			byShard[s] = p
			w.parts = append(w.parts, p)
		}
		p.positions = append(p.positions, i)
	}
	for _, p := range w.parts {
		packer := packer{call: w, part: p, limits: limits}
		packer.pack()
		p.inherit(w.known)
	}
}

// inherit gives commands that were just cut what is known of their keys, from
// copies that another node sent. A piece has the state of its value's end.
func (p *part) inherit(known []state) {
	after := unsent
	for _, c := range slices.Backward(p.commands) {
		if len(c.positions) > 0 {
			after = unsent
			for _, i := range c.positions {
				after = max(after, known[i]) // keys of one command differ only if nothing is known of some
			}
		}
		c.state = after
	}
}

// bind notes that what stands before a command that may have been applied may be
// applied, too: a shard takes commands in their order, so to ask for the later one
// again is to send the earlier one.
func (w *call) bind() {
	for _, p := range w.parts {
		later := false
		for _, c := range slices.Backward(p.commands) {
			switch {
			case c.state == maybe:
				later = true
			case c.state == unsent && later:
				w.learn(c, maybe)
			}
		}
	}
}

// packer packs a part of a write into commands, in order.
type packer struct {
	call   *call
	part   *part
	limits kv.Limits

	// Of a set or delete: what goes into the next command.
	pairs     []kv.Pair
	keys      []string
	positions []int
	size      int
}

func (k *packer) pack() {
	w := k.call
	for _, i := range k.part.positions {
		switch {
		case w.op == OpIncrement:
			k.add(kv.AppendIncrement(nil, k.origin(), w.bucket, w.keys[i], w.delta), []int{i})
		case w.op == OpDelete:
			k.gather(i, len(w.keys[i]))
			k.keys = append(k.keys, w.keys[i])
		case !k.limits.PairFits(w.pairs[i]):
			k.flush()
			k.pieces(i)
		case w.op == OpSwap:
			k.add(kv.AppendSwap(nil, k.origin(), w.bucket, w.version, w.pairs[i]), []int{i})
		default:
			k.gather(i, len(w.pairs[i].Key)+len(w.pairs[i].Value))
			k.pairs = append(k.pairs, w.pairs[i])
		}
	}
	k.flush()
}

// origin is the next command's.
func (k *packer) origin() kv.Origin {
	o := k.call.origin
	o.Entry = uint32(len(k.part.commands))
	return o
}

func (k *packer) add(bytes []byte, positions []int) {
	k.part.commands = append(k.part.commands, &command{bytes: bytes, positions: positions})
	k.call.bytes += len(bytes)
}

// gather makes room for a position in the next command: of at most
// Limits.EntryBytes, or of one pair.
func (k *packer) gather(i, bytes int) {
	bytes += 2 * binary.MaxVarintLen32
	if k.size > 0 && k.size+bytes > k.limits.EntryBytes-kv.CommandOverhead {
		k.flush()
	}
	k.size += bytes
	k.positions = append(k.positions, i)
}

// flush makes a command of what was gathered.
func (k *packer) flush() {
	if len(k.positions) == 0 {
		return
	}
	bytes := make([]byte, 0, k.size+kv.CommandOverhead)
	if k.call.op == OpSet {
		bytes = kv.AppendSet(bytes, k.origin(), k.call.bucket, k.pairs)
	} else {
		bytes = kv.AppendDelete(bytes, k.origin(), k.call.bucket, k.keys)
	}
	k.add(bytes, k.positions)
	k.pairs, k.keys, k.positions, k.size = k.pairs[:0], k.keys[:0], nil, 0
}

// pieces makes the commands of a value that is too large for one.
func (k *packer) pieces(i int) {
	w := k.call
	key, value := w.pairs[i].Key, w.pairs[i].Value
	each := k.limits.PieceBytes(key)
	offset := 0
	for ; len(value)-offset > each; offset += each {
		piece := kv.Pair{Key: key, Value: value[offset : offset+each]}
		k.add(kv.AppendPiece(make([]byte, 0, len(key)+each+kv.CommandOverhead), k.origin(), w.bucket, uint64(offset), piece), nil)
	}
	last := kv.Pair{Key: key, Value: value[offset:]}
	k.add(kv.AppendLast(nil, k.origin(), w.bucket, uint64(offset), w.op == OpSwap, w.version, last), []int{i})
}

// wanted returns the commands of a part that are still to be asked for, in order;
// if only is set, no more of them than it takes to learn what became of those
// that may have been applied.
func (p *part) wanted(only bool) []*command {
	var out []*command
	end := 0
	for _, c := range p.commands {
		if c.state.settled() {
			continue
		}
		out = append(out, c)
		if c.state == maybe {
			end = len(out)
		}
	}
	if only {
		return out[:end]
	}
	return out
}

// carry takes a call to its shards and returns why it ended before all of it was
// settled; nil if it was.
func (c *Coordinator) carry(ctx context.Context, w *call) error {
	b := &batch{c: c, op: w.op, bucket: w.bucket, size: w.size, call: w}
	if w.settling {
		b.refused = errNotBegun
	}
	b.run(ctx)
	w.bind()
	switch {
	case b.failed != nil:
		return b.failed
	case w.settling && w.refusal != nil:
		return w.refusal
	case b.refused != nil:
		return b.refused
	case b.left():
		return b.timeUp(ctx)
	default:
		return nil
	}
}

// splitWrite groups what is left of a write by the nodes that lead its shards. Its
// commands have their numbers in their shard; in another they would be other ones,
// which could be applied besides them. So it is cut anew only while nobody can have
// seen any.
func (b *batch) splitWrite(t *table) []*exchange {
	w := b.call
	if w.layout != t.layout && !w.pinned && w.untouched() {
		w.layout, w.parts = t.layout, nil
	}
	switch {
	case w.layout != t.layout:
		b.fail(fmt.Errorf("%w: the shards' ranges have changed since the write began", kv.ErrUnavailable))
		return nil
	case w.parts == nil:
		w.cut(t.byEpoch, b.c.cfg.Limits)
	}
	var group grouping
	sent := 0
	for _, p := range w.parts {
		if p.sent = p.wanted(b.refused != nil); len(p.sent) > 0 {
			group.add(b.target(t, p.shard), p)
			sent++
		}
	}
	b.wide = 4*sent >= 3*len(t.byEpoch.Groups) && w.untouched()
	return group.exchanges
}

// settleWrite takes in one part of a write: each command that was proposed has a
// result, those after them were certainly not proposed.
func (b *batch) settleWrite(p *part, a *PartAnswer) {
	if len(a.Results) > len(p.sent) {
		b.lost(p, fmt.Errorf("shard %d gave %d results to %d commands", p.shard, len(a.Results), len(p.sent)))
		return
	}
	for n := range a.Results {
		r := &a.Results[n]
		switch {
		case r.Outcome == kv.OutcomeApplied:
			b.call.learn(p.sent[n], applied)
			if len(p.sent[n].positions) > 0 {
				b.call.value = r.Value
			}
		case r.decided():
			b.call.learn(p.sent[n], refused)
			b.refuse(b.refusalOf(p, r))
		case r.Outcome == kv.OutcomeNotApplied:
			if err := r.Code.Err(r.Detail); err != nil {
				b.last = fmt.Errorf("shard %d: %w", p.shard, err)
			}
			if !b.retryable(r.Code, r.Detail) {
				b.fail(r.Code.Err(r.Detail))
			}
		case r.Forgotten:
			b.call.learn(p.sent[n], forgotten)
			b.fail(fmt.Errorf("%w: shard %d: %s", kv.ErrUnknown, p.shard, r.Detail))
		case mutant.On(mutant.LostPart):
			b.call.learn(p.sent[n], applied)
		default:
			b.call.learn(p.sent[n], maybe)
			b.last = fmt.Errorf("shard %d: %s", p.shard, r.Detail)
		}
	}
	if a.Status == StatusRefused && len(a.Results) < len(p.sent) && !b.retryable(a.Code, a.Detail) {
		b.fail(a.Code.Err(a.Detail))
	}
}

// decided says that the state machine has applied or refused the command, for good.
func (r *Result) decided() bool {
	return r.Outcome == kv.OutcomeApplied || r.Outcome == kv.OutcomeNotApplied && verdict(r.Code)
}

// verdict says whether a code is one that the state machine gives, and gives
// again to every copy of the command.
func verdict(c kv.Code) bool {
	switch c {
	case kv.CodeNoSuchStore, kv.CodeExists, kv.CodeInvalid, kv.CodeTooLarge, kv.CodeConflict:
		return true
	default:
		return false
	}
}

// refusalOf is the error of a command that the state machine refused.
func (b *batch) refusalOf(p *part, r *Result) error {
	if r.Code == kv.CodeConflict {
		return fmt.Errorf("%w: the key has version %d, expected was %d", kv.ErrConflict, r.Value, b.call.version)
	}
	return fmt.Errorf("shard %d: %w", p.shard, r.Code.Err(r.Detail))
}

// refuse notes that nothing more shall be begun. What may have been applied is
// still asked for.
func (b *batch) refuse(err error) {
	if b.refused == nil {
		b.refused = err
	}
	if b.call.refusal == nil {
		b.call.refusal = err
	}
}

// lost notes that every command of a part that was sent may have been applied.
func (b *batch) lost(p *part, why error) {
	b.last = why
	for _, c := range p.sent {
		b.call.learn(c, maybe)
	}
}

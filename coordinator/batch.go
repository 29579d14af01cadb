package coordinator

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
	"github.com/manykv/manykv/transport"
)

const (
	// busyRetries is how often a busy node is asked again before the caller
	// hears of it.
	busyRetries = 6
	// refreshRounds is how many rounds may fail before somebody else is asked
	// for a newer map: every node of the old one may have moved.
	refreshRounds = 4
	// slowShare is the part of the time for one node, at its end, in which an answer
	// is one that the time ran out: a node answers a little before its callers leave.
	slowShare = 4
	// writeAttempts is how many times longer than a read a write waits for one
	// node. A copy of a read costs little, one of a write an entry of the log.
	writeAttempts = 2
)

// batch is one call on its way. Only the calling goroutine touches it; the
// goroutines of a round touch their own exchange.
type batch struct {
	c      *Coordinator
	op     Op
	bucket uint64
	size   int
	keys   []string                                  // of a read
	found  func(i int, value []byte, version uint64) // of a read
	page   *page                                     // of a list
	call   *call                                     // of a write

	pending    []int // of a read: positions still to be done
	toLeader   bool  // a replica was behind: ask leaders from now on
	alone      bool  // share no requests from now on
	wide       bool  // of a write: it is new, and goes to three quarters of all shards or more (combine.go)
	answered   int   // bytes of values so far
	busy       int   // rounds that met a busy node
	slow       int   // rounds in which the time for one node ran out
	failed     error // final
	refused    error // of a write: nothing more is begun
	last       error // why something is still to be done
	rounds     int   // done so far
	redirected bool  // the last round learned where to go
	rest       int   // positions that the last round's answers left for another
	progress   int   // and that they answered
	refusal    error // the last round met a busy node
}

// part is what of the batch belongs to one shard: of a read in one round, of a
// write from the beginning to the end.
type part struct {
	shard     sharding.Shard
	positions []int
	slots     sharding.Range // of a read: the shard's
	commands  []*command     // of a write: all
	sent      []*command     // of a write: those of this round
}

// exchange is one request of a round and its answer.
type exchange struct {
	node    sharding.NodeID
	epoch   uint64 // of the map that was looked into
	parts   []*part
	answer  *Answer
	err     error
	slow    bool // the time for one node ran out
	excused bool // it was shared with others, and a part of it was refused
}

// grouping groups parts by the node that is to serve them.
type grouping struct {
	byNode    map[sharding.NodeID]*exchange
	exchanges []*exchange
}

func (g *grouping) add(node sharding.NodeID, p *part) {
	x := g.byNode[node]
	if x == nil {
		if g.byNode == nil {
			g.byNode = make(map[sharding.NodeID]*exchange)
		}
		x = &exchange{node: node}
		g.byNode[node] = x
		g.exchanges = append(g.exchanges, x)
	}
	x.parts = append(x.parts, p)
}

// left says whether anything is still to be done.
func (b *batch) left() bool {
	if b.call == nil {
		return len(b.pending) > 0
	}
	if b.call.parts == nil {
		return true
	}
	for _, p := range b.call.parts {
		if len(p.wanted(b.refused != nil)) > 0 {
			return true
		}
	}
	return false
}

// run does rounds until nothing is left, something failed for good or ctx ends. A
// round looks for the leaders by the newest map, so a stale map, a redirect and a
// dead node are all healed by the next one.
func (b *batch) run(ctx context.Context) {
	ctx, span := b.begin(ctx)
	defer func() { span.end(b.ended()) }()
	if b.call == nil {
		b.pending = make([]int, b.size)
		for i := range b.pending {
			b.pending[i] = i
		}
	}
	pace := pace{pause: firstBackoff}
	for b.left() && b.failed == nil {
		if b.call != nil && !b.call.began.IsZero() && b.call.late() {
			b.fail(errLate)
			return
		}
		// What a page of answers left is asked for at once: nothing went wrong.
		if paged := b.rest > 0 && b.rest == len(b.pending); !paged {
			if b.rounds > 0 && !pace.next(ctx, b.redirected) {
				return
			}
			if b.rounds%refreshRounds == refreshRounds-1 {
				b.c.Refresh(ctx)
			}
			b.rounds++
		}
		t, err := b.c.table(ctx)
		if err != nil {
			b.last, b.redirected = err, false
			continue
		}
		b.round(ctx, t)
	}
}

// round sends one request to each node that has something to do and takes in the
// answers.
func (b *batch) round(ctx context.Context, t *table) {
	exchanges := b.split(t)
	b.pending, b.rest, b.progress = b.pending[:0], 0, 0
	if len(exchanges) == 1 {
		b.exchange(ctx, exchanges[0])
	} else {
		var all sync.WaitGroup
		for _, x := range exchanges {
			all.Go(func() { b.exchange(ctx, x) })
		}
		all.Wait()
	}
	b.redirected, b.refusal = false, nil
	slow := false
	for _, x := range exchanges {
		b.redirected = b.settle(t, x) || b.redirected
		slow = slow || x.slow
		b.alone = b.alone || x.excused
	}
	if slow {
		b.slow++
	}
	if b.rest > 0 && b.progress == 0 { // for ever, maybe: a node answers one key at least
		b.fail(fmt.Errorf("%w: answers of 0 items to %d keys", kv.ErrUnavailable, b.rest))
	}
	if b.refusal == nil {
		return
	}
	if b.busy++; b.busy > busyRetries {
		if b.call == nil {
			b.fail(b.refusal)
		} else if b.refused == nil {
			b.refused = b.refusal
		}
	}
}

// split groups what is left by shard, and the shards by node.
func (b *batch) split(t *table) []*exchange {
	var exchanges []*exchange
	if b.call != nil {
		exchanges = b.splitWrite(t)
	} else {
		exchanges = b.splitRead(t)
	}
	for _, x := range exchanges {
		x.epoch = t.byEpoch.Epoch
	}
	return exchanges
}

func (b *batch) splitRead(t *table) []*exchange {
	m := t.byEpoch
	byShard := make([]*part, len(m.Groups)+1)
	var group grouping
	for _, i := range b.pending {
		s := b.shard(m, i)
		p := byShard[s]
		if p == nil {
			p = &part{shard: s, slots: m.Group(s).Range, positions: make([]int, 0, 2*len(b.pending)/len(m.Groups)+1)}
			byShard[s] = p
			group.add(b.target(t, s), p)
		}
		p.positions = append(p.positions, i)
	}
	return group.exchanges
}

// shard returns where a position of a read is answered.
func (b *batch) shard(m *sharding.Map, i int) sharding.Shard {
	if b.op == OpList {
		return m.GroupOf(sharding.SlotOf(b.page.cursor)).Shard
	}
	return m.ShardOfKey(b.bucket, b.keys[i])
}

// target chooses the node for a shard: a node reads its own replica, everything
// else goes to the leader.
func (b *batch) target(t *table, s sharding.Shard) sharding.NodeID {
	if b.op.Reads() && !b.toLeader && b.c.cfg.Self != "" && t.holds(s, b.c.cfg.Self) {
		return b.c.cfg.Self
	}
	return t.leader(s)
}

// encode writes the request of one node.
func (b *batch) encode(x *exchange) []byte {
	own := b.op.Reads() && !b.toLeader && x.node == b.c.cfg.Self
	req := appendRequestHeader(nil, x.epoch, b.op, own, b.bucket, len(x.parts))
	for _, p := range x.parts {
		switch {
		case b.op == OpList:
			req = binary.BigEndian.AppendUint32(req, uint32(p.shard))
			req = binary.BigEndian.AppendUint64(req, b.page.cursor)
			req = binary.AppendUvarint(req, uint64(b.page.most))
		case b.op.Reads():
			req = appendPartHeader(req, p.shard, len(p.positions))
			for _, i := range p.positions {
				req = kv.AppendString(req, b.keys[i])
			}
		default:
			req = appendCommands(appendPartHeader(req, p.shard, len(p.sent)), p.sent)
		}
	}
	return req
}

// appendPartHeader begins a part of n keys or commands.
func appendPartHeader(dst []byte, s sharding.Shard, n int) []byte {
	return binary.AppendUvarint(binary.BigEndian.AppendUint32(dst, uint32(s)), uint64(n))
}

func appendCommands(dst []byte, commands []*command) []byte {
	for _, c := range commands {
		dst = kv.AppendBytes(dst, c.bytes)
	}
	return dst
}

// exchange sends one request. It has less than the whole time, so that a paused
// node does not use it all up; after each time that was too short it has more, so
// that a large message over a slow link arrives at last.
func (b *batch) exchange(ctx context.Context, x *exchange) {
	most := b.c.cfg.AttemptTimeout * time.Duration(b.slow+1)
	if b.call != nil {
		most *= writeAttempts
	}
	attempt, done := context.WithTimeout(ctx, most)
	defer done()
	attempt, span := x.begin(attempt, b.c.cfg.Tracer)
	defer func() { span.end(x.err) }()
	began := time.Now()
	answer, err := b.send(attempt, x, span.place())
	x.slow = attempt.Err() != nil || time.Since(began) > most-most/slowShare
	if err == nil && len(answer.Parts) != len(x.parts) {
		err = fmt.Errorf("node %s answered %d parts of %d", x.node, len(answer.Parts), len(x.parts))
	}
	x.answer, x.err = answer, err
}

// send sends the request, of a write maybe with others, and returns the answer to its
// parts. place is that of the request's span.
func (b *batch) send(ctx context.Context, x *exchange, place trace.SpanContext) (*Answer, error) {
	if b.call == nil {
		return b.sendAlone(ctx, x, place)
	}
	return b.sendWrite(ctx, x, place)
}

func (b *batch) sendAlone(ctx context.Context, x *exchange, place trace.SpanContext) (*Answer, error) {
	return b.c.ask(ctx, x.node, appendTrace(b.encode(x), place))
}

// settle takes in what came of one request; true if it taught where to go next.
func (b *batch) settle(t *table, x *exchange) (redirected bool) {
	if x.err != nil {
		b.settleError(t, x)
		return false
	}
	if x.answer.Map != nil {
		b.c.UseMap(x.answer.Map)
	}
	for n, p := range x.parts {
		a := &x.answer.Parts[n]
		if a.Shard != p.shard {
			b.unsettled(p, kv.OutcomeUnknown, fmt.Errorf("node %s answered shard %d, asked was %d", x.node, a.Shard, p.shard))
			continue
		}
		switch a.Status {
		case StatusServed:
			t.setLeader(p.shard, a.Leader)
		case StatusNotLeader:
			redirected = b.follow(t, p.shard, x.node, a.Leader) || redirected
			b.last = notLeading(fmt.Sprintf("shard %d", p.shard), x.node, a.Leader)
		case StatusStaleMap:
			redirected = x.answer.Map != nil || redirected
			b.last = fmt.Errorf("shard %d: the map of epoch %d is not node %s's", p.shard, t.byEpoch.Epoch, x.node)
		default:
			b.last = fmt.Errorf("shard %d on node %s: %w", p.shard, x.node, a.Code.Err(a.Detail))
			if a.Code == kv.CodeUnavailable { // it may be of no cluster any more: ask another, which knows who leads
				t.suspect(p.shard, x.node)
			}
		}
		if b.call == nil {
			b.settleRead(p, a)
		} else {
			b.settleWrite(p, a)
		}
	}
	return redirected
}

// follow notes who leads after a node said it does not.
func (b *batch) follow(t *table, s sharding.Shard, asked, leader sharding.NodeID) bool {
	if asked == b.c.cfg.Self {
		b.toLeader = true
	}
	return t.follow(s, asked, leader)
}

// settleError takes in a request that got no answer.
func (b *batch) settleError(t *table, x *exchange) {
	err := fmt.Errorf("node %s: %w", x.node, x.err)
	class := noAnswer(err, kv.ErrUnknown)
	var remote *transport.RemoteError
	switch {
	case errors.Is(class, kv.ErrAccessDenied):
		b.fail(class)
	case errors.Is(class, kv.ErrBusy):
		b.refusal = class
	case errors.Is(err, transport.ErrClosed) && b.call == nil:
		b.fail(fmt.Errorf("%w: %w", kv.ErrUnavailable, err))
	case errors.Is(err, transport.ErrClosed):
		b.fail(class)
	case b.op.Reads() && errors.As(err, &remote):
		b.fail(fmt.Errorf("%w: %w", kv.ErrInvalid, err))
	}
	if x.node == b.c.cfg.Self {
		b.toLeader = true // the own replica does not answer
	}
	for _, p := range x.parts {
		t.suspect(p.shard, x.node)
		b.unsettled(p, sentOutcome(err), err)
	}
}

// unsettled leaves a part to be asked for again. Of a write it makes a difference
// whether the node may have run it.
func (b *batch) unsettled(p *part, outcome kv.Outcome, why error) {
	b.last = why
	switch {
	case b.call == nil:
		b.pending = append(b.pending, p.positions...)
	case outcome != kv.OutcomeNotApplied:
		b.lost(p, why)
	}
}

// retryable says whether a refusal may pass. How often a busy node is asked
// again is counted by round.
func (b *batch) retryable(code kv.Code, detail string) bool {
	if code == kv.CodeBusy {
		b.refusal = code.Err(detail)
	}
	return mayPass(code)
}

// mayPass says of a code that what is asked again may be served.
func mayPass(code kv.Code) bool {
	return code == kv.CodeOK || code == kv.CodeUnavailable || code == kv.CodeBusy
}

// fail ends the batch after this round. An unknown outcome is the stronger
// word: it replaces any other.
func (b *batch) fail(err error) {
	if b.failed == nil || errors.Is(err, kv.ErrUnknown) && !errors.Is(b.failed, kv.ErrUnknown) {
		b.failed = err
	}
}

// ended is why a batch ended without having done everything; nil if it did.
func (b *batch) ended() error {
	if b.failed == nil && b.left() {
		return b.last
	}
	return b.failed
}

// timeUp is the error of a batch whose time ran out.
func (b *batch) timeUp(ctx context.Context) error {
	why := context.Cause(ctx)
	if b.last != nil {
		why = fmt.Errorf("%w; last: %w", why, b.last)
	}
	class, left := kv.ErrUnavailable, len(b.pending)
	if b.call != nil {
		for _, s := range b.call.known {
			if !s.settled() {
				left++
			}
			if s == maybe {
				class = kv.ErrUnknown
			}
		}
	}
	return fmt.Errorf("%w: %d of %d keys: %w", class, left, b.size, why)
}

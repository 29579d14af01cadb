package coordinator

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
	"github.com/manykv/manykv/transport"
)

const (
	// firstBackoff and lastBackoff bound the pause between two rounds: short
	// against an election (1 s), long against a round trip.
	firstBackoff = 5 * time.Millisecond
	lastBackoff  = 200 * time.Millisecond
	// busyRetries is how often a busy node is asked again before the caller
	// hears of it.
	busyRetries = 6
	// maxHops is how many redirects are followed without a pause: a stale map
	// and a moved leader. More mean an election is going on.
	maxHops = 2
	// refreshRounds is how many rounds may fail before somebody else is asked
	// for a newer map: every node of the old one may have moved.
	refreshRounds = 4
)

// batch is one call on its way. Only the calling goroutine touches it; the
// goroutines of a round touch their own exchange.
type batch struct {
	c      *Coordinator
	op     Op
	bucket uint64
	size   int
	keys   []string // of everything but set
	pairs  []kv.Pair
	found  func(i int, value []byte) // of a read

	pending    []int        // positions still to be done; those of one key in the caller's order
	outcomes   []kv.Outcome // of a write, by position
	toLeader   bool         // a replica was behind: ask leaders from now on
	answered   int          // bytes of values so far
	busy       int          // rounds that met a busy node
	slow       int          // rounds in which a read's time for one node ran out
	failed     error        // final
	last       error        // why positions are still pending
	rounds     int          // done so far
	redirected bool         // the last round learned where to go
	refusal    error        // the last round met a busy node
}

// part is what of the batch belongs to one shard in one round.
type part struct {
	shard     sharding.Shard
	positions []int
	ends      []int // of a write: where in positions each command ends
}

// exchange is one request of a round and its answer.
type exchange struct {
	node    sharding.NodeID
	parts   []*part
	request []byte
	answer  *Answer
	err     error
	slow    bool // a read's time for one node ran out
}

func (b *batch) key(i int) string {
	if b.op == OpSet {
		return b.pairs[i].Key
	}
	return b.keys[i]
}

// run does rounds until nothing is pending, something failed for good or ctx
// ends. A round splits what is pending by the newest map, so a stale map, a
// redirect and a dead node are all healed by the next one.
func (b *batch) run(ctx context.Context) {
	b.pending = make([]int, b.size)
	for i := range b.pending {
		b.pending[i] = i
	}
	pace := pace{pause: firstBackoff}
	for ; len(b.pending) > 0 && b.failed == nil; b.rounds++ {
		if b.rounds > 0 && !pace.next(ctx, b.redirected) {
			return
		}
		if b.rounds%refreshRounds == refreshRounds-1 {
			b.c.Refresh(ctx)
		}
		t, err := b.c.table(ctx)
		if err != nil {
			b.last, b.redirected = err, false
			continue
		}
		b.round(ctx, t)
	}
}

// pace is what separates the rounds of one call: nothing after the first few
// redirects, else a pause that grows.
type pace struct {
	pause time.Duration
	hops  int // redirects followed at once
}

// next waits until the next round may begin; false if ctx ended first.
func (p *pace) next(ctx context.Context, redirected bool) bool {
	if redirected && p.hops < maxHops {
		p.hops++
		return true
	}
	pause := p.pause
	p.pause = min(2*pause, lastBackoff)
	return sleep(ctx, pause+rand.N(pause))
}

// sleep waits for d; false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// round sends one request to each node that has something pending and takes in
// the answers.
func (b *batch) round(ctx context.Context, t *table) {
	exchanges := b.split(t)
	b.pending = b.pending[:0]
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
	}
	if slow {
		b.slow++
	}
	if b.refusal != nil {
		if b.busy++; b.busy > busyRetries {
			b.fail(b.refusal)
		}
	}
}

// split cuts what is pending into parts by shard and groups the parts by node.
func (b *batch) split(t *table) []*exchange {
	m := t.byEpoch
	byShard := make([]*part, len(m.Groups)+1)
	byNode := make(map[sharding.NodeID]*exchange, len(m.Nodes))
	var exchanges []*exchange
	for _, i := range b.pending {
		s := m.ShardOfKey(b.bucket, b.key(i))
		p := byShard[s]
		if p == nil {
			p = &part{shard: s, positions: make([]int, 0, 2*len(b.pending)/len(m.Groups)+1)}
			byShard[s] = p
			node := b.target(t, s)
			x := byNode[node]
			if x == nil {
				x = &exchange{node: node}
				byNode[node] = x
				exchanges = append(exchanges, x)
			}
			x.parts = append(x.parts, p)
		}
		p.positions = append(p.positions, i)
	}
	for _, x := range exchanges {
		x.request = b.encode(m.Epoch, x)
	}
	return exchanges
}

// target chooses the node for a shard: a node reads its own replica, everything
// else goes to the leader.
func (b *batch) target(t *table, s sharding.Shard) sharding.NodeID {
	if b.op.reads() && !b.toLeader && b.c.cfg.Self != "" && t.holds(s, b.c.cfg.Self) {
		return b.c.cfg.Self
	}
	return t.leader(s)
}

// encode writes the request of one node. A write's pairs become commands of at
// most Limits.EntryBytes, or of one larger pair.
func (b *batch) encode(epoch uint64, x *exchange) []byte {
	own := b.op.reads() && !b.toLeader && x.node == b.c.cfg.Self
	req := appendRequestHeader(nil, epoch, b.op, own, b.bucket, len(x.parts))
	for _, p := range x.parts {
		req = binary.BigEndian.AppendUint32(req, uint32(p.shard))
		if b.op.reads() {
			req = binary.AppendUvarint(req, uint64(len(p.positions)))
			for _, i := range p.positions {
				req = kv.AppendString(req, b.keys[i])
			}
			continue
		}
		commands := b.commands(p)
		req = binary.AppendUvarint(req, uint64(len(commands)))
		for _, c := range commands {
			req = kv.AppendBytes(req, c)
		}
	}
	return req
}

// commands packs a part into commands, in order.
func (b *batch) commands(p *part) [][]byte {
	var out [][]byte
	most := b.c.cfg.Limits.EntryBytes - kv.CommandOverhead
	p.ends = p.ends[:0]
	var pairs []kv.Pair
	var keys []string
	size := 0
	cut := func(end int) {
		if b.op == OpSet {
			out = append(out, kv.AppendSet(make([]byte, 0, size+kv.CommandOverhead+8*len(pairs)), b.bucket, pairs))
		} else {
			out = append(out, kv.AppendDelete(nil, b.bucket, keys))
		}
		p.ends = append(p.ends, end)
		pairs, keys, size = pairs[:0], keys[:0], 0
	}
	for n, i := range p.positions {
		add := len(b.key(i)) + 2*binary.MaxVarintLen32
		if b.op == OpSet {
			add += len(b.pairs[i].Value)
		}
		if size > 0 && size+add > most {
			cut(n)
		}
		size += add
		if b.op == OpSet {
			pairs = append(pairs, b.pairs[i])
		} else {
			keys = append(keys, b.keys[i])
		}
	}
	cut(len(p.positions))
	return out
}

// exchange sends one request. A read asks for less than the whole time, so that
// a paused node does not use it all up; after each time that was too short it
// asks for more, so that a large answer over a slow link arrives at last.
func (b *batch) exchange(ctx context.Context, x *exchange) {
	var answer []byte
	var err error
	if b.op.reads() {
		attempt, done := context.WithTimeout(ctx, b.c.cfg.AttemptTimeout*time.Duration(b.slow+1))
		defer done()
		answer, err = b.c.send(attempt, x.node, MethodParts, x.request)
		x.slow = err != nil && attempt.Err() != nil
	} else {
		answer, err = b.c.send(ctx, x.node, MethodParts, x.request)
	}
	if err == nil {
		x.answer, err = DecodeAnswer(answer)
	}
	if err == nil && len(x.answer.Parts) != len(x.parts) {
		err = fmt.Errorf("node %s answered %d parts of %d", x.node, len(x.answer.Parts), len(x.parts))
	}
	x.err = err
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
			b.unsettled(p.positions, kv.OutcomeUnknown, fmt.Errorf("node %s answered shard %d, asked was %d", x.node, a.Shard, p.shard))
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
		}
		if b.op.reads() {
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

// settleError takes in a request that got no answer. What was surely not run
// stays pending; a write that may have been run is unknown.
func (b *batch) settleError(t *table, x *exchange) {
	err := fmt.Errorf("node %s: %w", x.node, x.err)
	class := noAnswer(err, kv.ErrUnknown)
	var remote *transport.RemoteError
	switch {
	case errors.Is(class, kv.ErrAccessDenied):
		b.fail(class)
	case errors.Is(class, kv.ErrBusy):
		b.refusal = class
	case errors.Is(err, transport.ErrClosed):
		b.fail(fmt.Errorf("%w: %w", kv.ErrUnavailable, err))
	case b.op.reads() && errors.As(err, &remote):
		b.fail(fmt.Errorf("%w: %w", kv.ErrInvalid, err))
	}
	if x.node == b.c.cfg.Self {
		b.toLeader = true // the own replica does not answer
	}
	for _, p := range x.parts {
		t.suspect(p.shard, x.node)
		b.unsettled(p.positions, sentOutcome(err), err)
	}
}

// unsettled leaves positions pending, except those of a write whose outcome is
// unknown: they are never sent again.
func (b *batch) unsettled(positions []int, outcome kv.Outcome, why error) {
	b.last = why
	if b.op.reads() || outcome == kv.OutcomeNotApplied {
		b.pending = append(b.pending, positions...)
		return
	}
	b.fail(fmt.Errorf("%w: %w", kv.ErrUnknown, why))
}

// fail ends the batch after this round. An unknown outcome is the stronger
// word: it replaces any other.
func (b *batch) fail(err error) {
	if b.failed == nil || errors.Is(err, kv.ErrUnknown) && !errors.Is(b.failed, kv.ErrUnknown) {
		b.failed = err
	}
}

// unavailable is the error of a batch whose time ran out.
func (b *batch) unavailable(ctx context.Context) error {
	why := context.Cause(ctx)
	if b.last != nil {
		why = fmt.Errorf("%w; last: %w", why, b.last)
	}
	return fmt.Errorf("%w: %d of %d keys: %w", kv.ErrUnavailable, len(b.pending), b.size, why)
}

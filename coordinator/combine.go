package coordinator

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
	"github.com/manykv/manykv/transport"
)

// Writes of several callers to the same shards can share requests: those that come while
// one is under way wait, and go together when it is answered. A request of ten commands
// costs a tenth of the messages, records of the log and syncs that ten requests cost,
// which is what matters where processors are busy; where they are not, waiting for an
// answer only takes time. Which it is a coordinator finds out: now and then it takes a
// turn with the other way, and stays with it if requests are answered sooner (trial).
//
// Writes to different sets of shards share no request: a shard that has no leader would
// hold up the others. Only those that go to most of the shards do, whichever few they leave
// out: with many shards hardly two of them have the same set, and hardly one would miss
// the shard that has no leader. Those of which something may have been applied are not
// among them: they may be asking for just that shard, again and again.

const (
	// combineBytes waiting go at once.
	combineBytes = 256 << 10
	// aloneBytes do not wait for others: a request costs little beside them.
	aloneBytes = 64 << 10
	// combineWait is the longest that a write waits for an answer, which may never come.
	combineWait = 250 * time.Millisecond
	// leastLeft is the time that a call must have left to wait for others.
	leastLeft = 4 * combineWait
)

// combiner is where writes wait for others to share a request with.
type combiner struct {
	ask func(ctx context.Context, node sharding.NodeID, request []byte) (*Answer, error)

	mu     sync.Mutex // guards all below, and what they point at
	trial  trial
	inside int               // requests under way, and those that wait
	flows  map[flowKey]*flow // those that have requests under way
}

// flowKey is what requests must have in common to become one.
type flowKey struct {
	node   sharding.NodeID
	epoch  uint64
	op     Op
	bucket uint64
	shards string // four bytes each, in order; "": most of all there are
	time   int    // that callers have left: the logarithm, so that none has half of what another has
}

// flow is the requests of one kind that are under way, and those that wait.
type flow struct {
	underWay int
	gen      int // counts how often what was under way was given up
	current  int // of those under way: what is waited for
	waiting  []*joiner
	bytes    int // of waiting
}

// joiner is a request of a write that goes with others. It has its own list of what is
// sent: a caller that has left may be choosing anew.
type joiner struct {
	parts    []portion
	size     int // of their commands, in bytes
	deadline time.Time
	place    trace.SpanContext // of its span, which is not sampled
	joined   *joint            // nil: it waits; guarded by combiner.mu
	done     chan struct{}     // closed when these are set:
	answer   *Answer
	err      error
}

// joint is a request of several writes.
type joint struct {
	joiners []*joiner
	present int // whose callers wait; guarded by combiner.mu
	leave   context.CancelFunc
}

// portion is what a request has for one shard.
type portion struct {
	shard    sharding.Shard
	commands []*command
}

// sendWrite is send for a write: by itself or with others.
func (b *batch) sendWrite(ctx context.Context, x *exchange, place trace.SpanContext) (*Answer, error) {
	size := 0
	for _, p := range x.parts {
		for _, w := range p.sent {
			size += len(w.bytes)
		}
	}
	deadline, _ := ctx.Deadline() // exchange has set one
	left := time.Until(deadline)
	// What is traced goes by itself, to be seen as it is.
	if b.alone || place.IsSampled() || size > aloneBytes || left < leastLeft || x.node == b.c.cfg.Self {
		return b.sendAlone(ctx, x, place)
	}
	m := &b.c.combine
	slices.SortFunc(x.parts, func(a, b *part) int { return cmp.Compare(a.shard, b.shard) })
	key := flowKey{node: x.node, epoch: x.epoch, op: b.op, bucket: b.bucket, time: bits.Len64(uint64(left / leastLeft))}
	if !b.wide {
		key.shards = shardSet(x.parts)
	}
	began := time.Now()
	j, at := m.enter(key, joiner{size: size, deadline: deadline, place: place}, x)
	var answer *Answer
	var err error
	if j != nil {
		answer, err = m.await(ctx, key, j)
		x.excused = err == nil && len(j.joined.joiners) > 1 && excuse(answer)
	} else {
		answer, err = b.sendAlone(ctx, x, place)
		m.arrived(key, at.gen)
	}
	m.leave(at, time.Since(began), err == nil && decided(answer, x))
	return answer, err
}

// excuse makes of parts that were refused for good, maybe for a command of somebody
// else's, some that are to be asked for again, and says whether there were any.
func excuse(a *Answer) (excused bool) {
	for n := range a.Parts {
		p := &a.Parts[n]
		if p.Status == StatusRefused && !mayPass(p.Code) {
			p.Code, excused = kv.CodeUnavailable, true
		}
	}
	return excused
}

// decided says that all commands have become entries of the log and were applied or
// refused by the state machine: anything else may have come back at once.
func decided(a *Answer, x *exchange) bool {
	for n := range a.Parts {
		results := a.Parts[n].Results
		if n >= len(x.parts) || len(results) < len(x.parts[n].sent) {
			return false
		}
		for i := range results {
			if !results[i].decided() {
				return false
			}
		}
	}
	return true
}

func shardSet(parts []*part) string {
	b := make([]byte, 0, 64)
	for _, p := range parts {
		b = binary.BigEndian.AppendUint32(b, uint32(p.shard))
	}
	return string(b)
}

// entry is when a request entered: in which turn of the trial, and generation of its flow.
type entry struct{ turn, gen int }

// enter returns nil if the request is to be sent now, which arrived must follow;
// otherwise the joiner that it has become. leave must follow in either case.
func (m *combiner) enter(key flowKey, request joiner, x *exchange) (*joiner, entry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.inside++
	f := m.flows[key]
	if f == nil {
		f = &flow{}
		m.flows[key] = f
	}
	at := entry{m.trial.turn, f.gen}
	if m.free(f) {
		f.underWay++
		f.current++
		return nil, at
	}
	j := new(joiner) // only now: a request that is sent at once needs none
	*j = request
	j.done = make(chan struct{})
	j.parts = make([]portion, len(x.parts))
	for n, p := range x.parts {
		j.parts[n] = portion{p.shard, p.sent}
	}
	f.waiting = append(f.waiting, j)
	if f.bytes += j.size; f.bytes >= combineBytes {
		m.depart(key, f)
	}
	return j, at
}

// leave notes how long a request took, waiting included; decided says that this tells
// something of the way it went.
func (m *combiner) leave(at entry, took time.Duration, decided bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.inside--
	if decided && at.turn == m.trial.turn {
		m.trial.note(took, m.inside)
	}
}

// free says that nothing has to be waited for. Caller holds mu.
func (m *combiner) free(f *flow) bool { return !m.trial.joins() || f.current == 0 }

// await waits for a joiner's answer.
func (m *combiner) await(ctx context.Context, key flowKey, j *joiner) (*Answer, error) {
	patience := time.NewTimer(combineWait)
	defer patience.Stop()
	for {
		select {
		case <-j.done:
			return j.answer, j.err
		case <-patience.C:
			m.mu.Lock()
			if f := m.flows[key]; j.joined == nil {
				f.gen++
				f.current = 0
				m.depart(key, f)
			}
			m.mu.Unlock()
		case <-ctx.Done():
			return m.giveUp(ctx, key, j)
		}
	}
}

// giveUp is the end of a joiner whose caller waits no longer.
func (m *combiner) giveUp(ctx context.Context, key flowKey, j *joiner) (*Answer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	select {
	case <-j.done:
		return j.answer, j.err
	default:
	}
	if j.joined != nil {
		if j.joined.present--; j.joined.present == 0 {
			j.joined.leave()
		}
		return nil, fmt.Errorf("%w: %w", transport.ErrLost, context.Cause(ctx))
	}
	f := m.flows[key] // there: nobody waits where nothing is under way
	f.waiting = slices.DeleteFunc(f.waiting, func(other *joiner) bool { return other == j })
	f.bytes -= j.size
	return nil, fmt.Errorf("%w: %w", transport.ErrNotSent, context.Cause(ctx))
}

// depart sends what waits. Caller holds mu.
func (m *combiner) depart(key flowKey, f *flow) {
	t := &joint{joiners: f.waiting, present: len(f.waiting)}
	f.waiting, f.bytes = nil, 0
	f.underWay++
	f.current++
	deadline := t.joiners[0].deadline // the first of all: nobody's time shall end before the node answers what it can
	for _, j := range t.joiners {
		j.joined = t
		if j.deadline.Before(deadline) {
			deadline = j.deadline
		}
	}
	var ctx context.Context
	ctx, t.leave = context.WithDeadline(context.Background(), deadline)
	go m.sendJoint(ctx, key, f.gen, t)
}

// sendJoint sends a joint request. It ends with the time of the first of its callers, or when
// the last of them has left.
func (m *combiner) sendJoint(ctx context.Context, key flowKey, gen int, t *joint) {
	defer t.leave()
	parts := together(t.joiners)
	answer, err := m.ask(ctx, key.node, appendTrace(combined(key, parts), t.joiners[0].place))
	m.arrived(key, gen)
	if err == nil {
		err = distribute(answer, parts)
	}
	for _, j := range t.joiners {
		j.err = err
		close(j.done)
	}
}

// arrived notes that a request is answered, or failed, and sends what waits for that.
func (m *combiner) arrived(key flowKey, gen int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.flows[key]
	f.underWay--
	if gen == f.gen {
		f.current--
	}
	switch {
	case len(f.waiting) > 0 && m.free(f):
		m.depart(key, f)
	case f.underWay == 0:
		delete(m.flows, key)
	}
}

// jointPart is what a joint request has for one shard.
type jointPart struct {
	shard sharding.Shard
	own   []ownPart // of those who have something for it, in their order
}

type ownPart struct {
	of       *joiner
	commands []*command
}

// together returns the parts of a joint request, by shard.
func together(joiners []*joiner) (all []jointPart) {
	for _, j := range joiners {
		for _, p := range j.parts {
			n, found := slices.BinarySearchFunc(all, p.shard, func(have jointPart, s sharding.Shard) int { return cmp.Compare(have.shard, s) })
			if !found {
				all = slices.Insert(all, n, jointPart{shard: p.shard})
			}
			all[n].own = append(all[n].own, ownPart{j, p.commands})
		}
	}
	return all
}

// combined is the request of several writes, the commands of each shard in one part.
func combined(key flowKey, parts []jointPart) []byte {
	const head = 64 // is more than the request's, and a part's
	size := head
	for _, p := range parts {
		size += head
		for _, own := range p.own {
			for _, c := range own.commands {
				size += binary.MaxVarintLen32 + len(c.bytes)
			}
		}
	}
	req := appendRequestHeader(make([]byte, 0, size), key.epoch, key.op, false, key.bucket, len(parts))
	for _, p := range parts {
		commands := 0
		for _, own := range p.own {
			commands += len(own.commands)
		}
		req = appendPartHeader(req, p.shard, commands)
		for _, own := range p.own {
			req = appendCommands(req, own.commands)
		}
	}
	return req
}

// distribute gives each joiner its parts of the answer: the results stand in the
// commands' order, and may end before them.
func distribute(answer *Answer, parts []jointPart) error {
	if len(answer.Parts) != len(parts) {
		return fmt.Errorf("%d parts answered of %d", len(answer.Parts), len(parts))
	}
	for n, p := range parts { // by shard, as each joiner's own are
		a := answer.Parts[n]
		results := a.Results
		for _, own := range p.own {
			most := min(len(own.commands), len(results))
			a.Results, results = results[:most:most], results[most:]
			j := own.of
			if j.answer == nil {
				j.answer = &Answer{Map: answer.Map, Parts: make([]PartAnswer, 0, len(j.parts))}
			}
			j.answer.Parts = append(j.answer.Parts, a)
		}
		if len(results) > 0 {
			return fmt.Errorf("shard %d gave %d results too many", p.shard, len(results))
		}
	}
	return nil
}

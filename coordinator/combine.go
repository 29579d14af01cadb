package coordinator

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/manykv/manykv/sharding"
	"github.com/manykv/manykv/transport"
)

// Writes of several callers to the same shards share requests while their node is
// crowded: a request of ten commands costs a tenth of the messages, records of the log
// and syncs that ten requests cost. While it is not crowded, none waits for another.
//
// How many requests may be under way to a node, for each set of shards, follows from how
// long they take, as in TCP Vegas (Brakmo, Peterson: TCP Vegas, 1995): one less after one that
// took twice as long as the shortest of late, one more after one that took less than one
// and a half times as long and had a write wait for it. The writes that wait go together
// when an answer comes. Writes to different sets of shards never share a request: a
// shard that has no leader would hold up the others.

const (
	// combineBytes waiting go at once.
	combineBytes = 256 << 10
	// aloneBytes do not wait for others: a request costs little beside them.
	aloneBytes = 64 << 10
	// combineWait is the longest that a write waits, however crowded its node is: an
	// answer may never come.
	combineWait = 250 * time.Millisecond
	// lately to twice that is how long the shortest is remembered.
	lately = 15 * time.Second
	// mostUnderWay is what may be under way to a node that is not crowded, for each
	// set of shards.
	mostUnderWay = 64
)

// combiner is where writes wait for others to share a request with.
type combiner struct {
	ask func(ctx context.Context, node sharding.NodeID, request []byte) (*Answer, error)

	mu    sync.Mutex // guards what they point at, too
	nodes map[sharding.NodeID]*crowd
	flows map[flowKey]*flow // those that have requests under way
}

// flowKey is what requests must have in common to become one.
type flowKey struct {
	node   sharding.NodeID
	epoch  uint64
	op     Op
	bucket uint64
	shards string // four bytes each, in order
}

// flow is the requests of one kind that are under way, and those that wait.
type flow struct {
	underWay int
	waiting  []*joiner
	bytes    int // of waiting
}

// joiner is a request of a write that goes with others. It has its own list of what is
// sent: a caller that has left may be choosing anew.
type joiner struct {
	parts    []portion
	size     int // of their commands, in bytes
	deadline time.Time
	joined   *joint        // nil: it waits; guarded by combiner.mu
	done     chan struct{} // closed when one of these is set:
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

// sendWrite sends a request of a write, by itself or with others, and returns the answer
// to its parts. Its errors are package transport's.
func (c *Coordinator) sendWrite(ctx context.Context, b *batch, x *exchange) (*Answer, error) {
	size := 0
	for _, p := range x.parts {
		for _, w := range p.sent {
			size += len(w.bytes)
		}
	}
	deadline, ok := ctx.Deadline()
	// The first deadline of those that share a request is the request's.
	if size > aloneBytes || !ok || time.Until(deadline) < c.cfg.AttemptTimeout {
		return c.ask(ctx, x.node, b.encode(x))
	}
	slices.SortFunc(x.parts, func(a, b *part) int { return cmp.Compare(a.shard, b.shard) })
	key := flowKey{node: x.node, epoch: x.epoch, op: b.op, bucket: b.bucket, shards: shardSet(x.parts)}
	if j := c.combine.enter(key, x, size, deadline); j != nil {
		return c.combine.await(ctx, key, j)
	}
	began := time.Now()
	answer, err := c.ask(ctx, x.node, b.encode(x))
	c.combine.arrived(key, time.Since(began), err)
	return answer, err
}

func shardSet(parts []*part) string {
	b := make([]byte, 0, 64)
	for _, p := range parts {
		b = binary.BigEndian.AppendUint32(b, uint32(p.shard))
	}
	return string(b)
}

// enter returns nil if the request is to be sent now, which arrived must follow;
// otherwise the joiner that it has become.
func (m *combiner) enter(key flowKey, x *exchange, size int, deadline time.Time) *joiner {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.flows[key]
	if f == nil {
		f = &flow{}
		m.flows[key] = f
	}
	if f.underWay < m.crowd(key.node).most {
		f.underWay++
		return nil
	}
	j := &joiner{parts: make([]portion, len(x.parts)), size: size, deadline: deadline, done: make(chan struct{})}
	for n, p := range x.parts {
		j.parts[n] = portion{p.shard, p.sent}
	}
	f.waiting = append(f.waiting, j)
	if f.bytes += j.size; f.bytes >= combineBytes {
		m.depart(key, f)
	}
	return j
}

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
			if j.joined == nil {
				m.depart(key, m.flows[key])
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
	deadline := t.joiners[0].deadline
	for _, j := range t.joiners {
		j.joined = t
		if j.deadline.Before(deadline) {
			deadline = j.deadline
		}
	}
	var ctx context.Context
	ctx, t.leave = context.WithDeadline(context.Background(), deadline)
	go m.together(ctx, key, t)
}

// together sends a joint request. It ends with the last of its callers.
func (m *combiner) together(ctx context.Context, key flowKey, t *joint) {
	defer t.leave()
	began := time.Now()
	answer, err := m.ask(ctx, key.node, combined(key, t.joiners))
	m.arrived(key, time.Since(began), err)
	if err == nil {
		err = distribute(answer, t.joiners)
	}
	for _, j := range t.joiners {
		j.err = err
		close(j.done)
	}
}

// arrived notes that a request is answered, or failed, and sends what waits for that.
func (m *combiner) arrived(key flowKey, took time.Duration, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.flows[key]
	f.underWay--
	c := m.crowd(key.node)
	if err == nil {
		c.note(time.Now(), took, len(f.waiting) > 0)
	}
	switch {
	case len(f.waiting) > 0 && f.underWay < c.most:
		m.depart(key, f)
	case f.underWay == 0:
		delete(m.flows, key)
	}
}

// combined is the request of several writes, the commands of each shard in one part.
func combined(key flowKey, joiners []*joiner) []byte {
	size := 64
	for _, j := range joiners {
		for _, p := range j.parts {
			for _, c := range p.commands {
				size += len(c.bytes) + binary.MaxVarintLen32
			}
		}
	}
	first := joiners[0].parts
	req := appendRequestHeader(make([]byte, 0, size), key.epoch, key.op, false, key.bucket, len(first))
	for n, p := range first {
		commands := 0
		for _, j := range joiners {
			commands += len(j.parts[n].commands)
		}
		req = appendPartHeader(req, p.shard, commands)
		for _, j := range joiners {
			req = appendCommands(req, j.parts[n].commands)
		}
	}
	return req
}

// distribute gives each joiner its part of the answer: the results stand in the
// commands' order, and may end before them.
func distribute(answer *Answer, joiners []*joiner) error {
	if n := len(joiners[0].parts); len(answer.Parts) != n {
		return fmt.Errorf("%d parts answered of %d", len(answer.Parts), n)
	}
	for _, j := range joiners {
		j.answer = &Answer{Map: answer.Map, Parts: slices.Clone(answer.Parts)}
	}
	for n := range answer.Parts {
		results := answer.Parts[n].Results
		for _, j := range joiners {
			own := min(len(j.parts[n].commands), len(results))
			j.answer.Parts[n].Results, results = results[:own:own], results[own:]
		}
		if len(results) > 0 {
			return fmt.Errorf("shard %d gave %d results too many", answer.Parts[n].Shard, len(results))
		}
	}
	return nil
}

// crowd is how crowded a node is.
type crowd struct {
	most     int           // requests under way, of each flow
	shortest time.Duration // round trip since since; 0: none
	before   time.Duration // the shortest before that; 0: none
	since    time.Time
}

// crowd returns a node's. Caller holds mu.
func (m *combiner) crowd(node sharding.NodeID) *crowd {
	c := m.nodes[node]
	if c == nil {
		c = &crowd{most: mostUnderWay}
		m.nodes[node] = c
	}
	return c
}

// note takes in how long a request took, and whether a write waited for its answer.
func (c *crowd) note(now time.Time, took time.Duration, waited bool) {
	if now.Sub(c.since) > lately {
		c.before, c.shortest, c.since = c.shortest, 0, now
	}
	if c.shortest == 0 || took < c.shortest {
		c.shortest = took
	}
	shortest := c.shortest
	if c.before > 0 {
		shortest = min(shortest, c.before)
	}
	switch {
	case took > 2*shortest:
		c.most = max(c.most-1, 1)
	case waited && 2*took < 3*shortest:
		c.most = min(c.most+1, mostUnderWay)
	}
}

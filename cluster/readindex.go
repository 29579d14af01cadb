package cluster

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/manykv/manykv/crash"
	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/mutant"
	"github.com/manykv/manykv/sharding"
)

// Reads are confirmed as in the Raft thesis, 6.4, with two differences from
// raft.VerifyLeader, which accepts acknowledgements of messages sent before the
// read began and counts non-voters: a confirmation is closed to further reads
// the moment the first message that asks for it is made, and only the answers
// of voters to messages made from then on count. A voter is a raft server, a node
// with its data directory: while a lost directory is being replaced, a node's name
// stands for two, and the new one must not answer for the old.
//
// Why it holds: a voter persists a higher term before it grants a vote in it.
// One that answers "my term is t" after the read began had voted for nobody
// later, so every later leader was elected after the read began, and every
// write acknowledged before the read is at or below the commit index that the
// leader of t took in between. That index is meaningful once the leader has
// applied an entry of its own term.

const (
	// confirmTimeout bounds one message to one peer; with it a read is refused
	// long before its deadline when the majority is away.
	confirmTimeout = electionTimeout / 2
)

var (
	errNotLeader = errors.New("not the leader")
	// errNotReady: leading, but no entry of the term has been applied yet.
	errNotReady = errors.New("the leader is not ready yet")
	// errUnconfirmed: leading, but no majority said so.
	errUnconfirmed = errors.New("no majority confirmed the leader")
)

// standing is how a replica sees itself at one moment.
type standing struct {
	leading  bool
	term     uint64
	leadTerm uint64 // the term of the newest leader's entry that was applied
	commit   uint64
}

// subject is what the confirmer needs of a *replica.
type subject interface {
	number() sharding.Shard
	standing() standing
	voters() []raft.ServerID
}

// confirmation is a read index in the making, shared by the reads of one shard
// that arrived before the first message for it was made.
type confirmation struct {
	r      subject
	voters []raft.ServerID // who is asked
	done   chan struct{}

	// Below: guarded by confirmer.mu until done is closed.
	sealed bool // no further reads; term and index are set
	ended  bool
	term   uint64
	index  uint64
	err    error
	need   int // answers of peers still needed
	left   int // peers that have not answered yet
}

// wait returns the index a state machine must have applied before the read.
func (k *confirmation) wait(ctx context.Context) (uint64, error) {
	select {
	case <-k.done:
		return k.index, k.err
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

// ask is one line of a confirming message: do you know of a later term?
type ask struct {
	shard sharding.Shard
	term  uint64
}

// confirmer confirms reads for all shards this node leads: one message at a
// time to each peer, for every shard and every waiting read.
type confirmer struct {
	self raft.ServerID
	// call asks a peer; it answers each ask with yes or no.
	call func(ctx context.Context, peer raft.ServerID, asks []ask) ([]bool, error)

	ctx  context.Context
	stop context.CancelFunc
	all  sync.WaitGroup

	mu    sync.Mutex                // guards the fields below
	open  map[subject]*confirmation // not sealed yet
	peers map[raft.ServerID]*peer
	count readStats
}

// readStats count since the start.
type readStats struct {
	reads         uint64 // that began a confirmation or joined one
	confirmations uint64
	failed        uint64 // confirmations without a majority
	messages      uint64 // sent to peers
}

func (c *confirmer) stats() readStats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.count
}

// peer is the mailbox of one peer's goroutine.
type peer struct {
	id   raft.ServerID
	mail []*confirmation // guarded by confirmer.mu
	kick chan struct{}   // 1 slot: there is mail
}

func newConfirmer(self raft.ServerID, call func(context.Context, raft.ServerID, []ask) ([]bool, error)) *confirmer {
	ctx, stop := context.WithCancel(context.Background())
	return &confirmer{
		self: self, call: call, ctx: ctx, stop: stop,
		open:  make(map[subject]*confirmation),
		peers: make(map[raft.ServerID]*peer),
	}
}

// close ends the goroutines of the peers; confirmations under way fail.
func (c *confirmer) close() {
	c.stop()
	c.all.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.peers {
		for _, k := range p.mail {
			c.end(k, errUnconfirmed)
		}
	}
}

// begin joins or starts a confirmation for a read that has just arrived.
func (c *confirmer) begin(r subject) *confirmation {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.count.reads++
	if k := c.open[r]; k != nil {
		return k
	}
	c.count.confirmations++
	k := &confirmation{r: r, done: make(chan struct{})}
	if mutant.On(mutant.ReadUnconfirmed) {
		if c.seal(k) {
			c.end(k, nil)
		}
		return k
	}
	if !r.standing().leading || c.ctx.Err() != nil {
		c.end(k, errNotLeader)
		return k
	}
	k.voters = r.voters()
	k.need = len(k.voters)/2 + 1
	for _, id := range k.voters {
		if id == c.self {
			k.need-- // its own vote is given when it is sealed
			continue
		}
		p := c.peer(id)
		p.mail = append(p.mail, k)
		k.left++
		select {
		case p.kick <- struct{}{}:
		default: // it is already told
		}
	}
	switch {
	case k.need > k.left: // nobody to ask: the configuration is not known
		c.end(k, errUnconfirmed)
	case k.need == 0: // the only voter
		if c.seal(k) {
			c.end(k, nil)
		}
	default:
		c.open[r] = k
	}
	return k
}

// peer returns a peer's mailbox; the first use starts its goroutine.
func (c *confirmer) peer(id raft.ServerID) *peer {
	p := c.peers[id]
	if p == nil {
		p = &peer{id: id, kick: make(chan struct{}, 1)}
		c.peers[id] = p
		c.all.Go(func() { c.serve(p) })
	}
	return p
}

// seal closes a confirmation to further reads and takes the read index: after
// every read in it arrived, before any message for it is made. This node's own
// vote is that it leads in that term now. The voters asked must still be those of
// the newest configuration: a majority of older ones proves nothing.
func (c *confirmer) seal(k *confirmation) bool {
	k.sealed = true
	if !mutant.On(mutant.JoinSentMessage) {
		delete(c.open, k.r)
	}
	at := k.r.standing()
	switch {
	case !at.leading:
		c.end(k, errNotLeader)
	case at.leadTerm != at.term && !mutant.On(mutant.ReadBeforeOwnTerm):
		c.end(k, errNotReady)
	case !slices.Equal(k.voters, k.r.voters()) && !mutant.On(mutant.ReadUnconfirmed):
		c.end(k, errUnconfirmed)
	default:
		k.term, k.index = at.term, at.commit
		return true
	}
	return false
}

// end finishes a confirmation once.
func (c *confirmer) end(k *confirmation, err error) {
	if k.ended {
		return
	}
	k.ended, k.err = true, err
	if err != nil {
		c.count.failed++
	}
	if c.open[k.r] == k {
		delete(c.open, k.r)
	}
	close(k.done)
}

// serve sends one peer its messages, one at a time: what arrives meanwhile goes
// into the next.
func (c *confirmer) serve(p *peer) {
	for {
		select {
		case <-p.kick:
		case <-c.ctx.Done():
			return
		}
		asked, asks := c.take(p)
		if len(asked) == 0 {
			continue
		}
		crash.Point("cluster.confirm.sealed")
		ctx, done := context.WithTimeout(c.ctx, confirmTimeout)
		answers, err := c.call(ctx, p.id, asks)
		done()
		crash.Point("cluster.confirm.answered")
		c.settle(asked, asks, answers, err)
	}
}

// take empties a mailbox, seals what is in it, and makes the message.
func (c *confirmer) take(p *peer) (asked []*confirmation, asks []ask) {
	c.mu.Lock()
	defer c.mu.Unlock()
	seen := make(map[ask]bool)
	for _, k := range p.mail {
		if k.ended || !k.sealed && !c.seal(k) {
			continue
		}
		asked = append(asked, k)
		if a := (ask{k.r.number(), k.term}); !seen[a] {
			seen[a] = true
			asks = append(asks, a)
		}
	}
	p.mail = nil
	if len(asked) > 0 {
		c.count.messages++
	}
	return asked, asks
}

// settle counts a peer's answers.
func (c *confirmer) settle(asked []*confirmation, asks []ask, answers []bool, err error) {
	yes := make(map[ask]bool, len(asks))
	for i := range answers {
		yes[asks[i]] = err == nil && answers[i]
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range asked {
		k.left--
		if yes[ask{k.r.number(), k.term}] {
			k.need--
		}
		switch {
		case k.need == 0:
			c.end(k, nil)
		case k.need > k.left:
			c.end(k, errUnconfirmed)
		}
	}
}

// readCode says how a caller hears of a failed confirmation.
func readCode(err error) kv.Code {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) ||
		errors.Is(err, errNotReady) || errors.Is(err, errUnconfirmed) {
		return kv.CodeUnavailable
	}
	return kv.CodeOf(err)
}

// staleRead is how long a follower's machine may take to reach the confirmed
// index before the leader answers instead.
const staleRead = 2 * time.Millisecond

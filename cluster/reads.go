package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/manykv/manykv/coordinator"
	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/mutant"
	"github.com/manykv/manykv/sharding"
)

// reading is one part of a read on its way: its replica, and the index that its
// machine must have applied, or why it has none.
type reading struct {
	r      *replica
	part   *coordinator.Part
	begun  *confirmation // this node leads
	index  uint64
	follow bool                    // this node follows: it may answer only if it is close behind
	answer *coordinator.PartAnswer // set: it is not served here
}

// serveReads confirms all parts at once, then reads each from this node's
// replica.
func (n *Node) serveReads(ctx context.Context, q *coordinator.Request, s *served) []byte {
	reads := make([]reading, len(q.Parts))
	var following []*reading
	for i := range q.Parts {
		rd := &reads[i]
		rd.part, rd.r = &q.Parts[i], n.replica(q.Parts[i].Shard)
		switch err := n.cfg.Limits.CheckKeys(rd.part.Keys); {
		case err != nil:
			rd.refuse(coordinator.PartAnswer{Status: coordinator.StatusRefused, Code: kv.CodeOf(err), Detail: err.Error()})
		case rd.r == nil || rd.r.data == nil:
			rd.refuse(n.notLeader(nil))
		case rd.r.leads():
			rd.begun = n.confirm.begin(rd.r)
			if mutant.On(mutant.VerifyLeader) {
				rd.begun = verifyLeader(rd.r)
			}
		case q.AnyReplica && rd.r.leader() != "":
			rd.follow = true
			following = append(following, rd)
		default:
			rd.refuse(n.notLeader(rd.r))
		}
	}
	n.askLeaders(ctx, following)
	s.spent(stageConfirm)
	near := ctx
	if len(following) > 0 {
		var done context.CancelFunc
		near, done = context.WithTimeout(ctx, staleRead) // for all parts together
		defer done()
	}
	p := page{AnswerWriter: coordinator.NewAnswer(answerRoom(), nil, len(q.Parts)), budget: &n.answered}
	defer func() {
		s.done = p.keys
		p.end()
	}()
	for i := range reads {
		wait := ctx
		if reads[i].follow {
			wait = near
		}
		n.read(wait, &reads[i], q, &p, s)
	}
	return p.Bytes()
}

// verifyLeader is for mutant.VerifyLeader.
func verifyLeader(r *replica) *confirmation {
	k := &confirmation{r: r, done: make(chan struct{})}
	at, group := r.standing(), r.raft.Load()
	k.index = at.commit
	if group == nil || at.leadTerm != at.term {
		k.err = errNotReady
		close(k.done)
		return k
	}
	go func() {
		if group.VerifyLeader().Error() != nil {
			k.err = errNotLeader
		}
		close(k.done)
	}()
	return k
}

func (rd *reading) refuse(a coordinator.PartAnswer) {
	a.Shard = rd.part.Shard
	rd.answer = &a
}

// askLeaders gets the read indexes of shards that other nodes lead, with one
// message to each of them.
func (n *Node) askLeaders(ctx context.Context, following []*reading) {
	if len(following) == 0 || mutant.On(mutant.ReadOwnReplica) {
		return
	}
	byLeader := make(map[sharding.NodeID][]*reading)
	for _, rd := range following {
		leader := rd.r.leader()
		byLeader[leader] = append(byLeader[leader], rd)
	}
	var all sync.WaitGroup
	for leader, reads := range byLeader {
		all.Go(func() { n.askLeader(ctx, leader, reads) })
	}
	all.Wait()
}

func (n *Node) askLeader(ctx context.Context, leader sharding.NodeID, reads []*reading) {
	shards := make([]sharding.Shard, len(reads))
	for i, rd := range reads {
		shards[i] = rd.part.Shard
	}
	ctx, done := context.WithTimeout(ctx, electionTimeout)
	defer done()
	indexes, err := n.callReadIndex(ctx, leader, shards)
	for i, rd := range reads {
		switch {
		case err != nil:
			rd.refuse(coordinator.PartAnswer{Status: coordinator.StatusRefused, Code: kv.CodeUnavailable,
				Detail: fmt.Sprintf("leader %s of shard %d: %v", leader, rd.part.Shard, err)})
		case indexes[i].code != kv.CodeOK:
			rd.refuse(coordinator.PartAnswer{Status: coordinator.StatusNotLeader, Leader: indexes[i].leader})
		default:
			rd.index = indexes[i].index
		}
	}
}

// read waits until the replica has what the read must see, and answers it.
func (n *Node) read(ctx context.Context, rd *reading, q *coordinator.Request, p *page, s *served) {
	if rd.answer == nil {
		n.await(ctx, rd, s)
	}
	if rd.answer != nil {
		s.answered(rd.answer)
		p.Part(rd.answer)
		return
	}
	defer s.spent(stageRead)
	before := p.Len()
	p.OpenPart(&coordinator.PartAnswer{Shard: rd.part.Shard, Leader: rd.r.leader()})
	err := p.fill(rd, q)
	if err == nil {
		p.ClosePart()
		return
	}
	p.Truncate(before)
	code := kv.CodeOf(err)
	if code == kv.CodeUnknown {
		code = kv.CodeUnavailable // of a read: it did not happen
	}
	s.came(outcomeOfCode(code))
	p.Part(&coordinator.PartAnswer{Shard: rd.part.Shard, Status: coordinator.StatusRefused, Code: code, Detail: err.Error()})
}

const (
	// pageBytes is how much one answer holds before what is left of its keys is to
	// be asked for again: it bounds what a get-many of large values takes here.
	pageBytes = 4 << 20
	// pageStep is how much of the budget an answer takes at a time.
	pageStep = 64 << 10
)

var (
	// errPageFull ends the reading of a part of which some keys are answered.
	errPageFull = errors.New("the answer is full")
	errAnswers  = fmt.Errorf("%w: too many bytes of answers are being made on this node", kv.ErrBusy)
)

// page is an answer in the making that holds its bytes of the node's budget.
type page struct {
	*coordinator.AnswerWriter
	budget *budget
	held   int64
	keys   int // answered so far, over all parts
}

// room says whether another value of n bytes fits; the first always does, unless
// the budget is used up.
func (p *page) room(n int) error {
	if p.keys > 0 && p.Len()+n > pageBytes {
		return errPageFull
	}
	if need := int64(p.Len() + n); need > p.held {
		step := max(pageStep, need-p.held)
		if !p.budget.take(step) {
			if p.keys > 0 {
				return errPageFull
			}
			return errAnswers
		}
		p.held += step
	}
	p.keys++
	return nil
}

// end gives the budget back: the transport counts what it sends itself.
func (p *page) end() { p.budget.give(p.held) }

// fill reads a part's keys into its answer, as many as fit.
func (p *page) fill(rd *reading, q *coordinator.Request) error {
	if q.Op == coordinator.OpList {
		return p.list(rd, q)
	}
	err := rd.r.data.Get(q.Bucket, rd.part.Keys, func(_ int, value []byte, version uint64, found bool) error {
		if q.Op == coordinator.OpExists {
			value = nil
		}
		if err := p.room(len(value)); err != nil {
			return err
		}
		switch {
		case !found:
			p.Missing()
		default:
			p.Found(version, value)
		}
		return nil
	})
	if errors.Is(err, errPageFull) {
		return nil
	}
	return err
}

// list reads a page of keys. It may take what a page can be, before it is known
// what it is.
func (p *page) list(rd *reading, q *coordinator.Request) error {
	if !p.budget.take(pageBytes) {
		return errAnswers
	}
	p.held += pageBytes
	keys, next, err := rd.r.data.List(q.Bucket, rd.part.Cursor, min(rd.part.Max, coordinator.PageKeys), pageBytes)
	if err == nil {
		p.keys += len(keys)
		p.Keys(keys, next)
	}
	return err
}

// await waits for a leader's confirmation, then for the machine.
func (n *Node) await(ctx context.Context, rd *reading, s *served) {
	var err error
	if rd.begun != nil {
		rd.index, err = rd.begun.wait(ctx)
		s.spent(stageConfirm)
	}
	if err == nil {
		err = rd.r.machine.Wait(ctx, rd.index)
		s.spent(stageApply)
		if err != nil && rd.follow {
			err = errNotLeader // the leader has it
		}
	}
	switch {
	case err == nil:
	case errors.Is(err, errNotLeader):
		rd.refuse(n.notLeader(rd.r))
	default:
		rd.refuse(coordinator.PartAnswer{Status: coordinator.StatusRefused, Code: kv.CodeUnavailable, Detail: err.Error()})
	}
}

package coordinator

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
	"github.com/manykv/manykv/transport"
)

// fate is what becomes of one request at one node.
type fate uint8

const (
	served fate = iota

	// The call fails.
	notSent
	notConnected  // not sent, known after a while
	closed        // not sent, nor ever again: the caller's own end is closed
	lostClosed    // as lost, by the same
	lostBefore    // and nothing is applied
	lostAfter     // and all is applied
	lostLater     // and all is applied some time later, perhaps after the caller has left
	diesProposing // the same, and another leads
	hungBefore    // as lost, known when the caller's time is up
	hungAfter
	refusedCall // the transport's busy
	deniedCall
	failedBefore // the handler's error, nothing applied
	failedAfter
	failedCode // a code of the handler's own, all applied

	// All is applied, and the answer is no answer.
	garbage
	missingPart
	wrongShard
	strangeStatus

	// All is applied, and a copy of it arrives later.
	servedTwice

	// No part is served.
	pointsRight // not leader, and says who is
	pointsWrong // not leader, points at a node that is not either
	pointsNowhere
	pointsAway // not leader, points at a node without a replica
	pointsBack // not leader, points at itself
	mapIsOld   // the map changes, and the answer brings it
	mapIsSplit // the map changes, other shards too, and the answer brings it
	mapIsNew   // the node has no map as new as the request's
	partBusy
	partInvalid
	partUnknownCode // of a later version

	// Of writes: the first command of each part is applied; reads are served.
	restNotProposed
	restNotLeader // a result says not applied, for now
	restNoReason  // a result says not applied and not why
	restBusy
	restNoStore  // the state machine refuses
	restUnknown  // a result says unknown; it is applied
	restLost     // a result says unknown; it is not applied
	restLater    // a result says unknown; it is applied later
	firstMissing // the other way: the first is not proposed, the rest is out of order
	oneTooMany   // all is applied, and there is a result more
	allForgotten // the state machine says that the call is forgotten
)

// broken answers cannot be understood; what was asked has been done all the
// same.
func (f fate) broken() bool { return f == missingPart || f == wrongShard || f == strangeStatus }

// harmless are fates after which trying again must help, for a write too.
var harmless = []fate{
	served, notSent, notConnected, pointsRight, pointsWrong, pointsNowhere, pointsAway, pointsBack, mapIsOld, mapIsNew,
	restNotProposed, restNotLeader, restNoReason,
	lostBefore, lostAfter, lostLater, diesProposing, failedBefore, failedAfter, failedCode,
	garbage, missingPart, wrongShard, strangeStatus, servedTwice, restUnknown, restLost, restLater, firstMissing, oneTooMany,
}

// harmlessToReads are those after which trying a read again must help: a handler's
// error is final to a read.
var harmlessToReads = slices.DeleteFunc(append([]fate{mapIsSplit, hungBefore}, harmless...), func(f fate) bool {
	return f == failedBefore || f == failedAfter || f == failedCode
})

const lastFate = allForgotten

// serve answers a request. Caller holds mu.
func (f *fakeCluster) serve(node sharding.NodeID, q *Request, fate fate) []byte {
	switch fate {
	case mapIsOld:
		f.change()
	case mapIsSplit:
		f.split()
	}
	switch {
	case fate == garbage:
		return []byte("this is no answer")
	case q.Epoch < f.m.Epoch && !fate.broken():
		w := NewAnswer(nil, f.m, len(q.Parts))
		for i := range q.Parts {
			w.Part(&PartAnswer{Shard: q.Parts[i].Shard, Status: StatusStaleMap})
		}
		return w.Bytes()
	}
	n := len(q.Parts)
	if fate == missingPart {
		n--
	}
	w := NewAnswer(nil, nil, n)
	for i := range n {
		p := &q.Parts[i]
		a := &PartAnswer{Shard: p.Shard}
		switch fate {
		case missingPart:
		case wrongShard:
			a.Shard++
		case strangeStatus:
			a.Status = StatusRefused + 1
		default:
			f.check(q, p)
			if refusal := f.refuse(node, p.Shard, q, fate); refusal != nil {
				w.Part(refusal)
				continue
			}
			if a.Leader = f.leader(p.Shard); !q.Op.Reads() {
				f.write(p, a, fate)
			}
		}
		if !q.Op.Reads() {
			w.Part(a)
			continue
		}
		w.OpenPart(a)
		f.items(q, p, w)
		w.ClosePart()
	}
	return w.Bytes()
}

// items answers a part of a read.
func (f *fakeCluster) items(q *Request, p *Part, w *AnswerWriter) {
	if q.Op == OpList {
		w.Keys(f.list(p.Shard, p.Cursor, p.Max))
		return
	}
	for i, key := range p.Keys {
		if f.pageKeys > 0 && i == f.pageKeys {
			return
		}
		value, there := f.data[key]
		switch {
		case !there:
			w.Missing()
		case q.Op == OpExists:
			w.Found(f.versions[key], nil)
		default:
			w.Found(f.versions[key], []byte(value))
		}
	}
}

// check notes what no node must be sent.
func (f *fakeCluster) check(q *Request, p *Part) {
	keys := p.Keys
	for _, c := range p.Commands {
		for _, w := range f.writesOf(c) {
			keys = append(keys, w.key)
		}
	}
	if len(keys) == 0 && q.Op != OpList || q.Op.Reads() && q.Bucket != testBucket {
		f.problems = append(f.problems, fmt.Errorf("a part of %d keys of bucket %d", len(keys), q.Bucket))
	}
	for _, key := range keys {
		if s := f.m.ShardOfKey(testBucket, key); s != p.Shard {
			f.problems = append(f.problems, fmt.Errorf("key %q of shard %d in a part of shard %d", key, s, p.Shard))
		}
	}
}

// refuse plays the fates of parts that are not served; nil if this one is.
func (f *fakeCluster) refuse(node sharding.NodeID, s sharding.Shard, q *Request, fate fate) *PartAnswer {
	leader := f.leader(s)
	a := &PartAnswer{Shard: s, Status: StatusNotLeader}
	switch fate {
	case pointsRight:
		if node == leader { // it has just lost it
			f.leads++
		}
		a.Leader = f.leader(s)
	case pointsWrong:
		a.Leader = f.other(s, node, leader)
	case pointsAway:
		a.Leader = "stranger"
	case pointsBack:
		a.Leader = node
	case pointsNowhere:
	case mapIsNew:
		a.Status, a.Code, a.Detail = StatusRefused, kv.CodeUnavailable, "no map that new"
	case partBusy:
		a.Status, a.Code = StatusRefused, kv.CodeBusy
	case partInvalid:
		a.Status, a.Code, a.Detail = StatusRefused, kv.CodeInvalid, "what is this?"
	case partUnknownCode:
		a.Status, a.Code, a.Detail = StatusRefused, 99, "a code of a later version"
	default:
		if node == leader || q.Op.Reads() && q.AnyReplica && slices.Contains(f.m.Group(s).Replicas, node) {
			return nil
		}
		a.Leader = leader
	}
	return a
}

// write plays the fates of commands.
func (f *fakeCluster) write(p *Part, a *PartAnswer, fate fate) {
	applied, rest := len(p.Commands), Result{Outcome: kv.OutcomeNotApplied}
	lost := Result{Outcome: kv.OutcomeUnknown, Code: kv.CodeUnknown, Detail: "leadership lost"}
	switch fate {
	case restNotProposed:
		applied = 1
	case restNotLeader:
		applied, rest.Code, rest.Detail = 1, kv.CodeUnavailable, "leadership lost"
	case restNoReason, restNoStore:
		applied = 1
	case restBusy:
		applied, rest.Code = 1, kv.CodeBusy
	case restUnknown, restLost, restLater:
		applied, rest = 1, lost
	case firstMissing:
		a.Results = []Result{{Outcome: kv.OutcomeNotApplied, Code: kv.CodeUnavailable, Detail: "queue full"}}
		f.run(Part{Shard: p.Shard, Commands: p.Commands[1:]}, a)
		return
	case allForgotten:
		f.forgot = true
		f.expose(commandsOf(&Request{Parts: []Part{*p}}))
		applied, rest = 0, Result{Forgotten: true, Code: kv.CodeUnknown, Detail: "forgotten"}
	}
	f.run(Part{Shard: p.Shard, Commands: p.Commands[:applied]}, a)
	switch fate {
	case servedTwice:
		f.late = append(f.late, commandsOf(&Request{Parts: []Part{*p}})...)
	case restNotProposed:
		a.Status = StatusNotLeader
		return
	case oneTooMany:
		f.expose(commandsOf(&Request{Parts: []Part{*p}}))
		a.Results = append(a.Results, Result{Outcome: kv.OutcomeApplied})
	}
	for _, bytes := range p.Commands[applied:] {
		c := copied{p.Shard, bytes}
		if rest.Outcome == kv.OutcomeUnknown {
			f.expose([]copied{c})
		}
		switch fate {
		case restNoStore:
			rest = f.apply(c, kv.CodeNoSuchStore)
		case restUnknown:
			f.apply(c, kv.CodeOK)
		case restLater:
			f.late = append(f.late, c)
		}
		a.Results = append(a.Results, rest)
	}
}

// run gives commands to the state machine.
func (f *fakeCluster) run(p Part, a *PartAnswer) {
	for _, bytes := range p.Commands {
		a.Results = append(a.Results, f.apply(copied{p.Shard, bytes}, kv.CodeOK))
	}
}

// bucketCall is the meta group's side of a bucket operation. Giving out a client id
// goes well unless newClient says otherwise.
func (f *fakeCluster) bucketCall(ctx context.Context, node sharding.NodeID, request []byte) ([]byte, error) {
	q, err := DecodeBucketRequest(request)
	if err != nil {
		return nil, f.problem(err)
	}
	if q.Op == ClientNew {
		return f.clientCall(ctx)
	}
	fate := f.metaFate(node)
	if err := f.callFails(ctx, node, &Request{}, fate); err != nil {
		if fate == lostAfter || fate == failedAfter {
			f.bucketAnswer(node, q, served)
		}
		return nil, err
	}
	return f.bucketAnswer(node, q, fate).Append(nil), nil
}

func (f *fakeCluster) clientCall(ctx context.Context) ([]byte, error) {
	if f.newClient != nil {
		if err := f.newClient(ctx); err != nil {
			return nil, err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.clients++
	return BucketAnswer{ID: f.clients}.Append(nil), nil
}

// metaFate notes a request to the meta group and returns its fate.
func (f *fakeCluster) metaFate(node sharding.NodeID) fate {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests = append(f.requests, seen{node: node, at: time.Now()})
	return f.next(node)
}

func (f *fakeCluster) bucketAnswer(node sharding.NodeID, q BucketRequest, fate fate) BucketAnswer {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fate == garbage {
		return BucketAnswer{Status: StatusRefused + 1}
	}
	if p := f.refuse(node, sharding.Meta, &Request{Op: OpSet}, fate); p != nil {
		return BucketAnswer{Status: p.Status, Leader: p.Leader, Code: p.Code, Detail: p.Detail}
	}
	at := 0
	for i, name := range f.buckets {
		if name == q.Name {
			at = i + 1
		}
	}
	switch {
	case q.Op == BucketList:
		return BucketAnswer{Names: f.buckets}
	case q.Op == BucketOpen && at == 0, q.Op == BucketDelete && (at == 0 || uint64(at) != q.ID):
		return BucketAnswer{Status: StatusRefused, Code: kv.CodeNoSuchStore, Detail: q.Name}
	case q.Op == BucketDelete:
		f.buckets[at-1] = "" // its id is nobody else's
		if f.deleted != nil {
			f.deleted()
		}
	case q.Op == BucketCreate && at != 0:
		return BucketAnswer{Status: StatusRefused, Code: kv.CodeExists, Detail: q.Name}
	case q.Op == BucketCreate:
		f.buckets = append(f.buckets, q.Name)
	}
	return BucketAnswer{ID: uint64(at)}
}

// nodeCall is the meta group's side of a change of nodes.
func (f *fakeCluster) nodeCall(ctx context.Context, node sharding.NodeID, request []byte) ([]byte, error) {
	q, err := DecodeNodeRequest(request)
	if err != nil {
		return nil, f.problem(err)
	}
	fate := f.metaFate(node)
	if err := f.callFails(ctx, node, &Request{}, fate); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	a := NodeAnswer{}
	if p := f.refuse(node, sharding.Meta, &Request{Op: OpSet}, fate); p != nil {
		a = NodeAnswer{Status: p.Status, Leader: p.Leader, Code: p.Code, Detail: p.Detail}
	} else {
		f.nodes = append(f.nodes, q)
	}
	return a.Append(nil), nil
}

// between is the way to nodes that coordinate: each call goes to the next of them,
// and has a fate.
type between struct {
	f     *fakeCluster
	mu    sync.Mutex
	nodes []*Coordinator
	fates []fate
	calls int
}

func (b *between) next() (*Coordinator, fate) {
	b.mu.Lock()
	defer b.mu.Unlock()
	node, fate := b.nodes[b.calls%len(b.nodes)], served
	b.calls++
	if len(b.fates) > 0 && !b.f.healed {
		fate, b.fates = b.fates[0], b.fates[1:]
	}
	switch fate {
	case served, notSent, refusedCall, deniedCall:
	default:
		b.f.lossy = true
	}
	return node, fate
}

func (b *between) call(ctx context.Context, method byte, request []byte) ([]byte, error) {
	if ctx.Err() != nil {
		return nil, notSentErr("n1", context.Cause(ctx))
	}
	node, fate := b.next()
	var answer []byte
	var err error
	switch fate {
	case notSent, lostBefore, refusedCall, deniedCall, failedBefore:
	case hungBefore:
		<-ctx.Done()
	default:
		if method == MethodBatch {
			answer, err = node.ServeBatch(ctx, request)
		} else {
			answer, err = node.ServeBuckets(ctx, request)
		}
	}
	switch fate {
	case notSent:
		return nil, notSentErr("n1", errNetwork)
	case lostBefore, lostAfter:
		return nil, lostErr("n1", errNetwork)
	case hungBefore:
		return nil, lostErr("n1", context.Cause(ctx))
	case refusedCall:
		return nil, &transport.RemoteError{Code: transport.CodeRefused, Message: "over budget"}
	case deniedCall:
		return nil, &transport.RemoteError{Code: transport.CodeDenied, Message: "not for you"}
	case failedBefore, failedAfter:
		return nil, &transport.RemoteError{Code: transport.CodeFailed, Message: "the handler failed"}
	case garbage:
		return []byte("this is no answer"), nil
	default:
		return answer, err
	}
}

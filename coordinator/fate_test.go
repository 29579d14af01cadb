package coordinator

import (
	"context"
	"fmt"
	"slices"
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
	notConnected // not sent, known after a while
	closed       // not sent, nor ever again: the caller's own end is closed
	lostClosed   // as lost, by the same
	lostBefore   // and nothing is applied
	lostAfter    // and all is applied
	lostLater    // and all is applied after the caller has left
	hungBefore   // as lost, known when the caller's time is up
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

	// No part is served.
	pointsRight // not leader, and says who is
	pointsWrong // not leader, points at a node that is not either
	pointsNowhere
	pointsAway // not leader, points at a node without a replica
	pointsBack // not leader, points at itself
	mapIsOld   // the map changes, and the answer brings it
	mapIsNew   // the node has no map as new as the request's
	partBusy
	partInvalid
	partUnknownCode // of a later version

	// Of writes: the first command of each part is applied; reads are served.
	restNotProposed
	restNotLeader // a result says not applied, for now
	restNoReason  // a result says not applied and not why
	restBusy
	restNoStore  // a result says not applied, for good
	restUnknown  // a result says unknown; it is applied
	firstMissing // the other way: the first is not applied, the rest is
)

// broken answers cannot be understood; what was asked has been done all the
// same.
func (f fate) broken() bool { return f == missingPart || f == wrongShard || f == strangeStatus }

// harmless are fates after which trying again must help, for a write too.
var harmless = []fate{
	served, notSent, notConnected, pointsRight, pointsWrong, pointsNowhere, pointsAway, pointsBack, mapIsOld, mapIsNew,
	restNotProposed, restNotLeader, restNoReason,
}

// harmlessToReads are those after which trying a read again must help.
var harmlessToReads = append([]fate{
	lostBefore, hungBefore, garbage, missingPart, wrongShard, strangeStatus,
}, harmless...)

const lastFate = firstMissing

// serve answers a request. Caller holds mu.
func (f *fakeCluster) serve(node sharding.NodeID, q *Request, fate fate) []byte {
	if fate == mapIsOld {
		f.change()
	}
	switch {
	case fate == garbage:
		return []byte("this is no answer")
	case q.Epoch < f.m.Epoch && !fate.broken():
		w := NewAnswer(f.m, len(q.Parts))
		for i := range q.Parts {
			w.Part(&PartAnswer{Shard: q.Parts[i].Shard, Status: StatusStaleMap})
		}
		return w.Bytes()
	}
	n := len(q.Parts)
	if fate == missingPart {
		n--
	}
	w := NewAnswer(nil, n)
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
			if a.Leader = f.leader(p.Shard); !q.Op.reads() {
				f.write(p, a, fate)
			}
		}
		if !q.Op.reads() {
			w.Part(a)
			continue
		}
		w.OpenPart(a)
		for _, key := range p.Keys {
			value, there := f.data[key]
			switch {
			case !there:
				w.Missing()
			case q.Op == OpExists:
				w.Found(1, nil)
			default:
				w.Found(1, []byte(value))
			}
		}
		w.ClosePart()
	}
	return w.Bytes()
}

// check notes what no node must be sent.
func (f *fakeCluster) check(q *Request, p *Part) {
	keys := p.Keys
	for _, c := range p.Commands {
		for _, w := range f.writesOf(c) {
			keys = append(keys, w.key)
		}
	}
	if len(keys) == 0 || q.Op.reads() && q.Bucket != testBucket {
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
		if node == leader || q.Op.reads() && q.AnyReplica && slices.Contains(f.m.Group(s).Replicas, node) {
			return nil
		}
		a.Leader = leader
	}
	return a
}

// write plays the fates of commands.
func (f *fakeCluster) write(p *Part, a *PartAnswer, fate fate) {
	applied, rest := len(p.Commands), Result{Outcome: kv.OutcomeNotApplied}
	switch fate {
	case restNotProposed:
		applied = 1
	case restNotLeader:
		applied, rest.Code, rest.Detail = 1, kv.CodeUnavailable, "leadership lost"
	case restNoReason:
		applied = 1
	case restBusy:
		applied, rest.Code = 1, kv.CodeBusy
	case restNoStore:
		applied, rest.Code = 1, kv.CodeNoSuchStore
	case restUnknown:
		applied, rest = 1, Result{Outcome: kv.OutcomeUnknown, Code: kv.CodeUnknown, Detail: "leadership lost"}
	case firstMissing:
		a.Results = []Result{{Outcome: kv.OutcomeNotApplied, Code: kv.CodeUnavailable, Detail: "queue full"}}
		f.run(p.Commands[1:], a)
		return
	}
	f.run(p.Commands[:applied], a)
	if fate == restNotProposed {
		a.Status = StatusNotLeader
		return
	}
	for _, c := range p.Commands[applied:] {
		if rest.Outcome == kv.OutcomeUnknown {
			f.expose([][]byte{c})
			f.apply(c)
		}
		a.Results = append(a.Results, rest)
	}
}

func (f *fakeCluster) run(commands [][]byte, a *PartAnswer) {
	f.expose(commands)
	for _, c := range commands {
		f.apply(c)
		a.Results = append(a.Results, Result{Outcome: kv.OutcomeApplied})
	}
}

// bucketCall is the meta group's side of a bucket operation.
func (f *fakeCluster) bucketCall(ctx context.Context, node sharding.NodeID, request []byte) ([]byte, error) {
	q, err := DecodeBucketRequest(request)
	if err != nil {
		return nil, f.problem(err)
	}
	f.mu.Lock()
	f.requests = append(f.requests, seen{node: node, at: time.Now()})
	fate := f.next(node)
	f.mu.Unlock()
	if err := f.callFails(ctx, node, &Request{}, fate); err != nil {
		if fate == lostAfter || fate == failedAfter {
			f.bucketAnswer(node, q, served)
		}
		return nil, err
	}
	return f.bucketAnswer(node, q, fate).Append(nil), nil
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
	case q.Op == BucketOpen && at == 0:
		return BucketAnswer{Status: StatusRefused, Code: kv.CodeNoSuchStore, Detail: q.Name}
	case q.Op == BucketCreate && at != 0:
		return BucketAnswer{Status: StatusRefused, Code: kv.CodeExists, Detail: q.Name}
	case q.Op == BucketCreate:
		f.buckets = append(f.buckets, q.Name)
	}
	return BucketAnswer{ID: uint64(at)}
}

// through is Through over a node of the cluster, with a fate for each call.
type through struct {
	node  *Coordinator
	fates []fate
}

func (t *through) call(ctx context.Context, method byte, request []byte) ([]byte, error) {
	fate := served
	if len(t.fates) > 0 {
		fate, t.fates = t.fates[0], t.fates[1:]
	}
	var answer []byte
	var err error
	switch fate {
	case notSent, lostBefore, refusedCall, deniedCall, failedBefore:
	default:
		if method == MethodBatch {
			answer, err = t.node.ServeBatch(ctx, request)
		} else {
			answer, err = t.node.ServeBuckets(ctx, request)
		}
	}
	switch fate {
	case notSent:
		return nil, notSentErr("n1", errNetwork)
	case lostBefore, lostAfter:
		return nil, lostErr("n1", errNetwork)
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

package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/manykv/manykv/coordinator"
	"github.com/manykv/manykv/fsm"
	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
	"github.com/manykv/manykv/transport"
)

// serveTimeout bounds a call whose caller gave no deadline: longer than any
// caller of ours waits.
const serveTimeout = time.Minute

// handle serves one call. Methods among nodes are not for clients.
func (n *Node) handle(ctx context.Context, from transport.Identity, method byte, request []byte) ([]byte, error) {
	select {
	case <-n.opened:
	case <-ctx.Done():
		return nil, &transport.RemoteError{Code: transport.CodeRefused, Message: "the node is starting"}
	}
	if _, ok := ctx.Deadline(); !ok {
		var done context.CancelFunc
		ctx, done = context.WithTimeout(ctx, serveTimeout)
		defer done()
	}
	if method >= methodHello && from.Role != transport.RoleNode {
		return nil, &transport.RemoteError{Code: transport.CodeDenied, Message: "only nodes may call this"}
	}
	switch method {
	case methodHello:
		return hello{Node: n.me(), Expect: n.cfg.BootstrapExpect, Founded: n.founded.Load()}.append(nil), nil
	case methodPromise:
		return nil, n.servePromise(sharding.NodeID(from.Name), request)
	case methodConfirm:
		return n.serveConfirm(request)
	case methodReadIndex:
		return n.serveReadIndex(ctx, request)
	case methodNodeAddr:
		return nil, n.serveNodeAddr(ctx, sharding.NodeID(from.Name), request)
	case methodReconfigure:
		return judged(n.serveReconfigure(ctx, request))
	case methodProgress:
		return n.serveProgress(request)
	case methodDrop:
		return judged(n.serveDrop(ctx, request))
	case methodConfirmedMap:
		return judged(n.serveConfirmedMap(ctx, request))
	case coordinator.MethodMap:
		return n.serveMap(request)
	case coordinator.MethodParts:
		ctx, done := early(ctx)
		defer done()
		return n.serveParts(ctx, request)
	case coordinator.MethodBatch:
		ctx, done := early(ctx)
		defer done()
		began := time.Now()
		answer, err := n.coord.ServeBatch(ctx, request)
		n.measuredBatch(request, answer, time.Since(began))
		return answer, err
	case coordinator.MethodBuckets:
		return n.serveBuckets(ctx, request)
	case coordinator.MethodCatalog:
		return n.coord.ServeBuckets(ctx, request)
	case coordinator.MethodNodes:
		return n.serveNodes(ctx, request)
	case coordinator.MethodStatus:
		return json.Marshal(n.Status())
	case coordinator.MethodHash:
		return n.serveHash(ctx, request)
	default:
		return nil, fmt.Errorf("no such method: %d", method)
	}
}

// early ends a little before the caller's deadline, so that what is known by
// then of each key reaches the caller instead of nothing.
func early(ctx context.Context) (context.Context, context.CancelFunc) {
	const most = 200 * time.Millisecond // several round trips
	at, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	return context.WithDeadline(ctx, at.Add(-min(most, time.Until(at)/10)))
}

// serveMap returns the map, if it is newer than the epoch asked about.
func (n *Node) serveMap(request []byte) ([]byte, error) {
	d := kv.NewDecoder(request)
	epoch := d.U64()
	if err := d.Finish(); err != nil {
		return nil, err
	}
	if m := n.current.Load(); m != nil && m.Epoch > epoch {
		return m.Append(nil), nil
	}
	return nil, nil
}

// serveParts serves the parts of one batch that are for this node. Its error
// says that the request was malformed and nothing was done.
func (n *Node) serveParts(ctx context.Context, request []byte) ([]byte, error) {
	q, err := coordinator.DecodeRequest(request)
	if err != nil {
		return nil, err
	}
	s := n.beginServed(ctx, q)
	answer := n.serveRequest(s.ctx, q, s)
	n.measured(s, len(request), len(answer))
	return answer, nil
}

func (n *Node) serveRequest(ctx context.Context, q *coordinator.Request, s *served) []byte {
	m := n.current.Load()
	if m == nil || m.Epoch < q.Epoch {
		m = n.catchUp(ctx, q.Epoch)
		s.spent(stageMap)
	}
	switch {
	case m == nil:
		s.came(outcomeUnavailable)
		return refuseAll(q, nil, &coordinator.PartAnswer{Status: coordinator.StatusRefused, Code: kv.CodeUnavailable, Detail: "node " + string(n.name) + " has no map that new"})
	case m.Epoch > q.Epoch:
		s.came(outcomeRedirected)
		return refuseAll(q, m, &coordinator.PartAnswer{Status: coordinator.StatusStaleMap})
	case q.Op == coordinator.OpGet, q.Op == coordinator.OpExists, q.Op == coordinator.OpList:
		return n.serveReads(ctx, q, s)
	default:
		return n.serveWrites(ctx, q, s)
	}
}

// answers are answers to requests for parts that have been sent: the next ones are made
// in them. Reads would otherwise take several times their bytes of fresh memory, as
// each answer grows.
var answers sync.Pool

// answerMost is the largest that is kept.
const answerMost = 256 << 10

func answerRoom() []byte {
	if b, ok := answers.Get().(*[]byte); ok {
		return *b
	}
	return nil
}

// release takes back an answer that the transport has sent (transport.Config.Release).
func (n *Node) release(method byte, answer []byte) {
	if method == coordinator.MethodParts && cap(answer) <= answerMost {
		answers.Put(&answer)
	}
}

// refuseAll answers every part alike.
func refuseAll(q *coordinator.Request, m *sharding.Map, a *coordinator.PartAnswer) []byte {
	w := coordinator.NewAnswer(answerRoom(), m, len(q.Parts))
	for i := range q.Parts {
		each := *a
		each.Shard = q.Parts[i].Shard
		w.Part(&each)
	}
	return w.Bytes()
}

// notLeader answers a part whose shard this node cannot serve.
func (n *Node) notLeader(r *replica) coordinator.PartAnswer {
	a := coordinator.PartAnswer{Status: coordinator.StatusNotLeader}
	if r != nil {
		a.Shard, a.Leader = r.shard, r.leader()
	}
	return a
}

// serveWrites proposes the commands of every part, then waits for all of them.
func (n *Node) serveWrites(ctx context.Context, q *coordinator.Request, s *served) []byte {
	answers := make([]coordinator.PartAnswer, len(q.Parts))
	proposals := make([]proposal, len(q.Parts))
	for i := range q.Parts {
		p := &q.Parts[i]
		r := n.replica(p.Shard)
		keys, err := n.checkCommands(q.Op, p.Commands)
		s.asked += keys
		switch {
		case err != nil:
			answers[i] = coordinator.PartAnswer{Status: coordinator.StatusRefused, Code: kv.CodeOf(err), Detail: err.Error()}
		case r == nil || r.data == nil || !r.leads():
			answers[i] = n.notLeader(r)
		default:
			answers[i].Leader = n.name
			if proposals[i], err = r.propose(ctx, p.Commands); err != nil {
				answers[i] = coordinator.PartAnswer{Status: coordinator.StatusRefused, Code: kv.CodeOf(err), Detail: err.Error()}
			} else {
				s.done += keys
			}
		}
		answers[i].Shard = p.Shard
	}
	s.spent(stagePropose)
	w := coordinator.NewAnswer(answerRoom(), nil, len(q.Parts))
	for i := range q.Parts {
		a := &answers[i]
		if a.Status == coordinator.StatusServed {
			a.Results = proposals[i].wait(ctx)
			n.noteWrite(a, proposals[i].r, len(q.Parts[i].Commands))
		}
		s.answered(a)
		w.Part(a)
	}
	s.spent(stageCommit)
	return w.Bytes()
}

// noteWrite says where else to go when not every command was applied here.
func (n *Node) noteWrite(a *coordinator.PartAnswer, r *replica, asked int) {
	refused := len(a.Results) < asked
	for i := range a.Results {
		if a.Results[i].Outcome == kv.OutcomeNotApplied && a.Results[i].Code == kv.CodeUnavailable {
			refused = true
		}
	}
	if refused {
		a.Status, a.Leader = coordinator.StatusNotLeader, r.leader()
	}
}

// checkCommands checks what a client sent before it reaches the log, and counts the
// keys: one value in several commands is that of the last.
func (n *Node) checkCommands(op coordinator.Op, commands [][]byte) (keys int, err error) {
	for i, c := range commands {
		w, err := n.cfg.Limits.CheckWrite(c)
		if err == nil && (!op.Carries(&w) || w.Bucket == 0) {
			err = fmt.Errorf("%w: command kind %d on bucket %d in a request to %s", kv.ErrInvalid, w.Kind, w.Bucket, op)
		}
		if err != nil {
			return 0, fmt.Errorf("command %d of %d: %w", i, len(commands), err)
		}
		if w.Kind != kv.KindPiece {
			keys += w.Count
		}
	}
	return keys, nil
}

// serveBuckets does a bucket operation, if this node leads the meta group.
func (n *Node) serveBuckets(ctx context.Context, request []byte) ([]byte, error) {
	q, err := coordinator.DecodeBucketRequest(request)
	if err != nil {
		return nil, err
	}
	meta := n.replica(sharding.Meta)
	if meta == nil || !meta.leads() {
		return coordinator.BucketAnswer{Status: coordinator.StatusNotLeader, Leader: n.leaderOf(sharding.Meta)}.Append(nil), nil
	}
	var a coordinator.BucketAnswer
	switch q.Op {
	case coordinator.BucketCreate:
		a, err = n.createBucket(ctx, q.Name)
	case coordinator.BucketDelete:
		ctx, done := early(ctx)
		defer done()
		err = n.deleteBucket(ctx, meta, q.Name, q.ID)
	case coordinator.ClientNew:
		a.ID, err = n.decide(ctx, fsm.AppendNewClient(nil))
	default:
		a, err = n.readCatalogue(ctx, meta, q)
	}
	if errors.Is(err, errNotLeader) {
		a, err = coordinator.BucketAnswer{Status: coordinator.StatusNotLeader, Leader: meta.leader()}, nil
	}
	if err != nil {
		a = coordinator.BucketAnswer{Status: coordinator.StatusRefused, Code: readCode(err), Detail: err.Error()}
	}
	return a.Append(nil), nil
}

// createBucket proposes a bucket. The answer carries no id: the caller opens
// it.
func (n *Node) createBucket(ctx context.Context, name string) (a coordinator.BucketAnswer, err error) {
	if err := kv.CheckBucketName(name); err != nil {
		return a, err
	}
	_, err = n.decide(ctx, fsm.AppendCreateBucket(nil, name))
	return a, err
}

// readCatalogue reads the catalogue as of now: confirmed, like every read.
func (n *Node) readCatalogue(ctx context.Context, meta *replica, q coordinator.BucketRequest) (a coordinator.BucketAnswer, err error) {
	index, err := n.confirm.begin(meta).wait(ctx)
	if err != nil {
		return a, err
	}
	if err := meta.machine.Wait(ctx, index); err != nil {
		return a, err
	}
	return n.lookUp(meta, q)
}

// lookUp reads the catalogue, unless it was dropped since a read of its replica was
// confirmed: it is empty then without its buckets being gone. A replica leaves the
// set before its rows go, and another one has its place when it comes back.
func (n *Node) lookUp(meta *replica, q coordinator.BucketRequest) (a coordinator.BucketAnswer, err error) {
	found := true
	if q.Op == coordinator.BucketList {
		a.Names, err = n.catalog.Buckets()
	} else {
		a.ID, found, err = n.catalog.Bucket(q.Name)
	}
	switch {
	case err != nil:
		return a, err
	case n.replica(sharding.Meta) != meta:
		return a, errNotLeader
	case !found:
		return a, fmt.Errorf("%w: no bucket %q", kv.ErrNoSuchStore, q.Name)
	}
	return a, nil
}

// serveNodeAddr records where another node is now.
func (n *Node) serveNodeAddr(ctx context.Context, from sharding.NodeID, request []byte) error {
	d := versioned(request)
	nodes := sharding.DecodeNodes(d)
	if err := d.Finish(); err != nil {
		return err
	}
	if len(nodes) != 1 || nodes[0].ID != from {
		return fmt.Errorf("node %s may report its own address only", from)
	}
	return n.recordAddr(ctx, nodes[0])
}

// recordAddr writes a node's address into the catalogue, if this node leads it.
func (n *Node) recordAddr(ctx context.Context, node sharding.Node) error {
	ctx, done := context.WithTimeout(ctx, decideTimeout)
	defer done()
	_, err := n.decide(ctx, fsm.AppendNodeAddr(nil, node.ID, node.Storage, node.Addr))
	return err
}

// Status describes the node.
func (n *Node) Status() coordinator.NodeStatus {
	s := n.outline()
	n.sizes(&s)
	return s
}

// outline is the status without what takes a look at the disk.
func (n *Node) outline() coordinator.NodeStatus {
	s := coordinator.NodeStatus{
		Node: n.name, Version: n.cfg.Version, Storage: clusterName(n.storage), Addr: n.addr, State: "forming",
	}
	if f := n.founded.Load(); f != nil {
		s.Cluster = clusterName(f.Cluster)
	}
	if m := n.current.Load(); m != nil {
		s.State, s.Epoch = "serving", m.Epoch
	}
	if why := n.waiting.Load(); why != nil {
		s.State, s.Reason = "waiting", *why
	}
	if n.stopping.Load() {
		s.State = "stopping"
	}
	if g := n.gossip; g != nil {
		s.Members = g.members()
	}
	for _, r := range n.replicaSet() {
		s.Shards = append(s.Shards, r.status())
	}
	slices.SortFunc(s.Shards, func(a, b coordinator.ShardStatus) int { return int(a.Shard) - int(b.Shard) })
	slices.SortFunc(s.Members, func(a, b coordinator.MemberStatus) int { return strings.Compare(string(a.Node), string(b.Node)) })
	return s
}

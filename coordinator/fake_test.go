package coordinator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
	"github.com/manykv/manykv/transport"
)

const testBucket = 7

// fakeCluster is a cluster as a coordinator sees it: nodes that answer, or fail
// to, over data that is one map in memory, written by state machines that know
// sessions (machine_test.go). It notes what was sent and what was applied.
type fakeCluster struct {
	fetchMap  func(ctx context.Context, epoch uint64) (*sharding.Map, error) // nil: the newest map
	enter     func(ctx context.Context, node sharding.NodeID)                // called for each request before anything else
	newClient func(ctx context.Context) error                                // called for each client before it gets its id; may be nil
	deleted   func()                                                         // called after each deletion of a bucket; may be nil
	pageKeys  int                                                            // most keys in the answer to a part; 0: all
	slowly    time.Duration                                                  // an answer takes so long; what was asked is done all the same
	hurry     int                                                            // late copies arrive with every so many requests; 0: only by arrive

	mu       sync.Mutex
	m        *sharding.Map
	leads    int                        // which replica of each shard leads
	data     map[string]string          // of testBucket
	fates    map[sharding.NodeID][]fate // of the next requests to a node
	always   fate                       // when there are no more
	requests []seen
	machines map[machineKey]*machine
	versions map[string]uint64 // of data, by key; of what a test put there: 0
	index    uint64            // of the newest entry
	applied  []write           // in order
	exposed  map[string]bool   // keys of which the caller must think that they may have been written
	forgot   bool              // a state machine said so of a call
	healed   bool              // nodes in between do what they are asked, from now on
	lossy    bool              // an answer of a node in between was lost: any key may have been written
	late     []copied          // commands on their way that arrive some time later
	clients  uint64            // ids given out
	nodes    []NodeRequest
	buckets  []string // names; the id of a bucket is its place, from 1
	problems []error  // what a node must never be sent
}

// seen is a request that arrived at a node.
type seen struct {
	node sharding.NodeID
	at   time.Time
	q    *Request
}

// copied is a command on its way.
type copied struct {
	shard sharding.Shard
	bytes []byte
}

// write is one key of a write, by which a test knows it again.
type write struct{ key, value string }

// count is how often a write was applied.
func (f *fakeCluster) count(w write) (n int) {
	for _, a := range f.applied {
		if a == w {
			n++
		}
	}
	return n
}

func newFake(nodes, shards, replicas int) *fakeCluster {
	f := &fakeCluster{
		data:     make(map[string]string),
		fates:    make(map[sharding.NodeID][]fate),
		machines: make(map[machineKey]*machine),
		versions: make(map[string]uint64),
	}
	f.m = foundMap(1, nodes, shards, replicas)
	f.exposed = make(map[string]bool)
	return f
}

func foundMap(epoch uint64, nodes, shards, replicas int) *sharding.Map {
	all := make([]sharding.Node, nodes)
	for i := range all {
		all[i] = sharding.Node{ID: sharding.NodeID(fmt.Sprintf("n%d", i+1)), Addr: fmt.Sprintf("host:%d", i+1)}
	}
	m, err := sharding.Found(1, all, shards, replicas)
	if err != nil {
		panic(err)
	}
	m.Epoch = epoch
	return m
}

func (f *fakeCluster) config(self sharding.NodeID) Config {
	return Config{
		Self: self,
		Serve: func(ctx context.Context, request []byte) ([]byte, error) {
			return f.call(ctx, self, MethodParts, request)
		},
		Call:     f.call,
		FetchMap: f.fetch,
	}
}

// user is what a caller has of a cluster: a way to read, and a session.
type user struct {
	reader
	*Session
}

// reader is a Coordinator or a Through.
type reader interface {
	GetMany(ctx context.Context, bucket uint64, keys []string) ([]*kv.Pair, error)
	GetVersion(ctx context.Context, bucket uint64, key string) ([]byte, uint64, bool, error)
	Exists(ctx context.Context, bucket uint64, keys []string) ([]bool, error)
	List(ctx context.Context, bucket, cursor uint64) ([]string, uint64, error)
}

// client returns a client's way to the cluster.
func (f *fakeCluster) client(limits kv.Limits) user {
	c := f.coordinator(limits)
	return user{c, c.NewSession()}
}

// through returns the way to the cluster through nodes, each call through the next.
func (f *fakeCluster) through(limits kv.Limits, fates []fate, nodes ...*Coordinator) user {
	t := &Through{Call: (&between{f: f, nodes: nodes, fates: fates}).call, Maps: f.coordinator(kv.Limits{}), Limits: limits}
	return user{t, t.NewSession()}
}

func (f *fakeCluster) coordinator(limits kv.Limits) *Coordinator { return f.node("", limits) }

// node returns the coordinator of a node; of a client if self is empty.
func (f *fakeCluster) node(self sharding.NodeID, limits kv.Limits) *Coordinator {
	cfg := f.config(self)
	cfg.Limits = limits
	c, err := New(cfg)
	if err != nil {
		panic(err)
	}
	return c
}

func (f *fakeCluster) fetch(ctx context.Context, epoch uint64) (*sharding.Map, error) {
	if f.fetchMap != nil {
		return f.fetchMap(ctx, epoch)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.m.Epoch <= epoch {
		return nil, nil
	}
	return f.m, nil
}

// will sets the fates of the next requests to a node.
func (f *fakeCluster) will(node sharding.NodeID, fates ...fate) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fates[node] = append(f.fates[node], fates...)
}

func (f *fakeCluster) next(node sharding.NodeID) fate {
	fates := f.fates[node]
	if len(fates) == 0 {
		return f.always
	}
	f.fates[node] = fates[1:]
	return fates[0]
}

func (f *fakeCluster) leader(s sharding.Shard) sharding.NodeID {
	replicas := f.m.Group(s).Replicas
	return replicas[f.leads%len(replicas)]
}

// change replaces the map: other replicas are preferred, the shards stay.
func (f *fakeCluster) change() {
	next := *f.m
	next.Epoch++
	next.Groups = slices.Clone(f.m.Groups)
	for i := range next.Groups {
		r := slices.Clone(next.Groups[i].Replicas)
		next.Groups[i].Replicas = append(r[1:], r[0])
	}
	f.m = &next
}

// split replaces the map by one of other shards.
func (f *fakeCluster) split() {
	shards := len(f.m.Groups)%5 + 1
	f.m = foundMap(f.m.Epoch+1, len(f.m.Nodes), shards, len(f.m.Groups[0].Replicas))
}

// seenBy returns the requests for parts that arrived, at a node or at any.
func (f *fakeCluster) seenBy(node sharding.NodeID) []seen {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []seen
	for _, s := range f.requests {
		if node == "" || s.node == node {
			out = append(out, s)
		}
	}
	return out
}

// callsIn counts the calls that a request has commands of.
func callsIn(q *Request) int {
	calls := make(map[uint64]bool)
	for _, c := range commandsOf(q) {
		if w, err := kv.DecodeWrite(c.bytes); err == nil {
			calls[w.Origin.Seq] = true
		}
	}
	return len(calls)
}

// callsSeen counts the calls of each request that arrived.
func (f *fakeCluster) callsSeen() (calls []int) {
	for _, s := range f.seenBy("") {
		calls = append(calls, callsIn(s.q))
	}
	return calls
}

// commandsSeen counts the commands that arrived.
func (f *fakeCluster) commandsSeen() (n int) {
	for _, s := range f.seenBy("") {
		n += len(commandsOf(s.q))
	}
	return n
}

// join has a client's writes wait for each other.
func join(u user) {
	u.reader.(*Coordinator).combine.trial = trial{better: true, left: 1 << 30}
}

// arrive lets all copies on their way arrive.
func (f *fakeCluster) arrive() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.late {
		f.apply(c, kv.CodeOK)
	}
	f.late = nil
}

// heal lets everything go well from now on.
func (f *fakeCluster) heal() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.fates)
	f.always, f.healed = served, true
}

func notSentErr(node sharding.NodeID, why error) error {
	return fmt.Errorf("transport: node %s: %w: %w", node, transport.ErrNotSent, why)
}

func lostErr(node sharding.NodeID, why error) error {
	return fmt.Errorf("transport: node %s: %w: %w", node, transport.ErrLost, why)
}

// connectWait is how long the transport waits for a connection.
const connectWait = 500 * time.Millisecond

var errNetwork = errors.New("the network is down")

// call is Config.Call.
func (f *fakeCluster) call(ctx context.Context, node sharding.NodeID, method byte, request []byte) ([]byte, error) {
	if ctx.Err() != nil {
		return nil, notSentErr(node, context.Cause(ctx))
	}
	switch method {
	case MethodBuckets:
		return f.bucketCall(ctx, node, request)
	case MethodNodes:
		return f.nodeCall(ctx, node, request)
	}
	q, err := DecodeRequest(request)
	if err != nil {
		return nil, f.problem(fmt.Errorf("method %d: %w", method, err))
	}
	f.mu.Lock()
	f.requests = append(f.requests, seen{node, time.Now(), q})
	fate := f.next(node)
	hurry := f.hurry > 0 && len(f.requests)%f.hurry == 0
	f.mu.Unlock()
	if hurry {
		f.arrive()
	}
	if f.enter != nil {
		f.enter(ctx, node)
	}
	if err := f.callFails(ctx, node, q, fate); err != nil {
		return nil, err
	}
	f.mu.Lock()
	answer := f.serve(node, q, fate)
	f.mu.Unlock()
	if f.slowly > 0 && !sleep(ctx, f.slowly) {
		return nil, lostErr(node, context.Cause(ctx))
	}
	return answer, nil
}

func (f *fakeCluster) problem(err error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.problems = append(f.problems, err)
	return err
}

// commandsOf returns all commands of a request, in order.
func commandsOf(q *Request) (out []copied) {
	for i := range q.Parts {
		for _, c := range q.Parts[i].Commands {
			out = append(out, copied{q.Parts[i].Shard, c})
		}
	}
	return out
}

// callFails plays the fates of whole calls; nil if the request is to be served.
func (f *fakeCluster) callFails(ctx context.Context, node sharding.NodeID, q *Request, fate fate) error {
	switch fate {
	case notConnected:
		sleep(ctx, connectWait)
	case hungBefore, hungAfter:
		<-ctx.Done()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	commands := commandsOf(q)
	switch fate {
	case lostBefore, lostClosed, hungBefore, failedBefore:
		f.expose(commands)
	case lostAfter, hungAfter, failedAfter, failedCode, garbage, missingPart, wrongShard, strangeStatus:
		f.expose(commands)
		for _, c := range commands {
			f.apply(c, kv.CodeOK)
		}
	case lostLater, diesProposing:
		f.expose(commands)
		f.late = append(f.late, commands...)
	}
	if fate == diesProposing { // the others elect another leader
		f.leads++
	}
	switch fate {
	case notSent, notConnected:
		return notSentErr(node, errNetwork)
	case closed:
		return notSentErr(node, transport.ErrClosed)
	case lostClosed:
		return lostErr(node, transport.ErrClosed)
	case lostBefore, lostAfter, lostLater, diesProposing:
		return lostErr(node, errNetwork)
	case hungBefore, hungAfter:
		return lostErr(node, context.Cause(ctx))
	case refusedCall:
		return &transport.RemoteError{Code: transport.CodeRefused, Message: "over budget"}
	case deniedCall:
		return &transport.RemoteError{Code: transport.CodeDenied, Message: "not for you"}
	case failedBefore, failedAfter:
		return &transport.RemoteError{Code: transport.CodeFailed, Message: "the handler failed"}
	case failedCode:
		return &transport.RemoteError{Code: 77, Message: "the handler's own code"}
	default:
		return nil
	}
}

// expose notes that the caller must take commands for possibly applied.
func (f *fakeCluster) expose(commands []copied) {
	for _, c := range commands {
		for _, w := range f.writesOf(c.bytes) {
			f.exposed[w.key] = true
		}
	}
}

// other returns a node that has a replica of the shard and is none of those.
func (f *fakeCluster) other(s sharding.Shard, not ...sharding.NodeID) sharding.NodeID {
	for _, id := range f.m.Group(s).Replicas {
		if !slices.Contains(not, id) {
			return id
		}
	}
	return ""
}

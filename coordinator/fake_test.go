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
// to, over data that is one map in memory. It notes what was sent and what was
// applied.
type fakeCluster struct {
	fetchMap func(ctx context.Context, epoch uint64) (*sharding.Map, error) // nil: the newest map
	enter    func(ctx context.Context, node sharding.NodeID)                // called for each request before anything else

	mu       sync.Mutex
	m        *sharding.Map
	leads    int                        // which replica of each shard leads
	data     map[string]string          // of testBucket
	fates    map[sharding.NodeID][]fate // of the next requests to a node
	always   fate                       // when there are no more
	requests []seen
	writes   writeLog
	late     [][]byte // commands on their way that arrive after the caller has left
	buckets  []string // names; the id of a bucket is its place, from 1
	problems []error  // what a node must never be sent
}

// seen is a request that arrived at a node.
type seen struct {
	node sharding.NodeID
	at   time.Time
	q    *Request
}

// write is one key of a write, by which a test knows it again.
type write struct{ key, value string }

// writeLog counts how often each key was written, and how often the caller had
// reason to think that it was, or may have been.
type writeLog struct {
	applied []write
	exposed map[write]int
}

func (l *writeLog) count(w write) (n int) {
	for _, a := range l.applied {
		if a == w {
			n++
		}
	}
	return n
}

func newFake(nodes, shards, replicas int) *fakeCluster {
	f := &fakeCluster{
		data:  make(map[string]string),
		fates: make(map[sharding.NodeID][]fate),
	}
	f.m = foundMap(1, nodes, shards, replicas)
	f.writes.exposed = make(map[write]int)
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

// change replaces the map: other leaders are preferred, and other ranges.
func (f *fakeCluster) change() {
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

// arrive lets what was on its way when its caller left be applied.
func (f *fakeCluster) arrive() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, command := range f.late {
		f.apply(command)
	}
	f.late = nil
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
	if method == MethodBuckets {
		return f.bucketCall(ctx, node, request)
	}
	q, err := DecodeRequest(request)
	if err != nil {
		return nil, f.problem(fmt.Errorf("method %d: %w", method, err))
	}
	f.mu.Lock()
	f.requests = append(f.requests, seen{node, time.Now(), q})
	fate := f.next(node)
	f.mu.Unlock()
	if f.enter != nil {
		f.enter(ctx, node)
	}
	if err := f.callFails(ctx, node, q, fate); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.serve(node, q, fate), nil
}

func (f *fakeCluster) problem(err error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.problems = append(f.problems, err)
	return err
}

// commandsOf returns all commands of a request, in order.
func commandsOf(q *Request) (out [][]byte) {
	for i := range q.Parts {
		out = append(out, q.Parts[i].Commands...)
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
			f.apply(c)
		}
	case lostLater:
		f.expose(commands)
		f.late = append(f.late, commands...)
	}
	switch fate {
	case notSent, notConnected:
		return notSentErr(node, errNetwork)
	case closed:
		return notSentErr(node, transport.ErrClosed)
	case lostClosed:
		return lostErr(node, transport.ErrClosed)
	case lostBefore, lostAfter, lostLater:
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
func (f *fakeCluster) expose(commands [][]byte) {
	for _, c := range commands {
		for _, w := range f.writesOf(c) {
			f.writes.exposed[w]++
		}
	}
}

// apply applies a command.
func (f *fakeCluster) apply(command []byte) {
	kind, _, _ := kv.Header(command)
	for _, w := range f.writesOf(command) {
		f.writes.applied = append(f.writes.applied, w)
		if kind == kv.KindSet {
			f.data[w.key] = w.value
		} else {
			delete(f.data, w.key)
		}
	}
}

func (f *fakeCluster) writesOf(command []byte) (out []write) {
	w, err := kv.DecodeWrite(command)
	if err == nil && w.Bucket != testBucket {
		err = fmt.Errorf("a command for bucket %d", w.Bucket)
	}
	if err != nil {
		f.problems = append(f.problems, err)
		return nil
	}
	for {
		key, value, ok := w.Next()
		if !ok {
			break
		}
		out = append(out, write{string(key), string(value)})
	}
	if err := w.Err(); err != nil || len(out) == 0 {
		f.problems = append(f.problems, fmt.Errorf("a command of %d keys: %w", len(out), err))
	}
	return out
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

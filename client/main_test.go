package client_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"net"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/manykv/manykv/client"
	"github.com/manykv/manykv/coordinator"
	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
	"github.com/manykv/manykv/transport"
	"github.com/manykv/manykv/transport/pki"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// long is far more than anything here takes: reaching it is a failure.
const long = 20 * time.Second

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// town is the certificates of a cluster and its nodes, each on a real socket,
// over data that is one map in memory.
type town struct {
	t   *testing.T
	dir string

	mu      sync.Mutex
	m       *sharding.Map // nil: not formed yet
	data    map[string]item
	done    map[kv.Origin]coordinator.Result // of each command applied; its Acked is 0
	index   uint64                           // of the last one
	clients uint64
	buckets []string // the id of a bucket is its place, from 1; "" has been deleted
	changes []coordinator.NodeRequest
}

type item struct {
	value   []byte
	version uint64
}

func newTown(t *testing.T, name string) *town {
	t.Helper()
	w := &town{t: t, dir: t.TempDir(), data: make(map[string]item), done: make(map[kv.Origin]coordinator.Result)}
	must(t, pki.NewCA(w.dir, name))
	must(t, pki.IssueClient(w.dir, "client"))
	return w
}

// form makes the map: all shards are on the first node, so that one node alone
// can serve, and on the others too.
func (w *town) form(nodes ...*node) {
	w.t.Helper()
	var all []sharding.Node
	for _, n := range nodes {
		all = append(all, sharding.Node{ID: sharding.NodeID(n.name), Addr: n.addr})
	}
	m, err := sharding.Found(1, all, 2, len(all))
	must(w.t, err)
	for i := range m.Groups {
		m.Groups[i].Replicas = m.Meta.Replicas
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.m = m
}

func (w *town) config(addrs ...string) client.Config {
	return client.Config{
		Addrs:  addrs,
		CAFile: filepath.Join(w.dir, "ca.crt"), CertFile: filepath.Join(w.dir, "client.crt"), KeyFile: filepath.Join(w.dir, "client.key"),
		Timeout: long,
	}
}

// open connects to nodes of the town.
func (w *town) open(cfg client.Config) *client.Client {
	w.t.Helper()
	c, err := client.Open(w.t.Context(), cfg)
	must(w.t, err)
	w.t.Cleanup(func() { must(w.t, c.Close()) })
	return c
}

// node is one node on its socket.
type node struct {
	town  *town
	name  string
	addr  string
	trans *transport.Transport
	coord *coordinator.Coordinator

	status []byte // not nil: its answer to MethodStatus; set before anybody asks

	mu   sync.Mutex
	hang func(method byte) // called before anything is served
	late func(method byte) // called before anything that was served is answered
}

// applies lets the node wait for f after it has served something.
func (n *node) applies(f func(method byte)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.late = f
}

// hangs lets the node wait for f before it serves anything.
func (n *node) hangs(f func(method byte)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hang = f
}

// node starts a node.
func (w *town) node(name string) *node {
	w.t.Helper()
	must(w.t, pki.IssueNode(w.dir, name, nil))
	n := &node{town: w, name: name, hang: func(byte) {}, late: func(byte) {}}
	var err error
	n.coord, err = coordinator.New(coordinator.Config{
		Self: sharding.NodeID(name), Serve: n.serveParts,
		Call:     func(context.Context, sharding.NodeID, byte, []byte) ([]byte, error) { return nil, transport.ErrNotSent },
		FetchMap: func(context.Context, uint64) (*sharding.Map, error) { return w.currentMap(), nil },
	})
	must(w.t, err)
	n.listen("127.0.0.1:0")
	w.t.Cleanup(func() { must(w.t, n.trans.Close()) })
	n.addr = n.trans.Addr().String()
	return n
}

// listen takes a socket, or takes it again.
func (n *node) listen(addr string) {
	n.town.t.Helper()
	dir := n.town.dir
	trans, err := transport.Open(transport.Config{
		Listen: addr,
		CAFile: filepath.Join(dir, "ca.crt"), CertFile: filepath.Join(dir, n.name+".crt"), KeyFile: filepath.Join(dir, n.name+".key"),
		Accept: true, Handle: n.handle,
	})
	must(n.town.t, err)
	n.trans = trans
}

// silence is an address where nobody ever answers.
func silence(t *testing.T) string {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	must(t, err)
	t.Cleanup(func() { must(t, c.Close()) })
	return c.LocalAddr().String()
}

// value returns what the cluster has of a key.
func (w *town) value(key string) ([]byte, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	i, found := w.data[key]
	return i.value, found
}

func (w *town) currentMap() *sharding.Map {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.m
}

func (n *node) handle(ctx context.Context, _ transport.Identity, method byte, request []byte) ([]byte, error) {
	n.mu.Lock()
	hang, late := n.hang, n.late
	n.mu.Unlock()
	hang(method)
	defer late(method)
	switch method {
	case coordinator.MethodMap:
		if m := n.town.currentMap(); m != nil && m.Epoch > binary.BigEndian.Uint64(request) {
			return m.Append(nil), nil
		}
		return nil, nil
	case coordinator.MethodParts:
		return n.serveParts(ctx, request)
	case coordinator.MethodBatch:
		return n.coord.ServeBatch(ctx, request)
	case coordinator.MethodBuckets, coordinator.MethodCatalog:
		return n.serveBuckets(request)
	case coordinator.MethodNodes:
		return n.serveNodes(request)
	case coordinator.MethodHash:
		shard, err := coordinator.DecodeHashRequest(request)
		return coordinator.HashAnswer{Index: 1, Term: 2, Hash: 3, Rows: uint64(shard)}.Append(nil), err
	case coordinator.MethodStatus:
		if n.status != nil {
			return n.status, nil
		}
		return json.Marshal(coordinator.NodeStatus{Node: sharding.NodeID(n.name), State: "serving"})
	default:
		return nil, errors.New("no such method")
	}
}

func (n *node) serveParts(_ context.Context, request []byte) ([]byte, error) {
	q, err := coordinator.DecodeRequest(request)
	if err != nil {
		return nil, err
	}
	n.town.mu.Lock()
	defer n.town.mu.Unlock()
	a := coordinator.NewAnswer(nil, nil, len(q.Parts))
	for _, p := range q.Parts {
		part := &coordinator.PartAnswer{Shard: p.Shard, Leader: sharding.NodeID(n.name)}
		for _, c := range p.Commands {
			r, err := n.town.apply(c)
			if err != nil {
				return nil, err
			}
			part.Results = append(part.Results, r)
		}
		a.OpenPart(part)
		switch q.Op {
		case coordinator.OpList:
			a.Keys(n.town.list(q.Bucket, p.Shard, p.Cursor), 0)
		case coordinator.OpGet, coordinator.OpExists:
			if i, ok := n.town.data[p.Keys[0]]; ok { // a node may answer the first few only
				a.Found(i.version, i.value)
			} else {
				a.Missing()
			}
		}
		a.ClosePart()
	}
	return a.Bytes(), nil
}

// list returns the keys of a shard from a hash on.
func (w *town) list(bucket uint64, shard sharding.Shard, cursor uint64) (keys []string) {
	for key := range w.data {
		if w.m.ShardOfKey(bucket, key) == shard && sharding.HashString(bucket, key) >= cursor {
			keys = append(keys, key)
		}
	}
	return keys
}

// apply applies a command that was not applied before.
func (w *town) apply(command []byte) (coordinator.Result, error) {
	c, err := kv.DecodeWrite(command)
	if err != nil || c.Origin.Client == 0 {
		return coordinator.Result{}, errors.Join(errors.New("a command without a session, or none"), err)
	}
	at := c.Origin
	at.Acked = 0
	r, ok := w.done[at]
	if !ok {
		w.index++
		if r, err = w.run(&c); err == nil {
			w.done[at] = r
		}
	}
	return r, err
}

func (w *town) run(c *kv.Write) (coordinator.Result, error) {
	r := coordinator.Result{Outcome: kv.OutcomeApplied}
	for {
		key, value, ok := c.Next()
		if !ok {
			return r, c.Err()
		}
		was := w.data[string(key)]
		switch c.Kind {
		case kv.KindDelete:
			delete(w.data, string(key))
			continue
		case kv.KindIncrement:
			n, _ := strconv.ParseInt("0"+string(was.value), 10, 64)
			value = strconv.AppendInt(nil, n+c.Delta, 10)
			r.Value = uint64(n + c.Delta)
		case kv.KindSwap:
			if was.version != c.Version {
				return coordinator.Result{Outcome: kv.OutcomeNotApplied, Code: kv.CodeConflict, Value: was.version}, nil
			}
			r.Value = w.index
		}
		w.data[string(key)] = item{value, w.index}
	}
}

func (n *node) serveNodes(request []byte) ([]byte, error) {
	q, err := coordinator.DecodeNodeRequest(request)
	if err != nil {
		return nil, err
	}
	n.town.mu.Lock()
	defer n.town.mu.Unlock()
	n.town.changes = append(n.town.changes, q)
	a := coordinator.NodeAnswer{}
	if q.Node == "stranger" {
		a = coordinator.NodeAnswer{Status: coordinator.StatusRefused, Code: kv.CodeInvalid, Detail: "no node stranger"}
	}
	return a.Append(nil), nil
}

func (n *node) serveBuckets(request []byte) ([]byte, error) {
	q, err := coordinator.DecodeBucketRequest(request)
	if err != nil {
		return nil, err
	}
	n.town.mu.Lock()
	defer n.town.mu.Unlock()
	if q.Op == coordinator.ClientNew {
		n.town.clients++
		return coordinator.BucketAnswer{ID: n.town.clients}.Append(nil), nil
	}
	a := coordinator.BucketAnswer{Names: n.town.buckets}
	for i, name := range n.town.buckets {
		if name == q.Name {
			a.ID = uint64(i + 1)
		}
	}
	switch {
	case q.Op == coordinator.BucketCreate && a.ID != 0:
		a = coordinator.BucketAnswer{Status: coordinator.StatusRefused, Code: kv.CodeExists, Detail: q.Name}
	case q.Op == coordinator.BucketCreate:
		n.town.buckets = append(n.town.buckets, q.Name)
	case q.Op == coordinator.BucketDelete && a.ID == q.ID:
		n.town.buckets[a.ID-1] = ""
	case a.ID == 0 && q.Op != coordinator.BucketList:
		a = coordinator.BucketAnswer{Status: coordinator.StatusRefused, Code: kv.CodeNoSuchStore, Detail: q.Name}
	}
	return a.Append(nil), nil
}

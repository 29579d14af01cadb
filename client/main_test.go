package client_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"net"
	"path/filepath"
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
	data    map[string][]byte
	buckets []string
}

func newTown(t *testing.T, name string) *town {
	t.Helper()
	w := &town{t: t, dir: t.TempDir(), data: make(map[string][]byte)}
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
	n := &node{town: w, name: name, hang: func(byte) {}}
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
	value, found := w.data[key]
	return value, found
}

func (w *town) currentMap() *sharding.Map {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.m
}

func (n *node) handle(ctx context.Context, _ transport.Identity, method byte, request []byte) ([]byte, error) {
	n.mu.Lock()
	hang := n.hang
	n.mu.Unlock()
	hang(method)
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
	a := coordinator.NewAnswer(nil, len(q.Parts))
	for _, p := range q.Parts {
		part := &coordinator.PartAnswer{Shard: p.Shard, Leader: sharding.NodeID(n.name)}
		for _, c := range p.Commands {
			if err := n.town.apply(c); err != nil {
				return nil, err
			}
			part.Results = append(part.Results, coordinator.Result{Outcome: kv.OutcomeApplied})
		}
		a.OpenPart(part)
		for _, key := range p.Keys {
			if value, ok := n.town.data[key]; ok {
				a.Found(1, value)
			} else {
				a.Missing()
			}
		}
		a.ClosePart()
	}
	return a.Bytes(), nil
}

func (w *town) apply(command []byte) error {
	c, err := kv.DecodeWrite(command)
	if err != nil {
		return err
	}
	for {
		key, value, ok := c.Next()
		if !ok {
			return c.Err()
		}
		if c.Kind == kv.KindSet {
			w.data[string(key)] = value
		} else {
			delete(w.data, string(key))
		}
	}
}

func (n *node) serveBuckets(request []byte) ([]byte, error) {
	q, err := coordinator.DecodeBucketRequest(request)
	if err != nil {
		return nil, err
	}
	n.town.mu.Lock()
	defer n.town.mu.Unlock()
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
	case q.Op == coordinator.BucketOpen && a.ID == 0:
		a = coordinator.BucketAnswer{Status: coordinator.StatusRefused, Code: kv.CodeNoSuchStore, Detail: q.Name}
	}
	return a.Append(nil), nil
}

package client

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/manykv/manykv/coordinator"
	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
	"github.com/manykv/manykv/transport"
)

// store is what reads and the catalogue need: a coordinator of our own, or a
// node's.
type store interface {
	catalogue
	reads
}

type catalogue interface {
	OpenBucket(ctx context.Context, name string) (uint64, error)
	CreateBucket(ctx context.Context, name string) error
	DeleteBucket(ctx context.Context, name string) error
	ListBuckets(ctx context.Context) ([]string, error)
}

type reads interface {
	GetMany(ctx context.Context, bucket uint64, keys []string) ([]*kv.Pair, error)
	GetVersion(ctx context.Context, bucket uint64, key string) (value []byte, version uint64, found bool, err error)
	Exists(ctx context.Context, bucket uint64, keys []string) ([]bool, error)
	List(ctx context.Context, bucket, cursor uint64) (keys []string, next uint64, err error)
}

// Client is a connection to one cluster, and one session of writes.
type Client struct {
	cfg   Config
	trans *transport.Transport
	coord *coordinator.Coordinator // also with Through: it knows the map
	store store
	write *coordinator.Session

	via atomic.Uint32 // of Through: the place in Addrs of the node that answered last
}

// connectWait is how long a request waits for a connection to one node before it
// is taken elsewhere.
const connectWait = 500 * time.Millisecond

// Open connects to a cluster: it returns when a node has answered with the
// cluster's map, or with the error of the last node asked when ctx (or
// Config.Timeout) ends.
func Open(ctx context.Context, cfg Config) (*Client, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	c := &Client{cfg: cfg}
	c.trans, err = transport.Open(transport.Config{
		CAFile: cfg.CAFile, CertFile: cfg.CertFile, KeyFile: cfg.KeyFile,
		Resolve: c.resolve, ConnectWait: connectWait,
		Logger: cfg.Logger,
	})
	if err != nil {
		return nil, fmt.Errorf("open client: %w", err)
	}
	c.coord, err = coordinator.New(coordinator.Config{Call: c.call, FetchMap: c.fetchMap, Limits: cfg.Limits, Tracer: cfg.Tracer})
	if err != nil {
		return nil, errors.Join(err, c.trans.Close())
	}
	c.store, c.write = c.coord, c.coord.NewSession()
	if cfg.Through {
		through := &coordinator.Through{Call: c.callThrough, Maps: c.coord, Limits: cfg.Limits, Tracer: cfg.Tracer}
		c.store, c.write = through, through.NewSession()
	}
	ctx, done := c.deadline(ctx)
	defer done()
	if err := c.firstMap(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open client: %w", err), c.trans.Close())
	}
	return c, nil
}

// Close ends all connections. Calls under way fail.
func (c *Client) Close() error { return c.trans.Close() }

// CreateBucket makes a bucket; kv.ErrExists if there is one of that name.
func (c *Client) CreateBucket(ctx context.Context, name string) error {
	ctx, done := c.deadline(ctx)
	defer done()
	return c.store.CreateBucket(ctx, name)
}

// DeleteBucket deletes a bucket with all its keys; kv.ErrNoSuchStore if there is
// none of that name. Its keys are dropped shard by shard: for a moment some are
// still there for callers that have it open, then all calls of theirs fail with
// kv.ErrNoSuchStore. The name is free at once, and never deletes a bucket that was
// created under it after the call began. kv.ErrUnknown: it may have been deleted.
func (c *Client) DeleteBucket(ctx context.Context, name string) error {
	ctx, done := c.deadline(ctx)
	defer done()
	return c.store.DeleteBucket(ctx, name)
}

// ListBuckets returns the names of all buckets, sorted.
func (c *Client) ListBuckets(ctx context.Context) ([]string, error) {
	ctx, done := c.deadline(ctx)
	defer done()
	return c.store.ListBuckets(ctx)
}

// Bucket opens a bucket; kv.ErrNoSuchStore if there is none of that name.
func (c *Client) Bucket(ctx context.Context, name string) (*Bucket, error) {
	ctx, done := c.deadline(ctx)
	defer done()
	id, err := c.store.OpenBucket(ctx, name)
	switch {
	case errors.Is(err, kv.ErrNoSuchStore):
		return nil, err // it names the bucket
	case err != nil:
		return nil, fmt.Errorf("bucket %q: %w", name, err)
	}
	return &Bucket{c: c, name: name, id: id}, nil
}

// Retry sends those keys of a write of this client again whose outcomes are unknown,
// as the same write: what was applied is not applied a second time, and what was not
// applied is not begun. failed is, or
// wraps, the *kv.BatchError of the write, or of a Retry of it, and its Call is not
// 0. nil says that all of it is applied now, and value is then the sum of an
// increment or the new version of a compare-and-swap. Otherwise the error is a
// *kv.BatchError that says what is known now.
//
// kv.ErrInvalid: the write cannot be sent again, and what its error says of each
// key stands. A client keeps a write for 5 minutes from its beginning, and the
// newest 256 of unknown outcome, or 64 MiB.
func (c *Client) Retry(ctx context.Context, failed error) (value int64, err error) {
	ctx, done := c.deadline(ctx)
	defer done()
	return c.write.Retry(ctx, failed)
}

// Status is one node's answer to the question how it is.
type Status struct {
	Node   sharding.NodeID
	Addr   string
	Status *coordinator.NodeStatus // nil if the node did not answer
	Err    error                   // why not
}

// Status asks every node of the cluster how it is, in the order of their names.
func (c *Client) Status(ctx context.Context) ([]Status, error) {
	ctx, done := c.deadline(ctx)
	defer done()
	c.coord.Refresh(ctx) // a node may have another address since
	nodes := c.coord.Map().Nodes
	out := make([]Status, len(nodes))
	var all sync.WaitGroup
	for i, n := range nodes {
		all.Go(func() { out[i] = c.nodeStatus(ctx, n) })
	}
	all.Wait()
	return out, nil
}

// statusTimeout is how long one node may take to answer: a dead node shall not
// hold up the others' answers.
const statusTimeout = 2 * time.Second

func (c *Client) nodeStatus(ctx context.Context, n sharding.Node) Status {
	ctx, done := context.WithTimeout(ctx, statusTimeout)
	defer done()
	s := Status{Node: n.ID, Addr: n.Addr}
	b, err := c.trans.Call(ctx, string(n.ID), coordinator.MethodStatus, nil)
	if err == nil {
		s.Status = &coordinator.NodeStatus{}
		err = json.Unmarshal(b, s.Status)
	}
	if err != nil {
		s.Status, s.Err = nil, err
	}
	return s
}

// deadline gives a context without a deadline the configured one.
func (c *Client) deadline(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, c.cfg.Timeout)
}

// resolve says where a node is, by the newest map.
func (c *Client) resolve(node string) (string, bool) {
	m := c.coord.Map()
	if m == nil {
		return "", false
	}
	n, ok := m.Node(sharding.NodeID(node))
	return n.Addr, ok
}

func (c *Client) call(ctx context.Context, node sharding.NodeID, method byte, request []byte) ([]byte, error) {
	return c.trans.Call(ctx, string(node), method, request)
}

// retryPause separates attempts at nodes of which none can be reached, or has a
// map: short against what is waited for, a restart or the forming of a cluster.
const retryPause = 100 * time.Millisecond

// callThrough asks the nodes of Addrs one after the other, beginning with the
// one that answered last, until one took the request or ctx ended.
func (c *Client) callThrough(ctx context.Context, method byte, request []byte) ([]byte, error) {
	for {
		answer, err := c.callOneOf(ctx, method, request)
		if !errors.Is(err, transport.ErrNotSent) || errors.Is(err, transport.ErrIdentity) || errors.Is(err, transport.ErrClosed) {
			return answer, err
		}
		select {
		case <-time.After(retryPause):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// callOneOf asks each node of Addrs once, until one took the request.
func (c *Client) callOneOf(ctx context.Context, method byte, request []byte) (answer []byte, err error) {
	nodes := uint32(len(c.cfg.Addrs))
	first := c.via.Load()
	for i := range nodes {
		at := (first + i) % nodes
		answer, _, err = c.trans.CallAddr(ctx, c.cfg.Addrs[at], method, request)
		if errors.Is(err, transport.ErrNotSent) {
			continue
		}
		if errors.Is(err, transport.ErrLost) {
			at = (at + 1) % nodes // it may hang: the next call begins elsewhere
		}
		c.via.CompareAndSwap(first, at)
		return answer, err
	}
	return nil, err
}

// firstMap asks until a map came or ctx ended: a cluster that is just being
// formed has none yet. A refused certificate is no reason to ask again.
func (c *Client) firstMap(ctx context.Context) error {
	for {
		m, err := c.fetchMap(ctx, 0)
		switch {
		case m != nil:
			c.coord.UseMap(m)
			return nil
		case errors.Is(err, transport.ErrIdentity):
			return fmt.Errorf("%w: %w", kv.ErrAccessDenied, err)
		case err == nil:
			err = errors.New("the cluster is not formed yet")
		}
		select {
		case <-time.After(retryPause):
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", kv.ErrUnavailable, err)
		}
	}
}

// fetchMap asks the configured addresses, and the nodes of the map there is, all
// at once and takes the first newer map; that there is none is known when most of
// them said so, or all that answered. The error is that of the last to fail, but a
// refused certificate before any other.
func (c *Client) fetchMap(ctx context.Context, epoch uint64) (*sharding.Map, error) {
	ctx, done := context.WithCancel(ctx)
	defer done()
	type answer struct {
		m   *sharding.Map
		err error
	}
	addrs := c.mapAddrs()
	answers := make(chan answer, len(addrs))
	for _, addr := range addrs {
		go func() {
			m, err := c.askMap(ctx, addr, epoch)
			answers <- answer{m, err}
		}()
	}
	var m *sharding.Map
	var err error
	none := 0
	for range addrs {
		a := <-answers
		switch {
		case m != nil || epoch > 0 && 2*none > len(addrs): // the others were cancelled
		case a.m != nil:
			m = a.m
			done()
		case a.err == nil:
			if none++; epoch > 0 && 2*none > len(addrs) {
				done()
			}
		case a.err != nil && !errors.Is(err, transport.ErrIdentity):
			err = a.err
		}
	}
	if m != nil || epoch > 0 && none > 0 {
		return m, nil // whoever answered has none that is newer
	}
	return nil, err
}

// askTimeout bounds the wait for a node that hangs: others may have a map by now.
const askTimeout = 2 * time.Second

func (c *Client) askMap(ctx context.Context, addr string, epoch uint64) (*sharding.Map, error) {
	ctx, done := context.WithTimeout(ctx, askTimeout)
	defer done()
	b, _, err := c.trans.CallAddr(ctx, addr, coordinator.MethodMap, binary.BigEndian.AppendUint64(nil, epoch))
	if err != nil {
		return nil, err
	}
	if len(b) == 0 {
		return nil, nil
	}
	return sharding.DecodeMap(b)
}

// mapAddrs returns where a map may be had: Addrs, then other addresses of the
// map there is.
func (c *Client) mapAddrs() []string {
	addrs := append([]string(nil), c.cfg.Addrs...)
	seen := make(map[string]bool)
	for _, a := range addrs {
		seen[a] = true
	}
	if m := c.coord.Map(); m != nil {
		for _, n := range m.Nodes {
			if !seen[n.Addr] {
				addrs = append(addrs, n.Addr)
			}
		}
	}
	return addrs
}

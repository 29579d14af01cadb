package coordinator

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

// Config says what a coordinator works with. Zero values are the documented
// defaults.
type Config struct {
	// Self is the node this coordinator runs on; empty in a client. A node
	// reads its own replicas.
	Self sharding.NodeID
	// Serve answers a request for this node itself; required with Self.
	Serve func(ctx context.Context, request []byte) ([]byte, error)
	// Call sends a request to a node. Its errors are package transport's.
	Call func(ctx context.Context, node sharding.NodeID, method byte, request []byte) ([]byte, error)
	// FetchMap returns a map newer than epoch, or nil if there is none yet.
	FetchMap func(ctx context.Context, epoch uint64) (*sharding.Map, error)
	// Limits bound each call.
	Limits kv.Limits
	// Reserve takes bytes for an answer that is being made for somebody else, false
	// if there is no room, and Release gives them back. nil: nobody counts.
	Reserve func(bytes int64) bool
	Release func(bytes int64)
	// AttemptTimeout is how long a read waits for one node before it asks
	// another replica, and half of what a write waits; default 2 s, twice an
	// election time-out.
	AttemptTimeout time.Duration
	// Tracer starts a span for each call and each request of it; nil: none is.
	Tracer trace.Tracer
}

// Coordinator carries batches to the shards of one cluster. It is safe for
// concurrent use, and its goroutines end with its calls.
type Coordinator struct {
	cfg     Config
	routes  routes
	combine combiner
}

// New returns a coordinator. It has no map until UseMap or the first call.
func New(cfg Config) (*Coordinator, error) {
	cfg.Limits = cfg.Limits.WithDefaults()
	if err := cfg.Limits.Validate(); err != nil {
		return nil, err
	}
	if cfg.Reserve == nil {
		cfg.Reserve, cfg.Release = func(int64) bool { return true }, func(int64) {}
	}
	if cfg.AttemptTimeout == 0 {
		cfg.AttemptTimeout = 2 * time.Second
	}
	c := &Coordinator{cfg: cfg}
	c.combine = combiner{ask: c.ask, flows: make(map[flowKey]*flow)}
	return c, nil
}

// UseMap replaces the map if m is newer.
func (c *Coordinator) UseMap(m *sharding.Map) { c.routes.use(m) }

// Map returns the newest map known; nil if there is none yet.
func (c *Coordinator) Map() *sharding.Map { return c.routes.load().m() }

// Leader returns the node thought to lead a shard; "" without a map.
func (c *Coordinator) Leader(s sharding.Shard) sharding.NodeID {
	if t := c.routes.load(); t != nil {
		return t.leader(s)
	}
	return ""
}

// GetMany returns for each key its pair, or nil if it has no value: in the
// caller's order, duplicates answered in each position. It fails as a whole.
// Values of one answer share memory.
func (c *Coordinator) GetMany(ctx context.Context, bucket uint64, keys []string) ([]*kv.Pair, error) {
	if err := c.cfg.Limits.CheckKeys(keys); err != nil {
		return nil, err
	}
	pairs := make([]kv.Pair, len(keys)) // one allocation for all pairs
	out := make([]*kv.Pair, len(keys))
	err := c.get(ctx, OpGet, bucket, keys, func(i int, value []byte, _ uint64) {
		pairs[i] = kv.Pair{Key: keys[i], Value: value}
		out[i] = &pairs[i]
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// GetVersion returns the value of a key and its version, which no earlier or later
// value of the key has or will have; 0 if there is none.
func (c *Coordinator) GetVersion(ctx context.Context, bucket uint64, key string) (value []byte, version uint64, found bool, err error) {
	keys := []string{key}
	if err := c.cfg.Limits.CheckKeys(keys); err != nil {
		return nil, 0, false, err
	}
	err = c.get(ctx, OpGet, bucket, keys, func(_ int, v []byte, n uint64) { value, version, found = v, n, true })
	if err != nil {
		return nil, 0, false, err
	}
	return value, version, found, nil
}

// Exists says of each key whether it has a value.
func (c *Coordinator) Exists(ctx context.Context, bucket uint64, keys []string) ([]bool, error) {
	if err := c.cfg.Limits.CheckKeys(keys); err != nil {
		return nil, err
	}
	out := make([]bool, len(keys))
	if err := c.get(ctx, OpExists, bucket, keys, func(i int, _ []byte, _ uint64) { out[i] = true }); err != nil {
		return nil, err
	}
	return out, nil
}

// get reads keys.
func (c *Coordinator) get(ctx context.Context, op Op, bucket uint64, keys []string, found func(i int, value []byte, version uint64)) error {
	b := &batch{c: c, op: op, bucket: bucket, size: len(keys), keys: keys, found: found}
	return b.read(ctx)
}

func (c *Coordinator) limits() kv.Limits { return c.cfg.Limits }

// send carries a request to a node, or to this one: local or remote is this if.
func (c *Coordinator) send(ctx context.Context, node sharding.NodeID, method byte, request []byte) ([]byte, error) {
	if node == c.cfg.Self && method == MethodParts {
		return c.cfg.Serve(ctx, request)
	}
	return c.cfg.Call(ctx, node, method, request)
}

// ask sends a request for parts and returns its answer.
func (c *Coordinator) ask(ctx context.Context, node sharding.NodeID, request []byte) (*Answer, error) {
	b, err := c.send(ctx, node, MethodParts, request)
	if err != nil {
		return nil, err
	}
	return DecodeAnswer(b)
}

// table returns the routes, fetching a first map if there is none.
func (c *Coordinator) table(ctx context.Context) (*table, error) {
	if t := c.routes.load(); t != nil {
		return t, nil
	}
	m, err := c.cfg.FetchMap(ctx, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: no map of the cluster yet: %w", kv.ErrUnavailable, err)
	}
	if m == nil {
		return nil, fmt.Errorf("%w: the cluster is not formed yet", kv.ErrUnavailable)
	}
	return c.routes.use(m), nil
}

// refreshTimeout bounds a refresh, which is only a hope.
const refreshTimeout = time.Second

// Refresh looks for a newer map. Failure is no news: the caller goes on with
// the map it has.
func (c *Coordinator) Refresh(ctx context.Context) {
	var epoch uint64
	if m := c.Map(); m != nil {
		epoch = m.Epoch
	}
	ctx, done := context.WithTimeout(ctx, refreshTimeout)
	defer done()
	if m, err := c.cfg.FetchMap(ctx, epoch); err == nil && m != nil {
		c.UseMap(m)
	}
}

package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/manykv/manykv/coordinator"
	"github.com/manykv/manykv/fsm"
	"github.com/manykv/manykv/raftlog"
	"github.com/manykv/manykv/sharding"
	"github.com/manykv/manykv/transport"
	"github.com/manykv/manykv/transport/pki"
	"github.com/manykv/manykv/transport/raftnet"
)

// Node is one member of a cluster, or on its way to be one.
type Node struct {
	cfg     Config
	name    sharding.NodeID
	self    raft.ServerID
	addr    string // advertised
	storage uint64 // identity of the data directory
	dir     *dataDir
	logs    *raftlog.Log
	votes   *raftlog.Votes
	store   *fsm.Store
	catalog *fsm.Catalogue
	net     *raftnet.Net
	trans   *transport.Transport
	gossip  *gossip
	confirm *confirmer
	coord   *coordinator.Coordinator

	meter    *meter
	observed []prometheus.Collector // of the meter

	replicas atomic.Pointer[map[sharding.Shard]*replica] // only the control goroutine replaces it
	current  atomic.Pointer[sharding.Map]                // the newest map; nil until there is one
	founded  atomic.Pointer[founding]                    // the cluster this node is of; nil until then
	promise  atomic.Pointer[founding]                    // what it agreed to found; nil if nothing
	waiting  atomic.Pointer[string]                      // why it takes no part in a cluster; nil if it does
	stopping atomic.Bool
	broken   atomic.Bool // a write failed: see failDisk
	proposed budget      // of writes under way
	answered budget      // of answers being made

	promising sync.Mutex    // one promise at a time; guards dir.id
	newMap    chan struct{} // 1 slot: the map may be newer than what the control goroutine has seen
	behind    chan struct{} // 1 slot: somebody knows of a newer map

	led     map[sharding.Shard]spreadState // only the control goroutine
	surplus bool                           // only the control goroutine: replicas may have to go

	work    chan struct{} // 1 slot: the map may want a shard moved
	deleted chan struct{} // 1 slot: a bucket was deleted

	opened chan struct{} // closed when open has set all of the above: nothing is served before

	ctx     context.Context // ends when the node stops; the cause says why
	stop    context.CancelCauseFunc
	control sync.WaitGroup
	closing sync.Once
	closed  error
}

// Open starts a node: it finds its peers, founds or rejoins its cluster, opens
// its replicas and serves. It returns as soon as requests are accepted, which
// may be before the cluster is formed. The errors say what is wrong with the
// configuration, the certificates, the address or the data directory.
func Open(cfg Config) (*Node, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("open node: %w", err)
	}
	n := &Node{cfg: cfg, newMap: make(chan struct{}, 1), behind: make(chan struct{}, 1), led: make(map[sharding.Shard]spreadState), work: make(chan struct{}, 1), deleted: make(chan struct{}, 1), opened: make(chan struct{})}
	n.meter, n.observed = newMeter()
	n.ctx, n.stop = context.WithCancelCause(context.Background())
	n.replicas.Store(&map[sharding.Shard]*replica{})
	n.proposed.most, n.answered.most = cfg.RequestBytes, cfg.RequestBytes
	if err := n.open(); err != nil {
		n.stop(err)
		return nil, fmt.Errorf("open node: %w", errors.Join(err, n.closeAll()))
	}
	close(n.opened)
	n.control.Go(n.run)
	n.control.Go(n.compact)
	return n, nil
}

// open opens what the node stands on, bottom up; closeAll closes it.
func (n *Node) open() error {
	id, err := certIdentity(n.cfg.CertFile, n.cfg.KeyFile)
	if err != nil {
		return err
	}
	if n.cfg.Name != "" && n.cfg.Name != id.Name {
		return fmt.Errorf("the certificate %s is node %q's, this is node %q", n.cfg.CertFile, id.Name, n.cfg.Name)
	}
	n.name = sharding.NodeID(id.Name)
	if n.dir, err = openDataDir(n.cfg.DataDir, n.name); err != nil {
		return err
	}
	n.storage = n.dir.id.Storage
	n.promise.Store(n.dir.id.Promise)
	if n.dir.id.Founded {
		n.founded.Store(n.dir.id.Promise)
	}
	n.self = raft.ServerID(raftnet.Address(string(n.name), n.storage))
	if err := n.openStores(); err != nil {
		return err
	}
	if err := n.openNetwork(); err != nil {
		return err
	}
	return nil
}

// certIdentity returns whom a certificate is for: the node's name is needed
// before anything is opened.
func certIdentity(certFile, keyFile string) (transport.Identity, error) {
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return transport.Identity{}, fmt.Errorf("certificate: %w", err)
	}
	for _, uri := range pair.Leaf.URIs {
		id, err := transport.ParseIdentity(uri.String())
		if err == nil && id.Role == transport.RoleNode {
			return id, nil
		}
	}
	return transport.Identity{}, fmt.Errorf("certificate %s is no node's certificate; `manykv cert node` makes one", certFile)
}

func (n *Node) openStores() (err error) {
	n.logs, err = raftlog.Open(raftlog.Config{
		Dir: n.dir.path, Store: n.cfg.LogStore, JournalBytes: n.cfg.JournalBytes, Fatal: n.failDisk, Logger: n.cfg.Logger,
		Committed: n.meter.committed,
	})
	if err != nil {
		return err
	}
	n.votes, err = raftlog.OpenVotes(raftlog.VotesConfig{Path: n.dir.sub(votesFile), Fatal: n.failDisk})
	if err != nil {
		return err
	}
	n.store, err = fsm.Open(fsm.Config{Dir: n.dir.sub(storeDir), CacheBytes: n.cfg.CacheBytes, ValueCacheBytes: n.cfg.ValueCacheBytes, WriteBufferBytes: n.cfg.WriteBufferBytes, Fatal: n.failDisk, Logger: n.cfg.Logger})
	if err != nil {
		return err
	}
	n.catalog, err = n.store.Catalogue()
	return err
}

func (n *Node) openNetwork() (err error) {
	key, err := pki.ReadGossipKey(n.cfg.GossipKeyFile)
	if err != nil {
		return err
	}
	n.confirm = newConfirmer(n.self, n.callConfirm)
	n.coord, err = coordinator.New(coordinator.Config{
		Self: n.name, Serve: n.serveParts, Call: n.call, FetchMap: n.fetchMap, Limits: n.cfg.Limits,
		Reserve: n.answered.take, Release: n.answered.give, Tracer: n.cfg.Tracer,
	})
	if err != nil {
		return err
	}
	n.net, err = raftnet.Open(raftnet.Config{
		Self: raft.ServerAddress(n.self), Sender: sender{n}, DialBulk: sender{n}.DialBulk, Holds: n.holds, Covered: n.covered, Logger: n.cfg.Logger,
	})
	if err != nil {
		return err
	}
	n.trans, err = transport.Open(transport.Config{
		Listen: n.cfg.Listen,
		CAFile: n.cfg.CAFile, CertFile: n.cfg.CertFile, KeyFile: n.cfg.KeyFile,
		Accept: true, Handle: n.handle, Release: n.release, Receive: n.net.Receive, Bulk: n.net.ReceiveBulk, Resolve: n.resolve,
		ConnectWait: connectWait, InflightBytes: n.cfg.RequestBytes, GossipKey: key, ResetKey: n.dir.id.ResetKey, Logger: n.cfg.Logger,
	})
	if err != nil {
		return err
	}
	if n.addr, err = n.advertised(); err != nil {
		return err
	}
	n.gossip, err = openGossip(n, key)
	return err
}

// connectWait is how long a request waits for a connection to one node before it
// is taken elsewhere.
const connectWait = 500 * time.Millisecond

// advertised returns the address others shall use; a listen port of 0 is
// replaced by the one the system chose.
func (n *Node) advertised() (string, error) {
	addr := n.cfg.Advertise
	if addr == "" {
		addr = n.cfg.Listen
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", fmt.Errorf("advertise address %q: %w", addr, err)
	}
	if port == "0" {
		port = strconv.Itoa(n.trans.Addr().Port)
	}
	return net.JoinHostPort(host, port), nil
}

// sender hands raft's messages to the transport, which is opened after raftnet.
type sender struct{ n *Node }

func (s sender) Send(to string, lane transport.Lane, msg []byte) error {
	return s.n.trans.Send(to, lane, msg)
}

func (s sender) DialBulk(ctx context.Context, node string) (net.Conn, error) {
	return s.n.trans.DialBulk(ctx, node)
}

// Addr returns the advertised address.
func (n *Node) Addr() string { return n.addr }

// Name returns the node's name.
func (n *Node) Name() string { return string(n.name) }

// Done is closed when the node stops, by itself or by Close.
func (n *Node) Done() <-chan struct{} { return n.ctx.Done() }

// errClosed is the cause of an orderly end.
var errClosed = errors.New("node closed")

// Err says why the node stopped by itself; nil if it did not.
func (n *Node) Err() error {
	if err := context.Cause(n.ctx); err != nil && !errors.Is(err, errClosed) {
		return err
	}
	return nil
}

// failDisk stops the node after a failed or stalled write: nothing it says can
// be trusted any more, and nothing more may be written. The owner sees Done and
// must end the process.
func (n *Node) failDisk(err error) {
	n.broken.Store(true)
	n.fail(err)
}

// fail stops the node for good, loudly.
func (n *Node) fail(err error) {
	n.cfg.Logger.Error("the node stops", "node", n.name, "error", err)
	n.stop(err)
}

// Close hands leaderships over, as far as ctx allows, and stops. It is
// idempotent. After a failed or stalled write it only takes leave of the peers:
// the process must end.
func (n *Node) Close(ctx context.Context) error {
	n.closing.Do(func() {
		n.stopping.Store(true)
		if n.Err() == nil {
			n.handOverAll(ctx)
		}
		n.stop(errClosed)
		if n.broken.Load() {
			// A write may hang for ever, and everything above it with it: say
			// good-bye and leave the rest to the end of the process.
			n.closed = n.trans.Close()
			return
		}
		n.control.Wait()
		n.closed = n.closeAll()
	})
	return n.closed
}

// handOverTimeout bounds the handing over of one shard: a transfer is done
// within an election time-out or fails.
const handOverTimeout = 2 * electionTimeout

// handOverAll gives away every leadership, all at once.
func (n *Node) handOverAll(ctx context.Context) {
	ctx, done := context.WithTimeout(ctx, handOverTimeout)
	defer done()
	var all sync.WaitGroup
	for _, r := range n.replicaSet() {
		if !r.leads() || len(r.voters()) == 1 {
			continue
		}
		all.Go(func() {
			if err := r.handOver(ctx, n.heir(r)); err != nil {
				n.cfg.Logger.Warn("leadership not handed over", "shard", r.shard, "error", err)
			}
		})
	}
	all.Wait()
}

// heir returns the server that should lead a shard after this node: a voter that
// is there, or "" to let raft choose.
func (n *Node) heir(r *replica) raft.ServerID {
	m := n.current.Load()
	for _, id := range r.voters() {
		if id != n.self && m != nil && n.isHere(m, id) {
			return id
		}
	}
	return ""
}

// closeAll closes what open opened, top down. Parts that were never opened are
// skipped.
func (n *Node) closeAll() error {
	var errs []error
	if n.gossip != nil {
		errs = append(errs, n.gossip.close())
	}
	if n.confirm != nil {
		n.confirm.close()
	}
	if n.trans != nil {
		errs = append(errs, n.trans.Close())
	}
	errs = append(errs, n.closeReplicas()...)
	if n.net != nil {
		errs = append(errs, n.net.Close())
	}
	if n.store != nil {
		errs = append(errs, n.store.Close())
	}
	if n.votes != nil {
		errs = append(errs, n.votes.Close())
	}
	if n.logs != nil {
		errs = append(errs, n.logs.Close())
	}
	if n.dir != nil {
		errs = append(errs, n.dir.close())
	}
	return errors.Join(errs...)
}

func (n *Node) closeReplicas() []error {
	set := n.replicaSet()
	errs := make(chan error, len(set))
	for _, r := range set {
		go func() { errs <- r.close() }()
	}
	var out []error
	for range set {
		out = append(out, <-errs)
	}
	return out
}

func (n *Node) replicaSet() map[sharding.Shard]*replica { return *n.replicas.Load() }

// replica returns this node's replica of a shard; nil if it has none.
func (n *Node) replica(s sharding.Shard) *replica { return n.replicaSet()[s] }

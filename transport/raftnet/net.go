package raftnet

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"
	"github.com/manykv/manykv/transport"
)

// sender is what raftnet needs of *transport.Transport. Send never blocks and
// keeps msg; an error that is transport.ErrNotSent says that msg surely did
// not leave and may be sent again.
type sender interface {
	Send(to string, lane transport.Lane, msg []byte) error
}

// Config is how a node opens its Net. Self, Sender and DialBulk are required.
type Config struct {
	Self   raft.ServerAddress // as Address makes it; what raft configurations contain, also the raft.ServerID
	Sender sender

	// DialBulk opens a stream for a snapshot to a node, whose ReceiveBulk gets
	// its other end. Reads and writes of it must not hang for ever; it is the
	// transport's DialBulk.
	DialBulk func(ctx context.Context, node string) (net.Conn, error)

	// Holds says that the replica of a shard here has everything up to an entry of
	// that index and term, which is known to be committed, and has heard of no term
	// after the leader's. Then a snapshot of it is acknowledged without being read.
	// nil: none has.
	Holds func(shard uint32, leaderTerm, index, term uint64) bool

	// Covered returns what the snapshot of the replica of a shard here stands for:
	// the index and term of its last entry. Entries up to there are not asked of its
	// log. nil: none has a snapshot.
	Covered func(shard uint32) (index, term uint64)

	Logger *slog.Logger // nil: discard
}

func (c *Config) validate() error {
	if _, ok := Node(c.Self); !ok {
		return fmt.Errorf("raftnet: bad Self: got %q, want <node>@<%d hex digits>", c.Self, storageDigits)
	}
	if c.Sender == nil {
		return errors.New("raftnet: got no Sender, want one")
	}
	if c.DialBulk == nil {
		return errors.New("raftnet: got no DialBulk, want one")
	}
	if c.Holds == nil {
		c.Holds = func(uint32, uint64, uint64, uint64) bool { return false }
	}
	if c.Covered == nil {
		c.Covered = func(uint32) (uint64, uint64) { return 0, 0 }
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Net carries the messages of all groups of this node.
type Net struct {
	self     raft.ServerAddress
	sender   sender
	dialBulk func(ctx context.Context, node string) (net.Conn, error)
	holds    func(shard uint32, leaderTerm, index, term uint64) bool
	covered  func(shard uint32) (index, term uint64)
	log      *slog.Logger
	count    counters
	seq      atomic.Uint64 // last sequence number given to a call
	stop     chan struct{} // ends the lanes
	lanes    sync.WaitGroup
	sending  chan struct{} // a place for each snapshot that may be sent
	taking   chan struct{} // a place for each snapshot that may be received

	mu     sync.RWMutex
	closed bool
	groups map[uint32]*Group
	peers  map[string]*peer // by node; as many as there are nodes, so never removed
}

// peer is the way to one node.
type peer struct{ control, data *lane }

// Open starts a Net without groups. It sends nothing until a group does.
func Open(cfg Config) (*Net, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	n := &Net{
		self:     cfg.Self,
		sender:   cfg.Sender,
		dialBulk: cfg.DialBulk,
		holds:    cfg.Holds,
		covered:  cfg.Covered,
		log:      cfg.Logger,
		stop:     make(chan struct{}),
		sending:  make(chan struct{}, snapshotsOut),
		taking:   make(chan struct{}, snapshotsIn),
		groups:   make(map[uint32]*Group),
		peers:    make(map[string]*peer),
	}
	// Sequence numbers begin anywhere in 64 bits: raft counts a granted vote
	// without looking at its term, so an answer to a call of this server's
	// previous life must not match a call of this one.
	var start [8]byte
	rand.Read(start[:]) // never fails: see crypto/rand
	n.seq.Store(binary.BigEndian.Uint64(start[:]))
	return n, nil
}

// Close closes all groups and ends every goroutine. It does not touch the
// Sender. Calls under way fail.
func (n *Net) Close() error {
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		n.lanes.Wait()
		return nil
	}
	n.closed = true
	groups := n.groups
	n.groups = nil
	n.mu.Unlock()
	for _, g := range groups {
		g.end()
	}
	close(n.stop)
	n.lanes.Wait()
	return nil
}

// Group attaches a new replica of a shard and is its raft.Transport. Two
// replicas of one shard in one process would answer for one server with two
// minds, so asking for a second one before the first is closed is a bug and
// panics. After Close of the Net the group is born closed.
func (n *Net) Group(shard uint32) *Group { return n.attach(newGroup(n, shard)) }

// Newcomer is Group for a replica that has no log and did not found its group:
// until Group.MayVote, requests for its vote are dropped as if they were lost.
// raft would grant them: to a replica with an empty log every candidate's is long
// enough. But the server may have had the log once, and may be counted on for
// what it held by those who do not know that it left.
func (n *Net) Newcomer(shard uint32) *Group {
	g := newGroup(n, shard)
	g.abstains.Store(true)
	return n.attach(g)
}

func (n *Net) attach(g *Group) *Group {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		g.closed = true
		close(g.stop)
		return g
	}
	if n.groups[g.shard] != nil {
		panic(fmt.Sprintf("raftnet: shard %d already has an open group", g.shard))
	}
	n.groups[g.shard] = g
	g.work.Go(g.serve)
	return g
}

// detach forgets g; messages for its shard are dropped from now on.
func (n *Net) detach(g *Group) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.groups[g.shard] == g {
		delete(n.groups, g.shard)
	}
}

// Stats is a copy of the counters.
func (n *Net) Stats() Stats { return n.count.stats() }

// Receive takes one message that an authenticated peer sent; it is the
// transport's Config.Receive. It keeps msg, which the entries raft gets are
// slices of, and does not block. A message that raft must not see is counted and dropped: the caller on the other side times
// out, as if it had been lost.
func (n *Net) Receive(from transport.Identity, msg []byte) {
	source, destination, records, err := readFrameHeader(msg)
	if err != nil {
		n.malformed(from, err)
		return
	}
	src, ok := n.addressed(from, source, destination)
	if !ok {
		return
	}
	n.count.framesReceived.Add(1)
	for len(records.b) > 0 {
		rec, err := readRecord(records)
		if err != nil {
			n.malformed(from, err)
			return
		}
		n.count.messagesReceived.Add(1)
		n.receive(from, src, rec)
	}
}

// addressed reports whether a frame is from the server that it names and the
// sender's certificate speaks for, to this one.
func (n *Net) addressed(from transport.Identity, source, destination []byte) (src raft.ServerAddress, ok bool) {
	src = raft.ServerAddress(source)
	node, ok := Node(src)
	if ok && from.Role == transport.RoleNode && node == from.Name && string(destination) == string(n.self) {
		return src, true
	}
	// A destination with another storage id is ordinary for a while: the
	// leader has not yet removed the server whose disk was replaced.
	n.count.forged.Add(1)
	n.log.Debug("dropped raft frame", slog.String("from", from.String()), slog.String("source", string(src)),
		slog.String("destination", string(destination)))
	return "", false
}

// group is the group of a shard, or nil.
func (n *Net) group(shard uint32) *Group {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.groups[shard]
}

func (n *Net) receive(from transport.Identity, src raft.ServerAddress, rec record) {
	g := n.group(rec.shard)
	if g == nil {
		n.count.noGroup.Add(1)
		return
	}
	if rec.kind.bulk() { // raft would read the snapshot from a nil reader
		n.malformed(from, fmt.Errorf("shard %d: message of kind %d outside a bulk stream", rec.shard, rec.kind))
		return
	}
	msg, err := decodeMessage(rec.kind, rec.body)
	if err != nil {
		n.malformed(from, fmt.Errorf("shard %d: %w", rec.shard, err))
		return
	}
	if !headerNames(msg, src) {
		n.count.forged.Add(1)
		return
	}
	if rec.kind.request() {
		g.accept(inbound{source: src, kind: rec.kind, lazy: rec.lazy, seq: rec.seq, command: msg, size: len(rec.body)})
	} else {
		g.deliver(src, rec.kind, rec.seq, msg)
	}
}

// headerNames reports whether the raft header of msg names src and nobody
// else. raft leaves the headers of a TimeoutNowResponse and an
// InstallSnapshotResponse empty, and a failure has none.
func headerNames(msg any, src raft.ServerAddress) bool {
	m, ok := msg.(raft.WithRPCHeader)
	if !ok {
		return true
	}
	h := m.GetRPCHeader()
	switch msg.(type) {
	case *raft.TimeoutNowResponse, *raft.InstallSnapshotResponse:
		if len(h.ID) == 0 && len(h.Addr) == 0 {
			return true
		}
	}
	return string(h.ID) == string(src) && string(h.Addr) == string(src)
}

func (n *Net) malformed(from transport.Identity, err error) {
	n.count.malformed.Add(1)
	n.log.Warn("dropped malformed raft message", slog.String("from", from.String()), slog.Any("error", err))
}

// send queues msg to the server at destination, whose node part is node.
func (n *Net) send(node string, lane transport.Lane, m outgoing) {
	p := n.peer(node)
	if p == nil {
		n.count.unsent.Add(1) // the Net is closed
		return
	}
	if lane == transport.LaneData {
		p.data.push(m)
	} else {
		p.control.push(m)
	}
}

// peer returns the lanes to node, starting them at the first use; nil when the
// Net is closed.
func (n *Net) peer(node string) *peer {
	n.mu.RLock()
	p, closed := n.peers[node], n.closed
	n.mu.RUnlock()
	if p != nil || closed {
		return p
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil
	}
	if p := n.peers[node]; p != nil {
		return p
	}
	p = &peer{
		control: newLane(n, node, transport.LaneControl, controlBytes),
		data:    newLane(n, node, transport.LaneData, dataBytes),
	}
	n.peers[node] = p
	n.lanes.Go(func() { p.control.run(n.stop) })
	n.lanes.Go(func() { p.data.run(n.stop) })
	return p
}

// encode makes the frame of one message to destination.
func (n *Net) encode(destination raft.ServerAddress, rec record, msg any) (frame []byte, head int) {
	frame = make([]byte, 0, 3+len(n.self)+len(destination)+recordHead+sizeHint(msg))
	frame = appendFrameHeader(frame, n.self, destination)
	head = len(frame)
	return appendRecord(frame, rec, msg), head
}

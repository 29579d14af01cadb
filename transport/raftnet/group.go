package raftnet

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"github.com/manykv/manykv/transport"
)

// Group is the raft.Transport of one replica. Its Close detaches the replica
// and leaves the Net open. Closing it before raft's Shutdown ends calls under
// way, which Shutdown would otherwise wait for.
type Group struct {
	net      *Net
	shard    uint32
	consumer chan raft.RPC // read by raft; unbuffered, the inbox is the queue
	inbox    chan inbound
	held     atomic.Int64   // bytes in the inbox
	abstains atomic.Bool    // see Net.Newcomer
	stop     chan struct{}  // closed by end
	work     sync.WaitGroup // serve, the pipelines, and snapshots on their way

	mu         sync.Mutex
	closed     bool
	installing bool                          // a snapshot is being received
	calls      map[uint64]*call              // waiting for an answer, by sequence number
	committed  map[raft.ServerAddress]uint64 // highest commit index sent to each server
}

var (
	_ raft.Transport   = (*Group)(nil)
	_ raft.WithPreVote = (*Group)(nil)
	_ raft.WithClose   = (*Group)(nil)
)

// inbound is one request waiting for raft.
type inbound struct {
	source  raft.ServerAddress
	kind    kind
	lazy    bool
	seq     uint64
	command any
	size    int
}

func newGroup(n *Net, shard uint32) *Group {
	return &Group{
		net:       n,
		shard:     shard,
		consumer:  make(chan raft.RPC),
		inbox:     make(chan inbound, inboxMessages),
		stop:      make(chan struct{}),
		calls:     make(map[uint64]*call),
		committed: make(map[raft.ServerAddress]uint64),
	}
}

// Close detaches the replica; raft calls it at the end of its shutdown.
func (g *Group) Close() error {
	g.net.detach(g)
	g.end()
	return nil
}

// end fails all calls and waits for the goroutines. It may be called again.
func (g *Group) end() {
	g.mu.Lock()
	if !g.closed {
		g.closed = true
		close(g.stop)
	}
	g.mu.Unlock()
	g.work.Wait()
}

// enter counts one more piece of work that end waits for, unless the group has
// ended. work.Done must follow.
func (g *Group) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.work.Add(1)
	return true
}

// atEnd calls f when the group ends, unless disarm was called before. The
// caller is work that end waits for.
func (g *Group) atEnd(f func()) (disarm func()) {
	disarmed := make(chan struct{})
	g.work.Go(func() {
		select {
		case <-g.stop:
			f()
		case <-disarmed:
		}
	})
	return func() { close(disarmed) }
}

// Consumer is where raft takes requests from.
func (g *Group) Consumer() <-chan raft.RPC { return g.consumer }

// LocalAddr is Config.Self, byte for byte: raft compares it with the addresses
// of its configuration.
func (g *Group) LocalAddr() raft.ServerAddress { return g.net.self }

// EncodePeer and DecodePeer keep an address as it is.
func (g *Group) EncodePeer(_ raft.ServerID, addr raft.ServerAddress) []byte { return []byte(addr) }

// DecodePeer is the inverse of EncodePeer.
func (g *Group) DecodePeer(b []byte) raft.ServerAddress { return raft.ServerAddress(b) }

// SetHeartbeatHandler ignores the handler, as raft.Transport allows:
// heartbeats go to Consumer like everything else. raft's handler changes term
// and state on the transport's goroutine while the main loop does the same,
// and logs diverge (hashicorp/raft#695).
func (g *Group) SetHeartbeatHandler(func(rpc raft.RPC)) {}

// AppendEntries cuts args.Entries to maxAppendBytes, at least one entry.
// Cutting in place is right because raft goes on from the last entry of args:
// replicateTo (replication.go, v1.7.3) passes args to updateLastAppended and
// loops while nextIndex has not reached the last index.
func (g *Group) AppendEntries(_ raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if n := fitting(args.Entries); n < len(args.Entries) {
		args.Entries = args.Entries[:n]
		g.net.count.shortened.Add(1)
	}
	d := dispatch{lane: transport.LaneControl, timeout: appendTimeout, lazy: g.lazy(target, args)}
	if len(args.Entries) > 0 {
		d.lane = transport.LaneData
	}
	if heartbeat(args) {
		d.timeout = heartbeatTimeout
	}
	return do(g, target, args, d, resp)
}

// AppendEntriesPipeline starts a pipeline to target.
func (g *Group) AppendEntriesPipeline(_ raft.ServerID, target raft.ServerAddress) (raft.AppendPipeline, error) {
	if !g.enter() {
		return nil, raft.ErrTransportShutdown
	}
	defer g.work.Done()
	p := newPipeline(g, target)
	g.work.Go(p.collect)
	return p, nil
}

// RequestVote asks target for its vote.
func (g *Group) RequestVote(_ raft.ServerID, target raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	return do(g, target, args, dispatch{lane: transport.LaneControl, timeout: voteTimeout}, resp)
}

// RequestPreVote asks target whether it would vote.
func (g *Group) RequestPreVote(_ raft.ServerID, target raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	return do(g, target, args, dispatch{lane: transport.LaneControl, timeout: voteTimeout}, resp)
}

// TimeoutNow tells target to start an election.
func (g *Group) TimeoutNow(_ raft.ServerID, target raft.ServerAddress, args *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	return do(g, target, args, dispatch{lane: transport.LaneControl, timeout: timeoutNowTimeout}, resp)
}

// MayVote lets a newcomer take part in elections from now on.
func (g *Group) MayVote() { g.abstains.Store(false) }

// electoral reports whether a request asks for a vote or for an election.
func electoral(k kind) bool { return k == kindVote || k == kindPreVote || k == kindTimeoutNow }

// heartbeat recognises what raft's heartbeat goroutine sends, as
// NetworkTransport.handleCommand does (net_transport.go, v1.7.3).
func heartbeat(args *raft.AppendEntriesRequest) bool {
	return args.Term != 0 && len(args.Addr) > 0 && len(args.Entries) == 0 &&
		args.PrevLogEntry == 0 && args.PrevLogTerm == 0 && args.LeaderCommitIndex == 0
}

// lazy reports whether nobody waits for args to arrive: it carries no entries
// and no commit index that target has not been sent before. That is a
// heartbeat, or what replicate (replication.go) sends at every CommitTimeout.
func (g *Group) lazy(target raft.ServerAddress, args *raft.AppendEntriesRequest) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	news := args.LeaderCommitIndex > g.committed[target]
	if news {
		g.committed[target] = args.LeaderCommitIndex
	}
	return !news && len(args.Entries) == 0
}

// accept puts a request in the inbox, or drops it when raft does not keep up.
func (g *Group) accept(in inbound) {
	if g.abstains.Load() && electoral(in.kind) {
		g.net.count.abstained.Add(1)
		return
	}
	if held := g.held.Add(int64(in.size)); held <= inboxBytes {
		select {
		case g.inbox <- in:
			return
		default:
		}
	}
	g.held.Add(-int64(in.size))
	g.net.count.inboxFull.Add(1)
}

// serve gives requests to raft one by one, as raft's main loop takes them, and
// queues the answers.
func (g *Group) serve() {
	for {
		var in inbound
		select {
		case in = <-g.inbox:
			g.held.Add(-int64(in.size))
		case <-g.stop:
			return
		}
		if req, ok := in.command.(*raft.AppendEntriesRequest); ok {
			skipCovered(req, g.net.covered, g.shard)
		}
		answer := make(chan raft.RPCResponse, 1) // raft answers without waiting
		select {
		case g.consumer <- raft.RPC{Command: in.command, RespChan: answer}:
		case <-g.stop:
			return
		}
		select {
		case resp := <-answer:
			g.reply(in, resp)
		case <-g.stop:
			return
		}
	}
}

// skipCovered takes from a request what the replica's snapshot stands for already.
// raft keeps nothing of a log before its snapshot and refuses whatever shall follow
// an entry there, so that a leader whose own snapshot is older could never go on from
// it. What the snapshot stands for is committed, and so is in the log of every leader
// of this term or a later one (leader completeness, §5.4 of the Raft paper); a leader
// of an earlier term raft refuses by that.
func skipCovered(req *raft.AppendEntriesRequest, covered func(shard uint32) (index, term uint64), shard uint32) {
	if req.PrevLogEntry == 0 && len(req.Entries) == 0 {
		return // a heartbeat
	}
	index, term := covered(shard)
	if req.PrevLogEntry >= index {
		return
	}
	req.PrevLogEntry, req.PrevLogTerm = index, term
	rest := slices.IndexFunc(req.Entries, func(e *raft.Log) bool { return e.Index > index })
	if rest < 0 {
		rest = len(req.Entries)
	}
	req.Entries = req.Entries[rest:]
	// What the request shows is up to here. The log may go on with entries of another
	// leader's, and raft would take all it has up to the leader's commit index for
	// committed.
	req.LeaderCommitIndex = min(req.LeaderCommitIndex, index+uint64(len(req.Entries)))
}

// reply queues the answer to in. It is as lazy as the request, and expires when
// the caller no longer waits.
func (g *Group) reply(in inbound, resp raft.RPCResponse) {
	msg := answerOf(resp)
	rec := record{kind: messageKind(msg), lazy: in.lazy, shard: g.shard, seq: in.seq}
	frame, head := g.net.encode(in.source, rec, msg)
	node, _ := Node(in.source) // Receive has checked it
	g.net.send(node, transport.LaneControl, outgoing{
		destination: in.source, frame: frame, head: head, lazy: in.lazy,
		expires: time.Now().Add(timeoutOf(in.command)),
	})
}

// answerOf is the message that tells what raft said.
func answerOf(resp raft.RPCResponse) any {
	if resp.Error == nil {
		return resp.Response
	}
	text := resp.Error.Error()
	return &failure{text: text[:min(len(text), maxFailureText)]}
}

// timeoutOf is how long the caller of a request waits.
func timeoutOf(command any) time.Duration {
	switch m := command.(type) {
	case *raft.AppendEntriesRequest:
		if heartbeat(m) {
			return heartbeatTimeout
		}
		return appendTimeout
	case *raft.TimeoutNowRequest:
		return timeoutNowTimeout
	default:
		return voteTimeout
	}
}

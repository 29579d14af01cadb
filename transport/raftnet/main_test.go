package raftnet

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/raft"
	"github.com/manykv/manykv/transport"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// network is a transport in memory: frames arrive at once, on the sender's
// goroutine, unless their link says otherwise.
type network struct {
	mu    sync.Mutex
	nets  map[string]*Net
	links map[[2]string]link
	tap   func(from, to string, lane transport.Lane, frame []byte) // sees every frame that is delivered
	bulk  func(from, to string) (near, far net.Conn)               // makes the streams; nil: newStream
	busy  sync.WaitGroup                                           // receivers of streams
}

type link int

const (
	up   link = iota
	cut       // the sender knows: ErrNotSent
	lost      // nobody knows
)

func newNetwork() *network {
	return &network{nets: make(map[string]*Net), links: make(map[[2]string]link)}
}

func (w *network) set(from, to string, l link) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.links[[2]string{from, to}] = l
}

// isolate sets all links of a node, both ways.
func (w *network) isolate(node string, l link) {
	for other := range w.nets {
		if other != node {
			w.set(node, other, l)
			w.set(other, node, l)
		}
	}
}

// open adds a node with storage id 1.
func (w *network) open(t *testing.T, node string) *Net {
	t.Helper()
	n, err := Open(Config{Self: server(node), Sender: port{w, node}, DialBulk: port{w, node}.DialBulk})
	if err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	w.nets[node] = n
	w.mu.Unlock()
	return n
}

// port is one node's end of a network.
type port struct {
	w    *network
	node string
}

func (p port) Send(to string, lane transport.Lane, msg []byte) error {
	p.w.mu.Lock()
	n, l, tap := p.w.nets[to], p.w.links[[2]string{p.node, to}], p.w.tap
	p.w.mu.Unlock()
	if n == nil || l == cut {
		return fmt.Errorf("%s to %s: %w", p.node, to, transport.ErrNotSent)
	}
	if l == lost {
		return nil
	}
	if tap != nil {
		tap(p.node, to, lane, msg)
	}
	n.Receive(identity(p.node), msg)
	return nil
}

func (p port) DialBulk(ctx context.Context, to string) (net.Conn, error) {
	p.w.mu.Lock()
	n, l, bulk := p.w.nets[to], p.w.links[[2]string{p.node, to}], p.w.bulk
	p.w.mu.Unlock()
	if n == nil || l != up {
		<-ctx.Done() // as the transport waits for a connection
		return nil, fmt.Errorf("%s to %s: %w: %w", p.node, to, transport.ErrNotSent, ctx.Err())
	}
	if bulk == nil {
		bulk = func(string, string) (near, far net.Conn) { return newStream() }
	}
	near, far := bulk(p.node, to)
	p.w.busy.Go(func() { n.ReceiveBulk(identity(p.node), far) })
	return near, nil
}

func identity(node string) transport.Identity {
	return transport.Identity{Cluster: "test", Role: transport.RoleNode, Name: node}
}

func server(node string) raft.ServerAddress { return Address(node, 1) }

func header(node string) raft.RPCHeader {
	return raft.RPCHeader{ProtocolVersion: 3, ID: []byte(server(node)), Addr: []byte(server(node))}
}

// answerAll lets a goroutine be the raft of g until g is closed.
func answerAll(g *Group, answer func(command any) (any, error)) {
	go func() {
		for {
			select {
			case rpc := <-g.Consumer():
				rpc.Respond(answer(rpc.Command))
			case <-g.stop:
				return
			}
		}
	}()
}

// follower answers every request of raft with yes, as node.
func follower(node string) func(any) (any, error) {
	return func(command any) (any, error) {
		switch m := command.(type) {
		case *raft.AppendEntriesRequest:
			return &raft.AppendEntriesResponse{
				RPCHeader: header(node), Term: m.Term, LastLog: m.PrevLogEntry + uint64(len(m.Entries)), Success: true,
			}, nil
		case *raft.RequestVoteRequest:
			return &raft.RequestVoteResponse{RPCHeader: header(node), Term: m.Term, Granted: true}, nil
		case *raft.RequestPreVoteRequest:
			return &raft.RequestPreVoteResponse{RPCHeader: header(node), Term: m.Term, Granted: true}, nil
		case *raft.TimeoutNowRequest:
			return &raft.TimeoutNowResponse{}, nil
		default:
			return nil, fmt.Errorf("unexpected %T", command)
		}
	}
}

// beat is a heartbeat of node; entries makes an AppendEntries of n small
// entries after prev.
func beat(node string) *raft.AppendEntriesRequest {
	return &raft.AppendEntriesRequest{RPCHeader: header(node), Term: 7, Leader: []byte(server(node))}
}

func entries(node string, prev uint64, n, size int) *raft.AppendEntriesRequest {
	m := beat(node)
	m.PrevLogEntry, m.PrevLogTerm = prev, 7
	for i := range n {
		m.Entries = append(m.Entries, &raft.Log{Index: prev + 1 + uint64(i), Term: 7, Data: make([]byte, size)})
	}
	return m
}

// pair is two nodes with a group of shard 1 each. n2's group has no raft until
// the test gives it one.
type pair struct {
	*network
	n1, n2 *Net
	g1, g2 *Group
}

// inPair runs a test on two nodes in a bubble of virtual time, in which
// nothing but the code's own waits passes time.
func inPair(t *testing.T, test func(t *testing.T, p *pair)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := &pair{network: newNetwork()}
		p.n1, p.n2 = p.open(t, "n1"), p.open(t, "n2")
		p.g1, p.g2 = p.n1.Group(1), p.n2.Group(1)
		defer p.n2.Close()
		defer p.n1.Close()
		test(t, p)
	})
}

func (p *pair) append(args *raft.AppendEntriesRequest) (raft.AppendEntriesResponse, error) {
	var resp raft.AppendEntriesResponse
	err := p.g1.AppendEntries("", server("n2"), args, &resp)
	return resp, err
}

func (p *pair) vote() (raft.RequestVoteResponse, error) {
	var resp raft.RequestVoteResponse
	err := p.g1.RequestVote("", server("n2"), &raft.RequestVoteRequest{RPCHeader: header("n1"), Term: 7}, &resp)
	return resp, err
}

func frameOf(source, destination raft.ServerAddress, rec record, msg any) []byte {
	rec.kind = messageKind(msg)
	return appendRecord(appendFrameHeader(nil, source, destination), rec, msg)
}

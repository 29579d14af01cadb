package raftnet

import (
	"fmt"
	"time"

	"github.com/hashicorp/raft"
	"github.com/manykv/manykv/transport"
)

// dispatch is how a request travels.
type dispatch struct {
	lane    transport.Lane
	timeout time.Duration
	lazy    bool
}

// call is one request that waits for its answer.
type call struct {
	group   *Group
	seq     uint64
	target  raft.ServerAddress
	answer  kind
	sent    time.Time // with its monotonic reading: when raft asked, not when a frame left
	timeout time.Duration
	reply   chan any // capacity 1: deliver never blocks
}

// start registers a call and queues its request. msg is encoded before start
// returns, so raft may use it again.
func (g *Group) start(target raft.ServerAddress, msg any, d dispatch) (*call, error) {
	node, ok := Node(target)
	if !ok {
		return nil, fmt.Errorf("raftnet: bad server address: got %q, want <node>@<%d hex digits>", target, storageDigits)
	}
	k := messageKind(msg)
	c := &call{
		group: g, seq: g.net.seq.Add(1), target: target, answer: k.answer(),
		sent: time.Now(), timeout: d.timeout, reply: make(chan any, 1),
	}
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return nil, raft.ErrTransportShutdown
	}
	g.calls[c.seq] = c
	g.mu.Unlock()
	frame, head := g.net.encode(target, record{kind: k, lazy: d.lazy, shard: g.shard, seq: c.seq}, msg)
	g.net.send(node, d.lane, outgoing{
		destination: target, frame: frame, head: head, lazy: d.lazy, expires: c.sent.Add(d.timeout),
	})
	return c, nil
}

// deliver gives an answer to the call it answers. An answer of another server
// or kind than the one asked leaves the call waiting.
func (g *Group) deliver(src raft.ServerAddress, k kind, seq uint64, msg any) {
	g.mu.Lock()
	c := g.calls[seq]
	if c == nil || c.target != src || (k != c.answer && k != kindFailure) {
		g.mu.Unlock()
		g.net.count.late.Add(1)
		return
	}
	delete(g.calls, seq)
	g.mu.Unlock()
	c.reply <- msg
}

// wait returns the answer, or why there is none. cancel is the pipeline's end;
// nil for other calls.
func (c *call) wait(cancel <-chan struct{}) (any, error) {
	defer c.forget()
	timer := time.NewTimer(time.Until(c.sent.Add(c.timeout)))
	defer timer.Stop()
	select {
	case msg := <-c.reply:
		// The clock decides, not which case was ready: after a pause of the
		// whole process the timer and an old answer are.
		if age := time.Since(c.sent); age > c.timeout {
			c.group.net.count.late.Add(1)
			return nil, fmt.Errorf("raftnet: answer of %s is %v old, want at most %v", c.target, age, c.timeout)
		}
		if f, refused := msg.(*failure); refused {
			return nil, fmt.Errorf("raftnet: %s refused: %q", c.target, f.text)
		}
		return msg, nil
	case <-timer.C:
		return nil, fmt.Errorf("raftnet: no answer of %s within %v", c.target, c.timeout)
	case <-cancel:
		return nil, raft.ErrPipelineShutdown
	case <-c.group.stop:
		return nil, raft.ErrTransportShutdown
	}
}

func (c *call) forget() {
	c.group.mu.Lock()
	defer c.group.mu.Unlock()
	delete(c.group.calls, c.seq)
}

// do makes one call and copies its answer to resp, which an error leaves as it
// was. T is the answer type of msg: deliver lets no other through.
func do[T any](g *Group, target raft.ServerAddress, msg any, d dispatch, resp *T) error {
	c, err := g.start(target, msg, d)
	if err != nil {
		return err
	}
	answer, err := c.wait(nil)
	if err != nil {
		return err
	}
	*resp = *answer.(*T)
	return nil
}

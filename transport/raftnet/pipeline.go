package raftnet

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"github.com/manykv/manykv/transport"
)

// pipeline is AppendEntries to one server without waiting for each answer, at
// most maxInFlight of them unanswered.
//
// All its messages go in the data lane, those without entries too: in another
// lane one could arrive before the entries it follows, and a follower refuses
// what follows entries it has not got, which ends the pipeline.
//
// An AppendEntries above maxAppendBytes is sent as several messages, each
// following the one before, and answered by the last answer or the first
// refusal. It is not cut, as Group.AppendEntries does it, although raft would
// go on from the cut (pipelineSend reads args.Entries after the call):
// pipelineReplicate sends once per trigger, so the rest of a burst would wait
// for CommitTimeout after every MiB.
type pipeline struct {
	group  *Group
	target raft.ServerAddress
	slots  chan struct{}          // one per message under way
	sent   chan flight            // in order; its capacity is that of slots, so sending never blocks
	done   chan raft.AppendFuture // unbuffered: raft takes answers in order
	closed chan struct{}          // by Close
	broken chan struct{}          // by collect, when nothing more may be sent
	ended  chan struct{}          // collect has returned
	once   sync.Once              // guards closed
}

// flight is one message under way and the future its answer belongs to.
type flight struct {
	call   *call
	future *future
	last   bool // of its future
}

func newPipeline(g *Group, target raft.ServerAddress) *pipeline {
	return &pipeline{
		group:  g,
		target: target,
		slots:  make(chan struct{}, maxInFlight),
		sent:   make(chan flight, maxInFlight),
		done:   make(chan raft.AppendFuture),
		closed: make(chan struct{}),
		broken: make(chan struct{}),
		ended:  make(chan struct{}),
	}
}

// AppendEntries sends args and returns the future of its answer. It blocks
// while maxInFlight messages are unanswered.
func (p *pipeline) AppendEntries(args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	f := &future{start: time.Now(), args: args, resp: resp, ready: make(chan struct{})}
	part := *args
	rest := args.Entries
	for first := true; first || len(rest) > 0; first = false {
		n := fitting(rest)
		if first && n < len(rest) {
			p.group.net.count.shortened.Add(1)
		}
		part.Entries, rest = rest[:n], rest[n:]
		if err := p.send(&part, f, len(rest) == 0); err != nil {
			return nil, err
		}
		if n > 0 {
			last := part.Entries[n-1]
			part.PrevLogEntry, part.PrevLogTerm = last.Index, last.Term
		}
	}
	return f, nil
}

// send sends one message of f when there is room for it.
func (p *pipeline) send(part *raft.AppendEntriesRequest, f *future, last bool) error {
	select {
	case p.slots <- struct{}{}:
	case <-p.broken:
		return raft.ErrPipelineShutdown
	}
	d := dispatch{lane: transport.LaneData, timeout: appendTimeout, lazy: p.group.lazy(p.target, part)}
	c, err := p.group.start(p.target, part, d)
	if err != nil {
		<-p.slots
		return err
	}
	p.sent <- flight{call: c, future: f, last: last}
	// collect closes broken before it fails what was sent, so a call that is
	// not refused here is one that collect has still to see.
	select {
	case <-p.broken:
		c.forget()
		return raft.ErrPipelineShutdown
	default:
		return nil
	}
}

// collect waits for the answers in order. It ends with the pipeline, or with
// the first answer that is not a success: raft then stops reading, and goes
// back to single calls.
func (p *pipeline) collect() {
	defer close(p.ended)
	defer p.abandon()
	for {
		select {
		case fl := <-p.sent:
			if !p.answer(fl) {
				return
			}
		case <-p.closed:
			return
		case <-p.group.stop:
			return
		}
	}
}

// answer waits for one answer and gives raft its future when it is complete.
func (p *pipeline) answer(fl flight) (ok bool) {
	msg, err := fl.call.wait(p.closed)
	var resp raft.AppendEntriesResponse
	if err == nil {
		resp = *msg.(*raft.AppendEntriesResponse)
	}
	if !resp.Success {
		close(p.broken)
	}
	<-p.slots
	if resp.Success && !fl.last {
		return true
	}
	fl.future.complete(resp, err)
	select {
	case p.done <- fl.future:
	case <-p.closed:
	case <-p.group.stop:
	}
	return resp.Success
}

// abandon fails what is under way when collect ends, so that nobody waits for
// a future that no answer will complete.
func (p *pipeline) abandon() {
	select {
	case <-p.broken:
	default:
		close(p.broken)
	}
	for {
		select {
		case fl := <-p.sent:
			fl.call.forget()
			fl.future.complete(raft.AppendEntriesResponse{}, raft.ErrPipelineShutdown)
		default:
			return
		}
	}
}

// Consumer is where raft takes answered futures from, in order.
func (p *pipeline) Consumer() <-chan raft.AppendFuture { return p.done }

// Close fails what is under way and waits for the pipeline's goroutine.
func (p *pipeline) Close() error {
	p.once.Do(func() { close(p.closed) })
	<-p.ended
	return nil
}

// future is the answer to one AppendEntries of a pipeline.
type future struct {
	start time.Time
	args  *raft.AppendEntriesRequest
	resp  *raft.AppendEntriesResponse
	err   error         // set before ready is closed
	ready chan struct{} // closed by complete
}

// complete is called by the pipeline's collect goroutine; of several messages
// that share a future only the first call counts.
func (f *future) complete(resp raft.AppendEntriesResponse, err error) {
	select {
	case <-f.ready:
	default:
		*f.resp, f.err = resp, err
		close(f.ready)
	}
}

// Error waits for the answer.
func (f *future) Error() error {
	<-f.ready
	return f.err
}

// Start is when raft asked.
func (f *future) Start() time.Time { return f.start }

// Request is what raft asked.
func (f *future) Request() *raft.AppendEntriesRequest { return f.args }

// Response is the answer, zero when there is none: raft does not ask Error
// before it reads the answer (pipelineDecode in replication.go, v1.7.3).
func (f *future) Response() *raft.AppendEntriesResponse { return f.resp }

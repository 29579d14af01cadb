package raftnet

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

func TestEveryCallIsAnswered(t *testing.T) {
	inPair(t, func(t *testing.T, p *pair) {
		p.g2.SetHeartbeatHandler(func(raft.RPC) { t.Error("the heartbeat did not go to Consumer") })
		answerAll(p.g2, follower("n2"))
		if got, err := p.append(entries("n1", 4, 3, 10)); err != nil || !got.Success || got.LastLog != 7 || string(got.ID) != string(server("n2")) {
			t.Errorf("AppendEntries: got %+v, %v; want success up to 7 by n2", got, err)
		}
		if got, err := p.append(beat("n1")); err != nil || !got.Success {
			t.Errorf("heartbeat: got %+v, %v; want success", got, err)
		}
		if got, err := p.vote(); err != nil || !got.Granted || got.Term != 7 {
			t.Errorf("RequestVote: got %+v, %v; want a vote in term 7", got, err)
		}
		var pre raft.RequestPreVoteResponse
		err := p.g1.RequestPreVote("", server("n2"), &raft.RequestPreVoteRequest{RPCHeader: header("n1"), Term: 8}, &pre)
		if err != nil || !pre.Granted || pre.Term != 8 {
			t.Errorf("RequestPreVote: got %+v, %v; want a vote in term 8", pre, err)
		}
		var now raft.TimeoutNowResponse
		if err := p.g1.TimeoutNow("", server("n2"), &raft.TimeoutNowRequest{RPCHeader: header("n1")}, &now); err != nil {
			t.Errorf("TimeoutNow: %v", err)
		}
	})
}

func TestRefusalOfRaftIsTold(t *testing.T) {
	inPair(t, func(t *testing.T, p *pair) {
		answerAll(p.g2, func(any) (any, error) { return nil, errors.New("not today" + strings.Repeat("!", maxFailureText)) })
		_, err := p.vote()
		if err == nil || !strings.Contains(err.Error(), "not today!") {
			t.Fatalf("got %v, want n2's error", err)
		}
	})
}

func TestAddressesAreKept(t *testing.T) {
	inPair(t, func(t *testing.T, p *pair) {
		if got := p.g1.LocalAddr(); got != server("n1") {
			t.Errorf("LocalAddr: got %q, want %q", got, server("n1"))
		}
		for _, addr := range []raft.ServerAddress{server("n2"), "anything"} {
			if got := p.g1.EncodePeer("", addr); string(got) != string(addr) {
				t.Errorf("EncodePeer(%q): got %q", addr, got)
			}
			if got := p.g1.DecodePeer([]byte(addr)); got != addr {
				t.Errorf("DecodePeer(%q): got %q", addr, got)
			}
		}
		if err := p.g1.RequestVote("", "anything", &raft.RequestVoteRequest{}, &raft.RequestVoteResponse{}); err == nil {
			t.Error("call to no server address: got no error, want one")
		}
	})
}

func TestCallsTimeOut(t *testing.T) {
	for _, l := range []link{cut, lost} {
		for _, c := range []struct {
			name string
			call func(p *pair) error
			want time.Duration
		}{
			{"heartbeat", func(p *pair) error { _, err := p.append(beat("n1")); return err }, heartbeatTimeout},
			{"entries", func(p *pair) error { _, err := p.append(entries("n1", 0, 1, 1)); return err }, appendTimeout},
			{"no entries", func(p *pair) error { _, err := p.append(entries("n1", 1, 0, 0)); return err }, appendTimeout},
			{"vote", func(p *pair) error { _, err := p.vote(); return err }, voteTimeout},
			{"timeout now", func(p *pair) error {
				return p.g1.TimeoutNow("", server("n2"), &raft.TimeoutNowRequest{RPCHeader: header("n1")}, &raft.TimeoutNowResponse{})
			}, timeoutNowTimeout},
		} {
			t.Run(c.name, func(t *testing.T) {
				inPair(t, func(t *testing.T, p *pair) {
					p.isolate("n2", l)
					start := time.Now()
					if err := c.call(p); err == nil {
						t.Fatal("got no error, want one")
					}
					if got := time.Since(start); got != c.want {
						t.Errorf("got an error after %v, want %v", got, c.want)
					}
					// What was not sent by then is not sent later.
					p.isolate("n2", up)
					time.Sleep(2 * retryDelay)
					synctest.Wait()
					if got := p.n2.Stats().MessagesReceived; got != 0 {
						t.Errorf("n2 received %d messages, want none", got)
					}
					if got := p.n1.Stats().DroppedExpired; (got == 1) != (l == cut) {
						t.Errorf("expired in the queue: got %d, link %d", got, l)
					}
				})
			})
		}
	}
}

// A node that comes back within a call's time-out costs no failed call.
func TestUnreachableNodeIsRetried(t *testing.T) {
	inPair(t, func(t *testing.T, p *pair) {
		answerAll(p.g2, follower("n2"))
		p.isolate("n2", cut)
		heal := time.AfterFunc(appendTimeout-2*retryDelay, func() { p.isolate("n2", up) })
		defer heal.Stop()
		got, err := p.append(entries("n1", 0, 1, 1))
		if err != nil || !got.Success {
			t.Fatalf("got %+v, %v; want success", got, err)
		}
		if got, most := p.n1.Stats().Retries, uint64(appendTimeout/retryDelay); got == 0 || got > most {
			t.Errorf("got %d retries, want 1 to %d", got, most)
		}
	})
}

// An answer that was in time on the wire but is read too late, because the
// process stood still, does not count. Many calls, because select picks at
// random between the answer and the timer.
func TestOldAnswerIsDropped(t *testing.T) {
	inPair(t, func(t *testing.T, p *pair) {
		answerAll(p.g2, follower("n2"))
		var calls []*call
		for range 20 {
			c, err := p.g1.start(server("n2"), beat("n1"), dispatch{timeout: heartbeatTimeout})
			if err != nil {
				t.Fatal(err)
			}
			calls = append(calls, c)
		}
		time.Sleep(heartbeatTimeout + 1)
		synctest.Wait()
		for i, c := range calls {
			if len(c.reply) != 1 {
				t.Fatalf("call %d: the answer has not arrived", i)
			}
			if msg, err := c.wait(nil); err == nil {
				t.Fatalf("call %d: got %+v, want an error", i, msg)
			}
		}
	})
}

func TestAnswerMustMatchItsCall(t *testing.T) {
	inPair(t, func(t *testing.T, p *pair) {
		c, err := p.g1.start(server("n2"), beat("n1"), dispatch{timeout: appendTimeout})
		if err != nil {
			t.Fatal(err)
		}
		yes, _ := follower("n2")(beat("n1"))
		other := Address("n2", 2)
		elsewhere := *yes.(*raft.AppendEntriesResponse)
		elsewhere.ID, elsewhere.Addr = []byte(other), []byte(other)
		for _, wrong := range []struct {
			name   string
			source raft.ServerAddress
			seq    uint64
			msg    any
		}{
			{"another server of the node", other, c.seq, &elsewhere},
			{"another call", server("n2"), c.seq - 1, yes},
			{"another kind", server("n2"), c.seq, &raft.RequestVoteResponse{RPCHeader: header("n2"), Granted: true}},
		} {
			p.n1.Receive(identity("n2"), frameOf(wrong.source, server("n1"), record{shard: 1, seq: wrong.seq}, wrong.msg))
			if len(c.reply) != 0 {
				t.Fatalf("%s: the call was answered", wrong.name)
			}
		}
		if got := p.n1.Stats().DroppedLate; got != 3 {
			t.Errorf("got %d late answers, want 3", got)
		}
		p.n1.Receive(identity("n2"), frameOf(server("n2"), server("n1"), record{shard: 1, seq: c.seq}, yes))
		if _, err := c.wait(nil); err != nil {
			t.Errorf("the right answer: %v", err)
		}
	})
}

// A raft that hangs costs a bounded queue, in messages and in bytes.
func TestInboxIsBounded(t *testing.T) {
	for _, c := range []struct {
		name   string
		size   int
		beyond int
	}{
		{"messages", 0, inboxMessages + 1}, // one is with serve
		{"bytes", maxAppendBytes, inboxBytes / maxAppendBytes},
	} {
		t.Run(c.name, func(t *testing.T) {
			inPair(t, func(t *testing.T, p *pair) {
				frame := frameOf(server("n2"), server("n1"), record{shard: 1}, entries("n2", 0, 1, c.size))
				for range c.beyond {
					p.n1.Receive(identity("n2"), frame)
					synctest.Wait()
				}
				if got := p.n1.Stats().DroppedInboxFull; got != 0 {
					t.Fatalf("dropped %d of the first %d", got, c.beyond)
				}
				p.n1.Receive(identity("n2"), frame)
				p.n1.Receive(identity("n2"), frame)
				if got := p.n1.Stats().DroppedInboxFull; got != 2 {
					t.Fatalf("dropped %d beyond the bound, want 2", got)
				}
				answerAll(p.g1, follower("n1"))
				synctest.Wait()
				if got := p.g1.held.Load(); got != 0 || len(p.g1.inbox) != 0 {
					t.Errorf("inbox after raft came back: %d messages, %d bytes; want none", len(p.g1.inbox), got)
				}
			})
		})
	}
}

func TestCloseEndsCalls(t *testing.T) {
	inPair(t, func(t *testing.T, p *pair) {
		pipe, err := p.g1.AppendEntriesPipeline("", server("n2"))
		if err != nil {
			t.Fatal(err)
		}
		future, err := pipe.AppendEntries(entries("n1", 0, 1, 1), &raft.AppendEntriesResponse{})
		if err != nil {
			t.Fatal(err)
		}
		failed := make(chan error)
		go func() { _, err := p.vote(); failed <- err }()
		synctest.Wait()
		start := time.Now()
		p.g1.Close()
		if err := <-failed; !errors.Is(err, raft.ErrTransportShutdown) {
			t.Errorf("call: got %v, want %v", err, raft.ErrTransportShutdown)
		}
		if err := future.Error(); err == nil {
			t.Error("future: got no error, want one")
		}
		if _, err := p.vote(); !errors.Is(err, raft.ErrTransportShutdown) {
			t.Errorf("call of a closed group: got %v, want %v", err, raft.ErrTransportShutdown)
		}
		if _, err := p.g1.AppendEntriesPipeline("", server("n2")); !errors.Is(err, raft.ErrTransportShutdown) {
			t.Errorf("pipeline of a closed group: got %v, want %v", err, raft.ErrTransportShutdown)
		}
		p.g1.Close() // raft closes again
		pipe.Close()
		if got := time.Since(start); got != 0 {
			t.Errorf("closing took %v", got)
		}
	})
}

// What the follower's snapshot stands for is taken from what a leader sends.
func TestSkipCovered(t *testing.T) {
	entries := func(from, to uint64) (all []*raft.Log) {
		for i := from; i <= to; i++ {
			all = append(all, &raft.Log{Index: i, Term: 2})
		}
		return all
	}
	const index, term = 10, 3
	for _, c := range []struct {
		what             string
		prev, from, to   uint64 // of the request
		wantPrev, wantOf uint64 // after it; the index of the first entry, 0 for none
	}{
		{"a heartbeat", 0, 1, 0, 0, 0},
		{"after the snapshot", 12, 13, 14, 12, 13},
		{"right after the snapshot", 10, 11, 14, 10, 11},
		{"across it", 7, 8, 12, 10, 11},
		{"from the beginning across it", 0, 1, 12, 10, 11},
		{"all of it before", 4, 5, 9, 10, 0},
		{"up to it", 4, 5, 10, 10, 0},
		{"a probe before", 4, 5, 4, 10, 0},
	} {
		req := &raft.AppendEntriesRequest{PrevLogEntry: c.prev, PrevLogTerm: 2, Entries: entries(c.from, c.to), LeaderCommitIndex: 99}
		skipCovered(req, func(uint32) (uint64, uint64) { return index, term }, 5)
		first := uint64(0)
		if len(req.Entries) > 0 {
			first = req.Entries[0].Index
		}
		wantTerm := uint64(2)
		if c.prev < index && c.wantPrev == index {
			wantTerm = term
		}
		if req.PrevLogEntry != c.wantPrev || req.PrevLogTerm != wantTerm || first != c.wantOf {
			t.Errorf("%s: follows entry %d of term %d, begins at %d; want %d, %d, %d", c.what, req.PrevLogEntry, req.PrevLogTerm, first, c.wantPrev, wantTerm, c.wantOf)
		}
		wantCommit := uint64(99)
		if c.prev < index && c.wantPrev == index {
			wantCommit = index + uint64(len(req.Entries)) // nothing beyond is shown to be the leader's
		}
		if req.LeaderCommitIndex != wantCommit {
			t.Errorf("%s: the commit index is %d, want %d", c.what, req.LeaderCommitIndex, wantCommit)
		}
		if n := len(req.Entries); n > 0 && req.Entries[n-1].Index != c.to {
			t.Errorf("%s: the last entry is %d, want %d", c.what, req.Entries[n-1].Index, c.to)
		}
	}
}

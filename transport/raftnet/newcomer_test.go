package raftnet

import (
	"testing"

	"github.com/hashicorp/raft"
)

// A newcomer hears its leader and nobody who wants its vote.
func TestNewcomerAbstains(t *testing.T) {
	inPair(t, func(t *testing.T, p *pair) {
		p.g2.Close()
		p.g2 = p.n2.Newcomer(1)
		answerAll(p.g2, follower("n2"))
		if _, err := p.append(entries("n1", 4, 3, 10)); err != nil {
			t.Errorf("AppendEntries: %v", err)
		}
		if got, err := p.vote(); err == nil {
			t.Errorf("RequestVote: got %+v, want none", got)
		}
		var pre raft.RequestPreVoteResponse
		if err := p.g1.RequestPreVote("", server("n2"), &raft.RequestPreVoteRequest{RPCHeader: header("n1"), Term: 8}, &pre); err == nil {
			t.Errorf("RequestPreVote: got %+v, want none", pre)
		}
		var now raft.TimeoutNowResponse
		if err := p.g1.TimeoutNow("", server("n2"), &raft.TimeoutNowRequest{RPCHeader: header("n1")}, &now); err == nil {
			t.Error("TimeoutNow was answered")
		}
		if got := p.n2.Stats().DroppedAbstained; got != 3 {
			t.Errorf("dropped %d, want 3", got)
		}
		p.g2.MayVote()
		if got, err := p.vote(); err != nil || !got.Granted {
			t.Errorf("RequestVote afterwards: got %+v, %v; want a vote", got, err)
		}
	})
}

package raftnet

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	"github.com/manykv/manykv/transport"
)

func (p *pair) pipeline(t *testing.T) raft.AppendPipeline {
	t.Helper()
	pipe, err := p.g1.AppendEntriesPipeline("", server("n2"))
	if err != nil {
		t.Fatal(err)
	}
	return pipe
}

// sending is an AppendEntries of a pipeline on its own goroutine.
type sending struct {
	future raft.AppendFuture
	err    error
	done   chan struct{}
}

func send(pipe raft.AppendPipeline, args *raft.AppendEntriesRequest) *sending {
	s := &sending{done: make(chan struct{})}
	go func() {
		defer close(s.done)
		s.future, s.err = pipe.AppendEntries(args, &raft.AppendEntriesResponse{})
	}()
	synctest.Wait()
	return s
}

func (s *sending) blocked() bool {
	select {
	case <-s.done:
		return false
	default:
		return true
	}
}

func TestPipelineHasTwoInFlight(t *testing.T) {
	inPair(t, func(t *testing.T, p *pair) {
		pipe := p.pipeline(t)
		defer pipe.Close()
		var sends []*sending
		for i := range uint64(4) {
			sends = append(sends, send(pipe, entries("n1", i, 1, 1)))
			if len(sends) > maxInFlight {
				break
			}
		}
		for i, s := range sends {
			if got, want := s.blocked(), i >= maxInFlight; got != want {
				t.Fatalf("AppendEntries %d: blocked %v, want %v", i, got, want)
			}
		}
		if got := p.n1.Stats().MessagesSent; got != maxInFlight {
			t.Fatalf("got %d messages on the way, want %d", got, maxInFlight)
		}
		answerAll(p.g2, follower("n2"))
		for i, s := range sends {
			ready := <-pipe.Consumer()
			<-s.done
			if ready != s.future {
				t.Fatalf("answer %d is not the one of AppendEntries %d", i, i)
			}
			if err := ready.Error(); err != nil || !ready.Response().Success || ready.Response().LastLog != uint64(i)+1 {
				t.Errorf("answer %d: got %+v, %v; want success up to %d", i, ready.Response(), err, i+1)
			}
		}
	})
}

// Messages without entries do not overtake the entries before them.
func TestPipelineKeepsOrder(t *testing.T) {
	inPair(t, func(t *testing.T, p *pair) {
		var prev []uint64
		answerAll(p.g2, func(command any) (any, error) {
			prev = append(prev, command.(*raft.AppendEntriesRequest).PrevLogEntry)
			return follower("n2")(command)
		})
		pipe := p.pipeline(t)
		const rounds = 50
		go func() {
			for i := range uint64(rounds) {
				pipe.AppendEntries(entries("n1", 10*i, 9, 100<<10), &raft.AppendEntriesResponse{})
				pipe.AppendEntries(entries("n1", 10*i+9, 0, 0), &raft.AppendEntriesResponse{})
			}
		}()
		for range 2 * rounds {
			if f := <-pipe.Consumer(); f.Error() != nil {
				t.Fatal(f.Error())
			}
		}
		pipe.Close()
		if len(prev) != 2*rounds {
			t.Fatalf("n2 got %d messages, want %d", len(prev), 2*rounds)
		}
		for i := 1; i < len(prev); i++ {
			if prev[i] <= prev[i-1] {
				t.Fatalf("message %d follows entry %d, after one that follows %d", i, prev[i], prev[i-1])
			}
		}
	})
}

// The first answer that is not a success ends the pipeline: raft has stopped
// reading, so nobody may be left blocked.
func TestPipelineEndsWithARefusal(t *testing.T) {
	inPair(t, func(t *testing.T, p *pair) {
		pipe := p.pipeline(t)
		first, second := send(pipe, entries("n1", 0, 1, 1)), send(pipe, entries("n1", 1, 1, 1))
		third := send(pipe, entries("n1", 2, 1, 1))
		answerAll(p.g2, func(any) (any, error) {
			return &raft.AppendEntriesResponse{RPCHeader: header("n2"), Term: 9, LastLog: 3}, nil
		})
		f := <-pipe.Consumer()
		if f != first.future || f.Error() != nil || f.Response().Success || f.Response().Term != 9 {
			t.Errorf("got %+v, %v; want the refusal of the first", f.Response(), f.Error())
		}
		<-third.done
		if !errors.Is(third.err, raft.ErrPipelineShutdown) {
			t.Errorf("blocked AppendEntries: got %v, want %v", third.err, raft.ErrPipelineShutdown)
		}
		if err := second.future.Error(); !errors.Is(err, raft.ErrPipelineShutdown) {
			t.Errorf("future under way: got %v, want %v", err, raft.ErrPipelineShutdown)
		}
		if got := *second.future.Response(); !zero(got) {
			t.Errorf("future under way: got %+v, want a zero response", got)
		}
		if _, err := pipe.AppendEntries(entries("n1", 3, 1, 1), &raft.AppendEntriesResponse{}); !errors.Is(err, raft.ErrPipelineShutdown) {
			t.Errorf("AppendEntries after the end: got %v, want %v", err, raft.ErrPipelineShutdown)
		}
		pipe.Close()
	})
}

func TestPipelineTimesOutWithAZeroResponse(t *testing.T) {
	inPair(t, func(t *testing.T, p *pair) {
		p.isolate("n2", lost)
		pipe := p.pipeline(t)
		defer pipe.Close()
		start := time.Now()
		resp := &raft.AppendEntriesResponse{Term: 5, Success: true} // whatever was there
		if _, err := pipe.AppendEntries(entries("n1", 0, 1, 1), resp); err != nil {
			t.Fatal(err)
		}
		f := <-pipe.Consumer()
		if f.Error() == nil || !zero(*f.Response()) || f.Response() != resp {
			t.Errorf("got %+v, %v; want an error and a zero response", f.Response(), f.Error())
		}
		if got := time.Since(start); got != appendTimeout || !f.Start().Equal(start) {
			t.Errorf("failed %v after %v, want %v after %v", got, f.Start(), appendTimeout, start)
		}
	})
}

func TestPipelineCloseUnblocks(t *testing.T) {
	inPair(t, func(t *testing.T, p *pair) {
		pipe := p.pipeline(t)
		first := send(pipe, entries("n1", 0, 1, 1))
		send(pipe, entries("n1", 1, 1, 1))
		third := send(pipe, entries("n1", 2, 1, 1))
		if first.blocked() || !third.blocked() {
			t.Fatal("the third AppendEntries must wait")
		}
		for range 2 {
			if err := pipe.Close(); err != nil {
				t.Fatal(err)
			}
		}
		<-third.done
		if !errors.Is(third.err, raft.ErrPipelineShutdown) {
			t.Errorf("blocked AppendEntries: got %v, want %v", third.err, raft.ErrPipelineShutdown)
		}
		if err := first.future.Error(); !errors.Is(err, raft.ErrPipelineShutdown) || !zero(*first.future.Response()) {
			t.Errorf("future under way: got %+v, %v; want zero, %v", first.future.Response(), err, raft.ErrPipelineShutdown)
		}
		p.g1.mu.Lock()
		defer p.g1.mu.Unlock()
		if got := len(p.g1.calls); got != 0 {
			t.Errorf("got %d calls that still wait, want none", got)
		}
	})
}

// Close also unblocks a pipeline whose answers nobody reads.
func TestPipelineCloseWithUnreadAnswers(t *testing.T) {
	inPair(t, func(t *testing.T, p *pair) {
		answerAll(p.g2, follower("n2"))
		pipe := p.pipeline(t)
		f, err := pipe.AppendEntries(entries("n1", 0, 1, 1), &raft.AppendEntriesResponse{})
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Error(); err != nil || !f.Response().Success {
			t.Errorf("got %+v, %v; want success", f.Response(), err)
		}
		synctest.Wait()
		pipe.Close()
	})
}

// What raft sends as one message goes as several, each within the bound and
// each after the one before; raft sees one answer, of the last.
func TestPipelineSplitsLargeMessages(t *testing.T) {
	inPair(t, func(t *testing.T, p *pair) {
		largest := 0
		p.tap = func(_, _ string, lane transport.Lane, frame []byte) {
			if lane == transport.LaneData {
				largest = max(largest, len(frame))
			}
		}
		var got []*raft.AppendEntriesRequest
		answerAll(p.g2, func(command any) (any, error) {
			got = append(got, command.(*raft.AppendEntriesRequest))
			return follower("n2")(command)
		})
		pipe := p.pipeline(t)
		defer pipe.Close()
		args := entries("n1", 7, 64, 256<<10)
		args.LeaderCommitIndex = 6
		go pipe.AppendEntries(args, &raft.AppendEntriesResponse{})
		f := <-pipe.Consumer()
		if f.Error() != nil || f.Response().LastLog != 7+64 || f.Request() != args || len(args.Entries) != 64 {
			t.Fatalf("got %+v, %v for %d entries; want success up to %d for 64", f.Response(), f.Error(), len(args.Entries), 7+64)
		}
		next := uint64(7)
		for i, m := range got {
			if m.PrevLogEntry != next || m.PrevLogTerm != 7 || m.LeaderCommitIndex != 6 || m.Term != 7 {
				t.Fatalf("message %d: got prev %d/%d, commit %d, term %d; want %d/7, 6, 7",
					i, m.PrevLogEntry, m.PrevLogTerm, m.LeaderCommitIndex, m.Term, next)
			}
			next = m.Entries[len(m.Entries)-1].Index
		}
		if len(got) != 16 || next != 7+64 {
			t.Errorf("got %d messages up to %d, want 16 up to %d", len(got), next, 7+64)
		}
		if most := maxAppendBytes + 4*entryOverhead + 1024; largest > most {
			t.Errorf("largest frame: got %d bytes, want at most %d", largest, most)
		}
		if got := p.n1.Stats().Shortened; got != 1 {
			t.Errorf("got %d shortened, want 1", got)
		}
	})
}

// A refusal in the middle of a split message is the answer to all of it.
func TestPipelineSplitIsRefusedOnce(t *testing.T) {
	inPair(t, func(t *testing.T, p *pair) {
		seen := 0
		answerAll(p.g2, func(command any) (any, error) {
			if seen++; seen < 3 {
				return follower("n2")(command)
			}
			return &raft.AppendEntriesResponse{RPCHeader: header("n2"), Term: 7, LastLog: 15}, nil
		})
		pipe := p.pipeline(t)
		s := send(pipe, entries("n1", 7, 64, 256<<10))
		f := <-pipe.Consumer()
		if f.Error() != nil || f.Response().Success || f.Response().LastLog != 15 {
			t.Errorf("got %+v, %v; want the refusal", f.Response(), f.Error())
		}
		<-s.done
		if !errors.Is(s.err, raft.ErrPipelineShutdown) {
			t.Errorf("AppendEntries: got %v, want %v", s.err, raft.ErrPipelineShutdown)
		}
		pipe.Close()
		synctest.Wait()
		if seen > 3+maxInFlight {
			t.Errorf("n2 got %d messages, want no more after the refusal than were under way", seen)
		}
	})
}

func zero(r raft.AppendEntriesResponse) bool {
	return len(r.ID) == 0 && len(r.Addr) == 0 && r.Term == 0 && r.LastLog == 0 && !r.Success && !r.NoRetryBackoff
}

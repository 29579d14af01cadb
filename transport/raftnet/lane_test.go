package raftnet

import (
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	"github.com/manykv/manykv/transport"
)

func TestLaneIsBounded(t *testing.T) {
	for _, c := range []struct {
		name string
		size int
		fits int
	}{
		{"messages", 1, laneMessages},
		{"bytes", maxAppendBytes, dataBytes/maxAppendBytes - 1}, // headers take the last one's room
		{"one larger than all", dataBytes + 1, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			inPair(t, func(t *testing.T, p *pair) {
				p.isolate("n2", cut)
				msg := entries("n1", 0, 1, c.size)
				for range c.fits + 2 {
					if _, err := p.g1.start(server("n2"), msg, dispatch{lane: transport.LaneData, timeout: appendTimeout}); err != nil {
						t.Fatal(err)
					}
				}
				if got := p.n1.Stats().DroppedQueueFull; got != 2 {
					t.Errorf("dropped %d, want 2", got)
				}
				time.Sleep(appendTimeout + retryDelay)
				synctest.Wait()
				p.n1.mu.RLock()
				l := p.n1.peers["n2"].data
				p.n1.mu.RUnlock()
				if len(l.queue) != 0 || l.bytes != 0 {
					t.Errorf("after the time-out: %d messages, %d bytes; want none", len(l.queue), l.bytes)
				}
			})
		})
	}
}

// A sender that refuses for good loses the message, not the lane.
func TestRefusedMessageIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &refusing{}
		n, err := Open(Config{Self: server("n1"), Sender: s, DialBulk: port{}.DialBulk})
		if err != nil {
			t.Fatal(err)
		}
		defer n.Close()
		g := n.Group(1)
		for range 3 {
			if err := g.TimeoutNow("", server("n2"), &raft.TimeoutNowRequest{RPCHeader: header("n1")}, &raft.TimeoutNowResponse{}); err == nil {
				t.Fatal("got no error, want one")
			}
		}
		if got := n.Stats(); got.DroppedUnsent != 3 || got.Retries != 0 || s.calls != 3 {
			t.Errorf("got %d dropped, %d retries, %d attempts; want 3, 0, 3", got.DroppedUnsent, got.Retries, s.calls)
		}
	})
}

type refusing struct{ calls int } // only the lane's goroutine, and the test after its last call

func (r *refusing) Send(string, transport.Lane, []byte) error {
	r.calls++
	return errors.New("message too large")
}

// Lazy messages wait for each other, but never for longer than lazyDelay, and
// an urgent one takes them along at once.
func TestLazyMessagesWait(t *testing.T) {
	inPair(t, func(t *testing.T, p *pair) {
		lazy := dispatch{lane: transport.LaneControl, timeout: heartbeatTimeout, lazy: true}
		urgent := dispatch{lane: transport.LaneControl, timeout: voteTimeout}
		sent := func(messages, frames uint64) {
			t.Helper()
			synctest.Wait()
			if got := p.n1.Stats(); got.MessagesSent != messages || got.FramesSent != frames || got.Coalesced != messages-frames {
				t.Errorf("got %d messages, %d coalesced, in %d frames; want %d in %d",
					got.MessagesSent, got.Coalesced, got.FramesSent, messages, frames)
			}
		}
		start := func(d dispatch) {
			t.Helper()
			if _, err := p.g1.start(server("n2"), beat("n1"), d); err != nil {
				t.Fatal(err)
			}
		}
		start(lazy)
		time.Sleep(lazyDelay / 2)
		start(lazy)
		sent(0, 0)
		time.Sleep(lazyDelay / 2)
		sent(2, 1)
		start(lazy)
		start(lazy)
		sent(2, 1)
		start(urgent)
		sent(5, 2)
		start(urgent)
		sent(6, 3)
	})
}

// Lazy messages of all lanes leave at the same moments, whenever they were queued.
func TestLazyMessagesLeaveTogether(t *testing.T) {
	inPair(t, func(t *testing.T, p *pair) {
		start := func(lane transport.Lane) {
			t.Helper()
			if _, err := p.g1.start(server("n2"), beat("n1"), dispatch{lane: lane, timeout: heartbeatTimeout, lazy: true}); err != nil {
				t.Fatal(err)
			}
		}
		sent := func(want uint64) {
			t.Helper()
			synctest.Wait()
			if got := p.n1.Stats().FramesSent; got != want {
				t.Errorf("at %v: %d frames sent, want %d", time.Since(time.Now().Truncate(time.Second)), got, want)
			}
		}
		time.Sleep(lazyDelay * 3 / 10)
		start(transport.LaneControl)
		time.Sleep(lazyDelay * 6 / 10)
		start(transport.LaneData)
		sent(0)
		time.Sleep(lazyDelay / 10)
		sent(2)
		start(transport.LaneData) // just past the moment
		time.Sleep(lazyDelay - time.Nanosecond)
		sent(2)
		time.Sleep(time.Nanosecond)
		sent(3)
	})
}

func TestBeats(t *testing.T) {
	second := time.Date(2026, 1, 1, 0, 0, 7, 0, time.UTC)
	for _, since := range []time.Duration{0, 1, lazyDelay / 2, lazyDelay - 1} {
		for _, years := range []int{0, -100, 200} {
			now := second.AddDate(years, 0, 0).Add(since)
			if got, want := nextBeat(now).Sub(now), lazyDelay-since; got != want {
				t.Errorf("at %v: %v until the next beat, want %v", now, got, want)
			}
		}
	}
	now := time.Now()
	if beat := nextBeat(now); !strings.Contains(beat.String(), " m=") {
		t.Errorf("%v has no monotonic clock: a jump of the wall clock could stop heartbeats", beat)
	}
}

// Servers of one node do not share frames: a frame names one destination.
func TestFrameHasOneDestination(t *testing.T) {
	inPair(t, func(t *testing.T, p *pair) {
		for _, to := range []raft.ServerAddress{server("n2"), server("n2"), Address("n2", 2), server("n2")} {
			if _, err := p.g1.start(to, beat("n1"), dispatch{timeout: heartbeatTimeout, lazy: true}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(lazyDelay)
		synctest.Wait()
		if got := p.n1.Stats(); got.MessagesSent != 4 || got.FramesSent != 3 {
			t.Errorf("got %d messages in %d frames, want 4 in 3", got.MessagesSent, got.FramesSent)
		}
		if got := p.n2.Stats(); got.MessagesReceived != 3 || got.DroppedForged != 1 {
			t.Errorf("n2: got %d messages, %d forged; want 3, 1", got.MessagesReceived, got.DroppedForged)
		}
	})
}

func TestWhatIsLazy(t *testing.T) {
	inPair(t, func(t *testing.T, p *pair) {
		committed := func(index uint64) *raft.AppendEntriesRequest {
			m := entries("n1", 9, 0, 0)
			m.LeaderCommitIndex = index
			return m
		}
		for i, c := range []struct {
			to   string
			args *raft.AppendEntriesRequest
			want bool
		}{
			{"n2", beat("n1"), true},
			{"n2", entries("n1", 0, 1, 1), false},
			{"n2", committed(5), false}, // news
			{"n2", committed(5), true},
			{"n3", committed(5), false}, // not to n3
			{"n2", committed(6), false},
			{"n2", committed(4), true},
		} {
			if got := p.g1.lazy(server(c.to), c.args); got != c.want {
				t.Errorf("%d: got %v, want %v", i, got, c.want)
			}
		}
	})
}

// 64 idle groups: 20 heartbeats of each are 1,280 messages and as many
// answers. What must be few is the frames.
func TestIdleGroupsShareFrames(t *testing.T) {
	const groups, beats = 64, 20
	synctest.Test(t, func(t *testing.T) {
		w := newNetwork()
		n1, n2 := w.open(t, "n1"), w.open(t, "n2")
		defer n2.Close()
		defer n1.Close()
		start := time.Now()
		var leaders sync.WaitGroup
		for shard := range uint32(groups) {
			g1, g2 := n1.Group(shard), n2.Group(shard)
			answerAll(g2, follower("n2"))
			rng := rand.New(rand.NewPCG(1, uint64(shard)))
			leaders.Go(func() {
				for range beats {
					// As raft's heartbeat goroutine waits at HeartbeatTimeout 1 s.
					time.Sleep(100*time.Millisecond + time.Duration(rng.Int64N(int64(100*time.Millisecond))))
					if err := g1.AppendEntries("", server("n2"), beat("n1"), &raft.AppendEntriesResponse{}); err != nil {
						t.Error(err)
					}
				}
			})
		}
		leaders.Wait()
		seconds := time.Since(start).Seconds()
		for name, s := range map[string]Stats{"heartbeats": n1.Stats(), "answers": n2.Stats()} {
			if s.MessagesSent != groups*beats {
				t.Errorf("%s: got %d messages, want %d", name, s.MessagesSent, groups*beats)
			}
			if s.FramesSent*4 > s.MessagesSent {
				t.Errorf("%s: got %d frames for %d messages, want at most a quarter", name, s.FramesSent, s.MessagesSent)
			}
			t.Logf("%s: %.0f messages/s in %.0f frames/s", name, float64(s.MessagesSent)/seconds, float64(s.FramesSent)/seconds)
		}
	})
}

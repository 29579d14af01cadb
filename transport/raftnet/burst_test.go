package raftnet

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	"github.com/manykv/manykv/transport"
)

// frameSizes watches the largest frame of the data lane.
func (c *cluster) frameSizes() func() int {
	var mu sync.Mutex
	largest := 0
	c.mu.Lock()
	c.tap = func(_, _ string, lane transport.Lane, frame []byte) {
		mu.Lock()
		defer mu.Unlock()
		if lane == transport.LaneData {
			largest = max(largest, len(frame))
		}
	}
	c.mu.Unlock()
	return func() int {
		mu.Lock()
		defer mu.Unlock()
		return largest
	}
}

const (
	burst     = 64        // entries, raft's MaxAppendEntries
	burstSize = 256 << 10 // bytes each
	// frameBound is four entries of burstSize with everything around them.
	frameBound = maxAppendBytes + 4*entryOverhead + 1024
)

// applyBurst commits count entries of burstSize in shard 0 and returns how long
// that took.
func (c *cluster) applyBurst(count int) time.Duration {
	c.t.Helper()
	var commands [][]byte
	for i := range count {
		command := make([]byte, burstSize)
		copy(command, fmt.Sprint("burst ", i))
		commands = append(commands, command)
	}
	start := time.Now()
	c.propose(0, commands)
	return time.Since(start)
}

// 16 MiB in one go: no frame is larger than the bound, and raft does not wait
// for its CommitTimeout between the parts (see pipeline).
func TestBurstIsBoundedAndDoesNotStall(t *testing.T) {
	inCluster(t, 1, nil, func(t *testing.T, c *cluster) {
		c.apply(10)
		c.eventually("the followers are pipelined", func() bool { return c.allSettled(10) })
		largest := c.frameSizes()
		if took := c.applyBurst(burst); took >= commitTimeout {
			t.Errorf("committed in %v of waiting, want less than one CommitTimeout of %v", took, commitTimeout)
		}
		c.eventually("all commands are everywhere", func() bool { return c.allSettled(10 + burst) })
		if got := largest(); got > frameBound || got < burstSize {
			t.Errorf("largest frame: got %d bytes, want %d to %d", got, burstSize, frameBound)
		}
	})
}

// spy records what raft asks with single calls, and what is left of it.
type spy struct {
	*Group
	mu    sync.Mutex
	calls []spied
}

type spied struct {
	prev        uint64
	asked, sent int
}

func (s *spy) AppendEntries(id raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	asked := len(args.Entries)
	err := s.Group.AppendEntries(id, target, args, resp)
	if err == nil && resp.Success && asked > 0 && target == server("n3") {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.calls = append(s.calls, spied{args.PrevLogEntry, asked, len(args.Entries)})
	}
	return err
}

// raft goes on from where its message was cut: this pins what replicateTo does
// after Group.AppendEntries.
func TestRaftContinuesAfterACut(t *testing.T) {
	spies := make(map[string]*spy)
	synctest.Test(t, func(t *testing.T) {
		c := &cluster{network: newNetwork(), t: t, nodes: []string{"n1", "n2", "n3"}, shards: 1, replicas: make(map[string][]*replica)}
		c.wrap = func(node string, g *Group) raft.Transport {
			spies[node] = &spy{Group: g}
			return spies[node]
		}
		c.run([]string{"n3"}, func(t *testing.T, c *cluster) {
			c.applyBurst(burst)
			time.Sleep(2 * appendTimeout) // the call from before the burst has failed
			largest := c.frameSizes()
			c.start("n3", c.open(t, "n3").Group)
			c.eventually("n3 has all commands", func() bool { return c.allSettled(burst) })
			if got := largest(); got > frameBound {
				t.Errorf("largest frame: got %d bytes, want at most %d", got, frameBound)
			}
		})
	})
	cuts := 0
	for node, s := range spies {
		for i, call := range s.calls {
			if call.sent < call.asked {
				cuts++
			}
			if i > 0 && call.prev != s.calls[i-1].prev+uint64(s.calls[i-1].sent) {
				t.Errorf("%s, call %d: follows entry %d, want %d", node, i, call.prev, s.calls[i-1].prev+uint64(s.calls[i-1].sent))
			}
		}
	}
	if cuts < burst*burstSize/maxAppendBytes-2 {
		t.Errorf("got %d cut messages, want most of %d", cuts, burst*burstSize/maxAppendBytes)
	}
}

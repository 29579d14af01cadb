package raftnet

import (
	"bytes"
	"net"
	"slices"
	"sync"
	"testing"
	"time"
)

// leftBehind runs a test with n3 away and so far behind that only a snapshot
// helps.
func leftBehind(t *testing.T, test func(t *testing.T, c *cluster, n3 *replica, old []string)) {
	t.Helper()
	inCluster(t, 1, nil, func(t *testing.T, c *cluster) {
		c.apply(10)
		c.eventually("all commands are everywhere", func() bool { return c.allSettled(10) })
		n3 := c.replicas["n3"][0]
		old := n3.fsm.all()
		c.isolate("n3", lost)
		c.eventually("another leads", func() bool { l := c.leader(0); return l != nil && l != n3.raft })
		c.applyBurst(snapshotEntries)
		c.eventually("the others have it", func() bool {
			return slices.Equal(c.replicas["n1"][0].fsm.all(), c.replicas["n2"][0].fsm.all())
		})
		time.Sleep(2 * appendTimeout) // until no call to n3 is under way
		c.truncate("n1", "n2")
		test(t, c, n3, old)
	})
}

// snapshotEntries of burstSize are in the snapshots of the tests: 3 MiB.
const snapshotEntries = 12

// truncate takes a snapshot on these nodes, behind which raft cuts the log.
func (c *cluster) truncate(nodes ...string) {
	c.t.Helper()
	for _, node := range nodes {
		for _, r := range c.replicas[node] {
			c.eventually("a snapshot is taken", func() bool { return r.raft.Snapshot().Error() == nil })
			first, _ := r.logs.FirstIndex()
			if last := r.raft.LastIndex(); last-first > 2*trailingLogs {
				c.t.Fatalf("%s keeps entries %d to %d, want only the last %d", node, first, last, trailingLogs)
			}
		}
	}
}

func (c *cluster) snapshotsInstalled(node string) uint64 {
	return c.nets[node].Stats().SnapshotsReceived
}

func TestFollowerCatchesUpBySnapshot(t *testing.T) {
	leftBehind(t, func(t *testing.T, c *cluster, n3 *replica, old []string) {
		c.isolate("n3", up)
		c.eventually("n3 has all commands", func() bool { return c.settled(0, 10+snapshotEntries) })
		c.apply(10) // and goes on from there
		c.eventually("all commands are everywhere", func() bool { return c.settled(0, 20+snapshotEntries) })
		if got := c.snapshotsInstalled("n3"); got != 1 {
			t.Errorf("n3 installed %d snapshots, want 1", got)
		}
	})
}

// Snapshots that do not arrive whole leave the follower as it was, and the
// first one that does is installed.
func TestFollowerTakesOnlyWholeSnapshots(t *testing.T) {
	const faults = 3
	for _, c := range []struct {
		name   string
		mangle func(piece int, b []byte) (now []byte, broken bool)
	}{
		{"damaged message", func(piece int, b []byte) ([]byte, bool) { return flipped(piece == 0, b, 60), false }},
		{"damaged chunk", func(piece int, b []byte) ([]byte, bool) { return flipped(piece == 3, b, 1000), false }},
		{"damaged end", func(piece int, b []byte) ([]byte, bool) { return flipped(len(b) == 16, b, 11), false }},
		{"doubled chunk", func(piece int, b []byte) ([]byte, bool) {
			if piece == 3 {
				return append(bytes.Clone(b), b...), false
			}
			return b, false
		}},
		{"missing chunk", func(piece int, b []byte) ([]byte, bool) {
			if piece == 3 {
				return nil, false
			}
			return b, false
		}},
		{"cut off in a chunk", func(piece int, b []byte) ([]byte, bool) {
			if piece == 3 {
				return b[:len(b)/2], true
			}
			return b, false
		}},
		{"cut off before the end", func(piece int, b []byte) ([]byte, bool) {
			if len(b) == 16 {
				return nil, true
			}
			return b, false
		}},
		{"unreadable at the leader", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			leftBehind(t, func(t *testing.T, cl *cluster, n3 *replica, old []string) {
				var mu sync.Mutex
				tries := 0
				cl.mu.Lock()
				cl.bulk = func(_, to string) (near, far net.Conn) {
					near, far = newStream()
					mu.Lock()
					defer mu.Unlock()
					tries++
					if got := n3.fsm.all(); tries <= faults+1 && !slices.Equal(got, old) {
						t.Errorf("attempt %d: n3 has %d commands, want the old %d", tries, len(got), len(old))
					}
					if tries <= faults && c.mangle != nil {
						near = &mangled{Conn: near, mangle: c.mangle}
					}
					return near, far
				}
				cl.mu.Unlock()
				if c.mangle == nil {
					for _, node := range []string{"n1", "n2"} {
						cl.replicas[node][0].snaps.faults.Store(faults)
					}
				}
				cl.isolate("n3", up)
				cl.eventually("n3 has all commands", func() bool { return cl.settled(0, 10+snapshotEntries) })
				mu.Lock()
				defer mu.Unlock()
				if tries <= faults {
					t.Errorf("installed at attempt %d, want after %d that failed", tries, faults)
				}
				if got := cl.snapshotsInstalled("n3"); got != 1 {
					t.Errorf("n3 installed %d snapshots, want 1", got)
				}
			})
		})
	}
}

func flipped(now bool, b []byte, at int) []byte {
	if !now {
		return b
	}
	b = bytes.Clone(b)
	b[at] ^= 0x10
	return b
}

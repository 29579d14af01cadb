package raftnet

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/manykv/manykv/transport"
	"github.com/manykv/manykv/transport/pki"
)

// station is a node on the real transport that can be cut off.
type station struct {
	*transport.Transport
	away atomic.Bool
	net  atomic.Pointer[Net]
}

func (s *station) Send(to string, lane transport.Lane, msg []byte) error {
	if s.away.Load() {
		return fmt.Errorf("to %s: %w", to, transport.ErrNotSent)
	}
	return s.Transport.Send(to, lane, msg)
}

func (s *station) DialBulk(ctx context.Context, to string) (net.Conn, error) {
	if s.away.Load() {
		return nil, fmt.Errorf("to %s: %w", to, transport.ErrNotSent)
	}
	return s.Transport.DialBulk(ctx, to)
}

func (s *station) receiveBulk(from transport.Identity, conn net.Conn) {
	if n := s.net.Load(); n != nil && !s.away.Load() {
		n.ReceiveBulk(from, conn)
	}
}

func (s *station) receive(from transport.Identity, msg []byte) {
	if n := s.net.Load(); n != nil && !s.away.Load() {
		n.Receive(from, msg)
	}
}

// openStations opens a transport and a Net for every node of c.
func openStations(t *testing.T, c *cluster) map[string]*station {
	t.Helper()
	dir := t.TempDir()
	if err := pki.NewCA(dir, "test"); err != nil {
		t.Fatal(err)
	}
	var addresses sync.Map
	stations := make(map[string]*station)
	for _, node := range c.nodes {
		if err := pki.IssueNode(dir, node, nil); err != nil {
			t.Fatal(err)
		}
		s := &station{}
		var err error
		s.Transport, err = transport.Open(transport.Config{
			Listen:   "127.0.0.1:0",
			CAFile:   filepath.Join(dir, "ca.crt"),
			CertFile: filepath.Join(dir, node+".crt"),
			KeyFile:  filepath.Join(dir, node+".key"),
			Accept:   true,
			Receive:  s.receive,
			Bulk:     s.receiveBulk,
			Resolve: func(node string) (string, bool) {
				addr, ok := addresses.Load(node)
				if !ok {
					return "", false
				}
				return addr.(string), true
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
		addresses.Store(node, s.Addr().String())
		n, err := Open(Config{Self: server(node), Sender: s, DialBulk: s.DialBulk})
		if err != nil {
			t.Fatal(err)
		}
		s.net.Store(n)
		c.nets[node] = n
		stations[node] = s
	}
	return stations
}

// The same cluster over QUIC on loopback: it elects, applies 2,000 commands,
// takes messages of 1 MiB, and a node that was away catches up.
func TestClusterOverQUIC(t *testing.T) {
	c := &cluster{network: newNetwork(), t: t, nodes: []string{"n1", "n2", "n3"}, shards: 4, replicas: make(map[string][]*replica)}
	stations := openStations(t, c)
	for _, node := range c.nodes {
		c.start(node, c.nets[node].Group)
	}
	c.run(c.nodes, func(t *testing.T, c *cluster) {
		c.apply(500)
		c.eventually("all commands are everywhere", func() bool { return c.allSettled(500) })
		const large = 16 // entries
		t.Logf("%d MiB were committed in %v", large*burstSize>>20, c.applyBurst(large))
		c.eventually("the burst is everywhere", func() bool { return c.settled(0, 500+large) })

		stations["n3"].away.Store(true)
		c.eventually("n3 leads nothing, the others lead", func() bool {
			for shard := range c.shards {
				if l := c.leader(shard); l == nil || l == c.replicas["n3"][shard].raft {
					return false
				}
			}
			return true
		})
		c.apply(50)
		stations["n3"].away.Store(false)
		took := c.eventually("n3 has all commands", func() bool {
			for shard := uint32(1); shard < c.shards; shard++ {
				if !c.settled(shard, 550) {
					return false
				}
			}
			return c.settled(0, 550+large)
		})
		t.Logf("n3 had all commands %v after it was back", took)
		for node, n := range c.nets {
			s := n.Stats()
			t.Logf("%s: %+v", node, s)
			if s.DroppedForged+s.DroppedMalformed+s.DroppedUnsent+s.DroppedQueueFull != 0 {
				t.Errorf("%s dropped messages: %+v", node, s)
			}
			if s.Coalesced == 0 {
				t.Errorf("%s: no messages shared a frame", node)
			}
		}
	})
}

// A follower of two shards that was away until its leaders had cut their logs
// gets 8 MiB of state by snapshot and goes on from there.
func TestSnapshotOverQUIC(t *testing.T) {
	c := &cluster{network: newNetwork(), t: t, nodes: []string{"n1", "n2", "n3"}, shards: 2, replicas: make(map[string][]*replica)}
	stations := openStations(t, c)
	for _, node := range c.nodes {
		c.start(node, c.nets[node].Group)
	}
	c.run(c.nodes, func(t *testing.T, c *cluster) {
		c.apply(10)
		c.eventually("all commands are everywhere", func() bool { return c.allSettled(10) })
		stations["n3"].away.Store(true)
		c.eventually("n3 leads nothing, the others lead", func() bool {
			for shard := range c.shards {
				if l := c.leader(shard); l == nil || l == c.replicas["n3"][shard].raft {
					return false
				}
			}
			return true
		})
		const large = 32 // entries
		c.applyBurst(large)
		c.apply(10 * trailingLogs)
		const want = 10 + 10*trailingLogs
		c.eventually("n1 and n2 have all commands", func() bool {
			for _, node := range []string{"n1", "n2"} {
				if len(c.replicas[node][0].fsm.all()) != want+large || len(c.replicas[node][1].fsm.all()) != want {
					return false
				}
			}
			return true
		})
		c.truncate("n1", "n2")
		stations["n3"].away.Store(false)
		took := c.eventually("n3 has all commands", func() bool { return c.settled(0, want+large) && c.settled(1, want) })
		t.Logf("n3 had all commands %v after it was back", took)
		c.apply(10)
		c.eventually("n3 goes on", func() bool { return c.settled(0, want+large+10) && c.settled(1, want+10) })
		s := c.nets["n3"].Stats()
		// Entries that were queued for n3 when it left are sent to it when it is back, if that is soon: those of the
		// shard that grew little may spare it the snapshot.
		if s.SnapshotsReceived < 1 || s.SnapshotBytesReceived < large*burstSize {
			t.Errorf("n3 received %d snapshots of %d bytes, want that of the larger shard at least", s.SnapshotsReceived, s.SnapshotBytesReceived)
		}
		if got := stations["n3"].Stats().BulkIn; got < large*burstSize {
			t.Errorf("%d bytes came on bulk streams, want at least %d", got, large*burstSize)
		}
	})
}

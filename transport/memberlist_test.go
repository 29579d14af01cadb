package transport

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
)

// gossipTransport lets memberlist run over ours: what package cluster does, in short.
type gossipTransport struct {
	*Transport
	packets chan *memberlist.Packet
	done    chan struct{}
}

func newGossipTransport(t *Transport) *gossipTransport {
	g := &gossipTransport{Transport: t, packets: make(chan *memberlist.Packet), done: make(chan struct{})}
	go func() {
		for p := range t.Packets() {
			select {
			case g.packets <- &memberlist.Packet{Buf: p.Data, From: p.From, Timestamp: p.At}:
			case <-g.done:
				return
			}
		}
	}()
	return g
}

func (g *gossipTransport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return g.Addr().IP, g.Addr().Port, nil
}

func (g *gossipTransport) WriteTo(b []byte, addr string) (time.Time, error) {
	return time.Now(), g.WritePacket(b, addr)
}

func (g *gossipTransport) WriteToAddress(b []byte, addr memberlist.Address) (time.Time, error) {
	return g.WriteTo(b, addr.Addr)
}

func (g *gossipTransport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return g.DialStream(ctx, addr)
}

func (g *gossipTransport) DialAddressTimeout(addr memberlist.Address, timeout time.Duration) (net.Conn, error) {
	return g.DialTimeout(addr.Addr, timeout)
}

func (g *gossipTransport) PacketCh() <-chan *memberlist.Packet { return g.packets }
func (g *gossipTransport) StreamCh() <-chan net.Conn           { return g.Streams() }
func (g *gossipTransport) Shutdown() error                     { close(g.done); return nil }

var _ memberlist.NodeAwareTransport = (*gossipTransport)(nil)

func TestMemberlistConverges(t *testing.T) {
	w := newTown(t, "a")
	var members []*memberlist.Memberlist
	for i := range 3 {
		name := fmt.Sprintf("n%d", i+1)
		config := memberlist.DefaultLocalConfig()
		config.Name = name
		config.Transport = newGossipTransport(w.gossiper(name))
		config.SecretKey = fill(gossipKeyBytes)
		config.Label = "a"
		config.Logger = log.New(io.Discard, "", 0)
		list, err := memberlist.Create(config)
		must(t, err)
		t.Cleanup(func() { must(t, list.Shutdown()) })
		members = append(members, list)
	}
	first, _ := w.resolve("n1")
	for _, list := range members[1:] {
		_, err := list.Join([]string{first})
		must(t, err)
	}
	eventually(t, "all see all", func() bool {
		for _, list := range members {
			if list.NumMembers() != len(members) {
				return false
			}
		}
		return true
	})
	must(t, members[2].Leave(testWait))
	eventually(t, "one has left", func() bool {
		return members[0].NumMembers() == 2 && members[1].NumMembers() == 2
	})
}

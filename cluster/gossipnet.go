package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/manykv/manykv/transport"
)

// gossipNet is memberlist's network on the node's own transport: packets that
// proved the gossip key, streams of authenticated nodes.
type gossipNet struct {
	trans      *transport.Transport
	host, port string
	logger     *slog.Logger
	packets    chan *memberlist.Packet
	streams    chan net.Conn
	ctx        context.Context // of the pump
	stop       context.CancelFunc
	dialing    context.Context // ends before: nobody waits for a dial when the node leaves
	endDials   context.CancelFunc
	all        sync.WaitGroup
}

var _ memberlist.NodeAwareTransport = (*gossipNet)(nil)

func newGossipNet(trans *transport.Transport, host, port string, logger *slog.Logger) *gossipNet {
	g := &gossipNet{
		trans: trans, host: host, port: port, logger: logger,
		packets: make(chan *memberlist.Packet), streams: make(chan net.Conn),
	}
	g.ctx, g.stop = context.WithCancel(context.Background())
	g.dialing, g.endDials = context.WithCancel(g.ctx)
	g.all.Go(g.pump)
	return g
}

// pump hands packets and streams over until Shutdown, or until the transport is
// closed, which closes both.
func (g *gossipNet) pump() {
	for {
		select {
		case p, ok := <-g.trans.Packets():
			if !ok {
				return
			}
			select {
			case g.packets <- &memberlist.Packet{Buf: p.Data, From: p.From, Timestamp: p.At}:
			case <-g.ctx.Done():
				return
			}
		case c, ok := <-g.trans.Streams():
			if !ok {
				return
			}
			select {
			case g.streams <- c:
			case <-g.ctx.Done():
				if err := c.Close(); err != nil {
					g.logger.Debug("gossip: close a stream", "error", err)
				}
				return
			}
		case <-g.ctx.Done():
			return
		}
	}
}

// FinalAdvertiseAddr returns the IP address and port others shall use.
func (g *gossipNet) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	ctx, done := context.WithTimeout(g.dialing, streamTimeout)
	defer done()
	all, err := g.trans.Lookup(ctx, net.JoinHostPort(g.host, g.port))
	if err != nil {
		return nil, 0, fmt.Errorf("advertise address: %w", err)
	}
	mine := all[0]
	if i := slices.IndexFunc(all, func(a netip.AddrPort) bool { return a.Addr().Is4() }); i >= 0 {
		mine = all[i] // which a node that listens on IPv4 only reaches too
	}
	return mine.Addr().AsSlice(), int(mine.Port()), nil
}

// lookUp turns addresses into those of memberlist's Join: with numbers, since for a
// name it asks the resolver itself, one name after the other, for longer than a node
// may take to end. What is not found in time is left out, and asked for next time.
func (g *gossipNet) lookUp(addrs []string, within time.Duration) []string {
	ctx, done := context.WithTimeout(g.dialing, within)
	defer done()
	found := make([][]netip.AddrPort, len(addrs))
	var all sync.WaitGroup
	for i, addr := range addrs {
		all.Go(func() {
			var err error
			if found[i], err = g.trans.Lookup(ctx, addr); err != nil {
				g.logger.Debug("gossip: look up", "addr", addr, "error", err)
			}
		})
	}
	all.Wait()
	var numbers []string
	for _, some := range found {
		for _, addr := range some {
			numbers = append(numbers, addr.String())
		}
	}
	return numbers
}

func (g *gossipNet) WriteTo(b []byte, addr string) (time.Time, error) {
	return time.Now(), g.trans.WritePacket(b, addr)
}

func (g *gossipNet) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	return g.WriteTo(b, a.Addr)
}

func (g *gossipNet) PacketCh() <-chan *memberlist.Packet { return g.packets }

func (g *gossipNet) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	ctx, done := context.WithTimeout(g.dialing, timeout)
	defer done()
	return g.trans.DialStream(ctx, addr)
}

func (g *gossipNet) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	return g.DialTimeout(a.Addr, timeout)
}

func (g *gossipNet) StreamCh() <-chan net.Conn { return g.streams }

// Shutdown stops the pump; the transport is the node's to close.
func (g *gossipNet) Shutdown() error {
	g.stop()
	g.all.Wait()
	return nil
}

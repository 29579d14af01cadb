package transport

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
)

const (
	// gossipPrefix tells our datagrams from QUIC packets on the same socket: these have one of the two top bits set.
	// memberlist's own first bytes reach 0xF4, so its packets need a prefix.
	gossipPrefix = 0x01
	gossipMAC    = 16 // of HMAC-SHA256: forging one takes 2^128 tries
	gossipHeader = 1 + gossipMAC
	// maxPacketBytes is the whole datagram: quic-go reads no more, and cuts longer ones without a word.
	maxPacketBytes = 1452
	// packetQueue and streamQueue hold a burst: every node of a large cluster at once.
	packetQueue = 256
	streamQueue = 16
	// lookupWait bounds the DNS query for a packet, which is late when it takes longer.
	lookupWait = time.Second
)

var errNoGossip = errors.New("no gossip plane: no gossip key configured")

// Packet is a gossip datagram that somebody with our gossip key sent.
type Packet struct {
	Data []byte
	From net.Addr
	At   time.Time
}

// Packets delivers gossip datagrams. Those that come while it is full are dropped. Close closes it; without a gossip
// key it is nil.
func (t *Transport) Packets() <-chan Packet { return t.packets }

// Streams delivers gossip streams that other nodes opened. Those that come while it is full are reset. Close closes it;
// without a gossip key it is nil.
func (t *Transport) Streams() <-chan net.Conn { return t.streams }

// WritePacket sends a gossip datagram, which may be lost.
func (t *Transport) WritePacket(b []byte, addr string) error {
	if t.cfg.GossipKey == nil {
		return fmt.Errorf("transport: packet to %s: %w", addr, errNoGossip)
	}
	if len(b) > maxPacketBytes-gossipHeader {
		return fmt.Errorf("transport: packet to %s: %d bytes, want at most %d", addr, len(b), maxPacketBytes-gossipHeader)
	}
	ctx, cancel := context.WithTimeout(t.ctx, lookupWait)
	defer cancel()
	to, err := t.lookup(ctx, addr, 0)
	if err != nil {
		return fmt.Errorf("transport: packet to %s: %w", addr, err)
	}
	if _, err := t.quic.WriteTo(sealPacket(t.cfg.GossipKey, b), to); err != nil {
		return fmt.Errorf("transport: packet to %s: %w", addr, err)
	}
	t.stats.packetsOut.Add(1)
	return nil
}

// sealPacket lays out prefix, MAC, payload.
func sealPacket(key, payload []byte) []byte {
	datagram := make([]byte, 1, gossipHeader+len(payload))
	datagram[0] = gossipPrefix
	datagram = append(datagram, packetMAC(key, payload)...)
	return append(datagram, payload...)
}

// openPacket returns the payload of a datagram made under key, which shares its memory.
func openPacket(key, datagram []byte) ([]byte, bool) {
	if len(datagram) < gossipHeader || datagram[0] != gossipPrefix {
		return nil, false
	}
	payload := datagram[gossipHeader:]
	return payload, hmac.Equal(datagram[1:gossipHeader], packetMAC(key, payload))
}

func packetMAC(key, payload []byte) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write(payload)
	return mac.Sum(nil)[:gossipMAC]
}

// primePackets makes quic-go keep our datagrams from now on: it drops them until somebody has asked for the first.
func (t *Transport) primePackets() {
	ended, cancel := context.WithCancel(t.ctx)
	cancel()
	// The answer is that the context has ended.
	_, _, _ = t.quic.ReadNonQUICPacket(ended, nil)
}

func (t *Transport) readPackets() {
	buf := make([]byte, maxPacketBytes)
	for {
		n, from, err := t.quic.ReadNonQUICPacket(t.ctx, buf)
		if err != nil {
			return // Close; the socket has no other error
		}
		payload, ok := openPacket(t.cfg.GossipKey, buf[:n])
		if !ok {
			t.stats.forged.Add(1)
			continue
		}
		t.stats.packetsIn.Add(1)
		select {
		case t.packets <- Packet{Data: append([]byte(nil), payload...), From: from, At: time.Now()}:
		default:
			t.stats.droppedPackets.Add(1)
		}
	}
}

// DialStream opens a gossip stream to the node of our cluster at addr.
func (t *Transport) DialStream(ctx context.Context, addr string) (net.Conn, error) {
	if t.cfg.GossipKey == nil {
		return nil, notSent("stream to "+addr, errNoGossip)
	}
	if !t.cfg.Accept {
		return nil, notSent("stream to "+addr, errors.New("only nodes that accept connections gossip"))
	}
	l, err := t.linkAt(addr)
	if err != nil {
		return nil, notSent("stream to "+addr, err)
	}
	conn, err := l.get(ctx)
	if err != nil {
		return nil, notSent("stream to "+addr, err)
	}
	s, err := conn.openStream(ctx, streamGossip)
	if err != nil {
		return nil, notSent("stream to "+addr, err)
	}
	return &streamConn{Stream: s, qc: conn.qc}, nil
}

// offerGossip passes a stream to whoever reads Streams, or resets it.
func (a *accepted) offerGossip(s *quic.Stream) error {
	c := &streamConn{Stream: s, qc: a.qc}
	select {
	case a.t.streams <- c: // blocks for ever without a gossip plane, so the default is taken
		return nil
	default:
		a.t.stats.droppedStreams.Add(1)
		s.CancelWrite(0)
		s.CancelRead(0)
		return nil
	}
}

// streamConn makes a net.Conn of a QUIC stream.
type streamConn struct {
	*quic.Stream
	qc *quic.Conn

	writing sync.Mutex // quic-go forbids to close a stream during a write
}

func (c *streamConn) LocalAddr() net.Addr  { return c.qc.LocalAddr() }
func (c *streamConn) RemoteAddr() net.Addr { return c.qc.RemoteAddr() }

func (c *streamConn) Write(b []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	return c.Stream.Write(b)
}

// Close ends both directions: closing a QUIC stream ends only the sending one, and the other would keep a slot of the
// peer's stream limit for ever. A write under way fails.
func (c *streamConn) Close() error {
	c.CancelRead(0)
	// It fails only on a stream that has ended.
	_ = c.SetWriteDeadline(time.Now())
	c.writing.Lock()
	defer c.writing.Unlock()
	// It fails only when the other side has stopped reading: then there is nothing left to end.
	_ = c.Stream.Close()
	return nil
}

package transport

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
)

func (w *town) gossiper(name string, change ...func(*Config)) *Transport {
	w.t.Helper()
	return w.node(name, append([]func(*Config){func(c *Config) { c.GossipKey = fill(gossipKeyBytes) }}, change...)...)
}

func TestPackets(t *testing.T) {
	w := newTown(t, "a")
	n1, n2 := w.gossiper("n1"), w.gossiper("n2")
	for _, size := range []int{0, 1, maxPacketBytes - gossipHeader} {
		must(t, n2.WritePacket(fill(size), n1.Addr().String()))
		p := receive(t, "packet", n1.Packets())
		if !bytes.Equal(p.Data, fill(size)) || p.From.String() != n2.Addr().String() || p.At.IsZero() {
			t.Fatalf("got %d bytes from %s at %s, want %d from %s", len(p.Data), p.From, p.At, size, n2.Addr())
		}
	}
	err := n2.WritePacket(fill(maxPacketBytes-gossipHeader+1), n1.Addr().String())
	if err == nil || !strings.Contains(err.Error(), "1436 bytes, want at most 1435") {
		t.Fatalf("got %v, want the packet to be too large", err)
	}
}

func TestPacketsUnderAnotherKeyAreDropped(t *testing.T) {
	w := newTown(t, "a")
	n1 := w.gossiper("n1")
	n2 := w.node("n2", func(c *Config) { c.GossipKey = make([]byte, gossipKeyBytes) })
	must(t, n2.WritePacket([]byte("x"), n1.Addr().String()))
	eventually(t, "it is counted", func() bool { return n1.Stats().ForgedPackets == 1 })
	if len(n1.Packets()) != 0 {
		t.Fatal("it was delivered")
	}
}

func TestPacketsNobodyReadsAreDropped(t *testing.T) {
	w := newTown(t, "a")
	n1, n2 := w.gossiper("n1"), w.gossiper("n2")
	// One by one: the kernel and quic-go drop some too when many come at once.
	for i := range uint64(packetQueue + 10) {
		eventually(t, "packet is taken or dropped", func() bool {
			must(t, n2.WritePacket([]byte("x"), n1.Addr().String()))
			return n1.Stats().PacketsIn > i
		})
	}
	if s := n1.Stats(); len(n1.Packets()) != packetQueue || s.DroppedPackets == 0 {
		t.Fatalf("%d packets wait and %d were dropped, want %d and some", len(n1.Packets()), s.DroppedPackets, packetQueue)
	}
}

func TestWithoutGossipKey(t *testing.T) {
	w := newTown(t, "a")
	n1, n2 := w.node("n1"), w.gossiper("n2")
	if err := n1.WritePacket(nil, n2.Addr().String()); !errors.Is(err, errNoGossip) {
		t.Fatalf("packet: got %v, want %v", err, errNoGossip)
	}
	if _, err := n1.DialStream(testContext(t), n2.Addr().String()); !errors.Is(err, ErrNotSent) {
		t.Fatalf("stream: got %v, want ErrNotSent", err)
	}
	// The other way round the stream is reset.
	s, err := n2.DialStream(testContext(t), n1.Addr().String())
	must(t, err)
	if _, err := s.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Fatalf("read: got %v, want a reset", err)
	}
	must(t, s.Close())
	if n := n1.Stats().DroppedStreams; n != 1 {
		t.Fatalf("counted %d dropped streams, want 1", n)
	}
}

func TestStreams(t *testing.T) {
	w := newTown(t, "a")
	n1, n2 := w.gossiper("n1"), w.gossiper("n2")
	// Many more than a connection has slots: closing gives them back.
	for range 2 * maxIncomingStreams {
		out, err := n2.DialStream(testContext(t), n1.Addr().String())
		must(t, err)
		in := receive(t, "stream", n1.Streams())
		if in.RemoteAddr().String() != n2.Addr().String() || out.RemoteAddr().String() != n1.Addr().String() ||
			out.LocalAddr().String() != n2.Addr().String() {
			t.Fatalf("stream from %s to %s seen as from %s", out.LocalAddr(), out.RemoteAddr(), in.RemoteAddr())
		}
		exchange(t, out, in)
		exchange(t, in, out)
		must(t, out.Close())
		must(t, in.Close())
	}
	if n := n2.Stats().Dials; n != 1 {
		t.Fatalf("dialled %d times, want streams to share a connection", n)
	}
}

func exchange(t *testing.T, from io.Writer, to io.Reader) {
	t.Helper()
	sent, got := fill(3000), make([]byte, 3000)
	_, err := from.Write(sent)
	must(t, err)
	_, err = io.ReadFull(to, got)
	must(t, err)
	if !bytes.Equal(got, sent) {
		t.Fatal("stream delivered something else")
	}
}

func TestStreamCloseEndsAWriteUnderWay(t *testing.T) {
	w := newTown(t, "a")
	n1, n2 := w.gossiper("n1"), w.gossiper("n2")
	out, err := n2.DialStream(testContext(t), n1.Addr().String())
	must(t, err)
	done := make(chan error, 1)
	go func() {
		_, err := out.Write(fill(2 * maxConnWindow)) // nobody reads
		done <- err
	}()
	receive(t, "stream", n1.Streams())
	must(t, out.Close())
	if err := receive(t, "write ends", done); err == nil {
		t.Fatal("write succeeded, want it cut off")
	}
}

func TestStreamsNobodyTakesAreReset(t *testing.T) {
	w := newTown(t, "a")
	n1, n2 := w.gossiper("n1"), w.gossiper("n2")
	for range streamQueue + 1 {
		_, err := n2.DialStream(testContext(t), n1.Addr().String())
		must(t, err)
	}
	eventually(t, "one is reset", func() bool { return n1.Stats().DroppedStreams == 1 })
	if n := len(n1.Streams()); n != streamQueue {
		t.Fatalf("%d streams wait, want %d", n, streamQueue)
	}
}

func TestCloseClosesTheChannels(t *testing.T) {
	w := newTown(t, "a")
	n1 := w.gossiper("n1")
	must(t, n1.Close())
	if _, ok := <-n1.Packets(); ok {
		t.Fatal("Packets delivered, want it closed")
	}
	if _, ok := <-n1.Streams(); ok {
		t.Fatal("Streams delivered, want it closed")
	}
}

// goldenPacket was computed with Python's hmac module.
const goldenPacket = "01" + "5d3fb811e61677343def86fc5043e4ba" + "676f73736970"

func TestPacketGolden(t *testing.T) {
	got := hex.EncodeToString(sealPacket(fill(gossipKeyBytes), []byte("gossip")))
	if got != goldenPacket {
		t.Fatalf("got %s, want %s", got, goldenPacket)
	}
}

func FuzzOpenPacket(f *testing.F) {
	key := fill(gossipKeyBytes)
	good := sealPacket(key, []byte("gossip"))
	f.Add(good)
	f.Add(good[:gossipHeader])
	f.Add([]byte{gossipPrefix})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, datagram []byte) {
		payload, ok := openPacket(key, datagram)
		if ok && !bytes.Equal(sealPacket(key, payload), datagram) {
			t.Fatalf("%x was opened, and sealing it again gives something else", datagram)
		}
	})
}

var _ net.Conn = (*streamConn)(nil)

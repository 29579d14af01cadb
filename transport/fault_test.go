package transport

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"
)

// crash ends a process as SIGKILL does: no peer hears of it.
func crash(t *testing.T, n *Transport) {
	t.Helper()
	must(t, n.udp.Close())
	if err := n.Close(); !errors.Is(err, net.ErrClosed) {
		t.Fatalf("got %v, want the socket to be closed already", err)
	}
}

// openAs starts a node that is not closed by the test's end but by the test.
func (w *town) openAs(name string, change func(*Config)) *Transport {
	w.t.Helper()
	cfg := w.config(name, RoleNode)
	change(&cfg)
	n, err := Open(cfg)
	must(w.t, err)
	w.settle(name, n.Addr().String())
	return n
}

func TestCrashedNodeIsFoundAgain(t *testing.T) {
	w := newTown(t, "a")
	h := newWaiting()
	key := [32]byte{1, 2, 3}
	n1 := w.openAs("n1", func(c *Config) { c.Handle, c.ResetKey = h.handle, key })
	addr := n1.Addr().String()
	n2 := w.node("n2")
	done := make(chan error, 1)
	go func() {
		_, err := n2.Call(context.Background(), "n1", 1, nil)
		done <- err
	}()
	receive(t, "handler begins", h.began)
	crash(t, n1)
	w.node("n1", func(c *Config) { c.Listen, c.ResetKey = addr, key })
	// The keep-alive meets the new process, which answers with a stateless reset.
	if err := receive(t, "call in flight ends", done); !errors.Is(err, ErrLost) {
		t.Fatalf("call in flight: got %v, want ErrLost", err)
	}
	answer, err := n2.Call(testContext(t), "n1", 1, []byte("x"))
	must(t, err)
	if string(answer) != "x" {
		t.Fatalf("got %q, want \"x\"", answer)
	}
}

func TestCallWaitsForANodeToStart(t *testing.T) {
	w := newTown(t, "a")
	n1 := w.openAs("n1", func(*Config) {})
	addr := n1.Addr().String()
	must(t, n1.Close())
	c := w.client("c1")
	done := make(chan error, 1)
	go func() {
		_, err := c.Call(context.Background(), "n1", 1, nil)
		done <- err
	}()
	eventually(t, "it dials", func() bool { return c.Stats().Dials > 0 })
	w.node("n1", func(c *Config) { c.Listen = addr })
	must(t, receive(t, "call is answered", done))
}

func TestDeadNodeEndsCallsAtTheirDeadline(t *testing.T) {
	w := newTown(t, "a")
	n1 := w.openAs("n1", func(*Config) {})
	must(t, n1.Close())
	c := w.client("c1")
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	_, err := c.Call(ctx, "n1", 1, nil)
	if !errors.Is(err, ErrNotSent) || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v, want ErrNotSent and context.DeadlineExceeded", err)
	}
}

func TestConnectWaitEndsBeforeTheCallersDeadline(t *testing.T) {
	w := newTown(t, "a")
	n1 := w.openAs("n1", func(*Config) {})
	must(t, n1.Close())
	c := w.client("c1", func(cfg *Config) { cfg.ConnectWait = 50 * time.Millisecond })
	_, err := c.Call(context.Background(), "n1", 1, nil)
	if !errors.Is(err, ErrNotSent) || !errors.Is(err, errConnectWait) || errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v, want ErrNotSent because of ConnectWait", err)
	}
}

func TestConnectWaitDoesNotBoundTheAnswer(t *testing.T) {
	w := newTown(t, "a")
	w.node("n1")
	c := w.client("c1", func(cfg *Config) { cfg.ConnectWait = 1 }) // a nanosecond
	connect(t, c, "n1")
	_, err := c.Call(testContext(t), "n1", 1, fill(1<<20))
	must(t, err)
}

// relay forwards datagrams between one dialler and a node, until it is told to swallow them.
type relay struct {
	front, back *net.UDPConn

	mu     sync.Mutex
	caller *net.UDPAddr
	deaf   bool
}

func newRelay(t *testing.T, to *net.UDPAddr) *relay {
	t.Helper()
	front, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	must(t, err)
	back, err := net.DialUDP("udp", nil, to)
	must(t, err)
	r := &relay{front: front, back: back}
	var group sync.WaitGroup
	group.Go(func() { r.pump(front, func(b []byte) { _, _ = back.Write(b) }) })
	group.Go(func() { r.pump(back, func(b []byte) { _, _ = front.WriteToUDP(b, r.caller) }) })
	t.Cleanup(func() {
		must(t, front.Close())
		must(t, back.Close())
		group.Wait()
	})
	return r
}

func (r *relay) pump(from *net.UDPConn, forward func([]byte)) {
	buf := make([]byte, 64<<10)
	for {
		n, addr, err := from.ReadFromUDP(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		r.mu.Lock()
		if from == r.front && err == nil {
			r.caller = addr
		}
		if !r.deaf && err == nil {
			forward(buf[:n])
		}
		r.mu.Unlock()
	}
}

func (r *relay) swallow() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.deaf = true
}

func TestSilentNodeIsNoticedInThreeSeconds(t *testing.T) {
	w := newTown(t, "a")
	h := newWaiting()
	n1 := w.node("n1", func(c *Config) { c.Handle = h.handle })
	r := newRelay(t, n1.Addr())
	w.settle("n1", r.front.LocalAddr().String())
	n2 := w.node("n2")
	done := make(chan error, 1)
	go func() {
		_, err := n2.Call(context.Background(), "n1", 1, nil)
		done <- err
	}()
	receive(t, "handler begins", h.began)
	r.swallow()
	began := time.Now()
	if err := receive(t, "call ends", done); !errors.Is(err, ErrLost) {
		t.Fatalf("got %v, want ErrLost", err)
	}
	// One second more than promised for a busy machine: the constants are what is tested.
	if took := time.Since(began); took > keepAlive+idleWait+time.Second {
		t.Fatalf("noticed after %s, want at most %s", took, keepAlive+idleWait)
	}
	receive(t, "handler ends", h.ended)
}

func TestNewAddressDropsTheOldConnection(t *testing.T) {
	w := newTown(t, "a")
	h := newWaiting()
	w.node("n1", func(c *Config) { c.Handle = h.handle })
	c := w.client("c1")
	done := make(chan error, 1)
	go func() {
		_, err := c.Call(context.Background(), "n1", 1, nil)
		done <- err
	}()
	receive(t, "handler begins", h.began)
	w.node("n1") // elsewhere now
	_, err := c.Call(testContext(t), "n1", 1, nil)
	must(t, err)
	if err := receive(t, "call in flight ends", done); !errors.Is(err, ErrLost) {
		t.Fatalf("call in flight: got %v, want ErrLost", err)
	}
	eventually(t, "the old connection is gone", func() bool { return c.Stats().Dialled == 1 })
}

func TestGarbageIsIgnored(t *testing.T) {
	w := newTown(t, "a")
	n1 := w.node("n1", func(c *Config) { c.GossipKey = fill(gossipKeyBytes) })
	c := w.client("c1")
	_, err := c.Call(testContext(t), "n1", 1, nil)
	must(t, err)
	udp, err := net.DialUDP("udp", nil, n1.Addr())
	must(t, err)
	defer func() { must(t, udp.Close()) }()
	source := rand.NewChaCha8([32]byte{})
	random := rand.New(source)
	for i := range 20000 {
		b := make([]byte, 1+random.IntN(maxPacketBytes))
		_, _ = source.Read(b) // never fails
		if i%4 == 0 {
			b[0] = gossipPrefix
		}
		if _, err := udp.Write(b); err != nil {
			t.Fatal(err)
		}
		if i%1000 == 0 {
			if _, err := c.Call(testContext(t), "n1", 1, b); err != nil {
				t.Fatalf("call among garbage: %v", err)
			}
		}
	}
	_, err = c.Call(testContext(t), "n1", 1, fill(1<<20))
	must(t, err)
	if s := n1.Stats(); s.ForgedPackets == 0 || s.PacketsIn != 0 || len(n1.Packets()) != 0 {
		t.Fatalf("got %d packets under our key and %d forged, want none and some", s.PacketsIn, s.ForgedPackets)
	}
	if n := c.Stats().Dials; n != 1 {
		t.Fatalf("dialled %d times, want the connection to survive", n)
	}
}

func TestCloseLetsHandlersFinish(t *testing.T) {
	w := newTown(t, "a")
	began, release := make(chan struct{}), make(chan struct{})
	n1 := w.openAs("n1", func(c *Config) {
		c.Handle = func(context.Context, Identity, byte, []byte) ([]byte, error) {
			close(began)
			<-release
			return fill(1 << 20), nil
		}
	})
	c := w.client("c1")
	type result struct {
		answer []byte
		err    error
	}
	done := make(chan result, 1)
	go func() {
		answer, err := c.Call(context.Background(), "n1", 1, nil)
		done <- result{answer, err}
	}()
	receive(t, "handler begins", began)
	closed := make(chan error, 1)
	go func() { closed <- n1.Close() }()
	eventually(t, "closing begins", n1.gate.closed)
	_, err := c.Call(testContext(t), "n1", 1, nil)
	wantRemote(t, err, CodeRefused, "shutting down")
	close(release)
	if r := receive(t, "answer", done); r.err != nil || len(r.answer) != 1<<20 {
		t.Fatalf("got %d bytes and %v, want the whole answer", len(r.answer), r.err)
	}
	must(t, receive(t, "Close returns", closed))
}

func TestCloseCutsOffHandlersThatStay(t *testing.T) {
	w := newTown(t, "a")
	h := newWaiting()
	n1 := w.openAs("n1", func(c *Config) { c.Handle = h.handle })
	c := w.client("c1")
	done := make(chan error, 1)
	go func() {
		_, err := c.Call(context.Background(), "n1", 1, nil)
		done <- err
	}()
	receive(t, "handler begins", h.began)
	must(t, n1.Close())
	select {
	case <-h.ended:
	default:
		t.Fatal("Close returned before the handler")
	}
	if err := receive(t, "call ends", done); !errors.Is(err, ErrLost) {
		t.Fatalf("got %v, want ErrLost", err)
	}
}

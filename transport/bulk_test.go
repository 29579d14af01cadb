package transport

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
)

// mirror answers what it reads with the same, after all of it has come.
func mirror(_ Identity, conn net.Conn) {
	all, err := io.ReadAll(io.LimitReader(conn, bulkSize))
	if err == nil {
		_, _ = conn.Write(all)
	}
}

const bulkSize = 8 << 20

// held is a bulk handler that tells of its streams and keeps them until the test ends or they fail.
type held struct {
	conns chan net.Conn
	froms chan Identity
	ended chan error // what a Read of each ended with
}

func newHeld() *held {
	return &held{conns: make(chan net.Conn, 16), froms: make(chan Identity, 16), ended: make(chan error, 16)}
}

// take reads nothing until the first byte, then everything.
func (h *held) take(from Identity, conn net.Conn) {
	h.froms <- from
	h.conns <- conn
	_, err := io.Copy(io.Discard, conn)
	h.ended <- err
}

func (w *town) bulk(from *Transport, to string) net.Conn {
	w.t.Helper()
	conn, err := from.DialBulk(testContext(w.t), to)
	must(w.t, err)
	return conn
}

func TestBulkCarriesBothWaysOnAConnectionOfItsOwn(t *testing.T) {
	w := newTown(t, "a")
	n1, n2 := w.node("n1", func(c *Config) { c.Bulk = mirror }), w.node("n2")
	_, err := n2.Call(testContext(t), "n1", 1, nil)
	must(t, err)
	var group sync.WaitGroup
	for i := range 2 {
		conn := w.bulk(n2, "n1")
		sent := fill(bulkSize + i)[i:]
		group.Go(func() {
			if n, err := conn.Write(sent); n != len(sent) || err != nil {
				t.Errorf("wrote %d bytes, %v, want %d", n, err, len(sent))
			}
			got, err := io.ReadAll(conn)
			if err != nil || !bytes.Equal(got, sent) {
				t.Errorf("got %d bytes and %v, want what was sent", len(got), err)
			}
			must(t, conn.Close())
			must(t, conn.Close()) // again
		})
	}
	group.Wait()
	s := n2.Stats()
	if s.Dials != 2 || s.BulkOut != 2*bulkSize || s.BulkIn != 2*bulkSize {
		t.Errorf("dialled %d times, %d bytes out, %d in, want 2, %d and %d", s.Dials, s.BulkOut, s.BulkIn, 2*bulkSize, 2*bulkSize)
	}
	if s := n1.Stats(); s.BulkIn != 2*bulkSize || s.BulkOut != 2*bulkSize {
		t.Errorf("n1 counted %d bytes in and %d out", s.BulkIn, s.BulkOut)
	}
}

func TestBulkHandlerKnowsWhoSends(t *testing.T) {
	w := newTown(t, "a")
	h := newHeld()
	w.node("n1", func(c *Config) { c.Bulk = h.take })
	n2 := w.node("n2")
	conn := w.bulk(n2, "n1")
	if from := receive(t, "stream", h.froms); from != n2.Self() {
		t.Fatalf("stream from %s, want %s", from, n2.Self())
	}
	must(t, conn.Close())
	must(t, receive(t, "handler reads to the end", h.ended))
	if _, err := conn.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write after Close: got %v, want %v", err, net.ErrClosed)
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read after Close: got %v, want %v", err, net.ErrClosed)
	}
}

// What a handler writes before it returns arrives, though the stream ends with it.
func TestBulkAnswerOutlivesItsHandler(t *testing.T) {
	w := newTown(t, "a")
	w.node("n1", func(c *Config) {
		c.Bulk = func(_ Identity, conn net.Conn) { _, _ = conn.Write([]byte("no")) }
	})
	conn := w.bulk(w.node("n2"), "n1")
	// The handler does not read, so a large write fails, and still the answer is there.
	if _, err := conn.Write(fill(2 * maxStreamWindow)); err == nil {
		t.Error("write to a handler that has returned: got no error")
	}
	if got, err := io.ReadAll(conn); err != nil || string(got) != "no" {
		t.Errorf("got %q, %v, want the handler's answer", got, err)
	}
	must(t, conn.Close())
}

func TestFullBulkStreamHoldsUpNobody(t *testing.T) {
	w := newTown(t, "a")
	var box mailbox
	stuck := make(chan struct{})
	w.node("n1", func(c *Config) {
		c.Receive = box.receive
		c.Bulk = func(Identity, net.Conn) { <-stuck }
	})
	n2 := w.node("n2")
	var group sync.WaitGroup
	defer group.Wait()
	defer close(stuck)
	for range maxBulkStreams {
		conn := w.bulk(n2, "n1")
		group.Go(func() { _, _ = conn.Write(fill(2 * maxConnWindow)) })
		defer conn.Close()
	}
	sent := uint64(0)
	eventually(t, "all windows are full", func() bool {
		before := sent
		sent = n2.Stats().BulkOut
		return sent == before && sent >= firstStreamWindow
	})
	_, err := n2.Call(testContext(t), "n1", 1, fill(1<<20))
	must(t, err)
	connect(t, n2, "n1")
	must(t, n2.Send("n1", LaneControl, []byte("beat")))
	eventually(t, "the message arrives", func() bool { return box.count() == 1 })
}

func TestWhoMayNotDialBulk(t *testing.T) {
	w := newTown(t, "a")
	h := newHeld()
	n1 := w.node("n1", func(c *Config) { c.Bulk = h.take })
	n2, n3 := w.node("n2"), w.node("n3")
	for _, test := range []struct {
		what string
		from *Transport
		to   string
		want string
	}{
		{"client", w.client("c1"), "n1", "only nodes"},
		{"no such node", n2, "n9", "address unknown"},
		{"node without bulk", n3, "n2", "takes no bulk streams"},
	} {
		conn, err := test.from.DialBulk(testContext(t), test.to)
		if !errors.Is(err, ErrNotSent) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, %v, want ErrNotSent with %q", test.what, conn, err, test.want)
		}
	}
	if got := n2.Stats().RefusedBulk; got != 1 {
		t.Errorf("n2 counted %d refused streams, want 1", got)
	}
	w.settle("n4", n1.Addr().String())
	for range 2 {
		refused(t, n2, func(ctx context.Context) error {
			_, err := n2.DialBulk(ctx, "n4")
			return err
		}, `node "n1", want "n4"`)
	}
}

func TestBulkToAnotherCAIsRefusedByTheListener(t *testing.T) {
	ours, theirs := newTown(t, "a"), newTown(t, "a")
	h := newHeld()
	n1 := ours.node("n1", func(c *Config) { c.Bulk = h.take })
	n2 := theirs.node("n2") // believes our CA, with a certificate of another one
	trusting, err := loadCredentials(filepath.Join(ours.dir, "ca.crt"), filepath.Join(ours.dir, "n1.crt"),
		filepath.Join(ours.dir, "n1.key"))
	must(t, err)
	n2.creds.ca = trusting.ca
	theirs.settle("n1", n1.Addr().String())
	refused(t, n2, func(ctx context.Context) error {
		_, err := n2.DialBulk(ctx, "n1")
		return err
	}, "the server refused our certificate")
	if len(h.conns) != 0 {
		t.Error("the handler ran, want it not to")
	}
}

func TestDialBulkEndsWithItsContext(t *testing.T) {
	w := newTown(t, "a")
	n1 := w.openAs("n1", func(*Config) {})
	must(t, n1.Close())
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	_, err := w.node("n2").DialBulk(ctx, "n1")
	if !errors.Is(err, ErrNotSent) || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v, want ErrNotSent and context.DeadlineExceeded", err)
	}
}

func TestBulkStreamsAreBounded(t *testing.T) {
	w := newTown(t, "a")
	h := newHeld()
	n1 := w.node("n1", func(c *Config) { c.Bulk = h.take })
	n2 := w.node("n2")
	var conns []net.Conn
	for range maxBulkStreams {
		conns = append(conns, w.bulk(n2, "n1"))
	}
	_, err := n2.DialBulk(testContext(t), "n1")
	if !errors.Is(err, ErrNotSent) || !strings.Contains(err.Error(), "4 bulk streams") {
		t.Fatalf("got %v, want ErrNotSent because there are 4", err)
	}
	// Another node's streams are counted apart.
	must(t, w.bulk(w.node("n3"), "n1").Close())
	must(t, conns[0].Close())
	for range 2 {
		receive(t, "a handler ends", h.ended)
	}
	eventually(t, "the place is free", func() bool {
		conn, err := n2.DialBulk(testContext(t), "n1")
		if err == nil {
			must(t, conn.Close())
		}
		return err == nil
	})
	if s := n1.Stats(); s.RefusedBulk == 0 || s.BadStreams != 0 {
		t.Fatalf("refused %d streams and ended %d connections, want some and none", s.RefusedBulk, s.BadStreams)
	}
	for _, conn := range conns {
		must(t, conn.Close())
	}
}

func TestUnusedBulkConnectionIsClosed(t *testing.T) {
	w := newTown(t, "a")
	n1 := w.node("n1", func(c *Config) { c.Bulk = mirror })
	n2 := w.node("n2")
	_, err := n2.Call(testContext(t), "n1", 1, nil)
	must(t, err)
	must(t, w.bulk(n2, "n1").Close())
	eventually(t, "only the connection for calls is left", func() bool {
		return n2.Stats().Dialled == 1 && n1.Stats().Accepted == 1
	})
	must(t, w.bulk(n2, "n1").Close())
	if n := n2.Stats().Dials; n != 3 {
		t.Fatalf("dialled %d times, want 3: for calls, and twice for bulk", n)
	}
}

func TestBulkConnectionInUseIsKept(t *testing.T) {
	w := newTown(t, "a")
	h := newHeld()
	w.node("n1", func(c *Config) { c.Bulk = h.take })
	n2 := w.node("n2")
	conn := w.bulk(n2, "n1")
	l, err := n2.bulkLinkTo("n1")
	must(t, err)
	d := l.up()
	for range 3 {
		if d.retire() {
			t.Fatal("retired with an open stream")
		}
	}
	must(t, conn.Close())
	if d.retire() {
		t.Fatal("retired as soon as its stream was closed")
	}
	if !d.retire() || d.enter() || l.up() != nil {
		t.Fatal("unused twice in a row: want it retired, and nobody let in")
	}
	must(t, w.bulk(n2, "n1").Close()) // on another connection
}

func TestCloseEndsBulk(t *testing.T) {
	w := newTown(t, "a")
	h := newHeld()
	n1 := w.openAs("n1", func(c *Config) { c.Bulk = h.take })
	n2 := w.openAs("n2", func(*Config) {})
	n3 := w.node("n3")
	var writers sync.WaitGroup
	failed := make(chan error, 2)
	for _, n := range []*Transport{n2, n3} {
		conn := w.bulk(n, "n1")
		writers.Go(func() {
			var err error
			for err == nil {
				_, err = conn.Write(fill(bulkPiece))
			}
			failed <- err
			must(t, conn.Close())
		})
	}
	eventually(t, "both send", func() bool { return n2.Stats().BulkOut > 1<<20 && n3.Stats().BulkOut > 1<<20 })
	must(t, n2.Close()) // the side that sends
	if err := receive(t, "n2's write ends", failed); err == nil {
		t.Error("n2 went on writing")
	}
	if err := receive(t, "n2's handler at n1 ends", h.ended); err == nil {
		t.Error("n1 read a proper end, want an error")
	}
	must(t, n1.Close()) // the side that receives
	select {
	case err := <-h.ended:
		if err == nil {
			t.Error("n1 read a proper end, want an error")
		}
	default:
		t.Error("Close returned before the handler")
	}
	if err := receive(t, "n3's write ends", failed); err == nil {
		t.Error("n3 went on writing")
	}
	writers.Wait()
	if _, err := n1.DialBulk(testContext(t), "n3"); !errors.Is(err, ErrNotSent) || !errors.Is(err, ErrClosed) {
		t.Errorf("DialBulk of a closed transport: got %v, want ErrNotSent and ErrClosed", err)
	}
}

// Close does not wait for a peer to end a connection on which nothing is answered.
func TestCloseIsNotHeldUpByBulk(t *testing.T) {
	w := newTown(t, "a")
	h := newHeld()
	n1 := w.openAs("n1", func(c *Config) { c.Bulk = h.take })
	conn := w.bulk(w.node("n2"), "n1")
	began := time.Now()
	must(t, n1.Close())
	if took := time.Since(began); took >= closeWait {
		t.Errorf("closing took %s, want less than the %s given to answers", took, closeWait)
	}
	must(t, conn.Close())
}

func TestPeerKilledDuringBulk(t *testing.T) {
	w := newTown(t, "a")
	h := newHeld()
	n1 := w.openAs("n1", func(c *Config) { c.Bulk = h.take })
	n2 := w.node("n2", func(c *Config) { c.Bulk = h.take })
	out := w.bulk(n2, "n1")
	receive(t, "stream at n1", h.conns)
	_ = w.bulk(n1, "n2")
	receive(t, "stream at n2", h.conns)
	failed := make(chan error, 1)
	go func() {
		var err error
		for err == nil {
			_, err = out.Write(fill(bulkPiece))
		}
		failed <- err
	}()
	eventually(t, "n2 sends", func() bool { return n2.Stats().BulkOut > 1<<20 })
	crash(t, n1)
	if err := receive(t, "write ends", failed); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("write: got %v, want an error", err)
	}
	for range 2 { // n1's own, and n2's of the stream that n1 opened
		if err := receive(t, "handler ends", h.ended); err == nil {
			t.Error("handler read a proper end, want an error")
		}
	}
	must(t, out.Close())
}

func TestNewAddressEndsBulk(t *testing.T) {
	w := newTown(t, "a")
	h := newHeld()
	w.node("n1", func(c *Config) { c.Bulk = h.take })
	n2 := w.node("n2")
	conn := w.bulk(n2, "n1")
	n2.Forget("n1")
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("got %v, want the stream to fail", err)
	}
	receive(t, "handler ends", h.ended)
	must(t, conn.Close())
	must(t, w.bulk(n2, "n1").Close()) // on another connection
}

// A node of ours whose other end is not our code: it welcomes with nonsense.
func TestStrangeWelcomeIsRefused(t *testing.T) {
	w := newTown(t, "a")
	n2 := w.node("n2")
	cfg := w.config("n1", RoleNode)
	creds, err := loadCredentials(cfg.CAFile, cfg.CertFile, cfg.KeyFile)
	must(t, err)
	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	must(t, err)
	qt := &quic.Transport{Conn: udp}
	listener, err := qt.Listen(creds.server(), acceptConfig())
	must(t, err)
	w.settle("n1", udp.LocalAddr().String())
	var group sync.WaitGroup
	defer group.Wait()
	defer func() {
		must(t, qt.Close())
		must(t, udp.Close())
	}()
	group.Go(func() {
		qc, err := listener.Accept(testContext(t))
		must(t, err)
		s, err := qc.AcceptStream(testContext(t))
		must(t, err)
		_, err = s.Write([]byte("hello"))
		must(t, err)
		<-qc.Context().Done()
	})
	_, err = n2.DialBulk(testContext(t), "n1")
	if !errors.Is(err, ErrNotSent) || !strings.Contains(err.Error(), "welcomes with 68 65 6c 6c") {
		t.Fatalf("got %v, want ErrNotSent because of the welcome", err)
	}
}

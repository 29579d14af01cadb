//go:build linux

package vnet

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// TestMain runs the tests in a network namespace of their own.
func TestMain(m *testing.M) {
	if possible() != nil {
		os.Exit(m.Run()) // what needs a network skips
	}
	child, code, err := Reexec()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	if !child {
		os.Exit(code)
	}
	goleak.VerifyTestMain(m)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func openNetwork(t testing.TB) *Network {
	t.Helper()
	if err := possible(); err != nil {
		t.Skip(err)
	}
	n, err := Open(Config{Here: "here", Nodes: []string{"a", "b"}, Seed: 1})
	must(t, err)
	t.Cleanup(func() { must(t, n.Close()) })
	return n
}

// echo answers UDP datagrams in a node's network, until the test ends, and counts them.
func echo(t testing.TB, n *Network, node string) (addr *net.UDPAddr, heard *atomic.Int64) {
	t.Helper()
	heard = new(atomic.Int64)
	var c *net.UDPConn
	must(t, n.Do(node, func() (err error) {
		c, err = net.ListenUDP("udp4", &net.UDPAddr{IP: n.Addr(node).AsSlice(), Port: 7})
		return err
	}))
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 2048)
		for {
			size, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			heard.Add(1)
			_, _ = c.WriteTo(b[:size], from)
		}
	}()
	t.Cleanup(func() {
		must(t, c.Close())
		<-done
	})
	return c.LocalAddr().(*net.UDPAddr), heard
}

func dial(t testing.TB, addr *net.UDPAddr) *net.UDPConn {
	t.Helper()
	c, err := net.DialUDP("udp4", nil, addr)
	must(t, err)
	t.Cleanup(func() { must(t, c.Close()) })
	return c
}

// answers sends datagrams one by one and counts those that come back within a time.
func answers(t testing.TB, c *net.UDPConn, times int, within time.Duration) (n int) {
	t.Helper()
	b := make([]byte, 2048)
	for range times {
		_, err := c.Write([]byte("ping"))
		must(t, err)
		must(t, c.SetReadDeadline(time.Now().Add(within)))
		if _, err := c.Read(b); err == nil {
			n++
		}
	}
	return n
}

const soon, never = 5 * time.Second, 100 * time.Millisecond

func TestUDPAndTCP(t *testing.T) {
	n := openNetwork(t)
	addr, _ := echo(t, n, "a")
	if got := answers(t, dial(t, addr), 10, soon); got != 10 {
		t.Errorf("%d answers of 10", got)
	}
	var l net.Listener
	must(t, n.Do("b", func() (err error) {
		l, err = net.Listen("tcp4", net.JoinHostPort(n.Addr("b").String(), "8"))
		return err
	}))
	echoed := make(chan struct{})
	go func() {
		defer close(echoed)
		c, err := l.Accept()
		if err == nil {
			_, _ = io.Copy(c, c)
			_ = c.Close()
		}
	}()
	c, err := net.DialTimeout("tcp4", l.Addr().String(), soon)
	must(t, err)
	sent := bytes.Repeat([]byte("0123456789abcdef"), 64<<10)
	go func() { _, _ = c.Write(sent) }()
	got := make([]byte, len(sent))
	must(t, c.SetReadDeadline(time.Now().Add(soon)))
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, sent) {
		t.Errorf("1 MiB over TCP: %v", err)
	}
	must(t, c.Close())
	<-echoed
	must(t, l.Close())
}

func TestCutIsOfOneDirection(t *testing.T) {
	n := openNetwork(t)
	addr, heard := echo(t, n, "a")
	c := dial(t, addr)
	n.Set("a", "here", Link{Cut: true})
	if got := answers(t, c, 2, never); got != 0 || heard.Load() != 2 {
		t.Errorf("the way back is cut: %d answers, %d heard; want 0 and 2", got, heard.Load())
	}
	n.Heal()
	n.Set("here", "a", Link{Cut: true})
	if got := answers(t, c, 2, never); got != 0 || heard.Load() != 2 {
		t.Errorf("the way there is cut: %d answers, %d heard; want 0 and 2", got, heard.Load())
	}
	n.Heal()
	if got := answers(t, c, 3, soon); got != 3 {
		t.Errorf("healed: %d answers of 3", got)
	}
	if s := n.Stats("here", "a"); s.Cut != 2 || s.Delivered < 5 {
		t.Errorf("counted %+v", s)
	}
}

func TestLatency(t *testing.T) {
	n := openNetwork(t)
	addr, _ := echo(t, n, "a")
	c := dial(t, addr)
	const each = 20 * time.Millisecond
	n.Set("here", "a", Link{Latency: each})
	n.Set("a", "here", Link{Latency: each, Jitter: each})
	began := time.Now()
	const times = 5
	if got := answers(t, c, times, soon); got != times {
		t.Errorf("%d answers of %d", got, times)
	}
	if took := time.Since(began); took < times*2*each {
		t.Errorf("%d answers in %v, want %v at least", times, took, times*2*each)
	}
}

// What is decided of packets, without any.
func TestChances(t *testing.T) {
	const packets = 20_000
	near := func(got uint64, share float64) bool {
		want := share * packets
		return float64(got) > 0.9*want && float64(got) < 1.1*want
	}
	n := &Network{ends: []*end{{at: 0}, {at: 1}}}
	n.connect(7)
	l := n.links[0][1]
	now := time.Now()
	copies := 0
	for range packets {
		copies += len(l.pass(&Link{Loss: 0.1, Duplicate: 0.2, Reorder: 0.3, Corrupt: 0.4}, 100, now))
	}
	s := l.stats()
	if !near(s.Lost, 0.1) || !near(s.Duplicated, 0.9*0.2) || !near(s.Reordered, 0.9*0.3) || !near(s.Corrupted, 0.9*0.4) {
		t.Errorf("of %d packets: %+v", packets, s)
	}
	if want := packets - int(s.Lost) + int(s.Duplicated); copies != want {
		t.Errorf("%d copies, want %d", copies, want)
	}
}

// A slow link passes what it may, and loses what would wait too long.
func TestRate(t *testing.T) {
	n := &Network{ends: []*end{{at: 0}, {at: 1}}}
	n.connect(7)
	l := n.links[0][1]
	now := time.Now()
	s := &Link{BytesPerSecond: 100_000}
	var last time.Time
	for i := range 200 { // at once: 200 kB, of which 50 kB may wait
		for _, p := range l.pass(s, 1000, now) {
			if want := now.Add(time.Duration(i+1) * 10 * time.Millisecond); p.at.Sub(want).Abs() > time.Millisecond {
				t.Fatalf("packet %d leaves after %v, want %v", i, p.at.Sub(now), want.Sub(now))
			}
			last = p.at
		}
	}
	if wait := last.Sub(now); wait < longestQueue || wait > longestQueue+20*time.Millisecond || l.stats().Overflowed < 145 {
		t.Errorf("the last leaves after %v, %d are lost", wait, l.stats().Overflowed)
	}
}

// Packets that are late come in the order of their times, and those that come too
// late to be counted are gone with the network.
func TestLatePackets(t *testing.T) {
	n := openNetwork(t)
	addr, heard := echo(t, n, "a")
	c := dial(t, addr)
	n.Set("here", "a", Link{Latency: 30 * time.Millisecond})
	_, err := c.Write([]byte("late"))
	must(t, err)
	n.Heal()
	if got := answers(t, c, 1, soon); got != 1 {
		t.Error("no answer beside a late packet")
	}
	must(t, c.SetReadDeadline(time.Now().Add(soon)))
	if _, err := c.Read(make([]byte, 10)); err != nil || heard.Load() != 2 {
		t.Errorf("the late packet: %v, %d heard", err, heard.Load())
	}
	n.Set("here", "a", Link{Latency: time.Hour})
	_, err = c.Write([]byte("never"))
	must(t, err)
}

// A corrupted packet is not heard: its checksum is wrong.
func TestCorrupt(t *testing.T) {
	n := openNetwork(t)
	addr, heard := echo(t, n, "a")
	c := dial(t, addr)
	n.Set("here", "a", Link{Corrupt: 1})
	if got := answers(t, c, 3, never); got != 0 || heard.Load() != 0 {
		t.Errorf("%d answers, %d heard, want none", got, heard.Load())
	}
}

func TestConfigIsChecked(t *testing.T) {
	if err := possible(); err != nil {
		t.Skip(err)
	}
	for _, cfg := range []Config{{}, {Here: "a", Nodes: []string{"a"}}, {Here: "a", Nodes: []string{""}}, {Here: "a", Nodes: make([]string, mostNodes+1)}} {
		if n, err := Open(cfg); err == nil {
			t.Errorf("%+v was accepted", cfg)
			must(t, n.Close())
		}
	}
	n := openNetwork(t)
	if err := n.Do("nobody", func() error { return nil }); err == nil {
		t.Error("nobody did something")
	}
}

func FuzzEndOf(f *testing.F) {
	f.Add([]byte{0x45, 16: 10, 17: 77, 18: 0, 19: 2})
	f.Add([]byte{0x60})
	f.Fuzz(func(t *testing.T, packet []byte) {
		if at := endOf(packet, 3); at < -1 || at > 2 {
			t.Errorf("end %d of 3", at)
		}
	})
}

func BenchmarkRoute(b *testing.B) {
	n := openNetwork(b)
	addr, _ := echo(b, n, "a")
	c := dial(b, addr)
	packet := make([]byte, 1200)
	for b.Loop() {
		_, err := c.Write(packet)
		must(b, err)
		_, err = c.Read(packet)
		must(b, err)
	}
}

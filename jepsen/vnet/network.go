//go:build linux

package vnet

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"sync"
	"time"
)

// Config says who is on a network. Here is required.
type Config struct {
	// Here is the name of the end that is this process: see Reexec.
	Here string
	// Nodes are the names of the other ends; at most 200.
	Nodes []string
	// Seed is where chance comes from.
	Seed uint64
}

const (
	mostNodes = 200
	// headerBytes of a packet are IPv4's and UDP's: a bit is flipped behind them.
	headerBytes = 28
	// bufferBytes is more than a device's MTU.
	bufferBytes = 64 << 10
)

// Network is all ends and the links between them.
type Network struct {
	ends   []*end
	byName map[string]*end
	links  [][]*link // from, to
	late   *lateQueue

	readers sync.WaitGroup
	closing sync.Once
	closed  error
}

// end is a node, or this process.
type end struct {
	name   string
	at     int // in Network.ends
	device *os.File
	thread *thread // nil: this process
}

// Open makes a network whose links are good. It needs root and /dev/net/tun.
func Open(cfg Config) (_ *Network, err error) {
	names := append([]string{cfg.Here}, cfg.Nodes...)
	if len(cfg.Nodes) > mostNodes {
		return nil, fmt.Errorf("vnet: %d nodes, at most %d are allowed", len(cfg.Nodes), mostNodes)
	}
	if err := possible(); err != nil {
		return nil, err
	}
	n := &Network{byName: make(map[string]*end), late: newLateQueue()}
	defer func() {
		if err != nil {
			err = fmt.Errorf("vnet: %w", errors.Join(err, n.Close()))
		}
	}()
	for i, name := range names {
		if name == "" || n.byName[name] != nil {
			return nil, fmt.Errorf("the name %q is empty, or of two", name)
		}
		e := &end{name: name, at: i}
		if i == 0 {
			e.device, err = openDevice(addrOf(i))
		} else {
			e.thread, e.device, err = newThread(addrOf(i))
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		n.ends, n.byName[name] = append(n.ends, e), e
	}
	n.connect(cfg.Seed)
	for _, e := range n.ends {
		n.readers.Go(func() { n.read(e) })
	}
	return n, nil
}

// connect makes the links.
func (n *Network) connect(seed uint64) {
	for from := range n.ends {
		var row []*link
		for to, end := range n.ends {
			l := &link{to: end, rand: rand.New(rand.NewPCG(seed, uint64(from)<<32|uint64(to)))}
			l.now.Store(new(Link))
			row = append(row, l)
		}
		n.links = append(n.links, row)
	}
}

// addrOf is the address of an end.
func addrOf(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 77, 0, byte(1 + i)}) }

// endOf is the end that a packet is for, by the address in its header; -1 if it is
// for nobody here.
func endOf(packet []byte, ends int) int {
	const version4, shortest, destination = 4, 20, 16
	if len(packet) < shortest || packet[0]>>4 != version4 {
		return -1
	}
	d := packet[destination : destination+4]
	if i := int(d[3]) - 1; bytes.Equal(d[:3], []byte{10, 77, 0}) && i >= 0 && i < ends {
		return i
	}
	return -1
}

// Addr returns the address of an end; it must be there.
func (n *Network) Addr(name string) netip.Addr { return addrOf(n.byName[name].at) }

// Do runs f on a thread in a node's network namespace. The thread lives until Close,
// and with it what depends on it: a process that f starts is in that namespace.
func (n *Network) Do(name string, f func() error) error {
	e := n.byName[name]
	if e == nil || e.thread == nil {
		return fmt.Errorf("vnet: %q is no node", name)
	}
	return e.thread.do(f)
}

// Set makes the link from one end to another; both must be there.
func (n *Network) Set(from, to string, l Link) {
	n.links[n.byName[from].at][n.byName[to].at].now.Store(&l)
}

// Heal makes all links good.
func (n *Network) Heal() {
	for _, row := range n.links {
		for _, l := range row {
			l.now.Store(new(Link))
		}
	}
}

// Stats returns what became of the packets from one end to another; both must be there.
func (n *Network) Stats(from, to string) LinkStats {
	return n.links[n.byName[from].at][n.byName[to].at].stats()
}

// read routes the packets that come from an end.
func (n *Network) read(e *end) {
	buffer := make([]byte, bufferBytes)
	for {
		size, err := e.device.Read(buffer)
		if err != nil {
			return // closed
		}
		if to := endOf(buffer[:size], len(n.ends)); to >= 0 {
			n.route(n.links[e.at][to], buffer[:size])
		}
	}
}

// route passes a packet on.
func (n *Network) route(l *link, packet []byte) {
	s := l.now.Load()
	if *s == (Link{}) {
		l.deliver(packet)
		return
	}
	now := time.Now()
	for _, p := range l.pass(s, len(packet), now) {
		if p.corrupt == 0 && !p.at.After(now) {
			l.deliver(packet)
			continue
		}
		if l.delayed.Load() >= mostDelayed {
			l.overflowed()
			continue
		}
		copied := bytes.Clone(packet)
		if p.corrupt > 0 {
			copied[(p.corrupt-1)/8] ^= 1 << ((p.corrupt - 1) % 8)
		}
		l.delayed.Add(1)
		n.late.add(p.at, l, copied)
	}
}

// deliver writes a packet to the device it is for. One that is not taken is lost, as
// in any network.
func (l *link) deliver(packet []byte) {
	l.delivered.Add(1) // before it is written: its answer may be back before this goes on
	if _, err := l.to.device.Write(packet); err != nil {
		l.delivered.Add(^uint64(0))
	}
}

// Close ends the network. Processes in the nodes' namespaces stay, without devices.
func (n *Network) Close() error {
	n.closing.Do(func() {
		var errs []error
		for _, e := range n.ends {
			errs = append(errs, e.device.Close())
		}
		n.readers.Wait()
		n.late.close()
		for _, e := range n.ends {
			if e.thread != nil {
				e.thread.close()
			}
		}
		n.closed = errors.Join(errs...)
	})
	return n.closed
}

package raftnet

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	"github.com/manykv/manykv/transport"
)

// installer lets a goroutine be the raft of g, which installs snapshots as
// installSnapshot of raft does: it reads, compares, drains and answers.
func installer(g *Group, keep func(state []byte)) {
	node, _ := Node(g.LocalAddr())
	go func() {
		for {
			select {
			case rpc := <-g.Consumer():
				req, ok := rpc.Command.(*raft.InstallSnapshotRequest)
				if !ok {
					rpc.Respond(follower(node)(rpc.Command))
					continue
				}
				var sink bytes.Buffer
				n, err := io.Copy(&sink, rpc.Reader)
				if err == nil && n != req.Size {
					err = errors.New("short read")
				}
				if err == nil {
					keep(append([]byte{}, sink.Bytes()...))
				}
				_, _ = io.Copy(io.Discard, rpc.Reader)
				rpc.Respond(&raft.InstallSnapshotResponse{Term: req.Term, Success: err == nil}, err)
			case <-g.stop:
				return
			}
		}
	}()
}

// install is what the raft of n1 asks of its transport.
func (p *pair) install(data io.Reader) (raft.InstallSnapshotResponse, error) {
	return installOn(p.g1, data)
}

func installOn(g *Group, data io.Reader) (raft.InstallSnapshotResponse, error) {
	var resp raft.InstallSnapshotResponse
	err := g.InstallSnapshot("", server("n2"), goldenRequest(), &resp, data)
	return resp, err
}

// several is n bytes that differ from place to place.
func several(n int) []byte {
	b := make([]byte, 0, n+8)
	for i := uint64(1); len(b) < n; i++ {
		b = binary.LittleEndian.AppendUint64(b, i*0x9e3779b97f4a7c15)
	}
	return b[:n]
}

func TestSnapshotIsInstalled(t *testing.T) {
	inPair(t, func(t *testing.T, p *pair) {
		var installed []byte
		installer(p.g2, func(state []byte) { installed = state })
		state := several(5<<20 + 3)
		for range snapshotsOut + 1 { // places are given back
			got, err := p.install(bytes.NewReader(state))
			if err != nil || !got.Success || got.Term != 7 {
				t.Fatalf("got %+v, %v; want success", got, err)
			}
			if !bytes.Equal(installed, state) {
				t.Fatalf("installed %d bytes, want the %d that were sent", len(installed), len(state))
			}
		}
		const times = snapshotsOut + 1
		if s := p.n1.Stats(); s.SnapshotsSent != times || s.SnapshotBytesSent != times*uint64(len(state)) {
			t.Errorf("n1 counted %d snapshots and %d bytes", s.SnapshotsSent, s.SnapshotBytesSent)
		}
		if s := p.n2.Stats(); s.SnapshotsReceived != times || s.SnapshotBytesReceived != times*uint64(len(state)) || s.SnapshotsRefused != 0 {
			t.Errorf("n2 counted %d snapshots, %d bytes and %d refused", s.SnapshotsReceived, s.SnapshotBytesReceived, s.SnapshotsRefused)
		}
	})
}

// A follower that has what the snapshot stands for says so: raft hears nothing of it,
// and the leader goes on from there.
func TestSnapshotThatIsHeld(t *testing.T) {
	inPair(t, func(t *testing.T, p *pair) {
		installer(p.g2, func(state []byte) { t.Errorf("installed %d bytes", len(state)) })
		req := goldenRequest()
		p.n2.holds = func(shard uint32, leaderTerm, index, term uint64) bool {
			return shard == p.g2.shard && index == req.LastLogIndex && term == req.LastLogTerm
		}
		for _, size := range []int{0, 100, 4 * window} {
			got, err := p.install(bytes.NewReader(several(size)))
			if err != nil || !got.Success || got.Term != req.Term {
				t.Errorf("of %d bytes: got %+v, %v; want success in term %d", size, got, err, req.Term)
			}
		}
		if s := p.n2.Stats(); s.SnapshotsReceived != 0 || s.SnapshotsRefused != 0 {
			t.Errorf("n2 counted %d snapshots and %d refused, want none", s.SnapshotsReceived, s.SnapshotsRefused)
		}
	})
}

func TestAnswerOfRaftIsTold(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer func(rpc raft.RPC)
		resp   raft.InstallSnapshotResponse
		err    string
	}{
		{"newer term", func(rpc raft.RPC) {
			io.Copy(io.Discard, rpc.Reader)
			rpc.Respond(&raft.InstallSnapshotResponse{Term: 9}, nil)
		}, raft.InstallSnapshotResponse{Term: 9}, ""},
		{"error", func(rpc raft.RPC) {
			io.Copy(io.Discard, rpc.Reader)
			rpc.Respond(nil, errors.New("disk full"+strings.Repeat("!", maxFailureText)))
		}, raft.InstallSnapshotResponse{}, "disk full!"},
		// raft drains what it refuses, but for what it refuses by its header.
		{"error before the end", func(rpc raft.RPC) {
			rpc.Respond(nil, errors.New("protocol version"))
		}, raft.InstallSnapshotResponse{}, "protocol version"},
		{"answer of another server", func(rpc raft.RPC) {
			io.Copy(io.Discard, rpc.Reader)
			rpc.Respond(&raft.InstallSnapshotResponse{RPCHeader: header("n3"), Success: true}, nil)
		}, raft.InstallSnapshotResponse{}, "does not name"},
	} {
		t.Run(c.name, func(t *testing.T) {
			inPair(t, func(t *testing.T, p *pair) {
				go func() { c.answer(<-p.g2.Consumer()) }()
				got, err := p.install(bytes.NewReader(several(4 * window)))
				if c.err == "" && (err != nil || got.Term != c.resp.Term || got.Success) {
					t.Errorf("got %+v, %v; want %+v", got, err, c.resp)
				}
				if c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
					t.Errorf("got %+v, %v; want an error with %q", got, err, c.err)
				}
				if got := p.n1.Stats().SnapshotsSent; got != 0 {
					t.Errorf("counted %d snapshots sent, want none", got)
				}
			})
		})
	}
}

// The leader cannot read its snapshot: the follower must see that too.
func TestFailedSnapshotIsNotInstalled(t *testing.T) {
	inPair(t, func(t *testing.T, p *pair) {
		installer(p.g2, func(state []byte) { t.Errorf("installed %d bytes", len(state)) })
		for _, before := range []int{0, 100, maxChunkBytes, 3 * window} {
			data := io.MultiReader(bytes.NewReader(several(before)), failingReader{io.ErrUnexpectedEOF})
			if got, err := p.install(data); !errors.Is(err, errSource) || !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("after %d bytes: got %+v, %v; want the error of the source", before, got, err)
			}
			p.busy.Wait() // until the follower has seen the end: it takes one at a time
		}
		if s := p.n2.Stats(); s.SnapshotsReceived != 0 || s.DroppedMalformed != 0 {
			t.Errorf("n2 counted %d snapshots and %d malformed", s.SnapshotsReceived, s.DroppedMalformed)
		}
		p.g2.mu.Lock()
		defer p.g2.mu.Unlock()
		if p.g2.installing || len(p.n2.taking) != 0 {
			t.Error("the places of failed snapshots are still taken")
		}
	})
}

func TestDamagedSnapshotIsTold(t *testing.T) {
	inPair(t, func(t *testing.T, p *pair) {
		installer(p.g2, func(state []byte) { t.Errorf("installed %d bytes", len(state)) })
		p.bulk = func(string, string) (near, far net.Conn) {
			near, far = newStream()
			return &mangled{Conn: near, mangle: func(piece int, b []byte) ([]byte, bool) {
				b = bytes.Clone(b)
				if piece == 2 {
					b[100] ^= 1
				}
				return b, false
			}}, far
		}
		_, err := p.install(bytes.NewReader(several(3 * maxChunkBytes)))
		if err == nil || !strings.Contains(err.Error(), "refused") || !strings.Contains(err.Error(), "checksum after chunk") {
			t.Errorf("got %v, want n2's complaint about a checksum", err)
		}
		if got := p.n2.Stats().DroppedMalformed; got != 1 {
			t.Errorf("n2 counted %d malformed, want 1", got)
		}
	})
}

// holder is a raft that keeps each snapshot until it is told to answer.
func holder(g *Group) (began chan raft.RPC) {
	began = make(chan raft.RPC)
	go func() {
		for {
			select {
			case rpc := <-g.Consumer():
				select {
				case began <- rpc:
				case <-g.stop:
					return
				}
			case <-g.stop:
				return
			}
		}
	}()
	return began
}

func yes(rpc raft.RPC) {
	io.Copy(io.Discard, rpc.Reader)
	rpc.Respond(&raft.InstallSnapshotResponse{Success: true}, nil)
}

func TestSnapshotsAreBounded(t *testing.T) {
	inPair(t, func(t *testing.T, p *pair) {
		// A third node, so that n2's bound is met and not that of n1.
		n3 := p.open(t, "n3")
		defer n3.Close()
		var senders []*Group
		var began []chan raft.RPC
		for shard := uint32(10); shard < 10+snapshotsIn+1; shard++ {
			n := p.n1
			if shard >= 10+snapshotsOut {
				n = n3
			}
			senders = append(senders, n.Group(shard))
			began = append(began, holder(p.n2.Group(shard)))
		}
		done := make(chan error, snapshotsIn)
		send := func(i int) error {
			req := goldenRequest()
			req.RPCHeader = header(nodeOf(senders[i]))
			return senders[i].InstallSnapshot("", server("n2"), req, &raft.InstallSnapshotResponse{}, strings.NewReader("x"))
		}
		var held []raft.RPC
		for i := range snapshotsIn {
			go func() { done <- send(i) }()
			held = append(held, <-began[i])
		}
		if err := send(snapshotsIn); err == nil || !strings.Contains(err.Error(), "busy") {
			t.Errorf("one too many for the node: got %v, want busy", err)
		}
		if got := p.n2.Stats().SnapshotsRefused; got != 1 {
			t.Errorf("counted %d refused, want 1", got)
		}
		for _, rpc := range held {
			yes(rpc)
		}
		for range held {
			if err := <-done; err != nil {
				t.Errorf("held: %v", err)
			}
		}
		go func() { yes(<-began[snapshotsIn]) }()
		if err := send(snapshotsIn); err != nil {
			t.Errorf("the refused one, again: %v", err)
		}
	})
}

func nodeOf(g *Group) string {
	node, _ := Node(g.LocalAddr())
	return node
}

func TestOneSnapshotOfAReplicaAtATime(t *testing.T) {
	inPair(t, func(t *testing.T, p *pair) {
		began := holder(p.g2)
		done := make(chan error, 1)
		go func() { _, err := p.install(strings.NewReader("first")); done <- err }()
		rpc := <-began
		if _, err := p.install(strings.NewReader("second")); err == nil || !strings.Contains(err.Error(), "another snapshot of shard 1") {
			t.Errorf("got %v, want busy", err)
		}
		yes(rpc)
		if err := <-done; err != nil {
			t.Errorf("the first: %v", err)
		}
		go func() { yes(<-began) }()
		if _, err := p.install(strings.NewReader("third")); err != nil {
			t.Errorf("after the first: %v", err)
		}
	})
}

// Waiting for a turn ends: with the turn, the time-out, or the group.
func TestSnapshotsWaitForTheirTurn(t *testing.T) {
	inPair(t, func(t *testing.T, p *pair) {
		for range snapshotsOut {
			p.n1.sending <- struct{}{}
		}
		installer(p.g2, func([]byte) {})
		start := time.Now()
		_, err := p.install(strings.NewReader("x"))
		if took := time.Since(start); err == nil || !strings.Contains(err.Error(), "busy") || took != snapshotSlotTimeout {
			t.Errorf("got %v after %v, want busy after %v", err, took, snapshotSlotTimeout)
		}
		time.AfterFunc(snapshotSlotTimeout/2, func() { <-p.n1.sending })
		if _, err := p.install(strings.NewReader("x")); err != nil {
			t.Errorf("with a turn in time: %v", err)
		}
		p.n1.sending <- struct{}{}
		time.AfterFunc(time.Second, func() { p.g1.Close() })
		start = time.Now()
		_, err = p.install(strings.NewReader("x"))
		if took := time.Since(start); !errors.Is(err, raft.ErrTransportShutdown) || took != time.Second {
			t.Errorf("closed meanwhile: got %v after %v, want %v after 1s", err, took, raft.ErrTransportShutdown)
		}
	})
}

func TestUnreachableFollowerTakesNoTurn(t *testing.T) {
	inPair(t, func(t *testing.T, p *pair) {
		p.isolate("n2", cut)
		done := make(chan error, 2*snapshotsOut)
		start := time.Now()
		for range cap(done) {
			go func() { _, err := p.install(strings.NewReader("x")); done <- err }()
		}
		synctest.Wait()
		if got := len(p.n1.sending); got != 0 {
			t.Errorf("%d turns are taken, want none", got)
		}
		for range cap(done) {
			if err := <-done; !errors.Is(err, transport.ErrNotSent) {
				t.Errorf("got %v, want %v", err, transport.ErrNotSent)
			}
		}
		if took := time.Since(start); took != snapshotDialTimeout {
			t.Errorf("gave up after %v, want %v", took, snapshotDialTimeout)
		}
		if _, err := p.g1.dialSnapshot("anything"); err == nil {
			t.Error("no server address: got no error, want one")
		}
	})
}

func TestSilentFollowerEndsTheWait(t *testing.T) {
	inPair(t, func(t *testing.T, p *pair) {
		began := holder(p.g2)
		go func() { io.Copy(io.Discard, (<-began).Reader) }() // and no answer
		start := time.Now()
		_, err := p.install(strings.NewReader("x"))
		if took := time.Since(start); err == nil || took != snapshotTimeout {
			t.Errorf("got %v after %v, want an error after %v", err, took, snapshotTimeout)
		}
	})
}

// Closing either group ends what is under way at once, wherever it is.
func TestCloseEndsSnapshots(t *testing.T) {
	sides := map[string]func(p *pair) *Group{
		"leader":   func(p *pair) *Group { return p.g1 },
		"follower": func(p *pair) *Group { return p.g2 },
	}
	for _, c := range []struct {
		name string
		raft func(g *Group) // of the follower
	}{
		{"raft does not take it", func(*Group) {}},
		{"raft does not read", func(g *Group) { holder(g) }},
		{"raft reads", func(g *Group) {
			began := holder(g)
			go func() {
				select {
				case rpc := <-began:
					_, err := io.Copy(io.Discard, rpc.Reader)
					rpc.Respond(nil, err)
				case <-g.stop:
				}
			}()
		}},
		{"raft restores", func(g *Group) {
			began := holder(g)
			go func() {
				select {
				case rpc := <-began:
					io.Copy(io.Discard, rpc.Reader)
				case <-g.stop:
				}
			}()
		}},
	} {
		for side, group := range sides {
			t.Run(c.name+", closing the "+side, func(t *testing.T) {
				inPair(t, func(t *testing.T, p *pair) {
					c.raft(p.g2)
					var data io.Reader = bytes.NewReader(several(4 * window))
					if c.name == "raft reads" { // for ever
						data = endless{}
					}
					done := make(chan error, 1)
					go func() { _, err := p.install(data); done <- err }()
					if c.name != "raft reads" {
						synctest.Wait()
					} else {
						for p.n2.Stats().SnapshotBytesReceived < 10<<20 {
							time.Sleep(time.Millisecond)
						}
					}
					start := time.Now()
					group(p).Close()
					err := <-done
					if shut := errors.Is(err, raft.ErrTransportShutdown); err == nil || shut != (side == "leader") {
						t.Errorf("got %v", err)
					}
					if side == "follower" { // otherwise its raft may go on with what it has
						p.busy.Wait()
					}
					if took := time.Since(start); took > time.Millisecond { // one Read of endless
						t.Errorf("closing took %v, want no time", took)
					}
					if _, err := installOn(group(p), data); side == "leader" && !errors.Is(err, raft.ErrTransportShutdown) {
						t.Errorf("snapshot of a closed group: got %v, want %v", err, raft.ErrTransportShutdown)
					}
				})
			})
		}
	}
}

// endless is a snapshot without end, of a MiB in 4 ms.
type endless struct{}

func (endless) Read(b []byte) (int, error) {
	time.Sleep(time.Millisecond) // of the bubble's clock
	return len(b), nil
}

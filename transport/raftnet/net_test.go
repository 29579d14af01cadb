package raftnet

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/raft"
	"github.com/manykv/manykv/transport"
)

func TestAddressOfServer(t *testing.T) {
	if got := Address("n1", 0xdeadbeef); got != "n1@00000000deadbeef" {
		t.Errorf("got %q, want n1@00000000deadbeef", got)
	}
	for addr, want := range map[raft.ServerAddress]string{
		Address("n1", 0): "n1",
		Address(strings.Repeat("n", 63), 1<<64-1): strings.Repeat("n", 63),
		Address(strings.Repeat("n", 64), 1):       "",
		"":                                        "",
		"n1":                                      "",
		"n1@":                                     "",
		"@00000000deadbeef":                       "",
		"n1@deadbeef":                             "",
		"n1@00000000DEADBEEF":                     "",
		"n1@00000000deadbeef0":                    "",
		"n1@x@0000000deadbee":                     "",
	} {
		if got, ok := Node(addr); got != want || ok != (want != "") {
			t.Errorf("Node(%q): got %q, %v; want %q", addr, got, ok, want)
		}
	}
}

func TestOpenRefusesABadConfig(t *testing.T) {
	dial := port{}.DialBulk
	for _, cfg := range []Config{
		{}, {Self: "n1"}, {Self: server("n1"), DialBulk: dial}, {Self: "n1:7400", Sender: port{}, DialBulk: dial},
		{Self: server("n1"), Sender: port{}},
	} {
		if n, err := Open(cfg); err == nil {
			t.Errorf("Open with Self %q, Sender %v, DialBulk %t: got %v, want an error", cfg.Self, cfg.Sender, cfg.DialBulk != nil, n)
		}
	}
}

// A process must not take answers to its previous life.
func TestSequenceBeginsAnywhere(t *testing.T) {
	a, b := newNetwork().open(t, "n1"), newNetwork().open(t, "n1")
	defer a.Close()
	defer b.Close()
	if x, y := a.seq.Load(), b.seq.Load(); x == y {
		t.Errorf("two lives begin at %d", x)
	}
}

func TestForgedMessagesAreDropped(t *testing.T) {
	client := transport.Identity{Cluster: "test", Role: transport.RoleClient, Name: "n2"}
	n2, n3 := server("n2"), server("n3")
	vote := func(h raft.RPCHeader) any { return &raft.RequestVoteRequest{RPCHeader: h, Term: 9} }
	mixed := raft.RPCHeader{ProtocolVersion: 3, ID: []byte(n2), Addr: []byte(n3)}
	for _, c := range []struct {
		name                string
		from                transport.Identity
		source, destination raft.ServerAddress
		msg                 any
		accepted            bool
	}{
		{"honest", identity("n2"), n2, server("n1"), vote(header("n2")), true},
		{"source is another node", identity("n2"), n3, server("n1"), vote(header("n3")), false},
		{"source is no server", identity("n2"), "n2", server("n1"), vote(header("n2")), false},
		{"sender is a client", client, n2, server("n1"), vote(header("n2")), false},
		{"destination is another node", identity("n2"), n2, n3, vote(header("n2")), false},
		{"destination had the old disk", identity("n2"), n2, Address("n1", 2), vote(header("n2")), false},
		{"header names another node", identity("n2"), n2, server("n1"), vote(header("n3")), false},
		{"header has another address", identity("n2"), n2, server("n1"), vote(mixed), false},
		{"header is empty", identity("n2"), n2, server("n1"), vote(raft.RPCHeader{}), false},
		{"answer's header is empty", identity("n2"), n2, server("n1"), &raft.RequestVoteResponse{Granted: true}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			inPair(t, func(t *testing.T, p *pair) {
				p.n1.Receive(c.from, frameOf(c.source, c.destination, record{shard: 1}, c.msg))
				synctest.Wait()
				accepted := false
				select {
				case <-p.g1.Consumer():
					accepted = true
				default:
				}
				if accepted != c.accepted {
					t.Errorf("accepted: got %v, want %v", accepted, c.accepted)
				}
				if got := p.n1.Stats().DroppedForged; (got == 0) != c.accepted {
					t.Errorf("got %d forged messages", got)
				}
			})
		})
	}
}

func TestMalformedFramesAreCounted(t *testing.T) {
	inPair(t, func(t *testing.T, p *pair) {
		good := frameOf(server("n2"), server("n1"), record{shard: 1}, beat("n2"))
		for _, frame := range [][]byte{nil, {2}, {1, 200}, good[:len(good)-1], append(good[:len(good):len(good)], 3)} {
			p.n1.Receive(identity("n2"), frame)
		}
		if got := p.n1.Stats().DroppedMalformed; got != 5 {
			t.Errorf("got %d malformed, want 5", got)
		}
	})
}

func TestMessagesForAbsentGroupsAreCounted(t *testing.T) {
	inPair(t, func(t *testing.T, p *pair) {
		p.g2.Close()
		if _, err := p.vote(); err == nil {
			t.Error("got an answer of a closed group")
		}
		if got := p.n2.Stats().DroppedNoGroup; got != 1 {
			t.Errorf("got %d, want 1", got)
		}
	})
}

func TestGroupIsReplaced(t *testing.T) {
	inPair(t, func(t *testing.T, p *pair) {
		defer func() {
			if recover() == nil {
				t.Error("a second open group of one shard: got no panic")
			}
			p.g2.Close()
			again := p.n2.Group(1)
			answerAll(again, follower("n2"))
			p.g2.Close() // of the old group: must not detach the new one
			if got, err := p.vote(); err != nil || !got.Granted {
				t.Errorf("got %+v, %v; want the new group's vote", got, err)
			}
			p.n2.Close()
			if err := p.n2.Group(1).Close(); err != nil {
				t.Errorf("group of a closed net: %v", err)
			}
		}()
		p.n2.Group(1)
	})
}

func TestClosedNetIsQuiet(t *testing.T) {
	inPair(t, func(t *testing.T, p *pair) {
		p.n1.Close()
		p.n1.Receive(identity("n2"), frameOf(server("n2"), server("n1"), record{shard: 1}, beat("n2")))
		if _, err := p.vote(); !errors.Is(err, raft.ErrTransportShutdown) {
			t.Errorf("got %v, want %v", err, raft.ErrTransportShutdown)
		}
		if err := p.n1.Close(); err != nil {
			t.Errorf("second Close: %v", err)
		}
	})
}

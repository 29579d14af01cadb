package raftnet

import (
	"bytes"
	"errors"
	"net"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/raft"
	"github.com/manykv/manykv/transport"
)

// envelopeOf is a stream that begins with msg and holds six bytes.
func envelopeOf(t *testing.T, source, destination raft.ServerAddress, rec record, msg any) []byte {
	return writeStream(t, frameOf(source, destination, rec, msg), "hello!")
}

func TestForgedStreamsAreRefused(t *testing.T) {
	client := transport.Identity{Cluster: "test", Role: transport.RoleClient, Name: "n2"}
	request := func(change func(*raft.InstallSnapshotRequest)) *raft.InstallSnapshotRequest {
		m := goldenRequest()
		m.RPCHeader = header("n2")
		change(m)
		return m
	}
	honest := request(func(*raft.InstallSnapshotRequest) {})
	n1, n2 := server("n1"), server("n2")
	first := record{shard: 1, seq: 5}
	good := envelopeOf(t, n2, n1, first, honest)
	two := appendRecord(frameOf(n2, n1, first, honest), record{kind: kindFailure}, &failure{})
	long := make([]byte, 4, 100)
	long[0] = 1
	for _, c := range []struct {
		name  string
		from  transport.Identity
		wire  []byte
		count func(Stats) uint64
		told  string
	}{
		{"honest", identity("n2"), good, func(s Stats) uint64 { return s.SnapshotsReceived }, "success"},
		{"source is another node", identity("n3"), good, forged, ""},
		{"sender is a client", client, good, forged, ""},
		{"destination is another node", identity("n2"), envelopeOf(t, n2, server("n3"), first, honest), forged, ""},
		{"destination had the old disk", identity("n2"), envelopeOf(t, n2, Address("n1", 2), first, honest), forged, ""},
		{"header names another server", identity("n2"), envelopeOf(t, n2, n1, first, goldenRequest()), forged, ""},
		{"header is empty", identity("n2"), envelopeOf(t, n2, n1, first, request(func(m *raft.InstallSnapshotRequest) {
			m.RPCHeader = raft.RPCHeader{}
		})), forged, ""},
		{"another message", identity("n2"), envelopeOf(t, n2, n1, first, beat("n2")), malformed, ""},
		{"an answer", identity("n2"), envelopeOf(t, n2, n1, first, &raft.InstallSnapshotResponse{RPCHeader: header("n2")}), malformed, ""},
		{"two messages", identity("n2"), writeStream(t, two), malformed, ""},
		{"message without end", identity("n2"), writeStream(t, frameOf(n2, n1, first, honest)[:50]), malformed, ""},
		{"no servers", identity("n2"), envelopeOf(t, n2, n1, first, request(func(m *raft.InstallSnapshotRequest) {
			m.Configuration = []byte{0xc1}
		})), malformed, ""},
		{"snapshot of version 0", identity("n2"), envelopeOf(t, n2, n1, first, request(func(m *raft.InstallSnapshotRequest) {
			m.SnapshotVersion = 0
		})), malformed, ""},
		{"too long a message", identity("n2"), long, malformed, ""},
		{"garbage", identity("n2"), several(100), malformed, ""},
		{"nothing", identity("n2"), nil, nil, ""},
		{"no such group", identity("n2"), envelopeOf(t, n2, n1, record{shard: 2, seq: 5}, honest), func(s Stats) uint64 {
			return s.SnapshotsRefused * s.DroppedNoGroup
		}, "no replica of shard 2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			inPair(t, func(t *testing.T, p *pair) {
				installed := ""
				installer(p.g1, func(state []byte) { installed = string(state) })
				conn := &tape{plays: bytes.NewReader(c.wire)}
				p.n1.ReceiveBulk(c.from, conn)
				synctest.Wait()
				if honest := c.told == "success"; (installed == "hello!") != honest {
					t.Errorf("installed %q", installed)
				}
				if c.count != nil && c.count(p.n1.Stats()) != 1 {
					t.Errorf("not counted: %+v", p.n1.Stats())
				}
				switch {
				case c.told == "" && len(conn.recorded) != 0:
					t.Errorf("answered %q, want nothing", conn.recorded)
				case c.told != "" && c.told != "success" && !bytes.Contains(conn.recorded, []byte(c.told)):
					t.Errorf("answered %q, want %q", conn.recorded, c.told)
				}
			})
		})
	}
}

func forged(s Stats) uint64    { return s.DroppedForged }
func malformed(s Stats) uint64 { return s.DroppedMalformed }

// In a lane there is nothing for raft to read the snapshot from.
func TestSnapshotsInLanesAreRefused(t *testing.T) {
	inPair(t, func(t *testing.T, p *pair) {
		answerAll(p.g1, func(command any) (any, error) {
			t.Errorf("raft got %T", command)
			return nil, errors.New("unexpected")
		})
		m := goldenRequest()
		m.RPCHeader = header("n2")
		p.n1.Receive(identity("n2"), frameOf(server("n2"), server("n1"), record{shard: 1}, m))
		answer := &raft.InstallSnapshotResponse{RPCHeader: header("n2"), Success: true}
		p.n1.Receive(identity("n2"), frameOf(server("n2"), server("n1"), record{shard: 1}, answer))
		synctest.Wait()
		if got := p.n1.Stats().DroppedMalformed; got != 2 {
			t.Errorf("got %d malformed, want 2", got)
		}
	})
}

func TestAnswerMustMatchItsSnapshot(t *testing.T) {
	yes := &raft.InstallSnapshotResponse{RPCHeader: header("n2"), Term: 7, Success: true}
	n1, n2 := server("n1"), server("n2")
	other := Address("n2", 2)
	elsewhere := raft.RPCHeader{ProtocolVersion: 3, ID: []byte(other), Addr: []byte(other)}
	for _, c := range []struct {
		name   string
		answer func(rec record) []byte
		ok     bool
	}{
		{"right", func(rec record) []byte { return frameOf(n2, n1, rec, yes) }, true},
		{"without a header, as raft makes it", func(rec record) []byte {
			return frameOf(n2, n1, rec, &raft.InstallSnapshotResponse{Term: 7, Success: true})
		}, true},
		{"another server of the node", func(rec record) []byte {
			return frameOf(other, n1, rec, &raft.InstallSnapshotResponse{RPCHeader: elsewhere, Success: true})
		}, false},
		{"for another server", func(rec record) []byte { return frameOf(n2, Address("n1", 2), rec, yes) }, false},
		{"another call", func(rec record) []byte { rec.seq--; return frameOf(n2, n1, rec, yes) }, false},
		{"another shard", func(rec record) []byte { rec.shard++; return frameOf(n2, n1, rec, yes) }, false},
		{"another kind", func(rec record) []byte {
			return frameOf(n2, n1, rec, &raft.AppendEntriesResponse{RPCHeader: header("n2"), Success: true})
		}, false},
		{"header of another", func(rec record) []byte {
			return frameOf(n2, n1, rec, &raft.InstallSnapshotResponse{RPCHeader: header("n3"), Success: true})
		}, false},
		{"cut short", func(rec record) []byte { f := frameOf(n2, n1, rec, yes); return f[:len(f)-1] }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			inPair(t, func(t *testing.T, p *pair) {
				p.bulk = func(string, string) (near, far net.Conn) {
					near, peer := newStream()
					p.busy.Go(func() {
						in := &streamReader{r: peer}
						_, _, rec, err := in.envelope()
						for err == nil {
							_, err = in.chunk(make([]byte, maxChunkBytes))
						}
						w := &streamWriter{w: peer}
						if err := w.envelope(c.answer(record{shard: rec.shard, seq: rec.seq})); err != nil {
							t.Error(err)
						}
						far.Close()
					})
					return near, &tape{plays: bytes.NewReader(nil)}
				}
				got, err := p.install(strings.NewReader("hello!"))
				if c.ok != (err == nil && got.Success) {
					t.Errorf("got %+v, %v", got, err)
				}
				if !c.ok && (got.Success || !errors.Is(err, errBadStream)) {
					t.Errorf("got %+v, %v; want %v", got, err, errBadStream)
				}
			})
		})
	}
}

package cluster

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

// Methods among nodes; coordinator has those that clients may use too. The
// numbers are part of the protocol.
const (
	methodHello        byte = 64 // empty → hello
	methodPromise      byte = 65 // founding → empty: promised, durably
	methodConfirm      byte = 66 // asks → one flag each
	methodReadIndex    byte = 67 // shards → one index each
	methodNodeAddr     byte = 68 // node, storage, address → empty: recorded
	methodReconfigure  byte = 69 // shard, epoch → verdict
	methodProgress     byte = 70 // server, shard → how far its replica is
	methodDrop         byte = 71 // shard, bucket → verdict
	methodConfirmedMap byte = 72 // empty → verdict: the map
)

// wireVersion is the first byte of every message of this package.
const wireVersion = 1

func versioned(b []byte) *kv.Decoder { return kv.NewVersioned(b, "protocol", wireVersion) }

// hello is who a node is and what it is of:
//
//	version u8 · nodes (one) · expect varint · founded flag [founding]
type hello struct {
	Node    sharding.Node
	Expect  int
	Founded *founding // the cluster it is of; nil if none
}

func (h hello) append(dst []byte) []byte {
	dst = append(dst, wireVersion)
	dst = sharding.AppendNodes(dst, []sharding.Node{h.Node})
	dst = binary.AppendUvarint(dst, uint64(h.Expect))
	dst = kv.AppendBool(dst, h.Founded != nil)
	if h.Founded != nil {
		dst = h.Founded.append(dst)
	}
	return dst
}

func decodeHello(b []byte) (hello, error) {
	d := versioned(b)
	nodes := sharding.DecodeNodes(d)
	if len(nodes) != 1 {
		d.Fail("%d nodes, want 1", len(nodes))
	}
	h := hello{Expect: int(min(d.Uvarint(), sharding.MaxNodes))}
	if d.Bool() {
		f, err := decodeFounding(d.Rest())
		if err != nil {
			return hello{}, err
		}
		h.Founded = f
	}
	if err := d.Finish(); err != nil {
		return hello{}, err
	}
	h.Node = nodes[0]
	return h, nil
}

// append encodes a founding:
//
//	version u8 · cluster u64 · nodes · shards varint · replicas varint
func (f *founding) append(dst []byte) []byte {
	dst = append(dst, wireVersion)
	dst = binary.BigEndian.AppendUint64(dst, f.Cluster)
	dst = sharding.AppendNodes(dst, f.Nodes)
	dst = binary.AppendUvarint(dst, uint64(f.Shards))
	return binary.AppendUvarint(dst, uint64(f.Replicas))
}

// decodeFounding reads a founding and checks that a map can be made of it.
func decodeFounding(b []byte) (*founding, error) {
	d := versioned(b)
	f := &founding{Cluster: d.U64(), Nodes: sharding.DecodeNodes(d)}
	f.Shards = int(min(d.Uvarint(), sharding.MaxShards+1))
	f.Replicas = int(min(d.Uvarint(), sharding.MaxNodes+1))
	if err := d.Finish(); err != nil {
		return nil, err
	}
	if _, err := f.firstMap(); err != nil {
		return nil, fmt.Errorf("founding: %w", err)
	}
	return f, nil
}

// appendAsks encodes a confirming message to a server:
//
//	version u8 · server string · count varint · count × (shard u32 · term u64)
func appendAsks(dst []byte, server raft.ServerID, asks []ask) []byte {
	dst = append(dst, wireVersion)
	dst = kv.AppendString(dst, string(server))
	dst = binary.AppendUvarint(dst, uint64(len(asks)))
	for _, a := range asks {
		dst = binary.BigEndian.AppendUint32(dst, uint32(a.shard))
		dst = binary.BigEndian.AppendUint64(dst, a.term)
	}
	return dst
}

func decodeAsks(b []byte) (server raft.ServerID, asks []ask, err error) {
	d := versioned(b)
	server = raft.ServerID(d.String())
	asks = make([]ask, d.Count(12))
	for i := range asks {
		asks[i] = ask{sharding.Shard(d.U32()), d.U64()}
	}
	return server, asks, d.Finish()
}

// callConfirm asks a peer whether it knows of later terms.
func (n *Node) callConfirm(ctx context.Context, peer raft.ServerID, asks []ask) ([]bool, error) {
	b, err := n.call(ctx, nodeOf(peer), methodConfirm, appendAsks(nil, peer, asks))
	if err != nil {
		return nil, err
	}
	d := versioned(b)
	answers := make([]bool, len(asks))
	for i := range answers {
		answers[i] = d.Bool()
	}
	return answers, d.Finish()
}

// serveConfirm answers for each shard whether this server's term is the one asked
// about. A term that a voter has in memory is on its disk. The server that had
// this node's name before its directory was replaced has no answer any more.
func (n *Node) serveConfirm(request []byte) ([]byte, error) {
	server, asks, err := decodeAsks(request)
	if err != nil {
		return nil, err
	}
	answer := append(make([]byte, 0, 1+len(asks)), wireVersion)
	for _, a := range asks {
		answer = kv.AppendBool(answer, server == n.self && n.termIs(a))
	}
	return answer, nil
}

func (n *Node) termIs(a ask) bool {
	r := n.replica(a.shard)
	if r == nil {
		return false
	}
	group := r.raft.Load()
	return group != nil && group.CurrentTerm() == a.term
}

// readIndex is the answer for one shard to a node that holds a replica: code,
// and the index its machine must have applied.
type readIndex struct {
	code   kv.Code
	index  uint64
	leader sharding.NodeID
}

// callReadIndex asks a leader how far a replica must be to serve reads:
//
//	request: version u8 · count varint · count × shard u32
//	answer:  version u8 · count × (code u8 · index u64 · leader string)
func (n *Node) callReadIndex(ctx context.Context, leader sharding.NodeID, shards []sharding.Shard) ([]readIndex, error) {
	request := binary.AppendUvarint([]byte{wireVersion}, uint64(len(shards)))
	for _, s := range shards {
		request = binary.BigEndian.AppendUint32(request, uint32(s))
	}
	b, err := n.call(ctx, leader, methodReadIndex, request)
	if err != nil {
		return nil, err
	}
	d := versioned(b)
	out := make([]readIndex, len(shards))
	for i := range out {
		out[i] = readIndex{kv.Code(d.U8()), d.U64(), sharding.NodeID(d.String())}
	}
	return out, d.Finish()
}

// leaderIndex asks a leader how far a replica must be to have all there is.
func (n *Node) leaderIndex(ctx context.Context, leader sharding.NodeID, s sharding.Shard) (uint64, error) {
	indexes, err := n.callReadIndex(ctx, leader, []sharding.Shard{s})
	if err != nil {
		return 0, err
	}
	return indexes[0].index, indexes[0].code.Err("")
}

// serveReadIndex confirms reads for replicas of other nodes.
func (n *Node) serveReadIndex(ctx context.Context, request []byte) ([]byte, error) {
	d := versioned(request)
	shards := make([]sharding.Shard, d.Count(4))
	for i := range shards {
		shards[i] = sharding.Shard(d.U32())
	}
	if err := d.Finish(); err != nil {
		return nil, err
	}
	begun := make([]*confirmation, len(shards))
	replicas := make([]*replica, len(shards))
	for i, s := range shards {
		if replicas[i] = n.replica(s); replicas[i] != nil {
			begun[i] = n.confirm.begin(replicas[i])
		}
	}
	answer := []byte{wireVersion}
	for i, k := range begun {
		code, index, leader := kv.CodeUnavailable, uint64(0), sharding.NodeID("")
		if k != nil {
			var err error
			if index, err = k.wait(ctx); err == nil {
				code = kv.CodeOK
			}
			leader = replicas[i].leader()
		}
		answer = append(answer, byte(code))
		answer = binary.BigEndian.AppendUint64(answer, index)
		answer = kv.AppendString(answer, string(leader))
	}
	return answer, nil
}

// appendNodeAddr encodes where a node is:
//
//	version u8 · nodes (one)
func appendNodeAddr(node sharding.Node) []byte {
	return sharding.AppendNodes([]byte{wireVersion}, []sharding.Node{node})
}

// catchUp waits until this node's map has an epoch; it bounds how long a request
// of a newer epoch may wait here.
func (n *Node) catchUp(ctx context.Context, epoch uint64) *sharding.Map {
	const poll = 5 * time.Millisecond
	kick(n.behind)
	ctx, done := context.WithTimeout(ctx, electionTimeout)
	defer done()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		if m := n.current.Load(); m != nil && m.Epoch >= epoch {
			return m
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

package coordinator

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

// NodeOp says what a node request does.
type NodeOp uint8

// The node operations. The numbers are part of the protocol.
const (
	NodeAdd     NodeOp = 1 // the node that answers at Addr joins
	NodeRemove  NodeOp = 2 // Node gives its replicas to others and leaves
	NodeReplace NodeOp = 3 // the node that answers at Addr takes the place of Node
)

// A NodeRequest goes to the leader of the meta group:
//
//	version u8 · op u8 · node string · addr string · heir string
type NodeRequest struct {
	Op   NodeOp
	Node sharding.NodeID // of remove and replace
	Addr string          // of add and replace: "host:port"
	Heir sharding.NodeID // of remove: who shall get its replicas; empty: any
}

// maxAddr bounds an address on the wire: the longest DNS name, a colon and a port.
const maxAddr = 255 + 6

// DecodeNodeRequest reads a node request.
func DecodeNodeRequest(b []byte) (NodeRequest, error) {
	d := versioned(b)
	r := NodeRequest{Op: NodeOp(d.U8()), Node: sharding.NodeID(d.String()), Addr: d.String(), Heir: sharding.NodeID(d.String())}
	if r.Op < NodeAdd || r.Op > NodeReplace {
		d.Fail("node operation %d", r.Op)
	}
	if len(r.Addr) > maxAddr {
		d.Fail("an address of %d bytes, at most %d are allowed", len(r.Addr), maxAddr)
	}
	return r, d.Finish()
}

// Append appends the request's encoding.
func (r NodeRequest) Append(dst []byte) []byte {
	dst = kv.AppendString(append(dst, wireVersion, byte(r.Op)), string(r.Node))
	return kv.AppendString(kv.AppendString(dst, r.Addr), string(r.Heir))
}

// A NodeAnswer is
//
//	version u8 · status u8 · leader string · code u8 · detail string
type NodeAnswer struct {
	Status Status // served, not leader or refused
	Leader sharding.NodeID
	Code   kv.Code // of StatusRefused
	Detail string
}

// DecodeNodeAnswer reads a node answer.
func DecodeNodeAnswer(b []byte) (NodeAnswer, error) {
	d := versioned(b)
	a := NodeAnswer{Status: Status(d.U8()), Leader: sharding.NodeID(d.String()), Code: kv.Code(d.U8()), Detail: d.String()}
	checkMetaStatus(d, a.Status, a.Code)
	return a, d.Finish()
}

// Append appends the answer's encoding.
func (a NodeAnswer) Append(dst []byte) []byte {
	dst = kv.AppendString(append(dst, wireVersion, byte(a.Status)), string(a.Leader))
	return kv.AppendString(append(dst, byte(a.Code)), a.Detail)
}

// AddNode has the node that answers at addr join the cluster. It returns when the
// catalogue has it; replicas are moved to it afterwards. kv.ErrUnknown if the
// answer was lost: the map tells.
func (c *Coordinator) AddNode(ctx context.Context, addr string) error {
	return c.changeNodes(ctx, NodeRequest{Op: NodeAdd, Addr: addr})
}

// RemoveNode has a node leave the cluster. It returns when that is decided; the
// node leaves the map when its replicas are elsewhere. Errors as AddNode's.
func (c *Coordinator) RemoveNode(ctx context.Context, node sharding.NodeID) error {
	return c.changeNodes(ctx, NodeRequest{Op: NodeRemove, Node: node})
}

// ReplaceNode has the node that answers at addr take the place of another: the
// same with an empty data directory, or a new one. Errors as AddNode's.
func (c *Coordinator) ReplaceNode(ctx context.Context, node sharding.NodeID, addr string) error {
	return c.changeNodes(ctx, NodeRequest{Op: NodeReplace, Node: node, Addr: addr})
}

func (c *Coordinator) changeNodes(ctx context.Context, r NodeRequest) error {
	if len(r.Addr) > maxAddr || r.Addr == "" && r.Op != NodeRemove {
		return fmt.Errorf("%w: an address of %d bytes, want 1 to %d", kv.ErrInvalid, len(r.Addr), maxAddr)
	}
	return c.askMeta(ctx, &metaCall{
		method: MethodNodes, request: r.Append(nil), lost: kv.ErrUnknown, once: true,
		take: func(b []byte) (Status, sharding.NodeID, error, error) {
			a, err := DecodeNodeAnswer(b)
			return a.Status, a.Leader, a.Code.Err(a.Detail), err
		},
	})
}

// A hash request is
//
//	version u8 · shard u32

// AppendHashRequest appends a request for the hash of a shard's state.
func AppendHashRequest(dst []byte, s sharding.Shard) []byte {
	return binary.BigEndian.AppendUint32(append(dst, wireVersion), uint32(s))
}

// DecodeHashRequest reads which shard is asked about.
func DecodeHashRequest(b []byte) (sharding.Shard, error) {
	d := versioned(b)
	s := sharding.Shard(d.U32())
	return s, d.Finish()
}

// A HashAnswer tells the state of a replica: two of one shard that have applied
// the same entries have the same hash.
//
//	version u8 · index u64 · term u64 · hash u64 · rows u64
type HashAnswer struct {
	Index, Term uint64 // of the last entry that the replica has applied
	Hash        uint64
	Rows        uint64 // how many were hashed
}

// DecodeHashAnswer reads a hash answer.
func DecodeHashAnswer(b []byte) (HashAnswer, error) {
	d := versioned(b)
	a := HashAnswer{Index: d.U64(), Term: d.U64(), Hash: d.U64(), Rows: d.U64()}
	return a, d.Finish()
}

// Append appends the answer's encoding.
func (a HashAnswer) Append(dst []byte) []byte {
	dst = append(dst, wireVersion)
	for _, v := range []uint64{a.Index, a.Term, a.Hash, a.Rows} {
		dst = binary.BigEndian.AppendUint64(dst, v)
	}
	return dst
}

package cluster

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

// What a node asks of the leader of a shard, whoever that is now.

// verdictKind says what became of it. The values are part of the protocol.
type verdictKind uint8

const (
	verdictDone      verdictKind = 0
	verdictStep      verdictKind = 1 // something was done, and the text says what; ask again
	verdictWait      verdictKind = 2 // nothing was done; the text says why
	verdictElsewhere verdictKind = 3 // another node leads; the text names it, if it is known
)

// verdict is the answer:
//
//	version u8 · kind u8 · text string
type verdict struct {
	what verdictKind
	text string
}

func (v verdict) append(dst []byte) []byte {
	return kv.AppendString(append(dst, wireVersion, byte(v.what)), v.text)
}

func decodeVerdict(b []byte) (verdict, error) {
	d := versioned(b)
	v := verdict{what: verdictKind(d.U8()), text: d.String()}
	if v.what > verdictElsewhere {
		d.Fail("verdict %d", v.what)
	}
	return v, d.Finish()
}

// appendOrder encodes what a shard's leader is asked to do, the number being the
// epoch or the bucket it is about:
//
//	version u8 · shard u32 · number u64
func appendOrder(dst []byte, s sharding.Shard, number uint64) []byte {
	dst = binary.BigEndian.AppendUint32(append(dst, wireVersion), uint32(s))
	return binary.BigEndian.AppendUint64(dst, number)
}

func decodeOrder(b []byte) (s sharding.Shard, number uint64, err error) {
	d := versioned(b)
	s, number = sharding.Shard(d.U32()), d.U64()
	return s, number, d.Finish()
}

// elsewhere is the answer of a node that does not lead a shard.
func (n *Node) elsewhere(s sharding.Shard) verdict {
	v := verdict{what: verdictElsewhere}
	if r := n.replica(s); r != nil {
		v.text = string(r.leader())
	}
	return v
}

// judged makes an answer of a verdict.
func judged(v verdict, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	return v.append(nil), nil
}

// toLeader asks the leader of a shard. It goes where it is sent and, when nobody
// knows, to each node that holds the shard, once.
func (n *Node) toLeader(ctx context.Context, s sharding.Shard, method byte, request []byte) (verdict, error) {
	var asked []sharding.NodeID
	next := n.leaderOf(s)
	last := fmt.Errorf("shard %d: %w", s, errNoLeader)
	for next != "" {
		asked = append(asked, next)
		v, err := n.ask(ctx, next, method, request)
		hint := sharding.NodeID(v.text)
		switch {
		case err != nil:
			last = fmt.Errorf("shard %d: node %s: %w", s, next, err)
			hint = ""
		case v.what != verdictElsewhere:
			return v, nil
		}
		if ctx.Err() != nil {
			break
		}
		if hint == "" || slices.Contains(asked, hint) {
			hint = n.unasked(s, asked)
		}
		next = hint
	}
	return verdict{}, last
}

// errNoLeader: none of a shard's nodes leads it.
var errNoLeader = errors.New("no node leads it")

// ask asks one node, or this one.
func (n *Node) ask(ctx context.Context, node sharding.NodeID, method byte, request []byte) (v verdict, err error) {
	var b []byte
	if node == n.name {
		b, err = n.handle(ctx, n.trans.Self(), method, request)
	} else {
		b, err = n.call(ctx, node, method, request)
	}
	if err != nil {
		return verdict{}, err
	}
	return decodeVerdict(b)
}

// leaderOf returns who leads a shard as far as this node knows, or a node that may
// know better.
func (n *Node) leaderOf(s sharding.Shard) sharding.NodeID {
	if r := n.replica(s); r != nil {
		if leader := r.leader(); leader != "" {
			return leader
		}
	}
	if leader := n.coord.Leader(s); leader != "" {
		return leader
	}
	return n.unasked(s, nil)
}

// unasked returns a node that holds a shard and was not asked yet; "" if there is
// none.
func (n *Node) unasked(s sharding.Shard, asked []sharding.NodeID) sharding.NodeID {
	m := n.current.Load()
	if m == nil || m.Group(s) == nil {
		return ""
	}
	for _, id := range m.Group(s).Nodes() {
		if !slices.Contains(asked, id) {
			return id
		}
	}
	return ""
}

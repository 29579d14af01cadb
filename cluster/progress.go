package cluster

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/hashicorp/raft"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

// progress is how far a replica's log is:
//
//	version u8 · newcomer flag · commit u64
type progress struct {
	newcomer bool
	commit   uint64
}

func (p progress) append(dst []byte) []byte {
	dst = kv.AppendBool(append(dst, wireVersion), p.newcomer)
	return binary.BigEndian.AppendUint64(dst, p.commit)
}

func decodeProgress(b []byte) (progress, error) {
	d := versioned(b)
	p := progress{newcomer: d.Bool(), commit: d.U64()}
	return p, d.Finish()
}

// appendWho encodes which server is asked for the progress of a shard:
//
//	version u8 · server string · shard u32
func appendWho(dst []byte, server raft.ServerID, s sharding.Shard) []byte {
	dst = kv.AppendString(append(dst, wireVersion), string(server))
	return binary.BigEndian.AppendUint32(dst, uint32(s))
}

func decodeWho(b []byte) (server raft.ServerID, s sharding.Shard, err error) {
	d := versioned(b)
	server, s = raft.ServerID(d.String()), sharding.Shard(d.U32())
	return server, s, d.Finish()
}

// callProgress asks a server how far its replica of a shard is.
func (n *Node) callProgress(ctx context.Context, server raft.ServerID, s sharding.Shard) (progress, error) {
	ctx, done := context.WithTimeout(ctx, confirmTimeout)
	defer done()
	b, err := n.call(ctx, nodeOf(server), methodProgress, appendWho(nil, server, s))
	if err != nil {
		return progress{}, err
	}
	return decodeProgress(b)
}

func (n *Node) serveProgress(request []byte) ([]byte, error) {
	server, s, err := decodeWho(request)
	if err != nil {
		return nil, err
	}
	if server != n.self {
		return nil, fmt.Errorf("this is %s, not %s", n.self, server)
	}
	if r := n.replica(s); r != nil {
		if group := r.raft.Load(); group != nil {
			return progress{newcomer: r.newcomer.Load(), commit: group.CommitIndex()}.append(nil), nil
		}
	}
	return nil, fmt.Errorf("node %s has no replica of shard %d running", n.name, s)
}

// caughtUp says why a server cannot lead a shard yet.
func (n *Node) caughtUp(ctx context.Context, r *replica, server raft.ServerID) error {
	p, err := n.callProgress(ctx, server, r.shard)
	switch last := r.status().Last; {
	case err != nil:
		return err
	case p.newcomer:
		return fmt.Errorf("%s is a newcomer to shard %d", server, r.shard)
	case p.commit+transferLag < last:
		return fmt.Errorf("%s is %d entries behind", server, last-p.commit)
	}
	return nil
}

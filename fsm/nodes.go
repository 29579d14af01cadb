package fsm

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

// The commands here change the map. Those that say how a node should be may be
// sent again: they succeed when it is so already. Those about a move name the
// epoch of the map they were decided on and are refused by any other, so that
// two who drive moves, or one who was away, cannot disturb each other; on
// kv.ErrConflict look at the map again.

// mapChange returns the map that a command makes of m: m itself if there is nothing
// to change.
type mapChange func(m *sharding.Map, body *kv.Decoder) (*sharding.Map, error)

// changeOf returns the change of a kind of command; nil if it is none.
func changeOf(kind kv.Kind) mapChange {
	switch kind {
	case kv.KindNodeAddr:
		return nodeAddr
	case kv.KindAddNode:
		return addNode
	case kv.KindRemoveNode:
		return removeNode
	case kv.KindReplaceNode:
		return replaceNode
	case kv.KindForgetNode:
		return forgetNode
	case kv.KindMove:
		return move
	case kv.KindMoved:
		return moved
	case kv.KindAbort:
		return abort
	}
	return nil
}

func (c *Catalogue) changeMap(b *pebble.Batch, body *kv.Decoder, change mapChange) (Result, error) {
	m, err := change(c.next, body)
	switch {
	case errors.Is(err, kv.ErrConflict):
		return Result{Err: err, Value: c.next.Epoch}, nil
	case errors.Is(err, kv.ErrExists), errors.Is(err, kv.ErrAccessDenied):
		return Result{Err: err}, nil
	case err != nil:
		return Result{Err: invalid(err)}, nil
	case m == c.next:
		return Result{}, nil
	}
	return Result{}, c.setMap(b, m)
}

// maxAddrBytes bounds a node's address: a host name has at most 253 bytes, a
// port five.
const maxAddrBytes = 253 + 1 + 5

// appendNode appends what three of the commands are: id string · storage u64 ·
// addr string.
func appendNode(dst []byte, kind kv.Kind, id sharding.NodeID, storage uint64, addr string) []byte {
	dst = kv.AppendString(kv.AppendHeader(dst, kind), string(id))
	dst = binary.BigEndian.AppendUint64(dst, storage)
	return kv.AppendString(dst, addr)
}

// readNode reads what appendNode wrote. known is the record the map has of the
// node; ok is false if it is not of the cluster.
func readNode(m *sharding.Map, body *kv.Decoder) (n, known sharding.Node, ok bool, err error) {
	n = sharding.Node{ID: sharding.NodeID(body.String()), Storage: body.U64(), Addr: body.String()}
	if err := body.Finish(); err != nil {
		return n, known, false, err
	}
	if n.Addr == "" || len(n.Addr) > maxAddrBytes {
		return n, known, false, fmt.Errorf("an address of %d bytes, want 1 to %d", len(n.Addr), maxAddrBytes)
	}
	known, ok = m.Node(n.ID)
	return n, known, ok, nil
}

// withAddr gives a node its address, if it has another.
func withAddr(m *sharding.Map, n sharding.Node, addr string) (*sharding.Map, error) {
	if n.Addr == addr {
		return m, nil
	}
	next := m.WithAddr(n.ID, addr)
	return next, next.Validate() // the epoch can overflow: an init command may hold any
}

// AppendNodeAddr appends the command that records a node's address.
// kv.ErrInvalid if there is no such node, kv.ErrAccessDenied if storage is not
// the node's recorded one (a wiped directory must not come back under the old
// identity).
//
//	node-addr  id string · storage u64 · addr string
func AppendNodeAddr(dst []byte, id sharding.NodeID, storage uint64, addr string) []byte {
	return appendNode(dst, kv.KindNodeAddr, id, storage, addr)
}

func nodeAddr(m *sharding.Map, body *kv.Decoder) (*sharding.Map, error) {
	n, known, ok, err := readNode(m, body)
	switch {
	case err != nil:
		return nil, err
	case !ok:
		return nil, fmt.Errorf("node %q is not of the cluster", n.ID)
	case known.Storage != n.Storage:
		return nil, fmt.Errorf("%w: node %q with storage %016x, want %016x", kv.ErrAccessDenied, n.ID, n.Storage, known.Storage)
	}
	return withAddr(m, known, n.Addr)
}

// AppendAddNode appends the command that takes a node into the cluster; it gets
// replicas by moves. One that is of it already with the same data directory gets
// the address, and leaves still if it was leaving. kv.ErrExists if there is a
// node of that name with another data directory.
//
//	add-node  id string · storage u64 · addr string
func AppendAddNode(dst []byte, n sharding.Node) []byte {
	return appendNode(dst, kv.KindAddNode, n.ID, n.Storage, n.Addr)
}

func addNode(m *sharding.Map, body *kv.Decoder) (*sharding.Map, error) {
	n, known, ok, err := readNode(m, body)
	switch {
	case err != nil:
		return nil, err
	case !ok:
		return m.WithNode(n)
	case known.Storage != n.Storage:
		return nil, fmt.Errorf("%w: node %q with storage %016x, not %016x; to give it another data directory, replace it", kv.ErrExists, n.ID, known.Storage, n.Storage)
	}
	return withAddr(m, known, n.Addr)
}

// AppendReplaceNode appends the command that gives a node another data directory:
// what it had of its shards is gone, and it gets them again. kv.ErrInvalid if
// there is no such node.
//
//	replace-node  id string · storage u64 · addr string
func AppendReplaceNode(dst []byte, id sharding.NodeID, storage uint64, addr string) []byte {
	return appendNode(dst, kv.KindReplaceNode, id, storage, addr)
}

func replaceNode(m *sharding.Map, body *kv.Decoder) (*sharding.Map, error) {
	n, known, ok, err := readNode(m, body)
	switch {
	case err != nil:
		return nil, err
	case ok && known.Storage == n.Storage:
		return withAddr(m, known, n.Addr)
	}
	return m.WithStorage(n.ID, n.Storage, n.Addr)
}

// AppendRemoveNode appends the command that makes a node leave: moves take its
// replicas away, to heir before others unless that is "". kv.ErrInvalid if there
// is no such node, if heir is none that stays, or if no node would stay.
//
//	remove-node  id string · heir string
func AppendRemoveNode(dst []byte, id, heir sharding.NodeID) []byte {
	dst = kv.AppendString(kv.AppendHeader(dst, kv.KindRemoveNode), string(id))
	return kv.AppendString(dst, string(heir))
}

func removeNode(m *sharding.Map, body *kv.Decoder) (*sharding.Map, error) {
	id, heir := sharding.NodeID(body.String()), sharding.NodeID(body.String())
	if err := body.Finish(); err != nil {
		return nil, err
	}
	if n, ok := m.Node(id); ok && n.Leaving && n.Heir == heir {
		return m, nil
	}
	return m.WithLeaving(id, heir)
}

// AppendForgetNode appends the command that takes a node out of the map after it
// has lost its last replica. kv.ErrInvalid if it has one still, or is not
// leaving; nothing happens if there is no such node.
//
//	forget-node  id string
func AppendForgetNode(dst []byte, id sharding.NodeID) []byte {
	return kv.AppendString(kv.AppendHeader(dst, kv.KindForgetNode), string(id))
}

func forgetNode(m *sharding.Map, body *kv.Decoder) (*sharding.Map, error) {
	id := sharding.NodeID(body.String())
	if err := body.Finish(); err != nil {
		return nil, err
	}
	if _, ok := m.Node(id); !ok {
		return m, nil
	}
	return m.WithoutNode(id)
}

// appendAt appends the start of a command about a move: epoch u64 · shard u32.
func appendAt(dst []byte, kind kv.Kind, epoch uint64, shard sharding.Shard) []byte {
	dst = binary.BigEndian.AppendUint64(kv.AppendHeader(dst, kind), epoch)
	return binary.BigEndian.AppendUint32(dst, uint32(shard))
}

// at says kv.ErrConflict if a command was decided on another map.
func at(m *sharding.Map, epoch uint64) error {
	if epoch != m.Epoch {
		return fmt.Errorf("%w: a move decided on the map of epoch %d, this is %d", kv.ErrConflict, epoch, m.Epoch)
	}
	return nil
}

// AppendMove appends the command that begins a move. kv.ErrConflict if the map
// has another epoch, which is in the Result; kv.ErrInvalid if a shard is moving
// or the map has no such move.
//
//	move  epoch u64 · shard u32 · adding string · removing string
func AppendMove(dst []byte, epoch uint64, mv sharding.Move) []byte {
	dst = appendAt(dst, kv.KindMove, epoch, mv.Shard)
	return kv.AppendString(kv.AppendString(dst, string(mv.Adding)), string(mv.Removing))
}

func move(m *sharding.Map, body *kv.Decoder) (*sharding.Map, error) {
	epoch := body.U64()
	mv := sharding.Move{Shard: sharding.Shard(body.U32()), Adding: sharding.NodeID(body.String()), Removing: sharding.NodeID(body.String())}
	if err := body.Finish(); err != nil {
		return nil, err
	}
	if err := at(m, epoch); err != nil {
		return nil, err
	}
	return m.WithMove(mv)
}

// AppendMoved appends the command that says that a shard's move is done.
// kv.ErrConflict as for AppendMove, kv.ErrInvalid if the shard is not moving.
//
//	moved  epoch u64 · shard u32
func AppendMoved(dst []byte, epoch uint64, shard sharding.Shard) []byte {
	return appendAt(dst, kv.KindMoved, epoch, shard)
}

func moved(m *sharding.Map, body *kv.Decoder) (*sharding.Map, error) {
	return endMove(m, body, m.WithMoved)
}

// AppendAbort appends the command that gives a shard's move up.
// kv.ErrConflict as for AppendMove, kv.ErrInvalid if the shard is not moving.
//
//	abort  epoch u64 · shard u32
func AppendAbort(dst []byte, epoch uint64, shard sharding.Shard) []byte {
	return appendAt(dst, kv.KindAbort, epoch, shard)
}

func abort(m *sharding.Map, body *kv.Decoder) (*sharding.Map, error) {
	return endMove(m, body, m.WithAbort)
}

// endMove reads epoch and shard of a move that ends, and ends it.
func endMove(m *sharding.Map, body *kv.Decoder, end func(sharding.Shard) (*sharding.Map, error)) (*sharding.Map, error) {
	epoch, shard := body.U64(), sharding.Shard(body.U32())
	if err := body.Finish(); err != nil {
		return nil, err
	}
	if err := at(m, epoch); err != nil {
		return nil, err
	}
	return end(shard)
}

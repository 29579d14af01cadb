package coordinator

import (
	"encoding/binary"

	"go.opentelemetry.io/otel/trace"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

// Methods that callers of a node may use. The numbers are part of the protocol;
// nodes use others among themselves (package cluster).
const (
	MethodMap     byte = 1 // a newer map: MapRequest → map bytes, empty if there is none newer
	MethodParts   byte = 2 // parts of a batch for this node: Request → Answer
	MethodBatch   byte = 3 // a whole batch, split by the node: BatchRequest → BatchAnswer
	MethodBuckets byte = 4 // bucket operations: BucketRequest → BucketAnswer
	MethodStatus  byte = 5 // a node's view of itself: empty → JSON of NodeStatus
	MethodCatalog byte = 6 // a bucket operation, sent on by the node: BucketRequest → BucketAnswer
	MethodNodes   byte = 7 // a change of the cluster's nodes: NodeRequest → NodeAnswer
	MethodHash    byte = 8 // the hash of a replica's state: shard → HashAnswer
)

// wireVersion is the first byte of every request and answer.
const wireVersion = 1

const (
	// maxParts bounds the parts of one message: one for each shard there can be.
	maxParts = sharding.MaxShards
	// maxItems bounds the keys, pairs, commands or results of one message: the
	// most keys that kv.Limits may allow in a batch. What a key takes in memory is
	// many times the byte it may take on the wire.
	maxItems = 1 << 20
)

// countUpTo reads the number of items that follow, each of at least itemBytes
// bytes, and takes it off most, which may not fall below 0.
func countUpTo(d *kv.Decoder, most *int, itemBytes int, what string) int {
	n := d.Count(itemBytes)
	if n > *most {
		d.Fail("%d %s, at most %d are allowed", n, what, *most)
		return 0
	}
	*most -= n
	return n
}

// decodeKeys reads a list of keys.
func decodeKeys(d *kv.Decoder, most *int) []string {
	return d.Strings(countUpTo(d, most, 1, "keys"))
}

// Op says what a request does with its keys.
type Op uint8

// The operations. The numbers are part of the protocol.
const (
	OpGet       Op = 1 // values of keys
	OpExists    Op = 2 // presence of keys
	OpSet       Op = 3 // commands that set
	OpDelete    Op = 4 // commands that delete
	OpIncrement Op = 5 // a command that adds to a number
	OpSwap      Op = 6 // a command that sets a key which has an expected version
	OpList      Op = 7 // keys in the order of their hashes

	// OpCount is one more than the greatest of them.
	OpCount = OpList + 1
)

// Reads says whether the operation changes nothing.
func (op Op) Reads() bool { return op == OpGet || op == OpExists || op == OpList }

// Carries says whether a command may travel in a request of this operation.
func (op Op) Carries(w *kv.Write) bool {
	switch w.Kind {
	case kv.KindSet:
		return op == OpSet
	case kv.KindDelete:
		return op == OpDelete
	case kv.KindIncrement:
		return op == OpIncrement
	case kv.KindSwap:
		return op == OpSwap
	case kv.KindPiece:
		return op == OpSet || op == OpSwap
	case kv.KindLast:
		return op == OpSet && !w.Swaps || op == OpSwap && w.Swaps
	default:
		return false
	}
}

func (op Op) String() string {
	switch op {
	case OpGet:
		return "get-many"
	case OpExists:
		return "exists"
	case OpSet:
		return "set-many"
	case OpDelete:
		return "delete-many"
	case OpIncrement:
		return "increment"
	case OpSwap:
		return "compare-and-swap"
	case OpList:
		return "list-keys"
	default:
		return "unknown operation"
	}
}

// A Request carries all parts of a batch that one node shall serve:
//
//	version u8 · epoch u64 · op u8 · any-replica u8 · bucket u64 · parts
//	part of a read:  shard u32 · keys
//	part of a list:  shard u32 · cursor u64 · max varint
//	part of a write: shard u32 · commands (package kv)
//
// and, if it is traced, its trace (trace.go).
type Request struct {
	Epoch      uint64 // of the map the parts were cut by
	Op         Op
	AnyReplica bool   // a read that a follower may serve, after asking the leader how far it must be
	Bucket     uint64 // of a read; commands carry theirs
	Parts      []Part
	Trace      trace.SpanContext // what it is part of; the zero value: it is not traced
}

// Part is what of a batch belongs to one shard.
type Part struct {
	Shard    sharding.Shard
	Keys     []string // of a read
	Cursor   uint64   // of a list: the least hash of a key
	Max      int      // of a list: about how many keys
	Commands [][]byte // of a write, proposed in order, each applied as a unit
}

// DecodeRequest reads a request.
func DecodeRequest(b []byte) (*Request, error) {
	d := versioned(b)
	r := &Request{Epoch: d.U64(), Op: Op(d.U8()), AnyReplica: d.Bool(), Bucket: d.U64()}
	if r.Op < OpGet || r.Op > OpList {
		d.Fail("operation %d", r.Op)
	}
	parts, items := maxParts, maxItems
	r.Parts = make([]Part, countUpTo(d, &parts, 5, "parts"))
	for i := range r.Parts {
		p := &r.Parts[i]
		p.Shard = sharding.Shard(d.U32())
		switch {
		case r.Op == OpList:
			p.Cursor, p.Max = d.U64(), decodeMax(d)
		case r.Op.Reads():
			p.Keys = decodeKeys(d, &items)
		default:
			p.Commands = make([][]byte, countUpTo(d, &items, 1, "commands"))
			for j := range p.Commands {
				p.Commands[j] = d.Bytes()
			}
		}
	}
	r.Trace = decodeTrace(d)
	return r, d.Finish()
}

// decodeMax reads how many keys a list shall have.
func decodeMax(d *kv.Decoder) int {
	n := d.Uvarint()
	if n == 0 || n > maxItems {
		d.Fail("a list of %d keys, want 1 to %d", n, maxItems)
		return 0
	}
	return int(n)
}

// appendRequestHeader begins a request of n parts.
func appendRequestHeader(dst []byte, epoch uint64, op Op, anyReplica bool, bucket uint64, n int) []byte {
	dst = append(dst, wireVersion)
	dst = binary.BigEndian.AppendUint64(dst, epoch)
	dst = append(dst, byte(op))
	dst = kv.AppendBool(dst, anyReplica)
	dst = binary.BigEndian.AppendUint64(dst, bucket)
	return binary.AppendUvarint(dst, uint64(n))
}

// Append appends the request's encoding.
func (r *Request) Append(dst []byte) []byte {
	dst = appendRequestHeader(dst, r.Epoch, r.Op, r.AnyReplica, r.Bucket, len(r.Parts))
	for i := range r.Parts {
		p := &r.Parts[i]
		dst = binary.BigEndian.AppendUint32(dst, uint32(p.Shard))
		switch {
		case r.Op == OpList:
			dst = binary.BigEndian.AppendUint64(dst, p.Cursor)
			dst = binary.AppendUvarint(dst, uint64(p.Max))
		case r.Op.Reads():
			dst = kv.AppendKeys(dst, p.Keys)
		default:
			dst = binary.AppendUvarint(dst, uint64(len(p.Commands)))
			for _, c := range p.Commands {
				dst = kv.AppendBytes(dst, c)
			}
		}
	}
	return appendTrace(dst, r.Trace)
}

// Status says how a node took one part.
type Status uint8

const (
	// StatusServed: a read's items follow, or a write's commands were proposed.
	StatusServed Status = 0
	// StatusNotLeader: ask PartAnswer.Leader, or another replica if it is empty.
	StatusNotLeader Status = 1
	// StatusStaleMap: the request's map is old, or the shard is not here; the
	// answer carries the newer map.
	StatusStaleMap Status = 2
	// StatusRefused: PartAnswer.Code says why.
	StatusRefused Status = 3
)

// versioned begins to decode a message that starts with the wire's version.
func versioned(b []byte) *kv.Decoder { return kv.NewVersioned(b, "protocol", wireVersion) }

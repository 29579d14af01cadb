package coordinator

import (
	"encoding/binary"

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
	n := countUpTo(d, most, 1, "keys")
	if n == 0 {
		return nil
	}
	keys := make([]string, n)
	for i := range keys {
		keys[i] = d.String()
	}
	return keys
}

// Op says what a request does with its keys.
type Op uint8

// The operations. The numbers are part of the protocol.
const (
	OpGet    Op = 1 // values of keys
	OpExists Op = 2 // presence of keys
	OpSet    Op = 3 // commands that set
	OpDelete Op = 4 // commands that delete
)

func (op Op) reads() bool { return op == OpGet || op == OpExists }

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
	default:
		return "unknown operation"
	}
}

// A Request carries all parts of a batch that one node shall serve:
//
//	version u8 · epoch u64 · op u8 · any-replica u8 · bucket u64 · parts
//	part of a read:  shard u32 · keys
//	part of a write: shard u32 · commands (package kv)
type Request struct {
	Epoch      uint64 // of the map the parts were cut by
	Op         Op
	AnyReplica bool   // a read that a follower may serve, after asking the leader how far it must be
	Bucket     uint64 // of a read; commands carry theirs
	Parts      []Part
}

// Part is what of a batch belongs to one shard.
type Part struct {
	Shard    sharding.Shard
	Keys     []string // of a read
	Commands [][]byte // of a write, proposed in order, each applied as a unit
}

// DecodeRequest reads a request.
func DecodeRequest(b []byte) (*Request, error) {
	d := versioned(b)
	r := &Request{Epoch: d.U64(), Op: Op(d.U8()), AnyReplica: d.Bool(), Bucket: d.U64()}
	if r.Op < OpGet || r.Op > OpDelete {
		d.Fail("operation %d", r.Op)
	}
	parts, items := maxParts, maxItems
	r.Parts = make([]Part, countUpTo(d, &parts, 5, "parts"))
	for i := range r.Parts {
		p := &r.Parts[i]
		p.Shard = sharding.Shard(d.U32())
		if r.Op.reads() {
			p.Keys = decodeKeys(d, &items)
			continue
		}
		p.Commands = make([][]byte, countUpTo(d, &items, 1, "commands"))
		for j := range p.Commands {
			p.Commands[j] = d.Bytes()
		}
	}
	return r, d.Finish()
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
		if r.Op.reads() {
			dst = kv.AppendKeys(dst, p.Keys)
			continue
		}
		dst = binary.AppendUvarint(dst, uint64(len(p.Commands)))
		for _, c := range p.Commands {
			dst = kv.AppendBytes(dst, c)
		}
	}
	return dst
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

// An Answer is
//
//	version u8 · map bytes (empty unless newer than the request's) · parts
//	part: shard u32 · status u8 · leader string · code u8 · detail string · results · items
//	results (writes): one per command: outcome u8 · code u8 · detail string
//	items (reads): length u32 and that many bytes: one item per key:
//	  0, or 1 · version u64 · value (of exists: empty)
type Answer struct {
	Map   *sharding.Map // nil unless newer than the request's
	Parts []PartAnswer
}

// PartAnswer is the answer to one part.
type PartAnswer struct {
	Shard   sharding.Shard
	Status  Status
	Leader  sharding.NodeID // who leads, as far as the node knows; may be empty
	Code    kv.Code         // of StatusRefused
	Detail  string
	Results []Result // of a write, one for each command that was proposed; commands after them were not
	Items   []byte   // of a served read: see ItemReader
}

// Result is what became of one command.
type Result struct {
	Outcome kv.Outcome
	Code    kv.Code // why it is not applied
	Detail  string
}

// DecodeAnswer reads an answer.
func DecodeAnswer(b []byte) (*Answer, error) {
	d := versioned(b)
	a := &Answer{}
	if m := d.Bytes(); len(m) > 0 {
		var err error
		if a.Map, err = sharding.DecodeMap(m); err != nil {
			return nil, err
		}
	}
	parts, results := maxParts, maxItems
	a.Parts = make([]PartAnswer, countUpTo(d, &parts, 13, "parts"))
	for i := range a.Parts {
		p := &a.Parts[i]
		p.Shard = sharding.Shard(d.U32())
		p.Status = Status(d.U8())
		p.Leader = sharding.NodeID(d.String())
		p.Code = kv.Code(d.U8())
		p.Detail = d.String()
		p.Results = decodeResults(d, &results)
		p.Items = d.Take32()
		checkStatus(d, p.Status, p.Code)
	}
	return a, d.Finish()
}

// checkStatus refuses what must not be guessed at: taken for "not proposed", a
// write would be sent again.
func checkStatus(d *kv.Decoder, s Status, code kv.Code) {
	if s > StatusRefused || s == StatusRefused && code == kv.CodeOK {
		d.Fail("status %d with code %d", s, code)
	}
}

func decodeResults(d *kv.Decoder, most *int) []Result {
	n := countUpTo(d, most, 3, "results")
	if n == 0 {
		return nil
	}
	results := make([]Result, n)
	for i := range results {
		r := &results[i]
		r.Outcome, r.Code, r.Detail = kv.Outcome(d.U8()), kv.Code(d.U8()), d.String()
		if r.Outcome > kv.OutcomeApplied {
			d.Fail("outcome %d", r.Outcome)
		}
	}
	return results
}

// AnswerWriter builds an Answer into one buffer, so that values are copied
// once, from the store into what is sent.
type AnswerWriter struct {
	buf    []byte
	itemAt int // where the length of the open part's items stands
}

// NewAnswer begins an answer of n parts. m is nil unless newer than the
// request's.
func NewAnswer(m *sharding.Map, n int) *AnswerWriter {
	w := &AnswerWriter{buf: []byte{wireVersion}}
	if m == nil {
		w.buf = append(w.buf, 0)
	} else {
		w.buf = kv.AppendBytes(w.buf, m.Append(nil))
	}
	w.buf = binary.AppendUvarint(w.buf, uint64(n))
	return w
}

// Part appends a part without items.
func (w *AnswerWriter) Part(p *PartAnswer) {
	w.OpenPart(p)
	w.ClosePart()
}

// OpenPart appends a part whose items follow by Missing and Found; ClosePart
// ends it.
func (w *AnswerWriter) OpenPart(p *PartAnswer) {
	b := binary.BigEndian.AppendUint32(w.buf, uint32(p.Shard))
	b = append(b, byte(p.Status))
	b = kv.AppendString(b, string(p.Leader))
	b = append(b, byte(p.Code))
	b = kv.AppendString(b, p.Detail)
	b = binary.AppendUvarint(b, uint64(len(p.Results)))
	for i := range p.Results {
		r := &p.Results[i]
		b = append(b, byte(r.Outcome), byte(r.Code))
		b = kv.AppendString(b, r.Detail)
	}
	w.itemAt = len(b)
	w.buf = binary.BigEndian.AppendUint32(b, 0) // ClosePart writes it
}

// ClosePart ends a part.
func (w *AnswerWriter) ClosePart() {
	binary.BigEndian.PutUint32(w.buf[w.itemAt:], uint32(len(w.buf)-w.itemAt-4))
}

// Missing appends the item of a key that has no value.
func (w *AnswerWriter) Missing() { w.buf = append(w.buf, 0) }

// Found appends the item of a key that has one.
func (w *AnswerWriter) Found(version uint64, value []byte) {
	w.buf = append(w.buf, 1)
	w.buf = binary.BigEndian.AppendUint64(w.buf, version)
	w.buf = kv.AppendBytes(w.buf, value)
}

// Len is the size of the answer so far in bytes.
func (w *AnswerWriter) Len() int { return len(w.buf) }

// Truncate takes back everything appended since Len returned n.
func (w *AnswerWriter) Truncate(n int) { w.buf = w.buf[:n] }

// Bytes returns the answer.
func (w *AnswerWriter) Bytes() []byte { return w.buf }

// ItemReader reads the items of a served read, in the order of its keys.
type ItemReader struct{ d *kv.Decoder }

// ReadItems returns a reader of a part's items.
func ReadItems(p *PartAnswer) ItemReader { return ItemReader{kv.NewDecoder(p.Items)} }

// Next returns the next key's value; value aliases the answer.
func (r ItemReader) Next() (value []byte, version uint64, found bool) {
	if !r.d.Bool() {
		return nil, 0, false
	}
	version = r.d.U64()
	return r.d.Bytes(), version, true
}

// Finish says whether exactly all items were read.
func (r ItemReader) Finish() error { return r.d.Finish() }

// versioned begins to decode a message that starts with the wire's version.
func versioned(b []byte) *kv.Decoder { return kv.NewVersioned(b, "protocol", wireVersion) }

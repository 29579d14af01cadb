package coordinator

import (
	"encoding/binary"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

// An Answer is
//
//	version u8 · map bytes (empty unless newer than the request's) · parts
//	part: shard u32 · status u8 · leader string · code u8 · detail string · results · items
//	results (writes): one per command: outcome u8 · forgotten u8 · code u8 · value u64 · detail string
//	items (reads): length u32 and that many bytes: number u32 · one item for each of the first keys:
//	  0, or 1 · version u64 · value (of exists: empty)
//	items (list): length u32 and that many bytes: keys · next u64
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

// Result is what became of one command that was given to raft. A command that is
// not applied with one of the codes no-such-store, exists, invalid, too-large and
// conflict was refused by the state machine, which answers every copy of it so;
// with any other code it may be sent again.
type Result struct {
	Outcome   kv.Outcome
	Forgotten bool    // of an unknown outcome: the state machine has forgotten the call, so no copy of it will ever be applied
	Code      kv.Code // why it is not applied
	Value     uint64  // what the state machine gave back: a number, a version
	Detail    string
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

// resultBytes is the least a result takes on the wire.
const resultBytes = 12

func decodeResults(d *kv.Decoder, most *int) []Result {
	n := countUpTo(d, most, resultBytes, "results")
	if n == 0 {
		return nil
	}
	results := make([]Result, n)
	for i := range results {
		r := &results[i]
		*r = Result{Outcome: kv.Outcome(d.U8()), Forgotten: d.Bool(), Code: kv.Code(d.U8()), Value: d.U64(), Detail: d.String()}
		if r.Outcome > kv.OutcomeApplied || r.Forgotten && r.Outcome != kv.OutcomeUnknown {
			d.Fail("outcome %d, forgotten %v", r.Outcome, r.Forgotten)
		}
	}
	return results
}

// AnswerWriter builds an Answer into one buffer, so that values are copied
// once, from the store into what is sent.
type AnswerWriter struct {
	buf    []byte
	itemAt int // where the length of the open part's items stands
	items  int // of the open part, so far
}

// NewAnswer begins an answer of n parts, in the room that buf has. m is nil unless newer
// than the request's.
func NewAnswer(buf []byte, m *sharding.Map, n int) *AnswerWriter {
	w := &AnswerWriter{buf: append(buf[:0], wireVersion)}
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

// OpenPart appends a part whose items follow: of a read by Missing and Found, for
// the first key and any number of those after it, of a list by Keys. ClosePart
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
		b = append(kv.AppendBool(append(b, byte(r.Outcome)), r.Forgotten), byte(r.Code))
		b = kv.AppendString(binary.BigEndian.AppendUint64(b, r.Value), r.Detail)
	}
	w.itemAt, w.items = len(b), 0
	w.buf = binary.BigEndian.AppendUint32(b, 0) // ClosePart writes it
}

// ClosePart ends a part.
func (w *AnswerWriter) ClosePart() {
	binary.BigEndian.PutUint32(w.buf[w.itemAt:], uint32(len(w.buf)-w.itemAt-4))
	if w.items > 0 {
		binary.BigEndian.PutUint32(w.buf[w.itemAt+4:], uint32(w.items))
	}
}

// Missing appends the item of a key that has no value.
func (w *AnswerWriter) Missing() {
	w.item()
	w.buf = append(w.buf, 0)
}

// Found appends the item of a key that has one.
func (w *AnswerWriter) Found(version uint64, value []byte) {
	w.item()
	w.buf = append(w.buf, 1)
	w.buf = binary.BigEndian.AppendUint64(w.buf, version)
	w.buf = kv.AppendBytes(w.buf, value)
}

// item counts an item; the first has room for their number before it, which
// ClosePart writes.
func (w *AnswerWriter) item() {
	if w.items == 0 {
		w.buf = binary.BigEndian.AppendUint32(w.buf, 0)
	}
	w.items++
}

// Keys appends the items of a list: its keys, and the cursor of the keys after
// them, 0 if the shard has none.
func (w *AnswerWriter) Keys(keys []string, next uint64) {
	w.buf = binary.BigEndian.AppendUint64(kv.AppendKeys(w.buf, keys), next)
}

// Len is the size of the answer so far in bytes.
func (w *AnswerWriter) Len() int { return len(w.buf) }

// Truncate takes back everything appended since Len returned n, which was
// before a part was opened.
func (w *AnswerWriter) Truncate(n int) { w.buf = w.buf[:n] }

// Bytes returns the answer.
func (w *AnswerWriter) Bytes() []byte { return w.buf }

// ItemReader reads the items of a served read, in the order of its keys.
type ItemReader struct {
	d *kv.Decoder
	n int
}

// ReadItems returns a reader of a part's items.
func ReadItems(p *PartAnswer) ItemReader {
	d := kv.NewDecoder(p.Items)
	if len(p.Items) == 0 {
		return ItemReader{d, 0}
	}
	n := d.U32()
	if uint64(n) > uint64(d.Left()) {
		d.Fail("%d items, %d bytes are left", n, d.Left())
		n = 0
	}
	return ItemReader{d, int(n)}
}

// Count is how many of the part's keys have an item: all, the first few, or none.
func (r ItemReader) Count() int { return r.n }

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

// ReadKeys reads the items of a served list.
func ReadKeys(p *PartAnswer) (keys []string, next uint64, err error) {
	d := kv.NewDecoder(p.Items)
	most := maxItems
	keys, next = decodeKeys(d, &most), d.U64()
	return keys, next, d.Finish()
}

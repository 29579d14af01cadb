package fsm

import (
	"cmp"
	"container/list"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/mutant"
	"github.com/manykv/manykv/sharding"
)

const (
	// sessionTTL is how long, in ms of shard time, a session without entries is
	// remembered: far longer than a client sends a call again (5 minutes) or a
	// leader proposes an old one (10).
	sessionTTL = uint64(time.Hour / time.Millisecond)

	// retryWindow is how long, in ms of shard time, a session without entries may
	// not make room for another: until then an entry of it may still be under way,
	// and forgotten it would be applied twice.
	retryWindow = uint64(10 * time.Minute / time.Millisecond)

	// maxSessions bounds what a shard remembers: some 16 MiB of clients that have
	// no call open.
	maxSessions = 1 << 16

	// maxAnswers is how many runs of equal answers a call may have. An honest call
	// has one or two: it is one increment or swap, or a batch whose bucket is
	// dropped under way.
	maxAnswers = 64
)

// asBefore is what is left of a refusal's text.
const asBefore = "the entry was refused when it came first"

// sessions are what a shard remembers of its clients, so that it applies each
// entry of a call once. Only the apply goroutine uses them; in memory they are
// ahead of their rows while a batch is filled.
type sessions struct {
	shard sharding.Shard
	of    map[uint64]*session
	order list.List // of *session, the least recently active first
	dirty []*session
	row   []byte // to encode in
}

// session is one client's.
type session struct {
	client uint64
	last   uint64 // shard time of its newest entry
	index  uint64 // of its newest entry: it orders sessions of the same time
	acked  uint64 // all calls up to here are forgotten
	calls  []call // sorted by seq, all of them greater than acked

	place *list.Element // in sessions.order
	dirty bool          // in sessions.dirty
	gone  bool          // forgotten
}

// call is what is remembered of a call that its client has not acknowledged.
type call struct {
	seq     uint64
	next    uint64 // entries processed, so the number of the next
	aside   uint64 // bytes of the value under way that pieces have put aside
	hash    uint64 // of that value's key
	answers []answer
}

// answer is the result of some entries of a call that follow one another.
// Entries without any were applied and gave back 0.
type answer struct {
	first, count uint64
	code         kv.Code
	value        uint64
}

// turn decides what becomes of an entry. If it is its turn it returns the call it
// belongs to, valid until the next turn; the caller processes the entry and makes
// the call remember the result. Otherwise call is nil and the Result final.
func (ss *sessions) turn(b *pebble.Batch, o *kv.Origin, now, index uint64) (*call, Result, error) {
	if ahead := o.Seq - o.Acked; o.Seq <= o.Acked || ahead > kv.MaxOpenCalls {
		return nil, Result{Err: fmt.Errorf("%w: call %d of a session that has acknowledged %d", kv.ErrInvalid, o.Seq, o.Acked)}, nil
	}
	s := ss.of[o.Client]
	if s == nil {
		if o.Entry > 0 {
			return nil, Result{Err: fmt.Errorf("%w: entry %d of call %d, want 0", ErrOutOfOrder, o.Entry, o.Seq)}, nil
		}
		if refusal, err := ss.makeRoom(b, now); refusal != nil || err != nil {
			return nil, Result{Err: refusal}, err
		}
		s = ss.add(&session{client: o.Client})
	}
	ss.touch(s, now, index)
	if err := ss.acknowledge(b, s, o.Acked); err != nil {
		return nil, Result{}, err
	}
	if o.Seq <= s.acked {
		return nil, Result{Err: fmt.Errorf("%w: call %d, all up to %d are", ErrForgotten, o.Seq, s.acked)}, nil
	}
	c, r := s.turn(o)
	return c, r, nil
}

// turn is sessions.turn within a session.
func (s *session) turn(o *kv.Origin) (*call, Result) {
	at, open := slices.BinarySearchFunc(s.calls, o.Seq, func(c call, seq uint64) int { return cmp.Compare(c.seq, seq) })
	var next uint64
	if open {
		next = s.calls[at].next
	}
	switch entry := uint64(o.Entry); {
	case entry > next:
		return nil, Result{Err: fmt.Errorf("%w: entry %d of call %d, want %d", ErrOutOfOrder, entry, o.Seq, next)}
	case entry < next && mutant.On(mutant.NoDedupe):
		s.calls[at].next = entry
	case entry < next:
		return nil, s.calls[at].recall(entry)
	case !open:
		s.calls = slices.Insert(s.calls, at, call{seq: o.Seq})
	case len(s.calls[at].answers) == maxAnswers:
		return nil, Result{Err: fmt.Errorf("%w: call %d has %d different answers, no more are remembered", kv.ErrInvalid, o.Seq, maxAnswers)}
	}
	return &s.calls[at], Result{}
}

// remember keeps the result of the call's next entry.
func (c *call) remember(r Result) {
	entry, code := c.next, kv.CodeOf(r.Err)
	c.next++
	if code == kv.CodeOK && r.Value == 0 {
		return
	}
	if n := len(c.answers); n > 0 {
		last := &c.answers[n-1]
		if last.first+last.count == entry && last.code == code && last.value == r.Value {
			last.count++
			return
		}
	}
	c.answers = append(c.answers, answer{first: entry, count: 1, code: code, value: r.Value})
}

// recall returns the result of an entry that was processed.
func (c *call) recall(entry uint64) Result {
	for i := range c.answers {
		if a := &c.answers[i]; a.first <= entry && entry < a.first+a.count {
			return Result{Err: a.code.Err(asBefore), Value: a.value}
		}
	}
	return Result{}
}

// acknowledge forgets the calls up to acked.
func (ss *sessions) acknowledge(b *pebble.Batch, s *session, acked uint64) error {
	if acked <= s.acked {
		return nil
	}
	s.acked = acked
	n := 0
	for ; n < len(s.calls) && s.calls[n].seq <= acked; n++ {
		if err := ss.dropAside(b, s.client, &s.calls[n]); err != nil {
			return err
		}
	}
	s.calls = slices.Delete(s.calls, 0, n)
	return nil
}

// dropAside removes the pieces that a call has put aside.
func (ss *sessions) dropAside(b *pebble.Batch, client uint64, c *call) error {
	if c.aside == 0 {
		return nil
	}
	c.aside, c.hash = 0, 0
	pieces := numberedKey(ss.shard, tagPiece, client, c.seq)
	return b.DeleteRange(pieces, successor(pieces), nil)
}

// add puts a session behind all others.
func (ss *sessions) add(s *session) *session {
	s.place = ss.order.PushBack(s)
	ss.of[s.client] = s
	return s
}

// touch notes an entry of a session. Neither now nor index ever goes back, so
// the order is that of last, and that of index.
func (ss *sessions) touch(s *session, now, index uint64) {
	s.last, s.index = now, index
	ss.order.MoveToBack(s.place)
	if !s.dirty {
		s.dirty = true
		ss.dirty = append(ss.dirty, s)
	}
}

// makeRoom makes room for one more session. It refuses rather than forget a
// client that may yet send an entry again: a refused write was not applied, and
// says so, but a write applied twice would be a lie.
func (ss *sessions) makeRoom(b *pebble.Batch, now uint64) (refusal, err error) {
	if len(ss.of) < maxSessions {
		return nil, nil
	}
	oldest := ss.order.Front().Value.(*session)
	if now-oldest.last < retryWindow {
		return fmt.Errorf("%w: the shard has heard of %d clients in the last %d ms, more it does not remember",
			kv.ErrBusy, len(ss.of), retryWindow), nil
	}
	return nil, ss.forget(b, oldest)
}

// expire forgets the sessions that had no entry for sessionTTL.
func (ss *sessions) expire(b *pebble.Batch, now uint64) error {
	for el := ss.order.Front(); el != nil; el = ss.order.Front() {
		s := el.Value.(*session)
		if now-s.last < sessionTTL {
			return nil
		}
		if err := ss.forget(b, s); err != nil {
			return err
		}
	}
	return nil
}

// forget removes a session and its pieces.
func (ss *sessions) forget(b *pebble.Batch, s *session) error {
	ss.order.Remove(s.place)
	delete(ss.of, s.client)
	s.gone = true
	for i := range s.calls {
		if err := ss.dropAside(b, s.client, &s.calls[i]); err != nil {
			return err
		}
	}
	return b.Delete(numberedKey(ss.shard, tagSession, s.client), nil)
}

// finish writes the sessions that the entries of a batch have changed.
func (ss *sessions) finish(b *pebble.Batch) error {
	for _, s := range ss.dirty {
		s.dirty = false
		if s.gone {
			continue
		}
		ss.row = s.append(ss.row[:0])
		if err := b.Set(numberedKey(ss.shard, tagSession, s.client), ss.row, nil); err != nil {
			return err
		}
	}
	clear(ss.dirty)
	ss.dirty = ss.dirty[:0]
	return nil
}

// loadSessions reads a shard's sessions; now and index are its record's.
func loadSessions(from pebble.Reader, shard sharding.Shard, now, index uint64) (*sessions, error) {
	var all []*session
	prefix := numberedKey(shard, tagSession)
	err := eachRow(from, prefix, func(name, row []byte) error {
		s, err := decodeSession(row)
		switch {
		case err != nil:
			return err
		case len(name) != 8:
			return fmt.Errorf("a name of %d bytes, want 8", len(name))
		case s.last > now || s.index > index:
			return fmt.Errorf("a session of time %d and index %d, the shard is at %d and %d", s.last, s.index, now, index)
		}
		s.client = binary.BigEndian.Uint64(name)
		all = append(all, &s)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("fsm: the sessions of shard %d: %w", shard, err)
	}
	slices.SortFunc(all, func(a, b *session) int { return cmp.Compare(a.index, b.index) })
	ss := &sessions{shard: shard, of: make(map[uint64]*session, len(all))}
	for _, s := range all {
		ss.add(s)
	}
	return ss, nil
}

// sessionFormat is the version of the session row's format.
const sessionFormat = 1

// append encodes a session:
//
//	format u8 = 1 · last u64 · index u64 · acked u64 · count varint · count × call
//	call    seq varint · next varint · aside varint · hash u64 if aside > 0 · count varint · count × answer
//	answer  first varint · count varint · code u8 · value varint
//
// where seq is what the call's is greater than that of the call before it, or
// than acked, and first what the answer's is greater than the end of the answer
// before it.
func (s *session) append(dst []byte) []byte {
	dst = append(dst, sessionFormat)
	dst = binary.BigEndian.AppendUint64(dst, s.last)
	dst = binary.BigEndian.AppendUint64(dst, s.index)
	dst = binary.BigEndian.AppendUint64(dst, s.acked)
	dst = binary.AppendUvarint(dst, uint64(len(s.calls)))
	before := s.acked
	for i := range s.calls {
		c := &s.calls[i]
		dst = binary.AppendUvarint(dst, c.seq-before)
		dst = binary.AppendUvarint(dst, c.next)
		dst = binary.AppendUvarint(dst, c.aside)
		if c.aside > 0 {
			dst = binary.BigEndian.AppendUint64(dst, c.hash)
		}
		dst = c.appendAnswers(dst)
		before = c.seq
	}
	return dst
}

func (c *call) appendAnswers(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(c.answers)))
	end := uint64(0)
	for i := range c.answers {
		a := &c.answers[i]
		dst = binary.AppendUvarint(dst, a.first-end)
		dst = binary.AppendUvarint(dst, a.count)
		dst = append(dst, byte(a.code))
		dst = binary.AppendUvarint(dst, a.value)
		end = a.first + a.count
	}
	return dst
}

const (
	callBytes   = 4 // the least a call takes in a row
	answerBytes = 4 // and an answer
)

func decodeSession(b []byte) (session, error) {
	d := kv.NewVersioned(b, "session row", sessionFormat)
	s := session{last: d.U64(), index: d.U64(), acked: d.U64()}
	n := d.Count(callBytes)
	if n > kv.MaxOpenCalls {
		d.Fail("%d open calls, want at most %d", n, kv.MaxOpenCalls)
		return s, d.Err()
	}
	if n > 0 {
		s.calls = make([]call, n)
	}
	ahead := uint64(0) // of acked
	for i := range s.calls {
		c := &s.calls[i]
		gap := d.Uvarint()
		c.next, c.aside = d.Uvarint(), d.Uvarint()
		if c.aside > 0 {
			c.hash = d.U64()
		}
		if gap == 0 || gap > kv.MaxOpenCalls-ahead || s.acked > s.acked+ahead+gap {
			d.Fail("call %d of %d is %d after the one before it, all are within %d of %d", i, len(s.calls), gap, kv.MaxOpenCalls, s.acked)
		}
		if c.next == 0 || c.next > 1<<32 || c.aside > kv.MaxValueBytes {
			d.Fail("a call of %d entries with %d bytes aside", c.next, c.aside)
		}
		ahead += gap
		c.seq = s.acked + ahead
		c.decodeAnswers(d)
		if d.Err() != nil {
			break
		}
	}
	return s, d.Finish()
}

func (c *call) decodeAnswers(d *kv.Decoder) {
	n := d.Count(answerBytes)
	if n > maxAnswers {
		d.Fail("%d answers of a call, want at most %d", n, maxAnswers)
		return
	}
	end := uint64(0)
	for range n {
		a := answer{first: d.Uvarint(), count: d.Uvarint(), code: kv.Code(d.U8()), value: d.Uvarint()}
		if a.count == 0 || a.first > c.next-end || a.count > c.next-end-a.first {
			d.Fail("%d answers after %d others, of %d entries", a.count, a.first, c.next-end)
			return
		}
		a.first += end
		end = a.first + a.count
		c.answers = append(c.answers, a)
	}
}

package fsm

import (
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

// expected is the state a log gives, worked out with Go maps.
type expected struct {
	position Position
	time     uint64
	owns     bool
	pairs    map[string]refPair // by pairName
	dropped  map[uint64]bool
	sessions map[uint64]*refSession
}

type refPair struct {
	value   string
	version uint64
}

type refSession struct {
	last, index, acked uint64
	calls              map[uint64]*refCall
}

type refCall struct {
	results []refResult
	bucket  uint64 // of aside, and key
	key     string
	aside   string
}

// refResult is the class of a result's error, and its value; of a bundle those of each
// command.
type refResult struct {
	class error
	value uint64
	each  []refResult
}

func (want refResult) is(got Result) bool {
	return got.Value == want.value && errors.Is(got.Err, want.class) && (want.class != nil || got.Err == nil) &&
		slices.EqualFunc(want.each, got.Each, refResult.is)
}

func pairName(bucket uint64, key string) string { return fmt.Sprintf("%d/%s", bucket, key) }

// upTo applies the log's entries up to an index.
func (r *replica) upTo(index uint64) expected {
	e := expected{
		pairs:    make(map[string]refPair),
		dropped:  make(map[uint64]bool),
		sessions: make(map[uint64]*refSession),
	}
	for _, entry := range r.log {
		if entry.Index <= index {
			e.apply(r.owned, entry)
		}
	}
	return e
}

var (
	modelKeys     = []string{"", "a", "b", "c", "d", "e", "f", "g", "h", "i"}
	modelBuckets  = []uint64{1, 2, 3}
	modelCommands = []string{
		"set", "set", "set", "delete", "increment", "increment", "increment", "swap", "swap", "piece", "piece", "piece", "last", "last",
		"set", "set", "set", "delete", "increment", "increment", "increment", "swap", "swap", "piece", "piece", "piece", "last", "last",
		"lead", "lead", "configuration", "cut", "junk", "drop",
	}
)

// apply applies one entry.
func (e *expected) apply(owned sharding.Range, entry Entry) refResult {
	e.position.Index, e.position.Term, e.time = entry.Index, entry.Term, max(e.time, entry.Time)
	if len(entry.Command) == 0 {
		return refResult{}
	}
	for client, s := range e.sessions {
		if e.time-s.last >= sessionTTL {
			delete(e.sessions, client)
		}
	}
	kind, body, err := kv.Header(entry.Command)
	switch {
	case err != nil:
		return refResult{class: kv.ErrInvalid}
	case kind == kv.KindLead:
		e.owns, e.position.LeadTerm = true, entry.Term
		return refResult{}
	case kind == kv.KindDrop:
		bucket := body.U64()
		e.dropped[bucket] = true
		for name := range e.pairs {
			if strings.HasPrefix(name, pairName(bucket, "")) {
				delete(e.pairs, name)
			}
		}
		return refResult{}
	case kind == kv.KindBundle:
		commands, err := kv.DecodeBundle(entry.Command)
		if err != nil {
			return refResult{class: kv.ErrInvalid}
		}
		var r refResult
		for _, c := range commands {
			r.each = append(r.each, e.write(owned, entry.Index, c))
		}
		return r
	}
	return e.write(owned, entry.Index, entry.Command)
}

// write applies a client's command.
func (e *expected) write(owned sharding.Range, index uint64, command []byte) refResult {
	w, err := kv.DecodeWrite(command)
	if err != nil {
		return refResult{class: kv.ErrInvalid}
	}
	var pairs []kv.Pair
	foreign := !e.owns
	for key, value, ok := w.Next(); ok; key, value, ok = w.Next() {
		foreign = foreign || !owned.Contains(sharding.SlotOf(sharding.Hash(w.Bucket, key)))
		pairs = append(pairs, kv.Pair{Key: string(key), Value: value})
	}
	switch {
	case w.Err() != nil:
		return e.inSession(index, &w, nil, kv.ErrInvalid)
	case foreign:
		return refResult{class: ErrNotOwner}
	case e.dropped[w.Bucket]:
		return e.inSession(index, &w, nil, kv.ErrNoSuchStore)
	default:
		return e.inSession(index, &w, pairs, nil)
	}
}

// inSession performs a write if it is its turn; with a refusal it is refused then.
func (e *expected) inSession(index uint64, w *kv.Write, pairs []kv.Pair, refusal error) refResult {
	o := w.Origin
	if o.Client == 0 {
		if w.Kind == kv.KindPiece || w.Kind == kv.KindLast {
			return refResult{class: kv.ErrInvalid}
		}
		return e.perform(index, w, nil, pairs, refusal)
	}
	if o.Seq <= o.Acked || o.Seq > o.Acked+kv.MaxOpenCalls {
		return refResult{class: kv.ErrInvalid}
	}
	s := e.sessions[o.Client]
	if s == nil {
		if o.Entry > 0 {
			return refResult{class: ErrOutOfOrder}
		}
		s = &refSession{calls: make(map[uint64]*refCall)}
		e.sessions[o.Client] = s
	}
	s.last, s.index, s.acked = e.time, index, max(s.acked, o.Acked)
	for seq := range s.calls {
		if seq <= s.acked {
			delete(s.calls, seq)
		}
	}
	c := s.calls[o.Seq]
	switch {
	case o.Seq <= s.acked:
		return refResult{class: ErrForgotten}
	case c == nil && o.Entry > 0, c != nil && int(o.Entry) > len(c.results):
		return refResult{class: ErrOutOfOrder}
	case c != nil && int(o.Entry) < len(c.results):
		return c.results[o.Entry]
	case c == nil:
		c = &refCall{}
		s.calls[o.Seq] = c
	}
	r := e.perform(index, w, c, pairs, refusal)
	c.results = append(c.results, r)
	return r
}

func (e *expected) perform(index uint64, w *kv.Write, c *refCall, pairs []kv.Pair, refusal error) refResult {
	large := w.Kind == kv.KindPiece || w.Kind == kv.KindLast
	if refusal != nil {
		if large {
			c.aside = ""
		}
		return refResult{class: refusal}
	}
	if large {
		return e.large(index, w, c, pairs[0])
	}
	for _, p := range pairs {
		name := pairName(w.Bucket, p.Key)
		switch w.Kind {
		case kv.KindSet:
			e.pairs[name] = refPair{string(p.Value), index}
		case kv.KindDelete:
			delete(e.pairs, name)
		case kv.KindIncrement:
			return e.increment(index, name, w.Delta)
		case kv.KindSwap:
			return e.swap(index, name, w.Version, string(p.Value))
		}
	}
	return refResult{}
}

func (e *expected) increment(index uint64, name string, delta int64) refResult {
	n := new(big.Int)
	if old, ok := e.pairs[name]; ok {
		if _, isNumber := n.SetString(old.value, 10); !isNumber || n.String() != old.value || !n.IsInt64() {
			return refResult{class: kv.ErrInvalid}
		}
	}
	if n.Add(n, big.NewInt(delta)); !n.IsInt64() {
		return refResult{class: kv.ErrInvalid}
	}
	e.pairs[name] = refPair{n.String(), index}
	return refResult{value: uint64(n.Int64())}
}

func (e *expected) swap(index uint64, name string, version uint64, value string) refResult {
	if at := e.pairs[name].version; at != version {
		return refResult{class: kv.ErrConflict, value: at}
	}
	e.pairs[name] = refPair{value, index}
	return refResult{value: index}
}

func (e *expected) large(index uint64, w *kv.Write, c *refCall, p kv.Pair) refResult {
	if w.Offset == 0 {
		c.aside = ""
	}
	if w.Offset != uint64(len(c.aside)) || c.aside != "" && (c.bucket != w.Bucket || c.key != p.Key) {
		c.aside = ""
		return refResult{class: kv.ErrInvalid}
	}
	value := c.aside + string(p.Value)
	c.bucket, c.key, c.aside = w.Bucket, p.Key, ""
	switch {
	case w.Kind == kv.KindPiece:
		c.aside = value
		return refResult{}
	case w.Swaps:
		return e.swap(index, pairName(w.Bucket, p.Key), w.Version, value)
	default:
		e.pairs[pairName(w.Bucket, p.Key)] = refPair{value, index}
		return refResult{}
	}
}

// checkSessions compares a machine's sessions with their rows.
func checkSessions(t tb, d *Data) {
	t.Helper()
	if err := d.drain(); err != nil {
		t.Fatalf("shard %d: %v", d.shard, err)
	}
	stored, err := loadSessions(d.store.db, d.shard, d.rec.time, d.rec.Index)
	if err != nil {
		t.Fatalf("shard %d: %v", d.shard, err)
	}
	if got, want := describe(d.sessions), describe(stored); !slices.Equal(got, want) {
		t.Fatalf("shard %d has the sessions\n%q, on disk are\n%q", d.shard, got, want)
	}
}

func describe(ss *sessions) (all []string) {
	for el := ss.order.Front(); el != nil; el = el.Next() {
		s := el.Value.(*session)
		all = append(all, fmt.Sprintf("%d: %x", s.client, s.append(nil)))
	}
	return all
}

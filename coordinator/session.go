package coordinator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/manykv/manykv/kv"
)

const (
	// retryWindow is how long after a call began it may be sent: no copy shall be
	// on its way when the shards forget the session (after 1 h without an entry).
	retryWindow = 5 * time.Minute
	// heldCalls and heldBytes bound the calls of unknown outcome that wait for a
	// Retry: a quarter of the calls that may be open, and the commands of two of the
	// largest batches.
	heldCalls = kv.MaxOpenCalls / 4
	heldBytes = 64 << 20
)

// path is the way of a session's calls to the shards: a Coordinator, or a Through.
type path interface {
	newClient(ctx context.Context) (uint64, error)
	// carry does what it can until ctx ends, and returns why not all of the call
	// is settled; nil if it is.
	carry(ctx context.Context, w *call) error
	limits() kv.Limits
}

// Session is who writes: it numbers the calls of one client, by which the shards
// apply each of them once, however often it is sent. It is safe for concurrent
// use and owns no goroutine between calls.
type Session struct {
	path path

	client atomic.Uint64 // id; 0 until the first write
	asking chan struct{} // full while somebody asks for it

	mu        sync.Mutex // guards what is below
	last      uint64     // number of the newest call
	lowest    uint64     // number of the oldest open call; last+1 if none is
	open      map[uint64]*call
	held      []*call // open, of unknown outcome, with nobody at work on them; the oldest first
	heldBytes int
	moved     chan struct{} // closed when lowest grows; nil if nobody waits
}

// NewSession returns a session of writes through c.
func (c *Coordinator) NewSession() *Session { return newSession(c) }

// NewSession returns a session of writes through the node.
func (t *Through) NewSession() *Session { return newSession(t) }

func newSession(p path) *Session {
	return &Session{path: p, asking: make(chan struct{}, 1), lowest: 1, open: make(map[uint64]*call)}
}

// SetMany sets all pairs; the last occurrence of a key wins. An error is a
// *kv.BatchError unless the call was refused before anything was sent.
func (s *Session) SetMany(ctx context.Context, bucket uint64, pairs []kv.Pair) error {
	if err := s.path.limits().CheckPairs(pairs); err != nil {
		return err
	}
	_, err := s.do(ctx, &call{op: OpSet, bucket: bucket, size: len(pairs), pairs: pairs})
	return err
}

// DeleteMany deletes all keys and skips missing ones. Errors as SetMany's.
func (s *Session) DeleteMany(ctx context.Context, bucket uint64, keys []string) error {
	if err := s.path.limits().CheckKeys(keys); err != nil {
		return err
	}
	_, err := s.do(ctx, &call{op: OpDelete, bucket: bucket, size: len(keys), keys: keys})
	return err
}

// Increment adds delta to the decimal number that is key's value, 0 if it has
// none, and returns the sum. kv.ErrInvalid if the value is no number or the sum
// is not one of 64 bits. Errors as SetMany's.
func (s *Session) Increment(ctx context.Context, bucket uint64, key string, delta int64) (int64, error) {
	keys := []string{key}
	if err := s.path.limits().CheckKeys(keys); err != nil {
		return 0, err
	}
	sum, err := s.do(ctx, &call{op: OpIncrement, bucket: bucket, size: 1, keys: keys, delta: delta})
	return int64(sum), err
}

// CompareAndSwap sets a pair if its key has a version, 0 for a key that is not
// there, and returns the new version; kv.ErrConflict if it has another. Errors as
// SetMany's.
func (s *Session) CompareAndSwap(ctx context.Context, bucket, version uint64, pair kv.Pair) (uint64, error) {
	pairs := []kv.Pair{pair}
	if err := s.path.limits().CheckPairs(pairs); err != nil {
		return 0, err
	}
	return s.do(ctx, &call{op: OpSwap, bucket: bucket, size: 1, pairs: pairs, version: version})
}

// Retry sends those parts of a write of this session again whose outcome was
// unknown, as the same call: what was applied is not applied a second time, and what
// was not applied is not begun. failed is the write's error, or Retry's own. nil
// says that all of the write is applied now, and value is the sum of an increment or
// the new version of a swap; an error is a *kv.BatchError as the write's was. kv.ErrInvalid if the call cannot be sent again: because it is
// none of this session, because its outcome is known, because it began more than
// 5 minutes ago or because too many others are kept (256, or 64 MiB).
func (s *Session) Retry(ctx context.Context, failed error) (value int64, err error) {
	w, err := s.resume(failed)
	if err != nil {
		return 0, err
	}
	ctx, done := context.WithDeadline(ctx, w.began.Add(retryWindow))
	defer done()
	v, err := s.end(w, s.path.carry(ctx, w))
	return int64(v), err
}

// do makes a call.
func (s *Session) do(ctx context.Context, w *call) (value uint64, err error) {
	if w.size == 0 {
		return 0, nil
	}
	w.began, w.known = time.Now(), make([]state, w.size)
	ctx, done := context.WithDeadline(ctx, w.began.Add(retryWindow))
	defer done()
	if err := s.begin(ctx, w); err != nil {
		return 0, w.result(err)
	}
	return s.end(w, s.path.carry(ctx, w))
}

// begin gives a call its number, once there is one.
func (s *Session) begin(ctx context.Context, w *call) error {
	client, err := s.id(ctx)
	if err != nil {
		return err
	}
	w.entry = s.path.limits().EntryBytes
	for {
		wait := s.enter(w, client)
		if wait == nil {
			return nil
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return fmt.Errorf("%w: %d calls are under way: %w", kv.ErrUnavailable, kv.MaxOpenCalls, context.Cause(ctx))
		}
	}
}

// id returns the client's id. The first call asks for it, and the others wait: an
// id that nobody uses is no harm, so a lost answer is asked for again.
func (s *Session) id(ctx context.Context) (uint64, error) {
	if id := s.client.Load(); id != 0 {
		return id, nil
	}
	select {
	case s.asking <- struct{}{}:
		defer func() { <-s.asking }()
	case <-ctx.Done():
		return 0, fmt.Errorf("%w: no client id yet: %w", kv.ErrUnavailable, context.Cause(ctx))
	}
	if id := s.client.Load(); id != 0 {
		return id, nil
	}
	id, err := s.path.newClient(ctx)
	if err != nil {
		return 0, err
	}
	s.client.Store(id)
	return id, nil
}

// enter gives a call its number. If there is none it returns what is closed when
// one may be free: a call that is held makes room, one under way is waited for.
func (s *Session) enter(w *call, client uint64) (wait <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	for s.last+1 >= s.lowest+kv.MaxOpenCalls {
		oldest := s.open[s.lowest]
		if !oldest.held {
			if s.moved == nil {
				s.moved = make(chan struct{})
			}
			return s.moved
		}
		s.giveUp(oldest)
	}
	s.last++
	w.origin = kv.Origin{Client: client, Seq: s.last, Acked: s.lowest - 1}
	s.open[s.last] = w
	return nil
}

// end closes a call, or holds it for a Retry, and returns what its caller hears.
func (s *Session) end(w *call, cause error) (value uint64, err error) {
	err = w.result(cause)
	held := s.settle(w)
	if err == nil {
		return w.value, nil
	}
	var batch *kv.BatchError
	if held && errors.As(err, &batch) {
		batch.Call, batch.Err = w.origin.Seq, &heldError{batch.Err, s}
	}
	return 0, err
}

// heldError is the cause of a write that its session holds: by it the session
// knows its own calls.
type heldError struct {
	error
	session *Session
}

func (e *heldError) Unwrap() error { return e.error }

// settle closes a call or holds it; true if it is held.
func (s *Session) settle(w *call) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	if !slices.Contains(w.known, maybe) || w.late() || w.bytes > heldBytes {
		s.release(w)
		return false
	}
	w.held, w.keys, w.pairs = true, nil, nil // they are in the commands
	s.held = append(s.held, w)
	s.heldBytes += w.bytes
	for len(s.held) > heldCalls || s.heldBytes > heldBytes {
		s.giveUp(s.held[0])
	}
	return true
}

// resume takes up a call that is held.
func (s *Session) resume(failed error) (*call, error) {
	var batch *kv.BatchError
	var of *heldError
	if !errors.As(failed, &batch) || !errors.As(failed, &of) || of.session != s {
		return nil, fmt.Errorf("%w: not the error of a write of this client that can be sent again", kv.ErrInvalid)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	w := s.open[batch.Call]
	switch {
	case w == nil:
		return nil, fmt.Errorf("%w: call %d is closed: what its error said of each key stands", kv.ErrInvalid, batch.Call)
	case !w.held:
		return nil, fmt.Errorf("%w: call %d is being sent again already", kv.ErrInvalid, batch.Call)
	}
	s.letGo(w)
	w.settling = true
	return w, nil
}

// expire gives up the held calls that may not be sent any more. Caller holds mu.
func (s *Session) expire() {
	for i := len(s.held) - 1; i >= 0; i-- {
		if w := s.held[i]; w.late() {
			s.giveUp(w)
		}
	}
}

// giveUp closes a held call: its outcome stays unknown. Caller holds mu.
func (s *Session) giveUp(w *call) {
	s.letGo(w)
	s.release(w)
}

// letGo takes a call from those held. Caller holds mu.
func (s *Session) letGo(w *call) {
	w.held = false
	s.held = slices.DeleteFunc(s.held, func(h *call) bool { return h == w })
	s.heldBytes -= w.bytes
}

// release closes a call: from now on the shards may forget it. Caller holds mu.
func (s *Session) release(w *call) {
	delete(s.open, w.origin.Seq)
	before := s.lowest
	for s.lowest <= s.last && s.open[s.lowest] == nil {
		s.lowest++
	}
	if s.lowest > before && s.moved != nil {
		close(s.moved)
		s.moved = nil
	}
}

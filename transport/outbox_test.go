package transport

import (
	"bytes"
	"context"
	"errors"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// pageStream keeps what is written, one page per write.
type pageStream struct {
	pages  [][]byte
	closed bool
	err    error // of the next write
}

func (s *pageStream) Write(b []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	s.pages = append(s.pages, bytes.Clone(b))
	return len(b), nil
}

func (s *pageStream) SetWriteDeadline(time.Time) error { return nil }
func (s *pageStream) Close() error                     { s.closed = true; return nil }

func message(id uint64, n int) *outMessage {
	return &outMessage{header: header{kind: frameRequest, id: id, total: uint32(n)}, body: fill(n)}
}

// flush writes everything queued and returns the messages as the other side sees them, in order of completion.
func flush(t *testing.T, o *outbox) (ids []uint64, pages int) {
	t.Helper()
	o.finish()
	var s pageStream
	must(t, o.run(&s))
	if !s.closed {
		t.Fatal("stream not ended")
	}
	in := newInbox(bytes.NewReader(bytes.Join(s.pages, nil)), new(counters),
		func(header) (bool, error) { return true, nil }, frameRequest, frameResponse)
	for {
		h, body, err := in.next()
		if err != nil {
			return ids, len(s.pages)
		}
		if h.kind == frameCancel {
			continue
		}
		if !bytes.Equal(body, fill(int(h.total))) {
			t.Fatalf("message %d arrives changed", h.id)
		}
		ids = append(ids, h.id)
	}
}

func callOutbox() *outbox {
	return newOutbox(callQueueBytes, callShareBytes, false, nil, new(counters))
}

func wantIDs(t *testing.T, got []uint64, want ...uint64) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("arrived %v, want %v", got, want)
	}
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("arrived %v, want %v", got, want)
		}
	}
}

func TestOutboxTakesTurns(t *testing.T) {
	o := callOutbox()
	must(t, o.tryPush(message(1, 1<<20)))
	must(t, o.tryPush(message(2, 200<<10)))
	must(t, o.tryPush(message(3, 100)))
	must(t, o.tryPush(message(4, 0)))
	ids, _ := flush(t, o)
	wantIDs(t, ids, 3, 4, 2, 1)
}

func TestOutboxInOrder(t *testing.T) {
	o := newOutbox(callQueueBytes, callQueueBytes, true, nil, new(counters))
	for id, n := range []int{1 << 20, 0, 200 << 10, 100} {
		must(t, o.tryPush(message(uint64(id), n)))
	}
	ids, _ := flush(t, o)
	wantIDs(t, ids, 0, 1, 2, 3)
}

func TestOutboxPacksSmallMessages(t *testing.T) {
	o := callOutbox()
	const messages, size = 1000, 100
	for id := range uint64(messages) {
		must(t, o.tryPush(message(id, size)))
	}
	ids, pages := flush(t, o)
	if want := messages*(size+firstHeader)/batchBytes + 1; len(ids) != messages || pages != want {
		t.Fatalf("%d messages in %d writes, want %d in %d", len(ids), pages, messages, want)
	}
}

func TestOutboxBoundsBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutbox(1000, 500, false, nil, new(counters))
		must(t, o.tryPush(message(1, 400)))
		must(t, o.tryPush(message(2, 1<<20))) // counts 500
		if err := o.tryPush(message(3, 100)); !errors.Is(err, errOutboxFull) {
			t.Fatalf("got %v, want the outbox to be full", err)
		}
		// Who waits is served in order: the smaller one does not pass.
		pushed := make(chan uint64, 2)
		for _, m := range []*outMessage{message(4, 300), message(5, 1)} {
			go func() {
				must(t, o.push(t.Context(), m))
				pushed <- m.header.id
			}()
			synctest.Wait()
		}
		if len(pushed) != 0 {
			t.Fatalf("message %d was queued, want it to wait", <-pushed)
		}
		ended, cancel := context.WithCancel(t.Context())
		gaveUp := make(chan error, 1)
		go func() { gaveUp <- o.push(ended, message(6, 1)) }()
		synctest.Wait()
		cancel()
		if err := <-gaveUp; !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v, want context.Canceled", err)
		}
		batch, _ := o.fill(nil) // the first has gone
		synctest.Wait()
		if len(batch) == 0 || len(pushed) != 2 {
			t.Fatalf("%d of those who waited are queued, want 2", len(pushed))
		}
	})
}

func TestOutboxAbandon(t *testing.T) {
	o := callOutbox()
	untouched, begun, written := message(1, 100), message(2, 1<<20), message(3, 10)
	must(t, o.tryPush(begun))
	must(t, o.tryPush(written))
	o.fill(nil)
	must(t, o.tryPush(untouched))
	for what, test := range map[string]struct {
		m    *outMessage
		want bool
	}{"untouched": {untouched, false}, "begun": {begun, true}, "written": {written, true}} {
		if got := o.abandon(test.m); got != test.want {
			t.Errorf("%s: got started %t, want %t", what, got, test.want)
		}
	}
	if o.used != o.queueWeight() {
		t.Errorf("counts %d bytes, want %d", o.used, o.queueWeight())
	}
	var cancelled []uint64
	rest, _ := o.fill(nil)
	in := newInbox(bytes.NewReader(rest), new(counters), admitSmall, frameRequest)
	for {
		h, _, err := in.next()
		if err != nil {
			break
		}
		if h.kind != frameCancel {
			t.Fatalf("message %d was sent", h.id)
		}
		cancelled = append(cancelled, h.id)
	}
	if len(cancelled) != 2 || cancelled[0]+cancelled[1] != 5 {
		t.Fatalf("cancelled %v, want 2 and 3", cancelled)
	}
}

// queueWeight is what used must be.
func (o *outbox) queueWeight() (n int) {
	for _, m := range o.queue {
		if !m.gone {
			n += m.weight
		}
	}
	return n
}

func TestOutboxReleasesWhatItHolds(t *testing.T) {
	for what, finish := range map[string]func(*outbox){
		"written": func(o *outbox) { flush(t, o) },
		"closed":  func(o *outbox) { o.close(errors.New("gone")) },
		"dropped": func(o *outbox) { o.fill(nil); o.dropAnswer(1); o.dropAnswer(2); o.dropAnswer(3) },
	} {
		g := newGate(1 << 30)
		o := newOutbox(1<<20, 1<<20, false, g, new(counters))
		for id := range uint64(3) {
			m := message(id+1, 200<<10)
			m.held = 200 << 10
			g.charge(m.held)
			must(t, o.tryPush(m))
		}
		finish(o)
		if n := g.inUse(); n != 0 {
			t.Errorf("%s: %d bytes are still held", what, n)
		}
	}
	// What comes too late is let go of too.
	g := newGate(1 << 30)
	o := newOutbox(1<<20, 1<<20, false, g, new(counters))
	o.close(errors.New("gone"))
	m := message(1, 10)
	m.held = 10
	g.charge(m.held)
	if err := o.push(context.Background(), m); err == nil || g.inUse() != 0 {
		t.Errorf("late: got %v and %d bytes held, want an error and none", err, g.inUse())
	}
}

func TestOutboxCloseWakesEverybody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutbox(100, 100, false, nil, new(counters))
		must(t, o.tryPush(message(1, 76)))
		gone := errors.New("gone")
		pushed, ran := make(chan error, 1), make(chan error, 1)
		go func() { pushed <- o.push(t.Context(), message(2, 76)) }()
		synctest.Wait()
		o.close(gone)
		if err := <-pushed; !errors.Is(err, gone) {
			t.Fatalf("push: got %v, want %v", err, gone)
		}
		go func() { ran <- o.run(&pageStream{}) }()
		if err := <-ran; err != nil {
			t.Fatalf("run: got %v, want nil", err)
		}
	})
}

func TestOutboxReportsAStall(t *testing.T) {
	o := callOutbox()
	must(t, o.tryPush(message(1, 10)))
	err := o.run(&pageStream{err: os.ErrDeadlineExceeded})
	if code, reason := stallCode(err); code != codeStalled || reason != "you did not read for 10s" {
		t.Fatalf("got code %d, %q", code, reason)
	}
	if code, _ := stallCode(errors.New("broken")); code != codeClosed {
		t.Fatalf("got code %d, want %d", code, codeClosed)
	}
}

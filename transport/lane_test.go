package transport

import (
	"encoding/binary"
	"errors"
	"sync"
	"testing"
)

// mailbox keeps one-way messages in the order they came.
type mailbox struct {
	mu    sync.Mutex
	got   [][]byte
	froms []Identity
}

func (m *mailbox) receive(from Identity, msg []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.got = append(m.got, msg)
	m.froms = append(m.froms, from)
}

func (m *mailbox) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.got)
}

// connect sends until there is a connection, as a caller of Send does.
func connect(t *testing.T, from *Transport, to string) {
	t.Helper()
	eventually(t, "a connection", func() bool {
		l, err := from.linkTo(to)
		must(t, err)
		return l.peek() != nil
	})
}

func TestLanesKeepTheirOrder(t *testing.T) {
	w := newTown(t, "a")
	var box mailbox
	w.node("n1", func(c *Config) { c.Receive = box.receive })
	n2 := w.node("n2")
	if err := n2.Send("n1", LaneControl, []byte("first")); !errors.Is(err, ErrNotSent) {
		t.Fatalf("before there is a connection: got %v, want ErrNotSent", err)
	}
	connect(t, n2, "n1")
	const messages = 3000
	for i := range uint64(messages) {
		for _, lane := range []Lane{LaneControl, LaneData} {
			// Every hundredth is cut into frames, which the small ones behind must not pass.
			msg := make([]byte, 16, 16+2*batchBytes)
			if lane == LaneData && i%100 == 0 {
				msg = msg[:cap(msg)]
			}
			binary.BigEndian.PutUint64(msg, uint64(lane))
			binary.BigEndian.PutUint64(msg[8:], i)
			must(t, n2.Send("n1", lane, msg))
		}
	}
	eventually(t, "all arrive", func() bool { return box.count() == 2*messages })
	var next [laneCount]uint64
	for i, msg := range box.got {
		lane, n := binary.BigEndian.Uint64(msg), binary.BigEndian.Uint64(msg[8:])
		if n != next[lane] {
			t.Fatalf("lane %d: got message %d, want %d", lane, n, next[lane])
		}
		next[lane]++
		if box.froms[i] != n2.Self() {
			t.Fatalf("message from %s, want %s", box.froms[i], n2.Self())
		}
	}
}

func TestFullLaneRefuses(t *testing.T) {
	w := newTown(t, "a")
	release := make(chan struct{})
	w.node("n1", func(c *Config) {
		c.Receive = func(Identity, []byte) { <-release }
	})
	defer close(release)
	n2 := w.node("n2")
	connect(t, n2, "n1")
	msg := fill(1 << 20)
	most := (dataQueueBytes + maxConnWindow) / len(msg) // queued here, and on its way
	var sent int
	for sent <= most {
		if err := n2.Send("n1", LaneData, msg); err != nil {
			if !errors.Is(err, ErrNotSent) {
				t.Fatalf("got %v, want ErrNotSent", err)
			}
			break
		}
		sent++
	}
	if sent < dataQueueBytes/len(msg)-1 || sent > most {
		t.Fatalf("%d MiB queued before the lane refused, want about %d", sent, dataQueueBytes>>20)
	}
	must(t, n2.Send("n1", LaneControl, []byte("passes"))) // the other lane is not full
	_, err := n2.Call(testContext(t), "n1", 1, fill(1000))
	must(t, err)
}

func TestWhoMayNotSend(t *testing.T) {
	w := newTown(t, "a")
	w.node("n1")
	if err := w.client("c1").Send("n1", LaneControl, nil); !errors.Is(err, ErrNotSent) {
		t.Errorf("client: got %v, want ErrNotSent", err)
	}
	n2 := w.node("n2")
	for what, err := range map[string]error{
		"no such lane": n2.Send("n1", laneCount, nil),
		"too large":    n2.Send("n1", LaneData, make([]byte, defaultMaxMessage+1)),
		"no such node": n2.Send("n9", LaneData, nil),
	} {
		if !errors.Is(err, ErrNotSent) {
			t.Errorf("%s: got %v, want ErrNotSent", what, err)
		}
	}
	if refused := n2.Stats().RefusedSends; refused != 3 {
		t.Errorf("counted %d refused sends, want 3", refused)
	}
}

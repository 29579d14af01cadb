package transport

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
)

func TestOverBudgetIsRefusedAtOnce(t *testing.T) {
	w := newTown(t, "a")
	h := newWaiting()
	n1 := w.node("n1", func(c *Config) { c.Handle, c.InflightBytes = h.handle, 1000 })
	c := w.client("c1")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		_, err := c.Call(ctx, "n1", 1, fill(900))
		done <- err
	}()
	receive(t, "handler begins", h.began)
	_, err := c.Call(testContext(t), "n1", 1, fill(101))
	wantRemote(t, err, CodeRefused, "1000")
	cancel()
	receive(t, "first call returns", done)
	receive(t, "first handler ends", h.ended)
	eventually(t, "the budget is free again", func() bool { return n1.Stats().InflightBytes == 0 })
	if s := n1.Stats(); s.Served != 1 || s.RefusedCalls != 1 {
		t.Fatalf("ran %d handlers and refused %d calls, want 1 and 1", s.Served, s.RefusedCalls)
	}
}

func wantRemote(t *testing.T, err error, code Code, words ...string) {
	t.Helper()
	remote, ok := errors.AsType[*RemoteError](err)
	if !ok || remote.Code != code || !containsAll(remote.Message, words) {
		t.Fatalf("got %v, want %s with %q", err, code, words)
	}
}

func TestTooManyCallsOfOneClient(t *testing.T) {
	w := newTown(t, "a")
	began, release := make(chan struct{}, maxClientCalls), make(chan struct{})
	n1 := w.node("n1", func(c *Config) {
		c.Handle = func(context.Context, Identity, byte, []byte) ([]byte, error) {
			began <- struct{}{}
			<-release
			return nil, nil
		}
	})
	c, other := w.client("c1"), w.client("c2")
	var group sync.WaitGroup
	for range maxClientCalls {
		group.Go(func() {
			if _, err := c.Call(testContext(t), "n1", 1, nil); err != nil {
				t.Error(err)
			}
		})
	}
	for range maxClientCalls {
		receive(t, "a handler runs", began)
	}
	_, err := c.Call(testContext(t), "n1", 1, nil)
	wantRemote(t, err, CodeRefused, fmt.Sprint(maxClientCalls))
	close(release)
	_, err = other.Call(testContext(t), "n1", 1, nil) // never full
	must(t, err)
	group.Wait()
	eventually(t, "all are done", func() bool { return n1.Stats().Served == maxClientCalls+1 })
}

func TestMessageLimit(t *testing.T) {
	w := newTown(t, "a")
	var box mailbox
	n1 := w.node("n1", func(c *Config) { c.MaxMessageBytes, c.Receive = 1000, box.receive })
	c, n2 := w.client("c1"), w.node("n2")
	_, err := c.Call(testContext(t), "n1", 1, fill(1000))
	must(t, err)
	// The other side's limit is lower than ours: it says so, and the connection stays.
	_, err = c.Call(testContext(t), "n1", 1, fill(200<<10))
	wantRemote(t, err, CodeDenied, "204800", "1000")
	// Our limit is lower than the answer.
	small := w.client("c2", func(c *Config) { c.MaxMessageBytes = 500 })
	w.node("n3", func(c *Config) {
		c.Handle = func(context.Context, Identity, byte, []byte) ([]byte, error) { return fill(501), nil }
	})
	_, err = small.Call(testContext(t), "n3", 1, nil)
	wantRemote(t, err, CodeFailed, "501", "500")
	// The answer is larger than the node's own limit.
	w.node("n4", func(c *Config) {
		c.MaxMessageBytes = 500
		c.Handle = func(context.Context, Identity, byte, []byte) ([]byte, error) { return fill(501), nil }
	})
	_, err = c.Call(testContext(t), "n4", 1, nil)
	wantRemote(t, err, CodeFailed, "501", "500")
	if n := c.Stats().Dials; n != 2 {
		t.Fatalf("dialled %d times, want the connections to survive", n)
	}
	// There is nobody to tell about a one-way message: the connection ends.
	connect(t, n2, "n1")
	must(t, n2.Send("n1", LaneData, fill(1001)))
	eventually(t, "the connection ends", func() bool { return n1.Stats().BadStreams == 1 })
	if box.count() != 0 {
		t.Fatal("the message was received, want it refused")
	}
}

func TestTooManyConnections(t *testing.T) {
	w := newTown(t, "a")
	n1 := w.node("n1")
	c := w.client("c1")
	n1.stats.accepted.Add(maxAccepted) // as if that many were there
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if _, err := c.Call(ctx, "n1", 1, nil); !errors.Is(err, ErrNotSent) || errors.Is(err, ErrIdentity) {
		t.Fatalf("got %v, want ErrNotSent", err)
	}
	n1.stats.accepted.Add(-maxAccepted)
	_, err := c.Call(testContext(t), "n1", 1, nil)
	must(t, err)
	if n := n1.Stats().Accepted; n != 1 {
		t.Fatalf("counts %d connections, want 1", n)
	}
}

// mute dials as a client that opens one call stream and leaves the rest to the test.
func mute(t *testing.T, w *town, to *Transport) (*quic.Conn, *quic.Stream) {
	t.Helper()
	creds, err := loadCredentials(filepath.Join(w.dir, "ca.crt"), clientCert(t, w, ".crt"), clientCert(t, w, ".key"))
	must(t, err)
	qc, err := stranger(t, to, creds.client(protoClient, ""))
	must(t, err)
	s, err := qc.OpenStream()
	must(t, err)
	hello := streamCall.hello()
	_, err = s.Write(hello[:])
	must(t, err)
	return qc, s
}

func TestClientThatDoesNotReadHurtsOnlyItself(t *testing.T) {
	w := newTown(t, "a")
	answer := fill(1 << 20)
	n1 := w.node("n1", func(c *Config) {
		c.Handle = func(context.Context, Identity, byte, []byte) ([]byte, error) { return answer, nil }
	})
	qc, s := mute(t, w, n1)
	const calls = 100 // more than its windows take, and more than the stream's queue
	for i := range uint64(calls) {
		_, err := s.Write(header{kind: frameRequest, id: i}.append(nil))
		must(t, err)
	}
	eventually(t, "its unread answers count", func() bool { return n1.Stats().InflightBytes > callQueueBytes })
	_, err := w.client("c2").Call(testContext(t), "n1", 1, nil)
	must(t, err)
	must(t, qc.CloseWithError(0, ""))
	eventually(t, "its answers are let go", func() bool { return n1.Stats().InflightBytes == 0 })
}

func TestBadFramesEndTheConnection(t *testing.T) {
	w := newTown(t, "a")
	n1 := w.node("n1")
	for what, test := range map[string]struct {
		bytes []byte
		words string
	}{
		"unknown kind": {header{kind: 9}.append(nil), "frame kind 9"},
		"an answer":    {header{kind: frameResponse}.append(nil), "kind 2 on a stream"},
		"huge frame": {
			header{kind: frameRequest, length: maxFrameBytes + 1, total: 1 << 30}.append(nil), "want at most 262144"},
		"same id twice": {
			append(header{kind: frameRequest, length: 1, total: 2, id: 5}.append(nil),
				append([]byte("x"), header{kind: frameRequest, length: 1, total: 2, id: 5}.append(nil)...)...),
			"message 5 begins twice"},
	} {
		qc, s := mute(t, w, n1)
		_, err := s.Write(test.bytes)
		must(t, err)
		badEnd(t, qc, "bad frame", test.words)
		eventually(t, what+" leaves nothing behind", func() bool { return n1.Stats().InflightBytes == 0 })
	}
}

package transport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"
)

func TestCallAnswersEverySize(t *testing.T) {
	w := newTown(t, "a")
	n1, n2, c := w.node("n1"), w.node("n2"), w.client("c1")
	sizes := []int{0, 1, minCutBytes, cutBytes - 1, cutBytes, cutBytes + 1, batchBytes + 1, maxFrameBytes + 1}
	for caller, sizes := range map[*Transport][]int{
		n1: sizes, // calls itself: one port, both ends
		n2: sizes,
		c:  append(sizes, 20<<20),
	} {
		for _, size := range sizes {
			req := fill(size)
			answer, err := caller.Call(testContext(t), "n1", 7, req)
			if err != nil {
				t.Fatalf("%s calls with %d bytes: %v", caller.Self(), size, err)
			}
			if !bytes.Equal(answer, req) {
				t.Fatalf("%s calls with %d bytes: got %d others", caller.Self(), size, len(answer))
			}
		}
	}
}

func TestCallTellsHandlerWhoAndWhat(t *testing.T) {
	w := newTown(t, "a")
	w.node("n1", func(c *Config) {
		c.Handle = func(_ context.Context, from Identity, method byte, req []byte) ([]byte, error) {
			return fmt.Appendf(nil, "%s %d %s", from, method, req), nil
		}
	})
	answer, err := w.client("c1").Call(testContext(t), "n1", 200, []byte("hello"))
	must(t, err)
	if got, want := string(answer), "manykv://a/client/c1 200 hello"; got != want {
		t.Fatalf("got %q, want %q", got, want)
	}
}

func TestCallAddrTellsWhoAnswered(t *testing.T) {
	w := newTown(t, "a")
	n1 := w.node("n1")
	addr := fmt.Sprintf("localhost:%d", n1.Addr().Port)
	answer, who, err := w.client("c1").CallAddr(testContext(t), addr, 1, []byte("x"))
	must(t, err)
	if who != n1.Self() || string(answer) != "x" {
		t.Fatalf("got %q from %s, want \"x\" from %s", answer, who, n1.Self())
	}
}

func TestThousandCallersShareOneConnection(t *testing.T) {
	w := newTown(t, "a")
	n1 := w.node("n1")
	n2 := w.node("n2")
	ctx := testContext(t)
	var group sync.WaitGroup
	for i := range 1000 {
		group.Go(func() {
			req := fill(i)
			answer, err := n2.Call(ctx, "n1", 1, req)
			if err != nil || !bytes.Equal(answer, req) {
				t.Errorf("caller %d: got %d bytes, %v", i, len(answer), err)
			}
		})
	}
	group.Wait()
	s := n2.Stats()
	if s.Dials != 1 || s.Dialled != 1 || n1.Stats().Accepted != 1 {
		t.Fatalf("got %d dials, %d connections here, %d there, want 1 of each", s.Dials, s.Dialled, n1.Stats().Accepted)
	}
	if s.WritesOut >= s.FramesOut {
		t.Fatalf("got %d writes for %d frames, want several frames to share one", s.WritesOut, s.FramesOut)
	}
}

func TestSmallCallOvertakesLargeOneOnTheSameStream(t *testing.T) {
	w := newTown(t, "a")
	const small, large = 1, 2
	arrived := make(chan byte, 8)
	w.node("n1", func(c *Config) {
		c.Handle = func(_ context.Context, _ Identity, method byte, _ []byte) ([]byte, error) {
			arrived <- method
			return nil, nil
		}
	})
	c := w.client("c1")
	ctx := testContext(t)
	_, err := c.Call(ctx, "n1", small, nil)
	must(t, err)
	receive(t, "first call", arrived)
	conn := c.byName["n1"].conn
	stream := conn.calls[0]
	before := c.Stats().BytesOut
	done := make(chan error, 1)
	go func() {
		_, err := stream.call(ctx, large, fill(32<<20))
		done <- err
	}()
	eventually(t, "the large call leaves", func() bool { return c.Stats().BytesOut > before })
	_, err = stream.call(ctx, small, fill(1024))
	must(t, err)
	must(t, receive(t, "large call", done))
	if first, second := <-arrived, <-arrived; first != small || second != large {
		t.Fatalf("arrived in order %d, %d, want %d, %d", first, second, small, large)
	}
}

func TestRemoteErrors(t *testing.T) {
	w := newTown(t, "a")
	answers := map[byte]error{
		1: errors.New("disk on fire"),
		2: &RemoteError{Code: CodeDenied, Message: "not you"},
		3: fmt.Errorf("wrapped: %w", &RemoteError{Code: 77, Message: "own code"}),
		4: errors.New(string(make([]byte, 3*maxErrorText))),
	}
	w.node("n1", func(c *Config) {
		c.Handle = func(_ context.Context, _ Identity, method byte, _ []byte) ([]byte, error) {
			return nil, answers[method]
		}
	})
	c := w.client("c1")
	want := map[byte]RemoteError{
		1: {CodeFailed, "disk on fire"},
		2: {CodeDenied, "not you"},
		3: {77, "own code"},
		4: {CodeFailed, string(make([]byte, maxErrorText))},
	}
	for method, want := range want {
		_, err := c.Call(testContext(t), "n1", method, nil)
		got, ok := errors.AsType[*RemoteError](err)
		if !ok || *got != want {
			t.Errorf("method %d: got %v, want %v", method, err, &want)
		}
		if text := want.Code.String() + ": " + want.Message; err.Error() != text {
			t.Errorf("method %d: says %q, want %q", method, err, text)
		}
		if errors.Is(err, ErrLost) || errors.Is(err, ErrNotSent) {
			t.Errorf("method %d: %v claims that there was no answer", method, err)
		}
	}
}

func TestCodeNames(t *testing.T) {
	for code, want := range map[Code]string{
		CodeRefused: "refused", CodeDenied: "denied", CodeFailed: "failed", 77: "code 77",
	} {
		if got := code.String(); got != want {
			t.Errorf("code %d: got %q, want %q", code, got, want)
		}
	}
}

// waiting is a handler that reports its context and waits for its end.
type waiting struct{ began, ended chan error }

func newWaiting() *waiting {
	return &waiting{began: make(chan error, 8), ended: make(chan error, 8)}
}

func (h *waiting) handle(ctx context.Context, _ Identity, _ byte, _ []byte) ([]byte, error) {
	h.began <- nil
	<-ctx.Done()
	h.ended <- ctx.Err()
	return nil, ctx.Err()
}

func TestCancelReachesTheHandler(t *testing.T) {
	w := newTown(t, "a")
	h := newWaiting()
	w.node("n1", func(c *Config) { c.Handle = h.handle })
	c := w.client("c1")
	ctx, cancel := context.WithCancel(testContext(t))
	done := make(chan error, 1)
	go func() {
		_, err := c.Call(ctx, "n1", 1, []byte("x"))
		done <- err
	}()
	receive(t, "handler begins", h.began)
	cancel()
	if err := receive(t, "call returns", done); !errors.Is(err, ErrLost) || !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want ErrLost and context.Canceled", err)
	}
	if err := receive(t, "handler ends", h.ended); !errors.Is(err, context.Canceled) {
		t.Fatalf("handler's context ended with %v, want context.Canceled", err)
	}
}

func TestDeadlineReachesTheHandler(t *testing.T) {
	w := newTown(t, "a")
	deadlines := make(chan time.Duration, 2)
	w.node("n1", func(c *Config) {
		c.Handle = func(ctx context.Context, _ Identity, _ byte, _ []byte) ([]byte, error) {
			at, ok := ctx.Deadline()
			if !ok {
				deadlines <- 0
				return nil, nil
			}
			deadlines <- time.Until(at)
			return nil, nil
		}
	})
	c := w.client("c1")
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	_, err := c.Call(ctx, "n1", 1, nil)
	must(t, err)
	if left := <-deadlines; left < 59*time.Minute || left > time.Hour+time.Second {
		t.Fatalf("handler has %s left, want an hour", left)
	}
	_, err = c.Call(context.Background(), "n1", 1, nil)
	must(t, err)
	if left := <-deadlines; left != 0 {
		t.Fatalf("handler has %s left, want no deadline", left)
	}
}

func TestHandlerEndsAtTheDeadlineItself(t *testing.T) {
	w := newTown(t, "a")
	h := newWaiting()
	n1 := w.node("n1", func(c *Config) { c.Handle = h.handle })
	// A caller that never sends a cancel frame.
	_, stream := mute(t, w, n1)
	_, err := stream.Write(header{kind: frameRequest, id: 1, deadline: 20}.append(nil))
	must(t, err)
	if err := receive(t, "handler ends", h.ended); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("handler's context ended with %v, want context.DeadlineExceeded", err)
	}
}

func TestHandlerEndsWithItsConnection(t *testing.T) {
	w := newTown(t, "a")
	h := newWaiting()
	w.node("n1", func(c *Config) { c.Handle = h.handle })
	c := w.client("c1")
	done := make(chan error, 1)
	go func() {
		_, err := c.Call(context.Background(), "n1", 1, nil)
		done <- err
	}()
	receive(t, "handler begins", h.began)
	c.Forget("n1")
	if err := receive(t, "call returns", done); !errors.Is(err, ErrLost) {
		t.Fatalf("got %v, want ErrLost", err)
	}
	receive(t, "handler ends", h.ended)
}

func TestCancelDropsHalfAnAnswer(t *testing.T) {
	w := newTown(t, "a")
	answer := fill(64 << 20)
	began := make(chan uint64, 1)
	c := w.client("c1")
	n1 := w.node("n1", func(cfg *Config) {
		cfg.Handle = func(context.Context, Identity, byte, []byte) ([]byte, error) {
			began <- c.Stats().BytesIn
			return answer, nil
		}
	})
	for range 3 {
		ctx, cancel := context.WithCancel(testContext(t))
		done := make(chan error, 1)
		go func() {
			_, err := c.Call(ctx, "n1", 1, nil)
			done <- err
		}()
		before := receive(t, "the handler runs", began)
		eventually(t, "the answer begins", func() bool { return c.Stats().BytesIn > before })
		cancel()
		if err := receive(t, "call returns", done); err != nil && !errors.Is(err, ErrLost) {
			t.Fatalf("got %v, want ErrLost", err)
		}
	}
	eventually(t, "the node lets go of the answers", func() bool { return n1.Stats().InflightBytes == 0 })
	if got := c.Stats().BytesIn; got >= 3*uint64(len(answer)) {
		t.Fatalf("%d bytes of unwanted answers came, want less than all %d", got, 3*len(answer))
	}
}

func TestCancelDropsHalfARequest(t *testing.T) {
	w := newTown(t, "a")
	n1 := w.node("n1")
	c := w.client("c1")
	_, err := c.Call(testContext(t), "n1", 1, nil)
	must(t, err)
	ctx, cancel := context.WithCancel(testContext(t))
	done := make(chan error, 1)
	go func() {
		_, err := c.Call(ctx, "n1", 1, fill(64<<20))
		done <- err
	}()
	eventually(t, "the request arrives", func() bool { return n1.Stats().InflightBytes > 0 })
	cancel()
	if err := receive(t, "call returns", done); err != nil && !errors.Is(err, ErrLost) {
		t.Fatalf("got %v, want ErrLost", err)
	}
	eventually(t, "the node lets go of the request", func() bool { return n1.Stats().InflightBytes == 0 })
	for range callStreams { // every stream still works
		_, err = c.Call(testContext(t), "n1", 1, fill(1000))
		must(t, err)
	}
}

func TestCallWithoutHopeIsNotSent(t *testing.T) {
	w := newTown(t, "a")
	n1 := w.node("n1")
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	c := w.client("c1")
	for what, call := range map[string]func() error{
		"unknown node":  func() error { _, err := c.Call(context.Background(), "n9", 1, nil); return err },
		"ended context": func() error { _, err := c.Call(ended, "n1", 1, nil); return err },
		"request too big": func() error {
			_, err := c.Call(context.Background(), "n1", 1, make([]byte, defaultMaxMessage+1))
			return err
		},
		"address without port": func() error {
			ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
			defer cancel()
			_, _, err := c.CallAddr(ctx, "127.0.0.1", 1, nil)
			return err
		},
	} {
		if err := call(); !errors.Is(err, ErrNotSent) || errors.Is(err, ErrLost) {
			t.Errorf("%s: got %v, want ErrNotSent", what, err)
		}
	}
	if served := n1.Stats().Served; served != 0 {
		t.Fatalf("%d handlers ran, want none", served)
	}
}

func TestCallsAfterClose(t *testing.T) {
	w := newTown(t, "a")
	w.node("n1")
	c := w.client("c1")
	_, err := c.Call(testContext(t), "n1", 1, nil)
	must(t, err)
	must(t, c.Close())
	_, err = c.Call(testContext(t), "n1", 1, nil)
	if !errors.Is(err, ErrNotSent) || !errors.Is(err, ErrClosed) {
		t.Fatalf("got %v, want ErrNotSent and ErrClosed", err)
	}
}

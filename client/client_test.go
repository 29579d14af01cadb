package client_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/manykv/manykv/client"
	"github.com/manykv/manykv/coordinator"
	"github.com/manykv/manykv/kv"
)

// elapsed runs f and returns how long it took.
func elapsed(f func()) time.Duration {
	began := time.Now()
	f()
	return time.Since(began)
}

// openFails opens a client that must fail, in the time it has.
func openFails(t *testing.T, cfg client.Config, want error, within time.Duration) error {
	t.Helper()
	var err error
	took := elapsed(func() { _, err = client.Open(t.Context(), cfg) })
	if !errors.Is(err, want) || took > within {
		t.Fatalf("%v after %v, want %v within %v", err, took, want, within)
	}
	return err
}

func TestOpenWithoutACluster(t *testing.T) {
	w := newTown(t, "test")
	nobody := silence(t)
	cfg := w.config(nobody)
	cfg.Timeout = 300 * time.Millisecond
	if err := openFails(t, cfg, kv.ErrUnavailable, long); !strings.Contains(err.Error(), nobody) {
		t.Errorf("%v does not say who was asked", err)
	}

	forming := w.node("n1")
	cfg.Addrs = []string{forming.addr}
	if err := openFails(t, cfg, kv.ErrUnavailable, long); !strings.Contains(err.Error(), "not formed") {
		t.Errorf("%v does not say what is missing", err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := client.Open(ctx, w.config(nobody)); !errors.Is(err, kv.ErrUnavailable) || ctx.Err() == nil {
		t.Errorf("the context's time is up: %v", err)
	}
}

// A certificate that is refused is not shown again and again.
func TestOpenWithTheWrongCertificate(t *testing.T) {
	w := newTown(t, "test")
	n := w.node("n1")
	w.form(n)
	for _, cluster := range []string{"test", "other"} {
		stranger := newTown(t, cluster)
		cfg := stranger.config(n.addr, silence(t))
		openFails(t, cfg, kv.ErrAccessDenied, long/2)
	}

	// A foreign node among the addresses is no harm while another answers.
	foreign := newTown(t, "other").node("n1")
	c := w.open(w.config(foreign.addr, n.addr))
	must(t, c.CreateBucket(t.Context(), "files"))
}

// A cluster that is being formed is waited for, even if one node never answers.
func TestOpenWaitsForTheCluster(t *testing.T) {
	w := newTown(t, "test")
	n := w.node("n1")
	asked := make(chan byte)
	n.hangs(func(method byte) { asked <- method })
	done := make(chan error, 1)
	var c *client.Client
	go func() {
		var err error
		c, err = client.Open(t.Context(), w.config(silence(t), n.addr))
		done <- err
	}()
	<-asked
	<-asked // it was told once that there is no map yet, and asks again
	w.form(n)
	for {
		select {
		case <-asked:
			continue
		case err := <-done:
			must(t, err)
		}
		break
	}
	must(t, c.Close())
}

// The first map that comes is taken; a node that hangs is not waited for.
func TestOpenTakesTheFirstMap(t *testing.T) {
	w := newTown(t, "test")
	hanging, n := w.node("n1"), w.node("n2")
	w.form(hanging, n)
	resume := make(chan struct{})
	defer close(resume)
	hanging.hangs(func(byte) { <-resume })
	if took := elapsed(func() { w.open(w.config(hanging.addr, n.addr)) }); took > time.Second { // a node has two to answer
		t.Errorf("it took %v", took)
	}
}

// Both ways to a cluster do the same.
func eachWay(t *testing.T, test func(t *testing.T, w *town, n *node, cfg client.Config)) {
	for _, through := range []bool{false, true} {
		name := map[bool]string{false: "direct", true: "through"}[through]
		t.Run(name, func(t *testing.T) {
			w := newTown(t, "test")
			n := w.node("n1")
			w.form(n)
			cfg := w.config(n.addr)
			cfg.Through = through
			test(t, w, n, cfg)
		})
	}
}

func TestBatches(t *testing.T) {
	eachWay(t, func(t *testing.T, w *town, _ *node, cfg client.Config) {
		ctx := t.Context()
		cfg.Limits.BatchKeys = 4
		c := w.open(cfg)
		must(t, c.CreateBucket(ctx, "files"))
		b, err := c.Bucket(ctx, "files")
		must(t, err)
		if b.Name() != "files" {
			t.Errorf("the bucket is called %q", b.Name())
		}
		must(t, b.SetMany(ctx, []kv.Pair{{Key: "a", Value: []byte("1")}, {Key: "", Value: nil}, {Key: "a", Value: []byte("2")}}))
		pairs, err := b.GetMany(ctx, []string{"a", "none", "", "a"})
		must(t, err)
		if len(pairs) != 4 || string(pairs[0].Value) != "2" || pairs[1] != nil || pairs[2].Key != "" || string(pairs[3].Value) != "2" {
			t.Errorf("got %v", pairs)
		}
		must(t, b.Delete(ctx, "a"))
		if value, found, err := b.Get(ctx, "a"); value != nil || found || err != nil {
			t.Errorf("a deleted key: %q, %v, %v", value, found, err)
		}
		if there, err := b.Exists(ctx, "a"); there || err != nil {
			t.Errorf("a deleted key exists: %v, %v", there, err)
		}
		must(t, b.Set(ctx, "b", []byte("3")))
		if value, found, err := b.Get(ctx, "b"); string(value) != "3" || !found || err != nil {
			t.Errorf("b is %q, %v, %v", value, found, err)
		}
		if there, err := b.Exists(ctx, "b"); !there || err != nil {
			t.Errorf("b exists: %v, %v", there, err)
		}
		must(t, b.DeleteMany(ctx, []string{"b", "none"}))
		if _, err := b.GetMany(ctx, make([]string, 5)); !errors.Is(err, kv.ErrTooLarge) {
			t.Errorf("five keys: %v", err)
		}
	})
}

func TestBuckets(t *testing.T) {
	eachWay(t, func(t *testing.T, w *town, _ *node, cfg client.Config) {
		ctx := t.Context()
		c := w.open(cfg)
		must(t, c.CreateBucket(ctx, "one"))
		must(t, c.CreateBucket(ctx, "two"))
		if err := c.CreateBucket(ctx, "two"); !errors.Is(err, kv.ErrExists) {
			t.Errorf("create it again: %v", err)
		}
		if err := c.DeleteBucket(ctx, "three"); !errors.Is(err, kv.ErrNoSuchStore) {
			t.Errorf("delete what is not there: %v", err)
		}
		if names, err := c.ListBuckets(ctx); err != nil || !slices.Equal(names, []string{"one", "two"}) {
			t.Errorf("buckets %q, %v", names, err)
		}
		if _, err := c.Bucket(ctx, "three"); !errors.Is(err, kv.ErrNoSuchStore) || !strings.Contains(err.Error(), "three") {
			t.Errorf("open what is not there: %v", err)
		}
		must(t, c.DeleteBucket(ctx, "one"))
		if _, err := c.Bucket(ctx, "one"); !errors.Is(err, kv.ErrNoSuchStore) {
			t.Errorf("open what was deleted: %v", err)
		}
	})
}

// A number is counted, a value is swapped by its version, keys are listed.
func TestAtomics(t *testing.T) {
	eachWay(t, func(t *testing.T, w *town, _ *node, cfg client.Config) {
		ctx := t.Context()
		c := w.open(cfg)
		must(t, c.CreateBucket(ctx, "files"))
		b, err := c.Bucket(ctx, "files")
		must(t, err)
		for _, want := range []int64{7, 14} {
			if n, err := b.Increment(ctx, "n", 7); n != want || err != nil {
				t.Errorf("the sum is %d, %v, want %d", n, err, want)
			}
		}
		if _, version, found, err := b.GetVersion(ctx, "v"); version != 0 || found || err != nil {
			t.Errorf("a missing key has version %d, %v, %v", version, found, err)
		}
		first, err := b.CompareAndSwap(ctx, "v", 0, []byte("1"))
		must(t, err)
		second, err := b.CompareAndSwap(ctx, "v", first, []byte("2"))
		must(t, err)
		var batch *kv.BatchError
		if _, err = b.CompareAndSwap(ctx, "v", first, []byte("3")); !errors.Is(err, kv.ErrConflict) || !errors.As(err, &batch) || batch.Outcomes[0] != kv.OutcomeNotApplied {
			t.Errorf("swap of an old version: %v", err)
		}
		if value, version, found, err := b.GetVersion(ctx, "v"); string(value) != "2" || version != second || !found || err != nil {
			t.Errorf("v is %q of %d, %v, %v", value, version, found, err)
		}
		must(t, b.SetMany(ctx, []kv.Pair{{Key: "a"}, {Key: "b"}, {Key: ""}}))
		keys, next, err := b.ListKeys(ctx, 0)
		if slices.Sort(keys); !slices.Equal(keys, []string{"", "a", "b", "n", "v"}) || next != 0 || err != nil {
			t.Errorf("keys %q, next %d, %v", keys, next, err)
		}
	})
}

// A write of unknown outcome is sent again as the same write, whoever asks.
func TestRetry(t *testing.T) {
	eachWay(t, func(t *testing.T, w *town, n *node, cfg client.Config) {
		ctx := t.Context()
		c := w.open(cfg)
		must(t, c.CreateBucket(ctx, "files"))
		b, err := c.Bucket(ctx, "files")
		must(t, err)
		if sum, err := b.Increment(ctx, "n", 1); sum != 1 || err != nil {
			t.Fatalf("the sum is %d, %v", sum, err)
		}
		resume := make(chan struct{})
		n.hangs(func(byte) { <-resume })
		brief, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		defer cancel()
		_, failed := b.Increment(brief, "n", 1)
		if !errors.Is(failed, kv.ErrUnknown) {
			t.Fatalf("without an answer: %v", failed)
		}
		close(resume)
		if sum, err := c.Retry(ctx, failed); sum != 2 || err != nil {
			t.Errorf("retried: the sum is %d, %v, want 2", sum, err)
		}
		if sum, err := b.Increment(ctx, "n", 1); sum != 3 || err != nil {
			t.Errorf("the sum is %d, %v, want 3", sum, err)
		}
		if _, err := c.Retry(ctx, failed); !errors.Is(err, kv.ErrInvalid) {
			t.Errorf("retried again: %v", err)
		}
	})
}

// The map is known although most of the addresses do not answer: who does has none
// that is newer.
func TestNodesWhileMostAreAway(t *testing.T) {
	w := newTown(t, "test")
	n := w.node("n1")
	w.form(n)
	c := w.open(w.config(silence(t), silence(t), n.addr))
	if m, err := c.Nodes(t.Context()); err != nil || len(m.Nodes) != 1 {
		t.Errorf("the map is %+v, %v", m, err)
	}
}

// Changes of the nodes go to the meta group's leader, hashes to the node itself,
// however the client sends its batches.
func TestNodes(t *testing.T) {
	eachWay(t, func(t *testing.T, w *town, n *node, cfg client.Config) {
		ctx := t.Context()
		c := w.open(cfg)
		m, err := c.Nodes(ctx)
		if err != nil || len(m.Nodes) != 1 || m.Nodes[0].ID != "n1" || len(m.Groups) != 2 {
			t.Fatalf("the map is %+v, %v", m, err)
		}
		w.mu.Lock()
		w.m = w.m.WithAddr("n1", n.addr)
		w.mu.Unlock()
		if again, err := c.Nodes(ctx); err != nil || again.Epoch != m.Epoch+1 {
			t.Errorf("the map is of epoch %d, %v, want %d", again.Epoch, err, m.Epoch+1)
		}
		must(t, c.AddNode(ctx, "h:1"))
		must(t, c.RemoveNode(ctx, "n2"))
		must(t, c.ReplaceNode(ctx, "n3", "h:3"))
		if err := c.RemoveNode(ctx, "stranger"); !errors.Is(err, kv.ErrInvalid) || !strings.Contains(err.Error(), "no node stranger") {
			t.Errorf("a stranger: %v", err)
		}
		if err := c.AddNode(ctx, ""); !errors.Is(err, kv.ErrInvalid) {
			t.Errorf("no address: %v", err)
		}
		want := []coordinator.NodeRequest{
			{Op: coordinator.NodeAdd, Addr: "h:1"}, {Op: coordinator.NodeRemove, Node: "n2"},
			{Op: coordinator.NodeReplace, Node: "n3", Addr: "h:3"}, {Op: coordinator.NodeRemove, Node: "stranger"},
		}
		w.mu.Lock()
		got := slices.Clone(w.changes)
		w.mu.Unlock()
		if !slices.Equal(got, want) {
			t.Errorf("asked for %+v, want %+v", got, want)
		}
		if index, term, hash, rows, err := c.Hash(ctx, "n1", 2); index != 1 || term != 2 || hash != 3 || rows != 2 || err != nil {
			t.Errorf("hash %d, %d, %d, %d, %v", index, term, hash, rows, err)
		}
		if _, _, _, _, err := c.Hash(ctx, "n9", 2); !errors.Is(err, kv.ErrUnavailable) {
			t.Errorf("the hash of nobody: %v", err)
		}
	})
}

// A node that hangs costs a call its time, and not more.
func TestCallsEndInTime(t *testing.T) {
	eachWay(t, func(t *testing.T, w *town, n *node, cfg client.Config) {
		ctx := t.Context()
		cfg.Timeout = 300 * time.Millisecond
		c := w.open(cfg)
		must(t, c.CreateBucket(ctx, "files"))
		b, err := c.Bucket(ctx, "files")
		must(t, err)
		must(t, b.Set(ctx, "a", nil)) // the client gets its id
		resume := make(chan struct{})
		defer close(resume)
		n.hangs(func(byte) { <-resume })
		check := func(what string, call func() error, want error) {
			t.Helper()
			took := elapsed(func() { err = call() })
			if !errors.Is(err, want) || took > long/2 {
				t.Errorf("%s: %v after %v, want %v", what, err, took, want)
			}
		}
		check("get", func() error { _, _, err := b.Get(ctx, "a"); return err }, kv.ErrUnavailable)
		check("set", func() error { return b.Set(ctx, "a", nil) }, kv.ErrUnknown)
		var batch *kv.BatchError
		if !errors.As(err, &batch) || !slices.Equal(batch.Outcomes, []kv.Outcome{kv.OutcomeUnknown}) {
			t.Errorf("set: %v, want one unknown outcome", err)
		}
		check("create", func() error { return c.CreateBucket(ctx, "two") }, kv.ErrUnknown)
		short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		defer cancel()
		check("get in less", func() error { _, _, err := b.Get(short, "a"); return err }, context.DeadlineExceeded)
	})
}

// Timeout is for calls whose context has no deadline.
func TestTheContextsDeadlineCounts(t *testing.T) {
	eachWay(t, func(t *testing.T, _ *town, _ *node, cfg client.Config) {
		cfg.Timeout = time.Nanosecond
		if _, err := client.Open(t.Context(), cfg); !errors.Is(err, kv.ErrUnavailable) {
			t.Errorf("opened in a nanosecond: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), long)
		defer cancel()
		c, err := client.Open(ctx, cfg)
		must(t, err)
		defer c.Close()
		must(t, c.CreateBucket(ctx, "files"))
		if names, err := c.ListBuckets(t.Context()); !errors.Is(err, kv.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("listed in a nanosecond: %q, %v", names, err)
		}
	})
}

// A dead node does not hide the others, and one that talks nonsense has no
// status.
func TestStatus(t *testing.T) {
	w := newTown(t, "test")
	n1, n3 := w.node("n1"), w.node("n3")
	dead, mad := &node{name: "n2", addr: silence(t)}, w.node("n4")
	mad.status = []byte("no JSON")
	w.form(n1, dead, n3, mad)
	c := w.open(w.config(n1.addr))
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	all, err := c.Status(ctx)
	must(t, err)
	if len(all) != 4 {
		t.Fatalf("%d nodes, want 4", len(all))
	}
	for i, n := range []*node{n1, dead, n3, mad} {
		s := all[i]
		fails := n == dead || n == mad
		if string(s.Node) != n.name || s.Addr != n.addr || (s.Status == nil) != fails || (s.Err != nil) != fails {
			t.Errorf("node %s is %+v", n.name, s)
		}
		if s.Status != nil && (s.Status.Node != s.Node || s.Status.State != "serving") {
			t.Errorf("node %s says %+v", n.name, s.Status)
		}
	}
}

// Through asks another node when the first cannot be reached, and stays with
// the one that answered.
func TestThroughFailsOver(t *testing.T) {
	w := newTown(t, "test")
	n := w.node("n1")
	w.form(n)
	cfg := w.config(silence(t), n.addr)
	cfg.Through = true
	c := w.open(cfg)
	ctx := t.Context()
	must(t, c.CreateBucket(ctx, "files")) // finds out
	var b *client.Bucket
	took := elapsed(func() {
		var err error
		b, err = c.Bucket(ctx, "files")
		must(t, err)
		must(t, b.Set(ctx, "a", []byte("1")))
	})
	if took > 400*time.Millisecond { // less than the wait for a connection
		t.Errorf("the next calls took %v: they asked the dead node again", took)
	}
	if value, found, err := b.Get(ctx, "a"); string(value) != "1" || !found || err != nil {
		t.Errorf("a is %q, %v, %v", value, found, err)
	}
}

// Through waits for a node that is restarted, as long as it has not taken the
// request.
func TestThroughWaitsForANode(t *testing.T) {
	w := newTown(t, "test")
	n := w.node("n1")
	w.form(n)
	cfg := w.config(n.addr)
	cfg.Through = true
	c := w.open(cfg)
	ctx := t.Context()
	must(t, c.CreateBucket(ctx, "files"))
	b, err := c.Bucket(ctx, "files")
	must(t, err)
	must(t, n.trans.Close())
	brief, cancel := context.WithTimeout(ctx, 700*time.Millisecond) // longer than the wait for a connection
	defer cancel()
	var batch *kv.BatchError
	if err := b.Set(brief, "a", nil); !errors.Is(err, kv.ErrUnavailable) || !errors.As(err, &batch) || brief.Err() == nil {
		t.Errorf("%v, want it not applied when the time is up", err)
	}
	done := make(chan error, 1)
	go func() { done <- b.Set(ctx, "a", []byte("1")) }()
	n.listen(n.addr)
	must(t, <-done)
	if value, _ := w.value("a"); string(value) != "1" {
		t.Errorf("a is %q", value)
	}
}

// A write that was under way when its node went away is sent to another, and
// applied once. The next call asks that one.
func TestThroughSendsAgain(t *testing.T) {
	w := newTown(t, "test")
	arrived, ended := make(chan struct{}), make(chan struct{})
	n1, n2 := w.node("n1"), w.node("n2")
	w.form(n1, n2)
	cfg := w.config(n1.addr, n2.addr)
	cfg.Through = true
	c := w.open(cfg)
	ctx := t.Context()
	must(t, c.CreateBucket(ctx, "files"))
	b, err := c.Bucket(ctx, "files")
	must(t, err)
	var batches atomic.Int32
	if n, err := b.Increment(ctx, "n", 1); n != 1 || err != nil {
		t.Fatalf("the sum is %d, %v", n, err)
	}
	n1.applies(func(method byte) {
		if method == coordinator.MethodBatch {
			close(arrived)
			<-ended
		}
	})
	n2.hangs(func(method byte) {
		if method == coordinator.MethodBatch {
			batches.Add(1)
		}
	})
	done := make(chan error, 1)
	go func() {
		n, err := b.Increment(ctx, "n", 1)
		if n != 2 {
			t.Errorf("the sum is %d, want 2", n)
		}
		done <- err
	}()
	<-arrived
	closed := make(chan error, 1)
	go func() { closed <- n1.trans.Close() }() // it ends once the handler may
	must(t, <-done)
	close(ended)
	must(t, <-closed)
	if n := batches.Load(); n != 1 {
		t.Errorf("the write was sent to the other node %d times, want once", n)
	}
	if took := elapsed(func() { must(t, b.Set(ctx, "a", []byte("2"))) }); took > 400*time.Millisecond { // less than the wait for a connection
		t.Errorf("the next call took %v: it asked the lost node again", took)
	}
	if value, _ := w.value("n"); string(value) != "2" {
		t.Errorf("n is %q", value)
	}
}

// After Close nothing is sent any more, and closing twice is no error.
func TestClose(t *testing.T) {
	eachWay(t, func(t *testing.T, w *town, _ *node, cfg client.Config) {
		c, err := client.Open(t.Context(), cfg)
		must(t, err)
		must(t, c.CreateBucket(t.Context(), "files"))
		b, err := c.Bucket(t.Context(), "files")
		must(t, err)
		must(t, c.Close())
		must(t, c.Close())
		if took := elapsed(func() { err = b.Set(t.Context(), "a", nil) }); took > long/2 {
			t.Errorf("a set after Close failed after %v", took)
		}
		var batch *kv.BatchError
		if !errors.Is(err, kv.ErrUnavailable) || !errors.As(err, &batch) || batch.Outcomes[0] != kv.OutcomeNotApplied {
			t.Errorf("a set after Close: %v, want it not applied", err)
		}
		if value, found := w.value("a"); found {
			t.Errorf("a is %q", value)
		}
	})
}

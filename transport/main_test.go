package transport

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/manykv/manykv/transport/pki"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// testWait is far longer than anything here takes: reaching it is a failure, not a measurement.
const testWait = 15 * time.Second

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testWait)
	t.Cleanup(cancel)
	return ctx
}

// town is a cluster's certificates and where its nodes are.
type town struct {
	t   testing.TB
	dir string

	mu    sync.Mutex
	where map[string]string
}

func newTown(t testing.TB, cluster string) *town {
	t.Helper()
	dir := t.TempDir()
	must(t, pki.NewCA(dir, cluster))
	return &town{t: t, dir: dir, where: make(map[string]string)}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (w *town) resolve(node string) (string, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	addr, ok := w.where[node]
	return addr, ok
}

func (w *town) settle(node, addr string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.where[node] = addr
}

// config is that of a process with a certificate of its own, made on first use.
func (w *town) config(name string, role Role) Config {
	w.t.Helper()
	cert := filepath.Join(w.dir, name+".crt")
	issue := func(dir, name string) error { return pki.IssueNode(dir, name, nil) }
	if role == RoleClient {
		issue = pki.IssueClient
	}
	if err := issue(w.dir, name); err != nil && !strings.Contains(err.Error(), "exist") {
		w.t.Fatal(err)
	}
	return Config{
		Listen:   "127.0.0.1:0",
		CAFile:   filepath.Join(w.dir, "ca.crt"),
		CertFile: cert,
		KeyFile:  filepath.Join(w.dir, name+".key"),
		Accept:   role == RoleNode,
		Resolve:  w.resolve,
		Handle:   echo,
	}
}

func echo(_ context.Context, _ Identity, _ byte, req []byte) ([]byte, error) { return req, nil }

// open starts a process and registers it as a node if it is one.
func (w *town) open(name string, role Role, change ...func(*Config)) *Transport {
	w.t.Helper()
	cfg := w.config(name, role)
	for _, f := range change {
		f(&cfg)
	}
	t, err := Open(cfg)
	must(w.t, err)
	w.t.Cleanup(func() { must(w.t, t.Close()) })
	if role == RoleNode {
		w.settle(name, t.Addr().String())
	}
	return t
}

func (w *town) node(name string, change ...func(*Config)) *Transport {
	w.t.Helper()
	return w.open(name, RoleNode, change...)
}

func (w *town) client(name string, change ...func(*Config)) *Transport {
	w.t.Helper()
	return w.open(name, RoleClient, change...)
}

// fill makes n bytes that differ from place to place, so that a lost or doubled piece shows.
func fill(n int) []byte {
	b := make([]byte, 0, n+8)
	for i := uint64(1); len(b) < n; i++ {
		b = binary.LittleEndian.AppendUint64(b, i*0x9e3779b97f4a7c15)
	}
	return b[:n]
}

// logLines collects what a transport logs.
type logLines struct {
	mu    sync.Mutex
	lines []string
	grew  chan struct{}
}

func newLogLines() *logLines { return &logLines{grew: make(chan struct{}, 1)} }

func (l *logLines) Write(b []byte) (int, error) {
	l.mu.Lock()
	l.lines = append(l.lines, string(b))
	l.mu.Unlock()
	select {
	case l.grew <- struct{}{}:
	default:
	}
	return len(b), nil
}

func (l *logLines) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// await waits for a line that holds all the words.
func (l *logLines) await(t *testing.T, words ...string) {
	t.Helper()
	timeout := time.After(testWait)
	for {
		l.mu.Lock()
		lines := append([]string(nil), l.lines...)
		l.mu.Unlock()
		for _, line := range lines {
			if containsAll(line, words) {
				return
			}
		}
		select {
		case <-l.grew:
		case <-timeout:
			t.Fatalf("no log line with %q in %q", words, lines)
		}
	}
}

func containsAll(s string, words []string) bool {
	for _, w := range words {
		if !strings.Contains(s, w) {
			return false
		}
	}
	return true
}

// eventually polls what has no channel to wait on: counters, and the operating system.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(testWait)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", testWait, what)
		}
		<-tick.C
	}
}

func receive[T any](t *testing.T, what string, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(testWait):
		t.Fatalf("not within %s: %s", testWait, what)
		panic(fmt.Sprint("unreachable: ", what))
	}
}

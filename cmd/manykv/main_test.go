package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

// beProgram in the environment makes this test binary the program: the tests
// of whole clusters run it, and `up` runs it in turn.
const beProgram = "BE_THE_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(beProgram) != "" {
		main()
	}
	goleak.VerifyTestMain(m)
}

// result is what a script sees of a run.
type result struct {
	code           int
	stdout, stderr string
}

// runHere runs the program in this process.
func runHere(t *testing.T, environment map[string]string, args ...string) result {
	t.Helper()
	p, stdout, stderr := newProgram("")
	p.lookupEnv = func(name string) (string, bool) {
		value, ok := environment[name]
		return value, ok
	}
	code := p.run(t.Context(), args)
	return result{code, stdout.String(), stderr.String()}
}

func newProgram(stdin string) (p *program, stdout, stderr *bytes.Buffer) {
	stdout, stderr = &bytes.Buffer{}, &bytes.Buffer{}
	p = &program{
		stdin: strings.NewReader(stdin), stdout: &printer{w: stdout}, stderr: &printer{w: stderr},
		lookupEnv: func(string) (string, bool) { return "", false },
		conn:      connection{timeout: defaultTimeout},
	}
	return p, stdout, stderr
}

func (r result) mustFail(t *testing.T, code int, says string) {
	t.Helper()
	if r.code != code || !strings.Contains(r.stderr, says) {
		t.Errorf("got exit code %d and\n%s\nwant %d and %q", r.code, r.stderr, code, says)
	}
	if r.stdout != "" {
		t.Errorf("got %q on standard output, want nothing", r.stdout)
	}
}

// memory is a bucket of this process.
type memory struct {
	mu     sync.Mutex
	values map[string][]byte // guarded by mu
	calls  int               // guarded by mu

	before func(call int, keys int) error // asked before each call
}

func newMemory() *memory { return &memory{values: make(map[string][]byte)} }

func (m *memory) call(keys int) error {
	m.mu.Lock()
	m.calls++
	n := m.calls
	m.mu.Unlock()
	if m.before == nil {
		return nil
	}
	return m.before(n, keys)
}

func (m *memory) GetMany(_ context.Context, keys []string) ([]*kv.Pair, error) {
	if err := m.call(len(keys)); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	pairs := make([]*kv.Pair, len(keys))
	for i, key := range keys {
		if value, ok := m.values[key]; ok {
			pairs[i] = &kv.Pair{Key: key, Value: value}
		}
	}
	return pairs, nil
}

func (m *memory) SetMany(_ context.Context, pairs []kv.Pair) error {
	if err := m.call(len(pairs)); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range pairs {
		m.values[p.Key] = slices.Clone(p.Value)
	}
	return nil
}

func (m *memory) DeleteMany(_ context.Context, keys []string) error {
	if err := m.call(len(keys)); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, key := range keys {
		delete(m.values, key)
	}
	return nil
}

// memoryPage is how many keys memory lists at once.
const memoryPage = 10

// hashOf is the order in which memory lists.
func hashOf(key string) uint64 { return sharding.HashString(1, key) }

// ListKeys lists in the order of hashes, which do not collide here.
func (m *memory) ListKeys(_ context.Context, cursor uint64) (keys []string, next uint64, err error) {
	if err := m.call(0); err != nil {
		return nil, 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for key := range m.values {
		if hashOf(key) >= cursor {
			keys = append(keys, key)
		}
	}
	slices.SortFunc(keys, func(a, b string) int { return cmp.Compare(hashOf(a), hashOf(b)) })
	if len(keys) > memoryPage {
		keys = keys[:memoryPage]
		next = hashOf(keys[memoryPage-1]) + 1
	}
	return keys, next, nil
}

// brokenPipe is an output that nobody reads.
type brokenPipe struct{}

var errBrokenPipe = errors.New("broken pipe")

func (brokenPipe) Write([]byte) (int, error) { return 0, errBrokenPipe }

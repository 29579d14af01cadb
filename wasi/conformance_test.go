package wasi

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tetratelabs/wazero/api"

	"github.com/manykv/manykv/client"
	"github.com/manykv/manykv/kv"
)

// The guests of examples/conformance, which check a host and say what is wrong with
// it, in each version of the interface.
var conformance = []string{"draft.wasm", "draft2.wasm"}

func readConformance(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "examples", "conformance", name))
	must(t, err)
	return b
}

// open makes a host that ends with the test.
func openHost(t testing.TB, cfg Config) *Host {
	t.Helper()
	h, err := Open(t.Context(), cfg)
	must(t, err)
	t.Cleanup(func() { must(t, h.Close(context.Background())) })
	return h
}

func compile(t testing.TB, h *Host, binary []byte) *Guest {
	t.Helper()
	g, err := h.Compile(t.Context(), binary)
	must(t, err)
	return g
}

// granted is the policy that the conformance guests expect, for one bucket.
func granted(b Bucket) Policy {
	return Fixed(map[string]Grant{"": {Bucket: b}, "readonly": {Bucket: b}}).ReadOnly("readonly").Deny("forbidden")
}

// backends are what a guest's calls may end at. The cluster is left out with the race
// detector: `make test-wasm` has it.
func backends(t testing.TB) map[string]func(name string) Bucket {
	store := NewMemory(kv.Limits{})
	all := map[string]func(name string) Bucket{"memory": func(name string) Bucket { return store.Bucket(name) }}
	if !raceDetector {
		c := startCluster(t)
		all["cluster"] = func(name string) Bucket { return clusterBucket(t, c, name) }
	}
	return all
}

func clusterBucket(t testing.TB, c *client.Client, name string) *client.Bucket {
	t.Helper()
	if err := c.CreateBucket(t.Context(), name); err != nil && !errors.Is(err, kv.ErrExists) {
		t.Fatal(err)
	}
	b, err := c.Bucket(t.Context(), name)
	must(t, err)
	return b
}

// Every guest finds every backend to be what the interface says.
func TestConformance(t *testing.T) {
	h := openHost(t, Config{})
	for backend, bucket := range backends(t) {
		for _, name := range conformance {
			t.Run(backend+"/"+name, func(t *testing.T) {
				g := compile(t, h, readConformance(t, name))
				ctx, done := context.WithTimeout(t.Context(), 2*time.Minute)
				defer done()
				b := bucket(name)
				must(t, b.SetMany(ctx, []kv.Pair{{Key: "someone else's", Value: []byte("v")}}))
				for range 2 { // the second time finds what the first left
					text, err := g.Invoke(ctx, Process{Open: granted(b)}, "run", ReturnsKnown)
					if err != nil || !strings.HasSuffix(text, " checks passed") {
						t.Fatalf("%q, %v", text, err)
					}
					t.Log(text)
				}
				if _, found, err := b.Get(ctx, "someone else's"); !found || err != nil {
					t.Errorf("the guest deleted what is not its own: %v, %v", found, err)
				}
			})
		}
	}
}

// A host that is wrong is found out by the guests: otherwise they prove nothing.
func TestConformanceCanFail(t *testing.T) {
	h := openHost(t, Config{})
	g := compile(t, h, readConformance(t, "draft2.wasm"))
	for _, c := range []struct {
		what  string
		spoil func(b *MemoryBucket) Bucket
		open  func(p Policy) Policy
	}{
		{what: "get-many drops missing keys", spoil: func(b *MemoryBucket) Bucket { return dropping{b} }},
		{what: "get-many sorts", spoil: func(b *MemoryBucket) Bucket { return turning{b} }},
		{what: "set-many takes the first of two", spoil: func(b *MemoryBucket) Bucket { return firstWins{b} }},
		{what: "list-keys forgets a page", spoil: func(b *MemoryBucket) Bucket { return onePage{b} }},
		{what: "swap does not compare", spoil: func(b *MemoryBucket) Bucket { return swapping{b} }},
		{what: "forbidden may be opened", open: func(p Policy) Policy {
			return func(ctx context.Context, id string) (Grant, error) {
				if id == "forbidden" {
					id = ""
				}
				return p(ctx, id)
			}
		}},
		{what: "readonly may be written", open: func(p Policy) Policy {
			return func(ctx context.Context, id string) (Grant, error) {
				g, err := p(ctx, id)
				g.ReadOnly = false
				return g, err
			}
		}},
	} {
		t.Run(c.what, func(t *testing.T) {
			var b Bucket = NewMemory(kv.Limits{}).Bucket("")
			if c.spoil != nil {
				b = c.spoil(b.(*MemoryBucket))
			}
			p := granted(b)
			if c.open != nil {
				p = c.open(p)
			}
			text, err := g.Invoke(t.Context(), Process{Open: p}, "run", ReturnsKnown)
			if err == nil {
				t.Fatalf("the guest found nothing wrong: %q", text)
			}
			t.Log(err)
		})
	}
}

type dropping struct{ *MemoryBucket }

func (d dropping) GetMany(ctx context.Context, keys []string) ([]*kv.Pair, error) {
	pairs, err := d.MemoryBucket.GetMany(ctx, keys)
	var found []*kv.Pair
	for _, p := range pairs {
		if p != nil {
			found = append(found, p)
		}
	}
	return append(found, make([]*kv.Pair, len(keys)-len(found))...), err // at the wrong places
}

type turning struct{ *MemoryBucket }

func (s turning) GetMany(ctx context.Context, keys []string) ([]*kv.Pair, error) {
	pairs, err := s.MemoryBucket.GetMany(ctx, keys)
	for i, j := 0, len(pairs)-1; i < j; i, j = i+1, j-1 {
		pairs[i], pairs[j] = pairs[j], pairs[i]
	}
	return pairs, err
}

type firstWins struct{ *MemoryBucket }

func (f firstWins) SetMany(ctx context.Context, pairs []kv.Pair) error {
	seen := make(map[string]bool)
	var first []kv.Pair
	for _, p := range pairs {
		if !seen[p.Key] {
			first = append(first, p)
		}
		seen[p.Key] = true
	}
	return f.MemoryBucket.SetMany(ctx, first)
}

type onePage struct{ *MemoryBucket }

func (o onePage) ListKeys(ctx context.Context, cursor uint64) ([]string, uint64, error) {
	keys, _, err := o.MemoryBucket.ListKeys(ctx, cursor)
	return keys, 0, err
}

type swapping struct{ *MemoryBucket }

func (s swapping) CompareAndSwap(ctx context.Context, key string, _ uint64, value []byte) (uint64, error) {
	return 1, s.Set(ctx, key, value)
}

func TestInvoke(t *testing.T) {
	h := openHost(t, Config{})
	g := compile(t, h, readConformance(t, "draft2.wasm"))
	p := Process{Open: granted(NewMemory(kv.Limits{}).Bucket(""))}
	text, err := g.Invoke(t.Context(), p, "hello", ReturnsKnown)
	if err != nil || !strings.Contains(text, "three") {
		t.Errorf("hello: %q, %v", text, err)
	}
	if text, err := g.Invoke(t.Context(), p, "clean", ReturnsKnown); err != nil || text != "" {
		t.Errorf("clean: %q, %v", text, err)
	}
	var failed *Failed
	if _, err := g.Invoke(t.Context(), p, "fail", ReturnsKnown); !errors.As(err, &failed) || failed.Text != "as asked" {
		t.Errorf("fail: %v", err)
	}
	for _, name := range []string{"nothing", "fill", "cabi_realloc", "_start"} {
		if _, err := g.Invoke(t.Context(), p, name, ReturnsKnown); !errors.Is(err, kv.ErrInvalid) {
			t.Errorf("%s: %v, want %v", name, err, kv.ErrInvalid)
		}
	}
	if err := g.Run(t.Context(), p); !errors.Is(err, kv.ErrInvalid) {
		t.Errorf("a guest without a program: %v", err)
	}
}

// An instance has its own handles and memory, and many run at once.
func TestInstancesAreApart(t *testing.T) {
	h := openHost(t, Config{})
	g := compile(t, h, readConformance(t, "draft2.wasm"))
	store := NewMemory(kv.Limits{})
	results := make(chan error, 8)
	for i := range cap(results) {
		go func() {
			_, err := g.Invoke(t.Context(), Process{Open: granted(store.Bucket(string(rune('a' + i))))}, "run", ReturnsKnown)
			results <- err
		}()
	}
	for range cap(results) {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
}

// foreign is a module that imports something from "env".
func foreign(name string, description ...byte) []byte {
	var m moduleWriter
	m.imports = append(m.imports, entry("env", name, description...))
	return m.bytes()
}

// What a guest imports besides is named, and WASI preview 1 is there.
func TestImportsOfGuests(t *testing.T) {
	h := openHost(t, Config{})
	var missing *ImportError
	if _, err := h.Compile(t.Context(), readComponent(t, "shop.wasm")); !errors.As(err, &missing) || !slices.Equal(missing.Imports, []string{`"log" of "$root"`}) {
		t.Errorf("shop: %v, want an import error of log", err)
	}
	report, err := h.Inspect(t.Context(), readComponent(t, "shop.wasm"))
	must(t, err)
	if !report.Component || report.Program || !errors.As(report.Problem, &missing) || !slices.Equal(report.Versions, []string{"0.2.0-draft2"}) {
		t.Errorf("shop: %+v", report)
	}
	g := compile(t, h, readComponent(t, "adapted.wasm"))
	in, err := g.Instantiate(t.Context(), Process{})
	must(t, err)
	defer func() { must(t, in.Close(t.Context())) }()
	_, err = in.run(t.Context(), in.module.ExportedFunction(initializeName)) // calls random_get
	must(t, err)

	get := [][2]string{{draft2.module("store"), "[method]bucket.get"}}
	for what, c := range map[string]struct {
		binary []byte
		says   string
	}{
		"another signature": {coreOf(get, "run"), "it is (i32, i32, i32, i32)"},
		"another version":   {coreOf([][2]string{{"wasi:keyvalue/batch@0.2.0", "get-many"}}), `"get-many" of "wasi:keyvalue/batch@0.2.0"`},
		"WASI 0.2":          {coreOf([][2]string{{"wasi:cli/stdout@0.2.0", "get-stdout"}}), `"get-stdout" of "wasi:cli/stdout@0.2.0"`},
		"our own module":    {coreOf([][2]string{{hostModule, finishName}}), `"finish" of "manykv"`},
		"a global":          {foreign("g", coreGlobal, i32, 0), `"g" of "env" (a global variable: a guest must have its own)`},
		"a table":           {foreign("t", coreTable, formFuncRef, 0, 1), `"t" of "env" (a table`},
		"a memory":          {foreign("m", coreMemory, 0, 1), `"m" of "env" (a memory`},
		"preview 1 wrongly": {coreOf([][2]string{{preview1, "fd_close"}}), `"fd_close" of "wasi_snapshot_preview1" as (`},
		"no preview 1":      {coreOf([][2]string{{preview1, "fd_dance"}}), `"fd_dance" of "wasi_snapshot_preview1"`},
	} {
		if _, err := h.Compile(t.Context(), c.binary); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", what, err, c.says)
		}
	}
}

// What answers need of a guest is named too.
func TestGuestsWithoutMemory(t *testing.T) {
	h := openHost(t, Config{})
	importing := func(edit func(m *moduleWriter)) []byte {
		var m moduleWriter
		m.importFunc(draft2.module("store"), "open", m.typeOf([]api.ValueType{i32, i32, i32}, nil))
		edit(&m)
		return m.bytes()
	}
	memory := func(m *moduleWriter) {
		m.memory = true
		m.export(memoryName, coreMemory, 0)
	}
	for what, c := range map[string]struct {
		edit func(m *moduleWriter)
		says string
	}{
		"no memory":       {func(*moduleWriter) {}, "exports no memory"},
		"no cabi_realloc": {memory, "exports no cabi_realloc"},
		"another cabi_realloc": {func(m *moduleWriter) {
			memory(m)
			m.export(reallocName, coreFunc, m.define(m.typeOf(nil, nil), body(nil)))
		}, "cabi_realloc is ()"},
	} {
		if _, err := h.Compile(t.Context(), importing(c.edit)); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", what, err, c.says)
		}
	}
}

package wasi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"

	"github.com/manykv/manykv/kv"
)

// pageBytes is WebAssembly's unit of memory.
const pageBytes = 64 << 10

// Config says how guests are run. The zero value of a field is its default.
type Config struct {
	// MemoryBytes bounds each instance's memory; default 256 MiB, at most MaxMemoryBytes. A
	// guest that asks for more is told that there is none.
	MemoryBytes int64
	// Limits bound what is read from a guest, before it is; default kv's.
	Limits kv.Limits
	// CacheDir keeps compiled code between processes; default: it is not kept.
	CacheDir string
	// Stats counts the calls of all guests; default: nothing is counted.
	Stats *Stats
}

const defaultMemoryBytes = 256 << 20

// MaxMemoryBytes is the most memory an instance can have: one page less than what 32
// bits can say the size of.
const MaxMemoryBytes = 4<<30 - pageBytes

func (c Config) withDefaults() (Config, error) {
	if c.MemoryBytes == 0 {
		c.MemoryBytes = defaultMemoryBytes
	}
	if c.MemoryBytes < pageBytes || c.MemoryBytes > MaxMemoryBytes {
		return c, fmt.Errorf("%w: MemoryBytes is %d, want 0 (the default) or %d to %d", kv.ErrInvalid, c.MemoryBytes, pageBytes, int64(MaxMemoryBytes))
	}
	c.Limits = c.Limits.WithDefaults()
	return c, c.Limits.Validate()
}

// Host runs guests. It is safe for concurrent use.
type Host struct {
	cfg      Config
	cache    io.Closer // of compiled code; may be nil
	runtime  wazero.Runtime
	adapters [dialects]wazero.CompiledModule
	link     wazero.CompiledModule

	closing sync.Once
	closed  error
}

// Open makes a host. Close ends it.
func Open(ctx context.Context, cfg Config) (_ *Host, err error) {
	if cfg, err = cfg.withDefaults(); err != nil {
		return nil, fmt.Errorf("wasi: %w", err)
	}
	h := &Host{cfg: cfg}
	run := wazero.NewRuntimeConfig().
		WithDebugInfoEnabled(false). // its offsets are not those of what interruptible makes
		WithMemoryLimitPages(uint32(cfg.MemoryBytes / pageBytes))
	if cfg.CacheDir != "" {
		cache, err := wazero.NewCompilationCacheWithDir(cfg.CacheDir)
		if err != nil {
			return nil, fmt.Errorf("wasi: compiled code cannot be kept in %s: %w", cfg.CacheDir, err)
		}
		h.cache = closer(func() error { return cache.Close(context.Background()) })
		run = run.WithCompilationCache(cache)
	}
	h.runtime = wazero.NewRuntimeWithConfig(ctx, run)
	if err := h.build(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("wasi: %w", err), h.Close(ctx))
	}
	return h, nil
}

type closer func() error

func (c closer) Close() error { return c() }

// build makes what all guests share: WASI preview 1, our functions, and the code of
// the adapters and of the link.
func (h *Host) build(ctx context.Context) error {
	if _, err := wasi_snapshot_preview1.Instantiate(ctx, h.runtime); err != nil {
		return err
	}
	b := h.runtime.NewHostModuleBuilder(hostModule)
	for i := range functions {
		f := &functions[i]
		var results []api.ValueType
		if f.area.size > 0 {
			results = oneWord
		}
		b = b.NewFunctionBuilder().WithGoModuleFunction(h.serve(i), f.params(), results).Export(hostName(i))
	}
	b = b.NewFunctionBuilder().WithGoModuleFunction(api.GoModuleFunc(serveFinish), nil, nil).Export(finishName)
	if _, err := b.Instantiate(ctx); err != nil {
		return err
	}
	for d := range dialect(dialects) {
		compiled, err := h.runtime.CompileModule(ctx, adapter(d))
		if err != nil {
			return fmt.Errorf("adapter of %v: %w", d, err)
		}
		h.adapters[d] = compiled
	}
	compiled, err := h.runtime.CompileModule(ctx, link())
	h.link = compiled
	return err
}

// Close ends the host with all its guests and their instances. Nothing of them may
// be running.
func (h *Host) Close(ctx context.Context) error {
	h.closing.Do(func() {
		h.closed = h.runtime.Close(ctx)
		if h.cache != nil {
			h.closed = errors.Join(h.closed, h.cache.Close())
		}
	})
	return h.closed
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/manykv/manykv/client"
	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/wasi"
)

func (p *program) wasmCommand() *cobra.Command {
	return group("wasm", "Run WebAssembly guests that call wasi:keyvalue", p.wasmRunCommand(), p.wasmServeCommand(), p.wasmInspectCommand())
}

// maxGuestBytes bounds a guest's file.
const maxGuestBytes = 256 << 20

// readGuest reads a guest's file.
func readGuest(name string) (_ []byte, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	b, err := io.ReadAll(io.LimitReader(f, maxGuestBytes+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxGuestBytes {
		return nil, fmt.Errorf("%w: %s is larger than %d bytes", kv.ErrTooLarge, name, maxGuestBytes)
	}
	return b, nil
}

// guest is the flags that say what a guest may use.
type guest struct {
	maps      []string // ID=BUCKET
	readOnly  []string
	denied    []string
	env       []string
	cache     string
	inMemory  bool
	create    bool
	memoryMiB int64
}

// guestHelp is what `wasm run` and `wasm serve` say of buckets.
const guestHelp = `
What the guest opens as ID is the bucket that --bucket-map ID=BUCKET names; ID may
be empty, as many guests have it: --bucket-map =files. With --read-only ID writes
are answered with access-denied, with --deny ID the opening itself; any other
identifier is answered with no-such-store. With --memory no cluster is needed: the
buckets are in this process and end with it.`

// flags gives cmd the flags of a guest, and those of a connection.
func (g *guest) flags(p *program, cmd *cobra.Command, memoryMiB int64) *cobra.Command {
	f := cmd.Flags()
	f.StringArrayVar(&g.maps, "bucket-map", nil, "`ID=BUCKET`: what the guest opens as ID is this bucket; repeatable")
	f.StringArrayVar(&g.readOnly, "read-only", nil, "`ID` of --bucket-map that the guest may only read; repeatable")
	f.StringArrayVar(&g.denied, "deny", nil, "`ID` that is answered with access-denied; repeatable")
	f.StringArrayVar(&g.env, "env", nil, "`NAME=VALUE` for the guest's environment; repeatable")
	f.StringVar(&g.cache, "cache", "", "`directory` that keeps compiled code for the next time")
	f.BoolVar(&g.inMemory, "memory", false, "keep the buckets in this process instead of on a cluster")
	f.BoolVar(&g.create, "create", false, "make the buckets of --bucket-map that there are none of")
	f.Int64Var(&g.memoryMiB, "max-memory", memoryMiB, "the most memory an instance may have, in `MiB`")
	return p.calls(cmd)
}

// names returns the buckets of the identifiers.
func (g *guest) names() (map[string]string, error) {
	names := make(map[string]string)
	for _, m := range g.maps {
		id, name, ok := strings.Cut(m, "=")
		if !ok {
			return nil, usagef("--bucket-map %q, want ID=BUCKET", m)
		}
		if err := kv.CheckBucketName(name); err != nil {
			return nil, usagef("--bucket-map %q: %w", m, err)
		}
		if other, twice := names[id]; twice {
			return nil, usagef("--bucket-map %q: %q is bucket %q already", m, id, other)
		}
		names[id] = name
	}
	for _, id := range g.readOnly {
		if _, ok := names[id]; !ok {
			return nil, usagef("--read-only %q: no --bucket-map says what that is", id)
		}
	}
	for _, id := range g.denied {
		if _, ok := names[id]; ok {
			return nil, usagef("--deny %q: a --bucket-map says what that is", id)
		}
	}
	for _, e := range g.env {
		if name, _, ok := strings.Cut(e, "="); !ok || name == "" {
			return nil, usagef("--env %q, want NAME=VALUE", e)
		}
	}
	if most := int64(wasi.MaxMemoryBytes >> 20); g.memoryMiB < 1 || g.memoryMiB > most {
		return nil, usagef("--max-memory %d, want 1 to %d", g.memoryMiB, most)
	}
	return names, nil
}

// policy opens the buckets and returns what the guest may do with them. close ends
// the connection.
func (g *guest) policy(ctx context.Context, p *program) (_ wasi.Policy, closing func() error, err error) {
	names, err := g.names()
	if err != nil {
		return nil, nil, err
	}
	var open func(name string) (wasi.Bucket, error) // called for each of names
	closing = func() error { return nil }
	if g.inMemory {
		store := wasi.NewMemory(kv.Limits{})
		open = func(name string) (wasi.Bucket, error) { return store.Bucket(name), nil }
	} else if len(names) > 0 {
		var c *client.Client
		if c, err = p.dial(ctx); err != nil {
			return nil, nil, err
		}
		closing = c.Close
		open = func(name string) (wasi.Bucket, error) { return openBucket(ctx, c, name, g.create) }
	}
	grants := make(map[string]wasi.Grant, len(names))
	for id, name := range names {
		b, err := open(name)
		if err != nil {
			err = hinted{fmt.Errorf("--bucket-map %s=%s: %w", id, name, err), mapHint(err)}
			return nil, nil, errors.Join(err, closing())
		}
		grants[id] = wasi.Grant{Bucket: b}
	}
	return wasi.Fixed(grants).ReadOnly(g.readOnly...).Deny(g.denied...), closing, nil
}

func mapHint(err error) string {
	if errors.Is(err, kv.ErrNoSuchStore) {
		return "--create makes it"
	}
	return ""
}

// open makes a host and compiles a guest's file.
func (g *guest) open(ctx context.Context, file string, stats *wasi.Stats) (*wasi.Host, *wasi.Guest, error) {
	binary, err := readGuest(file)
	if err != nil {
		return nil, nil, err
	}
	host, err := wasi.Open(ctx, wasi.Config{MemoryBytes: g.memoryMiB << 20, CacheDir: g.cache, Stats: stats})
	if err != nil {
		return nil, nil, err
	}
	compiled, err := host.Compile(ctx, binary)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("%s: %w", file, err), host.Close(ctx))
	}
	return host, compiled, nil
}

// Package wasi runs WebAssembly guests that call wasi:keyvalue, on wazero.
//
//	host, err := wasi.Open(ctx, wasi.Config{})
//	defer host.Close(ctx)
//	guest, err := host.Compile(ctx, binary)
//	text, err := guest.Invoke(ctx, wasi.Process{Open: wasi.Buckets(c, map[string]string{"": "files"})}, "hello")
//
// It promises the interfaces store, batch and atomics under the versions
// 0.2.0-draft and 0.2.0-draft2, as their WIT in wasi/wit says: one call of a guest
// is one call of a Bucket, so get-many, set-many and delete-many cost one round
// trip; order and length are kept; errors are the variant's cases. A guest that
// breaks the canonical ABI (a pointer outside its memory, a string that is no
// UTF-8, an unknown handle) is ended, never answered. So is one that runs longer
// than its context allows, in a loop, in a call, or waiting for its standard input;
// only a single fill or copy of its memory is not cut short. An instance's handles
// are freed with it.
//
// It refuses guests that import anything else than those and WASI preview 1, and
// components of several linked modules, and says which import it is.
//
// A Host owns the compiled code; a Guest is compiled once and instantiated as
// often as wanted, by several goroutines at once. An Instance is one guest's memory
// and handles, for one goroutine at a time.
//
// The path of one call: a guest's import is a function of the adapter (adapter.go),
// a small module that stands between guest and host; it calls the function of the
// host (functions.go lists them; store.go, batch.go and atomics.go hold them), which
// lifts the arguments out of the guest's memory (lift.go), calls the Bucket and
// lowers the answer (lower.go): it says how much memory that needs, the adapter
// has the guest allocate it, and the host fills it in.
package wasi

// Package guest lets a WebAssembly program in Go call wasi:keyvalue, in the version
// 0.2.0-draft2:
//
//	b, err := guest.Open("")
//	err = b.SetMany([]guest.Pair{{Key: "a", Value: []byte("1")}, {Key: "b", Value: []byte("2")}})
//	pairs, err := b.GetMany([]string{"b", "none", "a"}) // in this order; nil for none
//
// It is for GOOS=wasip1 GOARCH=wasm and empty elsewhere. `manykv wasm run` and package
// wasi run what is built with it: programs, and with -buildmode=c-shared functions to
// invoke (ReturnString, ReturnResult). A component cannot be made of it: see
// docs/wasm.md.
//
// It promises one call of the host for each call here, and answers that the program
// owns. Errors are ErrNoSuchStore, ErrAccessDenied, an *OtherError, or a
// *ConflictError of a swap. Goroutines may call at once; the calls are made one after
// the other, since a guest has one thread.
//
// It does not check what it is given. A host ends a guest that has a key or an
// identifier which is not valid UTF-8 (in Go a string may be anything), or that uses
// what it has closed.
//
// It exports cabi_realloc, through which a host allocates memory for answers: a
// program that uses this package must not export that itself.
package guest

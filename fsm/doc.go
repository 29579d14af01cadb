// Package fsm holds the state machines of a node on one Pebble store: Data,
// one for each data shard, and Catalogue, the one of shard 0.
//
// It promises that the same entries give the same state and the same results
// on every replica, however they are cut into calls of Apply; that a command
// is applied as a whole or not at all; that a reader sees all of an entry or
// nothing of it; and that after a crash every machine stands at some position
// it had before, with exactly the state it had there. What Flush returned for
// is never lost; the rest is in the Raft log, which gives it again, and a
// machine skips what it has. Bytes it does not understand are an error result
// and never a panic: a poisonous entry would stop every replica for ever.
//
// It refuses to look at a clock, the network or randomness, and to keep a
// write-ahead log of its own: the Raft log is that. It does not check who may
// read: what a shard does not own is not found.
//
// A Store owns the Pebble files and everything Data and Catalogue keep there.
// Apply belongs to one goroutine for each machine; everything else may be
// called from any goroutine. Keys and values that go in are copied; a value
// that comes out belongs to Pebble and is valid only during the visit.
//
// # Layout
//
// Integers are big endian.
//
//	pair      shard u32 · bucket u64 · hash u64 · key  →  version u64 · value
//	record    shard u32 · 0 u64 · 0 u8                 →  see record
//	map       0 u32     · 0 u64 · 1 u8                 →  sharding.Map
//	bucket    0 u32     · 0 u64 · 2 u8 · name          →  bucket id u64
//
// hash is sharding.Hash of bucket and key, so a bucket is listed in hash
// order; version is the index of the entry that wrote the value. Bucket 0 is
// never given to anybody and a write to it is invalid, which keeps a machine's
// own rows apart from pairs.
package fsm

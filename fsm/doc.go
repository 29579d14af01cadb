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
// Data promises a client that numbers its calls (kv.Origin) that each entry of a
// call is applied at most once, in the order of the call, and that an entry sent
// again gets the answer it got first, until the client acknowledges the call or
// is silent for an hour of the shard's time. A large value, which comes in pieces,
// is seen once it is complete, and its pieces are kept as long as its call. A
// dropped bucket is refused for ever, to writers from that entry on and to readers
// from then on or a moment before; nobody sees it emptied.
//
// A shard's state can be streamed, as it is at one moment, while entries are
// applied, and staged in another store, beside what that one has. Restore then
// replaces the shard's whole state, Drop removes it; both are done when they
// return, and a crash before leaves the old state or the new one, never a part.
// A stream is checked to its end before it counts, and cannot reach outside of
// its shard. Replicas at the same position have the same Hash.
//
// It refuses to look at a clock, the network or randomness, and to keep a
// write-ahead log of its own: the Raft log is that. It does not check who may
// read: what a shard does not own is not found. It remembers 65,536 clients of a
// shard; when all of them were heard of in the last ten minutes, it refuses one
// more (kv.ErrBusy) rather than forget one who may yet send an entry again, and
// otherwise forgets the one that was silent longest.
//
// What Data applies waits in memory (buffer.go) until there is much of it, somebody
// flushes or reads rows in order, and then goes to Pebble, all of a shard in one batch.
//
// A Store owns the Pebble files and everything Data and Catalogue keep there.
// Apply belongs to one goroutine for each machine, and Restore and Drop of the
// shard belong to it too; everything else may be called from any goroutine. Keys
// and values that go in are copied; a value that comes out belongs to the store and
// is valid only during the visit. Streams and stagings belong to their callers,
// who close them; Close of the store ends those that are open. Locks are taken in the order Store.gate, Stream.mu or
// Stage.mu, flushes.turn, Store.mu, and Store.drainingSoon, writeBuffer.turn, writeBuffer.mu, none of
// the first five under these; nothing is locked under a cacheSegment.mu, which is taken last.
//
// # Layout
//
// Integers are big endian.
//
//	pair      shard u32 · bucket u64 · hash u64 · key  →  version u64 · value
//	record    shard u32 · 0 u64 · 0 u8                 →  see record
//	map       0 u32     · 0 u64 · 1 u8                 →  sharding.Map
//	bucket    0 u32     · 0 u64 · 2 u8 · name          →  bucket id u64
//	dropping  0 u32     · 0 u64 · 16 u8 · id u64       →  name string · shards (see Dropping)
//	session   shard u32 · 0 u64 · 8 u8 · client u64    →  see session.append
//	piece     shard u32 · 0 u64 · 9 u8 · client u64 · call u64 · offset u64  →  bytes of a value
//	dropped   shard u32 · 0 u64 · 10 u8 · bucket u64   →  nothing
//
// hash is sharding.Hash of bucket and key, so a bucket is listed in hash
// order; version is the index of the entry that wrote the value. Bucket 0 is
// never given to anybody, a write to it is invalid and a read finds no such store,
// which keeps a machine's own rows apart from pairs. A session's row is written
// once for each batch that has entries of its client.
//
// Beside Pebble's files, a directory stage/<shard> holds the staging of a shard:
// tables 000000.sst, 000001.sst … with its rows, and, once complete, a manifest
// (see manifest) in the file complete. Open removes those without one. The format
// of a stream stands in snapshot.go.
package fsm

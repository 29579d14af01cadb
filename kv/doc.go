// Package kv holds the words a user of the store can say: pairs, outcomes,
// errors named by what the caller should do, limits, and the binary codec that
// the wire and the log share.
//
// It promises that a decoder never panics and never allocates more than its
// input justifies, and that bytes it does not understand (another version, an
// unknown kind) give the same error on every replica.
//
// It refuses to know where a key lives: hashing, shards and nodes are package
// sharding's, and what a command does is package fsm's.
//
// All values here are owned by whoever made them; nothing keeps a reference
// except decoded byte slices, which alias the bytes they were decoded from.
package kv

// Package sharding says where a key lives: key → slot → shard → nodes, and
// which of a shard's replicas should move where when nodes come and go.
//
// It promises immutable values and pure functions: no clock, no network, no
// randomness, no order taken from a Go map. Two nodes that hold a map of the
// same epoch route every key alike and plan the same next move.
//
// It refuses to decide who is alive or who leads; it knows only who should.
//
// A *Map is shared by everybody who has it and is never edited after it was
// made; a newer one replaces it.
package sharding

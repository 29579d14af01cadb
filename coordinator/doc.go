// Package coordinator takes one batch, splits it by shard, sends each node one
// request with all of that node's parts, in parallel, retries what may be
// retried, and merges the answers into the caller's order. Clients and nodes
// use the same code.
//
// It promises that a read answers every position in the caller's order, and
// that a failed write says of every key: applied, not applied or unknown. It
// never calls a write not applied unless nobody can apply it any more, and it
// never sends a write again whose outcome is unknown.
//
// It refuses to make a batch atomic: parts of different shards, and the log
// entries of one part, are separate units.
//
// A batch belongs to the goroutine that called; the goroutines that carry its
// requests only fill in their own exchange. The map is replaced, never edited;
// leader hints are single atomic words. Retries live here and nowhere else.
package coordinator

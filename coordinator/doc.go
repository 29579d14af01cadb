// Package coordinator takes one batch, splits it by shard, sends each node one
// request with all of that node's parts, in parallel, retries what may be
// retried, and merges the answers into the caller's order. Clients and nodes
// use the same code.
//
// It promises that a read answers every position in the caller's order, and
// that a failed write says of every key: applied, not applied or unknown. It
// never calls a write not applied unless nobody can apply it any more. A write has
// a Session, and is sent again, as the same bytes, until its outcome is known or
// its time is up: the state machines apply it once, by its number in the session.
// A shard may forget a number once no copy of it will be asked for again; what
// may still be on its way then is refused there.
//
// It refuses to make a batch atomic: parts of different shards, and the
// commands of one part, are separate units. It refuses to take a write to another
// shard than the one it was begun in.
//
// A batch belongs to the goroutine that called; the goroutines that carry its
// requests only fill in their own exchange. A call of a session belongs to the
// goroutine that carries it, between two of them to Session.mu, under which
// nothing else is locked. The map is replaced, never edited; leader hints are
// single atomic words. Retries live here and nowhere else.
package coordinator

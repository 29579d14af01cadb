// Package transport carries messages between the processes of a cluster over one UDP port: QUIC with TLS 1.3 and a
// certificate on both sides.
//
// It promises that whoever is at the other end proved a name in our cluster before a byte of it was read; that a call
// which fails says whether the handler may have run (ErrLost) or certainly did not (ErrNotSent, CodeRefused,
// CodeDenied); that nothing received is trusted with memory before it was checked against a limit; and that large
// messages never keep small ones waiting for more than a frame each, and bulk streams, of any length, not at all: they
// have a connection of their own and a rate. Messages of one lane arrive in order, or not at all when the connection
// ends.
//
// It refuses to retry what may have been sent, to queue without bound, to resume TLS sessions and to take 0-RTT data.
// One-way messages and gossip packets may be lost. It knows nothing of keys, shards or Raft,
// and does not look into what passes on a bulk stream.
//
// A connection belongs to the side that dialled it, which alone opens streams on it; answers return on the stream the
// request came by, so two nodes that call each other have two connections. The link of a peer owns the dialling, an
// outbox owns what waits to be written to one stream, an inbox what is half read from one, and the gate counts the
// bytes of all requests at work. A node that sends bulk has one link more to that peer, whose connection carries only
// bulk streams, each owned by whoever dialled or was handed it, and ends when it has been unused for seconds. Lock order:
// link.mu before Transport.mu, outbox.mu before gate.mu, bulkConn.writing before bulkConn.mu; no other two are held
// together.
package transport

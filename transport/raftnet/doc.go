// Package raftnet is the raft.Transport of hashicorp/raft (v1.7.3) for many
// groups of one node over the node's shared one-way messages.
//
// It promises: a group sees the addresses of its raft configuration and
// nothing else; AppendEntries of one pipeline arrive in the order they were
// sent; an answer is matched to the one call it answers, never to another
// call, group, server or life of this process; an answer older than its
// call's time-out is not shown to raft; what is bounded by raft in entries is
// bounded here in bytes; messages of all groups to one node share frames, so
// idle groups cost few packets; a node that is away for less than a call's
// time-out costs the call a delay and not a failure; raft reads a snapshot to
// its end only if every byte of it is what the leader sent, in its order; few
// snapshots are on their way at a time, of whatever size, on connections that
// nothing else uses.
//
// It refuses: delivery guarantees (a message may be lost, and raft repeats
// it); messages whose source is not the server the sender's certificate
// speaks for, or whose destination is another server, such as the one that
// had this node's name before its disk was replaced; the heartbeat fast path
// (see Group.SetHeartbeatHandler); snapshots beyond its bounds, which raft
// offers again.
//
// Who owns what: a Net owns two lanes (queue and goroutine) per peer node and
// lives as long as the process; a Group owns its calls, its inbox, the
// goroutine that feeds raft and the streams of its snapshots, and lives as long
// as one raft.Raft; a pipeline belongs to its Group. Close of each ends its
// goroutines and waits for them.
// The one rule of locks: Net.mu, Group.mu and lane.mu are never held together.
//
// One call, there and back: Group.start encodes the request and queues it on
// a lane; the lane's goroutine packs a frame and sends it; Net.Receive of the
// other node decodes it into the group's inbox; Group.serve hands it to raft
// and queues the answer; Net.Receive here gives it to the waiting call.
//
// One snapshot: Group.InstallSnapshot dials a bulk stream and writes what
// stream.go describes; Net.ReceiveBulk of the other node checks its head and
// hands raft a reader of the rest, past the inbox; raft's answer returns on
// the stream.
package raftnet

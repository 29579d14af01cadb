package raftnet

import "time"

// Time-outs of calls, chosen for HeartbeatTimeout = ElectionTimeout = 1 s.
// A call lives this long from the moment raft makes it: waiting in a queue
// for a connection is part of it, and an answer that comes later is dropped.
const (
	// heartbeatTimeout is half of HeartbeatTimeout: raft stamps the contact
	// when an answer is read, not when its request was sent, so an answer that
	// lay in a buffer while this process was stopped would renew the lease of
	// a deposed leader.
	heartbeatTimeout = 500 * time.Millisecond
	// appendTimeout leaves room for the fsync of a busy follower. It is longer
	// than an election so that a follower that went away and came back costs
	// one delayed call: raft's back-off after failed calls grows to 10.24 s.
	appendTimeout = 2 * time.Second
	// voteTimeout is the election time-out: the candidate has begun another
	// election by then and no longer reads the answer.
	voteTimeout = time.Second
	// timeoutNowTimeout is the election time-out, after which raft gives up
	// the leadership transfer that waits for it.
	timeoutNowTimeout = time.Second
)

// Waits of a lane.
const (
	// lazyDelay is how long messages nobody waits for are gathered at most, until
	// its next multiple. At 10 messages a second, group and peer, it is what makes
	// many idle groups cost at most 10 packets a second and peer; it is far below
	// every time-out.
	lazyDelay = 100 * time.Millisecond
	// retryDelay is the time between attempts to send to a node that cannot
	// be reached: small beside the time-outs, large beside a failed attempt.
	retryDelay = 20 * time.Millisecond
)

// Sizes of messages.
const (
	// maxAppendBytes bounds the data and extensions of the entries of one
	// AppendEntries, which raft bounds by number only: 64 entries of 256 KiB
	// would be 16 MiB in each queue on the way. It is four entries of that size.
	maxAppendBytes = 1 << 20
	// entryOverhead is at least what an entry costs on the wire beside its data
	// and extensions. maxEntries of it are small beside maxAppendBytes.
	entryOverhead = 64
	// maxEntries is the largest MaxAppendEntries raft.ValidateConfig allows.
	maxEntries = 1024
	// maxFrameBytes is where packing ends. A larger frame saves nothing and
	// would hold up the one behind it; one larger message is a frame alone.
	maxFrameBytes = 256 << 10
	// maxFailureText is how much of an error is told to the caller.
	maxFailureText = 1 << 10
)

// Snapshots.
const (
	// snapshotsOut bounds the snapshots that all groups of this node send at a
	// time, so that a follower of many shards that comes back does not make its
	// leader read all of them at once: two, one of which reads while the other
	// waits for its follower to restore.
	snapshotsOut = 2
	// snapshotsIn bounds those that this node installs at a time, for the same
	// reason; further leaders are told so and come back (raft's back-off).
	snapshotsIn = 2
	// snapshotDialTimeout is how long a follower that cannot be reached delays
	// the call: as an AppendEntries, so that raft's back-off grows no faster.
	snapshotDialTimeout = appendTimeout
	// snapshotSlotTimeout is how long a call waits for its turn among
	// snapshotsOut. The state machine keeps old data for it meanwhile, and the
	// follower waits 20 s for the first byte (transport's bulkWait).
	snapshotSlotTimeout = 10 * time.Second
	// snapshotTimeout is how long the follower may take from the last byte to
	// its answer: it makes gigabytes durable. Its death ends the wait sooner.
	snapshotTimeout = 10 * time.Minute
	// refusalTimeout is how long to look for the reason of a follower that
	// stopped reading. It has written it before, or never will.
	refusalTimeout = 2 * time.Second
	// maxChunkBytes is what a follower buffers before it has seen a checksum.
	maxChunkBytes = 256 << 10
	// maxEnvelopeBytes bounds the message at the head of a stream: addresses,
	// and twice the servers of the group, each some 200 bytes.
	maxEnvelopeBytes = 64 << 10
)

// Bounds of queues. What does not fit is dropped like a lost packet: the
// caller times out and raft repeats it.
const (
	// maxInFlight is the number of unanswered AppendEntries of one group to one
	// peer. Two overlap the network with the follower's disk; more make batches
	// small and commits slow (hashicorp/raft#541).
	maxInFlight = 2
	// laneMessages bounds a lane by number: thousands of groups, each with its
	// few messages under way.
	laneMessages = 4096
	// controlBytes bounds the control lane, whose messages are ~100 bytes.
	controlBytes = 4 << 20
	// dataBytes bounds the data lane: maxInFlight messages of maxAppendBytes
	// for 16 groups led by one node.
	dataBytes = 32 << 20
	// inboxMessages bounds what waits for one group's raft: a leader has at
	// most maxInFlight messages and a heartbeat under way, so 128 is already a
	// replica that hangs.
	inboxMessages = 128
	// inboxBytes bounds the same in bytes, so that a replica that hangs does
	// not collect inboxMessages times maxAppendBytes.
	inboxBytes = 16 << 20
)

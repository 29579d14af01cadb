package raftnet

import "sync/atomic"

// Stats counts since Open. Every message that is lost here is counted under
// the one reason it was lost for.
type Stats struct {
	MessagesSent     uint64 // messages handed to the transport
	FramesSent       uint64 // frames they were packed in
	BytesSent        uint64 // bytes of those frames
	Coalesced        uint64 // messages that rode in the frame of another
	Retries          uint64 // attempts to send a frame that the transport could not take yet
	MessagesReceived uint64 // messages of accepted frames
	FramesReceived   uint64 // frames from the server they name, to this one
	Shortened        uint64 // AppendEntries cut or split to the byte bound

	DroppedQueueFull uint64 // outgoing: the lane's queue was full
	DroppedExpired   uint64 // outgoing: not sent before the call timed out
	DroppedUnsent    uint64 // outgoing: the transport refused for another reason
	DroppedForged    uint64 // incoming: source is not the sender, or destination is another server
	DroppedMalformed uint64 // incoming: does not decode
	DroppedNoGroup   uint64 // incoming: the group is not here (yet, or any more)
	DroppedInboxFull uint64 // incoming: the group's raft does not keep up
	DroppedAbstained uint64 // incoming: an election in which a newcomer has no part
	DroppedLate      uint64 // incoming: an answer nobody waits for, or older than its call's time-out

	SnapshotsSent         uint64 // the follower has installed it
	SnapshotBytesSent     uint64 // also of those that failed
	SnapshotsReceived     uint64 // raft has installed it
	SnapshotBytesReceived uint64 // checked and given to raft, also of those that failed
	SnapshotsRefused      uint64 // incoming: others are being installed, or the group is not here
}

// counters is Stats while it is counted.
type counters struct {
	messagesSent, framesSent, bytesSent, coalesced, retries atomic.Uint64
	messagesReceived, framesReceived, shortened             atomic.Uint64
	queueFull, expired, unsent                              atomic.Uint64
	forged, malformed, noGroup, inboxFull, abstained, late  atomic.Uint64
	snapshotsSent, snapshotBytesSent                        atomic.Uint64
	snapshotsReceived, snapshotBytesReceived                atomic.Uint64
	snapshotsRefused                                        atomic.Uint64
}

func (c *counters) stats() Stats {
	return Stats{
		MessagesSent:     c.messagesSent.Load(),
		FramesSent:       c.framesSent.Load(),
		BytesSent:        c.bytesSent.Load(),
		Coalesced:        c.coalesced.Load(),
		Retries:          c.retries.Load(),
		MessagesReceived: c.messagesReceived.Load(),
		FramesReceived:   c.framesReceived.Load(),
		Shortened:        c.shortened.Load(),
		DroppedQueueFull: c.queueFull.Load(),
		DroppedExpired:   c.expired.Load(),
		DroppedUnsent:    c.unsent.Load(),
		DroppedForged:    c.forged.Load(),
		DroppedMalformed: c.malformed.Load(),
		DroppedNoGroup:   c.noGroup.Load(),
		DroppedInboxFull: c.inboxFull.Load(),
		DroppedAbstained: c.abstained.Load(),
		DroppedLate:      c.late.Load(),

		SnapshotsSent:         c.snapshotsSent.Load(),
		SnapshotBytesSent:     c.snapshotBytesSent.Load(),
		SnapshotsReceived:     c.snapshotsReceived.Load(),
		SnapshotBytesReceived: c.snapshotBytesReceived.Load(),
		SnapshotsRefused:      c.snapshotsRefused.Load(),
	}
}

package transport

import "sync/atomic"

// Stats counts since Open, save the last three, which are what is there now.
type Stats struct {
	BytesIn, BytesOut     uint64 // frames of streams, with headers, without QUIC's own
	FramesIn, FramesOut   uint64
	WritesOut             uint64 // FramesOut / WritesOut is how many frames shared a write
	Calls                 uint64 // made by us
	Served                uint64 // handlers run
	RefusedCalls          uint64 // calls of others not run: over budget, too many, too large, shutting down
	RefusedSends          uint64 // one-way messages of ours not queued
	Dials, DialFailures   uint64
	RefusedPeers          uint64 // handshakes that ended because of a certificate
	BadStreams            uint64 // connections ended because of what was sent on them
	PacketsIn, PacketsOut uint64 // gossip datagrams, those under a wrong key not counted in
	ForgedPackets         uint64 // dropped: not under our gossip key
	DroppedPackets        uint64 // dropped: nobody read Packets fast enough
	DroppedStreams        uint64 // reset: nobody took Streams fast enough
	BulkIn, BulkOut       uint64 // bytes of bulk streams
	RefusedBulk           uint64 // bulk streams of others reset: too many, not wanted here, shutting down

	InflightBytes int64 // requests being received or handled, answers not yet written
	Dialled       int64 // connections
	Accepted      int64 // connections, handshakes under way included
}

// counters is the live form of Stats.
type counters struct {
	bytesIn, bytesOut, framesIn, framesOut, writesOut atomic.Uint64
	calls, served, refusedCalls, refusedSends         atomic.Uint64
	dials, dialFailures, refusedPeers, badStreams     atomic.Uint64
	packetsIn, packetsOut, forged                     atomic.Uint64
	droppedPackets, droppedStreams                    atomic.Uint64
	bulkIn, bulkOut, refusedBulk                      atomic.Uint64
	dialled, accepted                                 atomic.Int64
}

// Stats returns the counters. Each is exact; together they are not one moment.
func (t *Transport) Stats() Stats {
	c := &t.stats
	return Stats{
		BytesIn: c.bytesIn.Load(), BytesOut: c.bytesOut.Load(),
		FramesIn: c.framesIn.Load(), FramesOut: c.framesOut.Load(), WritesOut: c.writesOut.Load(),
		Calls: c.calls.Load(), Served: c.served.Load(),
		RefusedCalls: c.refusedCalls.Load(), RefusedSends: c.refusedSends.Load(),
		Dials: c.dials.Load(), DialFailures: c.dialFailures.Load(),
		RefusedPeers: c.refusedPeers.Load(), BadStreams: c.badStreams.Load(),
		PacketsIn: c.packetsIn.Load(), PacketsOut: c.packetsOut.Load(),
		ForgedPackets: c.forged.Load(), DroppedPackets: c.droppedPackets.Load(),
		DroppedStreams: c.droppedStreams.Load(),
		BulkIn:         c.bulkIn.Load(), BulkOut: c.bulkOut.Load(), RefusedBulk: c.refusedBulk.Load(),
		InflightBytes: t.gate.inUse(), Dialled: c.dialled.Load(), Accepted: c.accepted.Load(),
	}
}

//go:build linux

package disk

import "sync/atomic"

// Stats counts what programs asked of the disk since Open, and says what it holds.
type Stats struct {
	Reads, Writes, Syncs, Names int64 // operations, by kinds as in On
	BytesRead, BytesWritten     int64
	BytesSynced                 int64 // what became durable: whole blocks
	Faults                      int64 // operations that were delayed, held or failed by faults

	Used           int64 // bytes, as SetLimit counts them
	UnsyncedBlocks int64 // blocks of 4 KiB that a power cut could take
	UnsyncedNames  int64 // operations on names that it could take
}

// counters are the parts of Stats that are counted.
type counters struct {
	reads, writes, syncs, names          atomic.Int64
	bytesRead, bytesWritten, bytesSynced atomic.Int64
}

// Stats says what the disk did and holds.
func (d *Disk) Stats() Stats {
	c := &d.counts
	s := Stats{
		Reads: c.reads.Load(), Writes: c.writes.Load(), Syncs: c.syncs.Load(), Names: c.names.Load(),
		BytesRead: c.bytesRead.Load(), BytesWritten: c.bytesWritten.Load(), BytesSynced: c.bytesSynced.Load(),
		Faults: d.faults.hit.Load(),
	}
	s.Used, _ = d.vol.space.state()
	s.UnsyncedBlocks, s.UnsyncedNames = d.vol.unsynced()
	return s
}

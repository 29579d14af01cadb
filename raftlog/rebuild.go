package raftlog

import "fmt"

// rebuild reads the journal from its first to its last record.
func (l *Log) rebuild() error {
	first, err := l.journal.FirstIndex()
	if err != nil {
		return fmt.Errorf("first record: %w", err)
	}
	last, err := l.journal.LastIndex()
	if err != nil {
		return fmt.Errorf("last record: %w", err)
	}
	if last == 0 {
		l.first = 1
		return nil
	}
	r := rebuilding{log: l, whole: first == 1}
	for seq := first; seq <= last; seq++ {
		record, err := l.read(seq, func(offset int, f frame) error { return r.apply(seq, offset, f) })
		if err != nil {
			return err
		}
		l.cache.put(seq, record)
		l.sizes = append(l.sizes, uint32(len(record)))
		l.stats.Journal += int64(len(record))
	}
	if r.unneeded+1 < first {
		return fmt.Errorf("the journal starts at record %d, want at most %d", first, r.unneeded+1)
	}
	for _, s := range l.shards {
		if err := s.positions.join(); err != nil {
			return fmt.Errorf("shard %d generation %d: %w", s.replica.shard, s.replica.generation, err)
		}
		l.stats.Live += s.positions.bytes
	}
	l.first, l.seq = first, last
	return nil
}

// rebuilding is what is known while the records are read.
type rebuilding struct {
	log      *Log
	whole    bool   // the journal has all its records, from number 1 on
	unneeded uint64 // records up to this one may be gone, say the heads seen
}

// apply does what the frame at offset of record seq says.
func (r *rebuilding) apply(seq uint64, offset int, f frame) error {
	if f.kind == kindHead {
		if f.index >= seq {
			return fmt.Errorf("got a head at record %d, want one before this", f.index)
		}
		r.unneeded = max(r.unneeded, f.index)
		return nil
	}
	s := r.log.stay(f.replica)
	switch {
	case f.replica.generation < s.replica.generation:
		return fmt.Errorf("got a frame of this generation, want %d, as it was dropped", s.replica.generation)
	case f.replica.generation > s.replica.generation:
		s = &Shard{log: r.log, replica: f.replica}
		r.log.shards[f.replica.shard] = s
	}
	where := position{record: seq, offset: uint32(offset), size: uint32(len(f.bytes))}
	if _, err := s.apply(f.kind, f.index, where, r.whole); err != nil {
		return err
	}
	if f.kind == kindDrop {
		r.log.succeed(s)
	}
	return nil
}

package raftlog

import (
	"bytes"
	"fmt"
	"runtime"
	"time"

	"github.com/hashicorp/raft"

	"github.com/manykv/manykv/mutant"
)

// batch is a record in the making. The callers fill it under Log.mu while the
// one before it is being synced; once taken by the committer it is the
// committer's alone.
type batch struct {
	buf    []byte
	frames []placed
	delete uint64        // not 0: no record, but the records up to this are to be deleted
	calls  int           // how many callers wait for this batch
	done   chan struct{} // closed once the batch is durable or failed
	err    error         // written before done is closed
}

// placed is a frame of a batch, to be applied to the positions once durable.
type placed struct {
	shard  *Shard // nil in a head, which concerns none
	index  uint64
	offset uint32
	size   uint32
	kind   byte
}

// submit queues the frames that fill places and waits until they are durable.
// The queue is bounded by the callers: each replica has one change in flight,
// and Reclaim one record or so.
func (l *Log) submit(fill func() *batch) error {
	b, err := l.enqueue(fill)
	if err != nil {
		return err
	}
	return l.await(b)
}

// enqueue queues the frames that fill places, which is called with Log.mu held
// and returns the batch of the last one, and returns that batch.
func (l *Log) enqueue(fill func() *batch) (*batch, error) {
	if err := l.fail.failure(); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, ErrClosed
	}
	last := fill()
	last.calls++
	l.signal()
	return last, nil
}

// await waits until a batch is durable. The batches commit in order, so then all
// that were queued before it are.
func (l *Log) await(b *batch) error {
	select {
	case <-b.done:
		return b.err
	case <-l.fail.failed: // the write may hang for ever
		return l.fail.failure()
	}
}

// place returns the batch that has room for a frame of size bytes and enters
// the frame; the caller appends its bytes.
func (l *Log) place(s *Shard, kind byte, index uint64, size int) *batch {
	b := l.room(size)
	b.frames = append(b.frames, placed{shard: s, kind: kind, index: index, offset: uint32(len(b.buf)), size: uint32(size)})
	return b
}

// room returns the batch at the end of the queue, which it makes if the one
// there has no room for size bytes.
func (l *Log) room(size int) *batch {
	if n := len(l.queue); n > 0 && l.queue[n-1].delete == 0 && len(l.queue[n-1].buf)+size <= l.commitBytes {
		return l.queue[n-1]
	}
	b := &batch{buf: l.spare, done: make(chan struct{})}
	l.spare = nil
	return l.push(b)
}

// spareMost is the largest buffer that is kept for the next record.
const spareMost = 1 << 20

func (l *Log) push(b *batch) *batch {
	l.queue = append(l.queue, b)
	return b
}

// signal wakes the committer, or leaves the note that it is to look again.
func (l *Log) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// commitLoop writes one batch after the other until the log is closed and the
// queue is empty.
func (l *Log) commitLoop() {
	defer close(l.done)
	var (
		company int       // how many callers the batch before had
		until   time.Time // how long they are waited for
	)
	for {
		b := l.next(company, until)
		if b == nil {
			return
		}
		l.commit(b)
		company, until = b.calls, time.Now().Add(l.gather)
	}
}

// next takes the first batch of the queue, nil if the log is closed. It waits
// for the callers that the previous commit woke, since they tend to come back
// at once and a sync without them is one more sync; but only until the given
// time, so a caller without company waits for nobody. It yields rather than
// sleeps: when the process is idle a timer below 1 ms takes 1 ms, as epoll
// counts in milliseconds (measured: 1.1 ms for 100 µs).
func (l *Log) next(company int, until time.Time) *batch {
	for yields := 0; ; {
		l.mu.Lock()
		if len(l.queue) > 0 {
			b := l.queue[0]
			if len(l.queue) > 1 || b.calls >= company || l.closed || yields >= l.yields || !time.Now().Before(until) {
				l.queue[0] = nil
				l.queue = l.queue[1:]
				l.mu.Unlock()
				return b
			}
			l.mu.Unlock()
			runtime.Gosched()
			yields++
			continue
		}
		closed := l.closed
		l.mu.Unlock()
		if closed {
			return nil
		}
		<-l.wake
	}
}

// commit makes one batch durable, then visible, then known to its callers.
func (l *Log) commit(b *batch) {
	defer close(b.done)
	if b.delete != 0 {
		b.err = l.deleteRecords(b.delete)
		return
	}
	seq := l.seq + 1
	b.crashPoint(crashWrite)
	began := time.Now()
	b.err = l.fail.guard(func() error {
		if err := l.journal.StoreLog(&raft.Log{Index: seq, Data: b.buf}); err != nil && !mutant.On(mutant.IgnoreLogError) {
			return fmt.Errorf("raftlog: write record %d (%d bytes): %w", seq, len(b.buf), err)
		}
		return nil
	})
	if b.err != nil {
		return
	}
	took := time.Since(began)
	b.crashPoint(crashWritten)
	l.seq = seq
	l.cache.put(seq, bytes.Clone(b.buf))
	live := int64(0)
	for _, f := range b.frames {
		if f.shard != nil {
			live += f.shard.applied(f, seq)
		}
	}
	l.account(b, took, live)
	l.committed(len(b.buf), took)
	b.crashPoint(crashVisible)
}

// account counts a batch that is durable and by which the bytes of live entries
// changed so much.
func (l *Log) account(b *batch, took time.Duration, live int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range b.frames {
		switch f.kind {
		case kindEntry:
			l.stats.Entries++
		case kindCarry:
			l.stats.Carried += uint64(f.size)
		case kindDrop:
			l.succeed(f.shard)
		}
	}
	size := len(b.buf)
	l.stats.Commits++
	l.stats.Bytes += uint64(size)
	l.stats.LastCommitBytes = uint64(size)
	l.stats.SyncTime += took
	l.stats.Journal += int64(size)
	l.stats.Live += live
	l.sizes = append(l.sizes, uint32(size))
	if cap(b.buf) <= spareMost {
		l.spare = b.buf[:0]
	}
	l.tellFull()
}

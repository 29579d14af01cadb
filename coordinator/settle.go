package coordinator

import (
	"fmt"

	"github.com/manykv/manykv/kv"
)

// settleRead takes in one part of a read.
func (b *batch) settleRead(p *part, a *PartAnswer) {
	switch {
	case a.Status == StatusServed && b.op == OpList:
		b.settleList(p, a)
	case a.Status == StatusServed:
		b.settleItems(p, a)
	case a.Status == StatusRefused && !b.retryable(a.Code, a.Detail):
		b.fail(readError(a.Code, a.Detail))
	default:
		b.pending = append(b.pending, p.positions...)
	}
}

// settleItems takes in the items of a part: of all its keys, or, if that is more
// than a node answers at once, of the first few, or of none if others took the
// room.
func (b *batch) settleItems(p *part, a *PartAnswer) {
	items := ReadItems(a)
	n := items.Count()
	if n > len(p.positions) {
		b.fail(fmt.Errorf("%w: the answer for shard %d: %d items of %d keys", kv.ErrUnavailable, p.shard, n, len(p.positions)))
		return
	}
	for _, i := range p.positions[:n] {
		value, version, found := items.Next()
		if found {
			b.found(i, value, version)
			b.answered += len(value)
		}
	}
	if err := items.Finish(); err != nil {
		b.fail(fmt.Errorf("%w: the answer for shard %d: %w", kv.ErrUnavailable, p.shard, err))
	}
	if most := b.c.cfg.Limits.AnswerBytes; b.answered > most {
		b.fail(fmt.Errorf("%w: the values of %d keys are over %d bytes", kv.ErrTooLarge, b.size, most))
	}
	b.progress += n
	b.rest += len(p.positions) - n
	b.pending = append(b.pending, p.positions[n:]...)
}

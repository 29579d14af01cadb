package coordinator

import (
	"context"
	"fmt"

	"github.com/manykv/manykv/kv"
)

// settleRead takes in one part of a read.
func (b *batch) settleRead(p *part, a *PartAnswer) {
	switch {
	case a.Status == StatusServed:
		items := ReadItems(a)
		for _, i := range p.positions {
			value, _, found := items.Next()
			if found {
				b.found(i, value)
				b.answered += len(value)
			}
		}
		if err := items.Finish(); err != nil {
			b.fail(fmt.Errorf("%w: the answer for shard %d: %w", kv.ErrUnavailable, p.shard, err))
		}
		if most := b.c.cfg.Limits.AnswerBytes; b.answered > most {
			b.fail(fmt.Errorf("%w: the values of %d keys are over %d bytes", kv.ErrTooLarge, b.size, most))
		}
	case a.Status == StatusRefused && !b.retryable(a.Code, a.Detail):
		b.fail(readError(a.Code, a.Detail))
	default:
		b.pending = append(b.pending, p.positions...)
	}
}

// settleWrite takes in one part of a write: each command that was proposed has
// a result, those after them were certainly not proposed.
func (b *batch) settleWrite(p *part, a *PartAnswer) {
	done := lastDone(a.Results)
	from := 0
	for n, end := range p.ends {
		positions := p.positions[from:end]
		from = end
		switch {
		case n >= len(a.Results):
			b.notProposed(a, positions)
		case a.Results[n].Outcome == kv.OutcomeApplied:
			for _, i := range positions {
				b.outcomes[i] = kv.OutcomeApplied
			}
		case a.Results[n].Outcome == kv.OutcomeNotApplied:
			if n < done {
				// Sent again it would land behind a later command, which may
				// set one of its keys.
				b.fail(fmt.Errorf("%w: shard %d applied a part without its beginning", kv.ErrUnavailable, p.shard))
			}
			if err := a.Results[n].Code.Err(a.Results[n].Detail); err != nil {
				b.last = fmt.Errorf("shard %d: %w", p.shard, err)
			}
			b.notApplied(a.Results[n].Code, a.Results[n].Detail, positions)
		default:
			b.fail(fmt.Errorf("%w: shard %d: %s", kv.ErrUnknown, p.shard, a.Results[n].Detail))
		}
	}
}

// lastDone returns the place of the last command that was, or may have been,
// applied; -1 if none was.
func lastDone(results []Result) int {
	for n := len(results) - 1; n >= 0; n-- {
		if results[n].Outcome != kv.OutcomeNotApplied {
			return n
		}
	}
	return -1
}

// notProposed handles commands the node did not propose.
func (b *batch) notProposed(a *PartAnswer, positions []int) {
	if a.Status == StatusRefused {
		b.notApplied(a.Code, a.Detail, positions)
		return
	}
	b.pending = append(b.pending, positions...)
}

// notApplied handles positions that were certainly not applied: tried again,
// unless the reason will not go away.
func (b *batch) notApplied(code kv.Code, detail string, positions []int) {
	b.pending = append(b.pending, positions...)
	if !b.retryable(code, detail) {
		b.fail(code.Err(detail))
	}
}

// retryable says whether a refusal may pass. How often a busy node is asked
// again is counted by round.
func (b *batch) retryable(code kv.Code, detail string) bool {
	switch code {
	case kv.CodeOK, kv.CodeUnavailable:
		return true
	case kv.CodeBusy:
		b.refusal = code.Err(detail)
		return true
	default:
		return false
	}
}

// write runs a write and says what became of each key.
func (b *batch) write(ctx context.Context) error {
	b.outcomes = make([]kv.Outcome, b.size)
	b.run(ctx)
	if b.failed == nil && len(b.pending) == 0 {
		return nil
	}
	for _, i := range b.pending {
		b.outcomes[i] = kv.OutcomeNotApplied
	}
	cause := b.failed
	if cause == nil {
		cause = b.unavailable(ctx)
	}
	return &kv.BatchError{Op: b.op.String(), Outcomes: b.outcomes, Err: cause}
}

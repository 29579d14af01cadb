package coordinator

import (
	"testing"
	"time"
)

// turns runs a trial for some turns, with others at a time, and returns how many were with joining.
func turns(t *trial, n, others int, apart, joined time.Duration) (joins int) {
	for end := t.turn + n; t.turn < end; {
		took, turn, with := apart, t.turn, t.joins()
		if with {
			took = joined
		}
		if t.note(took, others); t.turn != turn && with {
			joins++
		}
	}
	return joins
}

func TestTrialFindsTheFasterWay(t *testing.T) {
	var tr trial
	const n, seldom = 1000, 1000/(mostTurns+2) + 5
	if joins := turns(&tr, n, 10, 4*time.Millisecond, 7*time.Millisecond); joins > seldom {
		t.Errorf("joined in %d of %d turns though it is slower", joins, n)
	}
	if joins := turns(&tr, n, 10, 7*time.Millisecond, 4*time.Millisecond); joins < n-seldom-4*mostTurns {
		t.Errorf("joined in %d of %d turns though it is faster", joins, n)
	}
	if joins := turns(&tr, n, 10, 4*time.Millisecond, 7*time.Millisecond); joins > seldom+4*mostTurns {
		t.Errorf("joined in %d of %d turns after it became slower", joins, n)
	}
}

// That everything becomes slower, or faster, while one way is tried says nothing of it.
func TestTrialWithChangesOfItsOwn(t *testing.T) {
	for _, means := range [][]time.Duration{{4, 7, 40}, {40, 7, 4}, {4, 40, 40}, {40, 40, 4}, {4, 4, 4}} {
		var tr trial
		for _, mean := range means {
			turns(&tr, 1, 10, mean, mean)
		}
		if tr.better || tr.stays == 0 {
			t.Errorf("after turns of %v: %+v, want nothing changed", means, tr)
		}
	}
}

// With another load what was known is questioned at once.
func TestTrialWithAnotherLoad(t *testing.T) {
	var tr trial
	turns(&tr, 100, 0, time.Millisecond, time.Millisecond)
	for tr.left < mostTurns-1 {
		turns(&tr, 1, 0, time.Millisecond, time.Millisecond)
	}
	turns(&tr, 3, 60, 7*time.Millisecond, 4*time.Millisecond)
	if !tr.better {
		t.Errorf("after three turns with 60 others: %+v, want the way that is better then", tr)
	}
	if joins := turns(&tr, 10, 60, 7*time.Millisecond, 4*time.Millisecond); joins < 6 {
		t.Errorf("joined in %d of the next 10 turns", joins)
	}
	turns(&tr, 4, 10, 4*time.Millisecond, 7*time.Millisecond)
	if tr.better {
		t.Errorf("after four turns with 10 others: %+v, want the way that is better then", tr)
	}
}

// The first requests of each turn are not measured: all that were there when it began.
func TestTrialMeasuresWholeTurns(t *testing.T) {
	var tr trial
	for _, turn := range []struct{ skips, calls int }{{turnSkips, turnCalls}, {500, 500}} {
		for range turn.skips {
			tr.note(time.Hour, 500)
		}
		before := tr.turn
		for range turn.calls - 1 {
			tr.note(time.Millisecond, 500)
		}
		if tr.turn != before {
			t.Errorf("turn %d ended early", before)
		}
		tr.note(time.Millisecond, 500)
		if mean := max(tr.between, tr.before); tr.turn != before+1 || mean != time.Millisecond {
			t.Errorf("after turn %d: %+v, want a mean of 1ms", before, tr)
		}
	}
}

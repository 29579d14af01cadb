package coordinator

import (
	"testing"
	"time"
)

// turns runs a trial for some turns and returns how many were with joining.
func turns(t *trial, n int, apart, joined time.Duration) (joins int) {
	for end := t.turn + n; t.turn < end; {
		took := apart
		if t.joins() {
			took = joined
		}
		if turn := t.turn; true {
			if t.note(turn, took); t.turn != turn && took == joined && joined != apart {
				joins++
			}
		}
	}
	return joins
}

func TestTrialFindsTheFasterWay(t *testing.T) {
	var tr trial
	const n, seldom = 1000, 1000 / mostTurns * 2
	if joins := turns(&tr, n, 4*time.Millisecond, 7*time.Millisecond); joins > seldom {
		t.Errorf("joined in %d of %d turns though it is slower", joins, n)
	}
	if joins := turns(&tr, n, 7*time.Millisecond, 4*time.Millisecond); joins < n-seldom-2*mostTurns {
		t.Errorf("joined in %d of %d turns though it is faster", joins, n)
	}
	if joins := turns(&tr, n, 4*time.Millisecond, 7*time.Millisecond); joins > seldom+2*mostTurns {
		t.Errorf("joined in %d of %d turns after it became slower", joins, n)
	}
	// All becoming slower in the turn between does not count against either way.
	for range 200 {
		tr.note(tr.turn, time.Duration(tr.turn)*time.Millisecond)
	}
	if tr.better {
		t.Error("took the other way because everything became slower")
	}
}

// Requests of an earlier turn, and the first of each, are not measured.
func TestTrialMeasuresWholeTurns(t *testing.T) {
	var tr trial
	for range turnSkips {
		tr.note(0, time.Hour)
	}
	for range turnCalls {
		tr.note(tr.turn-1, time.Hour)
		tr.note(0, time.Millisecond)
	}
	if tr.turn != 1 || tr.before != time.Millisecond || !tr.joins() {
		t.Errorf("after one turn: %+v, want a mean of 1ms, and the other way next", tr)
	}
}

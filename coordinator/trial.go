package coordinator

import "time"

const (
	// turnSkips requests of a turn are not measured: they queue behind those of the turn
	// before.
	turnSkips = 64
	// turnCalls are measured.
	turnCalls = 128
	// mostTurns is how many turns one way may have before the other one is tried again.
	mostTurns = 32
)

// trial finds out which of two ways is the faster one: to let writes wait for each other,
// or not. It goes by turns. After some turns with one way there is one turn with the
// other, and another one with the first; if requests took less than nine tenths as long in the
// turn between as in those around it, the other way is the better one, until it loses
// in turn. The longer a way has been the better one, the more seldom the other is tried.
type trial struct {
	better bool // whether writes wait for each other, by what is known
	other  bool // this turn is one with the other way
	turn   int  // number
	left   int  // turns until the other way is tried
	stays  int  // what left begins with

	requests int // in this turn
	total    time.Duration
	before   time.Duration // mean of the last turn with the better way
	between  time.Duration // mean of the turn with the other way; 0: there was none since before
}

// joins says whether writes wait for each other in this turn.
func (t *trial) joins() bool { return t.better != t.other }

// note takes in how long a request took that entered in a turn.
func (t *trial) note(turn int, took time.Duration) {
	if turn != t.turn {
		return
	}
	if t.requests++; t.requests <= turnSkips {
		return
	}
	if t.total += took; t.requests < turnSkips+turnCalls {
		return
	}
	mean := t.total / turnCalls
	t.turn++
	t.requests, t.total = 0, 0
	switch {
	case t.other:
		t.between, t.other = mean, false
	case t.between > 0:
		t.judge(mean)
		t.before, t.between = mean, 0
	case t.left > 0:
		t.left--
		t.before = mean
	default:
		t.before, t.other = mean, true
	}
}

// judge compares the turn with the other way to those around it.
func (t *trial) judge(after time.Duration) {
	if around := (t.before + after) / 2; 10*t.between < 9*around {
		t.better, t.stays = !t.better, 0
	} else {
		t.stays = min(2*t.stays+1, mostTurns)
	}
	t.left = t.stays
}

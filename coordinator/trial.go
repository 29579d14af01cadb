package coordinator

import (
	"time"

	"github.com/manykv/manykv/crash"
)

const (
	// turnSkips requests of a turn are not measured, or as many as there were when it
	// began: they wait behind those of the turn before.
	turnSkips = 64
	// turnCalls are measured, or as many as are skipped.
	turnCalls = 128
	// mostTurns bounds the turns that one way has before the other one is tried again.
	mostTurns = 8
)

// trial finds out which of two ways is the faster one: to let writes wait for each other,
// or not. It goes by turns. After some turns with one way there is one turn with the
// other, and another one with the first; if requests took less than nine tenths as long in the
// turn between as in either of those around it, the other way is the better one from then
// on. The more often a way has won, the more turns it has before the other one is tried;
// with half or twice as many requests at a time as then, it is tried at once.
type trial struct {
	better bool // whether writes wait for each other, by what is known
	other  bool // this turn is one with the other way
	turn   int  // number
	left   int  // turns until the other way is tried
	stays  int  // what left begins with

	skips    int // of this turn; less than turnSkips: that
	requests int // in this turn
	total    time.Duration
	others   int           // requests there were besides, in total
	known    int           // how many there were when better was decided
	before   time.Duration // mean of the last turn with the better way
	between  time.Duration // mean of the turn with the other way; 0: there was none since before
}

// joins says whether writes wait for each other in this turn. In builds for fault tests
// each way has every second turn, so that both are tested on whatever machine.
func (t *trial) joins() bool {
	if crash.Enabled {
		return t.turn%2 == 0
	}
	return t.better != t.other
}

// note takes in how long a request took that entered in this turn, and how many others
// there are now.
func (t *trial) note(took time.Duration, inside int) {
	skips := max(t.skips, turnSkips)
	calls := max(skips, turnCalls)
	if t.requests++; t.requests <= skips {
		return
	}
	t.total += took
	if t.others += inside; t.requests < skips+calls {
		return
	}
	mean, others := t.total/time.Duration(calls), t.others/calls
	t.turn++
	t.skips, t.requests, t.total, t.others = inside, 0, 0, 0
	switch {
	case t.other:
		t.between, t.other = mean, false
	case t.between > 0:
		t.judge(mean)
		t.before, t.between, t.known = mean, 0, others
	case others > 2*t.known+1 || t.known > 2*others+1:
		t.before, t.other, t.stays, t.known = mean, true, 0, others
	case t.left > 0:
		t.left--
		t.before = mean
	default:
		t.before, t.other = mean, true
	}
}

// judge compares the turn with the other way to those around it.
func (t *trial) judge(after time.Duration) {
	if 10*t.between < 9*min(t.before, after) {
		t.better, t.stays = !t.better, 0
	} else {
		t.stays = min(2*t.stays+1, mostTurns)
	}
	t.left = t.stays
}

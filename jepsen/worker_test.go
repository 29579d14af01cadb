package jepsen

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/manykv/manykv/kv"
)

func TestOutcomes(t *testing.T) {
	const applied, not, unknown = kv.OutcomeApplied, kv.OutcomeNotApplied, kv.OutcomeUnknown
	for _, c := range []struct {
		name string
		err  error
		want []kv.Outcome
	}{
		{"success", nil, []kv.Outcome{applied, applied, applied}},
		{"a failed batch", &kv.BatchError{Outcomes: []kv.Outcome{applied, not, unknown}, Err: kv.ErrUnknown}, []kv.Outcome{applied, not, unknown}},
		{"a failed batch, wrapped", fmt.Errorf("call: %w", &kv.BatchError{Outcomes: []kv.Outcome{not, not, applied}, Err: kv.ErrUnavailable}), []kv.Outcome{not, not, applied}},
		{"a batch error with too few outcomes", &kv.BatchError{Outcomes: []kv.Outcome{not}, Err: kv.ErrUnavailable}, []kv.Outcome{unknown, unknown, unknown}},
		{"unknown as a whole", fmt.Errorf("call: %w", kv.ErrUnknown), []kv.Outcome{unknown, unknown, unknown}},
		{"refused before anything was sent", fmt.Errorf("call: %w", kv.ErrBusy), []kv.Outcome{not, not, not}},
		{"an error of nobody's", errors.New("what"), []kv.Outcome{unknown, unknown, unknown}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := Outcomes(c.err, 3); !slices.Equal(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

// What happened, or may have, becomes operations; what did not, does not.
func TestFailedWriteBecomesOperations(t *testing.T) {
	w := &worker{history: NewHistory(), tally: NewTally(), keys: newHotKeys("k", hotCount), counters: newHotKeys("c", counterCount)}
	w.process = w.history.NewProcess()
	failed := &kv.BatchError{
		Outcomes: []kv.Outcome{kv.OutcomeApplied, kv.OutcomeNotApplied, kv.OutcomeUnknown}, Err: fmt.Errorf("%w: lost", kv.ErrUnknown),
	}
	call := w.history.Now()
	err := w.hasWritten("set-many", Route{Name: "n2"}, call, failed, []Operation{
		{Kind: Set, Key: "k00001", Value: "1"}, {Kind: Set, Key: "k00002", Value: "2"}, {Kind: Set, Key: "k00003", Value: "3"},
	})
	if !errors.Is(err, kv.ErrUnknown) {
		t.Errorf("got error %v, want the call's", err)
	}
	got := w.history.Operations()
	if len(got) != 2 {
		t.Fatalf("got %d operations %v, want those on k00001 and k00003", len(got), got)
	}
	for i, key := range []string{"k00001", "k00003"} {
		op := got[i]
		known := i == 0
		if op.Key != key || op.Call != call || (op.Return != Never) != known || (op.Why == "") != known || op.Process != 0 || op.Via != "n2" || op.Batch != 1 {
			t.Errorf("operation %d is %+v, want key %s of call 1, process 0, via n2, outcome known: %v", i, op, key, known)
		}
	}
	if w.process != 1 {
		t.Errorf("after an unknown outcome the process is %d, want 1", w.process)
	}
	if n := w.keys.inUse[3].unknown; n != 1 {
		t.Errorf("key k00003 has %d unknown writes, want 1", n)
	}
	if table := w.tally.String(); w.tally.Total() != 1 || !strings.Contains(table, "set-many") {
		t.Errorf("the tally is\n%s, want 1 set-many", table)
	}
}

func TestWornKeysAreReplaced(t *testing.T) {
	k := newHotKeys("k", hotCount)
	r := rand.New(rand.NewPCG(1, 2))
	for range keyUnknown {
		k.unknown("k00000")
	}
	seen := make(map[string]int)
	for range keyOperations * hotCount {
		picked := k.pick(r, mostKeys)
		slices.Sort(picked)
		if len(slices.Compact(picked)) != mostKeys {
			t.Fatalf("picked %q, want %d different keys", picked, mostKeys)
		}
		for _, key := range picked {
			seen[key]++
		}
	}
	if n := seen["k00000"]; n != 0 {
		t.Errorf("a key with %d unknown writes was used %d times more", keyUnknown, n)
	}
	for key, n := range seen {
		if n > keyOperations {
			t.Errorf("key %s was used %d times, want at most %d", key, n, keyOperations)
		}
	}
	if all := k.all(); len(all) < (mostKeys-1)*hotCount || len(all) != len(seen)+1 {
		t.Errorf("there were %d keys, %d of them used; want all but k00000, and many", len(all), len(seen))
	}
}

func TestLongestGap(t *testing.T) {
	events := []int64{10, 20, 50, 60, 100}
	for _, c := range []struct {
		name     string
		from, to int64
		want     time.Duration
	}{
		{"within the span", 10, 60, 30},
		{"from the span's beginning", 25, 60, 25},
		{"to its end", 60, 70, 10},
		{"to its end, after the last event", 100, 130, 30},
		{"nothing at all", 200, 230, 30},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := LongestGap(events, c.from, c.to); got != c.want {
				t.Errorf("got %d, want %d", got, c.want)
			}
		})
	}
}

func TestSummaryShowsTheLongestOfAKind(t *testing.T) {
	const ms = int64(time.Millisecond)
	faults := []Fault{{Kind: KillNode, Begin: 100 * ms}, {Kind: Pause, Begin: 200 * ms}, {Kind: KillNode, Begin: 300 * ms}}
	writes := []int64{100 * ms, 120 * ms, 205 * ms, 350 * ms, 400 * ms}
	table := Summary(faults, writes, writes, 400*ms)
	for _, want := range [][]string{{KillNode, "2", "80ms"}, {Pause, "1", "95ms"}, {"the whole run", "3", "145ms"}} {
		if !slices.ContainsFunc(strings.Split(table, "\n"), func(line string) bool {
			return strings.Contains(line, want[0]) && strings.Contains(line, " "+want[1]+" ") && strings.Contains(line, want[2])
		}) {
			t.Errorf("no line with %q in\n%s", want, table)
		}
	}
}

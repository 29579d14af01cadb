package cluster

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/manykv/manykv/coordinator"
	"github.com/manykv/manykv/fsm"
	"github.com/manykv/manykv/kv"
)

// lateContext has ended, and a result arrives once that was noticed.
type lateContext struct {
	context.Context
	results chan<- coordinator.Result
}

func (c lateContext) Err() error {
	c.results <- coordinator.Result{Outcome: kv.OutcomeApplied, Value: 1}
	return c.Context.Err()
}

// A result that comes when its command was given up is not taken for the next one's.
func TestResultsStayWithTheirCommands(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	results := make(chan coordinator.Result, 10)
	p := proposal{given: 4, results: results}
	results <- coordinator.Result{Outcome: kv.OutcomeApplied, Value: 7}
	cancel()
	got := p.wait(lateContext{ended, results})
	if len(got) != 4 || got[0].Outcome != kv.OutcomeApplied || got[0].Value != 7 {
		t.Fatalf("got %+v, want four results, the first of them applied", got)
	}
	if len(results) == 0 {
		t.Fatal("no result came late")
	}
	for i, r := range got[1:] {
		if r.Outcome != kv.OutcomeUnknown {
			t.Errorf("command %d: %+v, want unknown", i+1, r)
		}
	}
}

// What may share an entry does, in order and within bounds; the rest stands by itself.
func TestCommandsShareEntries(t *testing.T) {
	set := func(bytes int) []byte {
		return kv.AppendSet(nil, kv.Origin{}, 1, []kv.Pair{{Key: "k", Value: make([]byte, bytes)}})
	}
	del := kv.AppendDelete(nil, kv.Origin{}, 1, []string{"k"})
	other := kv.AppendDelete(nil, kv.Origin{Client: 7, Seq: 1}, 1, []string{"k"})
	incr := kv.AppendIncrement(nil, kv.Origin{}, 1, "k", 1)
	swap := kv.AppendSwap(nil, kv.Origin{}, 1, 1, kv.Pair{Key: "k"})
	small, half, whole := set(1), set(kv.MaxCommandBytes/2-100), set(kv.MaxCommandBytes-100)
	for _, c := range []struct {
		name     string
		commands [][]byte
		want     []int // commands of each entry
	}{
		{"none", nil, nil},
		{"one", [][]byte{small}, []int{1}},
		{"several", [][]byte{small, del, small}, []int{3}},
		{"what reads, between", [][]byte{small, small, incr, del, del, swap, swap, small}, []int{2, 1, 2, 1, 1, 1}},
		{"two clients", [][]byte{small, del, other, other, del}, []int{2, 2, 1}},
		{"as large as may be", [][]byte{half, half, half, whole, whole, small, small}, []int{2, 1, 1, 1, 2}},
	} {
		var got []int
		var back [][]byte
		for _, e := range bundled(c.commands) {
			got = append(got, e.commands)
			commands := [][]byte{e.data}
			if e.commands > 1 {
				var err error
				commands, err = kv.DecodeBundle(e.data)
				must(t, err)
			}
			if len(e.data) > kv.MaxCommandBytes || len(commands) != e.commands {
				t.Errorf("%s: an entry of %d bytes and %d commands, want at most %d bytes and %d commands", c.name, len(e.data), len(commands), kv.MaxCommandBytes, e.commands)
			}
			back = append(back, commands...)
		}
		if !slices.Equal(got, c.want) || !slices.EqualFunc(back, c.commands, bytes.Equal) {
			t.Errorf("%s: entries of %d commands, want %d, all of them in order", c.name, got, c.want)
		}
	}
}

// decidedFuture is raft's answer to an entry.
type decidedFuture struct {
	raft.ApplyFuture
	err      error
	response any
}

func (f decidedFuture) Error() error  { return f.err }
func (f decidedFuture) Response() any { return f.response }

// Each command of an entry has a result: its own, or that of the entry.
func TestEachCommandOfAnEntryHasAResult(t *testing.T) {
	unknown := [3]kv.Outcome{kv.OutcomeUnknown, kv.OutcomeUnknown, kv.OutcomeUnknown}
	refused := [3]kv.Outcome{kv.OutcomeNotApplied, kv.OutcomeNotApplied, kv.OutcomeNotApplied}
	each := []fsm.Result{{Value: 1}, {Err: kv.ErrNoSuchStore}, {Value: 3}}
	for _, c := range []struct {
		name   string
		future decidedFuture
		want   [3]kv.Outcome
	}{
		{"each", decidedFuture{response: fsm.Result{Each: each}}, [3]kv.Outcome{kv.OutcomeApplied, kv.OutcomeNotApplied, kv.OutcomeApplied}},
		{"refused as a whole", decidedFuture{response: fsm.Result{Err: kv.ErrInvalid}}, refused},
		{"failed", decidedFuture{response: fsm.Result{Err: errors.New("disk on fire")}}, unknown},
		{"lost", decidedFuture{err: raft.ErrLeadershipLost}, unknown},
		{"refused by raft", decidedFuture{err: raft.ErrNotLeader}, refused},
		{"results are missing", decidedFuture{response: fsm.Result{Each: each[:2]}}, unknown},
		{"no results", decidedFuture{response: fsm.Result{}}, unknown},
	} {
		results := make(chan coordinator.Result, len(c.want))
		(&entry{commands: len(c.want), future: c.future}).await(&replica{}, results)
		for i, want := range c.want {
			if got := <-results; got.Outcome != want || want == kv.OutcomeApplied && got.Value != each[i].Value {
				t.Errorf("%s, command %d: %+v, want outcome %d", c.name, i, got, want)
			}
		}
	}
}

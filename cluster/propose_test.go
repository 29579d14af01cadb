package cluster

import (
	"context"
	"testing"

	"github.com/manykv/manykv/coordinator"
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

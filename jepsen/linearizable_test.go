//go:build unix

package jepsen

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"
)

// TestLinearizable reads and writes a few keys from many clients while nodes
// are killed and paused, and checks every key's history.
func TestLinearizable(t *testing.T) {
	s := *seed
	if s == 0 {
		s = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d: -args -ops %d -seed %d", s, *calls, s)
	h := startNodes(t)
	run := h.newRun(s)
	run.make(t)

	operations := run.history.Operations()
	verdict := CheckHistory(operations)
	t.Logf("%d calls in %v, %d operations on %d keys, checked in %v\n%s%s", run.tally.Total(), run.took.Round(time.Millisecond),
		verdict.Operations, verdict.Keys, verdict.Took.Round(time.Millisecond), run.tally,
		Summary(run.faults, Writes(operations), run.prober.Succeeded(), run.history.Now()))
	if !slices.ContainsFunc(run.faults, func(f Fault) bool { return f.Kind == KillAll }) {
		t.Errorf("faults were %v, want %q among them", run.faults, KillAll)
	}
	run.evidence(t, operations, slices.Concat(verdict.Broken, verdict.Undecided))
	must(t, errors.Join(verdict.Err(), Versions(operations)))
	t.Log("linearizable")
}

// killing is one run of clients against a nemesis that kills and pauses.
type killing struct {
	h        *harness
	seed     uint64
	history  *History
	tally    *Tally
	workload *Registers
	nemesis  *Nemesis
	prober   *Prober
	final    []Route
	faults   []Fault
	took     time.Duration
}

func (h *harness) newRun(s uint64) *killing {
	h.t.Helper()
	r := &killing{h: h, seed: s, history: NewHistory(), tally: NewTally()}
	r.prober = h.prober(r.history)
	asking := h.client(false)
	r.nemesis = &Nemesis{
		Nodes: h.nodes, History: r.history, Seed: s, Leaders: leadersBy(asking),
		First: KillAll, FirstDone: make(chan struct{}),
	}
	r.workload = &Registers{History: r.history, Tally: r.tally, Seed: s, Calls: *calls}
	for i := range registerWorkers {
		routes := []Route{h.routed()}
		if i%2 == 1 {
			routes = h.throughEach()
		}
		r.workload.Workers = append(r.workload.Workers, routes)
	}
	r.final = append(h.throughEach(), h.routed())
	return r
}

// make runs clients and faults until the clients have made their calls, then
// waits for the cluster to heal and reads everything once more on every route.
func (r *killing) make(t *testing.T) {
	t.Helper()
	began := time.Now()
	ctx, stop := context.WithCancel(t.Context())
	var background sync.WaitGroup
	background.Go(func() { r.prober.Run(ctx) })
	var nemesisErr error
	background.Go(func() { r.faults, nemesisErr = r.nemesis.Run(ctx) })
	err := r.workload.Run(ctx, r.nemesis.FirstDone)
	stop()
	background.Wait()
	if err := errors.Join(err, nemesisErr); err != nil {
		r.evidence(t, r.history.Operations(), nil)
		t.Fatal(err)
	}
	healing, done := context.WithTimeout(t.Context(), healTime)
	defer done()
	if err := r.prober.Await(healing); err != nil {
		t.Errorf("%v after the last fault: %v", healTime, err)
	}
	for _, route := range r.final {
		if err := r.workload.ReadAll(healing, route); err != nil {
			t.Error(err)
		}
	}
	r.took = time.Since(began)
}

// evidence writes what is needed to understand a run, to be kept with the logs.
func (r *killing) evidence(t *testing.T, operations []Operation, keys []string) {
	t.Helper()
	file := func(name string) string {
		path := filepath.Join(r.h.dir, name)
		r.h.files = append(r.h.files, path)
		return path
	}
	about, err := json.MarshalIndent(map[string]any{"seed": r.seed, "ops": *calls, "broken": keys, "faults": r.faults}, "", "  ")
	must(t, err)
	must(t, os.WriteFile(file("run.json"), about, 0o644))
	must(t, writeHistory(file("history.jsonl"), operations))
	pictures, err := saveBroken(r.h.dir, operations, keys)
	must(t, err)
	for _, name := range pictures {
		file(name)
	}
	if len(keys) > 0 {
		file(brokenFile)
	}
}

//go:build unix

package jepsen

import (
	"context"
	"sync"
	"testing"
	"time"
)

// counterCallers is how many count at a time.
const counterCallers = 8

// TestExactlyOnce counts from many callers while nodes are killed and paused.
// Every increment whose outcome was unknown is sent again: the sum is exact.
func TestExactlyOnce(t *testing.T) {
	s := *seed
	if s == 0 {
		s = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d: -args -increments %d -seed %d", s, *increments, s)
	h := startNodes(t)
	nemesis := &Nemesis{Nodes: h.nodes, History: NewHistory(), Seed: s, Leaders: leadersBy(h.client(false)), First: KillAll, FirstDone: make(chan struct{})}
	counters := &Counters{Dial: h.dial, Nodes: nodeCount, Bucket: bucketName, Callers: counterCallers, Increments: *increments}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var (
		background sync.WaitGroup
		nemesisErr error
	)
	background.Go(func() { _, nemesisErr = nemesis.Run(ctx) })
	began := time.Now()
	err := counters.Run(ctx, nemesis.FirstDone)
	took := time.Since(began)
	stop()
	background.Wait()
	must(t, err)
	must(t, nemesisErr)

	healing, done := context.WithTimeout(t.Context(), healTime)
	defer done()
	must(t, h.prober(NewHistory()).Await(healing))
	must(t, counters.Judge(healing, append(h.throughEach(), h.routed())))
	faults, _ := nemesis.Now()
	t.Logf("%v; %v, %d faults", counters, took.Round(time.Millisecond), faults)
	if faults == 0 || counters.Again() == 0 {
		t.Error("no fault, or no increment of unknown outcome: nothing is proved")
	}
}

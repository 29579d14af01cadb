//go:build unix

package jepsen

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

const second = int64(time.Second)

// wellFormed reads a text as XML.
func wellFormed(t *testing.T, text string) {
	t.Helper()
	for d := xml.NewDecoder(strings.NewReader(text)); ; {
		_, err := d.Token()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatalf("%v in\n%.500s", err, text)
		}
	}
}

func TestBuckets(t *testing.T) {
	operations := []Operation{
		{Kind: Get, Call: 0, Return: 1 * second},
		{Kind: Set, Call: 9 * second, Return: 10*second - 1},
		{Kind: Set, Call: 5 * second, Return: Never},
		{Kind: Conflict, Call: 2 * second, Return: 12 * second}, // after the end
	}
	var sum bucket
	all := buckets(operations, 10*second)
	for _, b := range all {
		sum.reads, sum.writes, sum.unknown = sum.reads+b.reads, sum.writes+b.writes, sum.unknown+b.unknown
		sum.max = max(sum.max, b.max)
	}
	if sum.reads != 1 || sum.writes != 1 || sum.unknown != 1 || sum.max != time.Second || all[plotBuckets/10].reads != 1 || all[plotBuckets/2].unknown != 1 {
		t.Errorf("got %+v in all", sum)
	}
}

// A page shows what it is given, escaped, and stays small however long the run was.
func TestPage(t *testing.T) {
	const hostile = `<script>alert("x")</script>`
	r := &Result{
		tally: NewTally(), Checks: []Check{{"linearizable", false, hostile}, {"leaders", true, "fine"}},
		Faults: []Fault{{Kind: KillLeader, Nodes: []string{hostile}, Detail: hostile, Begin: second, End: 3 * second}},
	}
	for i := range int64(300_000) {
		r.history = append(r.history, Operation{Kind: Set, Call: i * second / 1000, Return: i*second/1000 + 5000})
	}
	var b strings.Builder
	if err := r.page(Config{Length: 5 * time.Minute, Replay: hostile}, []string{"k00001.html"}).write(&b); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	if strings.Contains(text, "<script") || len(text) > 500_000 {
		t.Errorf("a page of %d bytes, or what it shows is not escaped", len(text))
	}
	for _, want := range []string{"FAIL: ", "did not", `href="k00001.html"`, KillLeader, "&lt;script&gt;"} {
		if !strings.Contains(text, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	for _, svg := range []string{
		PlotThroughput(r.history, r.Faults, 300*second), PlotLatency(r.history, r.Faults, 300*second), PlotTimeline(r.Faults, 300*second),
		PlotThroughput(nil, nil, second), PlotLatency(nil, nil, second), PlotTimeline(nil, second),
	} {
		wellFormed(t, svg)
	}
}

func TestRecovery(t *testing.T) {
	r := &Result{
		probes: []int64{1 * second, 2 * second, 5 * second, 6 * second, 7 * second, 20 * second, 21 * second},
		Faults: []Fault{
			{Kind: KillLeader, Round: 0, Begin: 2*second + 1, End: 10 * second, Awaited: true},
			{Kind: Halves, Round: 1, Begin: 8 * second, End: 15 * second, Awaited: true},
			{Kind: Loss, Round: 2, Begin: 16 * second, End: 17 * second, Awaited: true}, // beside another: says nothing
			{Kind: Halves, Round: 2, Begin: 16 * second, End: 17 * second, Awaited: true},
			{Kind: Halves, Round: 3, Begin: 1 * second, End: 2 * second}, // the next round came at once
		},
	}
	got := r.Recovery()
	if len(got) != 2 || got[0].Kind != KillLeader || got[0].Max.Round(time.Second) != 4*time.Second || got[1].Kind != Halves || got[1].Times != 1 || got[1].P50 != 6*time.Second {
		t.Errorf("got %v", got)
	}
}

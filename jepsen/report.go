package jepsen

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// result is how a call ended, for people.
type result int

const (
	resultOK      result = iota
	resultFailed         // nothing was read, or nothing was applied
	resultPartly         // some keys were applied, the others were not
	resultUnknown        // of one key or more it is not known
	resultCount
)

// writeResult names how a write ended.
func writeResult(err error, lost bool, applied int) result {
	switch {
	case err == nil:
		return resultOK
	case lost:
		return resultUnknown
	case applied > 0:
		return resultPartly
	default:
		return resultFailed
	}
}

// Tally counts calls by name and result. It is safe for concurrent use.
type Tally struct {
	mu    sync.Mutex // guards calls
	calls map[string]*[resultCount]int
}

// NewTally returns an empty tally.
func NewTally() *Tally { return &Tally{calls: make(map[string]*[resultCount]int)} }

func (t *Tally) count(name string, r result) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.calls[name] == nil {
		t.calls[name] = new([resultCount]int)
	}
	t.calls[name][r]++
}

// Total returns how many calls there were.
func (t *Tally) Total() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	total := 0
	for _, counts := range t.calls {
		for _, n := range counts {
			total += n
		}
	}
	return total
}

// String is a table of the counts.
func (t *Tally) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var b strings.Builder
	fmt.Fprintf(&b, "  %-12s %8s %8s %8s %8s\n", "calls", "ok", "failed", "partly", "unknown")
	for _, name := range slices.Sorted(maps.Keys(t.calls)) {
		c := t.calls[name]
		fmt.Fprintf(&b, "  %-12s %8d %8d %8d %8d\n", name, c[resultOK], c[resultFailed], c[resultPartly], c[resultUnknown])
	}
	return b.String()
}

// Summary is a table of the faults: for each kind how often, and the longest
// time from such a fault to the next one in which no write was acknowledged, and
// no write to all shards; then the same for the whole run, since faults may come
// before all shards have recovered from the last.
func Summary(faults []Fault, writes, probes []int64, end int64) string {
	type line struct {
		times            int
		noWrite, noWhole time.Duration
	}
	byKind := make(map[string]*line)
	for i := range faults {
		until := end
		if i+1 < len(faults) {
			until = faults[i+1].Begin
		}
		l := byKind[faults[i].Kind]
		if l == nil {
			l = &line{}
			byKind[faults[i].Kind] = l
		}
		l.times++
		l.noWrite = max(l.noWrite, LongestGap(writes, faults[i].Begin, until))
		l.noWhole = max(l.noWhole, LongestGap(probes, faults[i].Begin, until))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "  %-18s %6s %22s %24s\n", "faults", "times", "longest without write", "… without all shards")
	row := func(name string, times int, noWrite, noWhole time.Duration) {
		fmt.Fprintf(&b, "  %-18s %6d %22v %24v\n", name, times, noWrite.Round(time.Millisecond), noWhole.Round(time.Millisecond))
	}
	for _, kind := range slices.Sorted(maps.Keys(byKind)) {
		l := byKind[kind]
		row(kind, l.times, l.noWrite, l.noWhole)
	}
	row("the whole run", len(faults), LongestGap(writes, 0, end), LongestGap(probes, 0, end))
	return b.String()
}

// LongestGap is the longest time within a span without one of the sorted events.
func LongestGap(events []int64, from, to int64) time.Duration {
	longest, last := int64(0), from
	for _, at := range events {
		if at <= from {
			continue
		}
		if at >= to {
			break
		}
		longest = max(longest, at-last)
		last = at
	}
	return time.Duration(max(longest, to-last))
}

// Writes returns when writes were acknowledged, sorted.
func Writes(operations []Operation) []int64 {
	var out []int64
	for i := range operations {
		if !operations[i].Kind.reads() && operations[i].Return != Never {
			out = append(out, operations[i].Return)
		}
	}
	slices.Sort(out)
	return out
}

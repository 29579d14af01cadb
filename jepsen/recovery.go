package jepsen

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Recovery is how long it took after faults of a kind until every shard took writes.
// Only rounds with one fault count, after which the nemesis waited: there the time can
// be put down to it.
type Recovery struct {
	Kind  string        `json:"kind"`
	Times int           `json:"times"`
	From  string        `json:"from"` // what the time is counted from
	P50   time.Duration `json:"p50_ns"`
	P99   time.Duration `json:"p99_ns"`
	Max   time.Duration `json:"max_ns"`
}

// Recovery tells of each kind of fault how long all shards were not writable: after
// the death of a node counted from its death, for all others from when it was undone.
func (r *Result) Recovery() []Recovery {
	alone := make(map[int]int)
	for _, f := range r.Faults {
		alone[f.Round]++
	}
	times := make(map[string][]time.Duration)
	for _, f := range r.Faults {
		if alone[f.Round] == 1 && f.Awaited {
			times[f.Kind] = append(times[f.Kind], recovered(r.probes, recoveryFrom(f)))
		}
	}
	var out []Recovery
	for kind, all := range times {
		slices.Sort(all)
		at := func(q float64) time.Duration { return all[min(len(all)-1, int(q*float64(len(all))))] }
		from := "its end"
		if minority(kind) {
			from = "its beginning"
		}
		out = append(out, Recovery{kind, len(all), from, at(0.5), at(0.99), all[len(all)-1]})
	}
	slices.SortFunc(out, func(a, b Recovery) int { return cmp.Compare(a.Kind, b.Kind) })
	return out
}

// minority says whether a fault of a kind leaves a majority that needs nothing of
// the nodes it is about.
func minority(kind string) bool { return kind == KillNode || kind == KillLeader || kind == PowerOne }

func recoveryFrom(f Fault) int64 {
	if minority(f.Kind) {
		return f.Begin
	}
	return f.End
}

// recovered is the time from a moment to the end of the first probe that began after
// it: probes are the times when one succeeded, and one takes probeTime at most.
func recovered(probes []int64, from int64) time.Duration {
	at, _ := slices.BinarySearch(probes, from)
	for ; at < len(probes); at++ {
		if at > 0 && probes[at-1] >= from || at == len(probes)-1 {
			return time.Duration(probes[at] - from)
		}
	}
	return 0
}

func (r Recovery) String() string {
	ms := func(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
	return fmt.Sprintf("%-32s %4d  p50 %8v  p99 %8v  max %8v  from %s", r.Kind, r.Times, ms(r.P50), ms(r.P99), ms(r.Max), r.From)
}

package wasi

import (
	"sync/atomic"
	"time"
)

// Stats counts calls of guests. Its zero value is ready; it is safe for concurrent
// use.
type Stats struct {
	counts [32]counter // of functions, by index
}

type counter struct{ calls, keys, nanos atomic.Uint64 }

// Count is how often a function was called.
type Count struct {
	Function string // "batch.get-many"
	Version  string // "0.2.0-draft"; "" if all have it
	Calls    uint64
	Keys     uint64        // that the calls named, or a listing returned
	Time     time.Duration // in the host and the store; without what the guest allocates
}

func (s *Stats) add(i int, keys uint64, took time.Duration) {
	n := &s.counts[i]
	n.calls.Add(1)
	n.keys.Add(keys)
	n.nanos.Add(uint64(took))
}

// Counts returns the functions that were called, in the order of their interfaces.
func (s *Stats) Counts() []Count {
	var all []Count
	for i := range functions {
		f, n := &functions[i], &s.counts[i]
		if n.calls.Load() == 0 {
			continue
		}
		c := Count{Function: f.label(), Calls: n.calls.Load(), Keys: n.keys.Load(), Time: time.Duration(n.nanos.Load())}
		if len(f.only) == 1 {
			c.Version = f.only[0].String()
		}
		all = append(all, c)
	}
	return all
}

// count returns how many keys a call has.
func (f *function) count(c *call) uint64 {
	if f.keys == nil {
		return 0
	}
	return f.keys(c)
}

func oneKey(*call) uint64       { return 1 }
func manyKeys(c *call) uint64   { return uint64(uint32(c.args[2])) }
func listedKeys(c *call) uint64 { return c.keys }

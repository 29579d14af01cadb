package sim

import (
	"flag"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

var (
	seeds = flag.Int("sim.seeds", 0, "seeds that each simulation runs; 0: its own number, a few seconds")
	first = flag.Uint64("sim.first", 0, "the first of them; 0: those that have failed once, then 1")
)

// traceLines is how many of the last notes a failure shows: enough for the last
// few seconds of a simulation, few enough to be read.
const traceLines = 400

// Seed is one simulation under way.
type Seed struct {
	N uint64 // its number

	began time.Time

	mu    sync.Mutex // guards what follows
	notes []string   // a ring: the next one goes to place made
	made  int
	sum   uint64 // of all notes
}

// Run runs a simulation with the seeds that have failed once and then with so many
// others, on one processor. A simulation fails by t, as any test does. The test must
// not be parallel to others.
func Run(t *testing.T, count int, failed []uint64, simulate func(t *testing.T, s *Seed)) {
	t.Helper()
	todo := choose(*seeds, *first, count, failed)
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	began := time.Now()
	for _, n := range todo {
		if !t.Run(fmt.Sprint("seed=", n), func(t *testing.T) { one(t, n, simulate) }) {
			t.Fatalf("seed %d failed; run it again with\n\tgo test -run '^%s$' -sim.first %d -sim.seeds 1", n, t.Name(), n)
		}
	}
	took := time.Since(began)
	t.Logf("%d seeds in %v, %.0f a minute", len(todo), took.Round(time.Millisecond), float64(len(todo))/took.Minutes())
}

// choose returns the seeds to run, given the flags' values and the test's own.
func choose(seeds int, first uint64, count int, failed []uint64) (todo []uint64) {
	if seeds > 0 {
		count = seeds
	}
	if first == 0 {
		todo = append(todo, failed...)
		first = 1
	}
	for i := range uint64(count) {
		todo = append(todo, first+i)
	}
	return todo
}

// one runs one seed and shows its notes if it fails, by t or by a panic.
func one(t *testing.T, n uint64, simulate func(t *testing.T, s *Seed)) {
	s := newSeed(n)
	ended := false
	defer func() {
		if !ended || t.Failed() {
			t.Logf("seed %d: %s", n, s.trace())
		}
	}()
	simulate(t, s)
	ended = true
}

func newSeed(n uint64) *Seed {
	return &Seed{N: n, began: time.Now(), notes: make([]string, 0, traceLines)}
}

// Source returns the source of choices of that name, from its beginning.
func (s *Seed) Source(name string) *rand.Rand {
	h := fnv.New64a()
	h.Write([]byte(name))
	return rand.New(rand.NewPCG(s.N, h.Sum64()))
}

// Begin is the moment from which notes count the time, once the simulation's own
// time runs.
func (s *Seed) Begin() { s.began = time.Now() }

// Note keeps a line for the case that the simulation fails.
func (s *Seed) Note(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	line := fmt.Sprintf("%12v %s", time.Since(s.began), text)
	h := fnv.New64a()
	h.Write([]byte(text))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sum = s.sum*31 + h.Sum64()
	if len(s.notes) < traceLines {
		s.notes = append(s.notes, line)
	} else {
		s.notes[s.made%traceLines] = line
	}
	s.made++
}

// Sum tells apart simulations that noted different things.
func (s *Seed) Sum() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sum
}

// trace returns the last notes, the oldest first.
func (s *Seed) trace() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b strings.Builder
	fmt.Fprintf(&b, "the last %d of %d notes:\n", len(s.notes), s.made)
	for i := range s.notes {
		b.WriteString(s.notes[(s.made-len(s.notes)+i)%len(s.notes)])
		b.WriteByte('\n')
	}
	return b.String()
}

package sim

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestChoose(t *testing.T) {
	for _, c := range []struct {
		name   string
		seeds  int
		first  uint64
		count  int
		failed []uint64
		want   []uint64
	}{
		{"by itself", 0, 0, 3, nil, []uint64{1, 2, 3}},
		{"after those that failed once", 0, 0, 2, []uint64{77, 5}, []uint64{77, 5, 1, 2}},
		{"more", 4, 0, 2, []uint64{77}, []uint64{77, 1, 2, 3, 4}},
		{"one alone", 1, 77, 2, []uint64{5}, []uint64{77}},
		{"from another one on", 0, 8, 2, []uint64{5}, []uint64{8, 9}},
	} {
		if got := choose(c.seeds, c.first, c.count, c.failed); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

// A source depends on the seed and its name, not on what was drawn elsewhere.
func TestSource(t *testing.T) {
	s := newSeed(7)
	a := s.Source("a").Uint64()
	s.Source("b").Uint64()
	if again := s.Source("a").Uint64(); again != a {
		t.Errorf("got %d, want %d again", again, a)
	}
	if b, other := s.Source("b").Uint64(), newSeed(8).Source("a").Uint64(); b == a || other == a {
		t.Errorf("got %d of another name and %d of another seed, want none to be %d", b, other, a)
	}
}

func TestTrace(t *testing.T) {
	s := newSeed(7)
	const made = traceLines + 3
	for i := range made {
		s.Note("note %d", i)
	}
	lines := strings.Split(strings.TrimSpace(s.trace()), "\n")
	if want := fmt.Sprintf("the last %d of %d notes:", traceLines, made); lines[0] != want || len(lines) != traceLines+1 {
		t.Fatalf("got %q and %d notes, want %q and as many", lines[0], len(lines)-1, want)
	}
	for i, line := range lines[1:] {
		if want := fmt.Sprintf(" note %d", i+3); !strings.HasSuffix(line, want) {
			t.Fatalf("line %d: got %q, want %q at its end", i, line, want)
		}
	}
	other := newSeed(7)
	for i := range made - 1 {
		other.Note("note %d", i)
	}
	if other.Sum() == s.Sum() {
		t.Error("other notes have the same sum")
	}
	if other.Note("note %d", made-1); other.Sum() != s.Sum() {
		t.Error("the same notes have another sum")
	}
}

func TestRun(t *testing.T) {
	var ran []uint64
	Run(t, 3, []uint64{9}, func(_ *testing.T, s *Seed) { ran = append(ran, s.N) })
	if *seeds == 0 && *first == 0 && !slices.Equal(ran, []uint64{9, 1, 2, 3}) {
		t.Errorf("ran seeds %v, want 9, 1, 2, 3", ran)
	}
}

//go:build unix

package jepsen

import (
	"context"
	"math/rand/v2"
	"slices"
	"testing"
)

// One seed gives one plan, and another seed another.
func TestPlansComeFromTheSeed(t *testing.T) {
	names := func(seed uint64) (out []string) {
		n := &Nemesis{Nodes: []*Node{{}, {}, {}}, AtOnce: 3, First: KillAll}
		if err := n.choose(); err != nil {
			t.Fatal(err)
		}
		random := rand.New(rand.NewPCG(seed, 0))
		for round := range 50 {
			for _, p := range n.plan(random, round) {
				out = append(out, p.kind.name)
			}
		}
		return out
	}
	first := names(1)
	if first[0] != KillAll || !slices.Equal(first, names(1)) || slices.Equal(first, names(2)) || len(first) < 60 {
		t.Errorf("50 rounds: %q", first)
	}
	for _, name := range first {
		if name == Halves || name == PowerAll || name == CrashPoint {
			t.Errorf("%s cannot be done here", name)
		}
	}
}

func TestFaultsAreKnown(t *testing.T) {
	nodes := []*Node{{}, {}, {}}
	for what, n := range map[string]*Nemesis{
		"an unknown kind":          {Nodes: nodes, Kinds: []string{"earthquake"}},
		"an unknown first":         {Nodes: nodes, First: "earthquake"},
		"what needs a network":     {Nodes: nodes, Kinds: []string{Halves}},
		"what needs more machines": {Nodes: nodes, Kinds: []string{Ring}},
	} {
		if _, err := n.Run(context.Background()); err == nil {
			t.Errorf("%s was accepted", what)
		}
	}
	seen := make(map[string]bool)
	for _, k := range kinds() {
		if seen[k.name] || k.weight <= 0 || k.do == nil {
			t.Errorf("kind %q stands twice, or cannot be done", k.name)
		}
		seen[k.name] = true
	}
}

// What one fault holds another does not get, and all is given back.
func TestFaultsDoNotShare(t *testing.T) {
	n := &Nemesis{History: NewHistory(), held: make(map[string]bool), doing: make(map[*injection]string)}
	inner := planned{kind: kind{name: "inner", do: func(j *injection) error { return j.hold("b", "a") }}}
	outer := planned{kind: kind{name: "outer", do: func(j *injection) error {
		if err := j.hold("a"); err != nil {
			return err
		}
		return n.do(context.Background(), 0, inner)
	}}}
	for round := 1; round <= 2; round++ {
		if err := n.do(context.Background(), 0, outer); err != nil {
			t.Fatal(err)
		}
		if faults, _ := n.Now(); faults != round || n.Skipped() != round || len(n.held) != 0 {
			t.Errorf("round %d: %d faults, %d skipped, %v held", round, faults, n.Skipped(), n.held)
		}
	}
}

//go:build linux

package disk

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// cutSeeds is how many power cuts each story has. The rarest outcome that a story
// must show comes up in one of about 20.
const cutSeeds = 100

// oneOf names a shape by the first pattern that it matches.
type oneOf []struct{ pattern, name string }

func (o oneOf) name(shape string) string {
	for _, c := range o {
		if regexp.MustCompile("^(" + c.pattern + ")$").MatchString(shape) {
			return c.name
		}
	}
	return "WRONG: " + shape
}

// TestPowerCut tells stories that end with a power cut, and compares all that
// came out of it with all that may and must come out.
func TestPowerCut(t *testing.T) {
	const block = blockSize
	// What becomes of three blocks of b that were written where there was nothing.
	news := oneOf{
		{"empty", "empty"},
		{"b24", "kept"},
		{"_24", "only the size"},
		{"((b8|b16|_8|_16) ?)*", "blocks"},
		{`((b|_)\d+ ?)*`, "torn"},
	}
	allNews := []string{"blocks", "empty", "kept", "only the size", "torn"}
	olds := oneOf{{"a24", "old"}, {"b24", "new"}, {"((b8|b16|a8|a16) ?)*", "blocks"}, {`((a|b)\d+ ?)*`, "torn"}}
	for _, test := range []struct {
		name string
		tell func(s *story)
		see  func(s *story) string
		want []string // what the cuts must show, sorted; nothing else may come
	}{
		{
			"what was synced is there",
			func(s *story) { s.create("f"); s.write("f", 0, 'a', 3*block); s.sync("f"); s.sync(".") },
			func(s *story) string { return s.shape("f") },
			[]string{"a24"},
		},
		{
			"a part of what was not synced is there",
			func(s *story) { s.create("f"); s.sync("."); s.write("f", 0, 'b', 3*block) },
			func(s *story) string { return news.name(s.shape("f")) },
			allNews,
		},
		{
			"an old block or a new one",
			func(s *story) {
				s.create("f")
				s.sync(".")
				s.write("f", 0, 'a', 3*block)
				s.sync("f")
				s.write("f", 0, 'b', 3*block)
			},
			func(s *story) string { return olds.name(s.shape("f")) },
			[]string{"blocks", "new", "old", "torn"},
		},
		{
			"an append ends in a sector",
			func(s *story) {
				s.create("f")
				s.sync(".")
				s.write("f", 0, 'a', 100)
				s.sync("f")
				s.write("f", 100, 'b', 100)
			},
			func(s *story) string { return s.shape("f") },
			[]string{"(a)", "(a_)", "(ab)"},
		},
		{
			"a synced file whose name was not synced may be gone",
			func(s *story) { s.create("f"); s.write("f", 0, 'a', 3*block); s.sync("f") },
			func(s *story) string { return s.shape("f") },
			[]string{"a24", "none"},
		},
		{
			"a name without data",
			func(s *story) { s.create("f"); s.write("f", 0, 'b', 3*block) },
			func(s *story) string {
				if s.node("f") == nil {
					return "no name"
				}
				return news.name(s.shape("f"))
			},
			[]string{"blocks", "empty", "kept", "no name", "only the size", "torn"},
		},
		{
			"a rename is lost or kept, never half",
			func(s *story) {
				s.create("f")
				s.create("new")
				s.write("f", 0, 'a', 10)
				s.write("new", 0, 'b', 10)
				s.sync("f")
				s.sync("new")
				s.sync(".")
				s.rename("new", "f")
			},
			func(s *story) string { return "f " + s.shape("f") + ", new " + s.shape("new") },
			[]string{"f (a), new (b)", "f (b), new none"},
		},
		{
			"a rename between directories too",
			func(s *story) {
				s.mkdir("x")
				s.mkdir("y")
				s.mkdir("x/d")
				s.create("x/d/f")
				s.sync("x/d")
				s.rename("x/d", "y/d")
			},
			func(s *story) string { return fmt.Sprint(s.node("x/d/f") != nil, s.node("y/d/f") != nil) },
			[]string{"false true", "true false"},
		},
		{
			"a rename is synced with either directory",
			func(s *story) { s.mkdir("x"); s.create("f"); s.sync("."); s.rename("f", "x/f"); s.sync("x") },
			func(s *story) string { return s.shape("f") + " " + s.shape("x/f") },
			[]string{"none empty"},
		},
		{
			"a truncation is lost or kept",
			func(s *story) {
				s.create("f")
				s.sync(".")
				s.write("f", 0, 'a', 3*block)
				s.sync("f")
				s.truncate("f", block+512)
			},
			func(s *story) string { return s.shape("f") },
			[]string{"a24", "a9"},
		},
		{
			"what was written after a truncation needs it",
			func(s *story) {
				s.create("f")
				s.sync(".")
				s.write("f", 0, 'a', 3*block)
				s.sync("f")
				s.truncate("f", block)
				s.write("f", block, 'b', block)
			},
			func(s *story) string {
				return oneOf{{`a8 (b\d ?|_\d ?)*`, "torn"}}.nameOr(s.shape("f"), "a24", "a8", "a8 b8", "a8 _8")
			},
			[]string{"a24", "a8", "a8 _8", "a8 b8", "torn"},
		},
		{
			"a truncation that was synced is there, though the file grew again",
			func(s *story) {
				s.create("f")
				s.sync(".")
				s.write("f", 0, 'a', 3*block)
				s.sync("f")
				s.truncate("f", 512)
				s.truncate("f", 2*block)
				s.sync("f")
			},
			func(s *story) string { return s.shape("f") },
			[]string{"a1 _15"},
		},
		{
			"names are lost in the order in which they were made",
			func(s *story) { s.create("a"); s.create("b"); s.mkdir("d"); s.create("d/c") },
			func(s *story) string {
				return fmt.Sprint(s.node("a") != nil, s.node("b") != nil, s.node("d") != nil, s.node("d/c") != nil)
			},
			[]string{"false false false false", "true false false false", "true true false false", "true true true false", "true true true true"},
		},
		{
			"syncing a directory makes older names elsewhere durable, and no newer ones",
			func(s *story) { s.mkdir("d"); s.create("a"); s.create("d/b"); s.create("c"); s.sync("d") },
			func(s *story) string { return s.shape("a") + " " + s.shape("d/b") + " " + s.shape("c") },
			[]string{"empty empty empty", "empty empty none"},
		},
		{
			"syncing a directory does not make its own name durable",
			func(s *story) { s.mkdir("d"); s.sync("d") },
			func(s *story) string { return fmt.Sprint(s.node("d") != nil) },
			[]string{"false", "true"},
		},
		{
			"a removal is lost or kept, and the data with it",
			func(s *story) { s.create("f"); s.write("f", 0, 'a', 10); s.sync("f"); s.sync("."); s.remove("f") },
			func(s *story) string { return s.shape("f") },
			[]string{"(a)", "none"},
		},
		{
			"a file that was removed may be back with a part of what was not synced",
			func(s *story) { s.create("f"); s.sync("."); s.write("f", 0, 'b', 10); s.remove("f") },
			func(s *story) string { return s.shape("f") },
			[]string{"(_)", "(b)", "empty", "none"},
		},
		{
			"a second name",
			func(s *story) {
				s.create("f")
				s.write("f", 0, 'a', 10)
				s.sync("f")
				s.sync(".")
				s.link("f", "g")
				s.remove("f")
			},
			func(s *story) string { return s.shape("f") + " " + s.shape("g") },
			[]string{"(a) (a)", "(a) none", "none (a)"},
		},
		{
			"a failed sync: a later one passes over its data",
			func(s *story) {
				s.create("f")
				s.sync(".")
				s.write("f", 0, 'b', 3*block)
				s.node("f").file.failSync()
				s.sync("f")
			},
			func(s *story) string { return news.name(s.shape("f")) },
			[]string{"blocks", "kept", "only the size", "torn"},
		},
		{
			"after a failed sync, writing again heals a block",
			func(s *story) {
				s.create("f")
				s.sync(".")
				s.write("f", 0, 'b', 3*block)
				s.node("f").file.failSync()
				for i := range int64(3) {
					s.write("f", i*block+7, 'b', 1)
				}
				s.sync("f")
				if blocks, _ := s.v.unsynced(); blocks != 0 {
					s.t.Errorf("%d blocks are not durable, want none", blocks)
				}
			},
			func(s *story) string { return s.shape("f") },
			[]string{"b24"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			seen := map[string]uint64{}
			for seed := range uint64(cutSeeds) {
				s := tell(t)
				test.tell(s)
				s.cut(seed)
				if got := test.see(s); seen[got] == 0 {
					seen[got] = seed + 1
				}
				s.checkStore()
			}
			if got := slices.Sorted(maps.Keys(seen)); !slices.Equal(got, test.want) {
				t.Errorf("after %d cuts got (with the seed after the first) %v, want %q", cutSeeds, seen, test.want)
			}
		})
	}
}

// nameOr is name, but the shapes in exact stand for themselves.
func (o oneOf) nameOr(shape string, exact ...string) string {
	if slices.Contains(exact, shape) {
		return shape
	}
	return o.name(shape)
}

// TestPowerCutCounts compares what a cut says with what it did.
func TestPowerCutCounts(t *testing.T) {
	sum := Lost{}
	for seed := range uint64(cutSeeds) {
		s := tell(t)
		s.create("f")
		s.sync(".")
		s.create("g")
		s.write("f", 0, 'b', 3*blockSize)
		lost := s.cut(seed)
		if n := lost.Blocks.Lost + lost.Blocks.Kept + lost.Torn; n != 3 {
			t.Errorf("seed %d: %d blocks, want 3: %s", seed, n, lost)
		}
		kept := int64(strings.Count(expand(s.shape("f")), "b")) * sectorSize
		if lost.Bytes.Kept != kept || lost.Bytes.Lost != 3*blockSize-kept {
			t.Errorf("seed %d: %s, but the file is %s", seed, lost, s.shape("f"))
		}
		if there := s.node("g") != nil; there != (lost.Names == Tally{Kept: 1}) || there == (lost.Names == Tally{Lost: 1}) {
			t.Errorf("seed %d: %s, but the name is there: %t", seed, lost, there)
		}
		sum.Torn += lost.Torn
	}
	if sum.Torn == 0 {
		t.Errorf("no torn block in %d cuts", cutSeeds)
	}
}

// expand writes a shape with a letter for every sector.
func expand(shape string) string {
	return regexp.MustCompile(`(\w)(\d+)`).ReplaceAllStringFunc(shape, func(run string) string {
		n := 0
		fmt.Sscan(run[1:], &n)
		return strings.Repeat(run[:1], n)
	})
}

// TestPowerCutSeed: the same seed loses the same.
func TestPowerCutSeed(t *testing.T) {
	for seed := range uint64(20) {
		var shapes [2]string
		for i := range shapes {
			s := tell(t)
			for f := range 5 {
				name := fmt.Sprint(f)
				s.create(name)
				s.write(name, 0, 'b', 9*blockSize)
			}
			lost := s.cut(seed)
			for f := range 5 {
				shapes[i] += s.shape(fmt.Sprint(f)) + "; "
			}
			shapes[i] += lost.String()
		}
		if shapes[0] != shapes[1] {
			t.Errorf("seed %d: %s, and then %s", seed, shapes[0], shapes[1])
		}
	}
}

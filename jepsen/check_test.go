package jepsen

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// The operations of a hand-written history; times are small numbers.

func set(call, end int64, value string) Operation {
	return Operation{Kind: Set, Key: "k", Value: value, Call: call, Return: end}
}

func del(call, end int64) Operation {
	return Operation{Kind: Delete, Key: "k", Call: call, Return: end}
}

func got(call, end int64, value string) Operation {
	return Operation{Kind: Get, Key: "k", Value: value, Found: true, Call: call, Return: end}
}

func none(call, end int64) Operation {
	return Operation{Kind: Get, Key: "k", Call: call, Return: end}
}

func exists(call, end int64, found bool) Operation {
	return Operation{Kind: Exists, Key: "k", Found: found, Call: call, Return: end}
}

func swap(call, end int64, expect, value string) Operation {
	return Operation{Kind: Swap, Key: "k", Found: expect != "", Expect: expect, Value: value, Call: call, Return: end}
}

func conflict(call, end int64, expect string) Operation {
	op := swap(call, end, expect, "unused")
	op.Kind = Conflict
	return op
}

func inc(call, end, delta int64, sum string) Operation {
	return Operation{Kind: Increment, Key: "k", Delta: delta, Value: sum, Call: call, Return: end}
}

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		name    string
		history []Operation
		right   bool
	}{
		{"nothing happened", nil, true},
		{"a fresh key is absent", []Operation{none(1, 2), exists(3, 4, false), set(5, 6, "a"), got(7, 8, "a"), exists(9, 10, true)}, true},
		{"a read during a write may see either value", []Operation{set(1, 2, "a"), set(3, 9, "b"), got(4, 5, "a"), got(6, 7, "b")}, true},
		{"writes at the same time may come in either order", []Operation{set(1, 9, "a"), set(2, 8, "b"), got(10, 11, "a")}, true},
		{"an unknown write comes late", []Operation{set(1, Never, "a"), none(2, 3), set(4, 5, "b"), got(6, 7, "b"), got(8, 9, "a")}, true},
		{"an unknown write never comes", []Operation{set(1, 2, "a"), del(3, Never), got(4, 5, "a"), exists(6, 7, true)}, true},
		{"an unknown delete comes late", []Operation{set(1, 2, "a"), del(3, Never), got(4, 5, "a"), none(6, 7)}, true},

		{"a swap of what is there", []Operation{set(1, 2, "a"), swap(3, 4, "a", "b"), got(5, 6, "b")}, true},
		{"a swap of what is not there", []Operation{swap(1, 2, "", "b"), got(3, 4, "b")}, true},
		{"a conflict", []Operation{set(1, 2, "a"), set(3, 4, "b"), conflict(5, 6, "a"), got(7, 8, "b")}, true},
		{"an unknown swap may have met a conflict", []Operation{set(1, 2, "a"), swap(3, Never, "a", "b"), set(4, 5, "c"), got(6, 7, "c"), got(8, 9, "c")}, true},
		{"counts", []Operation{inc(1, 2, 5, "5"), inc(3, Never, -2, ""), inc(4, 5, 1, "4"), got(6, 7, "4")}, true},

		{"a swap of another value", []Operation{set(1, 2, "a"), set(3, 4, "b"), swap(5, 6, "a", "c")}, false},
		{"a conflict without one", []Operation{set(1, 2, "a"), conflict(3, 4, "a")}, false},
		{"a count made twice", []Operation{inc(1, 2, 5, "5"), inc(3, 4, 1, "7")}, false},
		{"a count lost", []Operation{inc(1, 2, 5, "5"), inc(3, 4, 1, "1")}, false},
		{"an unknown swap of what was never there", []Operation{set(1, 2, "a"), swap(3, Never, "z", "b"), got(4, 5, "b")}, false},

		{"a stale read", []Operation{set(1, 2, "a"), set(3, 4, "b"), got(5, 6, "a")}, false},
		{"reads go backwards during a write", []Operation{set(1, 2, "a"), set(3, 20, "b"), got(4, 5, "b"), got(6, 7, "a")}, false},
		{"a lost write", []Operation{set(1, 2, "a"), none(3, 4)}, false},
		{"a lost write that only exists sees", []Operation{set(1, 2, "a"), exists(3, 4, false)}, false},
		{"a lost delete", []Operation{set(1, 2, "a"), del(3, 4), got(5, 6, "a")}, false},
		{"a resurrected delete", []Operation{set(1, 2, "a"), del(3, 4), none(5, 6), got(7, 8, "a")}, false},
		{"a write applied twice", []Operation{set(1, 2, "a"), set(3, 4, "b"), got(5, 6, "b"), got(7, 8, "a")}, false},
		{"an unknown write applied twice", []Operation{set(1, Never, "a"), got(2, 3, "a"), set(4, 5, "b"), got(6, 7, "b"), got(8, 9, "a"), set(10, 11, "c"), got(12, 13, "a")}, false},
		{"an unknown write taken back", []Operation{set(1, 2, "a"), set(3, Never, "b"), got(4, 5, "b"), got(6, 7, "a")}, false},
		{"a write seen before its call", []Operation{got(1, 2, "a"), set(3, 4, "a")}, false},
		{"a value nobody wrote", []Operation{set(1, 2, "a"), got(3, 4, "z")}, false},
		{"a write called not applied is seen", []Operation{set(1, 2, "a"), got(3, 4, "dropped")}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := CheckHistory(c.history)
			if len(v.Undecided) != 0 {
				t.Fatalf("undecided: %q", v.Undecided)
			}
			if right := v.Err() == nil; right != c.right {
				t.Errorf("linearizable: %v (%v), want %v", right, v.Err(), c.right)
			}
		})
	}
}

// Keys are judged apart: a batch is not atomic, and one broken key is named.
func TestCheckNamesTheBrokenKey(t *testing.T) {
	history := []Operation{
		{Kind: Set, Key: "a", Value: "1", Call: 1, Return: 2, Batch: 1},
		{Kind: Set, Key: "b", Value: "1", Call: 1, Return: 2, Batch: 1},
		{Kind: Get, Key: "a", Value: "1", Found: true, Call: 3, Return: 4, Batch: 2},
		{Kind: Get, Key: "b", Call: 3, Return: 4, Batch: 2},
	}
	v := CheckHistory(history)
	if v.Keys != 2 || v.Operations != 4 || !slices.Equal(v.Broken, []string{"b"}) || v.Err() == nil {
		t.Errorf("got %+v, %v; want key b of 2 keys broken", v, v.Err())
	}
	picture := filepath.Join(t.TempDir(), "b.html")
	if err := Visualize(history, "b", picture); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(picture)
	if err != nil || !strings.Contains(string(text), "get → none") {
		t.Errorf("the picture has %d bytes (%v) and does not show the operation get → none", len(text), err)
	}
}

// A checker that had no time is no success.
func TestCheckWithoutTimeFails(t *testing.T) {
	history := []Operation{set(1, 2, "a"), got(3, 4, "a")}
	v := checkWithin(history, time.Minute, 0)
	if !slices.Equal(v.Undecided, []string{"k"}) || v.Err() == nil {
		t.Errorf("got %+v, %v; want key k undecided, and an error", v, v.Err())
	}
}

func TestHistoryLines(t *testing.T) {
	h := NewHistory()
	h.Add([]Operation{{Kind: Set, Key: "k", Value: "v", Call: 7, Return: Never, Process: 3, Via: "n1", Why: "lost"}})
	h.Add([]Operation{{Kind: Get, Key: "k", Call: 5, Return: 6, Via: "leaders"}})
	var b strings.Builder
	if err := WriteLines(&b, h.Operations()); err != nil {
		t.Fatal(err)
	}
	want := `{"call":5,"return":6,"process":0,"batch":2,"via":"leaders","kind":"get","key":"k"}
{"call":7,"return":9223372036854775807,"process":3,"batch":1,"via":"n1","kind":"set","key":"k","value":"v","why":"lost"}
`
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
	read, err := ReadLines(strings.NewReader(want))
	if err != nil || !slices.Equal(read, h.Operations()) {
		t.Errorf("read again: %v, %v", read, err)
	}
}

func TestVersions(t *testing.T) {
	at := func(kind Kind, value string, version uint64) Operation {
		return Operation{Kind: kind, Key: "k", Found: true, Value: value, Version: version, Return: 1}
	}
	for _, c := range []struct {
		name    string
		history []Operation
		right   bool
	}{
		{"alike", []Operation{at(Swap, "a", 5), at(Get, "a", 5), at(Get, "b", 7)}, true},
		{"one value, two versions", []Operation{at(Swap, "a", 5), at(Get, "a", 6)}, false},
		{"one version, two values", []Operation{at(Get, "a", 5), at(Get, "b", 5)}, false},
	} {
		if err := Versions(c.history); (err == nil) != c.right {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

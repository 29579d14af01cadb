package fsm

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/manykv/manykv/kv"
)

// setBy is a command that sets a pair of bucket 1.
func setBy(o kv.Origin, key, value string) []byte {
	return kv.AppendSet(nil, o, 1, []kv.Pair{{Key: key, Value: []byte(value)}})
}

// Each command of a bundle is applied or refused by itself, the last one of a key is what
// stays, and all have the entry's index for their version.
func TestCommandsOfABundle(t *testing.T) {
	s := openMem(t)
	d := leading(t, s, 1)
	run1(t, d, kv.AppendDrop(nil, 2))
	run1(t, d, setBy(kv.Origin{}, "gone", "1"))
	commands := [][]byte{
		setBy(by(7, 1, 0), "a", "1"),
		kv.AppendSet(nil, by(7, 2, 0), 2, []kv.Pair{{Key: "a", Value: []byte("2")}}),
		setBy(by(7, 3, 1), "b", "3"),
		setBy(by(7, 4, 0), "a", "4"),
		append(setBy(by(7, 5, 0), "b", "5"), 0),
		kv.AppendDelete(nil, by(7, 6, 0), 1, []string{"gone"}),
		setBy(by(7, 1, 0), "a", "1"), // again
	}
	want := []error{nil, kv.ErrNoSuchStore, ErrOutOfOrder, nil, kv.ErrInvalid, nil, nil}
	r := run1(t, d, kv.AppendBundle(nil, commands))
	if r.Err != nil || len(r.Each) != len(want) {
		t.Fatalf("got %+v, want a result for each of %d", r, len(want))
	}
	for i, each := range r.Each {
		if !errors.Is(each.Err, want[i]) || each.Value != 0 || each.Each != nil {
			t.Errorf("command %d: %+v, want %v", i, each, want[i])
		}
	}
	at := d.Position().Index
	if got, want := look(t, d, 1, "a", "b", "gone"), []string{"4@" + fmt.Sprint(at), "-", "-"}; !slices.Equal(got, want) {
		t.Errorf("the pairs are %q, want %q", got, want)
	}
	// What came in a bundle is remembered for a copy outside of one, and the other way round.
	for i, c := range commands[:6] {
		if got := run1(t, d, c); !errors.Is(got.Err, want[i]) {
			t.Errorf("command %d again: %+v, want %v", i, got, want[i])
		}
	}
	if got, want := look(t, d, 1, "a", "b"), []string{"4@" + fmt.Sprint(at), "-"}; !slices.Equal(got, want) {
		t.Errorf("after copies the pairs are %q, want %q", got, want)
	}
	checkSessions(t, d)
}

// Nothing of a bundle that is malformed, or has what may not stand in one, is applied.
func TestMalformedBundles(t *testing.T) {
	s := openMem(t)
	d := leading(t, s, 1)
	good := setBy(by(7, 1, 0), "a", "1")
	whole := kv.AppendBundle(nil, [][]byte{good})
	for name, command := range map[string][]byte{
		"cut short":       whole[:len(whole)-1],
		"bytes left over": append(slices.Clone(whole), 0),
		"an increment":    kv.AppendBundle(nil, [][]byte{good, kv.AppendIncrement(nil, by(7, 2, 0), 1, "a", 1)}),
		"a drop":          kv.AppendBundle(nil, [][]byte{good, kv.AppendDrop(nil, 1)}),
		"two clients":     kv.AppendBundle(nil, [][]byte{good, setBy(by(8, 1, 0), "a", "1")}),
		"no commands":     kv.AppendBundle(nil, nil),
		"a bundle":        kv.AppendBundle(nil, [][]byte{good, whole}),
	} {
		if r := run1(t, d, command); !errors.Is(r.Err, kv.ErrInvalid) || r.Each != nil {
			t.Errorf("%s: %+v, want %v", name, r, kv.ErrInvalid)
		}
	}
	if got := look(t, d, 1, "a"); got[0] != "-" || len(d.sessions.of) != 0 {
		t.Errorf("applied %q, with %d sessions", got, len(d.sessions.of))
	}
}

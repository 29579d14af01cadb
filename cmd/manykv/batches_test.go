package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/manykv/manykv/kv"
)

func TestBatchesKeepOrderAndBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sizes := rapid.SliceOfN(rapid.Int64Range(0, 3<<20), 0, 3*batchKeys/2).Draw(t, "sizes")
		next := 0
		for batch, err := range batches(each(sizes), func(n int64) int64 { return n }) {
			if err != nil {
				t.Fatal(err)
			}
			total := int64(0)
			for _, size := range batch {
				if size != sizes[next] {
					t.Fatalf("item %d: got %d, want %d", next, size, sizes[next])
				}
				total += size
				next++
			}
			if len(batch) == 0 || len(batch) > batchKeys || len(batch) > 1 && total > batchBytes {
				t.Fatalf("got a batch of %d items and %d bytes", len(batch), total)
			}
			full := next == len(sizes) || len(batch) == batchKeys || total+sizes[next] > batchBytes
			if !full {
				t.Fatalf("got a batch of %d items and %d bytes, and the next has room in it", len(batch), total)
			}
		}
		if next != len(sizes) {
			t.Fatalf("got %d items, want %d", next, len(sizes))
		}
	})
}

func manyKeys(n int) []string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprintf("k%d", i)
	}
	return keys
}

func TestWritingStopsAtTheBatchThatFails(t *testing.T) {
	cause := fmt.Errorf("%w: no leader", kv.ErrUnknown)
	m := newMemory()
	m.before = func(call, keys int) error {
		if call < 2 {
			return nil
		}
		outcomes := make([]kv.Outcome, keys) // unknown
		outcomes[0], outcomes[1], outcomes[2] = kv.OutcomeApplied, kv.OutcomeNotApplied, kv.OutcomeApplied
		return &kv.BatchError{Op: "delete-many", Outcomes: outcomes, Err: cause}
	}
	got, err := writeAll(t.Context(), each(manyKeys(2500)), keySize, itself, m.DeleteMany)
	if !errors.Is(err, kv.ErrUnknown) {
		t.Errorf("got %v, want %v", err, kv.ErrUnknown)
	}
	if got.Calls != 2 || got.Applied != 1002 || got.NotApplied != 1 || got.Unknown != 997 {
		t.Errorf("got %+v, want 2 calls, 1002 applied, 1 not applied, 997 unknown", got)
	}
	if len(got.Concerned) != mostConcerned || got.Concerned[0] != (concerned{"k1001", "not applied"}) || got.Concerned[1] != (concerned{"k1003", "unknown"}) {
		t.Errorf("got %v, want the first %d from k1001 on", got.Concerned, mostConcerned)
	}

	p, stdout, stderr := newProgram("")
	err = p.reportTally(&got, err, false, (*tally).gone)
	want := "2000 keys in 2 calls: 1002 applied, 1 not applied, 997 unknown; input after them was not sent: outcome unknown: no leader"
	if err == nil || err.Error() != want || stdout.Len() > 0 {
		t.Errorf("got %v and %q, want %s and nothing", err, stdout, want)
	}
	if !strings.Contains(stderr.String(), "  not applied: \"k1001\"\n  unknown: \"k1003\"\n") || !strings.HasSuffix(stderr.String(), "  and 988 more\n") {
		t.Errorf("got\n%s\nwant the first keys concerned and how many more", stderr)
	}
}

func TestABatchThatWasRefusedIsNotApplied(t *testing.T) {
	m := newMemory()
	m.before = func(int, int) error { return kv.ErrTooLarge }
	got, err := writeAll(t.Context(), each(manyKeys(3)), keySize, itself, m.DeleteMany)
	if !errors.Is(err, kv.ErrTooLarge) || got.NotApplied != 3 || got.Applied+got.Unknown != 0 {
		t.Errorf("got %+v, %v, want 3 not applied and %v", got, err, kv.ErrTooLarge)
	}
}

func TestTheSummaryIsPrintedAsJSONAlsoOfAFailure(t *testing.T) {
	failure := errors.New("line 2: nonsense")
	p, stdout, _ := newProgram("")
	err := p.reportTally(&tally{Calls: 1, Applied: 2}, failure, true, (*tally).set)
	if want := `{"calls":1,"applied":2,"not_applied":0,"unknown":0}` + "\n"; stdout.String() != want || !errors.Is(err, failure) {
		t.Errorf("got %s, %v, want %s, %v", stdout, err, want, failure)
	}
}

func TestASummaryCountsInItsNumber(t *testing.T) {
	for _, c := range []struct {
		t    tally
		done func(*tally) string
		want string
	}{
		{tally{Calls: 1, Applied: 1}, (*tally).set, "set 1 key in 1 call\n"},
		{tally{Calls: 3, Applied: 2001}, (*tally).set, "set 2001 keys in 3 calls\n"},
		{tally{Calls: 1, Applied: 1}, (*tally).gone, "1 key is gone (1 call)\n"},
		{tally{Calls: 1, Applied: 2}, (*tally).gone, "2 keys are gone (1 call)\n"},
		{tally{}, (*tally).gone, "0 keys are gone (0 calls)\n"},
	} {
		p, stdout, _ := newProgram("")
		if err := p.reportTally(&c.t, nil, false, c.done); err != nil || stdout.String() != c.want {
			t.Errorf("got %q, %v, want %q", stdout, err, c.want)
		}
	}
}

func TestInputIsSentUntilItsFirstError(t *testing.T) {
	m := newMemory()
	input := `{"key":"a","value":"1"}` + "\n" + `{"key":"a","value":"2"}` + "\nnonsense\n"
	got, err := writeAll(t.Context(), readPairs(strings.NewReader(input)), pairSize, keyOfPair, m.SetMany)
	if err == nil || !strings.Contains(err.Error(), "line 3") || got.Applied != 2 || string(m.values["a"]) != "2" {
		t.Errorf("got %+v, %v and %q, want 2 applied, an error of line 3, and the last value", got, err, m.values)
	}
}

func TestAnAnswerThatIsTooLargeIsAskedForInHalves(t *testing.T) {
	m := newMemory()
	for _, key := range manyKeys(10) {
		m.values[key] = []byte("value of " + key)
	}
	m.before = func(_, keys int) error {
		if keys > 3 {
			return kv.ErrTooLarge
		}
		return nil
	}
	keys := append(manyKeys(10), "none", "k0")
	pairs, err := getAll(t.Context(), m, keys)
	if err != nil || len(pairs) != len(keys) {
		t.Fatalf("got %d answers, %v, want %d", len(pairs), err, len(keys))
	}
	for i, pair := range pairs {
		if keys[i] == "none" {
			if pair != nil {
				t.Errorf("got %v for a key that is not there", pair)
			}
			continue
		}
		if pair == nil || pair.Key != keys[i] || string(pair.Value) != "value of "+keys[i] {
			t.Errorf("answer %d: got %v, want that of %s", i, pair, keys[i])
		}
	}
	m.before = func(int, int) error { return kv.ErrTooLarge }
	if _, err := getAll(t.Context(), m, keys); !errors.Is(err, kv.ErrTooLarge) {
		t.Errorf("got %v, want %v when one value is too large", err, kv.ErrTooLarge)
	}
}

func TestGetManyPrintsALineForEveryKeyInOrder(t *testing.T) {
	m := newMemory()
	m.values["a"], m.values["b"] = []byte("text"), []byte{0xff}
	p, stdout, _ := newProgram("b\nnone\na\nb\n")
	if err := p.printMany(t.Context(), m, p.keys([]string{"-"})); err != nil {
		t.Fatal(err)
	}
	b := `{"key":"b","value_base64":"/w=="}` + "\n"
	if want := b + "null\n" + `{"key":"a","value":"text"}` + "\n" + b; stdout.String() != want {
		t.Errorf("got\n%s\nwant\n%s", stdout, want)
	}
}

func TestGetManyFailsWhenItCannotPrint(t *testing.T) {
	p := &program{stdout: &printer{w: brokenPipe{}}}
	if err := p.printMany(t.Context(), newMemory(), each([]string{"a"})); !errors.Is(err, errBrokenPipe) {
		t.Errorf("got %v, want %v", err, errBrokenPipe)
	}
}

func TestAValueOnStandardInputIsBounded(t *testing.T) {
	p, _, _ := newProgram("")
	most := kv.Limits{}.WithDefaults().ValueBytes
	p.stdin = bytes.NewReader(make([]byte, most))
	if value, err := p.readValue(); err != nil || len(value) != most {
		t.Errorf("got %d bytes, %v, want %d", len(value), err, most)
	}
	in := &endless{}
	p.stdin = in
	if _, err := p.readValue(); !errors.Is(err, kv.ErrTooLarge) || in.read > 2*most {
		t.Errorf("got %v after %d bytes, want %v after little more than %d", err, in.read, kv.ErrTooLarge, most)
	}
}

func TestTheFirstErrorOfReadingKeysEndsGetMany(t *testing.T) {
	m := newMemory()
	m.before = func(int, int) error { return context.DeadlineExceeded }
	p, stdout, _ := newProgram("")
	if err := p.printMany(t.Context(), m, each([]string{"a"})); !errors.Is(err, context.DeadlineExceeded) || stdout.Len() > 0 {
		t.Errorf("got %v and %q, want %v and nothing", err, stdout, context.DeadlineExceeded)
	}
}

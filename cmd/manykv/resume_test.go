package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/manykv/manykv/kv"
)

// goldenStates are state files as imports of a directory and of a file write them.
var goldenStates = []struct {
	text  string
	state importState
}{
	{
		`{"version":1,"bucket":"files","bucket_id":"1f-2","source":"/src","file":"a/b","line":0,"offset":0,"size":3,` +
			`"modified":"2026-01-02T03:04:05.000000006Z","keys":1000,"skipped":{"count":1,"first":[{"file":"x","why":"too large"}]}}`,
		importState{Version: 1, Bucket: "files", BucketID: "1f-2", Source: "/src", File: "a/b", Size: 3, Keys: 1000,
			Modified: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), Skipped: remarks{1, []remark{{"x", "too large"}}}},
	},
	{
		`{"version":1,"bucket":"files","bucket_id":"1f-2","source":"/f","line":7,"offset":300,"size":301,` +
			`"modified":"2026-01-02T03:04:05Z","keys":7,"skipped":{"count":0}}`,
		importState{Version: 1, Bucket: "files", BucketID: "1f-2", Source: "/f", place: place{7, 300}, Size: 301, Keys: 7,
			Modified: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)},
	},
}

func TestAStateIsWrittenAndReadAsItIs(t *testing.T) {
	for _, g := range goldenStates {
		text, err := json.Marshal(&g.state)
		if err != nil || string(text) != g.text {
			t.Errorf("got\n%s, %v, want\n%s", text, err, g.text)
		}
		got, err := decodeState([]byte(g.text))
		if again, _ := json.Marshal(&got); err != nil || string(again) != g.text {
			t.Errorf("got %+v, %v, want %+v", got, err, g.state)
		}
	}
	for _, c := range []struct{ from, to string }{
		{`"version":1`, `"version":2`}, {`"line":7`, `"line":-1`}, {`"offset":300`, `"offset":302`}, {`"offset":300`, `"offset":-1`},
		{`"line":7`, `"file":"../x"`}, {`"line":7`, `"row":7`}, {`"keys":7`, `"keys":"7"`}, {`{"version"`, `"version"`},
	} {
		text := strings.Replace(goldenStates[1].text, c.from, c.to, 1)
		if got, err := decodeState([]byte(text)); err == nil {
			t.Errorf("%s: got %+v, want an error", text, got)
		}
	}
}

// FuzzDecodeState: what is read is written and read again as the same.
func FuzzDecodeState(f *testing.F) {
	for _, g := range goldenStates {
		f.Add([]byte(g.text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := decodeState(text)
		if err != nil {
			return
		}
		written, err := json.Marshal(&s)
		if err != nil {
			return // a time of the year 10000
		}
		again, err := decodeState(written)
		if rewritten, _ := json.Marshal(&again); err != nil || !bytes.Equal(rewritten, written) {
			t.Fatalf("got %s, %v again, want %s", rewritten, err, written)
		}
	})
}

// TestOnlyWhatAllEarlierBatchesReachedIsNoted: whatever the order in which they
// end.
func TestOnlyWhatAllEarlierBatchesReachedIsNoted(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		mark := unnoted(t)
		ended := make(map[int64]bool)
		for _, n := range rapid.Permutation([]int64{0, 1, 2, 3, 4, 5, 6, 7}).Draw(rt, "order") {
			ended[n] = true
			if err := mark.reached(int(n), func(s *importState) { s.Keys = n + 1 }); err != nil {
				rt.Fatal(err)
			}
			want := int64(0)
			for ended[want] {
				want++
			}
			if mark.state.Keys != want {
				rt.Fatalf("got %d batches noted after %v, want %d", mark.state.Keys, ended, want)
			}
		}
	})
}

// killedAfter lets so many calls of an import through.
func killedAfter(m *memory, calls int) {
	m.before = func(call, _ int) error {
		if call > calls {
			return kv.ErrAccessDenied // which nobody tries again
		}
		return nil
	}
}

func TestAnImportOfADirectoryGoesOnWhereItStopped(t *testing.T) {
	dir := t.TempDir()
	source, state := filepath.Join(dir, "source"), filepath.Join(dir, "state")
	want := make(map[string]bool)
	for i := range 3*batchKeys + 500 {
		name := fmt.Sprintf("%d/%d", i%7, i)
		writeFile(t, source, name, []byte(name))
		want[name] = true
	}
	writeFile(t, source, "0/too-large", make([]byte, kv.MaxValueBytes+1))
	one := &importOptions{parallel: 1}
	m := newMemory()
	killedAfter(m, 2)
	run := func() (*figures, error) {
		mark, err := openBookmark(state, "files", "1-1", source)
		if err != nil {
			return nil, err
		}
		p, _, _ := newProgram("")
		tr := open(t, source)
		if err := p.findFile(tr, mark); err != nil {
			return nil, err
		}
		return p.importFiles(t.Context(), tr, m, mark, one)
	}
	if _, err := run(); !errors.Is(err, kv.ErrAccessDenied) {
		t.Fatalf("got %v, want %v", err, kv.ErrAccessDenied)
	}
	m.before, m.calls = nil, 0
	before := len(m.values)
	sum, err := run()
	if err != nil || sum.Files != int64(len(want)-before) || before == 0 {
		t.Fatalf("got %+v, %v, want the %d of %d files that were missing", sum, err, len(want)-before, len(want))
	}
	if sum.Skipped.Count != 1 || sum.Skipped.First[0].File != "0/too-large" {
		t.Errorf("got %+v, want what the first import skipped", sum.Skipped)
	}
	for name := range want {
		if string(m.values[name]) != name {
			t.Errorf("%s: got %q", name, m.values[name])
		}
	}

	mark, err := openBookmark(state, "files", "1-1", source)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, source, mark.state.File, []byte("changed since"))
	if _, err := run(); err == nil || !strings.Contains(err.Error(), "remove the state file") {
		t.Errorf("got %v, want the file that changed named", err)
	}
	if err := mark.finished(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(state); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want no state file when all is imported", err)
	}
}

// TestAWalkBeginsAfterAnyFile: the order of paths is that of their parts.
func TestAWalkBeginsAfterAnyFile(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a/b", "a/c/d", "a.txt", "a-/x", "b/file", "-", ".hidden/f", "ab/c", "z/z/z", "z/z.z"} {
		writeFile(t, dir, name, nil)
	}
	walk := func(after string) (names []string) {
		tr := open(t, dir)
		if after != "" {
			tr.after = strings.Split(after, "/")
		}
		for f, err := range tr.walk(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			names = append(names, f.key)
		}
		return names
	}
	all := walk("")
	if len(all) < 10 {
		t.Fatalf("got %q", all)
	}
	for i, name := range all {
		if got := walk(name); !slices.Equal(got, all[i+1:]) {
			t.Errorf("after %s: got %q, want %q", name, got, all[i+1:])
		}
	}
}

// lines is a file of pairs, one of them binary, with empty lines and a key that
// occurs again.
func lines(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "{\"key\":\"k%d\",\"value\":\"%d\"}\r\n\n", i, i)
	}
	b.WriteString(`{"key":"binary","value_base64":"AP8="}` + "\n" + `{"key":"k0","value":"last"}`)
	return b.String()
}

// importFile is an import of one file, as the command does it.
func importFile(t *testing.T, m *memory, source, state, id string) (sum *pairFigures, err error) {
	t.Helper()
	mark, err := openBookmark(state, "files", id, source)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(source)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p, _, _ := newProgram("")
	from, err := p.findPlace(f, mark)
	if err != nil {
		return nil, err
	}
	return p.sendLines(t.Context(), f, from, m, mark)
}

func TestAnImportOfAFileGoesOnWhereItStopped(t *testing.T) {
	dir := t.TempDir()
	source, state := filepath.Join(dir, "source"), filepath.Join(dir, "state")
	const n = 3*batchKeys + 500
	writeFile(t, dir, "source", []byte(lines(n)))
	m := newMemory()
	killedAfter(m, 2)
	_, err := importFile(t, m, source, state, "1-1")
	if !errors.Is(err, kv.ErrAccessDenied) || !strings.Contains(err.Error(), "lines 4001 to 5999: ") {
		t.Fatalf("got %v, want the lines of the third batch and %v", err, kv.ErrAccessDenied)
	}
	m.before = nil
	m.values["k0"] = []byte("set since")
	sum, err := importFile(t, m, source, state, "1-1")
	if err != nil || sum.Keys != n+2-2*batchKeys {
		t.Fatalf("got %+v, %v, want the %d lines that were missing", sum, err, n+2-2*batchKeys)
	}
	if len(m.values) != n+1 || string(m.values["k0"]) != "last" || string(m.values["k3499"]) != "3499" || string(m.values["binary"]) != "\x00\xff" {
		t.Errorf("got %d keys, k0 %q, binary %q", len(m.values), m.values["k0"], m.values["binary"])
	}
	if _, err := importFile(t, m, source, state, "1-2"); err == nil || !strings.Contains(err.Error(), "remove it to begin anew") {
		t.Errorf("got %v, want the other bucket of that name refused", err)
	}
	writeFile(t, dir, "source", []byte(lines(n)+"\n"))
	if _, err := importFile(t, m, source, state, "1-1"); err == nil || !strings.Contains(err.Error(), "remove the state file") {
		t.Errorf("got %v, want the file that changed refused", err)
	}
	writeFile(t, dir, "state", []byte("nonsense"))
	if _, err := importFile(t, m, source, state, "1-1"); err == nil || !strings.Contains(err.Error(), "state file "+state) {
		t.Errorf("got %v, want the state file refused", err)
	}
}

func TestALineThatIsNoPairEndsAnImport(t *testing.T) {
	dir := t.TempDir()
	source := filepath.Join(dir, "source")
	writeFile(t, dir, "source", []byte("{\"key\":\"a\",\"value\":\"1\"}\n\nnonsense\n"))
	m := newMemory()
	if _, err := importFile(t, m, source, "", "1-1"); err == nil || !strings.HasPrefix(err.Error(), "line 3: ") || len(m.values) != 1 {
		t.Errorf("got %v and %q, want line 3 named and the pair before it imported", err, m.values)
	}
}

func TestAStateFileIsNotBelowWhatIsImported(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		state string
		ok    bool
	}{
		{"state", false}, {"a/state", false}, {".", false}, {"..state", false}, {"../state", true}, {"../x/state", true},
	} {
		_, err := openBookmark(filepath.Join(dir, "source", c.state), "files", "1-1", filepath.Join(dir, "source"))
		usage, refused := errors.AsType[usageError](err)
		if c.ok == refused || refused && !strings.Contains(usage.Error(), "which is imported") {
			t.Errorf("%s: got %v, want ok %t", c.state, err, c.ok)
		}
	}
}

// again remembers what it was asked to send again.
type again struct {
	failed []error
	answer error
}

func (a *again) Retry(_ context.Context, failed error) (int64, error) {
	a.failed = append(a.failed, failed)
	return 0, a.answer
}

// TestABatchIsSentAgainAsTheSame: one that has a number in the session; another
// was never sent.
func TestABatchIsSentAgainAsTheSame(t *testing.T) {
	for _, c := range []struct {
		name          string
		first         error
		calls, again  int
		answer, fails error
	}{
		{"unknown", &kv.BatchError{Op: "set-many", Call: 7, Err: kv.ErrUnknown}, 1, 1, nil, nil},
		{"too late", &kv.BatchError{Op: "set-many", Call: 7, Err: kv.ErrUnknown}, 2, 1, kv.ErrInvalid, nil},
		{"never sent", kv.ErrUnavailable, 2, 0, nil, nil},
		{"not applied", &kv.BatchError{Op: "set-many", Err: kv.ErrUnavailable}, 2, 0, nil, nil},
		{"refused", &kv.BatchError{Op: "set-many", Call: 7, Err: kv.ErrTooLarge}, 1, 0, nil, kv.ErrTooLarge},
		{"again in vain", &kv.BatchError{Op: "set-many", Call: 7, Err: kv.ErrUnknown}, 1, importAttempts - 1,
			&kv.BatchError{Op: "set-many", Call: 7, Err: kv.ErrUnknown}, kv.ErrUnknown},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMemory()
				m.before = func(call, _ int) error {
					if call == 1 {
						return c.first
					}
					return nil
				}
				a := &again{answer: c.answer}
				err := sender{m, a, time.Second}.SetMany(t.Context(), []kv.Pair{{Key: "k"}})
				if !errors.Is(err, c.fails) || m.calls != c.calls || len(a.failed) != c.again {
					t.Errorf("got %v, %d calls and %d again, want %v, %d and %d", err, m.calls, len(a.failed), c.fails, c.calls, c.again)
				}
				for _, failed := range a.failed {
					if batch, ok := errors.AsType[*kv.BatchError](failed); !ok || batch.Call != 7 {
						t.Errorf("got %v sent again, want the call 7", failed)
					}
				}
			})
		})
	}
}

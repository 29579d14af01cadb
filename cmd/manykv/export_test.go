package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/sharding"
)

// pairsIn reads what an export wrote; each key is there once.
func pairsIn(t *testing.T, text string) map[string]string {
	t.Helper()
	got := make(map[string]string)
	for pair, err := range readPairs(strings.NewReader(text)) {
		if err != nil {
			t.Fatal(err)
		}
		if _, twice := got[pair.Key]; twice {
			t.Errorf("got key %q twice", pair.Key)
		}
		got[pair.Key] = string(pair.Value)
	}
	return got
}

func (m *memory) text() map[string]string {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make(map[string]string)
	for key, value := range m.values {
		all[key] = string(value)
	}
	return all
}

func TestAnExportHoldsAllPairs(t *testing.T) {
	m := memoryOf(append(manyKeys(3*memoryPage), oddKeys...)...)
	m.values["binary"] = []byte("\xff\x00\n")
	p, stdout, stderr := newProgram("")
	if err := p.exportOut(t.Context(), m, &exportOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := pairsIn(t, stdout.String()); !maps.Equal(got, m.text()) {
		t.Errorf("got %q, want %q", got, m.text())
	}
	if want := fmt.Sprintf("exported %d keys, ", len(m.values)); !strings.HasPrefix(stderr.String(), want) {
		t.Errorf("got %q, want %q", stderr, want)
	}

	file := filepath.Join(t.TempDir(), "files.ndjson")
	p, stdout, stderr = newProgram("")
	if err := p.exportFile(t.Context(), m, hashOf, file, &exportOptions{}); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if got := pairsIn(t, string(text)); err != nil || !maps.Equal(got, m.text()) {
		t.Errorf("got %q, %v, want %q", got, err, m.text())
	}
	if !strings.HasPrefix(stdout.String(), "exported ") || stderr.Len() > 0 {
		t.Errorf("got %q and %q, want the figures", stdout, stderr)
	}
	if _, err := os.Stat(file + ".part"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want the part to be the file now", err)
	}
	if err := p.exportFile(t.Context(), m, hashOf, file, &exportOptions{}); err == nil || !strings.Contains(err.Error(), "not overwritten") {
		t.Errorf("got %v, want the file left alone", err)
	}
}

// hint is what to do after an export to standard output that failed.
func hint(t *testing.T, err error) (cursor uint64) {
	t.Helper()
	h, ok := errors.AsType[hinted](err)
	if !ok {
		t.Fatalf("got %v, want a hint", err)
	}
	_, flag, _ := strings.Cut(h.hint, "--cursor ")
	if n, err := fmt.Sscanf(flag, "%d goes on", &cursor); n != 1 {
		t.Fatalf("got the hint %q, %v", h.hint, err)
	}
	return cursor
}

func TestAnExportGoesOnWhereItFailed(t *testing.T) {
	for failing := 1; failing <= 8; failing++ { // a listing or the values of one
		synctest.Test(t, func(t *testing.T) {
			m := memoryOf(manyKeys(4*memoryPage - 1)...)
			m.before = func(call, _ int) error {
				if call >= failing {
					return kv.ErrUnavailable
				}
				return nil
			}
			file := filepath.Join(t.TempDir(), "files.ndjson")
			p, _, _ := newProgram("")
			err := p.exportFile(t.Context(), m, hashOf, file, &exportOptions{})
			if !errors.Is(err, kv.ErrUnavailable) {
				t.Fatalf("got %v, want %v", err, kv.ErrUnavailable)
			}
			text, err2 := os.ReadFile(file + ".part")
			if got, want := len(pairsIn(t, string(text))), (failing-1)/2*memoryPage; err2 != nil || got != want {
				t.Errorf("got %d pairs kept, %v, want the %d of whole pages", got, err2, want)
			}
			m.before = nil
			if err := p.exportFile(t.Context(), m, hashOf, file, &exportOptions{resume: true}); err != nil {
				t.Fatal(err)
			}
			text, err2 = os.ReadFile(file)
			if got := pairsIn(t, string(text)); err2 != nil || !maps.Equal(got, m.text()) {
				t.Errorf("got %d pairs, %v, want %d", len(got), err2, len(m.values))
			}
		})
	}
}

func TestAnExportEndsWithTheProgram(t *testing.T) {
	ctx, stop := context.WithCancelCause(t.Context())
	interrupted := errors.New("interrupted")
	m := memoryOf(manyKeys(4 * memoryPage)...)
	m.before = func(call, _ int) error {
		if call < 4 {
			return nil
		}
		stop(interrupted)
		return ctx.Err()
	}
	p, stdout, _ := newProgram("")
	err := p.exportOut(ctx, m, &exportOptions{})
	if !errors.Is(err, interrupted) || len(pairsIn(t, stdout.String())) != memoryPage || hint(t, err) == 0 {
		t.Errorf("got %v and\n%s\nwant a page, %v, and the cursor", err, stdout, interrupted)
	}
}

// TestAKeyThatGoesWhileItIsExportedIsLeftOut: the listing is no snapshot.
func TestAKeyThatGoesWhileItIsExportedIsLeftOut(t *testing.T) {
	m := memoryOf("a", "b")
	m.before = func(call, _ int) error {
		if call == 2 {
			delete(m.values, "a")
		}
		return nil
	}
	p, stdout, _ := newProgram("")
	if err := p.exportOut(t.Context(), m, &exportOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := pairsIn(t, stdout.String()); len(got) != 1 || got["b"] == "" {
		t.Errorf("got %q, want b alone", got)
	}
}

// TestAnOutputThatFailsIsNotTriedAgain: what was printed would be there twice.
func TestAnOutputThatFailsIsNotTriedAgain(t *testing.T) {
	m := memoryOf(manyKeys(memoryPage)...)
	for key := range m.values {
		m.values[key] = make([]byte, 1<<16)
	}
	p := &program{stdout: &printer{w: brokenPipe{}}, stderr: &printer{w: brokenPipe{}}, conn: connection{timeout: defaultTimeout}}
	if err := p.exportOut(t.Context(), m, &exportOptions{}); !errors.Is(err, errBrokenPipe) || m.calls != 2 {
		t.Errorf("got %v after %d calls, want %v after 2", err, m.calls, errBrokenPipe)
	}
}

// resumed writes what an export left behind, goes on with it and returns the file.
func resumed(t *testing.T, m *memory, hash func(string) uint64, left string) (string, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "files.ndjson")
	writeFile(t, filepath.Dir(file), filepath.Base(file)+".part", []byte(left))
	p, _, _ := newProgram("")
	if err := p.exportFile(t.Context(), m, hash, file, &exportOptions{resume: true}); err != nil {
		if now, reading := os.ReadFile(file + ".part"); reading != nil || string(now) != left {
			t.Errorf("got %d bytes left, %v, want the %d there were", len(now), reading, len(left))
		}
		return "", err
	}
	text, err := os.ReadFile(file)
	return string(text), err
}

// exported is all pairs of a bucket as lines.
func exported(t *testing.T, m *memory) string {
	t.Helper()
	p, stdout, _ := newProgram("")
	if err := p.exportOut(t.Context(), m, &exportOptions{}); err != nil {
		t.Fatal(err)
	}
	return stdout.String()
}

// TestAnExportGoesOnWhereverItWasKilled: each pair is there once, and one deleted
// since only if it was written before. Pairs of the last hash are written again,
// because some may be missing; so are few pairs.
func TestAnExportGoesOnWhereverItWasKilled(t *testing.T) {
	whole := exported(t, memoryOf(manyKeys(2*fewPairs)...))
	lines := slices.Collect(strings.Lines(whole))
	keyOf := func(line string) string {
		pair, err := parseRecord([]byte(line))
		if err != nil {
			t.Fatal(err)
		}
		return pair.Key
	}
	rapid.Check(t, func(rt *rapid.T) {
		m := memoryOf(manyKeys(2 * fewPairs)...)
		shift := rapid.SampledFrom([]int{0, 60}).Draw(rt, "bits that collide")
		hash := func(key string) uint64 { return hashOf(key) >> shift << shift }
		left := whole[:rapid.IntRange(0, len(whole)).Draw(rt, "bytes")]
		for _, line := range rapid.SliceOfN(rapid.SampledFrom(lines), 0, 20).Draw(rt, "deleted") {
			delete(m.values, keyOf(line))
		}
		kept := lines[:strings.Count(left, "\n")]
		if len(kept) < fewPairs {
			kept = nil
		} else {
			last := hash(keyOf(kept[len(kept)-1]))
			kept = slices.DeleteFunc(slices.Clone(kept), func(line string) bool { return hash(keyOf(line)) == last })
		}
		want := strings.Join(kept, "")
		for _, line := range lines[len(kept):] {
			if m.values[keyOf(line)] != nil {
				want += line
			}
		}
		if got, err := resumed(t, m, hash, left); err != nil || got != want {
			rt.Fatalf("got %d bytes, %v, want\n%s\nof which are kept %d lines", len(got), err, want, len(kept))
		}
	})
}

// TestOnlyWhatAnExportLeftIsGoneOnWith: anything else is refused and left alone.
func TestOnlyWhatAnExportLeftIsGoneOnWith(t *testing.T) {
	m := memoryOf(manyKeys(2 * fewPairs)...)
	whole := exported(t, m)
	lines := slices.Collect(strings.Lines(whole))
	again := func(key string) uint64 { return sharding.HashString(2, key) } // deleted and made again
	for _, c := range []struct {
		name, left string
		hash       func(string) uint64
		says       string
	}{
		{"another bucket of the name", whole, again, "is not of this bucket as it is now"},
		{"gone on with from an old cursor", whole + strings.Join(lines[fewPairs:], ""), hashOf, "is not of this bucket as it is now"},
		{"a pair twice", strings.Join(lines[:fewPairs], "") + lines[fewPairs-1], hashOf, "is not of this bucket as it is now"},
		{"no pair", strings.Join(lines[:7], "") + "{\"key\":\"k\"}\n" + strings.Join(lines[7:], ""), hashOf, "line 8: want either"},
		{"a hole", strings.Join(lines[:7], "") + strings.Repeat("\x00", 99) + "\n", hashOf, "line 8: invalid character"},
		{"an empty line", lines[0] + "\n" + lines[1], hashOf, "line 2: EOF"},
	} {
		if _, err := resumed(t, m, c.hash, c.left); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got %v, want %s", c.name, err, c.says)
		}
	}

	// So few may be in order by chance.
	if got, err := resumed(t, m, again, lines[100]); err != nil || got != whole {
		t.Errorf("got %d bytes, %v, want all %d, begun anew", len(got), err, len(whole))
	}

	file := filepath.Join(t.TempDir(), "files.ndjson")
	p, _, _ := newProgram("")
	err := p.exportFile(t.Context(), m, hashOf, file, &exportOptions{resume: true})
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "nothing to go on with") {
		t.Errorf("got %v, want to hear that there is no part", err)
	}
	if _, err := os.Stat(file + ".part"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want no part", err)
	}
}

// FuzzResumePart: a part is gone on with where its pairs end, or refused.
func FuzzResumePart(f *testing.F) {
	f.Add([]byte("{\"key\":\"a\",\"value\":\"1\"}\n{\"key\":\"b\",\"value_base64\":\"AP8=\"}\n{\"key\""))
	f.Add([]byte("\n"))
	f.Add([]byte("\r\n\x00"))
	f.Fuzz(func(t *testing.T, text []byte) {
		name := filepath.Join(t.TempDir(), "part")
		writeFile(t, filepath.Dir(name), "part", text)
		file, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = file.Close() }() // it is read only
		left, err := (&partFile{file: file, final: name}).read(hashOf)
		if err != nil {
			return
		}
		if left.end < 0 || left.end > int64(len(text)) || left.pairs != bytes.Count(text, []byte("\n")) {
			t.Fatalf("got %+v of %q", left, text)
		}
		if kept := pairsIn(t, string(text[:left.end])); len(kept) != max(0, left.pairs-1) {
			t.Fatalf("got %d pairs kept of %+v", len(kept), left)
		}
	})
}

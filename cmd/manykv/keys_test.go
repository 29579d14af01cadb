package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"

	"github.com/manykv/manykv/kv"
)

// oddKeys would not be one line of text each, or would look like another.
var oddKeys = []string{"", "a\nb", "\r", `"quoted"`, `"`, "\x00\x1b[2J", "<&>\t", `\n`, " blank ", "ü"}

func memoryOf(keys ...string) *memory {
	m := newMemory()
	for _, key := range keys {
		m.values[key] = []byte("value of " + key)
	}
	return m
}

func TestAListingIsReadAgainWhateverKeysHold(t *testing.T) {
	want := append(manyKeys(3*memoryPage), oddKeys...)
	for _, json := range []bool{false, true} {
		p, stdout, stderr := newProgram("")
		if err := p.listKeys(t.Context(), memoryOf(want...), hashOf, &keysOptions{json: json}); err != nil {
			t.Fatal(err)
		}
		var got []string
		for key, err := range readKeys(strings.NewReader(stdout.String())) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, key)
		}
		if !slices.IsSortedFunc(got, func(a, b string) int { return cmp.Compare(hashOf(a), hashOf(b)) }) {
			t.Errorf("got %q, want the order of hashes", got)
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) || stderr.Len() > 0 {
			t.Errorf("got %q and the words %q, want %q and none", got, stderr, want)
		}
	}
}

func TestKeysAreLines(t *testing.T) {
	for _, c := range []struct{ key, line string }{
		{"k", "k"},
		{"", ""},
		{"a b", "a b"},
		{"a\nb", `"a\nb"`},
		{"\r", `"\r"`},
		{`"`, `"\""`},
		{`a"`, `a"`},
		{"\x1b<", `"\u001b<"`},
		{"ü😀", "ü😀"},
	} {
		line, err := keyLine(c.key)
		if err != nil || line != c.line {
			t.Errorf("%q: got %s, %v, want %s", c.key, line, err, c.line)
		}
		if key, err := parseKey([]byte(c.line)); err != nil || key != c.key {
			t.Errorf("%s: got %q, %v, want %q", c.line, key, err, c.key)
		}
	}
	for _, line := range []string{`"`, `"a`, `"a" b`, "\"\xff\"", `"\ud800"`, `"a""b"`} {
		if key, err := parseKey([]byte(line)); err == nil {
			t.Errorf("%s: got %q, want an error", line, key)
		}
	}
}

// FuzzParseKey: a line is a key or an error, and the key is printed as a line
// that is read as the same.
func FuzzParseKey(f *testing.F) {
	for _, key := range oddKeys {
		f.Add([]byte(key))
	}
	f.Add([]byte(`"\ud83d\ude00"`))
	f.Fuzz(func(t *testing.T, text []byte) {
		key, err := parseKey(text)
		if err != nil || strings.ToValidUTF8(key, "") != key { // no bucket holds such a key
			return
		}
		line, err := keyLine(key)
		if err != nil || strings.ContainsAny(line, "\r\n") {
			t.Fatalf("%q: got the line %q, %v", key, line, err)
		}
		if again, err := parseKey([]byte(line)); err != nil || again != key {
			t.Fatalf("%q: got %q, %v again", key, again, err)
		}
	})
}

// TestAListingGoesOnWhereItsLimitEndedIt: no key is lost, none is there twice.
func TestAListingGoesOnWhereItsLimitEndedIt(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		want := manyKeys(rapid.IntRange(0, 4*memoryPage).Draw(rt, "keys"))
		m := memoryOf(want...)
		var got []string
		for o := (keysOptions{}); ; {
			o.limit = rapid.Uint64Range(1, 3*memoryPage).Draw(rt, "limit")
			p, stdout, stderr := newProgram("")
			if err := p.listKeys(t.Context(), m, hashOf, &o); err != nil {
				rt.Fatal(err)
			}
			keys := strings.Fields(stdout.String())
			if uint64(len(keys)) > o.limit {
				rt.Fatalf("got %d keys, want at most %d", len(keys), o.limit)
			}
			got = append(got, keys...)
			if stderr.Len() == 0 {
				break
			}
			if n, err := fmt.Sscanf(stderr.String(), "--cursor %d goes on\n", &o.cursor); n != 1 || uint64(len(keys)) != o.limit {
				rt.Fatalf("got %d keys of %d and %q, %v, want the cursor", len(keys), o.limit, stderr, err)
			}
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			rt.Fatalf("got %q, want %q", got, want)
		}
	})
}

func TestAPageIsCutBetweenHashes(t *testing.T) {
	hash := func(key string) uint64 { return uint64(key[0]) }
	pg := page{keys: []string{"a1", "b1", "b2", "b3", "c1"}, next: 1000}
	for _, c := range []struct {
		n, keys, next uint64
	}{
		{1, 1, 'b'}, {2, 4, 'c'}, {4, 4, 'c'}, {5, 5, 1000}, {9, 5, 1000},
	} {
		if got := pg.cut(c.n, hash); uint64(len(got.keys)) != c.keys || got.next != c.next {
			t.Errorf("%d: got %q and %d, want %d keys and %d", c.n, got.keys, got.next, c.keys, c.next)
		}
	}
	pg = page{keys: []string{"a1", "a2"}, next: 0}
	if got := pg.cut(1, hash); len(got.keys) != 2 || got.next != 0 {
		t.Errorf("got %q and %d, want both keys, which have one hash, and the end", got.keys, got.next)
	}
}

func TestAListingThatFailsSaysWhereToGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := memoryOf(manyKeys(5 * memoryPage)...)
		m.before = func(call, _ int) error {
			if call > 2 {
				return kv.ErrUnavailable
			}
			return nil
		}
		p, stdout, _ := newProgram("")
		err := p.listKeys(t.Context(), m, hashOf, &keysOptions{})
		h, ok := errors.AsType[hinted](err)
		if !ok || !errors.Is(err, kv.ErrUnavailable) {
			t.Fatalf("got %v, want %v with a hint", err, kv.ErrUnavailable)
		}
		if m.calls != 2+importAttempts {
			t.Errorf("got %d calls, want the last tried %d times", m.calls, importAttempts)
		}
		var o keysOptions
		if n, err := fmt.Sscanf(h.hint, "--cursor %d goes on", &o.cursor); n != 1 {
			t.Fatalf("got the hint %q, %v", h.hint, err)
		}
		m.before = nil
		if err := p.listKeys(t.Context(), m, hashOf, &o); err != nil || strings.Count(stdout.String(), "\n") != 5*memoryPage {
			t.Errorf("got %v and %d lines, want %d in both listings", err, strings.Count(stdout.String(), "\n"), 5*memoryPage)
		}
	})
}

func TestAListingEndsWithTheProgram(t *testing.T) {
	ctx, stop := context.WithCancelCause(t.Context())
	interrupted := errors.New("interrupted")
	m := memoryOf(manyKeys(5 * memoryPage)...)
	m.before = func(call, _ int) error {
		if call == 1 {
			return nil
		}
		stop(interrupted)
		return ctx.Err()
	}
	p, stdout, _ := newProgram("")
	err := p.listKeys(ctx, m, hashOf, &keysOptions{})
	h, ok := errors.AsType[hinted](err)
	if !errors.Is(err, interrupted) || !ok || !strings.HasPrefix(h.hint, "--cursor ") || strings.Count(stdout.String(), "\n") != memoryPage {
		t.Errorf("got %v and\n%s\nwant a page, %v, and the cursor", err, stdout, interrupted)
	}
}

func TestAListingFailsWhenItCannotPrint(t *testing.T) {
	p := &program{stdout: &printer{w: brokenPipe{}}, conn: connection{timeout: defaultTimeout}}
	if err := p.listKeys(t.Context(), memoryOf("k"), hashOf, &keysOptions{}); !errors.Is(err, errBrokenPipe) {
		t.Errorf("got %v, want %v", err, errBrokenPipe)
	}
}

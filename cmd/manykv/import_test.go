package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/manykv/manykv/kv"
)

func writeFile(t *testing.T, dir, name string, content []byte) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, dir string) *tree {
	t.Helper()
	tr, err := openTree(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tr.root.Close() })
	return tr
}

var fourAtOnce = &importOptions{parallel: 4}

// unnoted is an import that nobody will go on with.
func unnoted(t *testing.T) *bookmark {
	t.Helper()
	mark, err := openBookmark("", "files", "1-1", ".")
	if err != nil {
		t.Fatal(err)
	}
	return mark
}

func TestEveryFileBecomesAKeyAndIsComparedWithIt(t *testing.T) {
	dir := t.TempDir()
	want := map[string]string{"empty": "", "deep/er/file": "content", "ü\n": "\x00\xff"}
	for i := range 2*batchKeys + 1 {
		want[fmt.Sprintf("many/%d", i)] = fmt.Sprint(i)
	}
	for name, content := range want {
		writeFile(t, dir, name, []byte(content))
	}
	if err := os.Symlink("empty", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	m := newMemory()
	p, stdout, stderr := newProgram("")
	p.terminal = true // draws a bar, whose end is counted
	tr := open(t, dir)
	sum, err := p.importFiles(t.Context(), tr, m, unnoted(t), fourAtOnce)
	if err != nil || sum.Files != int64(len(want)) || sum.Skipped.Count != 0 {
		t.Fatalf("got %+v, %v, want %d files", sum, err, len(want))
	}
	if len(m.values) != len(want) || m.calls < 3 {
		t.Errorf("got %d keys in %d calls, want %d in 3 at least", len(m.values), m.calls, len(want))
	}
	for name, content := range want {
		if got, ok := m.values[name]; !ok || string(got) != content {
			t.Errorf("key %q: got %q, %t, want %q", name, got, ok, content)
		}
	}
	if !strings.HasPrefix(stdout.String(), fmt.Sprintf("imported %d files, ", len(want))) {
		t.Errorf("got %q, want the figures", stdout)
	}
	compared, err := p.verifyFiles(t.Context(), tr.again(), m, fourAtOnce)
	if err != nil || compared.Files != sum.Files || compared.Bytes != sum.Bytes || compared.Differing.Count != 0 {
		t.Errorf("got %+v, %v, want %d files and %d bytes, all alike", compared, err, sum.Files, sum.Bytes)
	}
	if got := tr.count(t.Context()); got != sum.Bytes {
		t.Errorf("got %d bytes counted, want %d", got, sum.Bytes)
	}
	if !strings.HasSuffix(stderr.String(), "\r\x1b[K") {
		t.Errorf("got %q, want the bar taken off", stderr)
	}
}

func TestFilesThatCannotBeValuesAreSkippedAndNamed(t *testing.T) {
	dir := t.TempDir()
	most := kv.Limits{}.WithDefaults().ValueBytes
	writeFile(t, dir, "good", []byte("good"))
	writeFile(t, dir, "just", make([]byte, most))
	writeFile(t, dir, "large", make([]byte, most+1))
	skipped := 1
	if runtime.GOOS == "linux" { // others refuse such names
		writeFile(t, dir, "bad\xff", nil)
		skipped++
	}
	m := newMemory()
	p, _, stderr := newProgram("")
	sum, err := p.importFiles(t.Context(), open(t, dir), m, unnoted(t), fourAtOnce)
	if err != nil || sum.Files != 2 || sum.Skipped.Count != skipped {
		t.Fatalf("got %+v, %v, want 2 files and %d skipped", sum, err, skipped)
	}
	if len(m.values["just"]) != most || len(m.values) != 2 {
		t.Errorf("got %d keys, want good and just", len(m.values))
	}
	if want := fmt.Sprintf("large: too large: %d bytes, at most %d are allowed", most+1, most); !strings.Contains(stderr.String(), want) {
		t.Errorf("got\n%s\nwant %q in it", stderr, want)
	}
	want := fmt.Sprintf("%d files were skipped", skipped)
	if skipped == 1 {
		want = "1 file was skipped"
	}
	if err := (&importSummary{Import: sum}).failure(); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// TestAFileIsReadAsItIsNow: its size when it was found is but a hint.
func TestAFileIsReadAsItIsNow(t *testing.T) {
	dir := t.TempDir()
	tr := open(t, dir)
	most := tr.limits.ValueBytes
	writeFile(t, dir, "grown", bytes.Repeat([]byte("x"), 5000))
	writeFile(t, dir, "shrunk", []byte("x"))
	writeFile(t, dir, "too-large", make([]byte, most+1))
	for _, c := range []struct {
		file file
		want int
		ok   bool
	}{
		{file{key: "grown", size: 3}, 5000, true},
		{file{key: "shrunk", size: 3000}, 1, true},
		{file{key: "too-large", size: 3}, 0, false},
		{file{key: "gone", size: 3}, 0, false},
	} {
		if content, ok := tr.read(c.file); ok != c.ok || len(content) != c.want {
			t.Errorf("%s: got %d bytes, %t, want %d, %t", c.file.key, len(content), ok, c.want, c.ok)
		}
	}
	if tr.skipped.Count != 2 {
		t.Errorf("got %d skipped, want 2", tr.skipped.Count)
	}
}

func TestDifferencesAreNamed(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"changed", "missing", "same"} {
		writeFile(t, dir, name, []byte(name))
	}
	m := newMemory()
	m.values["same"], m.values["changed"] = []byte("same"), []byte("chAnged")
	p, _, _ := newProgram("")
	sum, err := p.verifyFiles(t.Context(), open(t, dir), m, fourAtOnce)
	if err != nil || sum.Differing.Count != 2 || sum.Files != 3 {
		t.Fatalf("got %+v, %v, want 2 of 3 files to differ", sum, err)
	}
	if d := sum.Differing.First; d[0].File != "changed" || d[1] != (remark{"missing", "no such key"}) {
		t.Errorf("got %+v, want changed, and missing, which is no key", d)
	}
	if err := (&importSummary{Verify: sum}).failure(); err == nil || err.Error() != "2 files differ" {
		t.Errorf("got %v, want that 2 files differ", err)
	}
}

func TestRemarksAreBounded(t *testing.T) {
	var r remarks
	for i := range 3 * mostNamed {
		r.add(fmt.Sprint(i), "why")
	}
	var out bytes.Buffer
	r.print(&printer{w: &out})
	if len(r.First) != mostNamed || !strings.HasPrefix(out.String(), "  0: why\n") || !strings.HasSuffix(out.String(), "  and 20 more\n") {
		t.Errorf("got %d remarks:\n%s", len(r.First), &out)
	}
}

func TestABatchThatMaySucceedLaterIsSentAgain(t *testing.T) {
	for _, c := range []struct {
		name  string
		errs  []error // of each attempt
		calls int
		want  error
	}{
		{"at once", nil, 1, nil},
		{"after an election", []error{kv.ErrUnavailable, kv.ErrUnknown, kv.ErrBusy}, 4, nil},
		{"an error of no class", []error{errors.New("lost")}, 2, nil},
		{"never", []error{kv.ErrBusy, kv.ErrBusy, kv.ErrBusy, kv.ErrBusy, kv.ErrBusy, kv.ErrUnknown}, importAttempts, kv.ErrUnknown},
		{"refused", []error{kv.ErrTooLarge}, 1, kv.ErrTooLarge},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				calls := 0
				err := insist(t.Context(), time.Second, func(ctx context.Context) error {
					if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) != time.Second {
						t.Errorf("got a call without its own time-out")
					}
					calls++
					if calls > len(c.errs) {
						return nil
					}
					return c.errs[calls-1]
				})
				if !errors.Is(err, c.want) || calls != c.calls {
					t.Errorf("got %v after %d calls, want %v after %d", err, calls, c.want, c.calls)
				}
			})
		})
	}
}

func TestInsistingEndsWithTheProgram(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		calls := 0
		err := insist(ctx, time.Second, func(context.Context) error {
			calls++
			stop()
			return kv.ErrBusy
		})
		if !errors.Is(err, kv.ErrBusy) || calls != 1 {
			t.Errorf("got %v after %d calls, want %v after 1", err, calls, kv.ErrBusy)
		}
	})
}

func TestAnImportThatFailsStopsAndNamesTheFiles(t *testing.T) {
	dir := t.TempDir()
	for i := range 50 {
		writeFile(t, dir, fmt.Sprintf("large%02d", i), make([]byte, batchBytes/2))
	}
	m := newMemory()
	m.before = func(int, int) error { return kv.ErrAccessDenied }
	p, _, _ := newProgram("")
	_, err := p.importFiles(t.Context(), open(t, dir), m, unnoted(t), fourAtOnce)
	if !errors.Is(err, kv.ErrAccessDenied) || !strings.Contains(err.Error(), `files "large`) {
		t.Errorf("got %v, want %v and the files", err, kv.ErrAccessDenied)
	}
	if m.calls > 2*fourAtOnce.parallel {
		t.Errorf("got %d calls, want no more after the first that failed", m.calls)
	}
}

func TestAnImportEndsWithTheProgram(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, dir, "file", nil)
	ctx, stop := context.WithCancelCause(t.Context())
	interrupted := errors.New("interrupted")
	stop(interrupted)
	p, _, _ := newProgram("")
	if _, err := p.importFiles(ctx, open(t, dir), newMemory(), unnoted(t), fourAtOnce); !errors.Is(err, interrupted) {
		t.Errorf("got %v, want %v", err, interrupted)
	}
}

func TestSpellingsOfAnAddress(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"127.0.0.1:7400", "127.0.0.1:7400", true},
		{"127.0.0.1:07400", "127.0.0.1:7400", true},
		{"[::1]:7400", "[0:0::1]:7400", true},
		{"127.0.0.1:7400", "127.0.0.1:7401", false},
		{"nonsense", "127.0.0.1:7401", false},
		{"127.0.0.1:7400", "nonsense", false},
	} {
		if got := sameAddr(c.a, c.b); got != c.want {
			t.Errorf("%s and %s: got %t, want %t", c.a, c.b, got, c.want)
		}
	}
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/manykv/manykv/kv"
)

// swapped answers a compare-and-swap.
type swapped struct {
	version uint64
	err     error
}

func (s swapped) CompareAndSwap(context.Context, string, uint64, []byte) (uint64, error) {
	return s.version, s.err
}

func TestASwapPrintsTheVersionOrSaysWhichThereIs(t *testing.T) {
	refused := fmt.Errorf("%w: the key has version 9, want 7", kv.ErrConflict)
	for _, c := range []struct {
		name   string
		answer swapped
		stdout string
		want   error
		says   string
	}{
		{"done", swapped{8, nil}, "8\n", nil, ""},
		{"another version", swapped{0, &kv.BatchError{Op: "compare-and-swap", Err: refused}}, "", kv.ErrConflict, refused.Error()},
		{"a bare conflict", swapped{0, refused}, "", kv.ErrConflict, refused.Error()},
		{"unknown", swapped{0, kv.ErrUnknown}, "", kv.ErrUnknown, kv.ErrUnknown.Error()},
	} {
		p, stdout, _ := newProgram("")
		err := p.swap(t.Context(), c.answer, "k", 7, nil)
		if stdout.String() != c.stdout || !errors.Is(err, c.want) || err != nil && err.Error() != c.says {
			t.Errorf("%s: got %q and %v, want %q and %s", c.name, stdout, err, c.stdout, c.says)
		}
		if _, ok := errors.AsType[conflict](err); ok != (c.want == kv.ErrConflict) {
			t.Errorf("%s: got %v, a conflict: %t", c.name, err, ok)
		}
	}
}

func TestAPersonConfirmsWithTheWord(t *testing.T) {
	for _, c := range []struct {
		typed string
		want  bool
	}{
		{"files\n", true}, {" files \n", true}, {"files", true}, {"y\n", false}, {"\n", false}, {"", false}, {"no\nfiles\n", false},
	} {
		p, stdout, stderr := newProgram(c.typed)
		p.asking = true
		err := p.confirm(t.Context(), "This deletes it.", "files")
		if (err == nil) != c.want || err != nil && !errors.Is(err, errDeclined) {
			t.Errorf("%q: got %v, want %t", c.typed, err, c.want)
		}
		if stdout.Len() > 0 || stderr.String() != "This deletes it.\nType files to confirm: " {
			t.Errorf("got %q and %q, want the question on standard error", stdout, stderr)
		}
	}
}

func TestAQuestionEndsWithTheProgram(t *testing.T) {
	p, _, _ := newProgram("")
	typed, typing := io.Pipe() // nobody types
	defer typing.Close()
	p.stdin, p.asking = typed, true
	ctx, stop := context.WithCancelCause(t.Context())
	interrupted := errors.New("interrupted")
	stop(interrupted)
	if err := p.confirm(ctx, "This deletes it.", "files"); !errors.Is(err, errDeclined) || !errors.Is(err, interrupted) {
		t.Errorf("got %v, want %v because of %v", err, errDeclined, interrupted)
	}
}

func TestWhereNobodyCanBeAskedTheFlagIsNamed(t *testing.T) {
	p, _, stderr := newProgram("files\n")
	err := p.confirm(t.Context(), "This deletes it.", "files")
	if usage, ok := errors.AsType[usageError](err); !ok || !strings.Contains(usage.Error(), "--yes") || stderr.Len() > 0 {
		t.Errorf("got %v and %q, want wrong use that names --yes, and no question", err, stderr)
	}
}

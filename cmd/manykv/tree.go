package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/manykv/manykv/kv"
)

// mostNamed is how many files that were skipped, or differ, are named.
const mostNamed = 10

// file is a regular file of a tree; its key is its path below the tree's
// directory, with '/'.
type file struct {
	key      string
	size     int64 // when it was found; it may have changed since
	modified time.Time
}

func fileSize(f file) int64 { return int64(len(f.key)) + f.size }

// tree is a directory whose regular files are keys, and the account of what
// was done with them. Symbolic links below the directory are not followed.
type tree struct {
	root   *os.Root
	limits kv.Limits
	after  []string // path of a file; those up to it are left out; nil: none

	files atomic.Int64 // done so far
	bytes atomic.Int64

	mu      sync.Mutex
	skipped remarks // guarded by mu
}

// remarks are the first few of what there is to say, and how many there are.
type remarks struct {
	Count int      `json:"count"`
	First []remark `json:"first,omitempty"`
}

type remark struct {
	File string `json:"file"`
	Why  string `json:"why"`
}

func (r *remarks) add(file, why string) {
	r.Count++
	if len(r.First) < mostNamed {
		r.First = append(r.First, remark{file, why})
	}
}

func (r *remarks) print(w *printer) {
	for _, m := range r.First {
		w.printf("  %s: %s\n", m.File, m.Why)
	}
	if more := r.Count - len(r.First); more > 0 {
		w.printf("  and %d more\n", more)
	}
}

// openTree opens dir, which may be a symbolic link itself.
func openTree(dir string) (*tree, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &tree{root: root, limits: kv.Limits{}.WithDefaults()}, nil
}

func (t *tree) skip(file string, why error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.skipped.add(file, why.Error())
}

// walk yields the regular files in lexical order. What cannot be read is
// skipped and remembered.
func (t *tree) walk(ctx context.Context) iter.Seq2[file, error] {
	return func(yield func(file, error) bool) {
		err := fs.WalkDir(t.root.FS(), ".", func(path string, entry fs.DirEntry, err error) error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if past := t.past(path); past && entry != nil && entry.IsDir() {
				return fs.SkipDir
			} else if past {
				return nil
			}
			if err != nil {
				t.skip(path, err)
				return nil
			}
			if !entry.Type().IsRegular() {
				return nil
			}
			info, err := entry.Info()
			if err != nil {
				t.skip(path, err)
				return nil
			}
			if !yield(file{path, info.Size(), info.ModTime()}, nil) {
				return fs.SkipAll
			}
			return nil
		})
		if err != nil {
			yield(file{}, err)
		}
	}
}

// past says whether a path, and everything below it, is left out.
func (t *tree) past(path string) bool {
	if t.after == nil || path == "." {
		return false
	}
	parts := strings.Split(path, "/")
	holds := len(parts) < len(t.after) && slices.Equal(parts, t.after[:len(parts)])
	return !holds && slices.Compare(parts, t.after) <= 0
}

// usable are the files that can be keys and values; the others are skipped.
func (t *tree) usable(files iter.Seq2[file, error]) iter.Seq2[file, error] {
	return func(yield func(file, error) bool) {
		for f, err := range files {
			if err == nil {
				if why := t.check(f.key, f.size); why != nil {
					t.skip(strings.ToValidUTF8(f.key, "\uFFFD"), why)
					continue
				}
			}
			if !yield(f, err) {
				return
			}
		}
	}
}

func (t *tree) check(key string, size int64) error {
	if err := t.limits.CheckKey(key); err != nil {
		return err
	}
	if size > int64(t.limits.ValueBytes) {
		return fmt.Errorf("%w: %d bytes, at most %d are allowed", kv.ErrTooLarge, size, t.limits.ValueBytes)
	}
	return nil
}

// eachBatch hands batches of files, counted from 0, to work, which runs in
// several goroutines. What it takes is bounded: one batch for each of them and
// one more.
func (t *tree) eachBatch(ctx context.Context, parallel int, work func(ctx context.Context, n int, batch []file) error) error {
	type numbered struct {
		n     int
		files []file
	}
	g, ctx := errgroup.WithContext(ctx)
	queue := make(chan numbered)
	g.Go(func() error {
		defer close(queue)
		n := 0
		for batch, err := range batches(t.usable(t.walk(ctx)), fileSize) {
			if err != nil {
				return err
			}
			select {
			case queue <- numbered{n, batch}:
				n++
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		return nil
	})
	for range parallel {
		g.Go(func() error {
			for batch := range queue {
				if err := work(ctx, batch.n, batch.files); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// read returns a file's content; ok is false if it had to be skipped.
func (t *tree) read(f file) (content []byte, ok bool) {
	content, err := t.readAll(f)
	if err != nil {
		t.skip(f.key, err)
		return nil, false
	}
	return content, true
}

func (t *tree) readAll(f file) (content []byte, err error) {
	r, err := t.root.Open(f.key)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	// One byte more than allowed tells a file that has grown since it was found.
	limited := io.LimitReader(r, int64(t.limits.ValueBytes)+1)
	content = slices.Grow([]byte(nil), int(f.size)+1)
	for {
		n, err := limited.Read(content[len(content):cap(content)])
		content = content[:len(content)+n]
		if errors.Is(err, io.EOF) {
			return content, t.check(f.key, int64(len(content)))
		}
		if err != nil {
			return nil, err
		}
		if len(content) == cap(content) {
			content = slices.Grow(content, len(content))
		}
	}
}

// pairs reads the files of a batch; it ends never with an error.
func (t *tree) pairs(batch []file) iter.Seq2[kv.Pair, error] {
	return func(yield func(kv.Pair, error) bool) {
		for _, f := range batch {
			content, ok := t.read(f)
			if ok && !yield(kv.Pair{Key: f.key, Value: content}, nil) {
				return
			}
		}
	}
}

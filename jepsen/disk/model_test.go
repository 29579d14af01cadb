//go:build linux

package disk

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

var (
	modelDirs  = []string{".", "d", "e", "d/d"}
	modelNames = []string{"a", "b", "c"}
)

// anyPath draws a path, also of what is not there.
func anyPath(t *rapid.T) string {
	return path.Join(rapid.SampledFrom(modelDirs).Draw(t, "dir"), rapid.SampledFrom(append(modelNames, "d", "e")).Draw(t, "name"))
}

// anySize draws a number of bytes, often one at the edge of a sector or block.
func anySize(t *rapid.T) int64 {
	size := rapid.SampledFrom([]int64{0, 1, sectorSize, blockSize, 2 * blockSize, wordBlocks * blockSize}).Draw(t, "size")
	return size + rapid.Int64Range(0, 700).Draw(t, "more")
}

// TestLikeADirectory does the same to a disk and to a plain directory, and
// compares what both say.
func TestLikeADirectory(t *testing.T) {
	d := openDisk(t, Config{})
	var runs int
	plain := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		runs++
		roots := []string{d.path(fmt.Sprint(runs)), filepath.Join(plain, fmt.Sprint(runs))}
		for _, root := range roots {
			must(t, errors.Join(os.Mkdir(root, 0o755), os.Mkdir(filepath.Join(root, "d"), 0o755)))
		}
		open := map[string][]*os.File{} // by path when opened, one of each root
		defer func() {
			for _, files := range open {
				for _, f := range files {
					f.Close()
				}
			}
		}()
		// both does something at both roots and compares what it says.
		both := func(do func(i int, root string) string) {
			if got, want := do(0, roots[0]), do(1, roots[1]); got != want {
				t.Fatalf("the disk says %s, a directory %s", got, want)
			}
		}
		onNames := func(do func(root string) error) {
			both(func(_ int, root string) string { return errnoOf(do(root)) })
		}
		// onFile is for an open file, and compares all of it afterwards.
		onFile := func(t *rapid.T, do func(f *os.File) string) {
			if len(open) == 0 {
				t.Skip("no file is open")
			}
			files := open[rapid.SampledFrom(slices.Sorted(maps.Keys(open))).Draw(t, "file")]
			both(func(i int, _ string) string { return do(files[i]) })
			both(func(i int, _ string) string {
				data, err := io.ReadAll(io.NewSectionReader(files[i], 0, math.MaxInt64))
				return fmt.Sprint(shape(data), err)
			})
		}
		t.Repeat(map[string]func(*rapid.T){
			"mkdir": func(t *rapid.T) {
				p := anyPath(t)
				onNames(func(root string) error { return os.Mkdir(filepath.Join(root, p), 0o755) })
			},
			"open": func(t *rapid.T) {
				p := anyPath(t)
				flag := os.O_RDWR | rapid.SampledFrom([]int{0, os.O_CREATE, os.O_CREATE | os.O_EXCL, os.O_CREATE | os.O_TRUNC, os.O_TRUNC}).Draw(t, "flag")
				for _, f := range open[p] {
					f.Close()
				}
				delete(open, p)
				onNames(func(root string) error {
					f, err := os.OpenFile(filepath.Join(root, p), flag, 0o644)
					if err == nil {
						open[p] = append(open[p], f)
					}
					return err
				})
			},
			"write": func(t *rapid.T) {
				off, data := anySize(t), make([]byte, anySize(t))
				fill(data, rapid.Uint64().Draw(t, "data"))
				onFile(t, func(f *os.File) string { n, err := f.WriteAt(data, off); return fmt.Sprint(n, errnoOf(err)) })
			},
			"truncate": func(t *rapid.T) {
				size := anySize(t)
				onFile(t, func(f *os.File) string { return errnoOf(f.Truncate(size)) })
			},
			"allocate": func(t *rapid.T) {
				off, n := anySize(t), 1+anySize(t)
				mode := rapid.SampledFrom([]uint32{0, unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE,
					unix.FALLOC_FL_ZERO_RANGE, unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE}).Draw(t, "mode")
				onFile(t, func(f *os.File) string { return errnoOf(unix.Fallocate(int(f.Fd()), mode, off, n)) })
			},
			"sync": func(t *rapid.T) {
				onFile(t, func(f *os.File) string { return errnoOf(f.Sync()) })
			},
			"read": func(t *rapid.T) {
				off, data := anySize(t), make([]byte, anySize(t))
				onFile(t, func(f *os.File) string { n, err := f.ReadAt(data, off); return fmt.Sprint(shape(data[:n]), err) })
			},
			"rename": func(t *rapid.T) {
				from, to := anyPath(t), anyPath(t)
				onNames(func(root string) error { return os.Rename(filepath.Join(root, from), filepath.Join(root, to)) })
			},
			"rename to a new name": func(t *rapid.T) {
				from, to := anyPath(t), anyPath(t)
				onNames(func(root string) error {
					return unix.Renameat2(unix.AT_FDCWD, filepath.Join(root, from), unix.AT_FDCWD, filepath.Join(root, to), unix.RENAME_NOREPLACE)
				})
			},
			"link": func(t *rapid.T) {
				from, to := anyPath(t), anyPath(t)
				onNames(func(root string) error { return os.Link(filepath.Join(root, from), filepath.Join(root, to)) })
			},
			"unlink": func(t *rapid.T) {
				p := anyPath(t)
				onNames(func(root string) error { return syscall.Unlink(filepath.Join(root, p)) })
			},
			"rmdir": func(t *rapid.T) {
				p := anyPath(t)
				onNames(func(root string) error { return syscall.Rmdir(filepath.Join(root, p)) })
			},
			"sync a directory": func(t *rapid.T) {
				p := rapid.SampledFrom(modelDirs).Draw(t, "dir")
				onNames(func(root string) error { return syncDir(filepath.Join(root, p)) })
			},
			"": func(*rapid.T) {
				both(func(_ int, root string) string { return listing(root) })
			},
		})
		both(func(_ int, root string) string { return contents(root) })
	})
}

// fill makes bytes that shape can show.
func fill(data []byte, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 0))
	for len(data) > 0 {
		n := min(len(data), 1+r.IntN(2*sectorSize))
		c := "abcdefgh\x00"[r.IntN(9)]
		for i := range data[:n] {
			data[i] = c
		}
		data = data[n:]
	}
}

// errnoOf is an error without the path, which differs.
func errnoOf(err error) string {
	if err == nil {
		return "ok"
	}
	for _, errno := range []syscall.Errno{syscall.ENOENT, syscall.EEXIST, syscall.ENOTDIR, syscall.EISDIR, syscall.ENOTEMPTY, syscall.EPERM, syscall.EINVAL} {
		if errors.Is(err, errno) {
			return errno.Error()
		}
	}
	return err.Error()
}

// listing is all names below a root, with types, sizes and link counts of files.
func listing(root string) (list string) {
	filepath.WalkDir(root, func(p string, e os.DirEntry, err error) error {
		if err != nil {
			list += err.Error()
			return nil
		}
		rel, _ := filepath.Rel(root, p)
		info, err := e.Info()
		if err != nil || info.IsDir() {
			list += fmt.Sprintln(rel, e.Type(), err)
			return nil
		}
		list += fmt.Sprintln(rel, e.Type(), info.Size(), info.Sys().(*syscall.Stat_t).Nlink)
		return nil
	})
	return list
}

// contents is all files below a root.
func contents(root string) (all string) {
	filepath.WalkDir(root, func(p string, e os.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			data, err := os.ReadFile(p)
			rel, _ := filepath.Rel(root, p)
			all += fmt.Sprintln(rel, shape(data), err)
		}
		return nil
	})
	return all
}

//go:build linux

package disk

import (
	"errors"
	"maps"
	"path"
	"slices"
)

// rootNumber is the root directory's number.
const rootNumber = 1

// tree is all directories and files, as programs see them and as they are durable.
// The disk's mutex guards it.
type tree struct {
	store   string
	last    uint64 // the newest number
	live    map[uint64]dir
	durable map[uint64]dir
	files   map[uint64]*file
	journal []change // of directories, not durable yet
}

// dir is the entries of a directory: names and numbers.
type dir map[string]uint64

// change is one atomic change of directories.
type change []entry

// entry is one name in a change: it gets a number, or none.
type entry struct {
	dir    uint64
	name   string
	number uint64 // 0: the name goes
	isDir  bool
}

func newTree(store string) *tree {
	return &tree{
		store: store, last: rootNumber, live: map[uint64]dir{rootNumber: {}}, durable: map[uint64]dir{rootNumber: {}}, files: make(map[uint64]*file),
	}
}

// number returns one that nothing has.
func (t *tree) number() uint64 {
	t.last++
	return t.last
}

// do makes a change for programs, and remembers it.
func (t *tree) do(c change) {
	apply(t.live, c)
	t.journal = append(t.journal, c)
}

func apply(dirs map[uint64]dir, c change) {
	for _, e := range c {
		if e.number == 0 {
			delete(dirs[e.dir], e.name)
			continue
		}
		dirs[e.dir][e.name] = e.number
		if e.isDir && dirs[e.number] == nil {
			dirs[e.number] = dir{}
		}
	}
}

// syncDir makes the journal durable up to the last change in a directory.
func (t *tree) syncDir(number uint64) {
	upTo := 0
	for i, c := range t.journal {
		if slices.ContainsFunc(c, func(e entry) bool { return e.dir == number }) {
			upTo = i + 1
		}
	}
	t.commit(upTo)
}

// commit makes the first changes of the journal durable.
func (t *tree) commit(n int) {
	for _, c := range t.journal[:n] {
		apply(t.durable, c)
	}
	t.journal = slices.Delete(t.journal, 0, n)
	t.collect()
}

// collect removes files that have no name any more, nor may have one after a power cut,
// and that no program has open.
func (t *tree) collect() {
	named := make(map[uint64]bool)
	for _, dirs := range []map[uint64]dir{t.live, t.durable} {
		for _, d := range dirs {
			for _, number := range d {
				named[number] = true
			}
		}
	}
	for _, c := range t.journal {
		for _, e := range c {
			named[e.number] = true
		}
	}
	for number, f := range t.files {
		if !named[number] && f.opens == 0 {
			_ = f.remove() // what stays behind takes space in the store, no more
			delete(t.files, number)
		}
	}
}

// walk calls f for each file that programs see, with its path, sorted.
func (t *tree) walk(at uint64, prefix string, f func(name string, file *file)) {
	for _, name := range slices.Sorted(maps.Keys(t.live[at])) {
		number, full := t.live[at][name], path.Join(prefix, name)
		if t.live[number] != nil {
			t.walk(number, full, f)
		} else if file := t.files[number]; file != nil {
			f(full, file)
		}
	}
}

func (t *tree) close() error {
	var errs []error
	for _, f := range t.files {
		errs = append(errs, f.close())
	}
	return errors.Join(errs...)
}

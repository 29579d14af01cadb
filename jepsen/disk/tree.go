//go:build linux

package disk

import "maps"

const (
	// rootIno is the number of the mount's own directory, given by FUSE.
	rootIno = 1
	// Readers of a directory go on after a cookie. The first two are those of
	// "." and "..".
	dotCookie, dotDotCookie, firstCookie = 1, 2, 3
)

// tree is all names: those that readers see, or those that are durable.
type tree struct {
	dirs   map[uint64]map[string]entry
	links  map[uint64]int // names of a file or directory; the root has none
	cookie uint64         // of the next entry
}

// entry is one name in a directory. Its cookie is greater than those of all
// entries before it, so that a reader that goes on after one misses nothing.
type entry struct {
	ino    uint64
	cookie uint64
}

// newTree has only a root.
func newTree() *tree {
	return &tree{dirs: map[uint64]map[string]entry{rootIno: {}}, links: map[uint64]int{}, cookie: firstCookie}
}

// clone is a copy of t.
func (t *tree) clone() *tree {
	dirs := make(map[uint64]map[string]entry, len(t.dirs))
	for ino, names := range t.dirs {
		dirs[ino] = maps.Clone(names)
	}
	return &tree{dirs: dirs, links: maps.Clone(t.links), cookie: t.cookie}
}

// has says whether ino has a name, or needs none.
func (t *tree) has(ino uint64) bool { return ino == rootIno || t.links[ino] > 0 }

// op is an operation on names. The same function does it to the names that
// readers see, at once, and to the durable ones, later or never.
type op struct {
	kind    opKind
	dir     uint64
	name    string
	ino     uint64 // what has the name, or gets it
	isDir   bool   // ino is a directory
	toDir   uint64 // opRename only
	toName  string
	instead uint64 // what loses toName to ino, or 0
}

type opKind uint8

const (
	opLink   opKind = iota + 1 // a name more: create, mkdir, link
	opUnlink                   // a name less: unlink, rmdir
	opRename
)

// touches says whether a sync of dir makes the operation durable.
func (o *op) touches(dir uint64) bool {
	return o.dir == dir || o.kind == opRename && o.toDir == dir
}

// apply does the operation, which was checked when it was first done.
func (t *tree) apply(o *op) {
	switch o.kind {
	case opLink:
		t.put(o.dir, o.name, o.ino)
		t.links[o.ino]++
		if o.isDir {
			t.dirs[o.ino] = map[string]entry{}
		}
	case opUnlink:
		delete(t.dirs[o.dir], o.name)
		t.unlink(o.ino)
	case opRename:
		delete(t.dirs[o.dir], o.name)
		if o.instead != 0 {
			t.unlink(o.instead)
		}
		t.put(o.toDir, o.toName, o.ino)
	}
}

// put gives ino a name.
func (t *tree) put(dir uint64, name string, ino uint64) {
	t.dirs[dir][name] = entry{ino: ino, cookie: t.cookie}
	t.cookie++
}

// unlink counts a name less.
func (t *tree) unlink(ino uint64) {
	if t.links[ino]--; t.links[ino] == 0 {
		delete(t.links, ino)
		delete(t.dirs, ino)
	}
}

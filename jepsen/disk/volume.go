//go:build linux

package disk

import (
	"errors"
	"path"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// volume is the disk without FUSE: files, names, and which of both are durable.
type volume struct {
	store string
	space space

	mu      sync.RWMutex // guards what follows, and the nodes; taken before file.mu
	nodes   map[uint64]*node
	lastIno uint64 // numbers are never used again
	live    *tree
	durable *tree
	journal []op           // what is done in live and not in durable, in order
	pending map[uint64]int // how many operations in the journal are about a node
}

// node is a file or directory.
type node struct {
	ino  uint64
	file *file // nil: a directory

	mtime, ctime, atime atomic.Int64 // in nanoseconds since 1970

	// The rest is guarded by volume.mu.
	mode     uint32 // with its type
	uid, gid uint32
	parent   uint64 // where it got its newest name
	name     string
	lookups  uint64 // how often the kernel was told of it, and did not forget it since
	open     int    // open handles of the file
	gone     bool   // its room was given back
}

// newVolume is an empty volume with its files in store.
func newVolume(store string, limit int64) *volume {
	v := &volume{
		store: store, space: space{limit: limit}, nodes: map[uint64]*node{}, lastIno: rootIno,
		live: newTree(), durable: newTree(), pending: map[uint64]int{},
	}
	root := &node{ino: rootIno, mode: syscall.S_IFDIR | 0o755}
	root.touch()
	v.nodes[rootIno] = root
	return v
}

// touch says that the node was changed now.
func (n *node) touch() {
	now := time.Now().UnixNano()
	n.mtime.Store(now)
	n.ctime.Store(now)
}

// get is the node with a number, or nil.
func (v *volume) get(ino uint64) *node {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.nodes[ino]
}

// path is where ino is, or was before it lost its name, as a path below the root.
func (v *volume) path(ino uint64) string {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.pathLocked(ino)
}

func (v *volume) pathLocked(ino uint64) string {
	p := ""
	for ino != rootIno {
		n := v.nodes[ino]
		if n == nil {
			break
		}
		p = path.Join(n.name, p)
		ino = n.parent
	}
	return path.Join(".", p)
}

// find is the node with a name. The caller holds mu.
func (v *volume) find(dir uint64, name string) (*node, error) {
	names, ok := v.live.dirs[dir]
	if !ok {
		return nil, syscall.ENOENT // it was removed
	}
	e, ok := names[name]
	if !ok {
		return nil, syscall.ENOENT
	}
	return v.nodes[e.ino], nil
}

// vacant says why a name cannot be given, if so. The caller holds mu.
func (v *volume) vacant(dir uint64, name string) error {
	if _, ok := v.live.dirs[dir]; !ok {
		return syscall.ENOENT
	}
	if _, err := v.find(dir, name); err == nil {
		return syscall.EEXIST
	}
	return nil
}

// create makes a file or directory.
func (v *volume) create(dir uint64, name string, mode, uid, gid uint32) (*node, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.vacant(dir, name); err != nil {
		return nil, err
	}
	if !v.space.take(blockSize) {
		return nil, syscall.ENOSPC
	}
	v.lastIno++
	n := &node{ino: v.lastIno, mode: mode, uid: uid, gid: gid}
	n.touch()
	n.atime.Store(n.mtime.Load())
	isDir := mode&syscall.S_IFMT == syscall.S_IFDIR
	if !isDir {
		n.file = newFile(v.store, n.ino, &v.space)
	}
	v.nodes[n.ino] = n
	v.do(op{kind: opLink, dir: dir, name: name, ino: n.ino, isDir: isDir})
	return n, nil
}

// link gives a file one name more.
func (v *volume) link(ino, dir uint64, name string) (*node, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	n := v.nodes[ino]
	switch {
	case n == nil || v.live.links[ino] == 0:
		return nil, syscall.ENOENT
	case n.file == nil:
		return nil, syscall.EPERM
	}
	if err := v.vacant(dir, name); err != nil {
		return nil, err
	}
	v.do(op{kind: opLink, dir: dir, name: name, ino: ino})
	return n, nil
}

// remove takes the name of a file away, or that of an empty directory.
func (v *volume) remove(dir uint64, name string, isDir bool) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	n, err := v.find(dir, name)
	switch {
	case err != nil:
		return err
	case isDir && n.file != nil:
		return syscall.ENOTDIR
	case !isDir && n.file == nil:
		return syscall.EISDIR
	case isDir && len(v.live.dirs[n.ino]) > 0:
		return syscall.ENOTEMPTY
	}
	v.do(op{kind: opUnlink, dir: dir, name: name, ino: n.ino, isDir: isDir})
	return nil
}

// rename gives a file or directory another name, and takes that from what had it.
// The kernel does not ask for what would move a directory below itself, nor
// if both names are of one file.
func (v *volume) rename(dir uint64, name string, toDir uint64, toName string, mayReplace bool) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	n, err := v.find(dir, name)
	if err != nil {
		return err
	}
	o := op{kind: opRename, dir: dir, name: name, ino: n.ino, isDir: n.file == nil, toDir: toDir, toName: toName}
	switch old, err := v.find(toDir, toName); {
	case errors.Is(err, syscall.ENOENT) && v.live.dirs[toDir] == nil:
		return err
	case err != nil:
	case !mayReplace:
		return syscall.EEXIST
	case o.isDir && old.file != nil:
		return syscall.ENOTDIR
	case !o.isDir && old.file == nil:
		return syscall.EISDIR
	case o.isDir && len(v.live.dirs[old.ino]) > 0:
		return syscall.ENOTEMPTY
	default:
		o.instead = old.ino
	}
	v.do(o)
	return nil
}

// do does an operation for readers, and notes it in the journal. The caller holds mu.
func (v *volume) do(o op) {
	v.live.apply(&o)
	v.journal = append(v.journal, o)
	for _, ino := range []uint64{o.ino, o.instead} {
		if ino != 0 {
			v.pending[ino]++
			v.nodes[ino].ctime.Store(time.Now().UnixNano())
			v.giveBack(v.nodes[ino])
		}
	}
	v.nodes[o.dir].touch()
	switch o.kind {
	case opLink:
		v.nodes[o.ino].parent, v.nodes[o.ino].name = o.dir, o.name
	case opRename:
		v.nodes[o.ino].parent, v.nodes[o.ino].name = o.toDir, o.toName
		v.nodes[o.toDir].touch()
	}
}

// syncDir makes the operations up to the last one on a directory durable.
func (v *volume) syncDir(dir uint64) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	n := len(v.journal)
	for n > 0 && !v.journal[n-1].touches(dir) {
		n--
	}
	return v.commit(n)
}

// commit makes the first n operations of the journal durable. The caller holds mu.
func (v *volume) commit(n int) error {
	done := v.journal[:n]
	for i := range done {
		v.durable.apply(&done[i])
	}
	var errs []error
	for i := range done {
		for _, ino := range []uint64{done[i].ino, done[i].instead} {
			if v.pending[ino]--; v.pending[ino] <= 0 {
				delete(v.pending, ino)
			}
			errs = append(errs, v.reap(ino))
		}
	}
	v.journal = append([]op(nil), v.journal[n:]...) // not a slice of the old one, which would grow
	return errors.Join(errs...)
}

// forget is told that the kernel forgot a node n times.
func (v *volume) forget(ino, n uint64) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	node := v.nodes[ino]
	if node == nil || ino == rootIno {
		return nil
	}
	node.lookups -= min(n, node.lookups)
	return v.reap(ino)
}

// openFile counts a handle of a file.
func (v *volume) openFile(n *node) error {
	if err := n.file.open(); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	n.open++
	return nil
}

// closeFile counts a handle less.
func (v *volume) closeFile(n *node) error {
	err := n.file.close()
	v.mu.Lock()
	defer v.mu.Unlock()
	n.open--
	v.giveBack(n)
	return errors.Join(err, v.reap(n.ino))
}

// giveBack gives the room of a node back when nobody can see it any more, be it
// durable or not. The caller holds mu.
func (v *volume) giveBack(n *node) {
	if n.gone || v.live.has(n.ino) || n.open > 0 {
		return
	}
	n.gone = true
	v.space.give(blockSize + n.blocks())
}

// blocks is what the file of a node takes, in bytes.
func (n *node) blocks() int64 {
	if n.file == nil {
		return 0
	}
	return wholeBlocks(n.file.size.Load())
}

// reap deletes a node that nobody can see, now or after a power cut. The caller holds mu.
func (v *volume) reap(ino uint64) error {
	n := v.nodes[ino]
	if n == nil || n.lookups > 0 || n.open > 0 || v.pending[ino] > 0 || v.live.has(ino) || v.durable.has(ino) {
		return nil
	}
	delete(v.nodes, ino)
	if n.file == nil {
		return nil
	}
	return n.file.remove()
}

//go:build linux

package disk

import (
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// node is a directory or a file as FUSE knows it.
type node struct {
	fs.Inode
	d      *Disk
	mount  int // that it belongs to
	number uint64
	file   *file // nil: a directory
}

var (
	_ fs.NodeLookuper  = (*node)(nil)
	_ fs.NodeReaddirer = (*node)(nil)
	_ fs.NodeCreater   = (*node)(nil)
	_ fs.NodeMkdirer   = (*node)(nil)
	_ fs.NodeLinker    = (*node)(nil)
	_ fs.NodeUnlinker  = (*node)(nil)
	_ fs.NodeRmdirer   = (*node)(nil)
	_ fs.NodeRenamer   = (*node)(nil)
	_ fs.NodeGetattrer = (*node)(nil)
	_ fs.NodeSetattrer = (*node)(nil)
	_ fs.NodeOpener    = (*node)(nil)
	_ fs.NodeReader    = (*node)(nil)
	_ fs.NodeWriter    = (*node)(nil)
	_ fs.NodeFsyncer   = (*node)(nil)
	_ fs.NodeReleaser  = (*node)(nil)
	_ fs.NodeAllocater = (*node)(nil)
	_ fs.NodeStatfser  = (*node)(nil)
)

// handle is an open file.
type handle struct{}

// path is the node's path from the root, as faults match it.
func (n *node) path() string { return n.Path(nil) }

// late says whether the node is of a mount that was taken away. d.mu is held.
func (n *node) late() bool { return n.mount != n.d.mounts }

func (n *node) attr(out *fuse.Attr) {
	out.Ino = n.number
	if n.file == nil {
		out.Mode, out.Nlink = syscall.S_IFDIR|0o700, 2
		return
	}
	out.Mode, out.Nlink, out.Size = syscall.S_IFREG|0o600, n.file.links, uint64(n.file.size)
	out.Blocks, out.Blksize = (out.Size+sectorBytes-1)/sectorBytes, blockBytes
}

// child returns the inode of a number, for the library. d.mu is held.
func (n *node) child(ctx context.Context, number uint64, out *fuse.EntryOut) *fs.Inode {
	c := &node{d: n.d, mount: n.mount, number: number, file: n.d.tree.files[number]}
	mode := uint32(syscall.S_IFDIR)
	if c.file != nil {
		mode = syscall.S_IFREG
	}
	c.attr(&out.Attr)
	return n.NewInode(ctx, c, fs.StableAttr{Mode: mode, Ino: number})
}

func (n *node) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	n.d.mu.Lock()
	defer n.d.mu.Unlock()
	number, there := n.d.tree.live[n.number][name]
	if !there {
		return nil, syscall.ENOENT
	}
	return n.child(ctx, number, out), 0
}

func (n *node) Readdir(context.Context) (fs.DirStream, syscall.Errno) {
	n.d.mu.Lock()
	defer n.d.mu.Unlock()
	t := n.d.tree
	var list []fuse.DirEntry
	for _, name := range slices.Sorted(maps.Keys(t.live[n.number])) {
		e := fuse.DirEntry{Name: name, Ino: t.live[n.number][name], Mode: syscall.S_IFDIR}
		if t.files[e.Ino] != nil {
			e.Mode = syscall.S_IFREG
		}
		list = append(list, e)
	}
	return fs.NewListDirStream(list), 0
}

func (n *node) Create(ctx context.Context, name string, _, _ uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	if errno := n.d.meet(callGrow, join(n.path(), name)); errno != 0 {
		return nil, nil, 0, errno
	}
	n.d.mu.Lock()
	defer n.d.mu.Unlock()
	t := n.d.tree
	number := t.number()
	f, err := t.newFile(number)
	if err != nil {
		return nil, nil, 0, syscall.EIO
	}
	f.opens, f.links = 1, 1
	t.do(change{{dir: n.number, name: name, number: number}})
	return n.child(ctx, number, out), handle{}, 0, 0
}

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

func (n *node) Mkdir(ctx context.Context, name string, _ uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if errno := n.d.meet(callGrow, join(n.path(), name)); errno != 0 {
		return nil, errno
	}
	n.d.mu.Lock()
	defer n.d.mu.Unlock()
	number := n.d.tree.number()
	n.d.tree.do(change{{dir: n.number, name: name, number: number, isDir: true}})
	return n.child(ctx, number, out), 0
}

func (n *node) Link(_ context.Context, target fs.InodeEmbedder, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	n.d.mu.Lock()
	defer n.d.mu.Unlock()
	to, ok := target.(*node)
	if !ok || to.file == nil {
		return nil, syscall.EPERM
	}
	to.file.links++
	n.d.tree.do(change{{dir: n.number, name: name, number: to.number}})
	to.attr(&out.Attr)
	return to.EmbeddedInode(), 0
}

func (n *node) Unlink(_ context.Context, name string) syscall.Errno {
	n.d.mu.Lock()
	defer n.d.mu.Unlock()
	number, there := n.d.tree.live[n.number][name]
	if !there {
		return syscall.ENOENT
	}
	n.d.tree.do(change{{dir: n.number, name: name}})
	n.d.tree.unlinked(number)
	return 0
}

// unlinked counts a name less.
func (t *tree) unlinked(number uint64) {
	if f := t.files[number]; f != nil {
		f.links--
	}
}

func (n *node) Rmdir(_ context.Context, name string) syscall.Errno {
	n.d.mu.Lock()
	defer n.d.mu.Unlock()
	number, there := n.d.tree.live[n.number][name]
	switch {
	case !there:
		return syscall.ENOENT
	case len(n.d.tree.live[number]) > 0:
		return syscall.ENOTEMPTY
	}
	n.d.tree.do(change{{dir: n.number, name: name}})
	return 0
}

func (n *node) Rename(_ context.Context, name string, newParent fs.InodeEmbedder, newName string, flags uint32) syscall.Errno {
	n.d.mu.Lock()
	defer n.d.mu.Unlock()
	to, ok := newParent.(*node)
	if !ok || flags != 0 {
		return syscall.EINVAL
	}
	t := n.d.tree
	number, there := t.live[n.number][name]
	if !there {
		return syscall.ENOENT
	}
	if old, there := t.live[to.number][newName]; there {
		switch {
		case old == number: // two names of one file: both stay
			return 0
		case len(t.live[old]) > 0:
			return syscall.ENOTEMPTY
		}
		t.unlinked(old)
	}
	t.do(change{{dir: n.number, name: name}, {dir: to.number, name: newName, number: number}})
	return 0
}

func (n *node) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	n.d.mu.Lock()
	defer n.d.mu.Unlock()
	n.attr(&out.Attr)
	return 0
}

// Setattr sets the size. Modes and times are not kept.
func (n *node) Setattr(_ context.Context, _ fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if size, ok := in.GetSize(); ok && n.file != nil {
		if errno := n.resize(int64(size)); errno != 0 {
			return errno
		}
	}
	n.d.mu.Lock()
	defer n.d.mu.Unlock()
	n.attr(&out.Attr)
	return 0
}

func (n *node) resize(size int64) syscall.Errno {
	n.d.mu.Lock()
	c := callWrite
	if size > n.file.size {
		c = callGrow
	}
	n.d.mu.Unlock()
	if errno := n.d.meet(c, n.path()); errno != 0 {
		return errno
	}
	n.d.mu.Lock()
	defer n.d.mu.Unlock()
	if n.late() {
		return syscall.EIO
	}
	return fs.ToErrno(n.file.truncate(size))
}

func (n *node) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	n.d.mu.Lock()
	defer n.d.mu.Unlock()
	n.file.opens++
	return handle{}, 0, 0
}

func (n *node) Release(context.Context, fs.FileHandle) syscall.Errno {
	n.d.mu.Lock()
	defer n.d.mu.Unlock()
	if n.late() {
		return 0
	}
	n.file.opens--
	if n.file.links == 0 {
		n.d.tree.collect()
	}
	return 0
}

func (n *node) Read(_ context.Context, _ fs.FileHandle, dest []byte, at int64) (fuse.ReadResult, syscall.Errno) {
	if errno := n.d.meet(callRead, n.path()); errno != 0 {
		return nil, errno
	}
	n.d.mu.Lock()
	defer n.d.mu.Unlock()
	if n.late() {
		return nil, syscall.EIO
	}
	size, err := n.file.live.ReadAt(dest, at)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fs.ToErrno(err)
	}
	return fuse.ReadResultData(dest[:size]), 0
}

func (n *node) Write(_ context.Context, _ fs.FileHandle, data []byte, at int64) (uint32, syscall.Errno) {
	n.d.mu.Lock()
	c := callWrite
	if at+int64(len(data)) > n.file.size {
		c = callGrow
	}
	n.d.stats.Writes++
	n.d.mu.Unlock()
	if errno := n.d.meet(c, n.path()); errno != 0 {
		return 0, errno
	}
	n.d.mu.Lock()
	defer n.d.mu.Unlock()
	if n.late() {
		return 0, syscall.EIO
	}
	if err := n.file.write(data, at); err != nil {
		return 0, fs.ToErrno(err)
	}
	return uint32(len(data)), 0
}

func (n *node) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno {
	errno := n.d.meet(callSync, n.path())
	n.d.mu.Lock()
	defer n.d.mu.Unlock()
	switch {
	case n.late():
		return syscall.EIO
	case n.file == nil && errno == 0:
		n.d.stats.DirSyncs++
		n.d.tree.syncDir(n.number)
	case errno == 0:
		n.d.stats.Syncs++
		errno = fs.ToErrno(n.file.sync())
	case n.file != nil:
		n.file.failSync()
	}
	return errno
}

// Allocate makes a file as large as is asked for; it keeps no space.
func (n *node) Allocate(_ context.Context, _ fs.FileHandle, at, size uint64, mode uint32) syscall.Errno {
	const keepSize = 1
	n.d.mu.Lock()
	grows := at+size > uint64(n.file.size)
	n.d.mu.Unlock()
	switch {
	case mode == keepSize || mode == 0 && !grows:
		return 0
	case mode == 0:
		return n.resize(int64(at + size))
	}
	return syscall.EOPNOTSUPP
}

// Statfs says how much room there is: plenty, since faults say when there is none.
func (n *node) Statfs(_ context.Context, out *fuse.StatfsOut) syscall.Errno {
	const blocks = 1 << 28
	out.Bsize, out.Frsize, out.NameLen = blockBytes, blockBytes, 255
	out.Blocks, out.Bfree, out.Bavail = blocks, blocks, blocks
	out.Files, out.Ffree = blocks, blocks
	return 0
}

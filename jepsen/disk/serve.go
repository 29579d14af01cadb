//go:build linux

package disk

import (
	"cmp"
	"errors"
	"path"
	"slices"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// cacheTime is how long the kernel may answer from what it was told of names and
// attributes: nobody but itself changes them while the disk is mounted.
const cacheTime = 24 * time.Hour

// serving answers the kernel. It holds no lock while a fault holds an operation,
// and never touches the mount, so that no operation waits for another one.
// What it does not have answers ENOSYS, after which the kernel does it by itself
// or does not ask again: flush among them, so that closing a file, even by an exec
// in this process, waits for nothing.
type serving struct {
	fuse.RawFileSystem
	d *Disk
	v *volume
}

// newServing answers for a disk.
func newServing(d *Disk) *serving {
	return &serving{RawFileSystem: fuse.NewDefaultRawFileSystem(), d: d, v: d.vol}
}

// String is the name of the file system.
func (s *serving) String() string { return "manykv-disk" }

// status is what the kernel is told of an error: what a disk would say if it is
// our store that failed.
func status(err error) fuse.Status {
	if err == nil {
		return fuse.OK
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return fuse.Status(errno)
	}
	return fuse.EIO
}

// strike lets an operation on ino, or on a name in it, meet the faults.
func (s *serving) strike(on On, ino uint64, name string) fuse.Status {
	return fuse.Status(s.d.faults.strike(on, func() string { return path.Join(s.v.path(ino), name) }))
}

// fillAttr describes a node. The caller holds volume.mu.
func (s *serving) fillAttr(n *node, out *fuse.Attr) {
	*out = fuse.Attr{Ino: n.ino, Mode: n.mode, Owner: fuse.Owner{Uid: n.uid, Gid: n.gid}, Blksize: blockSize}
	// A directory's count of 1 says that it does not count its directories.
	out.Nlink = 1
	if n.file != nil {
		out.Nlink = uint32(s.v.live.links[n.ino])
		out.Size = uint64(n.file.size.Load())
		out.Blocks = uint64(n.blocks() / sectorSize)
	}
	atime, mtime, ctime := time.Unix(0, n.atime.Load()), time.Unix(0, n.mtime.Load()), time.Unix(0, n.ctime.Load())
	out.SetTimes(&atime, &mtime, &ctime)
}

// enter tells the kernel of a node, which it may ask for by its number from then
// on, until it forgets it.
func (s *serving) enter(n *node, out *fuse.EntryOut) {
	s.v.mu.Lock()
	defer s.v.mu.Unlock()
	s.enterLocked(n, out)
}

func (s *serving) enterLocked(n *node, out *fuse.EntryOut) {
	n.lookups++
	out.NodeId = n.ino
	out.SetEntryTimeout(cacheTime)
	out.SetAttrTimeout(cacheTime)
	s.fillAttr(n, &out.Attr)
}

// Lookup finds a name in a directory.
func (s *serving) Lookup(_ <-chan struct{}, in *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	s.v.mu.Lock()
	defer s.v.mu.Unlock()
	n, err := s.v.find(in.NodeId, name)
	if err != nil {
		return status(err)
	}
	s.enterLocked(n, out)
	return fuse.OK
}

// Forget takes lookups back.
func (s *serving) Forget(ino, n uint64) {
	s.d.note(s.v.forget(ino, n))
}

// Mkdir makes a directory.
func (s *serving) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	_, st := s.create(&in.InHeader, name, syscall.S_IFDIR|in.Mode&^syscall.S_IFMT, out)
	return st
}

// create makes a file or directory.
func (s *serving) create(in *fuse.InHeader, name string, mode uint32, out *fuse.EntryOut) (*node, fuse.Status) {
	s.d.counts.names.Add(1)
	if st := s.strike(OnNames, in.NodeId, name); st != fuse.OK {
		return nil, st
	}
	n, err := s.v.create(in.NodeId, name, mode, in.Uid, in.Gid)
	if err != nil {
		return nil, status(err)
	}
	s.enter(n, out)
	return n, fuse.OK
}

// Link gives a file one name more.
func (s *serving) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	s.d.counts.names.Add(1)
	if st := s.strike(OnNames, in.NodeId, name); st != fuse.OK {
		return st
	}
	n, err := s.v.link(in.Oldnodeid, in.NodeId, name)
	if err != nil {
		return status(err)
	}
	s.enter(n, out)
	return fuse.OK
}

// Unlink removes a file's name.
func (s *serving) Unlink(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return s.remove(in, name, false)
}

// Rmdir removes a directory.
func (s *serving) Rmdir(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return s.remove(in, name, true)
}

func (s *serving) remove(in *fuse.InHeader, name string, isDir bool) fuse.Status {
	s.d.counts.names.Add(1)
	if st := s.strike(OnNames, in.NodeId, name); st != fuse.OK {
		return st
	}
	return status(s.v.remove(in.NodeId, name, isDir))
}

// Rename gives a file or directory another name. Faults match the old one.
func (s *serving) Rename(_ <-chan struct{}, in *fuse.RenameIn, name, toName string) fuse.Status {
	s.d.counts.names.Add(1)
	if in.Flags&^unix.RENAME_NOREPLACE != 0 {
		return fuse.EINVAL
	}
	if st := s.strike(OnNames, in.NodeId, name); st != fuse.OK {
		return st
	}
	return status(s.v.rename(in.NodeId, name, in.Newdir, toName, in.Flags&unix.RENAME_NOREPLACE == 0))
}

// OpenDir needs nothing: cookies say where a reader is.
func (s *serving) OpenDir(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status { return fuse.OK }

// ReadDir lists the entries after a cookie.
func (s *serving) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	s.v.mu.RLock()
	defer s.v.mu.RUnlock()
	list := []fuse.DirEntry{
		{Name: ".", Mode: syscall.S_IFDIR, Ino: in.NodeId, Off: dotCookie},
		{Name: "..", Mode: syscall.S_IFDIR, Off: dotDotCookie},
	}
	for name, e := range s.v.live.dirs[in.NodeId] {
		list = append(list, fuse.DirEntry{Name: name, Mode: s.v.nodes[e.ino].mode, Ino: e.ino, Off: e.cookie})
	}
	slices.SortFunc(list, func(a, b fuse.DirEntry) int { return cmp.Compare(a.Off, b.Off) })
	for _, e := range list {
		if e.Off > in.Offset && !out.AddDirEntry(e) {
			break
		}
	}
	return fuse.OK
}

// FsyncDir makes the operations on names durable up to the last one here.
func (s *serving) FsyncDir(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	s.d.counts.syncs.Add(1)
	if st := s.strike(OnSync, in.NodeId, ""); st != fuse.OK {
		return st
	}
	s.d.note(s.v.syncDir(in.NodeId))
	return fuse.OK
}

// StatFs says how big the disk is: the limit, or what there is for the store.
func (s *serving) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	var below syscall.Statfs_t
	if err := syscall.Statfs(s.v.store, &below); err != nil {
		return status(err)
	}
	out.FromStatfsT(&below)
	used, limit := s.v.space.state()
	if limit == 0 {
		return fuse.OK
	}
	out.Bsize, out.Frsize = blockSize, blockSize
	out.Blocks = uint64(limit / blockSize)
	out.Bfree = uint64(max(limit-used, 0) / blockSize)
	out.Bavail = out.Bfree
	return fuse.OK
}

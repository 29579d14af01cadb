//go:build linux

package disk

import (
	"math"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// openFlags: pages stay cached when a file is opened again, and closing it asks nothing.
const openFlags = fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_NOFLUSH

// GetAttr describes a file or directory.
func (s *serving) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	s.v.mu.RLock()
	defer s.v.mu.RUnlock()
	n := s.v.nodes[in.NodeId]
	if n == nil {
		return fuse.ENOENT
	}
	out.SetTimeout(cacheTime)
	s.fillAttr(n, &out.Attr)
	return fuse.OK
}

// SetAttr changes the mode, owner, times or size. All but the size is durable at once.
func (s *serving) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	n := s.v.get(in.NodeId)
	if n == nil {
		return fuse.ENOENT
	}
	if size, ok := in.GetSize(); ok {
		if st := s.truncate(n, size); st != fuse.OK {
			return st
		}
	}
	s.v.mu.Lock()
	defer s.v.mu.Unlock()
	if mode, ok := in.GetMode(); ok {
		n.mode = n.mode&syscall.S_IFMT | mode
	}
	if uid, ok := in.GetUID(); ok {
		n.uid = uid
	}
	if gid, ok := in.GetGID(); ok {
		n.gid = gid
	}
	if t, ok := in.GetATime(); ok {
		n.atime.Store(t.UnixNano())
	}
	if t, ok := in.GetMTime(); ok {
		n.mtime.Store(t.UnixNano())
	}
	if t, ok := in.GetCTime(); ok {
		n.ctime.Store(t.UnixNano())
	}
	out.SetTimeout(cacheTime)
	s.fillAttr(n, &out.Attr)
	return fuse.OK
}

// truncate sets the size of a file, open or not.
func (s *serving) truncate(n *node, size uint64) fuse.Status {
	s.d.counts.writes.Add(1)
	switch {
	case n.file == nil:
		return fuse.EISDIR
	case size > math.MaxInt64:
		return fuse.Status(syscall.EFBIG)
	}
	if st := s.strike(OnWrite, n.ino, ""); st != fuse.OK {
		return st
	}
	if err := n.file.open(); err != nil {
		return status(err)
	}
	err := n.file.truncate(int64(size))
	n.touch()
	s.d.note(n.file.close())
	return status(err)
}

// Create makes a file and opens it.
func (s *serving) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	n, st := s.create(&in.InHeader, name, syscall.S_IFREG|in.Mode&^syscall.S_IFMT, &out.EntryOut)
	if st != fuse.OK {
		return st
	}
	out.OpenFlags = openFlags
	return status(s.v.openFile(n))
}

// Open opens a file. The number of the file is all that later calls need.
func (s *serving) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	n := s.v.get(in.NodeId)
	if n == nil || n.file == nil {
		return fuse.ENOENT
	}
	out.OpenFlags = openFlags
	return status(s.v.openFile(n))
}

// Flush is not asked for again, by kernels that do not know openFlags.
func (s *serving) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.ENOSYS }

// Release closes a file. The kernel calls it when the last descriptor and mapping is gone.
func (s *serving) Release(_ <-chan struct{}, in *fuse.ReleaseIn) {
	if n := s.v.get(in.NodeId); n != nil {
		s.d.note(s.v.closeFile(n))
	}
}

// Read reads from what readers see.
func (s *serving) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	s.d.counts.reads.Add(1)
	n := s.v.get(in.NodeId)
	if st := s.strike(OnRead, in.NodeId, ""); st != fuse.OK {
		return nil, st
	}
	got, err := n.file.read(buf, int64(in.Offset))
	s.d.counts.bytesRead.Add(int64(got))
	return fuse.ReadResultData(buf[:got]), status(err)
}

// Write writes to what readers see. If the file was opened with O_SYNC or O_DSYNC,
// the kernel asks for a sync afterwards.
func (s *serving) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	s.d.counts.writes.Add(1)
	n := s.v.get(in.NodeId)
	if st := s.strike(OnWrite, in.NodeId, ""); st != fuse.OK {
		return 0, st
	}
	wrote, err := n.file.write(data, int64(in.Offset))
	n.touch()
	s.d.counts.bytesWritten.Add(int64(wrote))
	return uint32(wrote), status(err)
}

// Fsync makes a file's data and size durable.
func (s *serving) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	s.d.counts.syncs.Add(1)
	n := s.v.get(in.NodeId)
	if st := s.strike(OnSync, in.NodeId, ""); st != fuse.OK {
		n.file.failSync()
		return st
	}
	synced, err := n.file.sync()
	s.d.counts.bytesSynced.Add(synced)
	return status(err)
}

// Fallocate makes a file longer, or zeros a part of it.
func (s *serving) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	s.d.counts.writes.Add(1)
	if in.Offset > math.MaxInt64 || in.Length > math.MaxInt64-in.Offset {
		return fuse.Status(syscall.EFBIG)
	}
	n := s.v.get(in.NodeId)
	if st := s.strike(OnWrite, in.NodeId, ""); st != fuse.OK {
		return st
	}
	err := n.file.allocate(int64(in.Offset), int64(in.Offset+in.Length), in.Mode)
	n.touch()
	return status(err)
}

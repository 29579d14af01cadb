//go:build linux

package disk

import (
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const (
	fuseDevice = "/dev/fuse"
	// maxRequest is the most bytes of one read or write: what Linux allows at most.
	maxRequest = 1 << 20
	// maxBackground is how many reads ahead and writes of mappings the kernel keeps
	// in flight; the rest is not limited.
	maxBackground = 64
	// detachTime is how long the serving goroutines may take to end once the kernel
	// has let go of the mount. They end at once, unless somebody else unmounted it
	// and left it to programs that still have files open.
	detachTime = 10 * time.Second
	// pollName is a file that go-fuse has in every mount, see firstPoll.
	pollName = ".go-fuse-epoll-hack"
)

// mount is one mount of the disk; a power cut ends it and begins another, whose
// page cache is empty.
type mount struct {
	dir    string
	server *fuse.Server
	served chan struct{} // closed when no operation runs any more
	log    fuseLog
}

// fuseLog is what go-fuse has to say, until the mount is aborted: then every
// operation that still runs has nobody to answer, and go-fuse says so.
type fuseLog struct{ aborted atomic.Bool }

// Write writes to where package log does.
func (l *fuseLog) Write(p []byte) (int, error) {
	if l.aborted.Load() {
		return len(p), nil
	}
	return log.Writer().Write(p)
}

// newMount mounts the file system. go-fuse could mount by itself (DirectMount),
// but opens the device so that every child of this process inherits it:
// the mount would then outlive this process, and hang who uses it.
func newMount(dir string, serve fuse.RawFileSystem) (*mount, error) {
	fd, err := unix.Open(fuseDevice, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", fuseDevice, err)
	}
	options := fmt.Sprintf("fd=%d,rootmode=%o,user_id=0,group_id=0,max_read=%d,default_permissions,allow_other",
		fd, unix.S_IFDIR, maxRequest)
	if err := unix.Mount("manykv-disk", dir, "fuse.manykv-disk", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return nil, errors.Join(fmt.Errorf("mount %s: %w", dir, err), unix.Close(fd))
	}
	m := &mount{dir: dir, served: make(chan struct{})}
	// The server owns the device from here on.
	m.server, err = fuse.NewServer(serve, fmt.Sprintf("/dev/fd/%d", fd), &fuse.MountOptions{
		MaxWrite: maxRequest, MaxBackground: maxBackground,
		// Nothing changes the files but what the kernel sends and what we tell it of.
		ExplicitDataCacheControl: true,
		DisableXAttrs:            true, DisableReadDirPlus: true,
		Logger:       log.New(&m.log, "jepsen/disk: ", log.LstdFlags),
		PanicHandler: func(p any) fuse.Status { panic(p) }, // a bug of ours is not the disk's EIO
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("serve %s: %w", dir, err), unix.Unmount(dir, unix.MNT_DETACH))
	}
	go func() {
		defer close(m.served)
		m.server.Serve()
	}()
	if err := firstPoll(dir); err != nil {
		return nil, errors.Join(fmt.Errorf("first use of %s: %w", dir, err), m.abort())
	}
	return m, nil
}

// firstPoll makes the kernel learn that there is nothing to poll for. Otherwise
// Go's runtime, when this process opens a file of the mount, adds it to its epoll
// set with a call during which it would have to serve the answer.
func firstPoll(dir string) error {
	fd, err := unix.Open(filepath.Join(dir, pollName), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	_, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	return errors.Join(err, unix.Close(fd))
}

// abort ends the mount under whoever uses it. MNT_FORCE ends the connection to
// the kernel, and with it all operations and the serving goroutines, also if other
// mount namespaces have the mount too; MNT_DETACH takes the mount away although
// files are open.
func (m *mount) abort() error {
	m.log.aborted.Store(true)
	err := unix.Unmount(m.dir, unix.MNT_FORCE|unix.MNT_DETACH)
	if err != nil {
		err = fmt.Errorf("unmount %s: %w", m.dir, err)
	}
	late := time.NewTimer(detachTime)
	defer late.Stop()
	select {
	case <-m.served:
		return err
	case <-late.C:
		return errors.Join(err, fmt.Errorf("operations on %s still run after %s", m.dir, detachTime))
	}
}

// dropCache makes the kernel read the pages of a file again: those from off, n
// bytes, or all if n is negative. No lock may be held: it waits for reads.
func (m *mount) dropCache(ino uint64, off, n int64) error {
	switch status := m.server.InodeNotify(ino, off, n); status {
	case fuse.OK, fuse.ENOENT: // the kernel has nothing of it
		return nil
	default:
		return fmt.Errorf("drop cached pages of file %d: %w", ino, syscall.Errno(status))
	}
}

// checkMount says what is missing to mount there, and takes away a dead mount.
func checkMount(dir string) error {
	if err := missing(os.Geteuid(), fuseDevice); err != nil {
		return err
	}
	// stat(2) may be answered from what the kernel was told by the dead process.
	if err := unix.Statfs(dir, new(unix.Statfs_t)); errors.Is(err, syscall.ENOTCONN) {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("disk: unmount what a dead process left at %s: %w", dir, err)
		}
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("disk: mount point: %w", err)
	}
	if !info.IsDir() {
		return fmt.Errorf("disk: mount point %s is a file, want a directory", dir)
	}
	return nil
}

// missing says what a user lacks to mount with a device.
func missing(uid int, device string) error {
	if uid != 0 {
		return fmt.Errorf("%w: needs root to mount, the user id is %d", ErrUnavailable, uid)
	}
	if _, err := os.Stat(device); err != nil {
		return fmt.Errorf("%w: needs FUSE: %w", ErrUnavailable, err)
	}
	return nil
}

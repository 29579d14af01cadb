package raftlog

import (
	"errors"
	"os"
	"syscall"

	"github.com/hashicorp/raft-wal/types"
	"golang.org/x/sys/unix"
)

// syncData makes durable what was written to a file, and all that reading it takes,
// but not its times.
func syncData(f types.WritableFile) error {
	file, ok := f.(syscall.Conn)
	if !ok {
		return f.Sync()
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		for {
			if failed = unix.Fdatasync(int(fd)); !errors.Is(failed, unix.EINTR) { // as os.File.Sync does
				return
			}
		}
	})
	return errors.Join(err, os.NewSyscallError("fdatasync", failed))
}

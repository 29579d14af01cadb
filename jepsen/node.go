//go:build unix

package jepsen

import (
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Node is one node under test: a process with its address, its directory, and
// perhaps a disk that can fail.
type Node struct {
	*Process
	Addr string // host:port
	Dir  string // of its data
	Disk Disk   // under Dir; nil: the machine's own, on which nothing can be done
	// ClockFile holds by how much its wall clock is ahead, for builds that look there;
	// "" for others.
	ClockFile string
}

// Clock sets the node's wall clock ahead by a time.
func (n *Node) Clock(ahead time.Duration) error {
	next := n.ClockFile + ".next"
	if err := os.WriteFile(next, fmt.Appendf(nil, "%d", ahead.Nanoseconds()), 0o644); err != nil {
		return err
	}
	return os.Rename(next, n.ClockFile)
}

// wipe empties the node's directory. It must not run.
func (n *Node) wipe() error {
	entries, err := os.ReadDir(n.Dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(n.Dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

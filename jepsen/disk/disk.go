//go:build linux

package disk

import (
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Config says where a disk is. Mount and Store are required.
type Config struct {
	// Mount is the directory where programs see it.
	Mount string
	// Store is a directory of the machine's for its files; it is made, and must be
	// empty. It takes twice the space that programs use.
	Store string
	// Seed is where chance comes from.
	Seed uint64
}

// Disk is a file system that can fail.
type Disk struct {
	cfg Config

	mu     sync.Mutex // guards the fields below, and all nodes and files
	server *fuse.Server
	rand   *rand.Rand
	tree   *tree
	mounts int // so far: calls through an earlier one come too late
	faults []*fault
	clear  chan struct{} // closed when the faults are cleared
	stats  Stats
}

// Stats counts what was done to a disk, and by it.
type Stats struct {
	Writes, Syncs, DirSyncs, Failed, Delayed uint64
}

const fuseDevice = "/dev/fuse"

// Open makes an empty disk and mounts it. It needs root and /dev/fuse.
func Open(cfg Config) (*Disk, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("disk: mounting needs root")
	}
	if _, err := os.Stat(fuseDevice); err != nil {
		return nil, fmt.Errorf("disk: %w: the file system is served through FUSE", err)
	}
	d := &Disk{cfg: cfg, rand: rand.New(rand.NewPCG(cfg.Seed, 0)), clear: make(chan struct{})}
	if err := d.format(); err != nil {
		return nil, fmt.Errorf("disk: %w", err)
	}
	if err := d.mount(); err != nil {
		return nil, fmt.Errorf("disk: %w", errors.Join(err, d.tree.close()))
	}
	return d, nil
}

// format makes the store empty.
func (d *Disk) format() error {
	if err := os.RemoveAll(d.cfg.Store); err != nil {
		return err
	}
	if err := os.MkdirAll(d.cfg.Store, 0o700); err != nil {
		return err
	}
	d.tree = newTree(d.cfg.Store)
	return nil
}

// mount serves the tree as it is now.
func (d *Disk) mount() error {
	const cached = time.Hour // nobody else changes anything
	timeout := cached
	d.mu.Lock()
	d.mounts++
	root := &node{d: d, mount: d.mounts, number: rootNumber}
	d.mu.Unlock()
	server, err := fs.Mount(d.cfg.Mount, root, &fs.Options{
		EntryTimeout: &timeout, AttrTimeout: &timeout,
		Logger: log.New(io.Discard, "", 0),
		MountOptions: fuse.MountOptions{
			DirectMountStrict: true, FsName: "manykv-jepsen", Name: "jepsen", DisableXAttrs: true, MaxWrite: maxWrite, Logger: log.New(io.Discard, "", 0),
		},
	})
	if err != nil {
		return fmt.Errorf("mount %s: %w", d.cfg.Mount, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.server = server
	return nil
}

// maxWrite is the largest write that comes in one call.
const maxWrite = 1 << 20

// unmount ends serving. Programs that still have files open get errors.
func (d *Disk) unmount() error {
	d.mu.Lock()
	server := d.server
	d.server = nil
	d.mounts++
	d.mu.Unlock()
	if server == nil {
		return nil
	}
	d.ClearFaults() // nothing may hang in a call
	if err := unix.Unmount(d.cfg.Mount, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount %s: %w", d.cfg.Mount, err)
	}
	return nil
}

// Wipe makes the disk empty, as if it was replaced. No program may use it.
func (d *Disk) Wipe() error {
	err := d.unmount()
	d.mu.Lock()
	err = errors.Join(err, d.tree.close())
	if err == nil {
		err = d.format()
	}
	d.mu.Unlock()
	if err == nil {
		err = d.mount()
	}
	if err != nil {
		return fmt.Errorf("disk: wipe: %w", err)
	}
	return nil
}

// Stats returns what was counted so far.
func (d *Disk) Stats() Stats {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stats
}

// Close unmounts the disk, also if a program still has files open. The store stays.
func (d *Disk) Close() error {
	err := d.unmount()
	d.mu.Lock()
	defer d.mu.Unlock()
	return errors.Join(err, d.tree.close())
}

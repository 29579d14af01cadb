//go:build linux

package disk

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
)

const (
	// liveDir and durableDir are the folders of a store.
	liveDir, durableDir = "live", "durable"
	// flipStream keeps the random numbers of FlipBits apart from those of the files of
	// power cuts, whose stream is a number of a cut and of a file, each below it.
	flipStream = 1 << 63
	cutShift   = 40
)

var (
	// ErrUnavailable: this machine or user cannot mount the disk. The error says what
	// is missing; a test is skipped.
	ErrUnavailable = errors.New("disk: not available")
	// ErrClosed: the disk was closed, or a power cut of it failed.
	ErrClosed = errors.New("disk: closed")
)

// Config says where the disk is.
type Config struct {
	// Mount is an existing directory, on which the disk is mounted.
	Mount string
	// Store is where the files are kept, outside of Mount: a directory that is empty,
	// or not there yet. It takes up to twice what the programs write. Close deletes
	// what is in it.
	Store string
	// Seed makes all random choices; 0 is a seed like others.
	Seed uint64
	// Limit is the size of the disk in bytes, see [Disk.SetLimit]; 0: as much as there
	// is where Store is.
	Limit int64
}

// validate says what is wrong with the configuration, and makes its paths absolute.
func (c *Config) validate() error {
	if c.Mount == "" || c.Store == "" {
		return fmt.Errorf("disk: Mount is %q and Store is %q, want two directories", c.Mount, c.Store)
	}
	if c.Limit < 0 {
		return fmt.Errorf("disk: Limit is %d, want 0 (none) or more", c.Limit)
	}
	for _, path := range []*string{&c.Mount, &c.Store} {
		abs, err := filepath.Abs(*path)
		if err != nil {
			return fmt.Errorf("disk: %s: %w", *path, err)
		}
		*path = abs
	}
	if strings.HasPrefix(c.Store+"/", c.Mount+"/") {
		// Serving the mount would wait for itself.
		return fmt.Errorf("disk: Store %s is below Mount %s, want it elsewhere", c.Store, c.Mount)
	}
	return nil
}

// Disk is a mounted file system. Its methods may be called by several goroutines.
type Disk struct {
	cfg    Config
	vol    *volume
	faults faults
	counts counters

	// life is held while the mount is used or changed, and taken before all other
	// locks. PowerCut and Close stop the faults before they take it, so that
	// nothing that waits for an operation keeps it.
	life   sync.Mutex
	closed bool
	mount  *mount // nil: closed, or a power cut failed
	cuts   uint64
	flips  *rand.Rand

	noted atomic.Pointer[error] // see note
}

// Open mounts an empty disk.
func Open(cfg Config) (*Disk, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if err := checkMount(cfg.Mount); err != nil {
		return nil, err
	}
	if err := makeStore(cfg.Store); err != nil {
		return nil, err
	}
	d := &Disk{cfg: cfg, vol: newVolume(cfg.Store, cfg.Limit), flips: rand.New(rand.NewPCG(cfg.Seed, flipStream))}
	d.faults.init()
	m, err := newMount(cfg.Mount, newServing(d))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("disk: %w", err), removeStore(cfg.Store))
	}
	d.mount = m
	return d, nil
}

// makeStore makes the folders of the store.
func makeStore(store string) error {
	if err := os.MkdirAll(store, 0o700); err != nil {
		return fmt.Errorf("disk: store: %w", err)
	}
	if there, err := os.ReadDir(store); err != nil || len(there) > 0 {
		return errors.Join(fmt.Errorf("disk: store %s has %d entries, want an empty directory", store, len(there)), err)
	}
	for _, dir := range []string{liveDir, durableDir} {
		if err := os.Mkdir(filepath.Join(store, dir), 0o700); err != nil {
			return fmt.Errorf("disk: store: %w", err)
		}
	}
	return nil
}

// removeStore removes the folders of the store.
func removeStore(store string) error {
	return errors.Join(os.RemoveAll(filepath.Join(store, liveDir)), os.RemoveAll(filepath.Join(store, durableDir)))
}

// PowerCut loses what was not durable, see the package's promises, and mounts
// what is left. The programs that used the disk should be dead: one that is not
// sees ENOTCONN on all its files. Faults stay as they are, except that the operations
// they hold fail. After an error the disk is of no use any more, except to close it.
func (d *Disk) PowerCut() (Lost, error) {
	d.faults.stop()
	defer d.faults.resume()
	d.life.Lock()
	defer d.life.Unlock()
	if d.mount == nil {
		return Lost{}, ErrClosed
	}
	if err := d.mount.abort(); err != nil {
		return Lost{}, fmt.Errorf("disk: power cut: %w", err)
	}
	d.mount = nil
	d.cuts++
	cut := d.cuts << cutShift
	lost, err := d.vol.cut(func(ino uint64) *rand.Rand { return rand.New(rand.NewPCG(d.cfg.Seed, cut|ino)) })
	if err != nil {
		return lost, fmt.Errorf("disk: %w", err)
	}
	if d.mount, err = newMount(d.cfg.Mount, newServing(d)); err != nil {
		return lost, fmt.Errorf("disk: after a power cut: %w", err)
	}
	return lost, nil
}

// SetFault makes the disk do something wrong from now on, besides what it does
// wrong already. An operation meets the faults in the order in which they were set, until one
// fails it.
func (d *Disk) SetFault(f Fault) error {
	if err := f.validate(); err != nil {
		return err
	}
	d.faults.add(f)
	if f.On&OnRead == 0 {
		return nil
	}
	d.life.Lock()
	defer d.life.Unlock()
	if d.mount == nil {
		return ErrClosed
	}
	for _, n := range d.vol.files(f.Match) {
		if err := d.mount.dropCache(n.ino, 0, -1); err != nil {
			return fmt.Errorf("disk: fault on reads: %w", err)
		}
	}
	return nil
}

// SetLimit makes the disk so big, 0 for no limit. What is there stays if it is
// more. A file takes its size in blocks of 4 KiB, holes included, and one block more, as a directory does.
// Without room programs get ENOSPC, or a short write.
func (d *Disk) SetLimit(bytes int64) error {
	if bytes < 0 {
		return fmt.Errorf("disk: limit of %d bytes, want 0 (none) or more", bytes)
	}
	d.vol.space.setLimit(bytes)
	return nil
}

// ClearFaults ends all faults, also the limit if it was set by SetLimit, and
// lets the operations that hang or wait go on.
func (d *Disk) ClearFaults() {
	d.faults.clear()
	d.vol.space.setLimit(d.cfg.Limit)
}

// note keeps the first error of the store that no operation can be told of, such
// as that of closing a file, for Close to return.
func (d *Disk) note(err error) {
	if err != nil {
		d.noted.CompareAndSwap(nil, &err)
	}
}

// Close unmounts the disk, also under programs that have files open, and deletes
// the store. It can be called again.
func (d *Disk) Close() error {
	d.faults.stop()
	d.life.Lock()
	defer d.life.Unlock()
	if d.closed {
		return nil // the store may be another disk's by now
	}
	d.closed = true
	var err error
	if d.mount != nil {
		err = d.mount.abort()
		d.mount = nil
	}
	if noted := d.noted.Swap(nil); noted != nil {
		err = errors.Join(err, *noted)
	}
	if err := errors.Join(err, d.vol.close(), removeStore(d.cfg.Store)); err != nil {
		return fmt.Errorf("disk: close: %w", err)
	}
	return nil
}

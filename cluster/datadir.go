package cluster

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"syscall"

	"github.com/manykv/manykv/sharding"
)

// identityVersion is the version of the identity file.
const identityVersion = 1

// identity is who a data directory is. It is written before anything is
// answered that depends on it.
type identity struct {
	Version int             `json:"version"`
	Node    sharding.NodeID `json:"node"`
	// Storage is random: a directory that lost its contents gets another, so
	// that it is nobody's voter any more.
	Storage uint64 `json:"storage"`
	// ResetKey lets peers of a restarted process learn at once that their
	// connections are gone (QUIC stateless reset).
	ResetKey [32]byte `json:"reset_key"`
	// Promise is the founding this node agreed to; nil if none.
	Promise *founding `json:"promise,omitempty"`
	// Founded says that the promise was kept: the node is of that cluster.
	Founded bool `json:"founded"`
}

// founding is what the nodes of a new cluster agree on.
type founding struct {
	Cluster  uint64          `json:"cluster"`
	Nodes    []sharding.Node `json:"nodes"` // sorted; the first proposed it
	Shards   int             `json:"shards"`
	Replicas int             `json:"replicas"`
}

// dataDir is the node's directory, locked.
type dataDir struct {
	path string
	lock *os.File
	id   identity // guarded by Node.promising once the node is open
}

const (
	lockFile     = "LOCK"
	identityFile = "identity.json"
	journalDir   = "journal" // made by package raftlog
	votesFile    = "votes.db"
	storeDir     = "store"
)

// storeFiles are there from a node's first start on.
var storeFiles = []string{journalDir, votesFile, storeDir}

// openDataDir locks the directory and reads, or makes, its identity.
func openDataDir(path string, node sharding.NodeID) (*dataDir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	lock, err := lockDataDir(path)
	if err != nil {
		return nil, err
	}
	d := &dataDir{path: path, lock: lock}
	if err := d.load(node); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return d, nil
}

// lockDataDir keeps other processes out of the directory until the file is closed.
func lockDataDir(path string) (*os.File, error) {
	lock, err := os.OpenFile(filepath.Join(path, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		err = fmt.Errorf("data directory %s is in use by another process (%s is locked: %w)", path, lockFile, err)
		return nil, errors.Join(err, lock.Close())
	}
	return lock, nil
}

func (d *dataDir) close() error { return d.lock.Close() }

func (d *dataDir) sub(name string) string { return filepath.Join(d.path, name) }

// load reads the identity; a directory without one gets a new one, if nothing
// else is in it.
func (d *dataDir) load(node sharding.NodeID) error {
	b, err := os.ReadFile(d.sub(identityFile))
	if errors.Is(err, os.ErrNotExist) {
		return d.create(node)
	}
	if err != nil {
		return fmt.Errorf("identity of the data directory: %w", err)
	}
	if d.id, err = decodeIdentity(b); err != nil {
		return fmt.Errorf("identity of the data directory, %s: %w", d.sub(identityFile), err)
	}
	if d.id.Founded {
		for _, name := range storeFiles {
			if _, err := os.Stat(d.sub(name)); err != nil {
				return fmt.Errorf("data directory %s has lost %s: it was damaged; restore it whole, or start with an empty one as a new node", d.path, name)
			}
		}
	}
	if d.id.Node != node {
		return fmt.Errorf("data directory %s belongs to node %q, this is node %q", d.path, d.id.Node, node)
	}
	return nil
}

func (d *dataDir) create(node sharding.NodeID) error {
	for _, name := range storeFiles {
		if _, err := os.Stat(d.sub(name)); err == nil {
			return fmt.Errorf("data directory %s has %s but no %s: it was damaged; restore it whole, or start with an empty one as a new node", d.path, name, identityFile)
		}
	}
	id := identity{Version: identityVersion, Node: node}
	var random [8]byte
	rand.Read(random[:]) // never fails: it ends the process instead
	rand.Read(id.ResetKey[:])
	id.Storage = binary.BigEndian.Uint64(random[:])
	return d.save(id)
}

// save makes id durable, then uses it.
func (d *dataDir) save(id identity) error {
	b, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return fmt.Errorf("identity of the data directory: %w", err)
	}
	b = append(b, fmt.Sprintf("\ncrc32c %08x\n", crc32.Checksum(b, castagnoli))...)
	if err := writeDurably(d.sub(identityFile), b); err != nil {
		return fmt.Errorf("identity of the data directory: %w", err)
	}
	d.id = id
	return nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// trailer is the length of "\ncrc32c 01234567\n".
const trailer = 17

// decodeIdentity checks the checksum and reads the identity.
func decodeIdentity(b []byte) (identity, error) {
	var id identity
	if len(b) < trailer {
		return id, fmt.Errorf("it has %d bytes: truncated", len(b))
	}
	body, sum := b[:len(b)-trailer], string(b[len(b)-trailer:])
	if want := fmt.Sprintf("\ncrc32c %08x\n", crc32.Checksum(body, castagnoli)); sum != want {
		return id, fmt.Errorf("its checksum is %q, want %q: damaged", sum, want)
	}
	if err := json.Unmarshal(body, &id); err != nil {
		return id, err
	}
	if id.Version != identityVersion {
		return id, fmt.Errorf("version %d, want %d", id.Version, identityVersion)
	}
	if id.Founded && id.Promise == nil {
		return id, errors.New("it says founded but not what")
	}
	return id, nil
}

// writeDurably replaces a file so that after a crash it holds the old or the
// new bytes.
func writeDurably(path string, b []byte) error {
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

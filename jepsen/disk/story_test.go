//go:build linux

package disk

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// story is a volume without a mount, and verbs to tell what happens to it.
type story struct {
	t *testing.T
	v *volume
}

// tell begins with an empty volume.
func tell(t *testing.T) *story {
	t.Helper()
	store := filepath.Join(t.TempDir(), "store")
	must(t, makeStore(store))
	s := &story{t: t, v: newVolume(store, 0)}
	t.Cleanup(func() { must(t, s.v.close()) })
	return s
}

// must fails the test if there is an error.
func must(t interface {
	Helper()
	Fatal(args ...any)
}, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// node is what has a path, or nil.
func (s *story) node(p string) *node {
	n := s.v.nodes[rootIno]
	for name := range strings.SplitSeq(p, "/") {
		if name == "." {
			continue
		}
		s.v.mu.RLock()
		next, err := s.v.find(n.ino, name)
		s.v.mu.RUnlock()
		if err != nil {
			return nil
		}
		n = next
	}
	return n
}

func (s *story) dir(p string) uint64 {
	s.t.Helper()
	n := s.node(path.Dir(p))
	if n == nil {
		s.t.Fatalf("no directory for %s", p)
	}
	return n.ino
}

func (s *story) create(p string) {
	s.t.Helper()
	n, err := s.v.create(s.dir(p), path.Base(p), syscall.S_IFREG|0o644, 0, 0)
	must(s.t, err)
	must(s.t, s.v.openFile(n))
}

func (s *story) mkdir(p string) {
	s.t.Helper()
	_, err := s.v.create(s.dir(p), path.Base(p), syscall.S_IFDIR|0o755, 0, 0)
	must(s.t, err)
}

func (s *story) link(from, to string) {
	s.t.Helper()
	_, err := s.v.link(s.node(from).ino, s.dir(to), path.Base(to))
	must(s.t, err)
}

func (s *story) remove(p string) {
	s.t.Helper()
	must(s.t, s.v.remove(s.dir(p), path.Base(p), s.node(p).file == nil))
}

func (s *story) rename(from, to string) {
	s.t.Helper()
	must(s.t, s.v.rename(s.dir(from), path.Base(from), s.dir(to), path.Base(to), true))
}

// write writes n bytes of c at off.
func (s *story) write(p string, off int64, c byte, n int) {
	s.t.Helper()
	wrote, err := s.node(p).file.write(bytes.Repeat([]byte{c}, n), off)
	if err != nil || wrote != n {
		s.t.Fatalf("wrote %d of %d bytes: %v", wrote, n, err)
	}
}

func (s *story) truncate(p string, size int64) {
	s.t.Helper()
	must(s.t, s.node(p).file.truncate(size))
}

func (s *story) sync(p string) {
	s.t.Helper()
	n := s.node(p)
	if n.file == nil {
		must(s.t, s.v.syncDir(n.ino))
		return
	}
	_, err := n.file.sync()
	must(s.t, err)
}

// cut cuts the power, and checks that both copies are one afterwards.
func (s *story) cut(seed uint64) Lost {
	s.t.Helper()
	lost, err := s.v.cut(func(ino uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, ino)) })
	must(s.t, err)
	for _, n := range s.v.nodes {
		if n.file == nil {
			continue
		}
		live, err := os.ReadFile(n.file.livePath)
		must(s.t, err)
		durable, err := os.ReadFile(n.file.durablePath)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			s.t.Fatal(err)
		}
		if !bytes.Equal(live, durable) || int64(len(live)) != n.file.size.Load() {
			s.t.Fatalf("seed %d: readers see %s, durable is %s, the size is %d", seed, shape(live), shape(durable), n.file.size.Load())
		}
	}
	if blocks, names := s.v.unsynced(); blocks != 0 || names != 0 {
		s.t.Fatalf("seed %d: %d blocks and %d names are not durable after the cut, want none", seed, blocks, names)
	}
	return lost
}

// shape writes a file's bytes as runs of sectors: "a8 _2 b1" is 8 sectors of a,
// two of zeros and one of b; a part of a sector has a plus. A file that is not there is "none".
func (s *story) shape(p string) string {
	s.t.Helper()
	n := s.node(p)
	if n == nil {
		return "none"
	}
	must(s.t, n.file.open())
	defer n.file.close()
	data := make([]byte, n.file.size.Load())
	_, err := n.file.read(data, 0)
	must(s.t, err)
	return shape(data)
}

// checkStore compares the files in the store with the nodes, and the room they
// take with the room that is taken.
func (s *story) checkStore() {
	s.t.Helper()
	for _, dir := range []string{liveDir, durableDir} {
		there, err := os.ReadDir(filepath.Join(s.v.store, dir))
		must(s.t, err)
		for _, f := range there {
			ino, err := strconv.ParseUint(f.Name(), 10, 64)
			must(s.t, err)
			if s.v.nodes[ino] == nil {
				s.t.Fatalf("file %d is in %s, but nobody can see it", ino, dir)
			}
		}
	}
	want := int64(0)
	for _, n := range s.v.nodes {
		if n.ino != rootIno && !n.gone {
			want += blockSize + n.blocks()
		}
	}
	if got, _ := s.v.space.state(); got != want {
		s.t.Fatalf("%d bytes are taken, want %d", got, want)
	}
}

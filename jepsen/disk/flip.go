//go:build linux

package disk

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
)

// Flip is a bit that was flipped.
type Flip struct {
	Path   string // below the mount
	Offset int64
	Bit    uint8 // 0 is the lowest

	ino uint64
}

// FlipBits flips n different bits at random places in the files that match, see
// [Fault]; each byte of them is as likely as any other. What is durable is flipped
// too, and readers see the bits at once, those that map a file as well. If the files have fewer than n bits, or
// none matches, it is an error and nothing is flipped.
func (d *Disk) FlipBits(match string, n int) ([]Flip, error) {
	if err := checkPattern(match); err != nil {
		return nil, err
	}
	d.life.Lock()
	defer d.life.Unlock()
	if d.mount == nil {
		return nil, ErrClosed
	}
	flips, err := d.vol.flip(d.flips, match, n)
	if err != nil {
		return flips, fmt.Errorf("disk: flip bits: %w", err)
	}
	for _, flip := range flips {
		if err := d.mount.dropCache(flip.ino, flip.Offset, 1); err != nil {
			return flips, fmt.Errorf("disk: flip bits: %w", err)
		}
	}
	return flips, nil
}

// flip chooses the bits and flips them.
func (v *volume) flip(r *rand.Rand, match string, n int) ([]Flip, error) {
	nodes := v.files(match)
	v.mu.RLock() // so that none is deleted meanwhile
	defer v.mu.RUnlock()
	var ends []int64 // of each file, as if they stood one after the other
	total := int64(0)
	for _, node := range nodes {
		total += node.file.size.Load()
		ends = append(ends, total)
	}
	if n < 0 || int64(n) > 8*total {
		return nil, fmt.Errorf("%d bits in %d files that match %q, with %d bytes", n, len(nodes), match, total)
	}
	var flips []Flip
	for chosen := map[int64]bool{}; len(flips) < n; {
		at := r.Int64N(8 * total)
		if chosen[at] {
			continue
		}
		chosen[at] = true
		i, begin := 0, int64(0)
		for ; ends[i] <= at/8; i++ {
			begin = ends[i]
		}
		flips = append(flips, Flip{Path: v.pathLocked(nodes[i].ino), Offset: at/8 - begin, Bit: uint8(at % 8), ino: nodes[i].ino})
		if err := nodes[i].file.flip(at/8-begin, 1<<(at%8)); err != nil {
			return flips, fmt.Errorf("%s at %d: %w", flips[len(flips)-1].Path, at/8-begin, err)
		}
	}
	return flips, nil
}

// flip flips the bits of a byte, in both copies. Nothing becomes dirty by it.
func (f *file) flip(off int64, bits byte) (err error) {
	if err := f.open(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.close()) }()
	f.mu.Lock()
	defer f.mu.Unlock()
	if off >= f.size.Load() {
		return nil // truncated since
	}
	if err := flipByte(f.live, off, bits); err != nil {
		return err
	}
	if off >= f.durableSize {
		return nil
	}
	if err := f.openDurable(); err != nil {
		return err
	}
	return flipByte(f.durable, off, bits)
}

// flipByte flips bits of one byte of a file.
func flipByte(f *os.File, off int64, bits byte) error {
	var b [1]byte
	if _, err := f.ReadAt(b[:], off); err != nil {
		return err
	}
	b[0] ^= bits
	_, err := f.WriteAt(b[:], off)
	return err
}

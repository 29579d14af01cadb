//go:build linux

package disk

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
)

// Chances of a power cut. That nothing or everything survived must come up
// although there may be thousands of blocks and names.
const (
	noneIn, allIn = 4, 4 // one file in so many loses, or keeps, all that was not synced; likewise the names
	tornIn        = 8    // of the others' blocks one in so many is torn
)

// Lost says what a power cut took and left of what was not durable.
type Lost struct {
	Names       Tally // operations on names
	Truncations Tally
	Blocks      Tally // whole blocks of 4 KiB
	Torn        int64 // blocks of which some sectors of 512 bytes survived
	Bytes       Tally
}

// Tally counts what was lost and what was kept.
type Tally struct{ Lost, Kept int64 }

// count counts n as kept or lost.
func (t *Tally) count(n int64, kept bool) {
	if kept {
		t.Kept += n
	} else {
		t.Lost += n
	}
}

// String is for the logs of a test.
func (l Lost) String() string {
	return fmt.Sprintf("lost %d names, %d truncations, %d blocks (%d B); kept %d, %d, %d (%d B); %d blocks torn",
		l.Names.Lost, l.Truncations.Lost, l.Blocks.Lost, l.Bytes.Lost,
		l.Names.Kept, l.Truncations.Kept, l.Blocks.Kept, l.Bytes.Kept, l.Torn)
}

// share is a chance that is 0, 1, or anything between.
func share(r *rand.Rand) float64 {
	switch {
	case r.IntN(noneIn) == 0:
		return 0
	case r.IntN(allIn) == 0:
		return 1
	}
	return r.Float64()
}

// cut leaves what a power cut would leave. Nobody uses the volume meanwhile, and
// the kernel has forgotten all of it. random is the source for one number: a
// file's or, for the names, the root's.
func (v *volume) cut(random func(ino uint64) *rand.Rand) (lost Lost, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	r := random(rootIno)
	survived := int(share(r) * float64(len(v.journal)+1)) // a chance of 1 is one too many
	survived = min(survived, len(v.journal))
	lost.Names = Tally{Lost: int64(len(v.journal) - survived), Kept: int64(survived)}
	for i := range v.journal[:survived] {
		v.durable.apply(&v.journal[i])
	}
	v.journal, v.live = nil, v.durable.clone()
	clear(v.pending)

	used := int64(0)
	for _, ino := range slices.Sorted(maps.Keys(v.nodes)) {
		n := v.nodes[ino]
		n.lookups, n.open, n.gone = 0, 0, false
		if err := v.cutNode(n, random(ino), &lost); err != nil {
			return lost, fmt.Errorf("power cut of file %d (%s): %w", ino, v.pathLocked(ino), err)
		}
		if ino != rootIno && v.nodes[ino] != nil {
			used += blockSize + n.blocks()
		}
	}
	v.space.setUsed(used)
	for dir, names := range v.live.dirs {
		for name, e := range names {
			v.nodes[e.ino].parent, v.nodes[e.ino].name = dir, name
		}
	}
	return lost, nil
}

// cutNode leaves of one node what a power cut would. The caller holds mu.
func (v *volume) cutNode(n *node, r *rand.Rand, lost *Lost) error {
	if !v.durable.has(n.ino) {
		if n.file != nil {
			n.file.countLost(lost)
		}
		return v.reap(n.ino)
	}
	if n.file == nil {
		return nil
	}
	return n.file.cut(r, lost)
}

// countLost counts what was not durable of a file whose name is lost.
func (f *file) countLost(lost *Lost) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dirty.addAll(f.failed)
	if f.low < f.durableSize {
		lost.Truncations.Lost++
	}
	for first, last := range f.dirty.runs() {
		lost.Blocks.Lost += last - first
		lost.Bytes.Lost += min(last*blockSize, f.size.Load()) - first*blockSize
	}
}

// cut leaves what a power cut would, in both copies of the file.
func (f *file) cut(r *rand.Rand, lost *Lost) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.users = 0
	if f.synced() {
		return f.closeFiles()
	}
	if err := errors.Join(f.openLive(), f.openDurable()); err != nil {
		return err
	}
	f.dirty.addAll(f.failed)
	clear(f.failed)
	// What was written beyond the end of a truncated file stands in new blocks,
	// which are not the file's if the truncation is lost.
	size, limit := f.size.Load(), f.size.Load()
	short := f.low < f.durableSize
	keepShort := short && r.IntN(2) == 0
	switch {
	case keepShort:
		lost.Truncations.Kept++
		if err := f.truncateDurable(); err != nil {
			return err
		}
	case short:
		lost.Truncations.Lost++
		limit = f.low
	}
	end, err := f.cutBlocks(r, limit, lost)
	if err != nil {
		return err
	}
	// A size may be durable before the blocks below it are.
	if (keepShort || !short) && r.IntN(2) == 0 {
		end = max(end, size)
	}
	f.durableSize = max(f.durableSize, end)
	if err := f.durable.Truncate(f.durableSize); err != nil {
		return fmt.Errorf("set the size that survived: %w", err)
	}
	return errors.Join(f.showDurable(short && !keepShort), f.closeFiles())
}

// cutBlocks makes some of the dirty sectors before limit durable, and says where
// the last one ends. The caller holds mu.
func (f *file) cutBlocks(r *rand.Rand, limit int64, lost *Lost) (end int64, err error) {
	size, chance := f.size.Load(), share(r)
	for first, last := range f.dirty.runs() {
		for block := first; block < last; block++ {
			sectors := survivors(r, chance)
			kept, all := int64(0), int64(0)
			for at, n := block*blockSize, uint8(1); n != 0 && at < size; at, n = at+sectorSize, n<<1 {
				to := min(at+sectorSize, size)
				all += to - at
				// Where a truncation is lost, the sector it cut is the old one: its new
				// part would stand beside old bytes otherwise.
				if sectors&n == 0 || to > limit || limit < f.durableSize && at+sectorSize > limit {
					continue
				}
				if _, err := copyRange(f.durable, f.live, at, to); err != nil {
					return end, fmt.Errorf("keep what survived: %w", err)
				}
				kept += to - at
				end = to
			}
			lost.countBlock(kept, all)
		}
	}
	return end, nil
}

// survivors are the sectors of a block that survive, a bit each.
func survivors(r *rand.Rand, chance float64) uint8 {
	switch {
	case chance > 0 && chance < 1 && r.IntN(tornIn) == 0:
		return uint8(r.IntN(1 << (blockSize / sectorSize)))
	case r.Float64() < chance:
		return ^uint8(0)
	}
	return 0
}

// countBlock counts a block of which so many bytes survived, of all it has.
func (l *Lost) countBlock(kept, all int64) {
	l.Bytes.Kept += kept
	l.Bytes.Lost += all - kept
	if kept > 0 && kept < all {
		l.Torn++
		return
	}
	l.Blocks.count(1, kept > 0)
}

// showDurable makes what readers see what is durable. If a truncation was lost,
// the bytes that it had taken from the readers are there again. The caller holds mu.
func (f *file) showDurable(untruncated bool) error {
	if err := f.live.Truncate(f.durableSize); err != nil {
		return fmt.Errorf("show the size that survived: %w", err)
	}
	if untruncated {
		first, _ := blocksOf(f.low, f.low)
		_, last := blocksOf(f.low, f.durableSize)
		f.dirty.add(first, last)
	}
	for first, last := range f.dirty.runs() {
		if _, err := copyRange(f.live, f.durable, first*blockSize, min(last*blockSize, f.durableSize)); err != nil {
			return fmt.Errorf("show what survived: %w", err)
		}
	}
	f.size.Store(f.durableSize)
	f.low = f.durableSize
	clear(f.dirty)
	return nil
}

//go:build linux

package disk

import (
	"iter"
	"maps"
	"math/bits"
	"slices"
)

const (
	// blockSize is what a file system writes as one: a page.
	blockSize = 4096
	// sectorSize is what a disk writes as one. A block may be torn between sectors.
	sectorSize = 512
	// wordBlocks is how many blocks one word of a blockSet stands for.
	wordBlocks = 64
)

// blockSet is a set of a file's blocks: a bit each, in words by their number.
// It takes room for what is in it, however far apart.
type blockSet map[int64]uint64

// blocksOf are the blocks that the bytes from off up to end touch.
func blocksOf(off, end int64) (first, last int64) {
	return off / blockSize, (end + blockSize - 1) / blockSize
}

// mask has the bits of the blocks from first up to last that are in word w.
func mask(w, first, last int64) uint64 {
	from, to := max(first-w*wordBlocks, 0), min(last-w*wordBlocks, wordBlocks)
	if from >= to {
		return 0
	}
	return (^uint64(0) >> (wordBlocks - (to - from))) << from
}

// add puts the blocks from first up to last into the set.
func (s blockSet) add(first, last int64) {
	for w := first / wordBlocks; w*wordBlocks < last; w++ {
		s[w] |= mask(w, first, last)
	}
}

// remove takes the blocks from first up to last out.
func (s blockSet) remove(first, last int64) {
	if len(s) == 0 {
		return
	}
	for w := first / wordBlocks; w*wordBlocks < last; w++ {
		s.keep(w, ^mask(w, first, last))
	}
}

// removeFrom takes out first and all blocks after it.
func (s blockSet) removeFrom(first int64) {
	for w := range s {
		s.keep(w, mask(w, 0, first))
	}
}

// keep takes out the blocks of word w that are not in bits.
func (s blockSet) keep(w int64, bits uint64) {
	if left := s[w] & bits; left != 0 {
		s[w] = left
	} else {
		delete(s, w)
	}
}

// addAll puts the blocks of other in too.
func (s blockSet) addAll(other blockSet) {
	for w, bits := range other {
		s[w] |= bits
	}
}

// len is how many blocks are in the set.
func (s blockSet) len() (n int64) {
	for _, word := range s {
		n += int64(bits.OnesCount64(word))
	}
	return n
}

// runs yields the blocks in ascending order as runs, from the first up to the
// last. A run ends with its word at the latest.
func (s blockSet) runs() iter.Seq2[int64, int64] {
	return func(yield func(first, last int64) bool) {
		for _, w := range slices.Sorted(maps.Keys(s)) {
			word := s[w]
			for at := int64(0); word != 0; {
				skip := int64(bits.TrailingZeros64(word))
				n := int64(bits.TrailingZeros64(^(word >> skip)))
				at += skip
				if !yield(w*wordBlocks+at, w*wordBlocks+at+n) {
					return
				}
				at += n
				if skip+n == wordBlocks {
					break
				}
				word >>= skip + n
			}
		}
	}
}

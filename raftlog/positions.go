package raftlog

import (
	"fmt"
	"slices"
)

// position says where in the journal an entry is.
type position struct {
	record uint64
	offset uint32
}

// positions are where the entries of one replica are: at[i] is that of index
// first+i. doc.go says what an append that does not continue the log means.
type positions struct {
	first uint64 // meaningless while at is empty
	at    []position
}

func (p *positions) bounds() (first, last uint64) {
	if len(p.at) == 0 {
		return 0, 0
	}
	return p.first, p.first + uint64(len(p.at)) - 1
}

func (p *positions) find(index uint64) (position, bool) {
	first, last := p.bounds()
	if len(p.at) == 0 || index < first || index > last {
		return position{}, false
	}
	return p.at[index-first], true
}

// apply does what one frame says. Writing and replaying go through it alike.
func (p *positions) apply(kind byte, index uint64, where position) error {
	switch kind {
	case kindCut:
		p.cut(index)
		return nil
	case kindTrim:
		p.trim(index)
		return nil
	}
	first, last := p.bounds()
	switch {
	case len(p.at) == 0 || index > last+1:
		*p = positions{first: index}
	case index < first:
		return fmt.Errorf("got an entry at index %d, want %d (the first index) or more", index, first)
	default:
		p.at = p.at[:index-first]
	}
	p.at = append(p.at, where)
	return nil
}

func (p *positions) cut(index uint64) {
	first, last := p.bounds()
	switch {
	case index > last:
	case index <= first:
		*p = positions{}
	default:
		p.at = p.at[:index-first]
	}
}

func (p *positions) trim(index uint64) {
	first, last := p.bounds()
	switch {
	case index <= first:
	case index > last:
		*p = positions{}
	default:
		// A copy, because a slice of the old array would keep all of it alive.
		*p = positions{first: index, at: slices.Clone(p.at[index-first:])}
	}
}

package raftlog

import (
	"fmt"
	"slices"
	"sort"
)

// position says where in the journal an entry is.
type position struct {
	record uint64
	offset uint32
	size   uint32 // of its frame
}

// stretch holds the positions of consecutive indexes: at[i] is that of first+i.
// It is never empty.
type stretch struct {
	first uint64
	at    []position
}

func (s *stretch) last() uint64 { return s.first + uint64(len(s.at)) - 1 }

// positions are where the entries of one replica are. A log has one stretch, or
// none while it is empty. Only while a journal without its beginning is read
// there may be more, as its entries come out of order: those that were carried
// forward come after younger ones. doc.go says why that ends well.
type positions struct {
	stretches []stretch // ascending; they do not overlap
	bytes     int64     // of the frames in them
}

func (p *positions) bounds() (first, last uint64) {
	n := len(p.stretches)
	if n == 0 {
		return 0, 0
	}
	return p.stretches[0].first, p.stretches[n-1].last()
}

// find returns the place of index, nil if it has none.
func (p *positions) find(index uint64) *position {
	i := p.after(index) - 1
	if i < 0 || index > p.stretches[i].last() {
		return nil
	}
	return &p.stretches[i].at[index-p.stretches[i].first]
}

// after returns which stretch is the first that begins above index.
func (p *positions) after(index uint64) int {
	return sort.Search(len(p.stretches), func(i int) bool { return p.stretches[i].first > index })
}

// apply does what one frame of an entry, a carried one, a cut or a trim says.
// Writing and replaying go through it alike. If whole, nothing is missing
// before the frame, so one that does not fit is an error.
func (p *positions) apply(kind byte, index uint64, where position, whole bool) error {
	switch kind {
	case kindCut:
		p.cut(index)
		return nil
	case kindTrim:
		p.trim(index)
		return nil
	case kindCarry:
		return p.carry(index, where, whole)
	}
	first, last := p.bounds()
	if whole && last != 0 && (index < first || index > last+1) {
		return fmt.Errorf("got an entry at index %d, want %d (the first index) to %d", index, first, last+1)
	}
	p.cut(index)
	p.insert(len(p.stretches), index, where)
	return nil
}

// carry notes the new place of the entry at index.
func (p *positions) carry(index uint64, where position, whole bool) error {
	if at := p.find(index); at != nil {
		p.bytes += int64(where.size) - int64(at.size)
		*at = where
		return nil
	}
	if first, last := p.bounds(); whole {
		return fmt.Errorf("got a carried entry at index %d, want %d to %d", index, first, last)
	}
	p.insert(p.after(index), index, where)
	return nil
}

// insert adds an index that has no place, before stretch i: to the end of the
// one before it if it continues that.
func (p *positions) insert(i int, index uint64, where position) {
	p.bytes += int64(where.size)
	if i > 0 && p.stretches[i-1].last()+1 == index {
		p.stretches[i-1].at = append(p.stretches[i-1].at, where)
		return
	}
	p.stretches = slices.Insert(p.stretches, i, stretch{first: index, at: []position{where}})
}

// cut drops everything at or above index.
func (p *positions) cut(index uint64) {
	for n := len(p.stretches); n > 0; n-- {
		s := &p.stretches[n-1]
		if index > s.last() {
			return
		}
		if index > s.first {
			p.forget(s.at[index-s.first:])
			s.at = s.at[:index-s.first]
			return
		}
		p.forget(s.at)
		p.stretches = slices.Delete(p.stretches, n-1, n) // clears the slot
	}
}

// trim drops everything below index.
func (p *positions) trim(index uint64) {
	for len(p.stretches) > 0 {
		s := &p.stretches[0]
		if index <= s.first {
			return
		}
		if index <= s.last() {
			p.forget(s.at[:index-s.first])
			// A copy, because a slice of the old array would keep all of it alive.
			*s = stretch{first: index, at: slices.Clone(s.at[index-s.first:])}
			return
		}
		p.forget(s.at)
		p.stretches = slices.Delete(p.stretches, 0, 1)
	}
}

func (p *positions) forget(at []position) {
	for _, where := range at {
		p.bytes -= int64(where.size)
	}
}

// join makes one stretch of all once a journal was read to its end, where every
// entry must have been seen.
func (p *positions) join() error {
	if len(p.stretches) < 2 {
		return nil
	}
	whole := stretch{first: p.stretches[0].first}
	for _, s := range p.stretches {
		if want := whole.first + uint64(len(whole.at)); s.first != want {
			return fmt.Errorf("got the entry at index %d after the one at %d, want %d", s.first, want-1, want)
		}
		whole.at = append(whole.at, s.at...)
	}
	p.stretches = []stretch{whole}
	return nil
}

// fit returns how many of the last entries have frames of at most so many bytes.
func (p *positions) fit(bytes int64) uint64 {
	fit := uint64(0)
	for _, s := range slices.Backward(p.stretches) {
		for _, where := range slices.Backward(s.at) {
			if bytes -= int64(where.size); bytes < 0 {
				return fit
			}
			fit++
		}
	}
	return fit
}

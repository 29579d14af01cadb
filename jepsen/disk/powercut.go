//go:build linux

package disk

import (
	"errors"
	"fmt"
	"maps"
	"slices"
)

// Lost says what a power cut met, and what of it survived.
type Lost struct {
	Changes, ChangesKept int // of directories, that were not durable
	Blocks, Kept, Torn   int // of files, that were not synced
}

// Add adds what another power cut met.
func (l *Lost) Add(o Lost) {
	l.Changes, l.ChangesKept = l.Changes+o.Changes, l.ChangesKept+o.ChangesKept
	l.Blocks, l.Kept, l.Torn = l.Blocks+o.Blocks, l.Kept+o.Kept, l.Torn+o.Torn
}

func (l Lost) String() string {
	return fmt.Sprintf("%d of %d unsynced blocks lost, %d torn, %d of %d unsynced changes of directories lost",
		l.Blocks-l.Kept, l.Blocks, l.Torn, l.Changes-l.ChangesKept, l.Changes)
}

// PowerCut takes away what was not synced, but for what had reached the disk by chance,
// and mounts what is left. The program that used the disk must be dead.
func (d *Disk) PowerCut() (Lost, error) {
	err := d.unmount()
	d.mu.Lock()
	lost, cutErr := d.cut()
	d.mu.Unlock()
	if err = errors.Join(err, cutErr); err == nil {
		err = d.mount()
	}
	if err != nil {
		return lost, fmt.Errorf("disk: power cut: %w", err)
	}
	return lost, nil
}

// cut leaves what survives. d.mu is held.
func (d *Disk) cut() (lost Lost, err error) {
	t := d.tree
	lost.Changes = len(t.journal)
	lost.ChangesKept = d.rand.IntN(len(t.journal) + 1)
	for _, c := range t.journal[:lost.ChangesKept] {
		apply(t.durable, c)
	}
	t.journal = nil
	t.live = make(map[uint64]dir, len(t.durable))
	links := make(map[uint64]uint32)
	for number, entries := range t.durable {
		t.live[number] = maps.Clone(entries)
		for _, n := range entries {
			links[n]++
		}
	}
	for _, number := range slices.Sorted(maps.Keys(t.files)) {
		f := t.files[number]
		f.opens, f.links = 0, links[number]
		err = errors.Join(err, f.cut(d.rand, &lost))
	}
	t.collect()
	return lost, err
}

//go:build linux

package disk

import (
	"cmp"
	"errors"
	"slices"
)

// files are the files with a name that match a valid pattern, see [Fault], in the
// order of their paths.
func (v *volume) files(pattern string) []*node {
	v.mu.RLock()
	defer v.mu.RUnlock()
	paths := map[*node]string{}
	var found []*node
	for _, n := range v.nodes {
		if n.file == nil || !v.live.has(n.ino) {
			continue
		}
		if p := v.pathLocked(n.ino); matches(pattern, p) {
			paths[n] = p
			found = append(found, n)
		}
	}
	slices.SortFunc(found, func(a, b *node) int { return cmp.Compare(paths[a], paths[b]) })
	return found
}

// unsynced is what a power cut could take.
func (v *volume) unsynced() (blocks, names int64) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	for _, n := range v.nodes {
		if n.file != nil {
			blocks += n.file.unsynced()
		}
	}
	return blocks, int64(len(v.journal))
}

// close closes the files that are open. Nobody uses them any more.
func (v *volume) close() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	var errs []error
	for _, n := range v.nodes {
		if n.file != nil {
			n.file.mu.Lock()
			errs = append(errs, n.file.closeFiles())
			n.file.mu.Unlock()
		}
	}
	return errors.Join(errs...)
}

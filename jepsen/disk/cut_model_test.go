//go:build linux

package disk

import (
	"bytes"
	"fmt"
	"maps"
	"path"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// cutModel knows what a power cut may leave: one of the states of the names since
// the last that was synced, and of each file sectors of its states since then.
type cutModel struct {
	s     *story
	names []namesState
	files map[uint64]*fileStates
}

// namesState is what had which name after an operation, which is synced by a
// sync of one of some directories. The first is durable.
type namesState struct {
	inos map[string]uint64
	dirs []string
}

// fileStates are a file's bytes after each operation. The first is durable.
type fileStates struct {
	states [][]byte
	failed bool // a sync failed: later ones prove nothing
}

// TestPowerCutModel does anything to a volume, with power cuts in between.
func TestPowerCutModel(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		s := tell(t)
		s.mkdir("d")
		s.sync(".")
		m := &cutModel{s: s, names: []namesState{{inos: map[string]uint64{}}}, files: map[uint64]*fileStates{}}
		r.Repeat(map[string]func(*rapid.T){
			"create":   m.create,
			"remove":   m.remove,
			"rename":   m.rename,
			"link":     m.link,
			"write":    m.write,
			"truncate": m.truncate,
			"sync":     m.sync,
			"fail":     m.failSync,
			"syncDir":  m.syncDir,
			"cut":      m.cut,
			"": func(r *rapid.T) {
				if got := m.seen(); !maps.Equal(got, m.now()) {
					r.Fatalf("the names are %v, want %v", got, m.now())
				}
				s.checkStore()
			},
		})
	})
}

var (
	cutDirs  = []string{".", "d"}
	cutNames = []string{"a", "b", "d/a", "d/b"}
)

// now are the names that readers see.
func (m *cutModel) now() map[string]uint64 { return m.names[len(m.names)-1].inos }

// seen are the names that are there.
func (m *cutModel) seen() map[string]uint64 {
	inos := map[string]uint64{}
	for _, name := range cutNames {
		if n := m.s.node(name); n != nil {
			inos[name] = n.ino
		}
	}
	return inos
}

// a draws a name that is there, or is not.
func (m *cutModel) a(r *rapid.T, there bool) string {
	var names []string
	for _, name := range cutNames {
		if _, ok := m.now()[name]; ok == there {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		r.Skip("no such name")
	}
	return rapid.SampledFrom(names).Draw(r, "name")
}

// did notes the names after an operation on directories of some names.
func (m *cutModel) did(change func(inos map[string]uint64), names ...string) {
	state := namesState{inos: maps.Clone(m.now())}
	change(state.inos)
	for _, name := range names {
		state.dirs = append(state.dirs, path.Dir(name))
	}
	m.names = append(m.names, state)
}

func (m *cutModel) create(r *rapid.T) {
	name := m.a(r, false)
	m.s.create(name)
	ino := m.s.node(name).ino
	m.did(func(inos map[string]uint64) { inos[name] = ino }, name)
	m.files[ino] = &fileStates{states: [][]byte{nil}}
}

func (m *cutModel) remove(r *rapid.T) {
	name := m.a(r, true)
	m.s.remove(name)
	m.did(func(inos map[string]uint64) { delete(inos, name) }, name)
}

func (m *cutModel) rename(r *rapid.T) {
	from, to := m.a(r, true), rapid.SampledFrom(cutNames).Draw(r, "to")
	if m.now()[from] == m.now()[to] {
		r.Skip("one file")
	}
	m.s.rename(from, to)
	m.did(func(inos map[string]uint64) { inos[to] = inos[from]; delete(inos, from) }, from, to)
}

func (m *cutModel) link(r *rapid.T) {
	from, to := m.a(r, true), m.a(r, false)
	m.s.link(from, to)
	m.did(func(inos map[string]uint64) { inos[to] = inos[from] }, to)
}

// file draws a name that is there, and the states of its file.
func (m *cutModel) file(r *rapid.T) (name string, f *fileStates) {
	name = m.a(r, true)
	return name, m.files[m.now()[name]]
}

func (m *cutModel) write(r *rapid.T) {
	name, f := m.file(r)
	off, data := rapid.Int64Range(0, 2*blockSize).Draw(r, "off"), make([]byte, 1+rapid.IntRange(0, 2*blockSize).Draw(r, "n"))
	fill(data, rapid.Uint64().Draw(r, "data"))
	if _, err := m.s.node(name).file.write(data, off); err != nil {
		r.Fatal(err)
	}
	state := bytes.Clone(f.states[len(f.states)-1])
	if more := off + int64(len(data)) - int64(len(state)); more > 0 {
		state = append(state, make([]byte, more)...)
	}
	copy(state[off:], data)
	f.states = append(f.states, state)
}

func (m *cutModel) truncate(r *rapid.T) {
	name, f := m.file(r)
	size := rapid.Int64Range(0, 3*blockSize).Draw(r, "size")
	m.s.truncate(name, size)
	f.states = append(f.states, part(f.states[len(f.states)-1], 0, size))
}

func (m *cutModel) sync(r *rapid.T) {
	name, f := m.file(r)
	m.s.sync(name)
	if !f.failed {
		f.states = f.states[len(f.states)-1:]
	}
}

func (m *cutModel) failSync(r *rapid.T) {
	name, f := m.file(r)
	m.s.node(name).file.failSync()
	f.failed = true
}

func (m *cutModel) syncDir(r *rapid.T) {
	dir := rapid.SampledFrom(cutDirs).Draw(r, "dir")
	m.s.sync(dir)
	last := 0
	for i, state := range m.names {
		if slices.Contains(state.dirs, dir) {
			last = i
		}
	}
	m.names = m.names[last:]
	m.names[0].dirs = nil
}

// cut cuts the power and checks what is left.
func (m *cutModel) cut(r *rapid.T) {
	m.s.cut(rapid.Uint64().Draw(r, "seed"))
	got := m.seen()
	if !slices.ContainsFunc(m.names, func(s namesState) bool { return maps.Equal(s.inos, got) }) {
		r.Fatalf("after a cut the names are %v, want one of %v", got, m.names)
	}
	m.names = []namesState{{inos: got}}
	for _, name := range slices.Sorted(maps.Keys(got)) {
		n, f := m.s.node(name), m.files[got[name]]
		if err := m.s.v.openFile(n); err != nil {
			r.Fatal(err)
		}
		data := make([]byte, n.file.size.Load())
		if _, err := n.file.read(data, 0); err != nil {
			r.Fatal(err)
		}
		if err := f.allow(data); err != nil {
			r.Fatalf("after a cut, %s: %v", name, err)
		}
		*f = fileStates{states: [][]byte{data}}
	}
}

// allow says what is wrong with the bytes of a file after a cut.
func (f *fileStates) allow(data []byte) error {
	least, most := len(f.states[0]), 0
	for _, state := range f.states {
		least, most = min(least, len(state)), max(most, len(state))
	}
	if len(data) < least || len(data) > most {
		return fmt.Errorf("%d bytes, want %d to %d", len(data), least, most)
	}
	for at := int64(0); at < int64(len(data)); at += sectorSize {
		got := data[at:min(at+sectorSize, int64(len(data)))]
		if !slices.ContainsFunc(f.states, func(s []byte) bool { return bytes.Equal(part(s, at, int64(len(got))), got) }) {
			return fmt.Errorf("the sector at %d is %s, which no state since the last sync had", at, shape(got))
		}
	}
	return nil
}

// part is n bytes of a state from off, with zeros behind its end.
func part(state []byte, off, n int64) []byte {
	p := make([]byte, n)
	if off < int64(len(state)) {
		copy(p, state[off:])
	}
	return p
}

package wasi

import (
	"errors"
	"fmt"
	"strings"
)

// coreModule is a core module in a component.
type coreModule struct {
	data   []byte
	number int  // in the order of the binary
	nested bool // in a component in the component
}

// preview1Module is the name under which modules import WASI preview 1.
const preview1Module = "wasi_snapshot_preview1"

// Sections, kinds of imports and exports, and the subsection with the module's own
// name of core modules.
const (
	coreCustomSection = 0
	coreImportSection = 2
	coreExportSection = 7

	coreFunc   = 0
	coreTable  = 1
	coreMemory = 2
	coreGlobal = 3
	coreTag    = 4

	coreModuleName = 0
)

// mainModule picks the module of a component that is the guest.
//
// The tools add others to it, which only tie it to a component's imports, as the
// host does itself. What they are called depends on tool and options, so they are
// known by what they do; see auxiliary.
func mainModule(modules []coreModule) ([]byte, error) {
	if len(modules) == 0 {
		return nil, errors.New("the component has no core module: nothing to run")
	}
	left := modules
	if len(modules) > 1 {
		left = nil
		wanted := preview1Imports(modules)
		for _, m := range modules {
			if !m.auxiliary(wanted) {
				left = append(left, m)
			}
		}
	}
	switch {
	case len(left) == 0:
		return nil, fmt.Errorf("the component has no main module: its core modules (%s) are all shims or adapters", nameModules(modules))
	case len(left) > 1:
		return nil, fmt.Errorf("a component of several linked modules cannot be run: got %d core modules (%s), want 1", len(left), nameModules(left))
	case left[0].nested:
		return nil, fmt.Errorf("a component composed of others cannot be run: its core module (%s) is in a nested component", nameModules(left))
	}
	return left[0].data, nil
}

// preview1Imports is the set of preview 1 functions that modules import.
func preview1Imports(modules []coreModule) map[string]bool {
	wanted := make(map[string]bool)
	for _, m := range modules {
		m.imports(func(module, name []byte) {
			if string(module) == preview1Module {
				wanted[string(name)] = true
			}
		})
	}
	return wanted
}

// auxiliary reports whether a module is one of those that tools add:
//   - a shim, through whose table "$imports" the main module calls its imports,
//   - a fixup, which fills that table or calls the main module's start when it is
//     instantiated, and has no exports,
//   - an adapter from preview 1 to preview 2. The host gives preview 1 to the main
//     module directly. A module that uses preview 1 itself is no such adapter.
func (m coreModule) auxiliary(wanted map[string]bool) bool {
	var exports int
	var shim, adapter bool
	m.exports(func(name []byte, kind byte) {
		exports++
		shim = shim || kind == coreTable && string(name) == "$imports"
		adapter = adapter || kind == coreFunc && wanted[string(name)]
	})
	m.imports(func(module, _ []byte) {
		adapter = adapter && string(module) != preview1Module
	})
	return exports == 0 || shim || adapter
}

// nameModules names modules for a message.
func nameModules(modules []coreModule) string {
	const most = 8
	var names []string
	for i, m := range modules {
		if i == most {
			names = append(names, fmt.Sprintf("and %d more", len(modules)-most))
			break
		}
		name := m.name()
		if len(name) == 0 {
			names = append(names, fmt.Sprintf("number %d", m.number))
		} else {
			names = append(names, fmt.Sprintf("%.40q", name))
		}
	}
	return strings.Join(names, ", ")
}

// imports calls visit for each import. A module that is malformed has those before
// the fault: it will be refused where it is compiled.
func (m coreModule) imports(visit func(module, name []byte)) {
	m.section(coreImportSection, func(r *wasmReader) {
		r.each(func() {
			module, name := r.bytes(), r.bytes()
			if r.coreImportType(); r.err == nil {
				visit(module, name)
			}
		})
	})
}

// exports calls visit for each export, as imports does.
func (m coreModule) exports(visit func(name []byte, kind byte)) {
	m.section(coreExportSection, func(r *wasmReader) {
		r.each(func() {
			name, kind := r.bytes(), r.byte()
			if r.u32(); r.err == nil {
				visit(name, kind)
			}
		})
	})
}

// name returns the module's name, if its custom section "name" has one.
func (m coreModule) name() (name []byte) {
	m.section(coreCustomSection, func(r *wasmReader) {
		if string(r.bytes()) != "name" {
			return
		}
		for r.left() > 0 {
			id, size := r.byte(), r.u32()
			content := wasmReader{data: r.take(size)}
			if id == coreModuleName && r.err == nil {
				name = content.bytes()
			}
		}
	})
	return name
}

func (m coreModule) section(id byte, visit func(*wasmReader)) {
	r := wasmReader{data: m.data, at: preambleSize}
	_ = r.sections(func(s wasmSection) error {
		if s.id == id {
			visit(s.body)
		}
		return nil
	})
}

// coreImportType reads past the type of an import.
func (r *wasmReader) coreImportType() {
	switch kind := r.byte(); kind {
	case coreFunc:
		r.u32()
	case coreTable:
		r.coreValueType()
		r.coreLimits()
	case coreMemory:
		r.coreLimits()
	case coreGlobal:
		r.coreValueType()
		r.byte() // mutable
	case coreTag:
		r.byte()
		r.u32()
	default:
		r.fail("import of %#02x is unknown", kind)
	}
}

// coreValueType reads past a value type: one byte, and a heap type after those of
// typed references.
func (r *wasmReader) coreValueType() {
	if b := r.byte(); b == 0x63 || b == 0x64 {
		r.leb(33)
	}
}

// coreLimits reads past the limits of a memory or table.
func (r *wasmReader) coreLimits() {
	const hasMax, hasPageSize = 0x01, 0x08
	flags := r.byte()
	r.leb(64)
	if flags&hasMax != 0 {
		r.leb(64)
	}
	if flags&hasPageSize != 0 {
		r.u32()
	}
}

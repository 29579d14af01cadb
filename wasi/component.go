package wasi

import (
	"bytes"
	"errors"
	"fmt"
)

// What a binary begins with: a magic number, a version and, in its last two bytes,
// the layer, which tells a core module (0) from a component (1).
const (
	preambleSize      = 8
	coreMagic         = "\x00asm"
	corePreamble      = coreMagic + "\x01\x00\x00\x00"
	componentPreamble = coreMagic + "\x0d\x00\x01\x00"
)

const (
	// maxDefinitions bounds an index space of a component, so that a binary full of
	// one-byte definitions costs tens of megabytes at most. It is what wasm-tools
	// accepts in a valid component.
	maxDefinitions = 1_000_000
	// maxExports bounds the functions whose types are spelled out, maxModules the
	// core modules and maxNesting the components and types inside each other: more
	// than any world has, little enough for a hostile binary to gain nothing.
	maxExports = 1000
	maxModules = 1000
	maxNesting = 50
)

// component is what is needed of a component to run it as a core module: wazero
// runs nothing else, and the host supplies the canonical ABI itself.
type component struct {
	core    []byte               // the main core module, a part of the binary
	exports map[string]signature // functions the component itself exports; nil for a core module
	imports []string             // names of what it imports, types excepted, as written
}

// unwrap finds the core module in a component, and what the types of its functions
// are. A core module is returned as it is.
//
// It is no validator: the core module is validated by who compiles it, and of the
// component only that is read which is needed. A type that it cannot read makes a
// function uncallable, not the component.
func unwrap(binary []byte) (*component, error) {
	switch layer, err := preamble(binary); {
	case err != nil:
		return nil, err
	case layer == 0:
		return &component{core: binary}, nil
	}
	c := componentReader{binary: binary, found: component{exports: make(map[string]signature)}}
	if err := c.read(&wasmReader{data: binary, at: preambleSize}); err != nil {
		return nil, fmt.Errorf("component: %w", err)
	}
	core, err := mainModule(c.modules)
	if err != nil {
		return nil, err
	}
	c.found.core = core
	return &c.found, nil
}

// preamble returns the layer of a binary.
func preamble(binary []byte) (layer int, err error) {
	start := binary[:min(len(binary), preambleSize)]
	switch {
	case string(start) == corePreamble:
		return 0, nil
	case string(start) == componentPreamble:
		return 1, nil
	case isText(binary):
		return 0, errors.New("this is WebAssembly's text format, want a binary: translate it with wasm-tools parse or wat2wasm")
	case len(start) < preambleSize:
		return 0, fmt.Errorf("no WebAssembly: got %d bytes, want at least the %d of a preamble", len(start), preambleSize)
	case !bytes.HasPrefix(start, []byte(coreMagic)):
		return 0, fmt.Errorf("no WebAssembly: got % x, want % x", start[:4], coreMagic)
	default:
		return 0, fmt.Errorf("unknown version of WebAssembly: got % x, want % x (core module) or % x (component)",
			start[4:], corePreamble[4:], componentPreamble[4:])
	}
}

func isText(binary []byte) bool {
	const far = 64 // leading spaces are few
	text := bytes.TrimSpace(binary[:min(len(binary), far)])
	for _, start := range []string{"(module", "(component", "(;", ";;"} {
		if bytes.HasPrefix(text, []byte(start)) {
			return true
		}
	}
	return false
}

// componentReader reads a component's sections in their order, because each may
// use only what those before it have put into the index spaces.
type componentReader struct {
	binary  []byte
	found   component
	modules []coreModule
	types   indexSpace[typeDef]
	funcs   indexSpace[funcDef]
}

// indexSpace is one of a component's index spaces. The zero value of T means a
// definition that is not known.
type indexSpace[T any] struct {
	items []T
	// lost: something was not understood that may have defined an item, so that no
	// later index is known.
	lost bool
}

func (s *indexSpace[T]) add(item T) {
	s.lost = s.lost || len(s.items) == maxDefinitions
	if !s.lost {
		s.items = append(s.items, item)
	}
}

func (s *indexSpace[T]) get(index uint32) (item T) {
	if int64(index) < int64(len(s.items)) {
		item = s.items[index]
	}
	return item
}

// Sections of a component. The others define nothing that is used here.
const (
	sectionModule    = 1
	sectionComponent = 4
	sectionAlias     = 6
	sectionType      = 7
	sectionCanon     = 8
	sectionImport    = 10
	sectionExport    = 11
	lastSection      = 12
)

func (c *componentReader) read(r *wasmReader) error {
	return r.sections(func(s wasmSection) error {
		switch s.id {
		case sectionModule, sectionComponent:
			return c.inner(s, 0)
		case sectionAlias:
			s.body.each(func() { c.alias(s.body) })
			c.loseAfter(s.body)
		case sectionType:
			c.defineTypes(s.body)
		case sectionCanon:
			s.body.each(func() { c.canon(s.body) })
			c.loseAfter(s.body)
		case sectionImport:
			s.body.each(func() { c.importItem(s.body) })
			return s.body.finish()
		case sectionExport:
			s.body.each(func() { c.exportItem(s.body) })
			return s.body.finish()
		default:
			return knownSection(s)
		}
		return nil
	})
}

func knownSection(s wasmSection) error {
	if s.id > lastSection {
		return fmt.Errorf("byte %d: got section %d, want at most %d", s.body.at, s.id, lastSection)
	}
	return nil
}

// loseAfter gives up on later indices when the rest of a section was not understood:
// it may have defined any number of functions and types.
func (c *componentReader) loseAfter(r *wasmReader) {
	if r.finish() != nil {
		c.funcs.lost, c.types.lost = true, true
	}
}

// inner reads what a section contains whole: a core module, or a component, of
// which only the core modules matter. Those that export interfaces have none.
func (c *componentReader) inner(s wasmSection, depth int) error {
	start := s.body.at
	head := string(s.body.take(uint32(min(preambleSize, s.body.left()))))
	if s.id == sectionModule {
		if head != corePreamble {
			return fmt.Errorf("byte %d: a core module begins with % x, want % x", start, head, corePreamble)
		}
		if len(c.modules) == maxModules {
			return fmt.Errorf("byte %d: more than %d core modules", start, maxModules)
		}
		c.modules = append(c.modules, coreModule{data: s.body.data[start:], number: len(c.modules), nested: depth > 0})
		return nil
	}
	if head != componentPreamble {
		return fmt.Errorf("byte %d: a nested component begins with % x, want % x", start, head, componentPreamble)
	}
	if depth == maxNesting {
		return fmt.Errorf("byte %d: components are nested more than %d deep", start, maxNesting)
	}
	return s.body.sections(func(s wasmSection) error {
		if s.id == sectionModule || s.id == sectionComponent {
			return c.inner(s, depth+1)
		}
		return knownSection(s)
	})
}

// importItem reads an import. Imported types are left out of the names: what they
// belong to is imported as well.
func (c *componentReader) importItem(r *wasmReader) {
	name := r.externName()
	what := r.externType()
	switch {
	case r.err != nil:
		return
	case what.sort == sortType:
		c.types.add(typeDef{at: c.bound(what), name: name})
		return
	case what.sort == sortFunc:
		c.funcs.add(funcDef{at: c.types.get(what.index).at})
	}
	c.found.imports = append(c.found.imports, name)
}

// bound returns where the type is defined that an imported or exported type is
// equal to; 0 for a resource.
func (c *componentReader) bound(what externType) int {
	if !what.equal {
		return 0
	}
	return c.types.get(what.index).at
}

// exportItem reads an export. It puts a new index into the space of its sort.
func (c *componentReader) exportItem(r *wasmReader) {
	name, of, index := r.externName(), r.sort(), r.u32()
	if r.present() {
		r.externType() // no less than what index has
	}
	if r.err != nil {
		return
	}
	switch of {
	case sortType:
		c.types.add(typeDef{at: c.types.get(index).at, name: name})
	case sortFunc:
		f := c.funcs.get(index)
		c.funcs.add(f)
		if _, twice := c.found.exports[name]; twice {
			r.fail("%.60q is exported twice", name)
		} else if len(c.found.exports) == maxExports {
			r.fail("more than %d functions are exported", maxExports)
		} else {
			c.found.exports[name] = c.signature(f)
		}
	}
}

// alias reads an alias. Types of an imported instance are known by name only.
func (c *componentReader) alias(r *wasmReader) {
	a := r.alias()
	switch {
	case r.err != nil:
	case a.of == sortFunc:
		c.funcs.add(funcDef{})
	case a.of != sortType:
	case a.outer && a.count == 0: // this component
		c.types.add(c.types.get(a.index))
	default:
		c.types.add(typeDef{name: a.name})
	}
}

// canon reads a canonical definition. Lifts define functions of the component, all
// others core functions.
func (c *componentReader) canon(r *wasmReader) {
	op := r.byte()
	if op == canonLift {
		r.skip("bu") // the sort "func", the core function
		unlike := r.canonOptions()
		if t := r.u32(); r.err == nil {
			c.funcs.add(funcDef{at: c.types.get(t).at, unlike: unlike})
		}
		return
	}
	if operands, ok := canonOperands[op]; ok {
		r.skip(operands)
	} else {
		r.fail("canonical definition %#02x is unknown", op)
	}
}

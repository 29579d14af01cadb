package wasi

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

// nameOf gives a module a name, in its last section.
func nameOf(name string, module []byte) []byte {
	names := named(name)
	return append(module, section(coreCustomSection, named("name", 1, 1, 0), appendU32([]byte{coreModuleName}, uint32(len(names))), names)...)
}

// Modules that are left over or missing are told by name.
func TestModulesThatAreRefused(t *testing.T) {
	module := func(m []byte) []byte { return section(sectionModule, m) }
	inside := func(m []byte) []byte { return section(sectionComponent, componentOf(module(m))) }
	run, p1 := coreOf(nil, "run"), [][2]string{{preview1Module, "fd_write"}}
	shim := section(coreExportSection, vector(named("0", coreFunc, 0), named("$imports", coreTable, 0)))
	const linked = "a component of several linked modules cannot be run: got "
	for what, c := range map[string]struct {
		sections [][]byte
		says     string
	}{
		"components without one": {[][]byte{section(sectionComponent, componentOf())}, "the component has no core module: nothing to run"},
		"what tools add": {[][]byte{module(nameOf("wit-component:shim", append([]byte(corePreamble), shim...))), module(coreOf(nil))},
			`the component has no main module: its core modules ("wit-component:shim", number 1) are all shims or adapters`},
		"one inside": {[][]byte{inside(nameOf("code", run))},
			`a component composed of others cannot be run: its core module ("code") is in a nested component`},
		"another inside": {[][]byte{module(run), inside(run)}, linked + "2 core modules (number 0, number 1), want 1"},
		"a library": {[][]byte{module(nameOf("main", run)), module(append([]byte(corePreamble), shim...)), module(nameOf("libc.so", run))},
			linked + `2 core modules ("main", "libc.so"), want 1`},
		"an adapter that nobody uses": {[][]byte{module(coreOf(nil, "fd_write")), module(run)}, linked + "2 core modules (number 0, number 1), want 1"},
		"a library around preview 1":  {[][]byte{module(coreOf(p1, "fd_write")), module(run)}, linked + "2 core modules (number 0, number 1), want 1"},
		"many, with a name over two lines": {slices.Repeat([][]byte{module(nameOf("a\nb", run))}, 11),
			linked + "11 core modules (" + strings.Repeat(`"a\nb", `, 8) + "and 3 more), want 1"},
	} {
		if _, err := unwrap(componentOf(c.sections...)); err == nil || err.Error() != c.says {
			t.Errorf("%s: %v, want %q", what, err, c.says)
		}
	}
}

// A module alone is the main one, whatever it is; fixups of all tools are passed over.
func TestModulesThatAreMain(t *testing.T) {
	main, empty := coreOf(nil, "run"), []byte(corePreamble)
	for what, c := range map[string]struct {
		others [][]byte
		main   []byte
	}{
		"without exports":         {nil, empty},
		"with a fixup":            {[][]byte{coreOf([][2]string{{"", "0"}, {"", "1"}})}, main},
		"with one of other tools": {[][]byte{coreOf([][2]string{{"actual", "0"}, {"main", "_initialize"}})}, main},
	} {
		var sections [][]byte
		for _, m := range append(c.others, c.main) {
			sections = append(sections, section(sectionModule, m))
		}
		got, err := unwrap(componentOf(sections...))
		must(t, err)
		if !bytes.Equal(got.core, c.main) {
			t.Errorf("%s: got the module % x, want % x", what, got.core, c.main)
		}
		if cap(got.core) != len(got.core) {
			t.Errorf("%s: who appends to the module writes into the binary", what)
		}
	}
}

// An import of every kind: a wrong length would be seen in the next one.
func TestCoreImports(t *testing.T) {
	imports := [][]byte{
		named("f", coreFunc, 0x80, 0x01),
		named("t", coreTable, 0x70, 0x01, 0x01, 0x82, 0x01),
		named("u", coreTable, 0x63, 0x80, 0x01, 0x00, 0x00),
		named("m", coreMemory, 0x00, 0x01),
		named("n", coreMemory, 0x0d, 0x80, 0x80, 0x80, 0x80, 0x10, 0x80, 0x80, 0x80, 0x80, 0x10, 0x00),
		named("g", coreGlobal, 0x7f, 0x01),
		named("e", coreTag, 0x00, 0x03),
		named("last", coreFunc, 0),
		named("unknown", 0x99, 0),
		named("after", coreFunc, 0),
	}
	for i := range imports {
		imports[i] = append(named("env"), imports[i]...)
	}
	var got []string
	coreModule{data: append([]byte(corePreamble), section(coreImportSection, vector(imports...))...)}.imports(func(module, name []byte) {
		got = append(got, string(module)+"."+string(name))
	})
	want := []string{"env.f", "env.t", "env.u", "env.m", "env.n", "env.g", "env.e", "env.last"}
	if !slices.Equal(got, want) {
		t.Errorf("imports %q, want %q: those before an unknown one", got, want)
	}
}

func TestCoreModuleName(t *testing.T) {
	custom := func(content []byte) []byte {
		return append([]byte(corePreamble), section(coreCustomSection, content)...)
	}
	for what, c := range map[string]struct {
		module []byte
		want   string
	}{
		"a name":                            {nameOf("main", coreOf(nil, "run")), "main"},
		"no name":                           {coreOf(nil, "run"), ""},
		"another custom section first":      {nameOf("main", custom(named("producers", 0, 1, 0))), "main"},
		"a subsection that is cut":          {custom(named("name", coreModuleName, 9, 1, 'a')), ""},
		"a name longer than its subsection": {custom(named("name", coreModuleName, 2, 5, 'a')), ""},
	} {
		if got := string(coreModule{data: c.module}.name()); got != c.want {
			t.Errorf("%s: %q, want %q", what, got, c.want)
		}
	}
}

package wasi

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// readComponent reads a component of testdata, made by wit-component from the C and WIT
// beside it.
func readComponent(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "components", name))
	must(t, err)
	return b
}

// What is read of a component is what its WIT says.
func TestComponents(t *testing.T) {
	const keyvalue = "wasi:keyvalue/%s@0.2.0-draft2"
	loops := map[string]string{
		"clean": "none func()", "fail": "result func() -> result<string, string>", "hello": "string func() -> string", "run": "result func() -> result<string, string>",
		"fill": "none func(keys: u32, size: u32)", "get-many-loop": "none func(rounds: u32, keys: u32)",
		"set-many-loop": "none func(rounds: u32, keys: u32, size: u32)", "get-loop": "none func(rounds: u32)",
		"set-loop": "none func(rounds: u32)", "exists-loop": "none func(rounds: u32)",
	}
	kinds := map[resultKind]string{resultNone: "none", resultString: "string", resultStringOrString: "result", resultOther: "other"}
	for _, c := range []struct {
		name    string
		binary  []byte
		imports []string
		exports map[string]string // the kind of the result, then the type
	}{
		{"conformance", readConformance(t, "draft2.wasm"), []string{
			fmt.Sprintf(keyvalue, "store"), fmt.Sprintf(keyvalue, "batch"), fmt.Sprintf(keyvalue, "atomics"),
		}, loops},
		{"greeter", readComponent(t, "greeter.wasm"), nil, map[string]string{"greet": "result func(name: string) -> result<string, string>"}},
		{"adapted", readComponent(t, "adapted.wasm"), []string{"wasi:random/random@0.2.0"}, map[string]string{"greet": "string func(name: string) -> string"}},
		{"shop", readComponent(t, "shop.wasm"), []string{fmt.Sprintf(keyvalue, "store"), "example:shop/words", "log"}, map[string]string{
			"nothing":    "none func()",
			"say":        "string func(who: string) -> string",
			"named":      "result func(t: string, u: string) -> result<string, string>", // aliases are seen through
			"used":       "other func(t: text) -> text",                                 // a type of another package is known by name only
			"failing":    "other func() -> result<string, error>",
			"plain":      "other func() -> result",
			"only-ok":    "other func() -> result<string>",
			"only-error": "other func() -> result<_, string>",
			"mix":        "other func(i: item, m: mood, s: size, v: shape) -> list<tuple<string, option<u8>>>",
			"handles":    "other func(a: borrow<bucket>, b: bucket) -> bucket",
			"numbers":    "other func(a: bool, b: s8, c: u8, d: s16, e: u16, f: s32, g: u32, h: s64, i: u64, j: f32, k: f64, l: char) -> u64",
			"later":      "string async func(name: string) -> string",
		}},
	} {
		got, err := unwrap(c.binary)
		must(t, err)
		if !slices.Equal(slices.Sorted(slices.Values(got.imports)), slices.Sorted(slices.Values(c.imports))) {
			t.Errorf("%s imports %q, want %q", c.name, got.imports, c.imports)
		}
		for _, name := range slices.Sorted(maps.Keys(got.exports)) {
			s := got.exports[name]
			if text := kinds[s.result] + " " + s.text; text != c.exports[name] {
				t.Errorf("%s: %s is %q, want %q", c.name, name, text, c.exports[name])
			}
			if n := strings.Count(s.text, ": "); s.params != n {
				t.Errorf("%s: %s has %d parameters, want %d", c.name, name, s.params, n)
			}
		}
		if len(got.exports) != len(c.exports) {
			t.Errorf("%s has %d exports, want %d", c.name, len(got.exports), len(c.exports))
		}
		at := bytes.Index(c.binary, got.core)
		if !bytes.HasPrefix(got.core, []byte(corePreamble)) || at < preambleSize {
			t.Errorf("%s: the core module begins with % x, at %d", c.name, got.core[:8], at)
		}
		if first := bytes.Index(c.binary[preambleSize:], []byte(corePreamble)) + preambleSize; at != first {
			t.Errorf("%s: the core module is at %d, the main one at %d", c.name, at, first)
		}
	}
}

// section and component write binaries.
func section(id byte, body ...[]byte) []byte {
	all := bytes.Join(body, nil)
	return append(appendU32([]byte{id}, uint32(len(all))), all...)
}

func componentOf(sections ...[]byte) []byte {
	return append([]byte(componentPreamble), bytes.Join(sections, nil)...)
}

// coreOf writes a core module that imports functions and exports its own.
func coreOf(imports [][2]string, exports ...string) []byte {
	var m moduleWriter
	for _, i := range imports {
		m.importFunc(i[0], i[1], m.typeOf(nil, nil))
	}
	for _, name := range exports {
		m.export(name, coreFunc, m.define(m.typeOf(nil, nil), body(nil)))
	}
	return m.bytes()
}

func TestBinariesThatAreRefused(t *testing.T) {
	one := coreOf(nil, "run")
	for _, c := range []struct {
		what   string
		binary []byte
		says   string
	}{
		{"nothing", nil, "got 0 bytes"},
		{"a short preamble", []byte(corePreamble[:6]), "got 6 bytes"},
		{"another file", []byte("\x7fELF\x02\x01\x01\x00"), "got 7f 45 4c 46, want 00 61 73 6d"},
		{"text", []byte("  (module)  "), "text format"},
		{"a component's text", []byte(";; a\n(component)"), "text format"},
		{"another version", []byte(coreMagic + "\x02\x00\x00\x00"), "unknown version of WebAssembly: got 02 00 00 00"},
		{"no module", componentOf(), "no core module"},
		{"a section that is cut", append(componentOf(), 1, 200), "section 1"},
		{"an unknown section", componentOf(section(13)), "got section 13"},
		{"a module that is none", componentOf(section(sectionModule, []byte("nonsense"))), "a core module begins with"},
		{"a component that is none", componentOf(section(sectionComponent, []byte(corePreamble))), "a nested component begins with"},
		{"two modules", componentOf(section(sectionModule, one), section(sectionModule, coreOf(nil, "other"))), "several linked modules"},
		{"a composed one", componentOf(section(sectionComponent, componentOf(section(sectionModule, one)))), "composed"},
		{"shims only", componentOf(section(sectionModule, coreOf(nil)), section(sectionModule, coreOf(nil))), "no main module"},
		{"too many modules", componentOf(bytes.Repeat(section(sectionModule, []byte(corePreamble)), maxModules+1)), "more than 1000 core modules"},
	} {
		if _, err := unwrap(c.binary); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", c.what, err, c.says)
		}
	}
	nested := componentOf()
	for range maxNesting + 2 {
		nested = componentOf(section(sectionComponent, nested))
	}
	if _, err := unwrap(nested); err == nil || !strings.Contains(err.Error(), "nested more than") {
		t.Errorf("deep nesting: %v", err)
	}
}

// Modules that tools add are told from the main one by what they do.
func TestMainModule(t *testing.T) {
	main := coreOf([][2]string{{preview1Module, "random_get"}}, "run")
	adapter := coreOf([][2]string{{"wasi:random/random@0.2.0", "get-random-u64"}}, "random_get")
	fixup := coreOf([][2]string{{"", "0"}})
	binary := componentOf(section(sectionModule, adapter), section(sectionModule, main), section(sectionModule, fixup),
		section(sectionComponent, componentOf()))
	c, err := unwrap(binary)
	must(t, err)
	if !bytes.Equal(c.core, main) {
		t.Error("another module than the main one was picked")
	}
	core, err := unwrap(main)
	if err != nil || !bytes.Equal(core.core, main) || core.exports != nil {
		t.Errorf("a core module: %+v, %v", core, err)
	}
}

// FuzzUnwrap wants no panic, and a core module that is a part of the input.
func FuzzUnwrap(f *testing.F) {
	f.Add(readComponent(f, "shop.wasm"))
	f.Add(readComponent(f, "adapted.wasm"))
	f.Add(readComponent(f, "greeter.wasm"))
	f.Add(readComponent(f, "grammar.wasm"))
	f.Add(componentOf(section(sectionModule, coreOf(nil, "run"))))
	f.Fuzz(func(t *testing.T, binary []byte) {
		before := allocated()
		c, err := unwrap(binary)
		if grew := allocated() - before; grew > 64<<20+100*uint64(len(binary)) {
			t.Errorf("%d bytes made it allocate %d", len(binary), grew)
		}
		if err != nil {
			return
		}
		if !bytes.Contains(binary, c.core) {
			t.Error("the core module is no part of the input")
		}
		for name, s := range c.exports {
			unknown := s.params < 0
			if len(s.text) > maxText+len("...") || unknown != (s.text == "func(?)") || unknown && s.result != resultOther {
				t.Errorf("%q is %+v", name, s)
			}
		}
	})
}

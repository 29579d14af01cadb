package wasi

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
)

// The instructions of WebAssembly 2.0 with what follows their opcodes, from the
// specification's index of instructions. What follows is written as bytes 0x03, the
// opcode of loop: a reader that passes over too little takes them for loops, one that
// passes over too much runs out of bytes.
func TestInstructions(t *testing.T) {
	const (
		none = 0
		leb  = 1 // each is one byte here
	)
	follow := make(map[string]int)
	plain := func(n int, ops ...byte) {
		for _, op := range ops {
			follow[string([]byte{op})] = n
		}
	}
	sub := func(prefix byte, n int, from, to uint32) {
		for op := from; op <= to; op++ {
			follow[string(appendU32([]byte{prefix}, op))] = n
		}
	}
	span := func(from, to byte) (ops []byte) {
		for op := int(from); op <= int(to); op++ {
			ops = append(ops, byte(op))
		}
		return ops
	}
	plain(none, 0x00, 0x01, 0x05, 0x0b, 0x0f, 0x1a, 0x1b, 0xd1)
	plain(leb, 0x02, 0x04, 0x0c, 0x0d, 0x10, 0x3f, 0x40, 0x41, 0x42, 0xd0, 0xd2)
	plain(leb, span(0x20, 0x26)...)
	plain(2*leb, 0x11)
	plain(2*leb, span(0x28, 0x3e)...)
	plain(1+3+1, 0x0e) // br_table of three labels and the default
	plain(1+3, 0x1c)   // select of three types
	plain(4, 0x43)
	plain(8, 0x44)
	plain(none, span(0x45, 0xc4)...)
	sub(0xfc, none, 0, 7)
	sub(0xfc, 2, 8, 8)
	sub(0xfc, 1, 9, 9)
	sub(0xfc, 2, 10, 10)
	sub(0xfc, 1, 11, 11)
	sub(0xfc, 2, 12, 12)
	sub(0xfc, 1, 13, 13)
	sub(0xfc, 2, 14, 14)
	sub(0xfc, 1, 15, 17)
	sub(0xfd, 2, 0, 11)
	sub(0xfd, 16, 12, 13)
	sub(0xfd, none, 14, 20)
	sub(0xfd, 1, 21, 34)
	sub(0xfd, none, 35, 83)
	sub(0xfd, 3, 84, 91)
	sub(0xfd, 2, 92, 93)
	sub(0xfd, none, 94, 255)

	checks := &checks{imports: 0, globals: 1000, check: []byte{0xaa, 0xbb}, weigh: []byte{0xcc}}
	locals := []byte{1, 1, i32}
	for op, n := range follow {
		instruction := slices.Concat([]byte(op), bytes.Repeat([]byte{opLoop}, n))
		var ends []byte
		switch op {
		case "\x02", "\x04": // block, if
			ends = []byte{opEnd, opEnd}
		case "\x0b": // end
		default:
			ends = []byte{opEnd}
		}
		var before, after []byte
		switch op {
		case "\x11": // call_indirect
			after = checks.heavy(nil, 0)
		case "\xfc\x08", "\xfc\x0a", "\xfc\x0b", "\xfc\x0c", "\xfc\x0e", "\xfc\x0f", "\xfc\x11": // see sized
			before, after = checks.weigh, checks.heavy(nil, 0)
		}
		want := slices.Concat(locals, checks.heavy(nil, len(instruction)+len(ends)), before, instruction, after, ends)
		r := wasmReader{data: slices.Concat(locals, instruction, ends)}
		if got := r.checked(nil, checks); r.err != nil || !bytes.Equal(got, want) {
			t.Errorf("instruction % x with %d bytes: %v, % x, want % x", op, n, r.err, got, want)
		}
		short := wasmReader{data: r.data[:len(r.data)-1]}
		if short.checked(nil, checks); short.err == nil {
			t.Errorf("instruction % x cut short is accepted", op)
		}
	}
	checks.imports = 2
	loop := wasmReader{data: []byte{0, opLoop, formEmpty, opCall, 2, opCall, 1, opEnd, opEnd}}
	want := slices.Concat([]byte{0}, checks.heavy(nil, 8), []byte{opLoop, formEmpty}, checks.heavy(nil, 5),
		[]byte{opCall, 2, opCall, 1}, checks.heavy(nil, 0), []byte{opEnd, opEnd})
	if got := loop.checked(nil, checks); !bytes.Equal(got, want) {
		t.Errorf("a loop with a call of an import: % x, want % x", got, want)
	}
	for _, op := range [][]byte{{0x06}, {0x12}, {0xd3}, {0xfe, 0}, {0xfc, 18}, {0xfd, 0x80, 2}} {
		r := wasmReader{data: slices.Concat([]byte{0}, op, []byte{opEnd})}
		if r.checked(nil, checks); r.err == nil {
			t.Errorf("instruction % x is known", op)
		}
	}
}

// A guest cannot reach the variables that end it, nor hide instructions.
func TestCodeThatIsRefused(t *testing.T) {
	for what, code := range map[string][]byte{
		"our variable is written": {opGlobalSet, 5},
		"our variable is read":    {opGlobalGet, 7},
		"a long vector opcode":    {0xfd, 0x8c, 0x00},
		"a long opcode":           {0xfc, 0x8a, 0x00},
		"an end too many":         {opEnd},
		"an end too few":          {opLoop, formEmpty},
	} {
		r := wasmReader{data: slices.Concat([]byte{0}, code, []byte{opEnd})}
		if r.checked(nil, &checks{globals: 5}); r.err == nil {
			t.Errorf("%s: it is accepted", what)
		}
	}
}

// emptyRuntime compiles and runs nothing.
func emptyRuntime(t testing.TB) wazero.Runtime {
	rt := wazero.NewRuntime(context.Background())
	t.Cleanup(func() { must(t, rt.Close(context.Background())) })
	return rt
}

// The variable is found under its name, in modules with and without globals, imports
// of globals, exports and code.
func TestInterruptVariable(t *testing.T) {
	rt := emptyRuntime(t)
	section := func(id byte, body ...byte) []byte { return section(id, body) }
	types := section(coreTypeSection, 1, formFunc, 0, 0)
	funcs := section(coreFuncSection, 1, 0)
	loops := section(coreCodeSection, 1, 7, 0, opLoop, formEmpty, 0x0c, 0, opEnd, opEnd)
	global := section(coreGlobalSection, 1, i32, 1, opI32Const, 5, opEnd)
	for name, sections := range map[string][][]byte{
		"nothing":          {},
		"code":             {types, funcs, loops},
		"a global":         {types, funcs, global, loops},
		"an export":        {types, funcs, section(coreExportSection, 1, 1, 'f', coreFunc, 0), loops},
		"both":             {types, funcs, global, section(coreExportSection, 1, 1, 'f', coreFunc, 0), loops},
		"data and a count": {types, funcs, section(coreMemorySection, 1, 0, 1), section(coreDataCountSection, 1), loops, section(11, 1, 0, opI32Const, 0, opEnd, 1, 'x')},
		"custom sections":  {section(coreCustomSection, 1, 'a', 0), types, section(coreCustomSection, 1, 'b', 0), funcs, loops, section(coreCustomSection, 1, 'c', 0)},
	} {
		module := slices.Concat(append([][]byte{[]byte(corePreamble)}, sections...)...)
		if _, err := rt.CompileModule(t.Context(), module); err != nil {
			t.Fatalf("%s: the module itself: %v", name, err)
		}
		rewritten, _, err := interruptible(module)
		must(t, err)
		m, err := rt.InstantiateWithConfig(t.Context(), rewritten, wazero.NewModuleConfig().WithName(""))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if g, ok := m.ExportedGlobal(interruptName).(api.MutableGlobal); !ok || g.Get() != 0 {
			t.Errorf("%s: the variable is %v", name, g)
		}
	}
}

// A module's imported functions and globals come before its own.
func TestImportedIndices(t *testing.T) {
	body := slices.Concat([]byte{5},
		entry("m", "f", coreFunc, 0), entry("m", "g", coreGlobal, i32, 0), entry("m", "t", coreTable, formFuncRef, 1, 1, 2),
		entry("m", "mem", coreMemory, 0, 1), entry("m", "h", coreGlobal, i64, 1))
	r := wasmReader{data: body}
	var w rewriter
	if w.imported(&r); w.functions != 1 || w.globals != 2 || !w.memory || len(w.foreign) != 4 || r.finish() != nil {
		t.Errorf("%+v, %v; want 1 function, 2 globals, a memory and 4 imports that are no functions", w, r.err)
	}
}

// A module that claims more than it has, or more than a guest needs, is refused before
// wazero allocates it.
func TestModulesThatClaimTooMuch(t *testing.T) {
	huge := []byte{0xff, 0xff, 0xff, 0xff, 0x0f}
	types, funcs := section(coreTypeSection, []byte{1, formFunc, 0, 0}), section(coreFuncSection, []byte{1, 0})
	for what, sections := range map[string][][]byte{
		"types":               {section(coreTypeSection, huge)},
		"parameters":          {section(coreTypeSection, []byte{1, formFunc}, huge)},
		"imports":             {section(coreImportSection, huge)},
		"an import's name":    {section(coreImportSection, []byte{1}, huge)},
		"functions":           {section(coreFuncSection, huge)},
		"tables":              {section(coreTableSection, []byte{maxTables + 1}, bytes.Repeat([]byte{formFuncRef, 0, 0}, maxTables+1))},
		"elements of a table": {section(coreTableSection, []byte{1, formFuncRef, 0}, appendU32(nil, maxElements+1))},
		"globals":             {section(coreGlobalSection, huge)},
		"exports":             {section(coreExportSection, huge)},
		"elements":            {section(coreElementSection, []byte{1, 1, 0}, huge)},
		"code":                {types, funcs, section(coreCodeSection, huge)},
		"locals":              {types, funcs, section(coreCodeSection, []byte{1, 6, 1, 0xff, 0xff, 0x7f, i32, opEnd})},
		"labels":              {types, funcs, section(coreCodeSection, []byte{1, 9, 0, 0x0e}, huge, []byte{opEnd})},
		"data":                {section(coreDataSection, []byte{1, 1}, huge)},
		"a tag":               {section(13, []byte{0})},
	} {
		before := allocated()
		_, _, err := interruptible(slices.Concat(append([][]byte{[]byte(corePreamble)}, sections...)...))
		if err == nil || !strings.Contains(err.Error(), "section ") {
			t.Errorf("%s: %v", what, err)
		}
		if grew := allocated() - before; grew > 1<<20 {
			t.Errorf("%s: %d bytes were allocated", what, grew)
		}
	}
}

// A table grows to the most that there may be.
func TestTablesAreBounded(t *testing.T) {
	for _, c := range []struct{ in, want []byte }{
		{[]byte{formFuncRef, 0, 5}, append([]byte{formFuncRef, 1, 5}, appendU32(nil, maxElements)...)},
		{[]byte{formFuncRef, 1, 5, 7}, []byte{formFuncRef, 1, 5, 7}},
		{append([]byte{formFuncRef, 1, 5}, appendU32(nil, 1<<30)...), append([]byte{formFuncRef, 1, 5}, appendU32(nil, maxElements)...)},
	} {
		r := wasmReader{data: append([]byte{1}, c.in...)}
		if got := r.tables(); r.finish() != nil || !bytes.Equal(got, append([]byte{1}, c.want...)) {
			t.Errorf("% x: % x, %v; want % x", c.in, got, r.err, c.want)
		}
	}
}

// A section of names that claims too much is left out, and the module still runs.
func TestNames(t *testing.T) {
	name := func(body ...byte) []byte {
		return section(coreCustomSection, append([]byte{4, 'n', 'a', 'm', 'e'}, body...))
	}
	good, bad := name(0, 2, 1, 'm', 1, 4, 1, 0, 1, 'f', 9, 1, 0), name(1, 5, 0xff, 0xff, 0xff, 0xff, 0x0f)
	for _, c := range []struct {
		in   []byte
		kept bool
	}{{good, true}, {bad, false}, {section(coreCustomSection, []byte("\x05.line")), false}} {
		got, _, err := interruptible(append([]byte(corePreamble), c.in...))
		if err != nil || bytes.Contains(got, c.in) != c.kept {
			t.Errorf("% x: kept %v, %v; want %v", c.in, bytes.Contains(got, c.in), err, c.kept)
		}
	}
}

// FuzzInterruptible wants what wazero compiles to be compiled with the checks too, and
// nothing else: a module that is not valid does not become so.
func FuzzInterruptible(f *testing.F) {
	rt := emptyRuntime(f)
	f.Add(hostile())
	f.Add(looping())
	f.Add(adapter(draft2))
	f.Add(link())
	application, err := os.ReadFile(filepath.Join("cgi", "testdata", "application.wasm"))
	must(f, err)
	f.Add(application)
	f.Fuzz(func(t *testing.T, module []byte) {
		ctx := t.Context()
		var valid []error
		rewritten, _, err := interruptible(module)
		if err != nil {
			return // what wazero thinks of it might take all memory
		}
		if len(rewritten) > 40*len(module)+128 {
			t.Errorf("%d bytes became %d", len(module), len(rewritten))
		}
		if bytes.Contains(module, []byte("manykv:")) {
			return // names of ours may be exported already
		}
		for _, binary := range [][]byte{module, rewritten} {
			var compiled wazero.CompiledModule
			if compiled, err = compileModule(ctx, rt, binary); err == nil {
				must(t, compiled.Close(ctx))
			}
			valid = append(valid, err)
		}
		if valid[0] != nil && strings.Contains(valid[0].Error(), "custom section name") {
			return // names that are not well-formed are left out
		}
		if (valid[0] == nil) != (valid[1] == nil) {
			t.Errorf("the module: %v; with the checks: %v", valid[0], valid[1])
		}
	})
}

package wasi

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

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

	check := []byte{0xaa, 0xbb}
	for op, n := range follow {
		function := slices.Concat([]byte{1, 1, i32}, []byte(op), bytes.Repeat([]byte{opLoop}, n))
		r := wasmReader{data: function}
		if got := r.checked(nil, check); r.err != nil || !bytes.Equal(got, function) {
			t.Errorf("instruction % x with %d bytes: %v, % x", op, n, r.err, got)
		}
		if n == 0 {
			continue
		}
		short := wasmReader{data: function[:len(function)-1]}
		if short.checked(nil, check); short.err == nil {
			t.Errorf("instruction % x cut short: %v", op, short.err)
		}
	}
	loop := wasmReader{data: []byte{0, opLoop, formEmpty, opEnd, opEnd}}
	if got, want := loop.checked(nil, check), []byte{0, opLoop, formEmpty, 0xaa, 0xbb, opEnd, opEnd}; !bytes.Equal(got, want) {
		t.Errorf("a loop: % x, want % x", got, want)
	}
	for _, op := range [][]byte{{0x06}, {0x12}, {0xd3}, {0xfe, 0}, {0xfc, 18}, {0xfd, 0x80, 2}} {
		r := wasmReader{data: append([]byte{0}, op...)}
		if r.checked(nil, check); r.err == nil {
			t.Errorf("instruction % x is known", op)
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
	section := func(id byte, body ...byte) []byte { return append([]byte{id, byte(len(body))}, body...) }
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
		rewritten, err := interruptible(module)
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

// A module's imported globals come before its own.
func TestImportedGlobals(t *testing.T) {
	body := slices.Concat([]byte{5},
		entry("m", "f", coreFunc, 0), entry("m", "g", coreGlobal, i32, 0), entry("m", "t", coreTable, formFuncRef, 1, 1, 2),
		entry("m", "mem", coreMemory, 0, 1), entry("m", "h", coreGlobal, i64, 1))
	r := wasmReader{data: body}
	if n := r.importedGlobals(); n != 2 || r.err != nil || r.at != len(body) {
		t.Errorf("%d globals, %v, %d bytes of %d; want 2", n, r.err, r.at, len(body))
	}
}

// FuzzInterruptible wants what wazero compiles to be compiled with the checks too.
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
		ctx, done := context.WithTimeout(context.Background(), 10*time.Second)
		defer done()
		rewritten, err := interruptible(module)
		if len(rewritten) > 16*len(module)+64 {
			t.Errorf("%d bytes became %d", len(module), len(rewritten))
		}
		compiled, invalid := rt.CompileModule(ctx, module)
		if invalid != nil {
			return
		}
		must(t, compiled.Close(ctx))
		if err != nil {
			t.Fatalf("wazero takes it: %v", err)
		}
		if slices.Contains(exportsOf(t, rt, module), interruptName) {
			return
		}
		compiled, err = rt.CompileModule(ctx, rewritten)
		must(t, err)
		must(t, compiled.Close(ctx))
	})
}

// exportsOf returns the names of what a module exports: only of functions and
// memories, which is what wazero tells.
func exportsOf(t *testing.T, rt wazero.Runtime, module []byte) (names []string) {
	t.Helper()
	compiled, err := rt.CompileModule(t.Context(), module)
	must(t, err)
	defer compiled.Close(t.Context())
	for name := range compiled.ExportedFunctions() {
		names = append(names, name)
	}
	for name := range compiled.ExportedMemories() {
		names = append(names, name)
	}
	return names
}

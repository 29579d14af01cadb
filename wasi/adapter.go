package wasi

import (
	"bytes"
	"slices"

	"github.com/tetratelabs/wazero/api"
)

// The adapter is a small WebAssembly module that stands between a guest and the
// host's functions. An answer with strings and lists has to be put into memory that
// the guest allocates, with one call of its cabi_realloc for each of them: 201 for a
// get-many of 100 keys. Such a call from Go costs 80 ns, from WebAssembly next to
// nothing. So the adapter calls the host's function, which says how many blocks it needs and writes
// their sizes and alignments into the adapter's memory; the adapter calls cabi_realloc
// for each and writes the address over the size; then it calls `finish`, and the
// host fills the blocks.
//
// The guest is instantiated after the adapter, whose functions it imports, so the
// adapter calls cabi_realloc through a table, into which another module, the link,
// puts it when the guest is there. Both modules are the same for all guests.

// Names between our modules; guests cannot import them.
const (
	hostModule           = "manykv"
	finishName           = "finish"
	reallocName          = "cabi_realloc"
	tableName            = "table"
	memoryName           = "memory"
	blockBytes           = 8 // in the adapter's memory: u32 size, then the address; u32 alignment
	opI32Const           = 0x41
	opLocalGet           = 0x20
	opLocalSet           = 0x21
	opLocalTee           = 0x22
	opCall               = 0x10
	opCallTable          = 0x11
	opEnd                = 0x0b
	formEmpty            = 0x40
	formFunc             = 0x60
	formFuncRef          = 0x70
	coreTypeSection      = 1
	coreFuncSection      = 3
	coreTableSection     = 4
	coreMemorySection    = 5
	coreStartSection     = 8
	coreElementSection   = 9
	coreGlobalSection    = 6
	coreCodeSection      = 10
	coreDataSection      = 11
	coreDataCountSection = 12 // between the elements and the code, whatever its number
)

// Signatures of the functions between our modules.
var (
	reallocParams = []api.ValueType{i32, i32, i32, i32}
	oneWord       = []api.ValueType{i32}
)

// hostName is under which name the adapter imports the host's function i: two
// dialects may have one of the same name.
func hostName(i int) string {
	return functions[i].iface + "#" + functions[i].name + "#" + string(rune('a'+i))
}

// adapter returns the adapter's module for a dialect.
func adapter(d dialect) []byte {
	var m moduleWriter
	var ours []int // indices in functions
	for i := range functions {
		if functions[i].of(d) {
			ours = append(ours, i)
		}
	}
	for _, i := range ours {
		var results []api.ValueType
		if functions[i].area.size > 0 {
			results = oneWord // the number of blocks
		}
		m.importFunc(hostModule, hostName(i), m.typeOf(functions[i].params(), results))
	}
	finish := uint32(len(ours))
	m.importFunc(hostModule, finishName, m.typeOf(nil, nil))

	lowering := m.define(m.typeOf(oneWord, nil), m.lowering(finish))
	for at, i := range ours {
		f := &functions[i]
		if f.area.size == 0 {
			m.export(f.name, coreFunc, uint32(at)) // nothing to lower
			continue
		}
		var code []byte
		for p := range f.params() {
			code = append(code, opLocalGet)
			code = appendU32(code, uint32(p))
		}
		code = appendU32(append(code, opCall), uint32(at))
		code = appendU32(append(code, opCall), lowering)
		m.export(f.name, coreFunc, m.define(m.typeOf(f.params(), nil), body(code)))
	}
	m.table, m.memory = true, true
	m.export(tableName, coreTable, 0)
	m.export(memoryName, coreMemory, 0)
	return m.bytes()
}

// lowering is the adapter's own function. Its parameter is the number of blocks,
// its local 1 the address of the one at hand, its local 2 the end of them.
//
//	for p := 0; p != 8*n; p += 8 { mem[p] = realloc(0, 0, mem[p+4], mem[p]) }
//	if n != 0 { finish() }
func (m *moduleWriter) lowering(finish uint32) []byte {
	code := []byte{
		1, 2, i32, // locals: two of i32
		opLocalGet, 0, 0x45, // i32.eqz
		0x04, formEmpty, 0x0f, opEnd, // if return end
		opLocalGet, 0, opI32Const, 3, 0x74, opLocalSet, 2, // end = n << 3
		0x03, formEmpty, // loop
		opLocalGet, 1,
		opI32Const, 0, opI32Const, 0,
		opLocalGet, 1, 0x28, 2, 4, // i32.load offset=4: the alignment
		opLocalGet, 1, 0x28, 2, 0, // i32.load: the size
		opI32Const, 0, opCallTable,
	}
	code = appendU32(code, m.typeOf(reallocParams, oneWord))
	code = append(code, 0, // of table 0
		0x36, 2, 0, // i32.store: the address
		opLocalGet, 1, opI32Const, blockBytes, 0x6a, opLocalTee, 1, // p += 8
		opLocalGet, 2, 0x47, // i32.ne
		0x0d, 0, // br_if 0: again
		opEnd)
	return append(appendU32(append(code, opCall), finish), opEnd)
}

// body is the body of a function without locals.
func body(code []byte) []byte { return append(append([]byte{0}, code...), opEnd) }

// link returns the module that puts a guest's cabi_realloc into an adapter's table.
func link() []byte {
	var m moduleWriter
	m.importFunc(guestModule, reallocName, m.typeOf(reallocParams, oneWord))
	m.imports = append(m.imports, entry(hostModule, tableName, coreTable, formFuncRef, 1, 1, 1))
	m.elements = [][]byte{{0, opI32Const, 0, opEnd, 1, 0}} // table 0 from 0 on: function 0
	return m.bytes()
}

// guestModule is the name under which the link imports the guest.
const guestModule = "guest"

// moduleWriter writes a core module, as far as the two modules here need it
// (https://webassembly.github.io/spec/core/binary/modules.html).
type moduleWriter struct {
	types, imports, funcs, exports, elements, codes [][]byte
	imported                                        uint32
	table, memory                                   bool
}

// typeOf returns the index of a function type.
func (m *moduleWriter) typeOf(params, results []api.ValueType) uint32 {
	t := append([]byte{formFunc, byte(len(params))}, params...)
	t = append(append(t, byte(len(results))), results...)
	if at := slices.IndexFunc(m.types, func(o []byte) bool { return bytes.Equal(o, t) }); at >= 0 {
		return uint32(at)
	}
	m.types = append(m.types, t)
	return uint32(len(m.types) - 1)
}

// importFunc imports a function; all imports come before the first define.
func (m *moduleWriter) importFunc(module, name string, typ uint32) {
	m.imports = append(m.imports, appendU32(entry(module, name, coreFunc), typ))
	m.imported++
}

// define adds a function and returns its index.
func (m *moduleWriter) define(typ uint32, code []byte) uint32 {
	m.funcs = append(m.funcs, appendU32(nil, typ))
	m.codes = append(m.codes, append(appendU32(nil, uint32(len(code))), code...))
	return m.imported + uint32(len(m.funcs)) - 1
}

func (m *moduleWriter) export(name string, kind byte, index uint32) {
	m.exports = append(m.exports, appendU32(append(appendName(nil, name), kind), index))
}

func (m *moduleWriter) bytes() []byte {
	out := []byte(corePreamble)
	section := func(id byte, items [][]byte) {
		if len(items) == 0 {
			return
		}
		body := appendU32(nil, uint32(len(items)))
		for _, item := range items {
			body = append(body, item...)
		}
		out = append(appendU32(append(out, id), uint32(len(body))), body...)
	}
	section(coreTypeSection, m.types)
	section(coreImportSection, m.imports)
	section(coreFuncSection, m.funcs)
	if m.table {
		section(coreTableSection, [][]byte{{formFuncRef, 1, 1, 1}}) // one element, for good
	}
	if m.memory {
		section(coreMemorySection, [][]byte{{0, 1}}) // a page, and as many as the runtime allows
	}
	section(coreExportSection, m.exports)
	section(coreElementSection, m.elements)
	section(coreCodeSection, m.codes)
	return out
}

// entry is an import: two names, then what it is.
func entry(module, name string, description ...byte) []byte {
	return append(appendName(appendName(nil, module), name), description...)
}

func appendName(dst []byte, name string) []byte {
	return append(appendU32(dst, uint32(len(name))), name...)
}

// appendU32 appends a number as LEB128.
func appendU32(dst []byte, n uint32) []byte {
	for ; n >= 0x80; n >>= 7 {
		dst = append(dst, byte(n)|0x80)
	}
	return append(dst, byte(n))
}

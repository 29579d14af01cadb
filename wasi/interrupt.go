package wasi

import (
	"bytes"
	"errors"
	"fmt"
)

// A guest must end when its context does, also in a loop that calls nobody, and Go's
// garbage collector, which stops every goroutine for a moment, must not wait for it:
// Go cannot preempt compiled WebAssembly, and everything else in the process would wait
// with it. wazero can see to both (WithCloseOnContextDone), but then leaves compiled
// code for Go at every turn of every loop, 30 ns each time. So the check is put into
// the guest's own code, before it is compiled. At the head of each loop and of each
// function, and after what may take long by itself, stands
//
//	turns = turns - weight
//	if (turns | interrupt) <= 0 {
//		turns = turnsBetween
//		memory.grow(0)                   // leaves for Go and comes back
//		if interrupt != 0 { unreachable }
//	}
//
// with two global variables; who ends the guest makes `interrupt` negative. The weight
// of a loop or a function is by how much text it has. What may take long is an
// instruction for many bytes or elements, before which their number is counted as
// turns, and a call that may reach an import. So, between two checks, there are only
// instructions of one function's text, one of them at most of those. (A guest may be
// ended at the check after the one that leaves for Go: the compiler does not read
// `interrupt` again there.)
//
// A module's start function would run before anybody could end it: it is taken from
// the module and exported, to be called when the instance is whole.
//
// What follows reads a module's sections and instructions (the core specification, §5)
// to find the loops, and to see that nothing in it makes wazero allocate without end
// (coresections.go). It puts globals and an export behind those there are, so that no
// index changes. Whatever is wrong with the module otherwise is left for wazero.

const (
	// interruptName is the export of the variable, beginName that of the start function.
	interruptName = "manykv:interrupt"
	beginName     = "manykv:start"
	// turnsBetween is how many loops and calls a guest makes between two visits of Go,
	// which cost 40 ns each: some microseconds of work.
	turnsBetween = 1000
	// turnShift makes turns of the size that an instruction fills or copies: 64 bytes, or
	// elements, are one.
	turnShift = 6
	// textShift makes turns of the text that a loop or a function has: 128 bytes are
	// one, some forty instructions, so that small loops look up no more often.
	textShift = 7
	// mostGrowth and leastRoom bound the code with the checks in it: several times what
	// there was, or so many bytes.
	mostGrowth = 4
	leastRoom  = 16 << 20
	// interrupted is the value of `interrupt` that ends the guest: the sign of an i32.
	interrupted = 1 << 31
)

// interruptible returns a core module with the checks in it, and those of its imports
// that are no functions.
func interruptible(module []byte) ([]byte, []Import, error) {
	if !bytes.HasPrefix(module, []byte(corePreamble)) {
		return nil, nil, errors.New("no core module")
	}
	w := rewriter{out: make([]byte, 0, 2*len(module))}
	w.out = append(w.out, corePreamble...)
	r := wasmReader{data: module, at: preambleSize}
	ahead := r
	if err := ahead.sections(w.findStart); err != nil {
		return nil, nil, err
	}
	err := r.sections(func(s wasmSection) error {
		if err := w.section(s.id, s.body); err != nil {
			return fmt.Errorf("section %d: %w", s.id, err)
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	w.before(coreCodeSection + 1) // a module without code has nothing to interrupt, but the variable
	return w.out, w.foreign, nil
}

// rewriter copies sections.
type rewriter struct {
	out       []byte
	functions uint32 // that the module imports
	foreign   []Import
	globals   uint32 // that the module has, imported ones included: the first variable's index
	memory    bool   // the module has one
	global    bool   // the variables are there
	export    bool   // and the exports
	starts    bool   // the module has a start function
	start     uint32 // which
}

// findStart looks for the start function, whose export comes before its section.
func (w *rewriter) findStart(s wasmSection) error {
	if s.id == coreStartSection {
		w.starts, w.start = true, s.body.u32()
	}
	return nil // what is wrong with it is found when it is read again
}

// before adds sections that the module does not have, if they belong before one.
func (w *rewriter) before(id byte) {
	if !w.memory && id > coreMemorySection {
		w.emit(coreMemorySection, []byte{1, 0, 0}) // one of no bytes, for memory.grow
		w.memory = true
	}
	if !w.global && id > coreGlobalSection {
		w.emit(coreGlobalSection, extended([]byte{0}, ourGlobals, variables()))
		w.global = true
	}
	if !w.export && id > coreExportSection {
		w.emit(coreExportSection, w.exported([]byte{0}))
		w.export = true
	}
}

// variables are the globals: `interrupt`, `turns`, and `size`, which holds an
// operand while it is counted.
func variables() []byte {
	code := []byte{i32, 1, opI32Const, 0, opEnd, i32, 1, opI32Const}
	return append(append(appendS32(code, turnsBetween), opEnd), i32, 1, opI32Const, 0, opEnd)
}

// ourGlobals is how many variables there are.
const ourGlobals = 3

// checks are what is put into a guest's code.
type checks struct {
	imports uint32 // functions: those have the first indices
	globals uint32 // that the module has; ours come behind them
	// check is what stands behind the weight.
	check []byte
	// weigh counts the size that is the operand on top.
	weigh []byte
}

// heavy appends the check for so many bytes of text.
func (c *checks) heavy(dst []byte, text int) []byte {
	turns := c.globals + 1
	dst = appendS32(append(appendU32(append(dst, opGlobalGet), turns), opI32Const), int32(1+text>>textShift))
	dst = append(dst, opI32Sub)
	return append(appendU32(append(dst, opGlobalSet), turns), c.check...)
}

func (w *rewriter) checks() checks {
	get := func(code []byte, global uint32) []byte { return appendU32(append(code, opGlobalGet), global) }
	set := func(code []byte, global uint32) []byte { return appendU32(append(code, opGlobalSet), global) }
	interrupt, turns, size := w.globals, w.globals+1, w.globals+2
	check := append(get(get(nil, turns), interrupt), opI32Or, opI32Const, 0, opI32LeS, opIf, formEmpty)
	check = set(appendS32(append(check, opI32Const), turnsBetween), turns)
	check = append(check, opI32Const, 0, opMemoryGrow, 0, opDrop)
	check = append(get(check, interrupt), opIf, formEmpty, opUnreachable, opEnd, opEnd)

	weigh := get(set(nil, size), turns)
	weigh = append(get(weigh, size), opI32Const, turnShift, opI32ShrU, opI32Sub)
	weigh = get(set(weigh, turns), size)
	return checks{w.functions, w.globals, check, weigh}
}

// appendS32 appends a number as LEB128 with a sign.
func appendS32(dst []byte, n int32) []byte {
	for n < -64 || n > 63 {
		dst = append(dst, byte(n&0x7f)|0x80)
		n >>= 7
	}
	return append(dst, byte(n&0x7f))
}

// exported returns the section of exports with ours.
func (w *rewriter) exported(body []byte) []byte {
	n, ours := uint32(1), appendU32(append(appendName(nil, interruptName), coreGlobal), w.globals)
	if w.starts {
		n, ours = 2, appendU32(append(appendName(ours, beginName), coreFunc), w.start)
	}
	return extended(body, n, ours)
}

func (w *rewriter) emit(id byte, body []byte) {
	w.out = append(appendU32(append(w.out, id), uint32(len(body))), body...)
}

// extended returns the body of a section, a vector, with n more elements.
func extended(body []byte, n uint32, elements []byte) []byte {
	r := wasmReader{data: body}
	had := r.u32()
	return append(append(appendU32(nil, had+n), body[r.at:]...), elements...)
}

func (w *rewriter) section(id byte, r *wasmReader) error {
	body := r.data[r.at:]
	switch id {
	case coreCustomSection:
		if string(r.bytes()) == "name" && r.names() {
			w.emit(id, body)
		}
		return r.err // others say where in the code something is, which is elsewhere now
	case coreDataCountSection:
		w.before(coreCodeSection)
	default:
		w.before(id)
	}
	whole := *r
	switch id {
	case coreImportSection:
		w.imported(r)
	case coreTableSection:
		body = r.tables()
	case coreMemorySection:
		w.memory = w.memory || whole.u32() > 0
		r.coreSection(id)
	case coreGlobalSection:
		w.globals += whole.u32()
		r.coreSection(id)
		body, w.global = extended(body, ourGlobals, variables()), true
	case coreExportSection:
		r.coreSection(id)
		body, w.export = w.exported(body), true
	case coreCodeSection:
		body = w.code(r)
	default:
		r.coreSection(id)
	}
	if err := r.finish(); err != nil {
		return err
	}
	if id != coreStartSection {
		w.emit(id, body)
	}
	return nil
}

// imported counts what the section of imports has.
func (w *rewriter) imported(r *wasmReader) {
	r.each(func() {
		module, name, kind := r.bytes(), r.bytes(), r.peek()
		switch kind {
		case coreFunc:
			w.functions++
		case coreGlobal:
			w.globals++
		case coreMemory:
			w.memory = true
		}
		if r.coreImportType(); kind != coreFunc && r.err == nil {
			why := map[byte]string{coreTable: "a table", coreMemory: "a memory", coreGlobal: "a global variable"}[kind]
			w.foreign = append(w.foreign, Import{string(module), string(name), why + ": a guest must have its own"})
		}
	})
}

// code returns the section of functions' bodies with the checks in it.
func (w *rewriter) code(r *wasmReader) []byte {
	checks := w.checks()
	n := r.count()
	room := max(leastRoom, mostGrowth*r.left())
	out := appendU32(make([]byte, 0, 2*r.left()), uint32(n))
	var function []byte
	for range n {
		f := wasmReader{data: r.bytes()}
		if function = f.checked(function[:0], &checks); f.err != nil {
			r.fail("a function: %v", f.err)
		}
		if len(out)+len(function) > room {
			r.fail("with the checks that end it the code has more than %d bytes", room)
		}
		if r.err != nil {
			return nil
		}
		out = append(appendU32(out, uint32(len(function))), function...)
	}
	return out
}

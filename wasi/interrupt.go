package wasi

import (
	"bytes"
	"errors"
	"fmt"
)

// A guest must end when its context does, also in a loop that calls nobody. wazero can
// see to that, but then leaves the compiled code for Go at every turn of every loop,
// 30 ns each time: an order of magnitude for a loop over bytes. So the check is put
// into the guest's own code, before it is compiled: a global variable, and at the head
// of each loop
//
//	global.get $interrupt  if  unreachable  end
//
// which costs a load and a branch that is never taken. Who ends the guest sets the
// variable. Recursion without end needs no check: the stack ends it.
//
// This is the whole of it: what follows reads a module's sections and instructions
// just as far as it must to find the loops (the core specification, §5), and puts one
// global and one export behind those there are, so that no index changes. Whatever is
// wrong with the module otherwise is left for wazero to find.

// interruptName is the export of the variable.
const interruptName = "manykv:interrupt"

// interruptible returns a core module with the checks in it.
func interruptible(module []byte) ([]byte, error) {
	if !bytes.HasPrefix(module, []byte(corePreamble)) {
		return nil, errors.New("no core module")
	}
	w := rewriter{out: make([]byte, 0, len(module)+len(module)/8)}
	w.out = append(w.out, corePreamble...)
	r := wasmReader{data: module, at: preambleSize}
	err := r.sections(func(s wasmSection) error {
		if err := w.section(s.id, s.body); err != nil {
			return fmt.Errorf("section %d: %w", s.id, err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	w.before(coreCodeSection + 1) // a module without code has nothing to interrupt, but the variable
	return w.out, nil
}

// rewriter copies sections.
type rewriter struct {
	out     []byte
	globals uint32 // that the module has, imported ones included: the variable's index
	global  bool   // the variable is there
	export  bool   // and its export
}

// before adds sections that the module does not have, if they belong before one.
func (w *rewriter) before(id byte) {
	if !w.global && id > coreGlobalSection {
		w.emit(coreGlobalSection, w.extended([]byte{0}, variable))
		w.global = true
	}
	if !w.export && id > coreExportSection {
		w.emit(coreExportSection, w.extended([]byte{0}, w.exported()))
		w.export = true
	}
}

// variable is the global: i32, mutable, 0.
var variable = []byte{i32, 1, opI32Const, 0, opEnd}

func (w *rewriter) exported() []byte {
	return appendU32(append(appendName(nil, interruptName), coreGlobal), w.globals)
}

func (w *rewriter) emit(id byte, body []byte) {
	w.out = append(appendU32(append(w.out, id), uint32(len(body))), body...)
}

// extended returns the body of a section, a vector, with one more element.
func (w *rewriter) extended(body, element []byte) []byte {
	r := wasmReader{data: body}
	n := r.u32()
	return append(append(appendU32(nil, n+1), body[r.at:]...), element...)
}

func (w *rewriter) section(id byte, r *wasmReader) error {
	body := r.data[r.at:]
	switch id {
	case coreCustomSection:
		w.emit(id, body) // anywhere; offsets in there are wrong now, and nobody uses them
		return nil
	case coreDataCountSection:
		w.before(coreCodeSection)
	default:
		w.before(id)
	}
	switch id {
	case coreImportSection:
		w.globals = r.importedGlobals()
	case coreGlobalSection:
		w.globals += r.u32()
		body, w.global = w.extended(body, variable), true
	case coreExportSection:
		r.u32()
		body, w.export = w.extended(body, w.exported()), true
	case coreCodeSection:
		body = w.code(r)
	}
	if r.err != nil {
		return r.err
	}
	w.emit(id, body)
	return nil
}

// code returns the section of functions' bodies with the checks in it.
func (w *rewriter) code(r *wasmReader) []byte {
	check := append(appendU32([]byte{opGlobalGet}, w.globals), opIf, formEmpty, opUnreachable, opEnd)
	n := r.count()
	out := appendU32(make([]byte, 0, r.left()+r.left()/8), uint32(n))
	var function []byte
	for range n {
		f := wasmReader{data: r.bytes()}
		if function = f.checked(function[:0], check); f.err != nil {
			r.fail("a function: %v", f.err)
		}
		if r.err != nil {
			return nil
		}
		out = append(appendU32(out, uint32(len(function))), function...)
	}
	_ = r.finish() // it keeps the error
	return out
}

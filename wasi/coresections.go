package wasi

// wazero takes a module's word for how much there is of something, and allocates it
// before it looks; and a guest's tables may grow until nothing is left. So all of a
// module is passed over before wazero sees it: every count is compared with the bytes
// that are left for it, and what has no bytes, with a limit.
const (
	// maxLocals of a function is what browsers allow.
	maxLocals = 50_000
	// maxTables and maxElements bound a module's tables and each table's elements, of 8
	// bytes: a table holds the functions whose addresses a program takes.
	maxTables   = 16
	maxElements = 1 << 20
)

// coreSection passes over the body of a section. Those that are rewritten are read
// elsewhere: see rewriter.section.
func (r *wasmReader) coreSection(id byte) {
	switch id {
	case coreTypeSection:
		r.each(r.coreType)
	case coreFuncSection:
		r.skip("*u")
	case coreMemorySection:
		r.each(r.coreLimits)
	case coreGlobalSection:
		r.each(func() {
			r.coreValueType()
			r.byte() // mutable
			r.constant()
		})
	case coreExportSection:
		r.skip("*nbu")
	case coreStartSection, coreDataCountSection:
		r.u32()
	case coreElementSection:
		r.each(r.elements)
	case coreDataSection:
		r.each(r.segment)
	default:
		r.fail("unknown section")
	}
}

// coreType passes over the type of a function.
func (r *wasmReader) coreType() {
	if form := r.byte(); form != formFunc {
		r.fail("a type of form %#02x, want %#02x, a function's", form, formFunc)
	}
	r.each(r.coreValueType)
	r.each(r.coreValueType)
}

// constant passes over an expression of constants.
func (r *wasmReader) constant() {
	for r.left() > 0 {
		op := r.byte()
		if op == opEnd {
			return
		}
		r.immediates(op)
	}
	r.fail("an expression without an end")
}

// elements passes over a segment of elements, whose form is in three bits.
func (r *wasmReader) elements() {
	const passive, explicit, expressions = 1, 2, 4
	form := r.u32()
	if form > 7 {
		r.fail("a segment of elements of form %d, want 0 to 7", form)
	}
	if form&passive == 0 {
		if form&explicit != 0 {
			r.u32() // the table
		}
		r.constant()
	}
	switch {
	case form&expressions != 0:
		if form&(passive|explicit) != 0 {
			r.coreValueType()
		}
		r.each(r.constant)
	default:
		if form&(passive|explicit) != 0 {
			r.byte() // the kind: functions
		}
		r.skip("*u")
	}
}

// segment passes over a segment of data.
func (r *wasmReader) segment() {
	switch form := r.u32(); form {
	case 0:
		r.constant()
	case 1: // passive
	case 2:
		r.u32() // the memory
		r.constant()
	default:
		r.fail("a segment of data of form %d, want 0 to 2", form)
	}
	r.bytes()
}

// locals passes over the locals of a function.
func (r *wasmReader) locals() {
	total := uint64(0)
	r.each(func() {
		total += uint64(r.u32())
		r.coreValueType()
	})
	if total > maxLocals {
		r.fail("a function of %d locals, at most %d are allowed", total, maxLocals)
	}
}

// tables copies the section of tables, and gives each a maximum.
func (r *wasmReader) tables() []byte {
	const hasMax = 1
	n := r.count()
	if n > maxTables {
		r.fail("%d tables, at most %d are allowed", n, maxTables)
	}
	out := appendU32(nil, uint32(n))
	for range n {
		from := r.at
		r.coreValueType()
		out = append(out, r.data[from:r.at]...)
		flags, least, most := r.byte(), r.u32(), uint32(maxElements)
		if flags == hasMax {
			most = min(most, r.u32())
		} else if flags != 0 {
			r.fail("a table with limits of form %#02x, want 0 or 1", flags)
		}
		if least > maxElements {
			r.fail("a table of %d elements, at most %d are allowed", least, maxElements)
		}
		out = appendU32(appendU32(append(out, hasMax), least), max(least, most))
		if r.err != nil {
			return nil
		}
	}
	return out
}

// names passes over the custom section "name", which is worth having in messages, and
// says whether it is as it should be: it is left out otherwise.
func (r *wasmReader) names() bool {
	for r.left() > 0 {
		id := r.byte()
		sub := wasmReader{data: r.bytes()}
		switch id {
		case 0: // of the module
			sub.bytes()
		case 1: // of functions
			sub.skip("*un")
		case 2: // of locals
			sub.skip("*u*un")
		default:
			sub.at = len(sub.data)
		}
		if r.err != nil || sub.finish() != nil {
			return false
		}
	}
	return true
}

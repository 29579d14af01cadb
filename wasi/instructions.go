package wasi

// anyLEB passes over a number in LEB128 of at most 64 bits, with or without a sign.
func (r *wasmReader) anyLEB() {
	for range 10 {
		if r.byte() < 0x80 {
			return
		}
	}
	r.fail("a number of more than 64 bits")
}

// Instructions that are not just passed over.
const (
	opUnreachable = 0x00
	opBlock       = 0x02
	opLoop        = 0x03
	opIf          = 0x04
	opDrop        = 0x1a
	opGlobalGet   = 0x23
	opGlobalSet   = 0x24
	opMemoryGrow  = 0x40
	opI32LeS      = 0x4c
	opI32Sub      = 0x6b
	opI32Or       = 0x72
	opI32ShrU     = 0x76
	opBulk        = 0xfc // the first byte of those that fill and copy
)

// checked appends a function's body to dst, with the check where it belongs: see
// interrupt.go.
func (r *wasmReader) checked(dst []byte, c *checks) []byte {
	r.locals()
	extents := r.extents()
	dst = c.heavy(append(dst, r.data[:r.at]...), r.left())
	for r.left() > 0 && r.err == nil {
		from := r.at
		op := r.byte()
		weighed, long, text := false, op == opCallTable, 0
		switch op {
		case opLoop:
			long, text, extents = true, extents[0], extents[1:]
		case opGlobalGet, opGlobalSet:
			r.ownGlobal(c.globals)
		case opCall:
			ahead := *r
			long = ahead.u32() < c.imports
		case opBulk:
			weighed = r.left() > 0 && sized(r.peek())
			long = weighed
		}
		r.immediates(op)
		if weighed {
			dst = append(dst, c.weigh...)
		}
		dst = append(dst, r.data[from:r.at]...)
		if long {
			dst = c.heavy(dst, text)
		}
	}
	return dst
}

// extents returns how many bytes of text each loop of the function has that begins
// here, in their order.
func (r *wasmReader) extents() (texts []int) {
	type block struct {
		loop  int // its place in texts; -1 if it is none
		begin int
	}
	ahead := *r
	open := []block{{-1, ahead.at}} // the function
	for ahead.left() > 0 && ahead.err == nil && len(open) > 0 {
		op := ahead.byte()
		ahead.immediates(op)
		switch op {
		case opBlock, opIf:
			open = append(open, block{-1, ahead.at})
		case opLoop:
			open = append(open, block{len(texts), ahead.at})
			texts = append(texts, 0)
		case opEnd:
			last := open[len(open)-1]
			open = open[:len(open)-1]
			if last.loop >= 0 {
				texts[last.loop] = ahead.at - last.begin
			}
		}
	}
	switch {
	case ahead.err != nil:
		r.err = ahead.err
	case len(open) > 0 || ahead.left() > 0:
		r.fail("a function whose blocks and ends do not match")
	}
	return texts
}

// sized says whether an instruction that begins with 0xfc has a number of bytes or of
// elements as the operand on top: memory.init, .copy and .fill, table.init, .copy,
// .grow and .fill.
func sized(op byte) bool {
	return op == 8 || op == 10 || op == 11 || op == 12 || op == 14 || op == 15 || op == 17
}

// ownGlobal looks at the index that follows: the module's own globals end before ours.
func (r *wasmReader) ownGlobal(globals uint32) {
	ahead := *r
	if index := ahead.u32(); index >= globals {
		r.fail("global %d, there are %d", index, globals)
	}
}

// immediates passes over what follows an opcode: WebAssembly 2.0, which is what
// wazero compiles.
func (r *wasmReader) immediates(op byte) {
	switch {
	case op == opBlock, op == opLoop, op == opIf, // the type
		op == 0x0c, op == 0x0d, op == opCall, // br, br_if
		op >= 0x20 && op <= 0x26, // local.*, global.*, table.get, table.set
		op == 0x3f, op == 0x40,   // memory.size, memory.grow
		op == opI32Const, op == 0x42, // i64.const
		op == 0xd0, op == 0xd2: // ref.null, ref.func
		r.anyLEB()
	case op == opCallTable, op >= 0x28 && op <= 0x3e: // loads and stores: alignment, offset
		r.skip("uu")
	case op == 0x0e: // br_table
		r.skip("*u")
		r.u32()
	case op == 0x1c: // select of types
		r.bytes()
	case op == 0x43: // f32.const
		r.take(4)
	case op == 0x44: // f64.const
		r.take(8)
	case op == opBulk:
		r.bulk(uint32(r.byte())) // each has one byte
	case op == 0xfd:
		second := r.byte()
		if second >= 0x80 && r.byte() != 1 { // only the shortest form: wazero reads no other
			r.fail("an instruction that is not in its shortest form")
		}
		r.vector(uint32(second))
	case op <= 0x01, op == 0x05, op == opEnd, op == 0x0f, op == 0x1a, op == 0x1b, op >= 0x45 && op <= 0xc4, op == 0xd1:
	default:
		r.fail("unknown instruction %#x", op)
	}
}

// bulk passes over the rest of an instruction that begins with 0xfc.
func (r *wasmReader) bulk(op uint32) {
	switch {
	case op <= 7: // saturating conversions
	case op == 8, op == 10, op == 12, op == 14: // memory.init, memory.copy, table.init, table.copy
		r.skip("uu")
	case op <= 17: // the others have one index
		r.anyLEB()
	default:
		r.fail("unknown instruction 0xfc %d", op)
	}
}

// vector passes over the rest of an instruction that begins with 0xfd.
func (r *wasmReader) vector(op uint32) {
	switch {
	case op <= 11, op == 92, op == 93: // loads and stores
		r.skip("uu")
	case op == 12, op == 13: // v128.const, i8x16.shuffle
		r.take(16)
	case op >= 21 && op <= 34: // a lane's number
		r.byte()
	case op >= 84 && op <= 91: // loads and stores of a lane
		r.skip("uu")
		r.byte()
	case op <= 255:
	default:
		r.fail("unknown instruction 0xfd %d", op)
	}
}

package wasi

// The grammar of a component is that of the component model's Binary.md.
// (github.com/WebAssembly/component-model, design/mvp; what later drafts added is in
// it as well.) Nothing is built from what is read past.

// valueType is the type of a parameter, result or part: a primitive or an index.
type valueType struct {
	primitive byte // 0: index
	index     uint32
}

var primitiveTypes = map[byte]string{
	0x7f: "bool", 0x7e: "s8", 0x7d: "u8", 0x7c: "s16", 0x7b: "u16", 0x7a: "s32", 0x79: "u32",
	0x78: "s64", 0x77: "u64", 0x76: "f32", 0x75: "f64", 0x74: "char", primitiveString: "string",
	0x64: "error-context",
}

const (
	primitiveString = 0x73

	typeResource  = 0x3f
	typeFunc      = 0x40
	typeComponent = 0x41
	typeInstance  = 0x42
	typeAsyncFunc = 0x43
	typeMap       = 0x63
	typeFuture    = 0x65
	typeStream    = 0x66
	typeArray     = 0x67 // a list of fixed length
	typeBorrow    = 0x68
	typeOwn       = 0x69
	typeResult    = 0x6a
	typeOption    = 0x6b
	typeEnum      = 0x6d
	typeFlags     = 0x6e
	typeTuple     = 0x6f
	typeList      = 0x70
	typeVariant   = 0x71
	typeRecord    = 0x72

	canonLift = 0x00 // a canonical definition
)

// typeOperands is what follows the opcode of a type, in the letters of skip.
var typeOperands = map[byte]string{
	typeResource: "b?u", typeFunc: "pr", typeAsyncFunc: "pr", typeMap: "vv", typeFuture: "?v",
	typeStream: "?v", typeArray: "vu", typeBorrow: "u", typeOwn: "u", typeResult: "?v?v",
	typeOption: "v", typeEnum: "*n", typeFlags: "*n", typeTuple: "*v", typeList: "v",
	typeVariant: "*n?vb", typeRecord: "p",
}

// canonOperands is what follows the opcode of a canonical definition, in the
// letters of skip.
var canonOperands = map[byte]string{
	0x01: "buo",                     // lower
	0x02: "u", 0x03: "u", 0x04: "u", // resource.new, .drop, .rep
	0x05: "", 0x06: "b", // task.cancel, subtask.cancel
	0x09: "ro",             // task.return
	0x0a: "bu", 0x0b: "bu", // context.get, .set
	0x0c: "b", 0x0d: "", // thread.yield, subtask.drop
	0x0e: "u", 0x0f: "uo", 0x10: "uo", 0x11: "ub", 0x12: "ub", 0x13: "u", 0x14: "u", // stream.*
	0x15: "u", 0x16: "uo", 0x17: "uo", 0x18: "ub", 0x19: "ub", 0x1a: "u", 0x1b: "u", // future.*
	0x1c: "o", 0x1d: "o", 0x1e: "", // error-context.*
	0x1f: "", 0x20: "bu", 0x21: "bu", 0x22: "", 0x23: "", // waitable-set.*, waitable.join
	0x24: "", 0x25: "", // backpressure.inc, .dec
	0x26: "", 0x27: "uu", 0x28: "", 0x29: "b", 0x2a: "b", 0x2b: "b", 0x2c: "b", 0x2d: "b", // thread.*
}

// skip reads past operands: b is a byte, u an integer or index, v a value type, n a
// label, p a parameter list, r a result list, o canonical options; ? before a
// letter makes it optional, * reads a vector of all that follows.
func (r *wasmReader) skip(operands string) {
	for i := 0; i < len(operands) && r.err == nil; i++ {
		switch operands[i] {
		case 'b':
			r.byte()
		case 'u':
			r.u32()
		case 'v':
			r.valueType()
		case 'n':
			r.bytes()
		case 'p':
			r.skip("*nv")
		case 'r':
			r.resultList()
		case 'o':
			r.canonOptions()
		case '?':
			if !r.present() {
				i++
			}
		case '*':
			r.each(func() { r.skip(operands[i+1:]) })
			return
		}
	}
}

// present reads whether an optional item follows.
func (r *wasmReader) present() bool {
	b := r.byte()
	if b > 1 {
		r.fail("got %#02x before an optional item, want 0 or 1", b)
	}
	return b == 1
}

func (r *wasmReader) valueType() valueType {
	if primitiveTypes[r.peek()] != "" {
		return valueType{primitive: r.byte()}
	}
	return valueType{index: r.typeIndex()}
}

func (r *wasmReader) optionalType() (t valueType, there bool) {
	if there = r.present(); there {
		t = r.valueType()
	}
	return t, there
}

// resultList reads a function's result: its byte is 0 before a type, 1 before the 0
// that says that there are no results.
func (r *wasmReader) resultList() (t valueType, there bool) {
	switch b := r.byte(); b {
	case 0:
		return r.valueType(), true
	case 1:
		if n := r.byte(); n != 0 {
			r.fail("%d named results, want none", n)
		}
	default:
		r.fail("got %#02x before a result, want 0 or 1", b)
	}
	return valueType{}, false
}

// canonOptions reads the options of a canonical definition. It returns what makes
// it unlike a plain lift or lower of UTF-8 strings.
func (r *wasmReader) canonOptions() (unlike string) {
	r.each(func() {
		switch option := r.byte(); option {
		case 0x00: // string-encoding=utf8
		case 0x01:
			unlike = "string-encoding=utf16"
		case 0x02:
			unlike = "string-encoding=latin1+utf16"
		case 0x03, 0x04, 0x05: // memory, realloc, post-return
			r.u32()
		case 0x06:
			unlike = "async"
		case 0x07:
			r.u32()
			unlike = "async" // callback, of an async lift only
		default:
			r.fail("canonical option %#02x is unknown", option)
		}
	})
	return unlike
}

// externSort is a component's kind of definition. Those of core WebAssembly are all
// sortCore: none is used here.
type externSort byte

const (
	sortCore externSort = iota
	sortFunc
	sortValue
	sortType
	sortComponent
	sortInstance
)

func (r *wasmReader) sort() externSort {
	s := externSort(r.byte())
	switch {
	case s == sortCore:
		r.byte()
	case s > sortInstance:
		r.fail("sort %#02x is unknown", byte(s))
	}
	return s
}

// externName reads the name of an import or export. The byte before it is 0, or 1
// from tools of 2023, or 2 when attributes follow.
func (r *wasmReader) externName() string {
	form := r.byte()
	if form > 2 {
		r.fail("got %#02x before a name, want 0, 1 or 2", form)
	}
	name := r.name()
	if form == 2 {
		r.skip("*bn")
	}
	return name
}

// externType is the type of an import or export.
type externType struct {
	sort  externSort
	index uint32 // of its type
	equal bool   // of a type: equal to that at index, not a resource
}

func (r *wasmReader) externType() externType {
	t := externType{sort: r.sort()}
	switch t.sort {
	case sortType:
		if t.equal = r.byte() == 0; t.equal {
			t.index = r.u32()
		}
	case sortValue:
		if r.byte() == 0 {
			r.u32()
		} else {
			r.valueType()
		}
	default:
		t.index = r.u32()
	}
	return t
}

// aliasDef is an alias: of an instance's export by name, or of an enclosing scope's
// definition by index.
type aliasDef struct {
	of    externSort
	name  string
	outer bool
	count uint32 // of scopes outward
	index uint32
}

func (r *wasmReader) alias() aliasDef {
	a := aliasDef{of: r.sort()}
	switch target := r.byte(); target {
	case 0x00, 0x01: // export of an instance, of a core instance
		r.u32()
		a.name = r.name()
	case 0x02:
		a.outer = true
		a.count, a.index = r.u32(), r.u32()
	default:
		r.fail("alias of %#02x is unknown", target)
	}
	return a
}

// skipType reads past a type's definition.
func (r *wasmReader) skipType(depth int) {
	op := r.byte()
	operands, ok := typeOperands[op]
	switch {
	case depth > maxNesting:
		r.fail("types are nested more than %d deep", maxNesting)
	case op == typeComponent || op == typeInstance:
		r.each(func() { r.skipDeclarator(depth) })
	case ok:
		r.skip(operands)
	case primitiveTypes[op] == "":
		r.fail("type %#02x is unknown", op)
	}
}

// skipDeclarator reads past one item of a component or instance type.
func (r *wasmReader) skipDeclarator(depth int) {
	switch op := r.byte(); op {
	case 0x01:
		r.skipType(depth + 1)
	case 0x02:
		r.alias()
	case 0x03, 0x04: // import, export
		r.externName()
		r.externType()
	default: // 0x00, a core type, is none that WIT could say
		r.fail("declarator %#02x is unknown", op)
	}
}

package wasi

import (
	"cmp"
	"strconv"
	"strings"
)

// resultKind says what a function of a component returns, as far as it can be
// called here.
type resultKind uint8

const (
	resultOther          resultKind = iota // nothing that is known here
	resultNone                             // no result
	resultString                           // string
	resultStringOrString                   // result<string, string>
)

// signature is the type of a function that a component exports.
type signature struct {
	params int        // how many; -1 when the type could not be read
	result resultKind // resultOther as well when the call's ABI is not the usual one
	text   string     // as WIT spells it, for messages; cut when long
}

const (
	// maxFlatParams is the canonical ABI's: more parameters go through memory. None
	// can be given here anyway.
	maxFlatParams = 16
	// maxText bounds the text of a signature in bytes. Types refer to types, so a
	// small binary could spell out an exponentially long one.
	maxText = 300
	// maxLabel bounds one label in it.
	maxLabel = 60
)

// typeDef is a type in a component's index space.
type typeDef struct {
	at   int    // where it is defined in the binary; 0: not known
	name string // under which it is imported, exported or aliased
}

// funcDef is a function in a component's index space.
type funcDef struct {
	at     int    // where its type is defined in the binary; 0: not known
	unlike string // the option that makes its ABI one that the host does not have
}

// defineTypes reads a type section. Items after one that is not understood are
// counted, so that later sections' indices stay right. They do not when bytes are left
// over: there was more to an item, or more of them, than is known here.
func (c *componentReader) defineTypes(r *wasmReader) {
	for n := r.count(); n > 0; n-- {
		d := typeDef{at: r.at}
		if r.skipType(0); r.err != nil {
			d.at = 0
		}
		c.types.add(d)
	}
	if r.err == nil {
		c.loseAfter(r)
	}
}

// signature reads the type of a function.
func (c *componentReader) signature(f funcDef) signature {
	if f.at == 0 || c.binary[f.at] != typeFunc && c.binary[f.at] != typeAsyncFunc {
		return signature{params: -1, text: "func(?)"}
	}
	s := signature{text: c.spell(f)}
	r := wasmReader{data: c.binary, at: f.at + 1}
	s.params = r.count()
	if s.params > maxFlatParams {
		return s
	}
	for range s.params {
		r.skip("nv")
	}
	if t, there := r.resultList(); f.unlike == "" {
		s.result = c.resultKind(t, there)
	}
	return s
}

func (c *componentReader) resultKind(t valueType, there bool) resultKind {
	switch {
	case !there:
		return resultNone
	case c.isString(t):
		return resultString
	}
	r := c.definition(c.types.get(t.index))
	if t.primitive == 0 && r.byte() == typeResult {
		value, hasValue := r.optionalType()
		problem, hasProblem := r.optionalType()
		if hasValue && hasProblem && c.isString(value) && c.isString(problem) {
			return resultStringOrString
		}
	}
	return resultOther
}

// isString sees through `type title = string`.
func (c *componentReader) isString(t valueType) bool {
	if t.primitive == 0 {
		t.primitive = c.definition(c.types.get(t.index)).peek()
	}
	return t.primitive == primitiveString
}

// definition returns a reader of a type's definition. It is empty for one that is
// not known.
func (c *componentReader) definition(d typeDef) *wasmReader {
	if d.at == 0 {
		return &wasmReader{}
	}
	return &wasmReader{data: c.binary, at: d.at}
}

// spell returns a function's type as WIT spells it.
func (c *componentReader) spell(f funcDef) string {
	t := witText{c: c}
	r := wasmReader{data: c.binary, at: f.at}
	if r.byte() == typeAsyncFunc {
		t.add("async ")
	}
	t.add("func(")
	for i, n := 0, r.count(); i < n && !t.full(); i++ {
		if i > 0 {
			t.add(", ")
		}
		t.add(witLabel(r.bytes()), ": ")
		t.value(r.valueType())
	}
	t.add(")")
	if !t.full() { // r is where the result is
		if result, there := r.resultList(); there {
			t.add(" -> ")
			t.value(result)
		}
	}
	if f.unlike != "" {
		t.add(", lifted with ", f.unlike)
	}
	return t.String()
}

// witText is a type's text. It takes no more once it is full, and whoever walks a
// type stops then: that bounds the walk of types that refer to each other.
type witText struct {
	c *componentReader
	b strings.Builder
}

func (t *witText) full() bool { return t.b.Len() > maxText }

func (t *witText) add(words ...string) {
	for _, w := range words {
		if t.full() {
			return
		}
		t.b.WriteString(w)
	}
}

func (t *witText) String() string {
	if t.full() {
		return t.b.String()[:maxText] + "..."
	}
	return t.b.String()
}

func (t *witText) value(v valueType) {
	if v.primitive != 0 {
		t.add(primitiveTypes[v.primitive])
	} else if !t.full() {
		t.defined(t.c.types.get(v.index))
	}
}

// defined adds a type by its structure where WIT spells one out in place, by its
// name otherwise. Every case adds something before it goes deeper.
func (t *witText) defined(d typeDef) {
	r := t.c.definition(d)
	switch op := r.byte(); op {
	case typeList:
		t.parts("list", 1, r)
	case typeOption:
		t.parts("option", 1, r)
	case typeMap:
		t.parts("map", 2, r)
	case typeArray:
		t.add("list<")
		t.value(r.valueType())
		t.add(", ", strconv.FormatUint(uint64(r.u32()), 10), ">")
	case typeTuple:
		t.parts("tuple", r.count(), r)
	case typeResult:
		t.result(r)
	case typeBorrow:
		t.add("borrow<", t.c.types.get(r.u32()).label("resource"), ">")
	case typeOwn:
		t.add(t.c.types.get(r.u32()).label("resource"))
	default:
		t.add(cmp.Or(primitiveTypes[op], d.label(typeWords[op])))
	}
}

// typeWords is how types are called that have no name.
var typeWords = map[byte]string{
	typeRecord: "record", typeVariant: "variant", typeEnum: "enum", typeFlags: "flags",
	typeFuture: "future", typeStream: "stream",
}

func (t *witText) result(r *wasmReader) {
	value, hasValue := r.optionalType()
	problem, hasProblem := r.optionalType()
	if !hasValue && !hasProblem {
		t.add("result")
		return
	}
	t.add("result<")
	if hasValue {
		t.value(value)
	} else {
		t.add("_")
	}
	if hasProblem {
		t.add(", ")
		t.value(problem)
	}
	t.add(">")
}

// parts reads a type's n parts.
func (t *witText) parts(word string, n int, r *wasmReader) {
	t.add(word, "<")
	for i := 0; i < n && !t.full(); i++ {
		if i > 0 {
			t.add(", ")
		}
		t.value(r.valueType())
	}
	t.add(">")
}

// label returns the name of a type, or what it is.
func (d typeDef) label(otherwise string) string {
	if d.name != "" {
		return witLabel(d.name)
	}
	return cmp.Or(otherwise, "?")
}

// witLabel returns a label if it is one: it goes into messages, so nothing but letters,
// digits and hyphens may pass. It is told by its length first: a long one in a type that
// many functions have would be copied for each.
func witLabel[T string | []byte](text T) string {
	if len(text) > maxLabel {
		return "?"
	}
	for i := range len(text) {
		if c := text[i]; c != '-' && (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z') {
			return "?"
		}
	}
	return string(text)
}

package wasi

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

// Components by hand: what a vector or name contains is given, its length is added.

func vector(items ...[]byte) []byte {
	return append(appendU32(nil, uint32(len(items))), bytes.Join(items, nil)...)
}

// named is a name and what follows it.
func named(name string, rest ...byte) []byte {
	return slices.Concat(appendU32(nil, uint32(len(name))), []byte(name), rest)
}

// extern is named, as imports and exports of components are.
func extern(name string, rest ...byte) []byte { return append([]byte{0}, named(name, rest...)...) }

func typesOf(types ...[]byte) []byte      { return section(sectionType, vector(types...)) }
func importsOf(items ...[]byte) []byte    { return section(sectionImport, vector(items...)) }
func exportsOf(items ...[]byte) []byte    { return section(sectionExport, vector(items...)) }
func aliasOf(alias ...byte) []byte        { return section(sectionAlias, vector(alias)) }
func exportOf(name string, f byte) []byte { return exportsOf(extern(name, byte(sortFunc), f, 0)) }

// liftOf lifts a function of a type.
func liftOf(t byte) []byte { return section(sectionCanon, vector([]byte{canonLift, 0, 0, 0, t})) }

// The types of some functions.
var (
	takesNothing = []byte{typeFunc, 0, 1, 0}
	stringly     = []byte{typeFunc, 1, 1, 's', primitiveString, 0, primitiveString}
)

func takes(types ...byte) []byte {
	f := []byte{typeFunc, byte(len(types))}
	for _, t := range types {
		f = append(f, 1, 'a', t)
	}
	return append(f, 1, 0)
}

// signatureOf unwraps a component with these sections, and returns what it found of
// its function "f".
func signatureOf(t *testing.T, sections ...[]byte) signature {
	t.Helper()
	main := section(sectionModule, coreOf(nil, "run"))
	c, err := unwrap(componentOf(append([][]byte{main}, sections...)...))
	must(t, err)
	s, there := c.exports["f"]
	if !there {
		t.Fatalf("got exports %v, want one of f", c.exports)
	}
	return s
}

// All of the grammar is read to the last byte: the tools wrote it from text.
func TestGrammar(t *testing.T) {
	c, err := unwrap(readComponent(t, "grammar.wasm"))
	must(t, err)
	want := map[string]signature{
		"plain":    {0, resultNone, "func()"},
		"string":   {1, resultStringOrString, "func(a: string) -> result<string, string>"},
		"ascribed": {1, resultStringOrString, "func(a: string) -> result<string, string>"},
		"async":    {1, resultOther, "async func(a: string) -> string, lifted with async"},
		"utf16":    {1, resultOther, "func(a: string) -> string, lifted with string-encoding=utf16"},
		"latin1":   {1, resultOther, "func(a: string) -> string, lifted with string-encoding=latin1+utf16"},
		"all": {8, resultNone,
			"func(a: record, b: variant, c: flags, d: enum, e: list<record>, f: list<u8, 4>, g: tuple<u8, string>, h: option<string>)"},
		"rest": {8, resultNone,
			"func(i: result<string, string>, j: resource, k: borrow<resource>, l: map<string, string>, m: stream, n: future, o: error-context, p: r)"},
		"g": {-1, resultOther, "func(?)"}, // of an instance
	}
	for name, w := range want {
		if got := c.exports[name]; got != w {
			t.Errorf("%s is\n%+v, want\n%+v", name, got, w)
		}
	}
	if len(c.exports) != len(want) {
		t.Errorf("%d exports, want %d: %v", len(c.exports), len(want), c.exports)
	}
	if imports := []string{"interface", "code", "part"}; !slices.Equal(c.imports, imports) {
		t.Errorf("imports %q, want %q", c.imports, imports)
	}
}

// Something stands before the index that f uses. Were that counted wrongly, f would
// have another type.
func TestIndexSpaces(t *testing.T) {
	f, u8 := exportOf("f", 0), []byte{0x7d}
	unknown := []byte{0x30, 1, 2, 3}
	for what, sections := range map[string][][]byte{
		"types":                      {typesOf(u8, stringly), typesOf(u8), liftOf(1), f},
		"an exported type":           {typesOf(stringly), exportsOf(extern("t", byte(sortType), 0, 0)), liftOf(1), f},
		"an imported type":           {typesOf(u8, stringly), importsOf(extern("t", byte(sortType), 0, 1)), liftOf(2), f},
		"an imported resource":       {importsOf(extern("t", byte(sortType), 1)), typesOf(stringly), liftOf(1), f},
		"an alias of a type":         {typesOf(u8, stringly), aliasOf(byte(sortType), 2, 0, 1), liftOf(2), f},
		"an alias of another's type": {aliasOf(byte(sortType), 0, 0, 1, 't'), typesOf(stringly), liftOf(1), f},
		"aliases of other sorts": {aliasOf(byte(sortInstance), 0, 0, 1, 't'), aliasOf(byte(sortCore), 0, 1, 0, 1, 't'),
			aliasOf(byte(sortComponent), 2, 0, 0), typesOf(stringly), liftOf(0), f},

		"an imported function itself": {typesOf(stringly), importsOf(extern("g", byte(sortFunc), 0)), f},
		"an imported function":        {typesOf(u8, stringly), importsOf(extern("g", byte(sortFunc), 0)), liftOf(1), exportOf("f", 1)},
		"an alias of a function":      {typesOf(stringly), aliasOf(byte(sortFunc), 0, 0, 1, 'f'), liftOf(0), exportOf("f", 1)},
		"an exported function":        {typesOf(u8, stringly), liftOf(0), exportOf("g", 0), liftOf(1), exportOf("f", 2)},
		"imports of other sorts": {typesOf(stringly), importsOf(extern("a", byte(sortInstance), 0), extern("b", byte(sortComponent), 0),
			extern("c", byte(sortCore), 0x11, 0), extern("d", byte(sortValue), 0, 0), extern("e", byte(sortValue), 1, 0x7d)), liftOf(0), f},
		"exports of other sorts": {typesOf(stringly), exportsOf(extern("a", byte(sortInstance), 0, 0),
			extern("b", byte(sortInstance), 0, 1, byte(sortInstance), 0)), liftOf(0), f},

		"a name with attributes": {typesOf(stringly), liftOf(0), exportsOf([]byte{2, 1, 'f', 2, 0, 1, 'i', 1, 2, '.', '1', byte(sortFunc), 0, 0})},
		"a name of old tools":    {typesOf(stringly), liftOf(0), exportsOf([]byte{1, 1, 'f', byte(sortFunc), 0, 0})},
		"sections that are not read": {section(0, []byte("anything")), section(2, []byte{9}), section(3, []byte{9}),
			section(5, []byte{9}), section(9, []byte{9}), section(12, []byte{9}), typesOf(stringly), liftOf(0), f},

		"an unknown type after it":                 {typesOf(stringly, unknown), liftOf(0), f},
		"an unknown type in an earlier section":    {typesOf(unknown, u8), typesOf(stringly), liftOf(2), f},
		"an unknown canonical definition after it": {typesOf(stringly), liftOf(0), section(sectionCanon, vector([]byte{0x99})), f},
	} {
		if got, want := signatureOf(t, sections...), (signature{1, resultString, "func(s: string) -> string"}); got != want {
			t.Errorf("%s: f is %+v, want %+v", what, got, want)
		}
	}
}

// A function whose type is not known, or not for certain, is not taken for another.
func TestUnknownFunctions(t *testing.T) {
	f, u8 := exportOf("f", 0), []byte{0x7d}
	for what, sections := range map[string][][]byte{
		"no such function":                   {typesOf(stringly), liftOf(0), exportOf("f", 1)},
		"no such type":                       {typesOf(stringly), liftOf(1), f},
		"no function's type":                 {typesOf(u8), liftOf(0), f},
		"another component's type":           {typesOf(stringly), aliasOf(byte(sortType), 2, 1, 0), liftOf(1), f},
		"an instance's function":             {typesOf(stringly), aliasOf(byte(sortFunc), 0, 0, 1, 'f'), f},
		"after an unknown type":              {typesOf([]byte{0x30, 1, 2, 3}, stringly), liftOf(1), f},
		"after types left over":              {section(sectionType, []byte{0, 1}), typesOf(stringly), liftOf(0), f},
		"after an unknown definition":        {typesOf(stringly), section(sectionCanon, vector([]byte{0x99})), liftOf(0), f},
		"after an unknown option":            {typesOf(stringly), section(sectionCanon, vector([]byte{0, 0, 0, 1, 0x99, 0})), liftOf(0), f},
		"after definitions left over":        {typesOf(stringly), section(sectionCanon, []byte{0, 1}), liftOf(0), f},
		"after an unknown alias":             {aliasOf(byte(sortType), 3, 0, 0), typesOf(stringly), liftOf(0), f},
		"a core type in an instance type":    {typesOf([]byte{typeInstance, 1, 0, 0x60, 0, 0}, stringly), liftOf(1), f},
		"named results, as old tools have":   {typesOf([]byte{typeFunc, 0, 1, 1, 1, 'a', 0x7d}), liftOf(0), f},
		"a result of an unknown form":        {typesOf([]byte{typeFunc, 0, 2}), liftOf(0), f},
		"an instance type that is too deep":  {typesOf(nestedType(maxNesting+1), stringly), liftOf(1), f},
		"a type beyond what an index may be": {section(sectionType, appendU32(nil, maxDefinitions+1), bytes.Repeat(u8, maxDefinitions), stringly), lift1M(), f},
	} {
		if got, want := signatureOf(t, sections...), (signature{-1, resultOther, "func(?)"}); got != want {
			t.Errorf("%s: f is %+v, want %+v", what, got, want)
		}
	}
	got := signatureOf(t, typesOf(nestedType(maxNesting), stringly), liftOf(1), f)
	if got.result != resultString {
		t.Errorf("after an instance type that is deep: f is %+v, want one of a string", got)
	}
}

// nestedType is an instance type in as many others.
func nestedType(depth int) []byte {
	return append(bytes.Repeat([]byte{typeInstance, 1, 1}, depth), typeInstance, 0)
}

// lift1M lifts a function of the type after the last that may be.
func lift1M() []byte {
	return section(sectionCanon, vector(appendU32([]byte{canonLift, 0, 0, 0}, maxDefinitions)))
}

// Types that no tool builds are shown and judged all the same.
func TestSignatures(t *testing.T) {
	doubling := [][]byte{{typeTuple, 2, primitiveString, primitiveString}} // each type is twice the one before
	for i := range byte(40) {
		doubling = append(doubling, []byte{typeTuple, 2, i, i})
	}
	doubling = append(doubling, takes(40))
	doubled := "func(a: " + strings.Repeat("tuple<", 41) + "string, string>, tuple<string, string>>, tuple<tuple<"
	strs := func(n int) []byte { return takes(slices.Repeat([]byte{primitiveString}, n)...) }

	for what, c := range map[string]struct {
		types [][]byte // the last is f's
		want  signature
	}{
		"an unknown parameter":  {[][]byte{takes(9)}, signature{1, resultNone, "func(a: ?)"}},
		"an unknown result":     {[][]byte{{typeFunc, 0, 0, 9}}, signature{0, resultOther, "func() -> ?"}},
		"a function":            {[][]byte{takesNothing, takes(0)}, signature{1, resultNone, "func(a: ?)"}},
		"itself":                {[][]byte{{typeFunc, 0, 0, 0}}, signature{0, resultOther, "func() -> ?"}},
		"a list of strings":     {[][]byte{{typeList, primitiveString}, {typeFunc, 0, 0, 0}}, signature{0, resultOther, "func() -> list<string>"}},
		"handles of themselves": {[][]byte{{typeOwn, 0}, {typeBorrow, 1}, takes(0, 1)}, signature{2, resultNone, "func(a: resource, a: borrow<resource>)"}},
		"a list of itself":      {[][]byte{{typeList, 0}, takes(0)}, signature{1, resultNone, ("func(a: " + strings.Repeat("list<", 60))[:maxText] + "..."}},
		"what doubles 40 times": {doubling, signature{1, resultNone, doubled[:maxText] + "..."}},
		"a tuple of nothing":    {[][]byte{{typeTuple, 0}, takes(0)}, signature{1, resultNone, "func(a: tuple<>)"}},
		"16 parameters":         {[][]byte{strs(16)}, signature{16, resultNone, "func(" + strings.Repeat("a: string, ", 15) + "a: string)"}},
		"17 parameters":         {[][]byte{strs(17)}, signature{17, resultOther, "func(" + strings.Repeat("a: string, ", 16) + "a: string)"}},
		"a label of a newline":  {[][]byte{{typeFunc, 1, 2, 'a', '\n', 0x7d, 1, 0}}, signature{1, resultNone, "func(?: u8)"}},
		"a label that is long": {[][]byte{slices.Concat([]byte{typeFunc, 1}, named(strings.Repeat("a", maxLabel+1), 0x7d), []byte{1, 0})},
			signature{1, resultNone, "func(?: u8)"}},
	} {
		if got := signatureOf(t, typesOf(c.types...), liftOf(byte(len(c.types)-1)), exportOf("f", 0)); got != c.want {
			t.Errorf("%s: f is\n%+v, want\n%+v", what, got, c.want)
		}
	}
}

func TestImportsAndExportsThatAreRefused(t *testing.T) {
	many := make([][]byte, maxExports)
	for i := range many {
		many[i] = extern(strings.Repeat("x", i+1), byte(sortFunc), 0, 0)
	}
	for what, c := range map[string]struct {
		sections []byte
		says     string
	}{
		"an export twice":           {slices.Concat(exportOf("f", 0), exportOf("f", 0)), `"f" is exported twice`},
		"an export that is cut":     {section(sectionExport, []byte{1}, extern("f", byte(sortFunc), 0)), "byte 16: needs 1 bytes, 0 are left"},
		"an export of another sort": {exportsOf(extern("f", 6, 0, 0)), "byte 15: sort 0x06 is unknown"},
		"an export with half a type": {exportsOf(extern("f", byte(sortFunc), 0, 2)),
			"byte 17: got 0x02 before an optional item, want 0 or 1"},
		"bytes after exports":      {section(sectionExport, []byte{0, 1, 2}), "byte 11: 2 bytes are left over"},
		"bytes after imports":      {section(sectionImport, []byte{0, 1, 2}), "byte 11: 2 bytes are left over"},
		"more imports than bytes":  {section(sectionImport, appendU32(nil, 1<<32-1)), "byte 15: 4294967295 items, but 0 bytes are left"},
		"another form of import":   {importsOf([]byte{3, 0, 1, 0}), "byte 12: got 0x03 before a name, want 0, 1 or 2"},
		"a name that is no UTF-8":  {importsOf(extern("a\xff", byte(sortFunc), 0)), `a name that is no UTF-8: "a\xff"`},
		"one export more than may": {slices.Concat(exportsOf(many...), exportOf("f", 0)), "more than 1000 functions are exported"},
	} {
		if _, err := unwrap(componentOf(c.sections)); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", what, err, c.says)
		}
	}
	main := section(sectionModule, coreOf(nil, "run"))
	if c, err := unwrap(componentOf(main, exportsOf(many...))); err != nil || len(c.exports) != maxExports {
		t.Errorf("as many exports as may be: %v", err)
	}
}

// What promises much, or is read again and again, costs no more than its size allows.
func TestComponentsThatClaimTooMuch(t *testing.T) {
	const size = 1 << 20
	promise := func(id byte) []byte { return section(id, appendU32(nil, 1<<32-1), make([]byte, 16)) }
	many := make([][]byte, maxExports)
	for i := range many {
		many[i] = extern("f"+strings.Repeat("x", i), byte(sortFunc), 0, 0)
	}
	long := slices.Concat([]byte{typeFunc, 16}, bytes.Repeat(named(strings.Repeat("a", size/16), primitiveString), 16), []byte{1, 0})
	tuple := slices.Concat([]byte{typeTuple}, appendU32(nil, size), make([]byte, size))
	for what, sections := range map[string][]byte{
		"types":            promise(sectionType),
		"definitions":      promise(sectionCanon),
		"aliases":          promise(sectionAlias),
		"imports":          promise(sectionImport),
		"exports":          promise(sectionExport),
		"unknown types":    section(sectionType, appendU32(nil, size), bytes.Repeat([]byte{0x30}, size)),
		"types of a byte":  section(sectionType, appendU32(nil, 2*size), bytes.Repeat([]byte{0x7d}, 2*size)),
		"nameless imports": section(sectionImport, appendU32(nil, size/4), bytes.Repeat(extern("", byte(sortInstance), 0), size/4)),
		"empty sections":   make([]byte, size),
		"tuples of tuples": slices.Concat(typesOf(tuple, takes(0)), liftOf(1), exportsOf(many...)),
		"long labels":      slices.Concat(typesOf(long), liftOf(0), exportsOf(many...)),
	} {
		binary := componentOf(section(sectionModule, coreOf(nil, "run")), sections)
		before := allocated()
		_, err := unwrap(binary)
		if grew, most := allocated()-before, 16<<20+150*uint64(len(binary)); grew > most {
			t.Errorf("%s: %d bytes made it allocate %d, want at most %d (%v)", what, len(binary), grew, most, err)
		}
	}
}

package wasi

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"testing"

	"github.com/tetratelabs/wazero/api"
)

// The functions of a dialect are those of its WIT, with the parameters and the memory
// for results that the canonical ABI derives from the types there.
func TestFunctionsAreThoseOfTheWIT(t *testing.T) {
	for d := range dialect(dialects) {
		w := readWIT(t, filepath.Join("wit", [dialects]string{"draft", "draft2"}[d]))
		if w.version != d.String() {
			t.Errorf("%v: the WIT is of version %q", d, w.version)
		}
		want, got := w.functions(), make(map[string]string)
		for i := range functions {
			if f := &functions[i]; f.of(d) {
				got[f.iface+" "+f.name] = fmt.Sprintf("%s, result of %d bytes aligned to %d", coreType(f.params(), nil), f.area.size, f.area.align)
			}
		}
		for _, name := range slices.Sorted(maps.Keys(want)) {
			if got[name] != want[name] {
				t.Errorf("%v: %s is %q here, %q by its WIT", d, name, got[name], want[name])
			}
			delete(got, name)
		}
		for name := range got {
			t.Errorf("%v: %s is not in the WIT", d, name)
		}
	}
}

// wit is what of a WIT package is looked at: this reads the files in wit/, no others.
type wit struct {
	version string
	tokens  []string
	types   map[string]layout // named types
	found   map[string]string
	guess   bool // an unknown type will be known when all is read again
}

// layout is a type as the canonical ABI sees it.
type layout struct {
	flat        []api.ValueType
	size, align uint32
}

var (
	i32Type = layout{[]api.ValueType{i32}, 4, 4}
	i64Type = layout{[]api.ValueType{i64}, 8, 8}
	twoI32  = layout{[]api.ValueType{i32, i32}, 8, 4}
	noType  = layout{nil, 0, 1}
)

// readWIT reads the files of a folder as one package: the types first.
func readWIT(t *testing.T, dir string) *wit {
	t.Helper()
	w := &wit{found: make(map[string]string), types: map[string]layout{
		"string": twoI32, "u64": i64Type, "s64": i64Type, "bool": {[]api.ValueType{i32}, 1, 1}, "u8": {[]api.ValueType{i32}, 1, 1}, "_": noType,
	}}
	comments := regexp.MustCompile(`(?m)//.*$`)
	token := regexp.MustCompile(`->|[\w-]+|[{}()<>,:;./@=]`)
	for _, name := range []string{"store.wit", "batch.wit", "atomics.wit"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		must(t, err)
		text := comments.ReplaceAllString(string(b), "")
		header := regexp.MustCompile(`^\s*package wasi:keyvalue@([\w.-]+);`).FindStringSubmatch(text)
		if header == nil {
			t.Fatalf("%s/%s does not begin with its package", dir, name)
		}
		w.version = header[1]
		w.tokens = append(w.tokens, token.FindAllString(text[len(header[0]):], -1)...)
	}
	return w
}

func (w *wit) next() string {
	t := w.tokens[0]
	w.tokens = w.tokens[1:]
	return t
}

// accept takes the next token if it is t.
func (w *wit) accept(t string) bool {
	if len(w.tokens) == 0 || w.tokens[0] != t {
		return false
	}
	w.next()
	return true
}

func (w *wit) expect(t string) {
	if got := w.next(); got != t {
		panic(fmt.Sprintf("got %q, want %q before %q", got, t, w.tokens[:min(8, len(w.tokens))]))
	}
}

// functions reads all interfaces and returns the functions in them, as the table is
// shown above.
func (w *wit) functions() map[string]string {
	all := w.tokens
	for _, w.guess = range []bool{true, false} { // types are used before they are declared
		for w.tokens = all; len(w.tokens) > 0; {
			w.expect("interface")
			iface := w.next()
			w.expect("{")
			for !w.accept("}") {
				w.item(iface)
			}
		}
	}
	return w.found
}

func (w *wit) item(iface string) {
	switch name := w.next(); name {
	case "use":
		for !w.accept(";") {
			w.next()
		}
	case "resource":
		w.resource(iface, w.next())
	case "record":
		name := w.next()
		w.expect("{")
		var fields []layout
		for !w.accept("}") {
			w.next()
			w.expect(":")
			fields = append(fields, w.typ())
			w.accept(",")
		}
		w.types[name] = sequence(fields...)
	case "variant":
		name := w.next()
		w.expect("{")
		var cases []layout
		for !w.accept("}") {
			w.next()
			payload := noType
			if w.accept("(") {
				payload = w.typ()
				w.expect(")")
			}
			cases = append(cases, payload)
			w.accept(",")
		}
		w.types[name] = choice(cases...)
	default:
		w.expect(":")
		w.function(iface, name, noType)
	}
}

func (w *wit) resource(iface, name string) {
	w.types[name] = i32Type // owned
	w.found[iface+" [resource-drop]"+name] = show(i32Type, noType)
	w.expect("{")
	for !w.accept("}") {
		method := w.next()
		w.expect(":")
		if w.accept("static") {
			w.function(iface, "[static]"+name+"."+method, noType)
		} else {
			w.function(iface, "[method]"+name+"."+method, i32Type)
		}
	}
}

// function reads from "func" on. self is what comes before the parameters.
func (w *wit) function(iface, name string, self layout) {
	w.expect("func")
	w.expect("(")
	params := []layout{self}
	for !w.accept(")") {
		w.next()
		w.expect(":")
		params = append(params, w.typ())
		w.accept(",")
	}
	result := noType
	if w.accept("->") {
		result = w.typ()
	}
	w.expect(";")
	all := sequence(params...)
	if len(result.flat) > 1 {
		all.flat = append(all.flat, i32)
	} else if len(result.flat) == 1 && !w.guess {
		panic("a result of one core value: " + name)
	}
	w.found[iface+" "+name] = show(all, result)
}

func show(params, result layout) string {
	if result.size == 0 {
		result = layout{}
	}
	return fmt.Sprintf("%s, result of %d bytes aligned to %d", coreType(params.flat, nil), result.size, result.align)
}

func (w *wit) typ() layout {
	name := w.next()
	var of []layout
	if w.accept("<") {
		for !w.accept(">") {
			of = append(of, w.typ())
			w.accept(",")
		}
	}
	switch name {
	case "list":
		return twoI32
	case "borrow", "own":
		return i32Type
	case "tuple":
		return sequence(of...)
	case "option":
		return choice(noType, of[0])
	case "result":
		return choice(of[0], of[1])
	}
	l, ok := w.types[name]
	if !ok && !w.guess {
		panic("unknown type " + name)
	}
	return l
}

// sequence lays out a record or a tuple.
func sequence(fields ...layout) (all layout) {
	all.align = 1
	for _, f := range fields {
		all.flat = append(all.flat, f.flat...)
		all.size = aligned(all.size, f.align) + f.size
		all.align = max(all.align, f.align)
	}
	all.size = aligned(all.size, all.align)
	return all
}

// choice lays out a variant: a byte for the case, then the largest payload; flat, the
// payloads share their values.
func choice(cases ...layout) layout {
	all, payload := layout{flat: []api.ValueType{i32}, align: 1}, layout{align: 1}
	for _, c := range cases {
		for i, v := range c.flat {
			switch {
			case i == len(payload.flat):
				payload.flat = append(payload.flat, v)
			case payload.flat[i] != v:
				payload.flat[i] = i64
			}
		}
		payload.size, payload.align = max(payload.size, c.size), max(payload.align, c.align)
	}
	all.flat = append(all.flat, payload.flat...)
	all.align = payload.align
	all.size = aligned(aligned(1, payload.align)+payload.size, all.align)
	return all
}

func aligned(n, to uint32) uint32 { return (n + to - 1) / to * to }

// An import is found under the name that a component gives it, and under no other.
func TestImported(t *testing.T) {
	for _, c := range []struct{ module, name, want string }{
		{"wasi:keyvalue/batch@0.2.0-draft2", "get-many", "batch.get-many"},
		{"wasi:keyvalue/batch@0.2.0-draft", "get-many", "batch.get-many"},
		{"wasi:keyvalue/store@0.2.0-draft", "[method]bucket.list-keys", "store.bucket.list-keys"},
		{"wasi:keyvalue/atomics@0.2.0-draft2", "swap", "atomics.swap"},
		{"wasi:keyvalue/atomics@0.2.0-draft", "swap", ""},
		{"wasi:keyvalue/store@0.2.0-draft2", "get-many", ""},
		{"wasi:keyvalue/batch", "get-many", ""},
		{"wasi:keyvalue/batch@0.2.0-draft3", "get-many", ""},
	} {
		got := ""
		if f, _ := imported(c.module, c.name); f != nil {
			got = f.label()
		}
		if got != c.want {
			t.Errorf("%s %s is %q, want %q", c.module, c.name, got, c.want)
		}
	}
	var s Stats
	if len(functions) > len(s.counts) {
		t.Errorf("%d functions, but Stats has room for %d", len(functions), len(s.counts))
	}
}

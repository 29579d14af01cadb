package wasi

import (
	"fmt"
	"strings"

	"github.com/tetratelabs/wazero/api"
)

// dialect is a version of the package wasi:keyvalue.
type dialect uint8

// The dialects in use. They differ in the cursor of list-keys (u64, string), in the
// number of increment (u64, s64), and in the compare-and-swap that only draft2 has.
const (
	draft dialect = iota
	draft2
	dialects = iota
)

func (d dialect) String() string { return [dialects]string{"0.2.0-draft", "0.2.0-draft2"}[d] }

// packageName is how names of modules that are ours to give begin.
const packageName = "wasi:keyvalue/"

// module returns the name under which a guest imports an interface.
func (d dialect) module(iface string) string { return packageName + iface + "@" + d.String() }

// Core types, short: the signatures below are read in a column.
const (
	i32 = api.ValueTypeI32
	i64 = api.ValueTypeI64
)

// function is one that a guest can import.
type function struct {
	iface string
	name  string               // as the canonical ABI has it
	in    []api.ValueType      // its parameters, flattened
	only  []dialect            // that have it; nil: all, with these parameters
	area  area                 // where its result goes; the zero value: it has none
	do    func(c *call) error  // an error is a trap
	keys  func(c *call) uint64 // how many keys a call has, for Stats; nil: none
}

// area is the memory that a caller provides for a result: its last parameter.
type area struct{ size, align uint32 }

// functions are all there are. A result of an interface here always takes more than
// one core value, so that it goes through memory; the layouts are in lower.go.
var functions = []function{
	{iface: "store", name: "open", in: []api.ValueType{i32, i32}, area: small, do: open},
	{iface: "store", name: "[resource-drop]bucket", in: []api.ValueType{i32}, do: dropBucket},
	{iface: "store", name: "[method]bucket.get", in: []api.ValueType{i32, i32, i32}, area: small, do: get, keys: oneKey},
	{iface: "store", name: "[method]bucket.set", in: []api.ValueType{i32, i32, i32, i32, i32}, area: small, do: set, keys: oneKey},
	{iface: "store", name: "[method]bucket.delete", in: []api.ValueType{i32, i32, i32}, area: small, do: remove, keys: oneKey},
	{iface: "store", name: "[method]bucket.exists", in: []api.ValueType{i32, i32, i32}, area: small, do: exists, keys: oneKey},
	{iface: "store", name: "[method]bucket.list-keys", in: []api.ValueType{i32, i32, i64}, only: []dialect{draft}, area: pageNumbered, do: listNumbered, keys: listedKeys},
	{iface: "store", name: "[method]bucket.list-keys", in: []api.ValueType{i32, i32, i32, i32}, only: []dialect{draft2}, area: pageNamed, do: listNamed, keys: listedKeys},

	{iface: "batch", name: "get-many", in: []api.ValueType{i32, i32, i32}, area: small, do: getMany, keys: manyKeys},
	{iface: "batch", name: "set-many", in: []api.ValueType{i32, i32, i32}, area: small, do: setMany, keys: manyKeys},
	{iface: "batch", name: "delete-many", in: []api.ValueType{i32, i32, i32}, area: small, do: deleteMany, keys: manyKeys},

	{iface: "atomics", name: "increment", in: []api.ValueType{i32, i32, i32, i64}, only: []dialect{draft}, area: number, do: incrementUnsigned, keys: oneKey},
	{iface: "atomics", name: "increment", in: []api.ValueType{i32, i32, i32, i64}, only: []dialect{draft2}, area: number, do: incrementSigned, keys: oneKey},
	{iface: "atomics", name: "[static]cas.new", in: []api.ValueType{i32, i32, i32}, only: []dialect{draft2}, area: small, do: casNew, keys: oneKey},
	{iface: "atomics", name: "[method]cas.current", in: []api.ValueType{i32}, only: []dialect{draft2}, area: small, do: casCurrent, keys: oneKey},
	{iface: "atomics", name: "swap", in: []api.ValueType{i32, i32, i32}, only: []dialect{draft2}, area: swapped, do: casSwap, keys: oneKey},
	{iface: "atomics", name: "[resource-drop]cas", in: []api.ValueType{i32}, only: []dialect{draft2}, do: dropCas},
}

// of says whether a dialect has the function.
func (f *function) of(d dialect) bool {
	for _, o := range f.only {
		if o == d {
			return true
		}
	}
	return f.only == nil
}

// params returns the parameters a guest calls the function with: the last is where
// the result goes, if there is one.
func (f *function) params() []api.ValueType {
	if f.area.size == 0 {
		return f.in
	}
	return append(f.in[:len(f.in):len(f.in)], i32)
}

// imported returns the function that an import means; nil if there is none.
func imported(module, name string) (*function, dialect) {
	for d := range dialect(dialects) {
		for i := range functions {
			if f := &functions[i]; f.of(d) && f.name == name && d.module(f.iface) == module {
				return f, d
			}
		}
	}
	return nil, 0
}

// label names a function in Stats, as WIT would.
func (f *function) label() string {
	name := f.name
	if at := strings.IndexByte(name, ']'); at > 0 && !strings.HasPrefix(name, "[resource-drop]") {
		name = name[at+1:]
	}
	return fmt.Sprintf("%s.%s", f.iface, name)
}

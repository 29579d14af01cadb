package wasi

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
)

// Report is what there is to know of a guest without running it.
type Report struct {
	Component bool     // else it is a core module
	Versions  []string // of wasi:keyvalue that it imports
	Imports   []Import
	Exports   []Export
	Program   bool  // it has a _start
	Problem   error // why it cannot run; nil if it can
}

// Import is what a guest imports: a function, or what no guest can have.
type Import struct {
	Module, Name string
	Missing      string // why the host cannot satisfy it; "" if it can
}

// Export is a function that a guest exports.
type Export struct {
	Name string
	// Type is as WIT has it for a component, else the core one.
	Type      string
	Invocable bool // Instance.Invoke can call it, perhaps if it is told what it returns
}

// Inspect reports on a binary. An error says that it is no guest at all.
func (h *Host) Inspect(ctx context.Context, binary []byte) (*Report, error) {
	g, err := h.load(ctx, binary)
	if err != nil {
		return nil, err
	}
	r := &Report{Component: g.types != nil, Imports: g.imports(), Exports: g.exports(), Problem: g.check()}
	for _, d := range g.dialects {
		r.Versions = append(r.Versions, d.String())
	}
	r.Program = g.code.ExportedFunctions()[startName] != nil
	return r, g.Close(ctx)
}

// imports lists what the guest imports, in its order.
func (g *Guest) imports() []Import {
	var all []Import
	for _, f := range g.code.ImportedFunctions() {
		module, name, _ := f.Import()
		missing, _ := g.satisfied(module, name, f)
		all = append(all, Import{module, name, missing})
	}
	return append(all, g.foreign...)
}

// exports lists the functions that the guest exports, by name.
func (g *Guest) exports() []Export {
	var all []Export
	if g.types != nil {
		for name, t := range g.types {
			all = append(all, Export{name, t.text, t.invocable()})
		}
	} else {
		for name, f := range g.code.ExportedFunctions() {
			if name != beginName { // which we have put there
				all = append(all, Export{name, coreType(f.ParamTypes(), f.ResultTypes()), coreInvocable(name, f)})
			}
		}
	}
	slices.SortFunc(all, func(a, b Export) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

func (s signature) invocable() bool { return s.params == 0 && s.result != resultOther }

// coreInvocable says whether a core module's function may be one to invoke.
func coreInvocable(name string, f api.FunctionDefinition) bool {
	if reserved(name) || len(f.ParamTypes()) > 0 {
		return false
	}
	results := f.ResultTypes()
	return len(results) == 0 || len(results) == 1 && results[0] == i32
}

// invocable returns the names of the functions that can be invoked, sorted.
func (g *Guest) invocable() []string {
	var names []string
	for _, e := range g.exports() {
		if e.Invocable {
			names = append(names, e.Name)
		}
	}
	return names
}

// load compiles a binary, whether it can run or not.
func (h *Host) load(ctx context.Context, binary []byte) (*Guest, error) {
	c, err := unwrap(binary)
	if err != nil {
		return nil, fmt.Errorf("wasi: %w", err)
	}
	core, foreign, err := interruptible(c.core)
	if err != nil {
		return nil, fmt.Errorf("wasi: not a valid module: %w", err)
	}
	code, err := compileModule(ctx, h.runtime, core)
	if err != nil {
		return nil, fmt.Errorf("wasi: not a valid module: %w", err)
	}
	return &Guest{host: h, code: code, foreign: foreign, types: c.exports}, nil
}

// compileModule makes an error of a panic: wazero looks some indices up before it has
// checked them.
func compileModule(ctx context.Context, rt wazero.Runtime, module []byte) (code wazero.CompiledModule, err error) {
	defer func() {
		if p := recover(); p != nil {
			code, err = nil, fmt.Errorf("%v", p)
		}
	}()
	return rt.CompileModule(ctx, module)
}

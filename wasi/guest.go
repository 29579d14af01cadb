package wasi

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
)

// Guest is a program, compiled. It is safe for concurrent use, and lives as long as
// its host, or until Close.
type Guest struct {
	host     *Host
	code     wazero.CompiledModule
	dialects []dialect            // that it imports
	foreign  []Import             // that are no functions, which no host has
	types    map[string]signature // of what a component exports; nil: it is a core module
}

const preview1 = "wasi_snapshot_preview1"

// Compile makes a guest of a binary: a core module, or a component (see doc.go). It
// costs milliseconds to seconds, depending on the guest's size.
//
// An *ImportError says what the host cannot satisfy.
func (h *Host) Compile(ctx context.Context, binary []byte) (*Guest, error) {
	g, err := h.load(ctx, binary)
	if err != nil {
		return nil, err
	}
	if err := g.check(); err != nil {
		return nil, errors.Join(fmt.Errorf("wasi: %w", err), g.Close(ctx))
	}
	return g, nil
}

// Close frees the compiled code. No instance may be left.
func (g *Guest) Close(ctx context.Context) error { return g.code.Close(ctx) }

// ImportError says which imports of a guest cannot be satisfied.
type ImportError struct{ Imports []string }

func (e *ImportError) Error() string {
	const most = 5
	shown := e.Imports
	more := ""
	if len(shown) > most {
		shown, more = shown[:most], fmt.Sprintf(" and %d more", len(e.Imports)-most)
	}
	return fmt.Sprintf("the guest imports what is not there: %s%s; a host has wasi:keyvalue/{store,batch,atomics} of %v and %v, and %s",
		strings.Join(shown, ", "), more, draft, draft2, preview1)
}

// check says why the guest cannot run.
func (g *Guest) check() error {
	var missing []string
	allocates := false
	for _, f := range g.code.ImportedFunctions() {
		module, name, _ := f.Import()
		why, ours := g.satisfied(module, name, f)
		if why != "" {
			missing = append(missing, why)
		}
		allocates = allocates || ours
	}
	for _, i := range g.foreign {
		missing = append(missing, fmt.Sprintf("%q of %q (%s)", i.Name, i.Module, i.Missing))
	}
	if missing != nil {
		return &ImportError{missing}
	}
	if !allocates {
		return nil
	}
	return g.checkMemory()
}

// satisfied says what of an imported function is not there, and whether it is one of
// wasi:keyvalue.
func (g *Guest) satisfied(module, name string, f api.FunctionDefinition) (missing string, ours bool) {
	if module == preview1 {
		known := g.host.runtime.Module(preview1).ExportedFunctionDefinitions()[name]
		switch {
		case known == nil:
			return fmt.Sprintf("%q of %q", name, module), false
		case !slices.Equal(f.ParamTypes(), known.ParamTypes()) || !slices.Equal(f.ResultTypes(), known.ResultTypes()):
			return otherType(module, name, f, coreType(known.ParamTypes(), known.ResultTypes())), false
		}
		return "", false
	}
	known, d := imported(module, name)
	if known == nil {
		return fmt.Sprintf("%q of %q", name, module), false
	}
	if want := known.params(); !slices.Equal(f.ParamTypes(), want) || len(f.ResultTypes()) > 0 {
		return otherType(module, name, f, coreType(want, nil)), true
	}
	if !slices.Contains(g.dialects, d) {
		g.dialects = append(g.dialects, d)
	}
	return "", true
}

func otherType(module, name string, f api.FunctionDefinition, want string) string {
	return fmt.Sprintf("%q of %q as %s, it is %s", name, module, coreType(f.ParamTypes(), f.ResultTypes()), want)
}

// checkMemory wants what answers need: memory, and somebody who allocates it.
func (g *Guest) checkMemory() error {
	if len(g.code.ExportedMemories()) == 0 {
		return errors.New(`the guest exports no memory: what it imports of wasi:keyvalue needs one, as "memory"`)
	}
	f := g.code.ExportedFunctions()[reallocName]
	if f == nil {
		return fmt.Errorf("the guest exports no %s%s: it is how the host allocates memory for answers", reallocName, coreType(reallocParams, oneWord))
	}
	if !slices.Equal(f.ParamTypes(), reallocParams) || !slices.Equal(f.ResultTypes(), oneWord) {
		return fmt.Errorf("the guest's %s is %s, want %s", reallocName, coreType(f.ParamTypes(), f.ResultTypes()), coreType(reallocParams, oneWord))
	}
	return nil
}

// coreType shows a signature: "(i32, i64) -> i32".
func coreType(params, results []api.ValueType) string {
	names := func(types []api.ValueType) string {
		var all []string
		for _, t := range types {
			all = append(all, api.ValueTypeName(t))
		}
		return strings.Join(all, ", ")
	}
	s := "(" + names(params) + ")"
	if len(results) > 0 {
		s += " -> " + names(results)
	}
	return s
}

// reserved says whether a name is one of the conventions between guest and host.
func reserved(name string) bool {
	return name == startName || name == initializeName || name == reallocName || name == beginName || strings.HasPrefix(name, postReturn)
}

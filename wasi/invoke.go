package wasi

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/manykv/manykv/kv"
)

// Names of functions that a guest may export.
const (
	startName      = "_start"
	initializeName = "_initialize"
	postReturn     = "cabi_post_"
)

// maxResult bounds the string that an exported function returns.
const maxResult = 16 << 20

// Start runs a program to its end: the function _start of a WASI command. An
// *ExitError if it ends with another code than 0.
func (in *Instance) Start(ctx context.Context) error {
	f := in.module.ExportedFunction(startName)
	if f == nil {
		return fmt.Errorf("%w: the guest exports no %s: it is no program; functions to invoke that it exports: %v", kv.ErrInvalid, startName, in.guest.invocable())
	}
	_, err := in.run(ctx, f)
	var exit *ExitError
	if errors.As(err, &exit) && exit.Code == 0 {
		return nil
	}
	return err
}

// Failed is the error that a guest's function returned.
type Failed struct{ Text string }

func (f *Failed) Error() string { return f.Text }

// Returns says what a function of a core module returns, which the module does not
// tell; a component does.
type Returns uint8

// What an exported function may return.
const (
	ReturnsKnown  Returns = iota // as the component says, or nothing
	ReturnsString                // a string
	ReturnsResult                // a result<string, string>
)

// Invoke calls a function without parameters that the guest exports, and returns its
// text: none, a string, or the ok of a result<string, string>, whose err is a *Failed.
func (in *Instance) Invoke(ctx context.Context, name string, returns Returns) (string, error) {
	kind, err := in.guest.returns(name, returns)
	if err != nil {
		return "", err
	}
	if f := in.module.ExportedFunction(initializeName); f != nil && !in.initialized {
		if _, err := in.run(ctx, f); err != nil {
			return "", err
		}
	}
	in.initialized = true
	f := in.module.ExportedFunction(name)
	results, err := in.run(ctx, f)
	if err != nil || kind == resultNone {
		return "", err
	}
	at := uint32(results[0])
	text, err := in.result(at, kind)
	var failed *Failed
	if err != nil && !errors.As(err, &failed) {
		in.broken.Store(true)
		return "", err
	}
	if post := in.module.ExportedFunction(postReturn + name); post != nil {
		if _, err := in.run(ctx, post, uint64(at)); err != nil {
			return "", err
		}
	}
	return text, err
}

// result lifts what a function returned: the address of a string, or of a
// result<string, string>.
func (in *Instance) result(at uint32, kind resultKind) (string, error) {
	broken := func(format string, a ...any) error {
		return &Trap{"the result of an export", fmt.Errorf(format, a...)}
	}
	size, text := uint32(stringBytes), uint32(0)
	if kind == resultStringOrString {
		size, text = 12, 4
	}
	area, ok := in.memory.Read(at, size)
	if !ok || at%4 != 0 {
		return "", broken("it is at %#x, want a multiple of 4 inside the memory", at)
	}
	ptr, n := binary.LittleEndian.Uint32(area[text:]), binary.LittleEndian.Uint32(area[text+4:])
	if n > maxResult {
		return "", broken("a string of %d bytes, at most %d are allowed", n, maxResult)
	}
	b, ok := in.memory.Read(ptr, n)
	if !ok || !utf8.Valid(b) {
		return "", broken("a string of %d bytes at %#x is outside the memory, or not valid UTF-8", n, ptr)
	}
	switch {
	case kind == resultString || area[0] == 0:
		return string(b), nil
	case area[0] == 1:
		return "", &Failed{string(b)}
	}
	return "", broken("a result of case %d", area[0])
}

// returns says what a function's result is, or why it cannot be invoked.
func (g *Guest) returns(name string, returns Returns) (resultKind, error) {
	core := g.code.ExportedFunctions()[name]
	t, typed := g.types[name]
	switch {
	case core == nil || g.types != nil && !typed:
		return 0, fmt.Errorf("%w: the guest exports no function %q; it exports %v", kv.ErrInvalid, name, g.invocable())
	case typed && (t.params > 0 || t.result == resultOther):
		return 0, fmt.Errorf("%w: %s is %s; functions without parameters that return nothing, a string or result<string, string> can be invoked", kv.ErrInvalid, name, t.text)
	}
	shape := coreType(core.ParamTypes(), core.ResultTypes())
	switch {
	case typed && shape != map[bool]string{true: "()", false: "() -> i32"}[t.result == resultNone]:
		return 0, fmt.Errorf("%w: %s is %s, but %s in the core module", kv.ErrInvalid, name, t.text, shape)
	case typed:
		return t.result, nil
	case shape == "()" && returns == ReturnsKnown:
		return resultNone, nil
	case shape == "() -> i32" && returns == ReturnsString:
		return resultString, nil
	case shape == "() -> i32" && returns == ReturnsResult:
		return resultStringOrString, nil
	case shape == "() -> i32":
		return 0, fmt.Errorf("%w: a core module does not say what %s returns: say whether it is a string or a result", kv.ErrInvalid, name)
	}
	return 0, fmt.Errorf("%w: %s is %s in the module, which does not fit what it shall return", kv.ErrInvalid, name, shape)
}

// Invoke makes an instance, invokes one function of it, and closes it.
func (g *Guest) Invoke(ctx context.Context, p Process, name string, returns Returns) (_ string, err error) {
	in, err := g.Instantiate(ctx, p)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, in.Close(ctx)) }()
	return in.Invoke(ctx, name, returns)
}

// Run makes an instance, runs its program to the end, and closes it.
func (g *Guest) Run(ctx context.Context, p Process) (err error) {
	in, err := g.Instantiate(ctx, p)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close(ctx)) }()
	return in.Start(ctx)
}

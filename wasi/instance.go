package wasi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"
	"github.com/tetratelabs/wazero/sys"
)

// Process is what an instance gets of the world. Its zero value is nothing at all.
type Process struct {
	// Open decides what the guest's identifiers open; default Nothing.
	Open Policy
	// Args are the guest's arguments, the first being its name; Env is "NAME=value".
	Args, Env []string
	// Stdin is the guest's standard input, default empty. Stdout and Stderr are
	// where its output goes, default nowhere. Each is used by one goroutine at a time,
	// which may still be in a call of it, whose bytes are lost, when the guest was ended.
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// Instance is a guest with a memory and handles of its own. One goroutine at a time
// may use it. After an error it can only be closed.
type Instance struct {
	guest    *Guest
	module   api.Module
	adapters []api.Module
	memory   api.Memory
	// interrupt ends the guest at its next check: see interrupt.go.
	interrupt api.MutableGlobal
	policy    Policy
	handles   handles
	call      call
	sizes     []byte          // of blocks, on their way to the adapter
	running   context.Context // of the call under way, for sleeps
	broken    atomic.Bool     // an error has come of it
	busy      atomic.Bool

	initialized bool // _initialize has run
}

// Instantiate makes an instance. Nothing of it runs yet, but a start function that the
// module itself has.
func (g *Guest) Instantiate(ctx context.Context, p Process) (_ *Instance, err error) {
	in := &Instance{guest: g, policy: p.Open}
	in.call.in = in
	if in.policy == nil {
		in.policy = Nothing
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, in.Close(ctx))
		}
	}()
	ctx = context.WithValue(ctx, instanceKey{}, in)
	in.running = ctx
	// wazero's own source of random numbers costs more than all else of a module.
	config := wazero.NewModuleConfig().WithName("").WithStartFunctions().WithRandSource(random{in})
	byName := make(map[string]api.Module, 3*len(g.dialects))
	for _, d := range g.dialects {
		a, err := g.host.runtime.InstantiateModule(ctx, g.host.adapters[d], config)
		if err != nil {
			return nil, in.failure(ctx, err)
		}
		in.adapters = append(in.adapters, a)
		for _, iface := range []string{"store", "batch", "atomics"} {
			byName[d.module(iface)] = a
		}
	}
	resolve := experimental.WithImportResolver(ctx, func(name string) api.Module { return byName[name] })
	if in.module, err = g.host.runtime.InstantiateModule(resolve, g.code, in.world(config, p)); err != nil {
		return nil, in.failure(ctx, err)
	}
	in.memory = in.module.Memory()
	in.interrupt = in.module.ExportedGlobal(interruptName).(api.MutableGlobal) // interruptible has put it there
	if err := in.link(ctx, config); err != nil {
		return nil, err
	}
	if begin := in.module.ExportedFunction(beginName); begin != nil {
		if _, err := in.run(ctx, begin); err != nil {
			return nil, err
		}
	}
	return in, nil
}

// link gives the adapters the guest's cabi_realloc.
func (in *Instance) link(ctx context.Context, config wazero.ModuleConfig) error {
	for _, a := range in.adapters {
		ctx := experimental.WithImportResolver(ctx, func(name string) api.Module {
			if name == guestModule {
				return in.module
			}
			return a
		})
		l, err := in.guest.host.runtime.InstantiateModule(ctx, in.guest.host.link, config)
		if err != nil {
			return in.failure(ctx, err)
		}
		in.adapters = append(in.adapters, l)
	}
	return nil
}

// world is what the guest sees through WASI.
func (in *Instance) world(config wazero.ModuleConfig, p Process) wazero.ModuleConfig {
	config = config.WithArgs(p.Args...).WithSysWalltime().WithSysNanotime().WithNanosleep(in.sleep)
	for _, e := range p.Env {
		name, value, _ := strings.Cut(e, "=")
		config = config.WithEnv(name, value)
	}
	if p.Stdin != nil {
		config = config.WithStdin(stdin{in, p.Stdin})
	}
	return config.WithStdout(output{in, p.Stdout}).WithStderr(output{in, p.Stderr})
}

// sleep ends with the call's context, which wazero cannot know in here.
func (in *Instance) sleep(ns int64) {
	timer := time.NewTimer(time.Duration(ns))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-in.running.Done():
	}
}

// Close frees the instance with all its handles.
func (in *Instance) Close(ctx context.Context) error {
	var errs []error
	if in.module != nil {
		errs = append(errs, in.module.Close(ctx))
	}
	for _, a := range in.adapters {
		errs = append(errs, a.Close(ctx))
	}
	in.handles = handles{}
	return errors.Join(errs...)
}

// ExitError is how a guest ended that ended itself, with another code than 0.
type ExitError struct{ Code uint32 }

func (e *ExitError) Error() string { return fmt.Sprintf("the guest exited with code %d", e.Code) }

var (
	errBroken = errors.New("the instance failed before, and cannot be used any more")
	errBusy   = errors.New("the instance is being used by another goroutine")
)

// run calls a function that the guest exports. The results are valid until the next
// call. A call that ends after ctx does fails, whatever the guest made of it.
func (in *Instance) run(ctx context.Context, f api.Function, params ...uint64) ([]uint64, error) {
	if !in.busy.CompareAndSwap(false, true) {
		return nil, errBusy
	}
	defer in.busy.Store(false)
	if in.broken.Load() {
		return nil, errBroken
	}
	if err := context.Cause(ctx); err != nil {
		return nil, ended(err)
	}
	stop := context.AfterFunc(ctx, func() { in.interrupt.Set(interrupted) })
	in.running = context.WithValue(ctx, instanceKey{}, in)
	results, err := f.Call(in.running, params...)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		in.broken.Store(true)
		return nil, in.failure(ctx, err)
	}
	return results, nil
}

// failure says what an error of wazero's means.
func (in *Instance) failure(ctx context.Context, err error) error {
	if trap, ok := errors.AsType[*Trap](err); ok {
		return trap // without wazero's stack, which is of no use to who reads it
	}
	if cause := context.Cause(ctx); cause != nil {
		return ended(cause)
	}
	if exit, ok := errors.AsType[*sys.ExitError](err); ok {
		return &ExitError{exit.ExitCode()}
	}
	return fmt.Errorf("the guest failed: %w", err)
}

func ended(cause error) error { return fmt.Errorf("the guest was ended: %w", cause) }

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/manykv/manykv/kv"
	"github.com/manykv/manykv/wasi"
)

const wasmRunHelp = `Run a WebAssembly guest that calls wasi:keyvalue, in version 0.2.0-draft or
0.2.0-draft2, with its buckets on a cluster:

  manykv wasm run hello.wasm --bucket-map =files --invoke hello
  manykv wasm run program.wasm --bucket-map =files -- an argument

The guest is a core module or a component; 'manykv wasm inspect' says whether it can
run. Without --invoke its program runs (its function _start), with the arguments
after --, this command's standard input, output and error, and the variables of
--env. With --invoke an exported function without parameters is called, and its text
printed: it returns nothing, a string, or a result<string, string> whose err is a
failure. A core module does not say which; --returns does.
` + guestHelp + `

Exit codes: 0 done; 1 failed: the guest could not be run, broke the interface, took
longer than --run-timeout, or its function returned an err; 2 used wrongly; any other
is the guest's own, as is 1 and 2 if it says so.`

// wasmRun is one run of a guest.
type wasmRun struct {
	guest
	invoke  string
	returns string
	stats   bool
	limit   time.Duration
}

func (p *program) wasmRunCommand() *cobra.Command {
	var r wasmRun
	cmd := &cobra.Command{
		Use:   "run GUEST.wasm [ARGUMENT...]",
		Short: "Run a guest's program, or one of its functions",
		Long:  wasmRunHelp,
		Args:  asUsed,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 && r.invoke != "" {
				return usagef("--invoke %s: a function that is invoked takes no arguments", r.invoke)
			}
			return r.run(cmd.Context(), p, args)
		},
	}
	cmd.Flags().StringVar(&r.invoke, "invoke", "", "call this exported function instead of running the program")
	cmd.Flags().StringVar(&r.returns, "returns", "", "what the function of a core module returns: string or result")
	cmd.Flags().BoolVar(&r.stats, "stats", false, "in the end print calls, keys and time of each function on standard error")
	cmd.Flags().DurationVar(&r.limit, "run-timeout", 0, "the most the guest may take; 0: any time")
	return r.flags(p, cmd, 1024)
}

// exitCode is a guest's own exit code; it has said why.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("the guest exited with code %d", int(e)) }

func (r *wasmRun) run(ctx context.Context, p *program, args []string) (err error) {
	returns, ok := map[string]wasi.Returns{"": wasi.ReturnsKnown, "string": wasi.ReturnsString, "result": wasi.ReturnsResult}[r.returns]
	switch {
	case !ok:
		return usagef("--returns %q, want string or result", r.returns)
	case r.returns != "" && r.invoke == "":
		return usagef("--returns is for --invoke")
	case r.limit < 0:
		return usagef("--run-timeout %v, want 0 or more", r.limit)
	}
	var stats *wasi.Stats
	if r.stats {
		stats = new(wasi.Stats)
		defer p.showStats(stats)
	}
	open, closing, err := r.policy(ctx, p)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closing()) }()
	host, guest, err := r.open(ctx, args[0], stats)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, host.Close(context.WithoutCancel(ctx))) }()
	if r.limit > 0 {
		var done context.CancelFunc
		ctx, done = context.WithTimeoutCause(ctx, r.limit, fmt.Errorf("it took longer than %v", r.limit))
		defer done()
	}
	process := wasi.Process{Open: open, Args: args, Env: r.env, Stdin: p.stdin, Stdout: p.stdout, Stderr: p.stderr}
	if r.invoke == "" {
		err := guest.Run(ctx, process)
		if errors.Is(err, kv.ErrInvalid) {
			err = hinted{err, "--invoke NAME calls a function"}
		}
		return ownExit(err)
	}
	text, err := guest.Invoke(ctx, process, r.invoke, returns)
	if err == nil && text != "" {
		p.stdout.printf("%s\n", strings.TrimSuffix(text, "\n"))
	}
	return ownExit(err)
}

// ownExit makes a guest's exit code the program's.
func ownExit(err error) error {
	if exit, ok := errors.AsType[*wasi.ExitError](err); ok {
		return exitCode(min(exit.Code, 255))
	}
	return err
}

// showStats prints what the guest called.
func (p *program) showStats(stats *wasi.Stats) {
	rows := [][]string{{"function", "version", "calls", "keys", "time", "time/call"}}
	for _, c := range stats.Counts() {
		rows = append(rows, []string{
			c.Function, c.Version, fmt.Sprint(c.Calls), fmt.Sprint(c.Keys),
			c.Time.Round(time.Microsecond).String(), (c.Time / time.Duration(c.Calls)).Round(10 * time.Nanosecond).String(),
		})
	}
	p.stderr.table(false, rows)
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/manykv/manykv/kv"
)

// What a script sees.
const (
	exitFailed   = 1
	exitUsage    = 2
	exitConflict = 3 // of cas: the key has another version
)

// program is one run of the binary and all it knows of the world.
type program struct {
	stdin     io.Reader
	stdout    *printer
	stderr    *printer
	lookupEnv func(string) (string, bool)
	terminal  bool // progress may be drawn on stderr
	screen    bool // stdout is a terminal
	asking    bool // a person may be asked: stdin and stderr are a terminal

	running bool       // the command line was understood, the command began
	conn    connection // of the data commands
	reached bool       // a node of the cluster has answered
}

// errFalse is the answer no: it was printed already, exit code 1 repeats it.
var errFalse = errors.New("false")

// usageError is a command that was used wrongly, found after its flags were
// parsed.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// hinted is an error with what to try next.
type hinted struct {
	error
	hint string
}

func (h hinted) Unwrap() error { return h.error }

// run executes the command that args name and returns the exit code.
func (p *program) run(ctx context.Context, args []string) int {
	root := p.root()
	root.SetArgs(markNegatives(root, args))
	root.SetIn(p.stdin)
	root.SetOut(p.stdout)
	root.SetErr(p.stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		err = p.stdout.failure()
	}
	var usage usageError
	var differs conflict
	var own exitCode
	switch {
	case err == nil:
		return 0
	case errors.As(err, &own):
		return int(own) // the guest has said why
	case errors.Is(err, errFalse):
		return exitFailed
	case !p.running || errors.As(err, &usage):
		p.stderr.printf("manykv: %v\nusage: %s\n'%s --help' says more\n", err, cmd.UseLine(), cmd.CommandPath())
		return exitUsage
	case errors.As(err, &differs):
		p.stderr.printf("manykv: %v\n", err)
		return exitConflict
	default:
		p.stderr.printf("manykv: %v\n", err)
		if h := p.hint(cmd, err); h != "" {
			p.stderr.printf("hint: %s\n", h)
		}
		return exitFailed
	}
}

// hint says what to try next, for errors that newcomers meet.
func (p *program) hint(cmd *cobra.Command, err error) string {
	if h, ok := errors.AsType[hinted](err); ok {
		return h.hint
	}
	switch {
	case errors.Is(err, kv.ErrNoSuchStore):
		return bucketHint(cmd)
	case errors.Is(err, kv.ErrUnavailable) && p.reached:
		return "'manykv status' shows which nodes and shards answer"
	default:
		return ""
	}
}

// bucketHint says how to make the bucket that a data command did not find.
func bucketHint(cmd *cobra.Command) string {
	name := cmd.Flags().Arg(0)
	if kv.CheckBucketName(name) != nil {
		return "" // there can be none
	}
	h := fmt.Sprintf("'manykv bucket create %s' makes it", name)
	if cmd.Flags().Lookup("create") != nil && !cmd.Flags().Changed("verify-only") {
		h += ", and so does --create"
	}
	return h
}

const rootHelp = `manykv is a replicated, sharded key-value store: many keys in one call.

Start a cluster on this machine, then use it from the same directory:

  manykv up
  manykv set files readme.txt "hello" --create
  manykv get files readme.txt

Exit codes: 0 done; 1 failed, also because of a bucket's name, a key or a value
that is not allowed; 2 used wrongly: a command, flag, argument or setting that
there is not, or that is missing, or that cannot have this value. Some commands
have others: their help says so.`

func (p *program) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "manykv",
		Short:         "A replicated, sharded key-value store: many keys in one call",
		Long:          rootHelp,
		Version:       version(),
		SilenceErrors: true,
		SilenceUsage:  true,
		// The command line was understood when this runs: an error before it is
		// the caller's.
		PersistentPreRun: func(*cobra.Command, []string) { p.running = true },
	}
	root.AddGroup(
		&cobra.Group{ID: "cluster", Title: "Clusters:"},
		&cobra.Group{ID: "data", Title: "Data:"},
	)
	for _, c := range []*cobra.Command{p.upCommand(), p.serverCommand(), p.certCommand(), p.statusCommand(), p.healthCommand(), p.nodeCommand(), p.benchCommand(), p.debugCommand()} {
		c.GroupID = "cluster"
		root.AddCommand(c)
	}
	for _, c := range []*cobra.Command{
		p.bucketCommand(), p.getCommand(), p.setCommand(), p.deleteCommand(), p.existsCommand(),
		p.incrCommand(), p.casCommand(), p.getManyCommand(), p.setManyCommand(), p.deleteManyCommand(),
		p.keysCommand(), p.importCommand(), p.exportCommand(), p.wasmCommand(),
	} {
		c.GroupID = "data"
		root.AddCommand(c)
	}
	root.AddCommand(p.versionCommand())
	root.InitDefaultHelpCmd()
	for _, c := range root.Commands() {
		if c.Name() == "help" {
			c.Args = knownTopic
		}
	}
	return root
}

// group makes a command that only holds others. Cobra alone would answer a
// misspelt one with help and exit code 0.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	g := &cobra.Command{
		Use:   use + " COMMAND",
		Short: short,
		Args:  cobra.ArbitraryArgs,

		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("%s needs a command: %s", cmd.CommandPath(), names(cmd.Commands()))
			}
			return usagef("unknown command %q of %s, want one of: %s", args[0], cmd.CommandPath(), names(cmd.Commands()))
		},
	}
	g.AddCommand(commands...)
	return g
}

func names(commands []*cobra.Command) string {
	list := ""
	for i, c := range commands {
		if i > 0 {
			list += ", "
		}
		list += c.Name()
	}
	return list
}

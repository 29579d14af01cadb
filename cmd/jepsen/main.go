//go:build linux

// Command jepsen breaks a cluster of manykv on purpose while clients use it, and says
// whether what was promised held.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/manykv/manykv/jepsen/vnet"
)

func main() {
	child, code, err := vnet.Reexec()
	if err != nil {
		fmt.Fprintln(os.Stderr, "jepsen:", err)
		os.Exit(1)
	}
	if !child {
		os.Exit(code)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	if err := command().ExecuteContext(ctx); err != nil {
		if !errors.Is(err, errVerdict) { // which has been printed
			fmt.Fprintln(os.Stderr, "jepsen:", err)
		}
		os.Exit(1)
	}
}

// errVerdict says that a run found something.
var errVerdict = errors.New("what was promised did not hold")

func command() *cobra.Command {
	root := &cobra.Command{
		Use:   "jepsen",
		Short: "Break a cluster of manykv on purpose, and prove what holds",
		Long: `Break a cluster of manykv on purpose while clients use it, and judge what they saw.

  jepsen run --time 10m          one run, with a report
  jepsen run --seed 7            the same faults and calls again
  jepsen check DIR               judge a run's history again
  jepsen nightly --hours 8       runs of all sorts, one after the other
  jepsen mutants                 does it see defects that were put in on purpose?

It needs root (network namespaces, TUN devices, FUSE) and the go command, and builds
manykv itself. Nothing of the machine's own network, disks or clock is touched.

Exit codes: 0 everything held; 1 something did not, or the run failed.`,
		SilenceUsage: true, SilenceErrors: true,
	}
	root.AddCommand(runCommand(), checkCommand(), nightlyCommand(), mutantsCommand())
	return root
}

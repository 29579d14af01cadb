package main

import (
	"context"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/mattn/go-isatty"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "server" { // before there is anything to lose, as a signal
		coarseTimers()
	}
	runtime.UnlockOSThread()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	drawn := isatty.IsTerminal(os.Stderr.Fd())
	p := program{
		stdin:     os.Stdin,
		stdout:    &printer{w: os.Stdout},
		stderr:    &printer{w: os.Stderr},
		lookupEnv: os.LookupEnv,
		terminal:  drawn,
		screen:    isatty.IsTerminal(os.Stdout.Fd()),
		asking:    drawn && isatty.IsTerminal(os.Stdin.Fd()),
	}
	os.Exit(p.run(ctx, os.Args[1:]))
}

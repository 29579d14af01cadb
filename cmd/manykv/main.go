package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/mattn/go-isatty"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	p := program{
		stdin:     os.Stdin,
		stdout:    &printer{w: os.Stdout},
		stderr:    &printer{w: os.Stderr},
		lookupEnv: os.LookupEnv,
		terminal:  isatty.IsTerminal(os.Stderr.Fd()),
	}
	os.Exit(p.run(ctx, os.Args[1:]))
}

//go:build unix

package jepsen

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/manykv/manykv/cluster"
)

var (
	calls      = flag.Int("ops", 4000, "calls of TestLinearizable")
	increments = flag.Int("increments", 4000, "increments of TestExactlyOnce")
	soakTime   = flag.Duration("soak", 0, "how long TestSoak runs; 0: it does not")
	loadBytes  = flag.Int64("load", 0, "bytes of values that TestLoad writes; 0: it does not run")
	clockAhead = flag.Bool("clock", false, "run TestClockAhead, which builds a Go runtime")
	keep       = flag.Bool("keep", false, "keep the nodes' logs, and the history, of runs that succeed too")
	seed       = flag.Uint64("seed", 0, "seed of the faults and the calls; 0 takes one from the clock")
)

// nodeEnv holds the configuration of the node that a child process shall be.
const nodeEnv = "MANYKV_JEPSEN_NODE"

// TestMain runs the tests or, in a child process, a node.
func TestMain(m *testing.M) {
	if spec := os.Getenv(nodeEnv); spec != "" {
		if err := runNode(spec); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// closeTime is how long a node may take to hand over its shards and close.
const closeTime = 5 * time.Second

// runNode is what `manykv server` does: a node until SIGTERM, or until it stops
// by itself.
func runNode(spec string) error {
	var cfg cluster.Config
	if err := json.Unmarshal([]byte(spec), &cfg); err != nil {
		return fmt.Errorf("%s: %w", nodeEnv, err)
	}
	cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	node, err := cluster.Open(cfg)
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
	case <-node.Done():
	}
	closing, done := context.WithTimeout(context.Background(), closeTime)
	defer done()
	return errors.Join(node.Err(), node.Close(closing))
}

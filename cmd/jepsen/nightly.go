//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/manykv/manykv/jepsen"
)

// sort is a sort of run that a night goes through in turn.
type sort struct {
	name string
	with func(o *options)
}

var sorts = []sort{
	{"mixed", func(*options) {}},
	{"whole logs", func(o *options) { o.journalMiB = 0 }},
	{"five nodes", func(o *options) { o.nodes = 5 }},
	{"power cuts", func(o *options) { o.faults = []string{jepsen.PowerAll} }},
	{"disks", func(o *options) {
		o.faults, o.atOnce = []string{jepsen.PowerAll, jepsen.PowerOne, jepsen.WriteError, jepsen.SyncError, jepsen.DiskFull, jepsen.SlowSync, jepsen.HungSync, jepsen.FlippedBits}, 2
	}},
	{"network", func(o *options) {
		o.faults = []string{jepsen.Halves, jepsen.Isolate, jepsen.Bridge, jepsen.OneWay, jepsen.Flapping, jepsen.Latency, jepsen.Loss, jepsen.Reorder, jepsen.Corrupt, jepsen.SlowLinks}
	}},
	{"crashes", func(o *options) {
		o.faults = []string{jepsen.CrashPoint, jepsen.KillAll, jepsen.KillLeader, jepsen.Pause, jepsen.PauseTwo, jepsen.Rolling}
	}},
	{"one leader at a time", func(o *options) {
		o.faults, o.atOnce = []string{jepsen.KillLeader, jepsen.Isolate}, 1
	}},
}

// totals are what a night came to.
type totals struct {
	runs, failed, operations, faults, powerCuts int
}

func nightlyCommand() *cobra.Command {
	o := options{atOnce: 3}
	var hours float64
	cmd := &cobra.Command{
		Use:   "nightly",
		Short: "Make runs of all sorts, one after the other, for some hours",
		Long: `Make runs of all sorts, one after the other: mixed faults, logs that stay whole, five
nodes, power cuts, disks, the network, crashes at named places, one leader at a time.
Runs that pass leave run.json, runs that fail all there is. The last line has the totals.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.nightly(cmd.Context(), time.Duration(hours*float64(time.Hour)))
		},
	}
	f := cmd.Flags()
	f.Float64Var(&hours, "hours", 8, "for how long")
	f.DurationVar(&o.time, "time", 5*time.Minute, "how long faults are done in one run")
	f.IntVar(&o.pace, "pace", 800, "most calls a second of the task registers")
	f.Uint64Var(&o.seed, "seed", 1, "where faults and calls come from; each run takes the next")
	f.StringVar(&o.dir, "dir", "", "`folder` for the reports; default jepsen-runs/nightly and the time")
	return cmd
}

func (o *options) nightly(ctx context.Context, length time.Duration) error {
	if err := o.series(ctx, "nightly", "crashpoints"); err != nil {
		return err
	}
	var all totals
	for i, began := 0, time.Now(); time.Since(began) < length; i++ {
		if err := o.night(ctx, sorts[i%len(sorts)], o.seed+uint64(i), &all); err != nil {
			return err
		}
	}
	fmt.Printf("%d runs, %d failed; %d client operations checked, %d faults, %d power cuts of the whole cluster\n",
		all.runs, all.failed, all.operations, all.faults, all.powerCuts)
	if all.failed > 0 {
		return errVerdict
	}
	return nil
}

// night makes one run of a night.
func (o *options) night(ctx context.Context, s sort, seed uint64, all *totals) error {
	one, log, err := o.of(fmt.Sprintf("%04d", seed))
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // all of it is written unbuffered
	one.seed, one.nodes, one.journalMiB = seed, 3, 8
	s.with(&one)
	cfg, err := one.config(ctx, log)
	if err != nil {
		return err
	}
	result, err := jepsen.Run(ctx, cfg)
	all.runs++
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		all.failed++
		fmt.Printf("seed %d, %s: FAIL: %v\n", seed, s.name, err)
		fmt.Fprintln(log, err)
		return nil
	}
	all.operations += result.Operations
	all.faults += len(result.Faults)
	for _, f := range result.Faults {
		if f.Kind == jepsen.PowerAll {
			all.powerCuts++
		}
	}
	fmt.Printf("seed %d, %s: %s\n", seed, s.name, result.Verdict())
	fmt.Fprint(log, result.Text())
	if result.Err() != nil {
		all.failed++
		return result.Save(one.dir, cfg)
	}
	return errors.Join(result.Save(one.dir, cfg), os.RemoveAll(cfg.Dir), os.Remove(filepath.Join(one.dir, jepsen.HistoryFile)))
}

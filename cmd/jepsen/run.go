//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/manykv/manykv/jepsen"
)

// options are the flags of a run.
type options struct {
	seed        uint64
	time        time.Duration
	nodes       int
	faults      []string
	tasks       []string
	atOnce      int
	first       string
	pace        int
	journalMiB  int64
	binary      string
	dir         string
	noNetwork   bool
	noDisks     bool
	noClock     bool
	clock       bool // binary's can be set
	keep        bool
	listFaults  bool
	environment []string
}

func (o *options) flags(f *pflag.FlagSet) {
	f.Uint64Var(&o.seed, "seed", 0, "where faults and calls come from; 0: from the clock")
	f.DurationVar(&o.time, "time", 10*time.Minute, "how long faults are done")
	f.IntVar(&o.nodes, "nodes", 3, "number of nodes")
	f.StringSliceVar(&o.faults, "faults", nil, "only these kinds (see --list), by comma")
	f.StringVar(&o.first, "first", "", "the `kind` of the first fault")
	f.StringSliceVar(&o.tasks, "tasks", nil, "only these of: "+strings.Join(jepsen.TaskNames, ", "))
	f.IntVar(&o.atOnce, "at-once", 3, "how many faults overlap at most")
	f.IntVar(&o.pace, "pace", 0, "most calls a second of the task registers; 0: 400")
	f.Int64Var(&o.journalMiB, "journal", 8, "size in `MiB` at which nodes take snapshots and cut their journals; 0: manykv's default, so that logs stay whole")
	f.StringVar(&o.binary, "binary", "", "the `program` manykv; default: it is built")
	f.StringVar(&o.dir, "dir", "", "`folder` for the report; default jepsen-runs/ and the time")
	f.BoolVar(&o.noNetwork, "no-network", false, "no faults of the network")
	f.BoolVar(&o.noDisks, "no-disks", false, "no faults of disks")
	f.BoolVar(&o.noClock, "no-clock", false, "no faults of clocks, and so no build of Go's runtime")
	f.BoolVar(&o.keep, "keep", false, "keep the nodes' data of a run that succeeds, too")
	f.BoolVar(&o.listFaults, "list", false, "list the kinds of faults, and end")
}

func runCommand() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Make one run and write its report",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.listFaults {
				for _, name := range jepsen.FaultNames() {
					fmt.Println(name)
				}
				return nil
			}
			return o.run(cmd.Context(), os.Stderr)
		},
	}
	o.flags(cmd.Flags())
	return cmd
}

// config makes the folder, builds what is to be run, and says what to do.
func (o *options) config(ctx context.Context, progress io.Writer) (cfg jepsen.Config, err error) {
	if o.seed == 0 {
		o.seed = uint64(time.Now().UnixNano())
	}
	if o.dir == "" {
		o.dir = filepath.Join("jepsen-runs", fmt.Sprintf("%s-%d", time.Now().Format("20060102-150405"), o.seed%100_000))
	}
	if o.dir, err = filepath.Abs(o.dir); err != nil {
		return cfg, err
	}
	work := filepath.Join(o.dir, "work")
	if err := os.MkdirAll(work, 0o755); err != nil {
		return cfg, err
	}
	if o.binary == "" {
		if err := o.build(ctx, progress, "crashpoints"); err != nil {
			return cfg, err
		}
	}
	cfg = jepsen.Config{
		Setup: jepsen.Setup{
			Binary: o.binary, Dir: work, Nodes: o.nodes, Seed: o.seed, Network: !o.noNetwork, Disks: !o.noDisks, Clock: o.clock,
			JournalBytes: o.journalMiB << 20, Env: o.environment,
		},
		Length: o.time, Faults: o.faults, AtOnce: o.atOnce, First: o.first, Tasks: o.tasks, Pace: o.pace, Progress: progress,
		Points: points(ctx, o.binary), Replay: o.replay(),
	}
	return cfg, nil
}

// build builds manykv into the folder.
func (o *options) build(ctx context.Context, progress io.Writer, tags string) (err error) {
	fmt.Fprintln(progress, "building manykv")
	o.clock = !o.noClock
	o.binary, err = jepsen.Build(ctx, o.dir, tags, o.clock)
	return err
}

// series makes the folder of several runs of one program, and builds that.
func (o *options) series(ctx context.Context, name, tags string) (err error) {
	if o.dir == "" {
		o.dir = filepath.Join("jepsen-runs", name+"-"+time.Now().Format("20060102-150405"))
	}
	if o.dir, err = filepath.Abs(o.dir); err != nil {
		return err
	}
	if err := os.MkdirAll(o.dir, 0o755); err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "reports:", o.dir)
	return o.build(ctx, os.Stderr, tags)
}

// of returns the options of one run of a series, in a folder of its own, and opens
// its log there.
func (o *options) of(name string) (one options, log *os.File, err error) {
	one = *o
	one.dir = filepath.Join(o.dir, name)
	if err := os.MkdirAll(one.dir, 0o755); err != nil {
		return one, nil, err
	}
	log, err = os.Create(filepath.Join(one.dir, "run.log"))
	return one, log, err
}

// points asks a program for the places at which it can be made to die; nil if there
// are none.
func points(ctx context.Context, binary string) []string {
	out, err := exec.CommandContext(ctx, binary, "debug", "points").Output()
	if err != nil {
		return nil
	}
	return strings.Fields(string(out))
}

// replay is the command that does the same faults and calls again.
func (o *options) replay() string {
	args := []string{"jepsen", "run", "--seed", fmt.Sprint(o.seed), "--time", o.time.String(), "--nodes", fmt.Sprint(o.nodes),
		"--at-once", fmt.Sprint(o.atOnce), "--journal", fmt.Sprint(o.journalMiB)}
	for _, list := range []struct {
		flag   string
		values []string
	}{{"--faults", o.faults}, {"--tasks", o.tasks}} {
		if list.values != nil {
			args = append(args, list.flag, "'"+strings.Join(list.values, ",")+"'")
		}
	}
	if o.first != "" {
		args = append(args, "--first", "'"+o.first+"'")
	}
	if o.pace != 0 {
		args = append(args, "--pace", fmt.Sprint(o.pace))
	}
	return strings.Join(args, " ")
}

// run makes a run, writes its report and says what came of it.
func (o *options) run(ctx context.Context, progress io.Writer) error {
	cfg, err := o.config(ctx, progress)
	if err != nil {
		return err
	}
	fmt.Fprintf(progress, "report: %s\nagain:  %s\n", o.dir, cfg.Replay)
	result, err := jepsen.Run(ctx, cfg)
	if err != nil {
		return fmt.Errorf("%w; logs and data are in %s", err, cfg.Dir)
	}
	err = result.Save(o.dir, cfg)
	fmt.Fprint(progress, result.Text())
	fmt.Println(result.Verdict())
	if result.Err() != nil {
		return errors.Join(errVerdict, err)
	}
	if err == nil && !o.keep {
		err = tidy(o.dir, cfg.Dir)
	}
	return err
}

// tidy keeps the nodes' logs of a run that succeeded, and removes their data.
func tidy(dir, work string) error {
	logs, err := filepath.Glob(filepath.Join(work, "*.log"))
	if err != nil {
		return err
	}
	for _, log := range logs {
		if err := os.Rename(log, filepath.Join(dir, filepath.Base(log))); err != nil {
			return err
		}
	}
	return os.RemoveAll(work)
}

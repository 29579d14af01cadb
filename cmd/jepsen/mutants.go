//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/manykv/manykv/jepsen"
	"github.com/manykv/manykv/mutant"
)

// hunt is how a defect is looked for: what would show it, before the mixture of all
// faults that `jepsen run` does.
type hunt struct {
	faults []string // default all
	tasks  []string // default all
	pace   int
}

var (
	leaders = []string{jepsen.Isolate, jepsen.OneWay, jepsen.Pause, jepsen.PauseTwo, jepsen.Flapping, jepsen.KillLeader}
	power   = []string{jepsen.PowerAll, jepsen.PowerOne}
)

// hunts are those that are not looked for by all faults.
var hunts = map[mutant.Name]hunt{
	mutant.AckBeforeQuorum:     {faults: leaders},
	mutant.ReadUnconfirmed:     {faults: leaders, tasks: []string{"registers", "sessions"}, pace: 800},
	mutant.VerifyLeader:        {faults: []string{jepsen.PauseTwo, jepsen.Pause, jepsen.Latency}, tasks: []string{"registers", "sessions"}, pace: 1500},
	mutant.JoinSentMessage:     {faults: []string{jepsen.PauseTwo, jepsen.Pause, jepsen.Isolate}, tasks: []string{"registers", "sessions"}, pace: 1500},
	mutant.ReadBeforeOwnTerm:   {faults: []string{jepsen.KillLeader, jepsen.Isolate, jepsen.Pause}, tasks: []string{"registers", "sessions"}, pace: 1500},
	mutant.ReadOwnReplica:      {faults: leaders},
	mutant.JournalNotSynced:    {faults: power},
	mutant.VotesNotSynced:      {faults: power},
	mutant.IgnoreLogError:      {faults: []string{jepsen.WriteError, jepsen.SyncError, jepsen.PowerAll}},
	mutant.SnapshotNotFlushed:  {faults: append([]string{jepsen.KillAll}, power...)},
	mutant.InstallNotFlushed:   {faults: []string{jepsen.FlippedBits}},
	mutant.SnapshotNoSessions:  {faults: []string{jepsen.KillNode, jepsen.Halves, jepsen.PauseTwo, jepsen.FlippedBits}},
	mutant.NoDedupe:            {faults: leaders},
	mutant.UnknownAsNotApplied: {faults: leaders},
	mutant.LostPart:            {faults: leaders},
}

// unlikely is looked for only if it is named: see jepsen/README.md.
const unlikely = mutant.VerifyLeader

// noticed is what became of a hunt.
type noticed struct {
	after  time.Duration
	checks []string // those that failed
}

func mutantsCommand() *cobra.Command {
	o := options{nodes: 3, atOnce: 2, journalMiB: 8, noClock: true}
	var round, most time.Duration
	cmd := &cobra.Command{
		Use:   "mutants [NAME...]",
		Short: "Put defects in on purpose, one after the other, and see whether they are noticed",
		Long: `Build manykv with defects that can be switched on, and run it with each of them until
a check fails. The faults are those that should show the defect, then all there are.
Every defect should be noticed within --most; runs without a defect must pass. One is
left out unless it is named: verify-leader.

` + mutantList(),
		RunE: func(cmd *cobra.Command, args []string) error {
			names := slices.DeleteFunc(slices.Sorted(maps.Keys(mutant.All)), func(n mutant.Name) bool { return n == unlikely })
			if len(args) > 0 {
				names = names[:0]
				for _, a := range args {
					if _, known := mutant.All[mutant.Name(a)]; !known {
						return fmt.Errorf("there is no defect %q; there are %q", a, slices.Sorted(maps.Keys(mutant.All)))
					}
					names = append(names, mutant.Name(a))
				}
			}
			return o.mutants(cmd.Context(), names, round, most)
		},
	}
	f := cmd.Flags()
	f.DurationVar(&round, "round", time.Minute, "how long faults are done in one run")
	f.DurationVar(&most, "most", 10*time.Minute, "how long a defect is looked for")
	f.StringVar(&o.dir, "dir", "", "`folder` for the reports; default jepsen-runs/mutants and the time")
	f.Uint64Var(&o.seed, "seed", 1, "where faults and calls come from; each further run of a defect takes the next")
	return cmd
}

func mutantList() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(mutant.All)) {
		fmt.Fprintf(&b, "  %-26s %s\n", name, mutant.All[name])
	}
	return b.String()
}

// mutants hunts each defect and prints a table.
func (o *options) mutants(ctx context.Context, names []mutant.Name, round, most time.Duration) error {
	if err := o.series(ctx, "mutants", "crashpoints mutants"); err != nil {
		return err
	}
	missed := 0
	fmt.Printf("| defect | what it does | noticed | by |\n|---|---|---|---|\n")
	for _, name := range names {
		n, err := o.hunt(ctx, name, round, most)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		when := fmt.Sprintf("after %v", n.after.Round(time.Second))
		if n.checks == nil {
			when = fmt.Sprintf("**not within %v**", n.after.Round(time.Second))
			missed++
		}
		fmt.Printf("| `%s` | %s | %s | %s |\n", name, mutant.All[name], when, strings.Join(n.checks, ", "))
	}
	if missed > 0 {
		fmt.Printf("FAIL: %d of %d defects were not noticed\n", missed, len(names))
		return errVerdict
	}
	fmt.Printf("PASS: all %d defects were noticed\n", len(names))
	return nil
}

// hunt makes runs with a defect until one fails.
func (o *options) hunt(ctx context.Context, name mutant.Name, round, most time.Duration) (n noticed, err error) {
	began := time.Now()
	for i := uint64(0); n.checks == nil && time.Since(began) < most; i++ {
		one, log, err := o.of(fmt.Sprintf("%s-%d", name, o.seed+i))
		if err != nil {
			return n, err
		}
		one.seed, one.time, one.environment = o.seed+i, round, []string{"MANYKV_MUTANT=" + string(name)}
		if h := hunts[name]; i%2 == 0 { // every other run is of all faults
			one.faults, one.tasks, one.pace = h.faults, h.tasks, h.pace
		}
		n.checks, err = one.failing(ctx, log)
		n.after = time.Since(began)
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// failing makes a run and returns the checks that failed, nil if none did. A cluster
// that does not form, or a node that cannot be replaced, is a failure too.
func (o *options) failing(ctx context.Context, log *os.File) ([]string, error) {
	defer func() { _ = log.Close() }() // all of it is written unbuffered
	cfg, err := o.config(ctx, log)
	if err != nil {
		return nil, err
	}
	result, err := jepsen.Run(ctx, cfg)
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		fmt.Fprintln(log, err)
		return []string{"the run: " + firstLine(err)}, nil
	}
	if result.Err() == nil {
		return nil, os.RemoveAll(o.dir)
	}
	var failed []string
	for _, c := range result.Checks {
		if !c.OK {
			failed = append(failed, c.Name)
		}
	}
	fmt.Fprint(log, result.Text())
	return failed, errors.Join(result.Save(o.dir, cfg), tidy(o.dir, cfg.Dir))
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	const longest = 120
	return line[:min(len(line), longest)]
}

//go:build linux

package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/manykv/manykv/jepsen"
	"github.com/manykv/manykv/mutant"
)

// Whatever names a fault or a task names one that there is.
func TestNamesAreKnown(t *testing.T) {
	faults := jepsen.FaultNames()
	known := func(where string, names, all []string) {
		t.Helper()
		for _, name := range names {
			if !slices.Contains(all, name) {
				t.Errorf("%s names %q; there are %q", where, name, all)
			}
		}
	}
	for name, h := range hunts {
		if _, there := mutant.All[name]; !there {
			t.Errorf("a hunt for %q, which is no defect", name)
		}
		known(string(name), h.faults, faults)
		known(string(name), h.tasks, jepsen.TaskNames)
	}
	for _, s := range sorts {
		var o options
		s.with(&o)
		known(s.name, o.faults, faults)
	}
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	smoke := regexp.MustCompile(`--faults '([^']+)'`).FindSubmatch(makefile)
	if smoke == nil {
		t.Fatal("the Makefile names no faults")
	}
	known("make jepsen-smoke", strings.Split(string(smoke[1]), ","), faults)
}

// What is printed as the command that does the same again is one.
func TestReplay(t *testing.T) {
	o := options{seed: 7, time: time.Minute, nodes: 5, atOnce: 2, journalMiB: 8, faults: []string{jepsen.Halves, jepsen.KillAll}, tasks: []string{"registers"}, first: jepsen.PowerAll, pace: 100}
	var args []string
	for _, m := range regexp.MustCompile(`'([^']*)'|(\S+)`).FindAllStringSubmatch(strings.TrimPrefix(o.replay(), "jepsen run "), -1) {
		args = append(args, m[1]+m[2])
	}
	var again options
	cmd := runCommand()
	cmd.ResetFlags()
	again.flags(cmd.Flags())
	if err := cmd.ParseFlags(args); err != nil {
		t.Fatal(err)
	}
	if again.replay() != o.replay() || !slices.Equal(again.faults, o.faults) || again.first != o.first {
		t.Errorf("%s\nis read as\n%s", o.replay(), again.replay())
	}
}

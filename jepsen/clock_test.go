//go:build linux && amd64

package jepsen

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/manykv/manykv/client"
)

// phaseIncrements is how many increments are made, at least, while the clock is as
// it is in each phase.
const phaseIncrements = 1000

// yearAhead is how far the clock is set ahead: certificates end after a year, so
// two days are left.
const yearAhead = 363 * 24 * time.Hour

// buildAhead builds this test's program with a Go runtime whose wall clock is
// ahead and whose monotonic clock is right, which is what setting a machine's
// clock looks like. (libfaketime cannot do it: Go reads the clock in the vDSO.)
func buildAhead(t *testing.T) string {
	t.Helper()
	goroot, err := goTool(t.Context(), "env", "GOROOT")
	must(t, err)
	dir := t.TempDir()
	files, err := overlay(dir, goroot, fmt.Sprintf("$%d", int(yearAhead.Seconds())), map[string]string{})
	must(t, err)
	binary := filepath.Join(dir, "ahead")
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-overlay", files, "-o", binary, ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building a program whose clock is ahead: %v\n%s", err, out)
	}
	return binary
}

// TestClockAhead lets a leader's wall clock jump a year ahead, and back, while
// callers count through it: sessions grow old by shard time, so nothing changes.
func TestClockAhead(t *testing.T) {
	if !*clockAhead {
		t.Skip("builds a Go runtime: make test-clock, or -args -clock")
	}
	binary := buildAhead(t)
	h := startNodes(t)
	node := h.nodes[0]
	ordinary := node.Command
	ahead := func() *exec.Cmd {
		cmd := ordinary()
		cmd.Path, cmd.Args = binary, []string{binary}
		return cmd
	}
	asking := h.client(false)
	counters := &Counters{Dial: h.dial, Nodes: nodeCount, Bucket: bucketName, Callers: counterCallers}
	until := make(chan struct{})
	var callers errgroup.Group
	callers.Go(func() error { return counters.Run(t.Context(), until) })
	for _, command := range []func() *exec.Cmd{ahead, ordinary, ahead} {
		must(t, Kill(node.Process))
		node.Command = command
		must(t, node.Start())
		awaitLeading(t, h, asking, node.Name)
		awaitMore(t, counters, phaseIncrements)
	}
	close(until)
	must(t, callers.Wait())
	must(t, counters.Judge(t.Context(), []Route{h.routed()}))
	if !loggedAhead(t, h.files[0]) {
		t.Error("no line of the node's log is of next year: its clock was never ahead, and nothing is proved")
	}
	t.Log(counters)
}

// awaitMore waits until some more increments have been made.
func awaitMore(t *testing.T, c *Counters, more int) {
	t.Helper()
	tick := time.NewTicker(ask / 10)
	defer tick.Stop()
	want := c.Done() + more
	for end := time.Now().Add(catchUpTime); c.Done() < want; <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("%d increments too few in %v", want-c.Done(), catchUpTime)
		}
	}
}

// awaitLeading waits until a node leads a shard.
func awaitLeading(t *testing.T, h *harness, asking *client.Client, name string) {
	t.Helper()
	const within = time.Minute // it catches up, then leaders are moved back one at a time
	tick := time.NewTicker(ask)
	defer tick.Stop()
	for end := time.Now().Add(within); ; <-tick.C {
		for _, leader := range leadersBy(asking)(t.Context()) {
			if leader == name {
				return
			}
		}
		if time.Now().After(end) {
			t.Fatalf("node %s leads nothing after %v", name, within)
		}
	}
}

// loggedAhead says whether a log has lines of a clock that is ahead.
func loggedAhead(t *testing.T, path string) bool {
	t.Helper()
	text, err := os.ReadFile(path)
	must(t, err)
	for line := range strings.Lines(string(text)) {
		stamp, _, _ := strings.Cut(strings.TrimPrefix(line, "time="), " ")
		if at, err := time.Parse(time.RFC3339, stamp); err == nil && time.Until(at) > yearAhead/2 {
			return true
		}
	}
	return false
}

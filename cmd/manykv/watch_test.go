package main

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/manykv/manykv/client"
	"github.com/manykv/manykv/sharding"
)

// watched shows a cluster for a time that ends between two looks, the third of
// which nobody answers.
func watched(t *testing.T, screen, asJSON bool) (stdout, stderr *bytes.Buffer) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := &flaky{scripted{[][]client.Status{nodesSay(t, wholeN1, wholeN2), nodesSay(t, wholeN1, "silence")}}, 0}
		var p *program
		p, stdout, stderr = newProgram("")
		p.screen = screen
		ctx, done := context.WithTimeout(t.Context(), 5*time.Second)
		defer done()
		if err := p.showAgain(ctx, c, 2*time.Second, asJSON); err != nil {
			t.Errorf("got %v, want no error when it is interrupted", err)
		}
	})
	return stdout, stderr
}

// flaky does not answer the third time.
type flaky struct {
	scripted
	asked int
}

func (f *flaky) Status(ctx context.Context) ([]client.Status, error) {
	if f.asked++; f.asked == 3 {
		return nil, errors.New("nobody answers")
	}
	return f.scripted.Status(ctx)
}

func TestAWatchDrawsInPlaceOnATerminal(t *testing.T) {
	stdout, _ := watched(t, true, false)
	frames := strings.Split(stdout.String(), cursorHome)
	if len(frames) != 4 || frames[0] != clearScreen {
		t.Fatalf("got %q, want the screen cleared and three frames", stdout)
	}
	for i, says := range []string{"n2    127.0.0.1:7401  serving", "node n2 is unreachable: silence", "nobody answers"} {
		frame := frames[i+1]
		if !strings.Contains(frame, says) || !strings.HasSuffix(frame, clearBelow) || strings.Count(frame, "\n") != strings.Count(frame, clearLine+"\n") {
			t.Errorf("got\n%q\nwant %q, and each line and all below it cleared", frame, says)
		}
	}
}

func TestAWatchPrintsOneBelowTheOtherElsewhere(t *testing.T) {
	stdout, _ := watched(t, false, false)
	if got := strings.Count(stdout.String(), "NODE  ADDRESS"); got != 2 || strings.Contains(stdout.String(), "\x1b") || !strings.HasSuffix(stdout.String(), "\n\nnobody answers\n") {
		t.Errorf("got\n%s\nwant two tables and that nobody answers, without escapes", stdout)
	}
	stdout, stderr := watched(t, false, true)
	if got := strings.Count(stdout.String(), "\n"); got != 2 || !strings.HasPrefix(stdout.String(), `{"nodes":`) || stderr.String() != "manykv: nobody answers\n" {
		t.Errorf("got\n%s%s\nwant two lines of JSON and that nobody answers", stdout, stderr)
	}
}

func TestAWatchEndsWhenItCannotPrint(t *testing.T) {
	c := &scripted{[][]client.Status{nodesSay(t, wholeN1, wholeN2)}}
	for _, asJSON := range []bool{false, true} {
		p := &program{stdout: &printer{w: brokenPipe{}}}
		if err := p.showAgain(t.Context(), c, time.Hour, asJSON); !errors.Is(err, errBrokenPipe) {
			t.Errorf("got %v, want %v", err, errBrokenPipe)
		}
	}
}

func TestNodesAreThoseOfTheMapAndThoseThatWait(t *testing.T) {
	statuses := nodesSay(t, strings.Replace(wholeN1, `"shards"`, `"members":[
		{"node":"n1","addr":"127.0.0.1:7400","alive":true},{"node":"n5","addr":"127.0.0.1:7405","alive":false},
		{"node":"n4","addr":"127.0.0.1:7404","alive":true}],"shards"`, 1), wholeN2, "silence")
	nodes := nodesOf(leavingN1(), statuses)
	var out bytes.Buffer
	printNodes(&printer{w: &out}, nodes)
	want := `NODE  ADDRESS         STORAGE           STATE                REPLICAS  LEADS
n1    127.0.0.1:7400  000000000000000a  leaving              2         1
n2    127.0.0.1:7401  000000000000000b  active               2         1
n3    127.0.0.1:7402  000000000000000c  active, unreachable  0         0
n4    127.0.0.1:7404  -                 waiting              0         0
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", &out, want)
	}
}

func TestLosingACopyIsSaidBeforehand(t *testing.T) {
	nodes := func(n int, leaving string) *sharding.Map {
		m := &sharding.Map{Replicas: 3}
		for i := range n {
			id := sharding.NodeID(nodeName(i))
			m.Nodes = append(m.Nodes, sharding.Node{ID: id, Leaving: string(id) == leaving})
		}
		return m
	}
	for _, c := range []struct {
		m    *sharding.Map
		id   sharding.NodeID
		want string
	}{
		{nodes(4, ""), "n4", ""},
		{nodes(3, ""), "n3", "Without n3 only 2 nodes would be left: each shard would have 2 copies, not 3."},
		{nodes(4, "n4"), "n3", "Without n3 only 2 nodes would be left: each shard would have 2 copies, not 3."},
		{nodes(2, ""), "n2", "Without n2 only 1 node would be left: each shard would have 1 copy, not 3."},
		{nodes(3, "n3"), "n3", ""}, // it goes already
		{nodes(3, ""), "n9", ""},   // the cluster says that there is none
		{nodes(1, ""), "n1", ""},   // and that it is the last
	} {
		if got := fewerCopies(c.m, c.id); got != c.want {
			t.Errorf("%d nodes without %s: got %q, want %q", len(c.m.Nodes), c.id, got, c.want)
		}
	}
}

// mapped answers with one map after the other; the last for ever.
type mapped struct {
	scripted
	maps []*sharding.Map
}

func (c *mapped) Nodes(context.Context) (*sharding.Map, error) {
	m := c.maps[0]
	if len(c.maps) > 1 {
		c.maps = c.maps[1:]
	}
	if m == nil {
		return nil, errors.New("nobody answers")
	}
	return m, nil
}

// TestAChangeIsDoneWhenNothingMoves: a move under way, one that is wanted, and
// what the change itself is about are waited for; no answer is asked for again.
func TestAChangeIsDoneWhenNothingMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		moving := leavingN1()
		wanted := leavingN1()
		wanted.Groups[0].Adding, wanted.Groups[0].Removing = "", ""
		settled := leavingN1()
		settled.Nodes[0].Leaving = false
		settled.Nodes = settled.Nodes[:2]
		settled.Groups[0].Adding, settled.Groups[0].Removing = "", ""
		c := &mapped{scripted{[][]client.Status{nodesSay(t, wholeN1, wholeN2)}}, []*sharding.Map{moving, nil, wanted, settled}}
		asked := 0
		ch := &change{what: "change", done: func(m *sharding.Map, v *view) bool {
			asked++
			return asked == 2 && m == settled && v.follows(m, "n1")
		}}
		p, _, _ := newProgram("")
		start := time.Now()
		if err := p.awaitChange(t.Context(), 0, c, ch); err != nil || time.Since(start) != 4*pollEvery || asked != 2 {
			t.Errorf("got %v after %v and %d questions, want it done after four pauses", err, time.Since(start), asked)
		}

		c.maps = []*sharding.Map{moving}
		err := p.awaitChange(t.Context(), time.Minute, c, ch)
		if want := "not done after 1m0s: shard 1 from n1 to n3 is under way"; err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	})
}

// settledN2 is leavingN1 when n1 has left.
func settledN2() *sharding.Map {
	m := leavingN1()
	m.Epoch++
	m.Nodes = m.Nodes[1:]
	m.Groups[0].Adding, m.Groups[0].Removing = "", ""
	m.Groups[0].Replicas = []sharding.NodeID{"n2", "n3"}
	m.Meta.Replicas = m.Groups[0].Replicas
	return m
}

// TestNodesAreDoneAsTheMapSays, whatever their addresses are called.
func TestNodesAreDoneAsTheMapSays(t *testing.T) {
	before, after := leavingN1(), settledN2()
	wiped := settledN2()
	wiped.Nodes = append([]sharding.Node{{ID: "n1", Storage: 99}}, wiped.Nodes...)
	filled := leavingN1()
	filled.Nodes[0].Storage = 99
	older := settledN2()
	older.Epoch = 3 // than the map of the meta group's leader
	for _, c := range []struct {
		name     string
		ch       *change
		from, to *sharding.Map
		answers  []string
		done     bool
		remark   string
	}{
		{"n1 gave its place to another", replacing("n1", "n3:7400"), before, after, []string{wholeN1, wholeN2}, true, ""},
		{"n1 got another disk", replacing("n1", "n1:7400"), before, filled, []string{wholeN1, wholeN2}, true, ""},
		{"n1 got another disk and is silent", replacing("n1", "n1:7400"), before, filled, []string{"silence", wholeN2}, false, ""},
		{"n2 is as it was", replacing("n2", "n3:7400"), before, after, []string{wholeN1, wholeN2}, false, ""},
		{"a node is new", adding("alias:7400"), after, wiped, []string{wholeN1, wholeN2}, true, ""},
		{"a node with another disk is new", adding("alias:7400"), before, wiped, []string{wholeN1, wholeN2}, true, ""},
		{"none is new", adding("alias:7400"), after, after, []string{wholeN1, wholeN2}, true, "the node at alias:7400 was of the cluster already"},
		{"none is new in an old map", adding("alias:7400"), after, older, []string{wholeN1, wholeN2}, false, ""},
		{"none is new, but half of the nodes are silent", adding("alias:7400"), after, after, []string{wholeN1, "silence"}, false, ""},
		{"none is new, but there is no leader", adding("alias:7400"), after, after, []string{"silence", wholeN2}, false, ""},
	} {
		if err := c.ch.agreed(t.Context(), c.from); err != nil {
			t.Fatal(err)
		}
		v := newView(nodesSay(t, c.answers...), c.to)
		if got := c.ch.done(c.to, &v); got != c.done || c.ch.remark != c.remark {
			t.Errorf("%s: got %t and %q, want %t and %q", c.name, got, c.ch.remark, c.done, c.remark)
		}
	}
}

func TestReplicasFollowWhenTheyVoteAndAreHeard(t *testing.T) {
	m := leavingN1()
	m.Groups[0].Replicas = []sharding.NodeID{"n1", "n2", "n3"}
	m.Meta.Replicas = m.Groups[0].Replicas
	for _, c := range []struct {
		name    string
		answers []string
		id      sharding.NodeID
		want    bool
	}{
		{"whole", []string{wholeN1, wholeN2}, "n2", true},
		{"quarantined and filled", []string{wholeN1, filling, quarantined}, "n3", false},
		{"silent", []string{wholeN1, wholeN2, "silence"}, "n3", false},
	} {
		v := newView(nodesSay(t, c.answers...), m)
		if got := v.follows(m, c.id); got != c.want {
			t.Errorf("%s: got %t, want %t", c.name, got, c.want)
		}
	}
}

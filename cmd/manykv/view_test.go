package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/manykv/manykv/client"
	"github.com/manykv/manykv/sharding"
)

// nodesSay is the answers of nodes: JSON as they send it, or why there is none.
func nodesSay(t *testing.T, answers ...string) []client.Status {
	t.Helper()
	var out []client.Status
	for i, text := range answers {
		s := client.Status{Node: sharding.NodeID(nodeName(i)), Addr: "127.0.0.1:740" + string(rune('0'+i))}
		if err := json.Unmarshal([]byte(text), &s.Status); err != nil {
			s.Err = errors.New(text)
		}
		out = append(out, s)
	}
	return out
}

const (
	wholeN1 = `{"node":"n1","state":"serving","epoch":4,"version":"v1","storage":"0a","journal_bytes":123456789,"journal_live":1234567,"store_bytes":9876543,"memory_bytes":50000000,"shards":[
		{"shard":0,"role":"leader","leader":"n1","term":3,"commit":10,"applied":10,"snapshot":7,"voters":["n1","n2"]},
		{"shard":1,"role":"follower","leader":"n2","term":5,"commit":99,"applied":100,"voters":["n1","n2"],"first_slot":0,"last_slot":16383}]}`
	wholeN2 = `{"node":"n2","state":"serving","epoch":4,"version":"v1","shards":[
		{"shard":0,"role":"follower","leader":"n1","term":3,"commit":10,"applied":10,"voters":["n1","n2"]},
		{"shard":1,"role":"leader","leader":"n2","term":5,"commit":100,"applied":100,"voters":["n1","n2"],"first_slot":0,"last_slot":16383}]}`
)

// Shard 1 moves from n1 to n3, which it is filling, and n3's replica of the meta
// group has lost something.
const (
	filling = `{"node":"n2","state":"serving","epoch":5,"version":"v1","shards":[
		{"shard":0,"role":"follower","leader":"n1","term":3,"commit":10,"applied":10,"voters":["n1","n2"]},
		{"shard":1,"role":"leader","leader":"n2","term":5,"commit":100,"applied":100,"snapshot":90,"voters":["n1","n2"],"nonvoters":["n3"],"first_slot":0,"last_slot":16383}]}`
	quarantined = `{"node":"n3","state":"serving","epoch":5,"version":"v1","shards":[
		{"shard":0,"role":"quarantined","reason":"the log ends at 3, want 7"},
		{"shard":1,"role":"follower","leader":"n2","term":5,"commit":80,"applied":80,"snapshot":75,"voters":["n1","n2"],"nonvoters":["n3"],"first_slot":0,"last_slot":16383}]}`
)

func leavingN1() *sharding.Map {
	nodes := []sharding.NodeID{"n1", "n2"}
	return &sharding.Map{
		Cluster: 1, Epoch: 5, Replicas: 2,
		Nodes: []sharding.Node{{ID: "n1", Storage: 10, Addr: "127.0.0.1:7400", Leaving: true}, {ID: "n2", Storage: 11, Addr: "127.0.0.1:7401"},
			{ID: "n3", Storage: 12, Addr: "127.0.0.1:7402"}},
		Meta:   sharding.Group{Generation: 1, Replicas: nodes},
		Groups: []sharding.Group{{Shard: 1, Generation: 2, Range: sharding.Range{First: 0, Last: sharding.Slots - 1}, Replicas: nodes, Adding: "n3", Removing: "n1"}},
	}
}

func TestStatusTables(t *testing.T) {
	for _, c := range []struct {
		name    string
		answers []string
	}{
		{"whole", []string{wholeN1, wholeN2}},
		{"unreachable", []string{wholeN1, "node n2: no route to host"}},
		{"behind", []string{strings.Replace(wholeN1, `"applied":100`, `"applied":93`, 1), wholeN2}},
		{"leaderless", []string{strings.NewReplacer(`"leader":"n1"`, `"leader":""`, `"leader":"n2"`, `"leader":""`, `"role":"leader"`, `"role":"candidate"`).Replace(wholeN1), "no answer"}},
		{"forming", []string{`{"node":"n1","state":"forming","reason":"waiting for n3"}`, `{"node":"n2","state":"forming"}`}},
		{"moving", []string{wholeN1, filling, quarantined}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var m *sharding.Map
			if c.name == "moving" {
				m = leavingN1()
			}
			v := newView(nodesSay(t, c.answers...), m)
			var out bytes.Buffer
			v.print(&printer{w: &out})
			out.WriteString("\nmissing: " + strings.Join(v.missing(nil, &view{}), "; ") + "\n\n")
			if err := (&printer{w: &out}).json(v); err != nil {
				t.Fatal(err)
			}
			want, err := os.ReadFile(filepath.Join("testdata", "status-"+c.name+".txt"))
			if err != nil {
				t.Fatal(err)
			}
			if out.String() != string(want) {
				t.Errorf("got\n%s\nwant\n%s", &out, want)
			}
		})
	}
}

// TestTroubleIsWhatCallersFeel: a replica that is behind is none.
func TestTroubleIsWhatCallersFeel(t *testing.T) {
	behind := strings.Replace(wholeN1, `"applied":100`, `"applied":93`, 1)
	leaderless := strings.Replace(wholeN2, `"role":"leader"`, `"role":"candidate"`, 1)
	for _, c := range []struct {
		name    string
		answers []string
		want    string
	}{
		{"whole", []string{wholeN1, wholeN2}, ""},
		{"behind", []string{behind, wholeN2}, ""},
		{"no leader", []string{wholeN1, leaderless}, "shard 1 has no leader"},
		{"no answer", []string{wholeN1, wholeN2, "silence"}, "node n3 is unreachable: silence"},
		{"no shards", []string{`{"node":"n1","state":"forming"}`}, "no node knows of a shard"},
	} {
		v := newView(nodesSay(t, c.answers...), nil)
		if got := strings.Join(v.trouble(nil), "; "); got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

func TestOfTwoLeadersTheLaterTermCounts(t *testing.T) {
	deposed := strings.Replace(wholeN1, `"role":"follower","leader":"n2","term":5`, `"role":"leader","leader":"n1","term":4`, 1)
	for range 20 { // whatever the order of a Go map
		v := newView(nodesSay(t, deposed, wholeN2), nil)
		if s := v.Shards[1]; s.Leader != "n2" || s.Term != 5 || s.Commit == nil || *s.Commit != 100 {
			t.Fatalf("got %+v, want n2 to lead in term 5", s)
		}
	}
}

func TestTheDeadAreNotWaitedFor(t *testing.T) {
	v := newView(nodesSay(t, wholeN1, "dead"), nil)
	if got := v.missing(map[sharding.NodeID]bool{"n2": true}, &view{}); len(got) != 1 || got[0] != "shard 1 has no leader" {
		t.Errorf("got %q, want only that shard 1, which n2 led, has no leader", got)
	}
}

// scripted answers one after the other; the last for ever.
type scripted struct{ answers [][]client.Status }

func (s *scripted) Status(context.Context) ([]client.Status, error) {
	next := s.answers[0]
	if len(s.answers) > 1 {
		s.answers = s.answers[1:]
	}
	return next, nil
}

func (*scripted) Nodes(context.Context) (*sharding.Map, error) { return nil, nil }

func nobodyDied() map[sharding.NodeID]bool { return nil }

func TestWaitingEndsWhenTheClusterIsWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &scripted{[][]client.Status{
			nodesSay(t, wholeN1, "no answer"),
			nodesSay(t, wholeN1, `{"node":"n2","state":"forming"}`),
			nodesSay(t, wholeN1, wholeN2),
		}}
		start := time.Now()
		v, err := awaitWhole(t.Context(), time.Second, c, nobodyDied)
		if err != nil || len(v.Nodes) != 2 || time.Since(start) != 2*pollEvery {
			t.Errorf("got %+v, %v after %v, want the whole cluster after two pauses", v, err, time.Since(start))
		}
	})
}

// TestALoadDoesNotKeepAClusterFromBeingWhole: under one, no replica is ever without a
// lag. It is one that stands still that is waited for.
func TestALoadDoesNotKeepAClusterFromBeingWhole(t *testing.T) {
	at := func(applied, commit int) []client.Status {
		n1 := strings.Replace(wholeN1, `"applied":100`, fmt.Sprintf(`"applied":%d`, applied), 1)
		n2 := strings.NewReplacer(`"commit":100`, fmt.Sprintf(`"commit":%d`, commit), `"applied":100`, fmt.Sprintf(`"applied":%d`, commit)).Replace(wholeN2)
		return nodesSay(t, n1, n2)
	}
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		c := &scripted{[][]client.Status{at(90, 100), at(99, 110), at(110, 120), at(50, 300)}}
		if _, err := awaitWhole(t.Context(), time.Second, c, nobodyDied); err != nil || time.Since(start) != 2*pollEvery {
			t.Errorf("got %v after %v, want no error at the third look", err, time.Since(start))
		}
		c = &scripted{[][]client.Status{at(20, 0), at(20, 100)}}
		if _, err := awaitWhole(t.Context(), time.Second, c, nobodyDied); err == nil || !strings.Contains(err.Error(), "80 entries behind") {
			t.Errorf("after a leader that knew of nothing yet: got %v, want that a replica is 80 entries behind", err)
		}
		c = &scripted{[][]client.Status{at(90, 100), at(90, 110)}}
		if _, err := awaitWhole(t.Context(), time.Second, c, nobodyDied); err == nil || !strings.Contains(err.Error(), "20 entries behind") {
			t.Errorf("got %v, want that a replica is 20 entries behind", err)
		}
	})
}

func TestWaitingEndsInTimeAndSaysWhatIsMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &scripted{[][]client.Status{nodesSay(t, wholeN1, "no answer")}}
		v, err := awaitWhole(t.Context(), time.Second, c, nobodyDied)
		if err == nil || !strings.Contains(err.Error(), "node n2 is unreachable: no answer") || len(v.Nodes) != 2 {
			t.Errorf("got %+v, %v, want what is known, and that n2 is unreachable", v, err)
		}
	})
}

// slow takes its time to answer.
type slow struct{ scripted }

func (s *slow) Status(ctx context.Context) ([]client.Status, error) {
	select {
	case <-time.After(firstAnswer - time.Second):
		return s.scripted.Status(ctx)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// TestTheFirstAnswerIsWaitedFor: without one nothing could be said, and a node
// that hangs delays the others' answers.
func TestTheFirstAnswerIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &slow{scripted{[][]client.Status{nodesSay(t, wholeN1, "no answer")}}}
		v, err := awaitWhole(t.Context(), time.Second, c, nobodyDied)
		if err == nil || !strings.Contains(err.Error(), "node n2 is unreachable: no answer") || len(v.Nodes) != 2 {
			t.Errorf("got %+v, %v, want what is known, and that n2 is unreachable", v, err)
		}
	})
}

// silent is a cluster of which nothing is known.
type silent struct{}

func (silent) Status(ctx context.Context) ([]client.Status, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (silent) Nodes(context.Context) (*sharding.Map, error) { return nil, nil }

func TestWaitingForNobodyEndsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		_, err := awaitWhole(t.Context(), time.Second, silent{}, nobodyDied)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != firstAnswer {
			t.Errorf("got %v after %v, want %v after %v", err, time.Since(start), context.DeadlineExceeded, firstAnswer)
		}
	})
}

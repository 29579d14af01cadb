package main

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/manykv/manykv/sharding"
)

// states is what replicas say, one answer after the other; the last for ever.
type states map[sharding.NodeID][]state

type state struct {
	index, hash uint64
	err         error
}

func (s states) Hash(_ context.Context, node sharding.NodeID, _ sharding.Shard) (index, term, hash, rows uint64, err error) {
	next := s[node][0]
	if len(s[node]) > 1 {
		s[node] = s[node][1:]
	}
	return next.index, 1, next.hash, 10, next.err
}

func TestReplicasAreComparedAtOneIndex(t *testing.T) {
	same := state{index: 7, hash: 1}
	for _, c := range []struct {
		name   string
		n1, n2 []state
		differ bool
		says   string
	}{
		{"alike", []state{same}, []state{same}, false, ""},
		{"one later", []state{same}, []state{{index: 6}, {index: 5}, same}, false, ""},
		{"different", []state{same}, []state{{index: 7, hash: 2}}, true, "shard 1 at entry 7: the replicas differ: n1 has 0000000000000001"},
		{"different at last", []state{same}, []state{{index: 6}, {index: 7, hash: 2}}, true, "n2 has 0000000000000002"},
		{"never at one index", []state{same}, []state{{index: 6}}, false, "n2 is at entry 6, n1 at 7: they cannot be compared"},
		{"silent", []state{same}, []state{{err: errors.New("silence")}}, false, "n2 did not say: silence"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, stdout, _ := newProgram("")
			var hashes []replicaHash
			var err error
			synctest.Test(t, func(t *testing.T) {
				g := &sharding.Group{Shard: 1, Replicas: []sharding.NodeID{"n1", "n2"}}
				hashes, err = p.compareShard(t.Context(), states{"n1": c.n1, "n2": c.n2}, g)
			})
			if errors.Is(err, errDiffer) != c.differ || (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want %q", err, c.says)
			}
			p.printReplicas(hashes)
			if got := stdout.String(); strings.Count(got, "\n") != 3 || !strings.Contains(got, "1      n1    7      1     0000000000000001  10") {
				t.Errorf("got\n%s\nwant a row for each replica", got)
			}
		})
	}
}

//go:build !race

package coordinator

import "testing"

// TestAllocations holds calls of 100 keys on 6 shards of 3 nodes to what they take by
// shard and node, none by key.
func TestAllocations(t *testing.T) {
	get, set := benchCalls(t)
	for _, op := range []struct {
		name string
		do   func() error
		most float64
	}{
		{"get-many", get, 110}, // measured: 93
		{"set-many", set, 210}, // measured: 186
	} {
		n := testing.AllocsPerRun(50, func() {
			if err := op.do(); err != nil {
				t.Error(err)
			}
		})
		t.Logf("%s: %v allocations", op.name, n)
		if n > op.most {
			t.Errorf("%s: %v allocations for 100 keys, want at most %v", op.name, n, op.most)
		}
	}
}

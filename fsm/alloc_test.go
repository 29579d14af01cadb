//go:build !race

package fsm

import (
	"fmt"
	"strings"
	"testing"
)

// TestGetAllocations holds Get to a number of allocations that does not depend
// on the number of keys. Pebble built for the race detector checks itself and
// allocates for that.
func TestGetAllocations(t *testing.T) {
	const keys, most = 100, 4 // measured: 1
	s := openMem(t)
	d := leading(t, s, 1)
	var kvs, names []string
	for i := range keys {
		names = append(names, fmt.Sprintf("key-%d", i))
		kvs = append(kvs, names[i], strings.Repeat("v", 256))
	}
	apply(t, d, set(2, 1, kvs...))
	visit := func(i int, _ []byte, _ uint64, found bool) error {
		if !found {
			return fmt.Errorf("key %d is missing", i)
		}
		return nil
	}
	for _, where := range []string{"memtable", "table"} {
		n := testing.AllocsPerRun(50, func() {
			if err := d.Get(1, names, visit); err != nil {
				t.Error(err)
			}
		})
		t.Logf("%s: %v allocations for %d keys", where, n, keys)
		if n > most {
			t.Errorf("%s: %v allocations for %d keys, want at most %d", where, n, keys, most)
		}
		if err := s.Flush(); err != nil {
			t.Fatalf("flush: %v", err)
		}
	}
}

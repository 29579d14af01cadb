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
	const keys = 100
	for name, c := range map[string]struct {
		cache, buffer int64
		most          float64
	}{"from rows": {1, 1, 4}, "cached": {1 << 20, 1, 0}, "buffered": {1, 1 << 20, 4}} { // measured: 1, 0 and 0
		t.Run(name, func(t *testing.T) {
			s := openCached(t, c.cache, c.buffer)
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
				if n > c.most {
					t.Errorf("%s: %v allocations for %d keys, want at most %v", where, n, keys, c.most)
				}
				if err := s.Flush(); err != nil {
					t.Fatalf("flush: %v", err)
				}
			}
		})
	}
}

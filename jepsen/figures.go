package jepsen

import (
	"errors"
	"fmt"
	"strings"

	"github.com/manykv/manykv/client"
)

// What a node may hold more of than before anything had happened: connections of
// clients that are still there, and files of the store.
const (
	moreGoroutines = 300
	moreFiles      = 150
	timesMore      = 2
)

// leaked says which nodes hold more than they did.
func leaked(before, now []client.Status) error {
	had := make(map[string]client.Status)
	for _, n := range before {
		had[string(n.Node)] = n
	}
	for _, n := range now {
		b := had[string(n.Node)]
		if n.Err != nil || b.Err != nil || b.Status == nil {
			return fmt.Errorf("node %s does not say: %w", n.Node, errors.Join(n.Err, b.Err))
		}
		if g, most := n.Status.Goroutines, timesMore*b.Status.Goroutines+moreGoroutines; g > most {
			return fmt.Errorf("node %s has %d goroutines, %d before; %d are allowed", n.Node, g, b.Status.Goroutines, most)
		}
		if f, most := n.Status.OpenFiles, timesMore*b.Status.OpenFiles+moreFiles; f > most {
			return fmt.Errorf("node %s has %d open files, %d before; %d are allowed", n.Node, f, b.Status.OpenFiles, most)
		}
	}
	return nil
}

// figuresOf shows what nodes hold.
func figuresOf(nodes []client.Status) string {
	var parts []string
	for _, n := range nodes {
		if n.Status != nil {
			parts = append(parts, fmt.Sprintf("%s: %d goroutines, %d files, %d MiB", n.Node, n.Status.Goroutines, n.Status.OpenFiles, n.Status.MemoryBytes>>20))
		}
	}
	return strings.Join(parts, "; ")
}

package cluster

import (
	"bytes"
	"fmt"
	"os"
	"runtime"

	"github.com/manykv/manykv/coordinator"
)

// sizes fills in what the node and its process hold. What the system does not
// tell is 0.
func (n *Node) sizes(s *coordinator.NodeStatus) {
	journal := n.logs.Size()
	s.JournalBytes, s.JournalLive = uint64(journal.Journal), uint64(journal.Live)
	s.StoreBytes = n.store.Stats().DiskBytes
	s.MemoryBytes = residentBytes()
	s.Goroutines = runtime.NumGoroutine()
	s.OpenFiles = openFiles()
}

// residentBytes is the memory that this process has resident.
func residentBytes() uint64 {
	b, err := os.ReadFile("/proc/self/statm") // in pages: size, resident, …
	if err != nil {
		return 0
	}
	var size, resident uint64
	if _, err := fmt.Fscan(bytes.NewReader(b), &size, &resident); err != nil {
		return 0
	}
	return resident * uint64(os.Getpagesize())
}

// openFiles is the number of this process's file descriptors.
func openFiles() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(entries) - 1 // one was opened to read them
}

//go:build linux

package disk

import "sync"

// space is the room on the disk. Every file takes its size in whole blocks,
// holes included, and every name's file or directory one block besides.
type space struct {
	mu    sync.Mutex
	used  int64
	limit int64 // 0: none
}

// take takes n bytes, or says that there is no room for them.
func (s *space) take(n int64) bool { return s.takeUpTo(n, n) == n }

// takeUpTo takes as many whole blocks as there is room for, up to n bytes, but
// nothing if that is less than least.
func (s *space) takeUpTo(n, least int64) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.limit > 0 {
		n = min(n, max(s.limit-s.used, 0)/blockSize*blockSize)
	}
	if n < least {
		return 0
	}
	s.used += n
	return n
}

// give gives n bytes back.
func (s *space) give(n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used -= n
}

// setUsed says how much is taken.
func (s *space) setUsed(used int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used = used
}

// setLimit sets how much fits; 0 means no limit.
func (s *space) setLimit(limit int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limit = limit
}

// state is what is used, and the limit.
func (s *space) state() (used, limit int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.used, s.limit
}

// wholeBlocks is what n bytes of a file take.
func wholeBlocks(n int64) int64 { return (n + blockSize - 1) / blockSize * blockSize }

package cluster

import "sync/atomic"

// budget bounds bytes in memory: what does not fit is refused at once. Entries
// given to raft stay in memory until they are committed, however short their
// callers' patience, and answers until they are sent.
type budget struct {
	most int64
	used atomic.Int64
}

// take reserves n bytes; false if they do not fit. What is larger than the whole
// budget fits when nothing else is there: it was checked against the limits.
func (b *budget) take(n int64) bool {
	if used := b.used.Add(n); used > b.most && used != n {
		b.used.Add(-n)
		return false
	}
	return true
}

// give returns what take reserved.
func (b *budget) give(n int64) { b.used.Add(-n) }

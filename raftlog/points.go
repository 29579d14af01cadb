package raftlog

import "github.com/manykv/manykv/crash"

// The places where a test may kill the process. Those of a commit are one for
// each kind of frame that is in it: see crashCommit.
const (
	crashVoteWrite      = "raftlog.vote.write"      // before a write to the vote file
	crashVoteWritten    = "raftlog.vote.written"    // and after it
	crashReclaimBegin   = "raftlog.reclaim.begin"   // before the first entry is carried
	crashReclaimChunk   = "raftlog.reclaim.chunk"   // some are carried and durable
	crashReclaimCarried = "raftlog.reclaim.carried" // all are
	crashDelete         = "raftlog.delete.write"    // before records are deleted
	crashDeleted        = "raftlog.delete.written"  // and after it
)

// The steps of a commit.
const (
	crashWrite   = iota // before the record is written
	crashWritten        // it is durable, but not visible
	crashVisible        // it is visible, but not acknowledged
	crashSteps
)

var crashCommit = map[byte][crashSteps]string{
	kindEntry: {"raftlog.append.write", "raftlog.append.written", "raftlog.append.visible"},
	kindCut:   {"raftlog.cut.write", "raftlog.cut.written", "raftlog.cut.visible"},
	kindTrim:  {"raftlog.trim.write", "raftlog.trim.written", "raftlog.trim.visible"},
	kindCarry: {"raftlog.carry.write", "raftlog.carry.written", "raftlog.carry.visible"},
	kindDrop:  {"raftlog.drop.write", "raftlog.drop.written", "raftlog.drop.visible"},
	kindHead:  {"raftlog.head.write", "raftlog.head.written", "raftlog.head.visible"},
}

// crashPoint passes the points of one step, once for each kind of frame in b.
func (b *batch) crashPoint(step int) {
	if !crash.Enabled {
		return
	}
	passed := make(map[byte]bool)
	for _, f := range b.frames {
		if !passed[f.kind] {
			passed[f.kind] = true
			crash.Point(crashCommit[f.kind][step])
		}
	}
}

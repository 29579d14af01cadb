package jepsen

import "time"

// The kinds of faults.
const (
	KillNode     = "kill a node"
	KillLeader   = "kill a leader"
	KillMajority = "kill a majority"
	KillAll      = "kill all nodes"
	Pause        = "pause a leader"
	PauseTwo     = "pause two leaders"
	Rolling      = "rolling restart"
	CrashPoint   = "crash at a point"
	ClockJump    = "clock jump"

	Halves    = "partition: halves"
	Isolate   = "partition: a leader alone"
	Ring      = "partition: ring of majorities"
	Bridge    = "partition: bridge"
	OneWay    = "one-way cut"
	Flapping  = "flapping links"
	Latency   = "latency"
	Loss      = "loss"
	Reorder   = "duplicates and reordering"
	Corrupt   = "corrupted packets"
	SlowLinks = "slow links"

	PowerOne    = "power cut: a node"
	PowerAll    = "power cut: all nodes"
	WriteError  = "disk: failed write"
	SyncError   = "disk: failed sync"
	DiskFull    = "disk: full"
	SlowSync    = "disk: slow sync"
	HungSync    = "disk: hung sync"
	FlippedBits = "disk: flipped bits"
)

// Fault is something that was done to nodes.
type Fault struct {
	Kind   string   `json:"kind"`
	Nodes  []string `json:"nodes"`
	Detail string   `json:"detail,omitempty"`
	Round  int      `json:"round"` // faults of one round overlap
	Begin  int64    `json:"begin"` // nanoseconds since the history began
	End    int64    `json:"end"`   // all is well again, as far as this one goes
	// Awaited: nothing was done after its round until every shard took writes.
	Awaited bool `json:"awaited,omitempty"`
}

// kind is what can be done. A network or disks that the cluster does not have rule
// out the kinds that need them.
type kind struct {
	name   string
	needs  need
	weight int // of 100, say, how often beside the others
	do     func(*injection) error
}

// need is what a kind cannot do without.
type need uint8

const (
	needsNet    need = 1 << iota
	needsDisks       // of the nodes, with faults
	needsPoints      // a build that can be made to die at named places
	needsClock       // a build whose wall clock can be set
	needsFive        // nodes
)

// kinds are all there are.
func kinds() []kind {
	return []kind{
		{KillNode, 0, 6, (*injection).killNode},
		{KillLeader, 0, 8, (*injection).killLeader},
		{KillMajority, 0, 4, (*injection).killMajority},
		{KillAll, 0, 4, (*injection).killAll},
		{Pause, 0, 8, (*injection).pauseLeader},
		{PauseTwo, 0, 6, (*injection).pauseTwo},
		{Rolling, 0, 2, (*injection).rolling},
		{CrashPoint, needsPoints, 8, (*injection).crashPoint},
		{ClockJump, needsClock, 3, (*injection).clockJump},

		{Halves, needsNet, 5, (*injection).halves},
		{Isolate, needsNet, 7, (*injection).isolate},
		{Ring, needsNet | needsFive, 4, (*injection).ring},
		{Bridge, needsNet, 4, (*injection).bridge},
		{OneWay, needsNet, 5, (*injection).oneWay},
		{Flapping, needsNet, 3, (*injection).flapping},
		{Latency, needsNet, 3, (*injection).latency},
		{Loss, needsNet, 3, (*injection).loss},
		{Reorder, needsNet, 3, (*injection).reorder},
		{Corrupt, needsNet, 2, (*injection).corrupt},
		{SlowLinks, needsNet, 2, (*injection).slowLinks},

		{PowerOne, needsDisks, 5, (*injection).powerOne},
		{PowerAll, needsDisks, 9, (*injection).powerAll},
		{WriteError, needsDisks, 2, (*injection).writeError},
		{SyncError, needsDisks, 3, (*injection).syncError},
		{DiskFull, needsDisks, 2, (*injection).diskFull},
		{SlowSync, needsDisks, 3, (*injection).slowSync},
		{HungSync, needsDisks, 2, (*injection).hungSync},
		{FlippedBits, needsDisks, 2, (*injection).flippedBits},
	}
}

// Times of faults. An election time-out is one second.
const (
	// stuckTime is when a shard that takes no writes between two rounds is stuck. What
	// is promised, 10 s, is asked for at the end; in between a round may have left
	// nodes that have much to read.
	stuckTime = 20 * time.Second
	// settle is how long all nodes are left alone, at least, between two rounds:
	// shorter than an election, so that the next one may meet it. longestSettle is
	// long enough for callers to get something done.
	settle, longestSettle = 300 * time.Millisecond, 3 * time.Second
	// latestBegin is how long after the round's beginning a fault begins.
	latestBegin = time.Second
	// shortestPause and longestPause bound a pause: from well below an election
	// time-out to several.
	shortestPause, longestPause = 100 * time.Millisecond, 5 * time.Second
	// shortestDown and longestDown bound the time before a killed node is started
	// again.
	shortestDown, longestDown = 300 * time.Millisecond, 2 * time.Second
	// shortestCut and longestCut bound a fault of the network.
	shortestCut, longestCut = 500 * time.Millisecond, 8 * time.Second
	// newLeader is how long to wait for the one that follows a paused leader.
	newLeader = 4 * time.Second
	// ask is how often the nodes are asked who leads, and how long they may take:
	// a paused one does not answer.
	ask = 200 * time.Millisecond
)

// FaultNames are the names of all kinds.
func FaultNames() []string {
	var names []string
	for _, k := range kinds() {
		names = append(names, k.name)
	}
	return names
}

package jepsen

// The kinds of faults.
const (
	KillNode   = "kill a node"
	KillLeader = "kill a leader"
	KillAll    = "kill all nodes"
	Pause      = "pause a leader"
	PauseTwo   = "pause two leaders"
)

// Fault is something that was done to nodes.
type Fault struct {
	Kind  string   `json:"kind"`
	Nodes []string `json:"nodes"`
	Begin int64    `json:"begin"` // nanoseconds since the history began
	End   int64    `json:"end"`   // all nodes run again
}

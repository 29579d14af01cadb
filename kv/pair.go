package kv

import "fmt"

// Pair is one key and its value.
type Pair struct {
	Key   string // valid UTF-8, at most Limits.KeyBytes bytes; may be empty
	Value []byte // at most Limits.ValueBytes bytes; nil and empty are the same value
}

// Outcome says what became of one key of a batch that failed. The zero value
// is OutcomeUnknown, so that nothing is called applied, or not applied, by
// accident.
type Outcome uint8

const (
	// OutcomeUnknown says that the write may have been applied, now or later.
	OutcomeUnknown Outcome = iota
	// OutcomeNotApplied says that the write was not applied and never will be.
	OutcomeNotApplied
	// OutcomeApplied says that the write is on a majority's disk and applied.
	OutcomeApplied
)

func (o Outcome) String() string {
	switch o {
	case OutcomeUnknown:
		return "unknown"
	case OutcomeNotApplied:
		return "not applied"
	case OutcomeApplied:
		return "applied"
	default:
		return fmt.Sprintf("outcome %d", uint8(o))
	}
}

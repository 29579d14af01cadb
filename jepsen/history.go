package jepsen

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"sync"
	"time"
)

// Kind says what an operation does with its key.
type Kind string

// The operations of a register. A swap that found another version is Conflict, which
// tells something of the key as a read does.
const (
	Get       Kind = "get"
	Exists    Kind = "exists"
	Set       Kind = "set"
	Delete    Kind = "delete"
	Swap      Kind = "swap"
	Conflict  Kind = "conflict"
	Increment Kind = "increment"
)

func (k Kind) reads() bool { return k == Get || k == Exists || k == Conflict }

// Never is when a write returned of which nobody knows whether it was applied:
// it may be, at any time after its call.
const Never int64 = math.MaxInt64

// Operation is what one call did with one of its keys, as the caller saw it.
// Only what happened, or may have, is an operation: reads that failed and
// writes that were certainly not applied are not.
type Operation struct {
	Call    int64  `json:"call"` // nanoseconds since the history began
	Return  int64  `json:"return"`
	Process int    `json:"process"` // one that lost track of a write goes on under another number
	Batch   int    `json:"batch"`   // the call's number: operations of one call share it
	Via     string `json:"via"`     // who was asked
	Kind    Kind   `json:"kind"`
	Key     string `json:"key"`
	Value   string `json:"value,omitempty"`  // of a set or a swap, what a get found, or the sum
	Found   bool   `json:"found,omitempty"`  // of a read; of a swap or a conflict: the key was there
	Expect  string `json:"expect,omitempty"` // the value that a swap is to replace, if Found
	Delta   int64  `json:"delta,omitempty"`
	Version uint64 `json:"version,omitempty"` // of Value, where it was told
	Why     string `json:"why,omitempty"`     // it is not known whether it was applied
}

// History is what all callers saw, on one clock. It is safe for concurrent use.
type History struct {
	began time.Time // its monotonic part is what counts

	mu         sync.Mutex // guards the fields below
	operations []Operation
	processes  int
	batches    int
}

// NewHistory begins a history now.
func NewHistory() *History { return &History{began: time.Now()} }

// Now is the time since the history began, in nanoseconds.
func (h *History) Now() int64 { return int64(time.Since(h.began)) }

// NewProcess returns a process number that nobody has used.
func (h *History) NewProcess() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.processes++
	return h.processes - 1 // porcupine counts from 0
}

// Add appends the operations of one call and numbers it.
func (h *History) Add(operations []Operation) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.batches++
	for _, op := range operations {
		op.Batch = h.batches
		h.operations = append(h.operations, op)
	}
}

// Len is how many operations there are.
func (h *History) Len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.operations)
}

// Operations returns everything that was added, by time of call.
func (h *History) Operations() []Operation {
	h.mu.Lock()
	out := slices.Clone(h.operations)
	h.mu.Unlock()
	slices.SortStableFunc(out, func(a, b Operation) int { return cmp.Compare(a.Call, b.Call) })
	return out
}

// WriteLines writes operations as lines of JSON.
func WriteLines(w io.Writer, operations []Operation) error {
	buffered := bufio.NewWriter(w)
	lines := json.NewEncoder(buffered)
	for i := range operations {
		if err := lines.Encode(&operations[i]); err != nil {
			return fmt.Errorf("history: operation %d of %d: %w", i, len(operations), err)
		}
	}
	return buffered.Flush()
}

// ReadLines reads what WriteLines wrote.
func ReadLines(r io.Reader) ([]Operation, error) {
	var operations []Operation
	for lines := json.NewDecoder(bufio.NewReader(r)); ; {
		var op Operation
		switch err := lines.Decode(&op); {
		case errors.Is(err, io.EOF):
			return operations, nil
		case err != nil:
			return nil, fmt.Errorf("history: operation %d: %w", len(operations), err)
		}
		operations = append(operations, op)
	}
}

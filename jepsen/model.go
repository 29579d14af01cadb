package jepsen

import (
	"fmt"
	"hash/maphash"
	"strconv"

	"github.com/anishathalye/porcupine"
)

// register is the state of one key. It is comparable: porcupine compares with
// ==.
type register struct {
	present bool
	value   string
}

// step says whether a register in this state can do an operation with the
// result that was seen, and what it is afterwards.
func (r register) step(op *Operation) (bool, register) {
	switch op.Kind {
	case Set:
		return true, register{true, op.Value}
	case Delete:
		return true, register{}
	case Exists:
		return op.Found == r.present, r
	case Swap:
		if r.is(op) {
			return true, register{true, op.Value}
		}
		return op.Return == Never, r // if it is unknown it may have been a conflict
	case Conflict:
		return !r.is(op), r
	case Increment:
		return r.increment(op)
	default:
		return op.Found == r.present && op.Value == r.value, r
	}
}

// is says whether a key is what a swap expects. Each value is written once, so it
// stands for its version.
func (r register) is(op *Operation) bool {
	return r.present == op.Found && (!op.Found || r.value == op.Expect)
}

// increment counts. The sum of an increment of unknown outcome is not known.
func (r register) increment(op *Operation) (bool, register) {
	n := int64(0)
	if r.present {
		var err error
		if n, err = strconv.ParseInt(r.value, 10, 64); err != nil {
			return false, r
		}
	}
	sum := strconv.FormatInt(n+op.Delta, 10)
	return op.Return == Never || op.Value == sum, register{true, sum}
}

func (r register) String() string {
	if !r.present {
		return "absent"
	}
	return r.value
}

// String describes an operation as a reader of a history wants it.
func (op *Operation) String() string {
	text := string(op.Kind)
	switch {
	case op.Kind == Set:
		text += " " + op.Value
	case op.Kind == Swap || op.Kind == Conflict:
		text += fmt.Sprintf(" %s for %s", op.Value, register{op.Found, op.Expect})
	case op.Kind == Increment:
		text += fmt.Sprintf(" by %d → %s", op.Delta, op.Value)
	case op.Kind == Exists:
		text += fmt.Sprintf(" → %v", op.Found)
	case op.Kind == Get && op.Found:
		text += " → " + op.Value
	case op.Kind == Get:
		text += " → none"
	}
	if op.Return == Never {
		text += " (unknown)"
	}
	return text + " via " + op.Via
}

// registerModel is one key as porcupine wants it. An input is an *Operation
// with its result, so that there is no output.
func registerModel() porcupine.Model {
	seed := maphash.MakeSeed()
	return porcupine.Model{
		Init: func() any { return register{} },
		Step: func(state, input, _ any) (bool, any) {
			ok, next := state.(register).step(input.(*Operation))
			return ok, next
		},
		Hash:              func(state any) uint64 { return maphash.Comparable(seed, state.(register)) },
		DescribeOperation: func(input, _ any) string { return input.(*Operation).String() },
		DescribeState:     func(state any) string { return state.(register).String() },
	}
}
